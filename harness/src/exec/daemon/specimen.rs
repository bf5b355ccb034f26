//! The reference daemon as a program of its own, which passes every file through: honest, or with one mistake.
//!
//! It is what a trial of daemons is tried on. One thread, one request at a time; lower files are held open while they
//! are open above.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{ForkResult, Uid, fork, setfsuid};
use zerocopy::IntoBytes;

use super::super::device::{DevFuse, Device, Via};
use super::super::stage::mount_fuse;
use super::loopback::{Answered, Loopback, attr_out};
use super::message::{bare, own};
use super::nodes::Nodes;
use super::request::Request;
use crate::abi::{Opcode, fuse_attr_out, fuse_backing_map, fuse_init_out, fuse_open_out, fuse_out_header};
use crate::daemon::Mistake;
use crate::program::Transport;

const INIT_EXT: u32 = 1 << 30;
const WRITEBACK_CACHE: u32 = 1 << 16;
const PASSTHROUGH_2: u32 = 1 << 5;
const DIRECT_IO: u32 = 1;
const KEEP_CACHE: u32 = 1 << 1;
const NONSEEKABLE: u32 = 1 << 2;
const STREAM: u32 = 1 << 4;
const PASSTHROUGH: u32 = 1 << 7;
/// The last flag of the second word, which nothing has.
const NOBODYS_FLAG: u32 = 1 << 31;

/// Room for the largest request.
const BUFFER: usize = (1 << 20) + (1 << 16);

/// Mount and serve until the mount is gone, or SIGTERM comes.
///
/// # Errors
/// The device or the mount cannot be had.
pub fn specimen(source: &Path, mount: &Path, mistake: Option<Mistake>) -> io::Result<()> {
    let told = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGTERM, Arc::clone(&told))?;
    let device = DevFuse::open(Transport::Plain)?;
    let checks = if mistake == Some(Mistake::AsksNobody) { "" } else { ",default_permissions" };
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other{checks}", device.raw());
    mount_fuse("fuse", Path::new("specimen"), mount, &options)?;
    let mut daemon = Specimen {
        device,
        loopback: Loopback { root: source.to_path_buf(), nodes: Nodes::new() },
        mistake,
        files: BTreeMap::new(),
        handles: BTreeMap::new(),
        caller: 0,
        agreed: false,
        opened: 0,
        given_up: false,
        has_written: false,
    };
    if mistake == Some(Mistake::KeepsDevice) {
        // SAFETY: this process has one thread.
        if let ForkResult::Child = unsafe { fork() }? {
            // An error is all that it waits for: the end of the connection.
            let _ = poll(
                &mut [PollFd::new(daemon.device.as_file().as_fd(), PollFlags::empty())],
                PollTimeout::NONE,
            );
            std::process::exit(0);
        }
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        if told.load(Ordering::SeqCst) && mistake != Some(Mistake::Deaf) {
            umount2(mount, MntFlags::MNT_DETACH)?;
            return Ok(());
        }
        let mut waits = daemon.device.waitables().into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let mut wait: Vec<_> = waits.by_ref().collect();
        let _ = poll(&mut wait, PollTimeout::from(1000_u16));
        match daemon.device.read(&mut buffer) {
            Ok((count, _)) => {
                if let Some(request) = Request::new(0, &buffer[..count]) {
                    daemon.serve(&request)?;
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                while mistake == Some(Mistake::Stays) && !told.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                return Ok(());
            }
            Err(_) => {}
        }
    }
}

/// A lower file that is open above.
struct Held {
    path: PathBuf,
    file: File,
    id: Option<i32>,
    opens: usize,
    is_new: bool,
    /// How many of the opens do not pass through: none of the others may, then.
    plain: usize,
    /// The id is closed already, for a daemon that goes on using it.
    is_closed: bool,
    /// Its size when it was opened.
    size: u64,
}

struct Specimen {
    device: DevFuse,
    loopback: Loopback,
    mistake: Option<Mistake>,
    /// By node.
    files: BTreeMap<u64, Held>,
    /// The node of each open, an id of its own if it has one, and whether it goes without.
    handles: BTreeMap<u64, (u64, Option<i32>, bool)>,
    /// Who asks.
    caller: u32,
    agreed: bool,
    opened: usize,
    given_up: bool,
    has_written: bool,
}

