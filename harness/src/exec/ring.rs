//! FUSE over io_uring: entries lie in the kernel until a request fills them, and go back with its answer.
//!
//! One ring serves the queues of all processors. It knows how a message is laid out in an entry, and not what it means.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::ptr::NonNull;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, opcode, types};
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::statfs::statfs;
use zerocopy::{FromBytes, IntoBytes};

use crate::abi::{
    fuse_in_header, fuse_out_header, fuse_uring_cmd_req, fuse_uring_ent_in_out, fuse_uring_req_header,
};

/// `enum fuse_uring_cmd` (`include/uapi/linux/fuse.h`).
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// Entries of each processor's queue: so many requests that came there may be held at once.
const DEPTH: usize = 8;
/// Where an entry's payload begins, behind its headers.
const PAYLOAD: usize = 4096;
/// Where the length stands in a submission (`struct io_uring_sqe`); the crate has no way to set it for a command.
const SQE_LEN: usize = 24;

/// The entries of one connection.
pub(crate) struct Ring {
    ring: IoUring<Entry128>,
    device: RawFd,
    /// Bytes that a payload may have.
    room: usize,
    entries: Vec<Entry>,
    /// Entries that hold a request which nobody has taken yet.
    arrived: VecDeque<usize>,
    /// Which entry holds the request of that unique.
    taken: BTreeMap<u64, usize>,
    /// What the kernel refused an entry with.
    refused: BTreeMap<usize, i32>,
}

struct Entry {
    queue: u16,
    /// Headers, then payload. Never unmapped: until the process ends, the kernel may write there.
    memory: NonNull<u8>,
    /// The same for the kernel, which looks at it when the entry is registered.
    parts: Box<[libc::iovec; 2]>,
    /// What the kernel calls the request in it.
    commit_id: u64,
}

