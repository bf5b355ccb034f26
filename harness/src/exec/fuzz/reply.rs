//! The target `virtio_reply`: calls on a virtio-fs mount whose device lies.
//!
//! A thread serves the mount, and changes answers on their way into the queue; the process's first one makes the calls. Each
//! input has a mount of its own, so that nothing hangs on what an earlier one made the kernel believe.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use zerocopy::FromBytes as _;

use super::super::daemon::serve_for_ever;
use super::super::device::{Device, Via};
use super::super::queues::{Mount, Queues};
use super::{Counters, Ground};
use crate::abi::{Opcode, fuse_backing_map, fuse_in_header};
use crate::generate::{Act, Lie, Told, turns};
use crate::program::Transport;
use crate::protocol::{Odd, OddKind};

/// Where the mount is, and what its daemon shows.
const BASE: &str = "/run/reply";

/// A file may have no end, ...
const MOST_READ: u64 = 256 << 10;
/// ... nor may a folder.
const MOST_NAMES: usize = 1000;

/// The attribute of `a`.
const NAME: &CStr = c"trusted.x";

struct Stage {
    ground: Ground,
    mount: Mount,
    at: PathBuf,
    /// What the daemon shows.
    lower: PathBuf,
    lies: Lies,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = umount2(&self.lower, MntFlags::MNT_DETACH);
    }
}

/// What an earlier input has changed below.
fn put_back(lower: &Path) -> io::Result<()> {
    let _ = (fs::remove_file(lower.join("new")), fs::remove_file(lower.join("d/new")));
    let _ = fs::remove_dir(lower.join("folder"));
    let file = lower.join("a");
    fs::write(&file, "hello")?;
    let file = std::ffi::CString::new(file.as_os_str().as_encoded_bytes())?;
    // SAFETY: strings that end with a zero, and a value of as many bytes as is said.
    match unsafe { libc::setxattr(file.as_ptr(), NAME.as_ptr(), c"abcd".as_ptr().cast(), 4, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// For the next answers.
type Lies = Arc<Mutex<VecDeque<Lie>>>;

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// One input: calls, and lies about their answers. `counters` are those of libFuzzer.
///
/// # Panics
/// There is no virtio-fs device, or the mount cannot be made: libFuzzer tells of the input.
pub fn virtio_reply(bytes: &[u8], counters: &Counters) {
    STAGE.with_borrow_mut(|stage| {
        let stage = stage.get_or_insert_with(|| Stage::enter().expect("there is a virtio-fs device"));
        stage.ground.last.write(bytes);
        let counters = counters.lent();
        stage.run(bytes, counters).expect("the mount can be made");
        stage.ground.sift(bytes, counters).expect("the folder takes a file");
    });
}

/// Run known inputs.
pub(super) fn again(inputs: &[Vec<u8>]) -> io::Result<()> {
    let mut stage = Stage::enter()?;
    inputs.iter().try_for_each(|input| stage.run(input, &mut []))
}

impl Stage {
    fn enter() -> io::Result<Stage> {
        let ground = Ground::enter(Transport::Plain)?;
        let base = Path::new(BASE);
        let (at, lower) = (base.join("mnt"), base.join("lower"));
        fs::create_dir_all(&at)?;
        fs::create_dir_all(&lower)?;
        mount(Some("lower"), &lower, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        fs::write(lower.join("b"), vec![7; 64 << 10])?;
        symlink("a", lower.join("l"))?;
        fs::create_dir(lower.join("d"))?;
        (0..40).try_for_each(|number| fs::write(lower.join(format!("d/{number}")), ""))?;
        let queues = Queues::open(1)?;
        let mount = queues.only_mount();
        let lies = Lies::default();
        let (liar, folder) =
            (Liar { queues, lies: Arc::clone(&lies), honest: BTreeSet::new() }, lower.clone());
        std::thread::Builder::new().name("daemon".into()).spawn(move || serve_for_ever(liar, folder))?;
        Ok(Stage { ground, mount, at, lower, lies })
    }

    fn run(&mut self, bytes: &[u8], counters: &mut [u8]) -> io::Result<()> {
        let turns = turns(bytes);
        self.ground.arena.clear_own();
        let mut odd = None;
        for (number, turn) in turns.iter().enumerate() {
            *self.lies.lock().unwrap_or_else(PoisonError::into_inner) = turn.lies.iter().copied().collect();
            if number == 0 {
                put_back(&self.lower)?;
                self.mount.at(&self.at, "", "")?;
                // Mounting does not wait for the answer to INIT, and this does.
                let _ = nix::sys::statvfs::statvfs(&self.at);
            } else {
                odd = odd.or(perform(turn.act(), &self.at));
            }
        }
        self.lies.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if !turns.is_empty() {
            umount2(&self.at, MntFlags::MNT_DETACH)?;
        }
        self.ground.hear_complaint()?;
        self.ground.count(None, counters);
        self.ground.tally(turns.len(), (false, false));
        let Some(why) = odd else { return Ok(()) };
        let (function, key) = (why.split(' ').next().unwrap_or_default().to_owned(), "length".to_owned());
        let (bytes, records, rest) = (bytes.to_vec(), Vec::new(), Vec::new());
        self.ground.report(&Odd { bytes, kind: OddKind::Oracle, function, key, why, records, rest })
    }
}

/// Make a call. What it led to may be anything but more than was asked for: that is said.
fn perform(act: Act, at: &Path) -> Option<String> {
    let path = |name: &str| at.join(name);
    let read_only = || opened(OpenOptions::new().read(true), &path("a"), 0);
    let write = |append: bool| opened(OpenOptions::new().write(true).append(append), &path("a"), 0);
    match act {
        Act::Stat => drop(fs::metadata(path("a"))),
        Act::StatNobody => drop(fs::symlink_metadata(path("nobody"))),
        Act::ReadShort => return read(&path("a"), 0, 5),
        Act::ReadShortDirect => return read(&path("a"), libc::O_DIRECT, 5),
        Act::ReadAll => drop(read_all(&path("a"))),
        Act::ReadLong => drop(read_all(&path("b"))),
        Act::ReadLongDirect => return read(&path("b"), libc::O_DIRECT, 4096),
        Act::List => drop(fs::read_dir(path("d")).map(|names| names.take(MOST_NAMES).count())),
        Act::ReadLink => drop(fs::read_link(path("l"))),
        Act::GetAttribute => return attribute(&path("a")),
        Act::ListAttributes => return attributes(&path("a")),
        Act::StatFs => drop(nix::sys::statvfs::statvfs(at)),
        Act::Create => {
            let file = opened(OpenOptions::new().write(true).create(true).truncate(true), &path("new"), 0);
            drop(file.map(|file| file.write_at(b"new", 0)));
        }
        Act::Remove => drop(fs::remove_file(path("new"))),
        Act::MakeFolder => drop(fs::create_dir(path("folder"))),
        Act::RemoveFolder => drop(fs::remove_dir(path("folder"))),
        Act::Truncate => drop(write(false).map(|file| file.set_len(3))),
        Act::Append => drop(write(true).map(|file| file.write_at(b"hello", 0))),
        Act::SeekHole => {
            // SAFETY: numbers only.
            let _ = read_only().map(|file| unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_HOLE) });
        }
        Act::Ioctl => {
            let mut room = [0_u8; 64];
            // SAFETY: the kernel writes at most a long where the pointer shows, which lives across the call.
            let _ = read_only()
                .map(|file| unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETVERSION, room.as_mut_ptr()) });
        }
        Act::Rename => drop(fs::rename(path("new"), path("d/new"))),
    }
    None
}

