//! A daemon to be measured: it shows a folder, opens its files as it is told, and keeps no log. A request is answered in the
//! memory that it lies in, whether that was read from the device or is an entry's of a ring.
//!
//! It serves what the benchmark's work asks for, and refuses the rest with ENOSYS: nothing is made, renamed or removed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use zerocopy::{FromBytes, IntoBytes};

use super::super::daemon::attr_out;
use super::super::device::{backing_close, backing_open};
use super::super::ring::{ROOM, Ring};
use super::hindrance::Hindrance;
use crate::abi::*;
use crate::bench::{Carrier, Opens, Serving};

/// Bits of the two words of INIT's flags.
const ASYNC_READ: u32 = 1;
const BIG_WRITES: u32 = 1 << 5;
const WRITEBACK_CACHE: u32 = 1 << 16;
const PARALLEL_DIROPS: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;
const CACHE_SYMLINKS: u32 = 1 << 23;
const INIT_EXT: u32 = 1 << 30;
const PASSTHROUGH_2: u32 = 1 << 5;
const OVER_IO_URING_2: u32 = 1 << 9;
/// Bits of an open's reply.
const DIRECT_IO: u32 = 1;
const PASSTHROUGH: u32 = 1 << 7;
/// The newest protocol it speaks.
const MINOR: u32 = 46;
/// Seconds that attributes and names stay valid: looking up is no part of what is measured.
const VALID: u64 = 3600;
const PAGE: u32 = 4096;
/// Room for the largest request.
const BUFFER: usize = ROOM + PAGE as usize;
/// A pipe that holds the largest reply, each of whose pages takes a place of one page in it.
const PIPE: i32 = 2 << 20;
/// More threads than processors only wait.
const MOST_THREADS: usize = 4;
const HEADER: usize = size_of::<fuse_in_header>();
const REPLY: usize = size_of::<fuse_out_header>();
/// In a handle: the descriptor is another's, too, and stays open.
const SHARED: u64 = 1 << 63;

/// Serve the connection that the device is mounted with until it ends. What the kernel made of INIT goes to `told`:
/// nothing if it agreed to all that is asked, and what is in the way otherwise.
pub(super) fn serve(
    device: File,
    root: &Path,
    serving: Serving,
    mut told: PipeWriter,
) -> Result<(), Hindrance> {
    let daemon = Daemon {
        device,
        serving,
        nodes: RwLock::new(Nodes { paths: vec![PathBuf::new(), root.into()], ids: HashMap::new() }),
        kept: Mutex::default(),
    };
    let mut ring = match daemon.agree() {
        Ok(ring) => ring,
        Err(hindrance) => return Ok(hindrance.tell(&mut told)?),
    };
    drop(told);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    std::thread::scope(|scope| {
        // What a ring does not bring, such as FORGET, still comes by the device. The ring itself has
        // one thread on every computer, which the page says.
        let others = if ring.is_some() { 1 } else { threads - 1 };
        let others: Vec<_> = (0..others).map(|_| scope.spawn(|| daemon.serve_device())).collect();
        let own = match &mut ring {
            Some(ring) => loop {
                let mut answer = |header: &fuse_in_header, fixed: &[u8], payload: &mut [u8], has| {
                    daemon.answer(header, fixed, payload, has)
                };
                if let Err(error) = ring.turn(&mut answer) {
                    break Err(error.into());
                }
            },
            None => daemon.serve_device(),
        };
        others.into_iter().filter_map(|thread| thread.join().ok()).fold(own, Result::and)
    })
}

struct Nodes {
    /// By node.
    paths: Vec<PathBuf>,
    ids: HashMap<PathBuf, u64>,
}

struct Daemon {
    device: File,
    serving: Serving,
    nodes: RwLock<Nodes>,
    /// The descriptor and the id of each node that keeps one.
    kept: Mutex<HashMap<u64, (i32, i32)>>,
}

