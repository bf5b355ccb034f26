//! The stage of a case: its folder, lower file systems, unmounting, and the check that nothing is still held.
//!
//! ```text
//! base (a tmpfs)  mnt mnt2 mnt3         mounts of daemon, daemon2, daemon3
//!                 lower lower2 lower3   lower directories
//!                 upper upper2 upper3   upper layers of overlays at lower, lower2, lower3
//!                 images                what the lower file systems are made of
//! ```

use std::ffi::CString;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::quota::{Dqblk, QuotaType, QuotaValidFlags, quotactl_set};
use xshell::{Shell, cmd};

use super::calls::{content, failed};
use super::{limits, loopdev};
use crate::program::{Call, Observed, Value};

/// Size of an ext4 lower file system.
const EXT4_BYTES: u64 = 16 << 20;

/// The time of a new file.
const LONG_AGO: Duration = Duration::from_secs(1_000_000_000);

/// What a case stands on. [`Stage::strike`] takes it down and says what would not go.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) base: PathBuf,
    /// How many file systems were mounted, for names of their images.
    images: usize,
}

impl Stage {
    /// Set up an empty stage at `base`.
    pub(crate) fn set(base: &Path) -> io::Result<Stage> {
        fs::create_dir_all(base)?;
        mount(Some("fuseproof"), base, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        for folder in ["mnt", "mnt2", "mnt3", "lower", "lower2", "lower3", "images"] {
            fs::create_dir(base.join(folder))?;
        }
        Ok(Stage { base: base.to_path_buf(), images: 0 })
    }

    /// A call that sets the stage; `None` if it is not one.
    pub(crate) fn perform(&mut self, call: &Call) -> Option<Observed> {
        let at = |default: &str| {
            let at = call.text("at");
            self.base.join(if at.is_empty() { default } else { at })
        };
        let done = match call.name.as_str() {
            "lower" => {
                let at = at("lower");
                self.mount_lower(call, &at)
            }
            "file" => self.file(call),
            "cat" => {
                return Some(content(fs::read(self.path(call.text("path")))));
            }
            "control" => {
                let file = String::from_utf8_lossy(&call.data("file").0).into_owned();
                return Some(content(control(&at("mnt")).and_then(|folder| fs::read(folder.join(file)))));
            }
            "mount_options" => {
                return Some(content(options_of(&at("mnt")).map(String::into_bytes)));
            }
            "abort" => self.abort(&at("mnt")),
            "umount" => {
                let flags = match call.text("flags") {
                    "lazy" => MntFlags::MNT_DETACH,
                    "force" => MntFlags::MNT_FORCE,
                    _ => MntFlags::empty(),
                };
                umount2(&at("mnt"), flags).map_err(io::Error::from)
            }
            "remount" => {
                let flags = MsFlags::MS_REMOUNT
                    | if call.text("mode") == "ro" { MsFlags::MS_RDONLY } else { MsFlags::empty() };
                mount(None::<&str>, &at("lower"), None::<&str>, flags, None::<&str>).map_err(io::Error::from)
            }
            "drop_caches" => fs::write("/proc/sys/vm/drop_caches", "3"),
            _ => return None,
        };
        Some(match done {
            Ok(()) => Observed::Int(0),
            Err(error) => failed(&error),
        })
    }

    fn path(&self, text: &str) -> PathBuf {
        match text.split_once(':') {
            _ if text.starts_with('/') => PathBuf::from(text),
            Some((root, rest)) => self.base.join(root).join(rest),
            None => self.base.join("lower").join(text),
        }
    }

    fn file(&self, call: &Call) -> io::Result<()> {
        let path = self.path(call.text("path"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all(&call.data("data").0)?;
        date(&file)?;
        let mode = call.int("mode", 0o644);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode as u32))
    }

    fn mount_lower(&mut self, call: &Call, at: &Path) -> io::Result<()> {
        let size = match call.arg("size") {
            Some(Value::Int(size)) => format!("mode=755,size={size}"),
            _ => "mode=755".into(),
        };
        match call.text("kind") {
            kind @ ("tmpfs" | "ramfs") => {
                let options = if kind == "tmpfs" { size.as_str() } else { "mode=755" };
                mount(Some("lower"), at, Some(kind), MsFlags::empty(), Some(options))?;
            }
            "ext4" => self.mount_ext4(at, call.int("quota", 0))?,
            "overlay" => self.mount_overlay(at, call.text("over"))?,
            other => {
                let source = self.base.join(other);
                mount(Some(&source), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            }
        }
        Ok(())
    }

    /// An overlay at `lowerN` with `upperN` as its upper layer, over one of the stage's folders or an empty one.
    fn mount_overlay(&self, at: &Path, over: &str) -> io::Result<()> {
        let name = at.file_name().unwrap_or_default().to_string_lossy();
        let folder = |kind: &str| self.base.join(name.replace("lower", kind));
        let (upper, work, empty) = (folder("upper"), folder("images/work"), folder("images/empty"));
        for folder in [&upper, &work, &empty] {
            fs::create_dir_all(folder)?;
        }
        let lower = if over.is_empty() { empty } else { self.base.join(over) };
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(())
    }

    /// An ext4, with quotas if user 1000 is to have one.
    fn mount_ext4(&mut self, at: &Path, quota: i128) -> io::Result<()> {
        self.images += 1;
        let image = self.base.join(format!("images/ext4-{}", self.images));
        File::create_new(&image)?.set_len(EXT4_BYTES)?;
        let shell = Shell::new().map_err(io::Error::other)?;
        let features = if quota == 0 { "^has_journal" } else { "^has_journal,quota" };
        let options = "nodiscard,lazy_itable_init=0";
        let make = cmd!(shell, "mkfs.ext4 -q -F -O {features} -E {options} {image}");
        make.quiet().ignore_stdout().ignore_stderr().run().map_err(io::Error::other)?;
        let (path, _device) = loopdev::attach(&image)?;
        mount(Some(&path), at, Some("ext4"), MsFlags::empty(), (quota != 0).then_some("usrquota"))?;
        if quota == 0 {
            return Ok(());
        }
        let mut limits = Dqblk::default();
        limits.set_blocks_hard_limit(quota as u64 / 1024);
        let valid = QuotaValidFlags::QIF_BLIMITS;
        Ok(quotactl_set(QuotaType::USRQUOTA, &path, 1000, &limits, valid)?)
    }

    /// Abort the connection of the FUSE mount at that place.
    pub(crate) fn abort(&self, at: &Path) -> io::Result<()> {
        fs::write(control(at)?.join("abort"), "1")
    }

    /// Abort whatever is mounted here: for cases that will not end by themselves.
    pub(crate) fn abort_all(&self) {
        for name in ["mnt", "mnt2", "mnt3"] {
            // Not mounted, or unmounted by the script: nothing to abort.
            let _ = self.abort(&self.base.join(name));
        }
    }

    /// Take everything down, newest first: `mounts` as [`Stage::mounts`] gives them. `unmounted` is told of each place
    /// that is free, so that the daemon behind it can be ended before what it stands on is unmounted. Says what would not go, and who holds it.
    pub(crate) fn strike(&mut self, mounts: Vec<PathBuf>, mut unmounted: impl FnMut(&str)) -> Option<String> {
        let mut held = None;
        let mut busy = Vec::new();
        for at in mounts.into_iter().rev() {
            let name = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("mnt") {
                held = held.or(unmount(&at));
                unmounted(&name);
            } else if umount2(&at, MntFlags::empty()).is_err() {
                // A daemon that was mounted before it may have files of it open.
                busy.push(at);
            }
        }
        for at in busy {
            held = held.or(unmount(&at));
        }
        let _ = umount2(&self.base, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.base);
        held
    }

    /// Where something is mounted below the stage, in the order it was mounted.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        places.filter(|at| at.starts_with(&self.base) && *at != self.base).collect()
    }
}

/// Date a new file back: a write within the clock's tick of its creation would change no time, and nobody would be told of one.
pub(super) fn date(file: &File) -> io::Result<()> {
    let then = SystemTime::UNIX_EPOCH + LONG_AGO;
    file.set_times(FileTimes::new().set_accessed(then).set_modified(then))
}

/// Has nobody written to it since it was dated back?
pub(super) fn is_dated(metadata: &fs::Metadata) -> io::Result<bool> {
    Ok(metadata.modified()? == SystemTime::UNIX_EPOCH + LONG_AGO)
}

/// Unmount; a file system that stays busy is detached, and what holds it is said.
fn unmount(at: &Path) -> Option<String> {
    let until = Instant::now() + limits::SETTLE;
    loop {
        match umount2(at, MntFlags::empty()) {
            Ok(()) => {}
            // Not mounted (any more).
            Err(Errno::EINVAL | Errno::ENOENT) => return None,
            Err(Errno::EBUSY) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Err(errno) => {
                let name = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let who = holders(at);
                let _ = umount2(at, MntFlags::MNT_DETACH);
                return Some(format!("{name} cannot be unmounted ({errno}): {who}"));
            }
        }
    }
}

/// Who visibly holds files below that place.
fn holders(at: &Path) -> String {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() {
            continue;
        }
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let opens = descriptors
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .filter(|path| path.starts_with(at))
            .count();
        let maps = fs::read_to_string(process.path().join("maps")).unwrap_or_default();
        let files = maps.lines().filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])));
        let mapped = files.filter(|path| path.starts_with(at)).count();
        if opens + mapped > 0 {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("process {} has {opens} open and {mapped} mapped", command.trim()));
        }
    }
    if found.is_empty() {
        "no process has a file of it open or mapped, so the kernel holds it: a registered backing id, a passthrough \
         file, or a mapping of one"
            .into()
    } else {
        found.join("; ")
    }
}