/// Open what may be said to be a fifo, too: nobody waits for its other end.
fn opened(options: &mut OpenOptions, path: &Path, flags: libc::c_int) -> io::Result<File> {
    options.custom_flags(flags | libc::O_NONBLOCK).open(path)
}

/// Read a file of whatever size.
fn read_all(path: &Path) -> io::Result<usize> {
    opened(OpenOptions::new().read(true), path, 0)?.take(MOST_READ).read_to_end(&mut Vec::new())
}

fn read(path: &Path, flags: libc::c_int, wanted: usize) -> Option<String> {
    // The kernel may write behind what it was given; that is not ours to suffer from.
    let mut bytes = vec![0; 2 * wanted];
    let file = opened(OpenOptions::new().read(true), path, flags).ok()?;
    let count = file.read_at(&mut bytes[..wanted], 0).ok()?;
    (count > wanted).then(|| format!("read of {wanted} bytes gives {count}"))
}

fn attribute(path: &Path) -> Option<String> {
    let mut room = [0_u8; 64];
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: strings that end with a zero, and room for more than is said.
    let count = unsafe { libc::getxattr(path.as_ptr(), NAME.as_ptr(), room.as_mut_ptr().cast(), 8) };
    (count > 8).then(|| format!("getxattr of 8 bytes gives {count}"))
}

fn attributes(path: &Path) -> Option<String> {
    let mut room = [0_u8; 64];
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: a string that ends with a zero, and room for more than is said.
    let count = unsafe { libc::listxattr(path.as_ptr(), room.as_mut_ptr().cast(), 16) };
    (count > 16).then(|| format!("listxattr of 16 bytes gives {count}"))
}

/// What a daemon is asked for.
const FS_IOC_GETVERSION: libc::Ioctl = 0x8008_7601_u32 as libc::Ioctl;

/// The queues of a device that lies.
struct Liar {
    queues: Queues,
    lies: Lies,
    /// Requests that some kernels do not wait for: whose turn their answers are is chance.
    honest: BTreeSet<u64>,
}

impl Device for Liar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Transport)> {
        let (len, over) = self.queues.read(buffer)?;
        if let Ok((header, _)) = fuse_in_header::read_from_prefix(buffer)
            && matches!(Opcode(header.opcode), Opcode::RELEASE | Opcode::RELEASEDIR)
        {
            self.honest.insert(header.unique);
        }
        Ok((len, over))
    }

    fn answer(&mut self, unique: u64, message: &[u8], via: Option<Via>) -> io::Result<usize> {
        let is_honest = self.honest.remove(&unique);
        let mut lies = self.lies.lock().unwrap_or_else(PoisonError::into_inner);
        match Some(&mut lies).filter(|_| !is_honest).and_then(|lies| lies.pop_front()) {
            Some(lie) => {
                let Told { bytes, used } = lie.tell(message.to_vec());
                self.queues.tell(unique, bytes, used)
            }
            None => self.queues.answer(unique, message, via),
        }
    }

    fn write(&mut self, message: &[u8], via: Via) -> io::Result<usize> {
        self.queues.write(message, via)
    }

    fn backing_open(&mut self, map: fuse_backing_map) -> io::Result<i32> {
        self.queues.backing_open(map)
    }

    fn backing_close(&mut self, id: u32) -> io::Result<()> {
        self.queues.backing_close(id)
    }

    fn another(&self, _: Transport) -> io::Result<Liar> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn start_ring(&mut self, room: usize) -> io::Result<()> {
        self.queues.start_ring(room)
    }

    fn waitables(&self) -> Vec<BorrowedFd<'_>> {
        self.queues.waitables()
    }
}
