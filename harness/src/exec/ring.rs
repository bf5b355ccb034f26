//! FUSE over io_uring: entries lie in the kernel until a request fills them, and go back with its answer.
//!
//! One ring serves the queues of all processors. It knows how a message is laid out in an entry, and not what it means.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, opcode, types};
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::statfs;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, fork};
use zerocopy::{FromBytes, IntoBytes};

use super::actor::{ended, state, threads};
use super::limits;
use super::pipe::ready;
use crate::abi::{
    fuse_in_header, fuse_out_header, fuse_uring_cmd_req, fuse_uring_ent_in_out, fuse_uring_req_header,
};
use crate::program::Observed;

/// `enum fuse_uring_cmd` (`include/uapi/linux/fuse.h`).
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
const ADD_QUEUE: u32 = 3;
const ADD_BUFPOOL: u32 = 4;
/// What a completion is about that is about no entry.
const COMMAND: u64 = u64::MAX;
/// Entries of each processor's queue: so many requests that came there may be held at once.
const DEPTH: usize = 8;
/// Where an entry's payload begins, behind its headers.
const PAYLOAD: usize = 4096;
/// As much as a payload may need whatever was agreed on.
pub(crate) const ROOM: usize = 1 << 20;
/// Where the length stands in a submission (`struct io_uring_sqe`); the crate has no way to set it for a command.
const SQE_LEN: usize = 24;

/// What answers a request where it lies; see [`Ring::turn`].
pub(crate) type Answering<'a> =
    dyn FnMut(&fuse_in_header, &[u8], &mut [u8], usize) -> Result<usize, i32> + 'a;

/// The entries of one connection.
pub(crate) struct Ring {
    ring: IoUring<Entry128>,
    device: RawFd,
    entries: Vec<Entry>,
    /// Entries that hold a request which nobody has taken yet.
    arrived: VecDeque<usize>,
    /// Which entry holds the request of that unique.
    taken: BTreeMap<u64, usize>,
    /// What the kernel refused an entry with, or a command without one.
    refused: BTreeMap<u64, i32>,
}

/// One of the two parts of an entry's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Headers,
    Payload,
}

/// What an entry is registered as; it has memory for what is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) queue: u16,
    /// Bytes that the headers are said to have.
    pub(crate) headers: usize,
    /// Bytes that the payload is said to have; with none it is said to be nowhere.
    pub(crate) payload: usize,
    /// The index of a registered buffer.
    pub(crate) buffer: Option<u16>,
}

impl Shape {
    /// As it must be, with room for payloads of this size.
    pub(crate) fn right(queue: u16, room: usize) -> Shape {
        Shape { queue, headers: size_of::<fuse_uring_req_header>(), payload: room, buffer: None }
    }
}

struct Entry {
    queue: u16,
    buffer: Option<u16>,
    /// Bytes that a payload may have.
    room: usize,
    /// Headers, then payload. Never unmapped: until the process ends, the kernel may write there.
    memory: NonNull<u8>,
    /// The same for the kernel, which looks at it when the entry is registered.
    parts: Box<[libc::iovec; 2]>,
    /// What the kernel calls the request in it.
    commit_id: u64,
    /// What cannot be accessed while the next answer is given.
    hidden: Option<Part>,
}

impl Ring {
    /// A ring without entries.
    pub(crate) fn new(device: &impl AsRawFd) -> io::Result<Ring> {
        let size = (possible_processors()? * DEPTH).next_power_of_two() as u32;
        Ok(Ring {
            ring: IoUring::builder().build(size)?,
            device: device.as_raw_fd(),
            entries: Vec::new(),
            arrived: VecDeque::new(),
            taken: BTreeMap::new(),
            refused: BTreeMap::new(),
        })
    }

    /// Register all entries that a daemon needs, whose payloads have this much room.
    pub(crate) fn fill(&mut self, room: usize) -> io::Result<()> {
        let queues = possible_processors()?;
        (0..queues * DEPTH).try_for_each(|index| self.register(Shape::right((index % queues) as u16, room)))
    }

    /// Register one entry more.
    pub(crate) fn register(&mut self, shape: Shape) -> io::Result<()> {
        self.entries.push(Entry::new(shape)?);
        self.submit_entry(self.entries.len() - 1, REGISTER)
    }