impl Specimen {
    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn serve(&mut self, request: &Request) -> io::Result<()> {
        self.caller = request.header.uid;
        let opcode = request.opcode();
        let unique = request.header.unique;
        if opcode.has_no_reply() {
            if self.makes(Mistake::AnswersForget) && matches!(opcode, Opcode::FORGET | Opcode::BATCH_FORGET) {
                self.send(&bare(unique, 0).bytes);
            }
            return Ok(());
        }
        let answered = self.answer(request);
        let mut message = own(unique, &answered).bytes;
        match (self.mistake, opcode) {
            (Some(Mistake::Silent), Opcode::FLUSH) => return Ok(()),
            (Some(Mistake::ShortReply), Opcode::OPEN) if answered.is_ok() => {
                message.truncate(size_of::<fuse_out_header>() + size_of::<fuse_open_out>() / 2);
            }
            (Some(Mistake::LongReply), Opcode::GETATTR) => message.extend([0; 8]),
            (Some(Mistake::ErrorWithPayload), _) if answered.is_err() => message.extend([0; 8]),
            (Some(Mistake::WrongUnique), Opcode::GETATTR) => {
                let header = fuse_out_header { len: 16, error: 0, unique: unique + 0x1000 };
                self.send(header.as_bytes());
            }
            (Some(Mistake::ErrorPositive), Opcode::GETATTR) => self.send(&bare(unique, -libc::EIO).bytes),
            (Some(Mistake::ErrorTooLarge), Opcode::GETATTR) => self.send(&bare(unique, 600).bytes),
            _ => {}
        }
        let len = (message.len() as u32).to_le_bytes();
        message[..4].copy_from_slice(&len);
        self.send(&message);
        if self.makes(Mistake::AnswersTwice) && opcode == Opcode::FLUSH {
            self.send(&message);
        }
        Ok(())
    }

    /// What the kernel says of it is for the judge, not for us.
    fn send(&mut self, message: &[u8]) {
        let _ = self.device.write(message, Via::Write);
    }

    fn answer(&mut self, request: &Request) -> Answered {
        let node = request.header.nodeid;
        match request.opcode() {
            Opcode::INIT => self.init(request),
            Opcode::OPEN => {
                let path = self.lower(node)?;
                let writes = request.number("flags") as i32 & libc::O_ACCMODE != libc::O_RDONLY;
                let fh = self.open(node, path, writes, false).map_err(errno)?;
                self.reply_open(node, fh)
            }
            Opcode::CREATE => {
                let made = self.loopback.answer(request)?;
                let (entry, _) = made.split_at(made.len() - size_of::<fuse_open_out>());
                let node = u64::from_le_bytes(entry[..8].try_into().unwrap_or_default());
                let path = self.lower(node)?;
                let fh = self.open(node, path, true, true).map_err(errno)?;
                Ok([entry, &self.reply_open(node, fh)?].concat())
            }
            Opcode::RELEASE => {
                self.release(request.number("fh"));
                Ok(Vec::new())
            }
            Opcode::GETATTR => match self.files.get(&node) {
                Some(held) => held.file.metadata().map(|found| self.told(node, &found)).map_err(errno),
                None => self.loopback.answer(request),
            },
            Opcode::SETATTR => self.setattr(request),
            Opcode::READ => {
                let held = self.files.get(&node).ok_or(libc::EBADF)?;
                let mut bytes = vec![0; request.number("size") as usize];
                let behind = u64::from(self.makes(Mistake::ReadsBehind));
                let have = held.file.read_at(&mut bytes, request.number("offset") + behind).map_err(errno)?;
                bytes.truncate(have);
                Ok(bytes)
            }
            Opcode::WRITE => {
                self.has_written = true;
                if !self.makes(Mistake::WritesNothing) {
                    let held = self.files.get(&node).ok_or(libc::EBADF)?;
                    let wrote = held.file.write_all_at(request.tail(), request.number("offset"));
                    if !self.makes(Mistake::HidesFull) {
                        wrote.map_err(errno)?;
                    }
                }
                Ok([request.number("size") as u32, 0].as_bytes().to_vec())
            }
            Opcode::FSYNC if self.makes(Mistake::NoSync) => Err(libc::EIO),
            Opcode::FSYNC => {
                let held = self.files.get(&node).ok_or(libc::EBADF)?;
                held.file.sync_all().map(|()| Vec::new()).map_err(errno)
            }
            Opcode::UNLINK if self.makes(Mistake::LosesRemoved) => {
                let path = self.loopback.root.join(request.path(&self.loopback.nodes));
                let gone = self.files.iter().find(|(_, held)| held.path == path).map(|(node, _)| *node);
                if let Some(id) = gone.and_then(|node| self.files.remove(&node)?.id) {
                    let _ = self.device.backing_close(id as u32);
                }
                self.loopback.answer(request)
            }
            Opcode::RENAME | Opcode::RENAME2 => {
                let answered = self.loopback.answer(request)?;
                for (node, held) in &mut self.files {
                    if let Some(path) = self.loopback.nodes.path(*node) {
                        held.path = self.loopback.root.join(path);
                    }
                }
                Ok(answered)
            }
            _ => self.loopback.answer(request),
        }
    }