impl Daemon {
    /// Answer INIT. Gives the ring, if there is to be one.
    fn agree(&self) -> Result<Option<Ring>, Hindrance> {
        let mut buffer = vec![0; BUFFER];
        let len = (&self.device).read(&mut buffer)?;
        let whole = buffer.get(HEADER..len).unwrap_or_default();
        let wrong = || io::Error::other("the first request is no INIT");
        let (header, _) = fuse_in_header::read_from_prefix(&buffer).map_err(|_| wrong())?;
        let (init, _) = fuse_init_in::read_from_prefix(whole).map_err(|_| wrong())?;
        let Serving { opens, carrier, writes_back, pages, keeps_links, .. } = self.serving;
        let is_passed = matches!(opens, Opens::PassedEach | Opens::PassedKept);
        let asked = [
            (writes_back, WRITEBACK_CACHE, 0, "a write-back cache"),
            (keeps_links, CACHE_SYMLINKS, 0, "caching of symlinks"),
            (is_passed, INIT_EXT, PASSTHROUGH_2, "passthrough"),
            (carrier == Carrier::Ring, INIT_EXT, OVER_IO_URING_2, "FUSE over io_uring"),
        ];
        let (mut flags, mut flags2) = (ASYNC_READ | BIG_WRITES | PARALLEL_DIROPS | MAX_PAGES, 0);
        let mut lacks = None;
        for (_, one, two, what) in asked.into_iter().filter(|(is_asked, ..)| *is_asked) {
            if init.flags & one != one || init.flags2 & two != two {
                lacks = Some(what);
            }
            (flags, flags2) = (flags | one, flags2 | two);
        }
        let out = fuse_init_out {
            major: 7,
            minor: init.minor.min(MINOR),
            max_readahead: init.max_readahead,
            flags: flags & init.flags,
            flags2: flags2 & init.flags2,
            max_write: u32::from(pages) * PAGE,
            max_pages: pages,
            max_stack_depth: u32::from(is_passed),
            time_gran: 1,
            ..fuse_init_out::default()
        };
        let reply = fuse_out_header {
            len: (REPLY + size_of::<fuse_init_out>()) as u32,
            error: 0,
            unique: header.unique,
        };
        (&self.device).write_all(&[reply.as_bytes(), out.as_bytes()].concat())?;
        if let Some(what) = lacks {
            return Err(Hindrance::Lacks(format!("the kernel does not offer {what}")));
        }
        if carrier == Carrier::Splices {
            // Each thread makes its own; here it can still be said that it cannot.
            drop(pipe()?);
        }
        if carrier != Carrier::Ring {
            return Ok(None);
        }
        let mut ring = Ring::new(&self.device)?;
        ring.fill(ROOM)?;
        Ok(Some(ring))
    }