    /// Try to register an entry by a submission of 64 bytes, which has no room for the command.
    pub(crate) fn register_shortly(&self) -> io::Result<()> {
        let mut ring = IoUring::new(1)?;
        let submission = opcode::UringCmd16::new(types::Fd(self.device), REGISTER).build();
        // SAFETY: it points to nothing.
        unsafe { ring.submission().push(&submission) }.map_err(io::Error::other)?;
        ring.submit()?;
        match ring.completion().next().map(|done| done.result()) {
            Some(result @ ..0) => Err(io::Error::from_raw_os_error(-result)),
            _ => Ok(()),
        }
    }

    /// Commit what that id stands for. The entry is lost to this program if that succeeds.
    pub(crate) fn commit(&mut self, queue: u16, commit_id: u64) -> io::Result<()> {
        let request = fuse_uring_cmd_req { commit_id, qid: queue, ..Default::default() };
        self.submit(COMMAND, COMMIT_AND_FETCH, &request, None, None)
    }

    /// Add a queue without entries.
    pub(crate) fn add_queue(&mut self, queue: u16, flags: u64) -> io::Result<()> {
        let request = fuse_uring_cmd_req { flags, qid: queue, ..Default::default() };
        self.submit(COMMAND, ADD_QUEUE, &request, None, None)
    }

    /// Give a queue a pool of buffers for its payloads.
    pub(crate) fn add_pool(
        &mut self,
        queue: u16,
        flags: u64,
        len: usize,
        reserved: u32,
        buffer: Option<u16>,
    ) -> io::Result<()> {
        let uaddr = memory(len.max(1))?.as_ptr() as u64;
        let request =
            fuse_uring_cmd_req { flags, qid: queue, uaddr, len: len as u32, reserved, ..Default::default() };
        self.submit(COMMAND, ADD_BUFPOOL, &request, None, buffer)
    }

    /// While the request of that unique is answered, this part of its entry's memory is as good as unmapped.
    pub(crate) fn hide(&mut self, unique: u64, part: Part) -> bool {
        let entry = self.taken.get(&unique).and_then(|index| self.entries.get_mut(*index));
        entry.map(|entry| entry.hidden = Some(part)).is_some()
    }

    /// What to wait on.
    pub(crate) fn waitable(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring is open as long as the borrow lasts.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// The next request, laid out as read(2) would have given it, without waiting; `None` if there is none.
    ///
    /// # Errors
    /// There is no room for it; it stays the next one.
    pub(crate) fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.reap();
        while let Some(index) = self.arrived.front().copied() {
            let request = self.entries[index].read(buffer)?;
            self.arrived.pop_front();
            if let Some((unique, len)) = request {
                self.taken.insert(unique, index);
                return Ok(Some(len));
            }
            // After a commit that the kernel took for another entry's, it names the one and fills the other: what lies
            // here cannot be answered, and must not stand in the way of what can.
        }
        Ok(None)
    }

