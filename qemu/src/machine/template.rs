//! A booted machine in the cache, and the machines that are restored from it.
//!
//! The guest's memory is a file that a restored machine maps copy-on-write, so a restore reads the device state alone (some
//! hundred KiB), machines share the pages they do not change, and none can change the template.

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::vm::{From, Vm, run_interactive};
use super::{Error, Image, Machine, Setup, memory_file};
use crate::accel::{Accel, choose, keep};
use crate::args::{Start, arguments};
use crate::cache::{self, Cache};
use crate::digest;
use crate::install;
use crate::progress::Progress;
use crate::qmp::QmpError;

/// A kernel with every sanitizer, translated, on a loaded machine.
const BOOT_WITHIN: Duration = Duration::from_secs(120);
/// With KVM a kernel boots in less than a second, or not at all.
const KVM_PROBE_WITHIN: Duration = Duration::from_secs(4);
/// How many saved machines are kept for a kernel: the one in use, and one to go back to.
const KEPT: usize = 2;
/// A file system's block, mostly.
const CHUNK: usize = 4096;

const RAM: &str = "ram";
const STATE: &str = "state";
const HELLO: &str = "hello";

/// A machine saved at its program's hello.
#[derive(Debug)]
pub struct Template {
    qemu: PathBuf,
    accel: Accel,
    memory_mib: u32,
    folder: PathBuf,
    /// Locked, shared, as long as the template is in use.
    _in_use: File,
    state: Vec<u8>,
    hello: Vec<u8>,
    booted: Option<Duration>,
}

impl Template {
    /// The machine of `setup`, from the cache, or booted until its program's first message and saved there.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn prepare(setup: &Setup<'_>, cache: &Cache, progress: &mut dyn Progress) -> Result<Template, Error> {
        let host = Host::find(setup, cache, progress)?;
        let arguments = arguments(host.accel, setup.memory_mib, Start::Restore).join("\0");
        let key =
            digest::of_parts([host.image.digest.as_bytes(), host.identity.as_bytes(), arguments.as_bytes()]);
        let family = family(&setup.kernel.name);

        let mut booted = None;
        let (folder, in_use) = loop {
            let folder = cache.entry(&format!("{family}{}", &key[..16]), progress, |folder, progress| {
                progress.say(&format!("booting {} once and saving it", setup.kernel.release));
                booted = Some(host.boot_and_save(setup, folder)?);
                Ok::<_, Error>(())
            })?;
            if let Some(in_use) = hold(&folder).map_err(unusable(&folder))? {
                break (folder, in_use);
            }
        };
        keep(cache, &host.identity, host.accel)?;
        prune(cache, &family);
        Ok(Template {
            qemu: host.qemu,
            accel: host.accel,
            memory_mib: setup.memory_mib,
            state: fs::read(folder.join(STATE)).map_err(unusable(&folder))?,
            hello: fs::read(folder.join(HELLO)).map_err(unusable(&folder))?,
            folder,
            _in_use: in_use,
            booted,
        })
    }

    /// Stands for everything the machine is made of: kernel, programs, modules, arguments.
    pub fn key(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The guest program's first message, sent when it was booted.
    pub fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// How long the boot to the hello took, if this call did it.
    pub fn booted(&self) -> Option<Duration> {
        self.booted
    }

    /// A machine that goes on from the hello. Any number may run side by side.
    ///
    /// # Errors
    /// [`Error::Restore`].
    pub fn start(&self) -> Result<Machine, Error> {
        let ram = File::open(self.folder.join(RAM)).map_err(unusable(&self.folder))?;
        self.start_on(&ram, From::State)
    }

    /// The same, in memory of its own that other processes may map, as a [`crate::vhost_user::Device`] does.
    ///
    /// # Errors
    /// [`Error::Restore`].
    pub fn start_shared(&self) -> Result<Machine, Error> {
        let copied = File::open(self.folder.join(RAM)).and_then(|saved| {
            let own = memory_file()?;
            copy_data(&saved, &own)?;
            Ok(own)
        });
        self.start_on(&copied.map_err(unusable(&self.folder))?, From::StateShared)
    }

    fn start_on(&self, ram: &File, from: From<'_>) -> Result<Machine, Error> {
        let start = Instant::now();
        let vm = Vm::start(&self.qemu, self.accel, self.memory_mib, ram, from);
        let mut vm = vm.map_err(unusable(&self.folder))?;
        vm.load(&self.state).map_err(unusable(&self.folder))?;
        Ok(Machine { vm, restored_in: start.elapsed() })
    }
}