impl Ring {
    /// Register entries for every processor there may be. A payload has this much room.
    pub(crate) fn new(device: &impl AsRawFd, room: usize) -> io::Result<Ring> {
        let queues = possible_processors()?;
        let size = (queues * DEPTH).next_power_of_two() as u32;
        let mut ring = Ring {
            ring: IoUring::builder().build(size)?,
            device: device.as_raw_fd(),
            room,
            entries: Vec::new(),
            arrived: VecDeque::new(),
            taken: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        for index in 0..queues * DEPTH {
            ring.entries.push(Entry::new((index % queues) as u16, room)?);
            ring.submit(index, REGISTER)?;
        }
        Ok(ring)
    }

    /// What to wait on.
    pub(crate) fn waitable(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring is open as long as the borrow lasts.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// The next request, laid out as read(2) would have given it, without waiting.
    pub(crate) fn take(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.reap();
        let index = self.arrived.pop_front()?;
        let entry = &mut self.entries[index];
        // SAFETY: the memory is larger, aligned to a page, and the kernel's part is done for now.
        let header = unsafe { entry.memory.cast::<fuse_uring_req_header>().read_volatile() };
        let (request, _) = fuse_in_header::read_from_prefix(&header.in_out).ok()?;
        let payload = (header.ring_ent_in_out.payload_sz as usize).min(self.room);
        let start = size_of::<fuse_in_header>();
        let fixed = (request.len as usize).checked_sub(start + payload)?;
        buffer[..start].copy_from_slice(&header.in_out[..start]);
        buffer[start..start + fixed].copy_from_slice(header.op_in.get(..fixed)?);
        let rest = buffer.get_mut(start + fixed..start + fixed + payload)?;
        // SAFETY: the payload is within the memory, which nobody writes now.
        unsafe { entry.memory.add(PAYLOAD).copy_to_nonoverlapping(NonNull::from(rest).cast(), payload) };
        entry.commit_id = header.ring_ent_in_out.commit_id;
        self.taken.insert(request.unique, index);
        Some(start + fixed + payload)
    }

    /// Give the entry that holds the request of that unique back, with this answer; `None` if there is no such entry.
    pub(crate) fn answer(&mut self, unique: u64, message: &[u8]) -> Option<io::Result<()>> {
        let index = self.taken.remove(&unique)?;
        let entry = &mut self.entries[index];
        let (out, payload) = message.split_at(message.len().min(size_of::<fuse_out_header>()));
        let told = fuse_uring_ent_in_out { payload_sz: payload.len() as u32, ..Default::default() };
        let mut header = fuse_uring_req_header { in_out: [0; 128], op_in: [0; 128], ring_ent_in_out: told };
        header.in_out[..out.len()].copy_from_slice(out);
        // SAFETY: both fit into the memory, and the kernel leaves it alone until the entry is given back.
        unsafe {
            entry.memory.cast().write_volatile(header);
            let from = NonNull::from(payload).cast();
            entry.memory.add(PAYLOAD).copy_from_nonoverlapping(from, payload.len().min(self.room));
        }
        Some(self.submit(index, COMMIT_AND_FETCH))
    }

    /// Hand an entry to the kernel.
    fn submit(&mut self, index: usize, command: u32) -> io::Result<()> {
        let entry = &self.entries[index];
        let request =
            fuse_uring_cmd_req { commit_id: entry.commit_id, qid: entry.queue, ..Default::default() };
        let mut bytes = [0; 80];
        bytes[..size_of::<fuse_uring_cmd_req>()].copy_from_slice(request.as_bytes());
        let parts = entry.parts.as_ptr() as u64;
        let mut submission = opcode::UringCmd80::new(types::Fd(self.device), command)
            .cmd(bytes)
            .addr(Some(parts))
            .build()
            .user_data(index as u64);
        const { assert!(size_of::<Entry128>() == 128) };
        // SAFETY: a submission is 128 bytes laid out as the kernel says; its length is a u32 there.
        unsafe { (&raw mut submission).cast::<u8>().add(SQE_LEN).cast::<u32>().write(2) };
        // SAFETY: what it points to lives as long as the process.
        unsafe { self.ring.submission().push(&submission) }.map_err(io::Error::other)?;
        self.ring.submit()?;
        self.reap();
        self.refused.remove(&index).map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// See which entries came back.
    fn reap(&mut self) {
        for done in self.ring.completion() {
            let index = done.user_data() as usize;
            if done.result() < 0 {
                self.refused.insert(index, -done.result());
            } else {
                self.arrived.push_back(index);
            }
        }
    }
}

impl Entry {
    fn new(queue: u16, room: usize) -> io::Result<Entry> {
        let size = NonZeroUsize::new(PAYLOAD + room).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // Not reserved: most of it is never touched.
        let kind = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping, of which nobody knows.
        let memory = unsafe { mmap_anonymous(None, size, access, kind) }?.cast::<u8>();
        let part = |start: usize, len| libc::iovec {
            // SAFETY: within the mapping.
            iov_base: unsafe { memory.add(start) }.as_ptr().cast(),
            iov_len: len,
        };
        let parts = Box::new([part(0, size_of::<fuse_uring_req_header>()), part(PAYLOAD, room)]);
        Ok(Entry { queue, memory, parts, commit_id: 0 })
    }
}

/// Wait until the connection mounted at that place has lost its ring, which it does some time after the daemon closed it
/// or died. A request waits as long as anybody might answer it.
pub(crate) fn outlive(mount: &Path) {
    // Whether it fails, and how, is not ours to judge. Whoever had the ring takes part in its end, which a process in
    // the middle of a request cannot: hence the thread.
    std::thread::scope(|scope| _ = scope.spawn(|| _ = statfs(mount)));
}

/// How many processors the kernel counts with, there or not: each has a queue.
fn possible_processors() -> io::Result<usize> {
    let ranges = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = ranges.trim().rsplit(['-', ',']).next().and_then(|number| number.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