/// The folder in the control file system of what is mounted at that place.
fn control(at: &Path) -> io::Result<PathBuf> {
    let connection = connection(at)?.ok_or(Errno::ENOENT)?;
    Ok(Path::new("/sys/fs/fuse/connections").join(connection.to_string()))
}

/// The number of the FUSE connection mounted at that place; no request is sent for it.
pub(super) fn connection(at: &Path) -> io::Result<Option<u32>> {
    // The kernel's dev_t behind st_dev: 20 bits of minor below 12 of major, which is 0 for FUSE.
    let device = device_of(at)?;
    Ok(device.and_then(|device| device.split_once(':')?.1.parse().ok()))
}

/// `major:minor` of what is mounted at that place.
fn device_of(at: &Path) -> io::Result<Option<String>> {
    Ok(mountinfo_of(at)?.and_then(|line| line.split(' ').nth(2).map(str::to_string)))
}

/// The same, where something is mounted for sure, and of a FUSE file system without its daemon being asked: the list of all
/// mounts takes longer to read than a mount to make.
pub(crate) fn device_there(at: &Path) -> io::Result<(u32, u32)> {
    let name = CString::new(at.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: a C string, and room for what the kernel fills in.
    Errno::result(unsafe { libc::statx(libc::AT_FDCWD, name.as_ptr(), flags, 0, found.as_mut_ptr()) })?;
    // SAFETY: it was filled in, and all zero is a statx, too.
    let found = unsafe { found.assume_init() };
    Ok((found.stx_dev_major, found.stx_dev_minor))
}

/// Mount a FUSE file system.
pub(super) fn mount_fuse(kind: &str, source: &Path, at: &Path, options: &str) -> nix::Result<()> {
    mount(Some(source), at, Some(kind), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))?;
    keep_dirty_pages(at);
    Ok(())
}