    /// Wait until entries are filled, have what lies in each answered where it lies, and give them back with the next wait: the way of
    /// a daemon that is to be fast. `answer` takes a request's header, its fixed part, and its payload's memory with
    /// how much of that is the request's, and gives how much of it is the reply's, or an errno.
    ///
    /// # Errors
    /// An entry came back without a request: the connection is gone.
    pub(crate) fn turn(&mut self, answer: &mut Answering<'_>) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => self.reap(),
        }
        if let Some(errno) = self.refused.values().next() {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        while let Some(index) = self.arrived.pop_front() {
            let entry = &mut self.entries[index];
            entry.answer(answer)?;
            let request =
                fuse_uring_cmd_req { commit_id: entry.commit_id, qid: entry.queue, ..Default::default() };
            let (parts, buffer) = (entry.parts.as_ptr() as u64, entry.buffer);
            self.push(index as u64, COMMIT_AND_FETCH, &request, Some(parts), buffer)?;
        }
        Ok(())
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
            entry.memory.add(PAYLOAD).copy_from_nonoverlapping(from, payload.len().min(entry.room));
        }
        let hidden = entry.hidden.take();
        let protect =
            |ring: &Ring, access| hidden.map_or(Ok(()), |part| ring.entries[index].protect(part, access));
        Some(protect(self, ProtFlags::PROT_NONE).and_then(|()| {
            let given = self.submit_entry(index, COMMIT_AND_FETCH);
            protect(self, ACCESS).and(given)
        }))
    }

    /// Hand an entry to the kernel.
    fn submit_entry(&mut self, index: usize, command: u32) -> io::Result<()> {
        let entry = &self.entries[index];
        let request =
            fuse_uring_cmd_req { commit_id: entry.commit_id, qid: entry.queue, ..Default::default() };
        let (parts, buffer) = (entry.parts.as_ptr() as u64, entry.buffer);
        self.submit(index as u64, command, &request, Some(parts), buffer)
    }

    /// Hand a command to the kernel, and say what it was refused with.
    fn submit(
        &mut self,
        about: u64,
        command: u32,
        request: &fuse_uring_cmd_req,
        parts: Option<u64>,
        buffer: Option<u16>,
    ) -> io::Result<()> {
        self.push(about, command, request, parts, buffer)?;
        self.ring.submit()?;
        // What the kernel says EAGAIN to, io_uring has a worker of its own try again: the answer comes later.
        let until = Instant::now() + limits::SETTLE;
        loop {
            // Asked before: what a worker has done when it rests is seen then.
            let tries = is_tried_again();
            self.reap();
            if self.refused.contains_key(&about) || !tries || Instant::now() > until {
                break;
            }
            ready(&self.waitable(), Duration::from_millis(5));
        }
        self.refused.remove(&about).map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// Lay a command where the kernel takes it from when it is called next.
    fn push(
        &mut self,
        about: u64,
        command: u32,
        request: &fuse_uring_cmd_req,
        parts: Option<u64>,
        buffer: Option<u16>,
    ) -> io::Result<()> {
        let mut bytes = [0; 80];
        bytes[..size_of::<fuse_uring_cmd_req>()].copy_from_slice(request.as_bytes());
        let mut submission = opcode::UringCmd80::new(types::Fd(self.device), command)
            .cmd(bytes)
            .addr(parts)
            .buf_index(buffer)
            .build()
            .user_data(about);
        const { assert!(size_of::<Entry128>() == 128) };
        // SAFETY: a submission is 128 bytes laid out as the kernel says; its length is a u32 there.
        unsafe { (&raw mut submission).cast::<u8>().add(SQE_LEN).cast::<u32>().write(2) };
        // SAFETY: what it points to lives as long as the process.
        unsafe { self.ring.submission().push(&submission) }.map_err(io::Error::other)
    }

    /// See which entries came back.
    fn reap(&mut self) {
        for done in self.ring.completion() {
            if done.result() < 0 {
                self.refused.insert(done.user_data(), -done.result());
            } else if done.user_data() != COMMAND {
                self.arrived.push_back(done.user_data() as usize);
            }
        }
    }
}

impl Entry {
    fn new(shape: Shape) -> io::Result<Entry> {
        let Shape { queue, headers, payload: room, buffer } = shape;
        let memory = memory(PAYLOAD + room)?;
        // SAFETY: within the mapping, or just behind it.
        let payload = if room == 0 { std::ptr::null_mut() } else { unsafe { memory.add(PAYLOAD) }.as_ptr() };
        let part = |at: *mut u8, len| libc::iovec { iov_base: at.cast(), iov_len: len };
        let parts = Box::new([part(memory.as_ptr(), headers), part(payload, room)]);
        Ok(Entry { queue, buffer, room, memory, parts, commit_id: 0, hidden: None })
    }