/// What a failure to use the machine saved there is.
fn unusable<E: Display>(folder: &Path) -> impl Fn(E) -> Error {
    move |error| Error::Restore { folder: folder.to_path_buf(), reason: error.to_string() }
}

/// Boot `setup` with the terminal as the guest's console, and return when the guest has ended (or by C-a x).
///
/// # Errors
/// See [`Error`].
pub fn boot_interactive(setup: &Setup<'_>, cache: &Cache, progress: &mut dyn Progress) -> Result<(), Error> {
    let host = Host::find(setup, cache, progress)?;
    let run = || run_interactive(&host.qemu, host.accel, setup.memory_mib, &empty_ram(setup)?, &host.image);
    run().map_err(|source| host.fault(&source.into()))
}

/// What boots a setup here.
struct Host {
    qemu: PathBuf,
    identity: String,
    image: Image,
    accel: Accel,
}

impl Host {
    fn find(setup: &Setup<'_>, cache: &Cache, progress: &mut dyn Progress) -> Result<Host, Error> {
        let qemu = install::QEMU.ensure(progress)?;
        let identity = identity(&qemu).map_err(|source| Error::SetUp { path: qemu.clone(), source })?;
        let image = Image::of(setup)?;
        let accel = choose(cache, &identity, progress, || {
            let boot = || {
                let mut vm =
                    Vm::start(&qemu, Accel::Kvm, setup.memory_mib, &empty_ram(setup)?, From::Image(&image))?;
                Ok::<_, QmpError>(vm.receive(KVM_PROBE_WITHIN).is_ok())
            };
            boot().unwrap_or(false)
        });
        Ok(Host { qemu, identity, image, accel })
    }

    /// Boot, and put the guest's memory and the device state into `folder`.
    fn boot_and_save(&self, setup: &Setup<'_>, folder: &Path) -> Result<Duration, Error> {
        let start = Instant::now();
        // Not on the file itself: a guest whose memory meets a full disk dies of SIGBUS, a copy says what is wrong.
        let ram = empty_ram(setup).map_err(|source| self.fault(&source.into()))?;
        let vm = Vm::start(&self.qemu, self.accel, setup.memory_mib, &ram, From::Image(&self.image));
        let mut vm = vm.map_err(|error| Error::Start {
            qemu: self.qemu.clone(),
            image: setup.kernel.image.clone(),
            reason: error.to_string(),
        })?;
        let hello = vm
            .receive(BOOT_WITHIN)
            .map_err(|lost| Error::Boot { image: setup.kernel.image.clone(), lost })?;
        let booted = start.elapsed();
        let state = vm.save().map_err(|error| self.fault(&error))?;
        vm.kill();

        let io = |name: &str| {
            let path = folder.join(name);
            move |source| Error::Cache(cache::Error::io(&path, source))
        };
        copy_sparse(&ram, &folder.join(RAM)).map_err(io(RAM))?;
        fs::write(folder.join(STATE), state).map_err(io(STATE))?;
        fs::write(folder.join(HELLO), hello).map_err(io(HELLO))?;
        Ok(booted)
    }

    fn fault(&self, error: &QmpError) -> Error {
        Error::Qemu { qemu: self.qemu.clone(), reason: error.to_string() }
    }
}

fn empty_ram(setup: &Setup<'_>) -> io::Result<File> {
    let ram = memory_file()?;
    ram.set_len(u64::from(setup.memory_mib) << 20)?;
    Ok(ram)
}

/// Copy `from`, whose pages are mostly zero, so that zeros take no room.
fn copy_sparse(from: &File, to: &Path) -> io::Result<()> {
    let to = File::create_new(to)?;
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        // Guest memory is whole MiB, so the last chunk is whole as well.
        from.read_exact_at(&mut chunk, at)?;
        if chunk.iter().any(|&byte| byte != 0) {
            to.write_all_at(&chunk, at)?;
        }
        at += CHUNK as u64;
    }
    Ok(())
}

/// Copy what `from` holds besides holes.
fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let start = match lseek(from, at, Whence::SeekData) {
            // Nothing but a hole.
            Err(Errno::ENXIO) => return Ok(()),
            start => start?,
        };
        let end = lseek(from, start, Whence::SeekHole)?;
        at = start;
        while at < end {
            let part = &mut chunk[..((end - at) as usize).min(1 << 20)];
            from.read_exact_at(part, at as u64)?;
            to.write_all_at(part, at as u64)?;
            at += part.len() as i64;
        }
    }
}