    fn lower(&self, node: u64) -> Result<PathBuf, i32> {
        let path = self.loopback.nodes.path(node).ok_or(libc::ESTALE)?;
        Ok(self.loopback.root.join(path))
    }

    fn init(&mut self, request: &Request) -> Answered {
        let own = self.loopback.answer(request)?;
        let mut out = <fuse_init_out as zerocopy::FromBytes>::read_from_bytes(&own).map_err(|_| libc::EIO)?;
        let offers = request.number("flags2") as u32 & PASSTHROUGH_2 != 0;
        let asks = offers && !self.makes(Mistake::RegistersUnasked);
        if asks {
            out.flags |= if self.makes(Mistake::NoInitExt) { 0 } else { INIT_EXT };
            out.flags |= if self.makes(Mistake::WritesBack) { WRITEBACK_CACHE } else { 0 };
            out.flags2 |= PASSTHROUGH_2;
            out.max_stack_depth = match self.mistake {
                Some(Mistake::NoDepth) => 0,
                Some(Mistake::TooDeep) => 3,
                _ => 1,
            };
        }
        if self.makes(Mistake::AsksForMore) {
            out.flags |= INIT_EXT;
            out.flags2 |= NOBODYS_FLAG;
        }
        self.agreed = asks || self.makes(Mistake::RegistersUnasked);
        Ok(out.as_bytes().to_vec())
    }

    /// Attributes of a file that is open.
    fn told(&self, node: u64, found: &Metadata) -> Vec<u8> {
        let mut out = attr_out(node, found);
        match self.mistake {
            Some(Mistake::SizeStale) => out.size = self.files.get(&node).map_or(out.size, |held| held.size),
            Some(Mistake::SizeShrinks) if out.size > 5 => out.size -= 1,
            _ => {}
        }
        out.as_bytes().to_vec()
    }

    fn setattr(&mut self, request: &Request) -> Answered {
        const MODE: u64 = 1;
        const SIZE: u64 = 8;
        let node = request.header.nodeid;
        let valid = request.number("valid");
        if self.makes(Mistake::KeepsMode) && valid & MODE != 0 {
            let found = self.lower(node)?.symlink_metadata().map_err(errno)?;
            let out = fuse_attr_out { mode: request.number("mode") as u32, ..attr_out(node, &found) };
            return Ok(out.as_bytes().to_vec());
        }
        let Some(held) = self.files.get(&node).filter(|_| valid & SIZE != 0) else {
            return self.loopback.answer(request);
        };
        if !self.makes(Mistake::NoTruncate) {
            held.file.set_len(request.number("size")).map_err(errno)?;
        }
        let found = held.file.metadata().map_err(errno)?;
        let mut out = attr_out(node, &found);
        if self.makes(Mistake::NoTruncate) {
            out.size = request.number("size");
        }
        Ok(out.as_bytes().to_vec())
    }