    /// A thread that reads the device until the connection ends.
    fn serve_device(&self) -> Result<(), Hindrance> {
        let mut buffer = vec![0; BUFFER];
        let mut pipe = match self.serving.carrier {
            Carrier::Splices => Some(pipe()?),
            _ => None,
        };
        loop {
            let len = match (&self.device).read(&mut buffer) {
                Ok(len) => len,
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENODEV) => return Ok(()),
                    // Interrupted, or the request was before it was read.
                    Some(libc::EINTR | libc::ENOENT | libc::EAGAIN) => continue,
                    _ => return Err(error.into()),
                },
            };
            let Ok((header, _)) = fuse_in_header::read_from_prefix(&buffer[..len]) else { continue };
            let opcode = Opcode(header.opcode);
            if let (Some(pipe), Opcode::READ) = (&mut pipe, opcode) {
                let read = body(&buffer[HEADER..len]);
                if read.is_ok_and(|read| self.splice(pipe, header.unique, &read).unwrap_or(false)) {
                    continue;
                }
            }
            if opcode.has_no_reply() {
                continue;
            }
            let start = HEADER + fixed(opcode);
            let (head, payload) = buffer.split_at_mut(start);
            // Shorter than it must be: refused, as whoever asked waits.
            let has = len.checked_sub(start).ok_or(libc::EIO);
            let answered = has.and_then(|has| self.answer(&header, &head[HEADER..], payload, has));
            let (have, error) = match answered {
                Ok(have) => (have, 0),
                Err(errno) => (0, -errno),
            };
            let reply = fuse_out_header { len: (REPLY + have) as u32, error, unique: header.unique };
            head[start - REPLY..].copy_from_slice(reply.as_bytes());
            // Whoever asked may be gone by now.
            let _ = (&self.device).write(&buffer[start - REPLY..start + have]);
        }
    }

    /// Answer a READ by way of a pipe. Says whether that was done: not at the end of a file, where there is less than was asked for.
    fn splice(
        &self,
        pipe: &mut (PipeReader, PipeWriter),
        unique: u64,
        read: &fuse_read_in,
    ) -> io::Result<bool> {
        let (end, start) = pipe;
        let all = REPLY + read.size as usize;
        let reply = fuse_out_header { len: all as u32, error: 0, unique };
        start.write_all(reply.as_bytes())?;
        let (mut have, mut place) = (REPLY, read.offset as libc::loff_t);
        while have < all {
            let null = std::ptr::null_mut();
            // SAFETY: the place lives across the call.
            let moved = unsafe {
                libc::splice(descriptor(read.fh), &raw mut place, start.as_raw_fd(), null, all - have, 0)
            };
            if moved <= 0 {
                end.read_exact(&mut vec![0; have])?;
                return Ok(false);
            }
            have += moved as usize;
        }
        let null = std::ptr::null_mut();
        // SAFETY: without offsets there are no pointers.
        let sent = unsafe { libc::splice(end.as_raw_fd(), null, self.device.as_raw_fd(), null, all, 0) };
        if sent == -1 {
            // Whoever asked is gone.
            end.read_exact(&mut vec![0; all])?;
        }
        Ok(true)
    }

    /// Answer a request in its payload's memory, of which the first `has` bytes are the request's.
    fn answer(
        &self,
        header: &fuse_in_header,
        fixed: &[u8],
        payload: &mut [u8],
        has: usize,
    ) -> Result<usize, i32> {
        let node = header.nodeid;
        match Opcode(header.opcode) {
            Opcode::READ => {
                let read: fuse_read_in = body(fixed)?;
                let room = payload.get_mut(..read.size as usize).ok_or(libc::EIO)?;
                // SAFETY: as much room as is said.
                let have = unsafe {
                    libc::pread(descriptor(read.fh), room.as_mut_ptr().cast(), room.len(), read.offset as i64)
                };
                usize::try_from(have).map_err(|_| last_errno())
            }
            Opcode::WRITE => {
                let write: fuse_write_in = body(fixed)?;
                let data = payload.get(..has.min(write.size as usize)).ok_or(libc::EIO)?;
                // SAFETY: as many bytes as are said.
                let have = unsafe {
                    libc::pwrite(descriptor(write.fh), data.as_ptr().cast(), data.len(), write.offset as i64)
                };
                let size = u32::try_from(have).map_err(|_| last_errno())?;
                let until = Instant::now() + Duration::from_micros(self.serving.delay.into());
                // Sleeping would take fifty microseconds more than was asked for.
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                put(payload, fuse_write_out { size, padding: 0 }.as_bytes())
            }
            Opcode::LOOKUP => {
                let name = payload.get(..has.saturating_sub(1)).ok_or(libc::EIO)?;
                let path = self.path(node)?.join(std::ffi::OsStr::from_bytes(name));
                let found = fs::symlink_metadata(&path).map_err(errno)?;
                let nodeid = self.node(path);
                let entry =
                    fuse_entry_out { nodeid, entry_valid: VALID, attr_valid: VALID, ..Default::default() };
                put(payload, entry.as_bytes())?;
                // Both structures end with the attributes.
                put(&mut payload[40..], &attr_out(nodeid, &found).as_bytes()[16..])?;
                Ok(size_of::<fuse_entry_out>())
            }
            // Times and sizes change below by themselves.
            Opcode::GETATTR | Opcode::SETATTR => {
                let found = fs::symlink_metadata(self.path(node)?).map_err(errno)?;
                put(payload, attr_out(node, &found).as_bytes())
            }
            Opcode::READLINK => {
                let target = fs::read_link(self.path(node)?).map_err(errno)?;
                put(payload, target.as_os_str().as_bytes())
            }
            Opcode::OPEN => {
                let open: fuse_open_in = body(fixed)?;
                put(payload, self.open(node, open.flags as i32).map_err(errno)?.as_bytes())
            }
            Opcode::RELEASE => {
                let release: fuse_release_in = body(fixed)?;
                self.close(release.fh);
                Ok(0)
            }
            Opcode::FSYNC => {
                let fsync: fuse_fsync_in = body(fixed)?;
                // SAFETY: plain system call on a number.
                if unsafe { libc::fsync(descriptor(fsync.fh)) } == 0 { Ok(0) } else { Err(last_errno()) }
            }
            Opcode::OPENDIR if self.serving.opens_folders => {
                put(payload, fuse_open_out::default().as_bytes())
            }
            Opcode::FLUSH | Opcode::RELEASEDIR | Opcode::DESTROY => Ok(0),
            Opcode::STATFS => put(payload, fuse_statfs_out::default().as_bytes()),
            _ => Err(libc::ENOSYS),
        }
    }

    fn path(&self, node: u64) -> Result<PathBuf, i32> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.paths.get(node as usize).cloned().ok_or(libc::ESTALE)
    }

    /// The node of a path.
    fn node(&self, path: PathBuf) -> u64 {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = nodes.ids.get(&path) {
            return *id;
        }
        let id = nodes.paths.len() as u64;
        nodes.paths.push(path.clone());
        nodes.ids.insert(path, id);
        id
    }

    fn open(&self, node: u64, flags: i32) -> io::Result<fuse_open_out> {
        let path = self.path(node).map_err(io::Error::from_raw_os_error)?;
        // The kernel reads what it writes back a part of.
        let access = match flags & libc::O_ACCMODE {
            libc::O_WRONLY if self.serving.writes_back => libc::O_RDWR,
            access => access,
        };
        let out = |fh, open_flags, backing_id| fuse_open_out { fh, open_flags, backing_id };
        match self.serving.opens {
            Opens::Cached => Ok(out(open(&path, access)? as u64, 0, 0)),
            Opens::Direct => Ok(out(open(&path, access)? as u64, DIRECT_IO, 0)),
            Opens::PassedEach => {
                let fd = open(&path, access)?;
                let id = self.register(fd)?;
                Ok(out(fd as u64 | (id as u64) << 32, PASSTHROUGH, id))
            }
            Opens::PassedKept => {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                let (fd, id) = match kept.get(&node) {
                    Some(known) => *known,
                    None => {
                        let fd = open(&path, libc::O_RDWR)?;
                        let new = (fd, self.register(fd)?);
                        kept.insert(node, new);
                        new
                    }
                };
                Ok(out(fd as u64 | SHARED, PASSTHROUGH, id))
            }
        }
    }

    fn register(&self, fd: i32) -> io::Result<i32> {
        backing_open(self.device.as_raw_fd(), fuse_backing_map { fd, flags: 0, padding: 0 })
    }

    fn close(&self, fh: u64) {
        if fh & SHARED != 0 {
            return;
        }
        let id = (fh >> 32) as u32;
        if id != 0 {
            // One that is gone already is none to give back.
            let _ = backing_close(self.device.as_raw_fd(), id);
        }
        // SAFETY: nobody uses the descriptor after the RELEASE of its handle.
        unsafe { libc::close(descriptor(fh)) };
    }
}