/// What tells one QEMU from another without starting it: an upgrade changes the file.
fn identity(qemu: &Path) -> io::Result<String> {
    let path = fs::canonicalize(qemu)?;
    let metadata = fs::metadata(&path)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} {} {}", path.display(), metadata.len(), modified.as_nanos()))
}

/// The start of the cache names of a kernel's saved machines.
fn family(kernel: &str) -> String {
    format!("machine-{}-", cache::file_name(kernel))
}

/// Lock a saved machine against its removal, and count it as used now; none if somebody else has removed it meanwhile.
fn hold(folder: &Path) -> io::Result<Option<File>> {
    let path = folder.join(STATE);
    let state = match File::options().read(true).write(true).open(&path) {
        Ok(state) => state,
        // A folder that is there and has no state is damaged, which nobody else will mend.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => return Ok(None),
        Err(error) => return Err(error),
    };
    state.lock_shared()?;
    state.set_modified(SystemTime::now())?;
    // Whoever removes it holds the lock, so that it is there for good or gone.
    Ok((state.metadata()?.nlink() > 0).then_some(state))
}

/// Remove all but the latest used of a family, and none that is in use. What cannot be removed now is tried again the
/// next time.
fn prune(cache: &Cache, family: &str) {
    let ours = cache.family(family).into_iter();
    let mut entries: Vec<_> = ours
        .filter_map(|path| {
            let state = File::options().read(true).write(true).open(path.join(STATE)).ok()?;
            Some((state.metadata().ok()?.modified().ok()?, state, path))
        })
        .collect();
    entries.sort_by_key(|(used, _, _)| std::cmp::Reverse(*used));
    for (_, state, folder) in entries.into_iter().skip(KEPT) {
        if state.try_lock().is_ok() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_and_those_in_use_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let entry = |name: &str, age: u64| {
            fs::create_dir(root.path().join(name)).unwrap();
            let state = File::create(root.path().join(name).join(STATE)).unwrap();
            state.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            state
        };
        let family = family("6.1");
        let other = super::family("6.1-x");
        let names = [1, 2, 3, 4].map(|age| format!("{family}{age:016x}"));
        let states: Vec<_> = names.iter().zip(1..).map(|(name, age)| entry(name, age)).collect();
        entry(&format!("{other}{:016x}", 9), 9);
        states[2].lock_shared().unwrap();
        prune(&Cache::at(root.path().to_path_buf()).unwrap(), &family);
        let left = |name: &str| root.path().join(name).exists();
        assert_eq!(names.each_ref().map(|name| left(name)), [true, true, true, false]);
        assert!(left(&format!("{other}{:016x}", 9)));
    }

    #[test]
    fn what_is_removed_while_it_is_waited_for_is_not_held() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("machine");
        fs::create_dir(&folder).unwrap();
        let remover = File::create(folder.join(STATE)).unwrap();
        remover.lock().unwrap();
        let waiting = std::thread::spawn({
            let folder = folder.clone();
            move || hold(&folder).unwrap().is_some()
        });
        std::thread::sleep(Duration::from_millis(50));
        fs::remove_dir_all(&folder).unwrap();
        drop(remover);
        assert!(!waiting.join().unwrap());
        assert!(hold(&folder).unwrap().is_none());
        fs::create_dir(&folder).unwrap();
        assert_eq!(hold(&folder).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_copy_of_memory_is_equal_and_takes_no_room_for_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let ram = memory_file().unwrap();
        ram.set_len(8 << 20).unwrap();
        ram.write_all_at(b"not zero", 5 << 20).unwrap();
        let copy = folder.path().join(RAM);
        copy_sparse(&ram, &copy).unwrap();
        let bytes = fs::read(&copy).unwrap();
        assert_eq!((bytes.len(), &bytes[5 << 20..][..8]), (8 << 20, b"not zero".as_slice()));
        assert_eq!(bytes.iter().filter(|&&byte| byte != 0).count(), 8);
        assert!(fs::metadata(copy).unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn a_kernel_name_becomes_part_of_a_file_name() {
        assert_eq!(family("a/b c"), "machine-a_b_c-");
    }
}