    /// Open the lower file, or have it open once more. Gives a handle.
    fn open(&mut self, node: u64, path: PathBuf, writes: bool, is_new: bool) -> io::Result<u64> {
        self.opened += 1;
        if self.makes(Mistake::Crashes) && self.opened == 3 {
            std::process::abort();
        }
        if self.makes(Mistake::FewFiles) && self.handles.len() >= 4 {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        if !self.files.contains_key(&node) {
            let file = match OpenOptions::new().read(true).write(true).open(&path) {
                Err(error) if writes && !self.makes(Mistake::OpensReadOnly) => return Err(error),
                Err(_) => File::open(&path)?,
                Ok(file) => file,
            };
            let size = file.metadata()?.len();
            self.files.insert(
                node,
                Held { path, file, id: None, opens: 0, plain: 0, is_new, is_closed: false, size },
            );
        }
        let fh = self.loopback.nodes.new_handle();
        if let Some(held) = self.files.get_mut(&node) {
            held.opens += 1;
        }
        self.handles.insert(fh, (node, None, false));
        Ok(fh)
    }

    /// An id for the file, if one can be had.
    fn register(&mut self, node: u64) -> Option<i32> {
        let held = self.files.get(&node)?;
        if !self.agreed || (self.given_up && self.makes(Mistake::GivesUp)) {
            return None;
        }
        let other = match self.mistake {
            Some(Mistake::RegistersFolder) => held.path.parent().and_then(|folder| File::open(folder).ok()),
            Some(Mistake::WrongFile) => {
                let decoy = held.path.with_extension("decoy");
                std::fs::write(&decoy, "not this").and_then(|()| File::open(&decoy)).ok()
            }
            _ => None,
        };
        let fd = match self.mistake {
            Some(Mistake::RegistersNothing) => i32::MAX,
            _ => other.as_ref().unwrap_or(&held.file).as_raw_fd(),
        };
        let flags = u32::from(self.makes(Mistake::RegistersWithFlags));
        let user = if self.makes(Mistake::RegistersAsCaller) { self.caller } else { 0 };
        setfsuid(Uid::from_raw(user));
        let registered = self.device.backing_open(fuse_backing_map { fd, flags, padding: 0 });
        setfsuid(Uid::from_raw(0));
        match registered {
            Ok(id) => Some(id),
            Err(error) => {
                self.given_up = true;
                self.makes(Mistake::ErrnoAsId).then(|| -errno(error))
            }
        }
    }

    fn reply_open(&mut self, node: u64, fh: u64) -> Answered {
        let known = self.files.get(&node).and_then(|held| held.id);
        let opens = self.files.get(&node).map_or(0, |held| held.opens);
        let each = self.makes(Mistake::IdPerOpen);
        let cached = self.files.get(&node).is_some_and(|held| held.plain > 0);
        let mixes = matches!(self.mistake, Some(Mistake::MixesFirst | Mistake::MixesLater));
        let id = match known {
            _ if cached && !mixes => None,
            Some(id) if !each => Some(id),
            _ => self.register(node),
        };
        if let Some(held) = self.files.get_mut(&node) {
            held.is_closed &= held.id == id;
            held.id = id;
        }
        if each && let Some(handle) = self.handles.get_mut(&fh) {
            handle.1 = id;
        }
        let mut out = fuse_open_out { fh, ..fuse_open_out::default() };
        let plain = match self.mistake {
            Some(Mistake::MixesLater) => opens > 1,
            Some(Mistake::MixesFirst) => opens == 1,
            _ => id.is_none(),
        };
        if plain {
            self.handles.entry(fh).and_modify(|handle| handle.2 = true);
            self.files.entry(node).and_modify(|held| held.plain += 1);
        }
        if let Some(id) = id.filter(|_| !plain) {
            out.open_flags = PASSTHROUGH
                | match self.mistake {
                    Some(Mistake::KeepsCache) => KEEP_CACHE,
                    Some(Mistake::NonSeekable) => NONSEEKABLE,
                    Some(Mistake::Stream) => STREAM,
                    Some(Mistake::DirectIo) => DIRECT_IO,
                    _ => 0,
                };
            out.backing_id = match self.mistake {
                Some(Mistake::IdZero) => 0,
                Some(Mistake::IdNegative) => -1,
                Some(Mistake::IdNobodys) => id + 1000,
                _ => id,
            };
            if self.makes(Mistake::ClosesEarly) {
                let _ = self.device.backing_close(id as u32);
                if let Some(held) = self.files.get_mut(&node) {
                    held.id = None;
                }
            }
        }
        Ok(out.as_bytes().to_vec())
    }

    fn release(&mut self, fh: u64) {
        let Some((node, own, plain)) = self.handles.remove(&fh) else { return };
        let Some(held) = self.files.get_mut(&node) else { return };
        held.opens -= 1;
        held.plain -= usize::from(plain);
        let last = held.opens == 0;
        let (is_new, id) = (held.is_new, own.or(held.id));
        let closes = match self.mistake {
            Some(Mistake::NeverCloses) => false,
            Some(Mistake::LeaksNew) => last && !is_new,
            Some(Mistake::ClosesUnderOthers | Mistake::IdPerOpen) => true,
            _ => last,
        };
        let is_closed = held.is_closed;
        held.is_closed |= closes;
        if closes
            && (own.is_some() || !is_closed)
            && let Some(id) = id.filter(|id| *id > 0)
        {
            let _ = self.device.backing_close(id as u32);
            if self.makes(Mistake::ClosesTwice) {
                let _ = self.device.backing_close(id as u32);
            }
            if self.makes(Mistake::ClosesNobodys) {
                let _ = self.device.backing_close(id as u32 + 1000);
            }
        }
        if closes
            && !self.makes(Mistake::IdStale)
            && let Some(held) = self.files.get_mut(&node)
        {
            held.id = None;
        }
        if last && !self.makes(Mistake::IdStale) {
            self.files.remove(&node);
        }
    }
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