/// Lets the pages an application makes dirty there lie until a call writes them back.
///
/// The share of dirty memory that a new FUSE mount may have is next to nothing (`fuse_bdi_init`), so the kernel starts
/// to write back after a page or after thirty: what earlier tasks left over decides (`balance_dirty_pages`).
/// Best effort: without a writable /sys a transcript may show a WRITE one step earlier, which no law forbids.
pub(super) fn keep_dirty_pages(at: &Path) {
    // With a block device below (fuseblk) the name is another one, and no case maps a file there.
    if let Ok((0, minor)) = device_there(at) {
        // Per cent of what all may have; the kernel promises less than 100 of it.
        for (limit, share) in [("max_ratio", "100"), ("min_ratio", "10")] {
            _ = fs::write(format!("/sys/class/bdi/0:{minor}/{limit}"), share);
        }
    }
}

/// The file system's own options of what is mounted at that place.
pub(super) fn options_of(at: &Path) -> io::Result<String> {
    // "... - type source options"
    let options = |line: String| line.split_once(" - ")?.1.split(' ').nth(2).map(str::to_string);
    Ok(mountinfo_of(at)?.and_then(options).ok_or(Errno::ENOENT)?)
}

/// The line of /proc/self/mountinfo about what is mounted at that place.
fn mountinfo_of(at: &Path) -> io::Result<Option<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let place = at.to_string_lossy();
    Ok(mounts.lines().rev().find(|line| line.split(' ').nth(4) == Some(&place)).map(str::to_string))
}