/// The lower file behind a handle.
fn descriptor(fh: u64) -> i32 {
    (fh & 0x7fff_ffff) as i32
}

/// Bytes of a request's fixed part.
fn fixed(opcode: Opcode) -> usize {
    match opcode {
        Opcode::READ => size_of::<fuse_read_in>(),
        Opcode::WRITE => size_of::<fuse_write_in>(),
        // The table of fields has them all, and looking there takes longer.
        Opcode::LOOKUP | Opcode::READLINK => 0,
        _ => opcode.request_fields().iter().map(|field| field.offset + field.size).max().unwrap_or(0),
    }
}

fn body<T: FromBytes>(fixed: &[u8]) -> Result<T, i32> {
    T::read_from_prefix(fixed).map(|(body, _)| body).map_err(|_| libc::EIO)
}

fn put(payload: &mut [u8], bytes: &[u8]) -> Result<usize, i32> {
    payload.get_mut(..bytes.len()).ok_or(libc::EIO)?.copy_from_slice(bytes);
    Ok(bytes.len())
}

fn open(path: &Path, access: i32) -> io::Result<i32> {
    let mut options = fs::OpenOptions::new();
    options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY);
    Ok(options.custom_flags(libc::O_NOFOLLOW).open(path)?.into_raw_fd())
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn last_errno() -> i32 {
    errno(io::Error::last_os_error())
}

fn pipe() -> Result<(PipeReader, PipeWriter), Hindrance> {
    let (end, start) = io::pipe()?;
    match fcntl(&start, FcntlArg::F_SETPIPE_SZ(PIPE)) {
        Ok(_) => Ok((end, start)),
        Err(Errno::EPERM) => Err(Hindrance::Lacks(format!(
            "a pipe of {PIPE} bytes takes CAP_SYS_RESOURCE, or so much in /proc/sys/fs/pipe-max-size"
        ))),
        Err(errno) => Err(errno.into()),
    }
}