    /// Lay out the request in it, which the kernel has laid there and left alone since. Gives its unique and its length;
    /// `None` if no request lies there.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<(u64, usize)>> {
        // SAFETY: the memory is larger, aligned to a page, and the kernel's part is done for now.
        let header = unsafe { self.memory.cast::<fuse_uring_req_header>().read_volatile() };
        let payload = (header.ring_ent_in_out.payload_sz as usize).min(self.room);
        let Ok((request, _)) = fuse_in_header::read_from_prefix(&header.in_out) else { return Ok(None) };
        let len = request.len as usize;
        let fixed = len.checked_sub(size_of::<fuse_in_header>() + payload);
        let Some(fixed) = fixed.and_then(|len| header.op_in.get(..len)) else { return Ok(None) };
        let room = buffer.len();
        let too_long =
            || io::Error::other(format!("a request in the ring has {len} bytes, the buffer {room}"));
        let whole = buffer.get_mut(..len).ok_or_else(too_long)?;
        let (own, rest) = whole.split_at_mut(size_of::<fuse_in_header>());
        let (body, tail) = rest.split_at_mut(fixed.len());
        own.copy_from_slice(request.as_bytes());
        body.copy_from_slice(fixed);
        // SAFETY: the payload is within the memory, which nobody writes now, and as long as the tail.
        unsafe { self.memory.add(PAYLOAD).copy_to_nonoverlapping(NonNull::from(tail).cast(), payload) };
        self.commit_id = header.ring_ent_in_out.commit_id;
        Ok(Some((request.unique, len)))
    }

    /// Answer what the kernel has laid in it and left alone since, where it lies.
    fn answer(&mut self, answer: &mut Answering<'_>) -> io::Result<()> {
        // SAFETY: the memory is larger, aligned to a page, and the kernel's part is done for now.
        let mut header = unsafe { self.memory.cast::<fuse_uring_req_header>().read_volatile() };
        let has = (header.ring_ent_in_out.payload_sz as usize).min(self.room);
        let (request, _) =
            fuse_in_header::read_from_prefix(&header.in_out).map_err(|_| io::ErrorKind::InvalidData)?;
        // SAFETY: within the mapping, and nobody else's until the entry is given back.
        let payload = unsafe { std::slice::from_raw_parts_mut(self.memory.add(PAYLOAD).as_ptr(), self.room) };
        let (len, error) = match answer(&request, &header.op_in, payload, has) {
            Ok(len) => (len, 0),
            Err(errno) => (0, -errno),
        };
        let all = (size_of::<fuse_out_header>() + len) as u32;
        let out = fuse_out_header { len: all, error, unique: request.unique };
        header.in_out[..size_of::<fuse_out_header>()].copy_from_slice(out.as_bytes());
        self.commit_id = header.ring_ent_in_out.commit_id;
        header.ring_ent_in_out = fuse_uring_ent_in_out { payload_sz: len as u32, ..Default::default() };
        // SAFETY: as above.
        unsafe { self.memory.cast().write_volatile(header) };
        Ok(())
    }

    fn protect(&self, part: Part, access: ProtFlags) -> io::Result<()> {
        let (start, len) = match part {
            Part::Headers => (0, PAYLOAD),
            Part::Payload => (PAYLOAD, self.room),
        };
        // SAFETY: within the mapping, which this program leaves alone meanwhile.
        Ok(unsafe { mprotect(self.memory.add(start).cast(), len, access) }?)
    }
}

/// What an entry with these bytes is taken for; `room` is what there is for a request.
pub(crate) fn request_in(bytes: &[u8], room: usize) -> Option<Vec<u8>> {
    thread_local! { static ENTRY: RefCell<Entry> = RefCell::new(Entry::new(Shape::right(0, ROOM)).expect("memory")); }
    ENTRY.with_borrow_mut(|entry| {
        let bytes = &bytes[..bytes.len().min(PAYLOAD + ROOM)];
        // SAFETY: the memory is as long, and nobody else has it.
        unsafe { entry.memory.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        let mut buffer = vec![0; room];
        let (_, len) = entry.read(&mut buffer).ok()??;
        buffer.truncate(len);
        Some(buffer)
    })
}

const ACCESS: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// Memory that stays for as long as the process.
fn memory(size: usize) -> io::Result<NonNull<u8>> {
    let size = NonZeroUsize::new(size).ok_or(io::ErrorKind::InvalidInput)?;
    // Not reserved: most of it is never touched.
    let kind = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping, of which nobody knows.
    Ok(unsafe { mmap_anonymous(None, size, ACCESS, kind) }?.cast())
}

/// Wait until the connection mounted at that place has lost its ring, which it does some time after the daemon closed it
/// or died. A request waits as long as anybody might answer it: for ever, if somebody else has the device open and
/// reads it no more; that is what is said then.
pub(crate) fn outlive(mount: &Path) -> Observed {
    // Whether it fails, and how, is not ours to judge.
    match within(limits::RING, || _ = statfs(mount)) {
        Ok(true) => Observed::Int(0),
        Ok(false) => Observed::Impossible(
            "the connection outlives its daemon: its ring does not come down, or somebody else has the device open"
                .into(),
        ),
        Err(errno) => Observed::Impossible(format!("no process can be made to see the ring's end ({errno})")),
    }
}

/// Do that work, which may not come back, in a process of its own, and end it after that time. Says whether it came back.
///
/// Whoever had the ring takes part in its end, which a process in the middle of a request cannot; and unlike a thread's, a
/// request of a process that is killed goes away with it, if nobody has read it.
fn within(limit: Duration, work: impl FnOnce()) -> nix::Result<bool> {
    // SAFETY: the child makes system calls only; it takes no lock and no memory that another thread could hold.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            let done = ended(child, limit);
            if !done {
                let _ = kill(child, Signal::SIGKILL);
                ended(child, Duration::from_secs(1));
            }
            let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
            Ok(done)
        }
        Ok(ForkResult::Child) => {
            // SAFETY: plain system call on numbers: it goes with whoever waits for it.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            work();
            // SAFETY: ends the process without running what its parent had registered for its own end.
            unsafe { libc::_exit(0) }
        }
        Err(errno) => Err(errno),
    }
}

/// Is a worker of io_uring busy in this process? One comes with the first submission that needs it, and rests before it goes.
/// A daemon has one thread, so every other one is a worker, also before it runs and gets its name. A worker says that it
/// sleeps before it looks for work a last time (`io_wq_worker()`): only once it is off the processor, and so waits
/// somewhere, it rests.
fn is_tried_again() -> bool {
    let own = std::process::id() as i32;
    let rests = |thread: i32| {
        let place = std::fs::read_to_string(format!("/proc/self/task/{thread}/wchan"));
        // "0" is said of one that is on a processor. One that has gone is not listed the next time.
        state(&format!("self/task/{thread}")) == Some('S') && place.is_ok_and(|place| place != "0")
    };
    threads("self").any(|thread| thread != own && !rests(thread))
}

/// How many processors the kernel counts with, there or not: each has a queue.
pub(crate) fn possible_processors() -> io::Result<usize> {
    let ranges = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = ranges.trim().rsplit(['-', ',']).next().and_then(|number| number.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry in which the kernel has laid a request of these lengths.
    fn entry(len: u32, payload: &[u8]) -> Entry {
        let entry = Entry::new(Shape::right(0, 4096)).expect("memory");
        let request = fuse_in_header { len, opcode: 1, unique: 6, ..fuse_in_header::default() };
        let told = fuse_uring_ent_in_out {
            payload_sz: payload.len() as u32,
            commit_id: 9,
            ..fuse_uring_ent_in_out::default()
        };
        let mut header = fuse_uring_req_header { in_out: [0; 128], op_in: [7; 128], ring_ent_in_out: told };
        header.in_out[..40].copy_from_slice(request.as_bytes());
        // SAFETY: both fit into the memory, which is the test's own.
        unsafe {
            entry.memory.cast().write(header);
            entry.memory.add(PAYLOAD).copy_from_nonoverlapping(NonNull::from(payload).cast(), payload.len());
        }
        entry
    }

    #[test]
    fn a_request_is_laid_out_as_it_would_have_been_read() {
        let (mut entry, mut buffer) = (entry(50, b"a\0"), [1; 51]);
        assert_eq!(entry.read(&mut buffer).expect("there is room"), Some((6, 50)));
        assert_eq!(entry.commit_id, 9);
        assert_eq!(buffer[..4], [50, 0, 0, 0]);
        assert_eq!(buffer[40..], *b"\x07\x07\x07\x07\x07\x07\x07\x07a\0\x01");
    }

    #[test]
    fn a_buffer_that_is_too_small_takes_nothing() {
        let mut entry = entry(50, b"a\0");
        for len in [0, 1, 39, 40, 41, 48, 49] {
            let refused = entry.read(&mut vec![0; len]).expect_err("there is no room").to_string();
            assert_eq!(refused, format!("a request in the ring has 50 bytes, the buffer {len}"));
        }
        assert_eq!(entry.read(&mut [0; 50]).expect("there is room"), Some((6, 50)));
    }

    #[test]
    fn what_does_not_come_back_is_waited_for_no_longer() {
        assert_eq!(within(Duration::from_secs(60), || {}), Ok(true));
        let start = Instant::now();
        // SAFETY: plain system call, in a process of its own.
        assert_eq!(within(Duration::from_millis(20), || _ = unsafe { libc::pause() }), Ok(false));
        assert!(start.elapsed() < limits::CASE);
    }

    #[test]
    fn lengths_that_are_at_odds_are_no_request() {
        // Shorter than its header, than header and payload, and longer than an entry has room for.
        for (len, payload) in
            [(0, b"".as_slice()), (39, b""), (41, b"a\0"), (40 + 129, b""), (u32::MAX, b"a")]
        {
            assert_eq!(entry(len, payload).read(&mut [0; 256]).expect("there is room"), None, "{len}");
        }
    }
}
