//! Linux AIO and io_uring: submit one operation, and wait for it at once or later.

use io_uring::{IoUring, opcode, types};
use nix::libc;

use super::super::fault::exposed;
use super::process::interrupts;
use super::{Aligned, Holdings, Outcome, last_errno};
use crate::program::{Call, Data, Observed};

/// `struct iocb` of `linux/aio_abi.h`.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    reqprio: i16,
    fildes: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event` of `linux/aio_abi.h`.
#[repr(C)]
#[derive(Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// How long one wait for a completion lasts, in nanoseconds.
const LOOK_AGAIN: u32 = 500_000_000;
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
const IOCB_CMD_POLL: u16 = 5;

impl Holdings {
    pub(super) fn asynchronous_call(&mut self, call: &Call) -> Option<Outcome> {
        let (reads, ring) = match call.name.as_str() {
            "aio_submit_read" | "aio_submit_poll" => return Some(self.submit_for_later(call)),
            "aio_reap" => return Some(self.reap(call)),
            "aio_read" => (true, false),
            "aio_write" => (false, false),
            "uring_read" => (true, true),
            "uring_write" => (false, true),
            _ => return None,
        };
        // A ring is taken down behind the task's back: only with the task's end is it surely gone.
        self.spoiled |= ring;
        Some(self.submit_and_wait(call, reads, ring))
    }

    /// Gives the number of the request's context, which stands for it.
    fn submit_for_later(&mut self, call: &Call) -> Outcome {
        // Nobody has to reap it: only with the task's end is it surely gone.
        self.spoiled = true;
        let mut block = Iocb { fildes: self.fd(call, "fd")? as u32, ..Iocb::default() };
        if call.name == "aio_submit_poll" {
            block.opcode = IOCB_CMD_POLL;
            block.buf = self.number(call, "events", 0)? as u64;
        } else {
            let len = self.len(call)?;
            block.opcode = IOCB_CMD_PREAD;
            block.nbytes = len as u64;
            block.offset = self.number(call, "offset", 0)?;
            // Written by the kernel until the request ends, which may be at the end of the process.
            block.buf = Box::leak(Box::new(Aligned::new(len))).pointer() as u64;
        }
        Ok(submit(&block).map_or_else(Observed::Errno, |context| Observed::Int(context as i64)))
    }

    fn reap(&self, call: &Call) -> Outcome {
        let context = self.number(call, "aio", 0)? as u64;
        Ok(reap(context).map_or_else(Observed::Errno, Observed::Int))
    }

    fn submit_and_wait(&self, call: &Call, reads: bool, ring: bool) -> Outcome {
        let (fd, offset) = (self.fd(call, "fd")?, self.number(call, "offset", 0)?);
        let len = if reads { self.len(call)? } else { call.data("data").0.len() };
        let mut buffer = if reads { Aligned::new(len) } else { Aligned::holding(&call.data("data").0) };
        let done = if ring {
            let how = Ring { polls: call.arg("ring").is_some(), registered: call.arg("memory").is_some() };
            through_ring(fd, buffer.pointer(), len, offset, reads, &how)
        } else {
            through_aio(fd, buffer.pointer(), len, offset, reads)
        };
        Ok(match done {
            Err(errno) => Observed::Errno(errno),
            Ok(number) if reads => {
                let mut bytes = buffer.into_vec();
                bytes.truncate(number as usize);
                Observed::Data(Data(bytes))
            }
            Ok(number) => Observed::Int(number),
        })
    }
}

/// What is unusual about a ring.
struct Ring {
    /// IORING_SETUP_IOPOLL.
    polls: bool,
    /// The memory is a registered buffer of the ring.
    registered: bool,
}

fn through_ring(
    fd: i32,
    pointer: *mut u8,
    len: usize,
    offset: i64,
    reads: bool,
    how: &Ring,
) -> Result<i64, i32> {
    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let mut builder = IoUring::builder();
    if how.polls {
        builder.setup_iopoll();
    }
    let mut ring: IoUring = builder.build(2).map_err(errno)?;
    if how.registered {
        let buffer = libc::iovec { iov_base: pointer.cast(), iov_len: len };
        // SAFETY: the buffer outlives the ring, which ends with this call.
        unsafe { ring.submitter().register_buffers(&[buffer]) }.map_err(errno)?;
    }
    let entry = if how.registered && reads {
        opcode::ReadFixed::new(types::Fd(fd), pointer, len as u32, 0).offset(offset as u64).build()
    } else if how.registered {
        opcode::WriteFixed::new(types::Fd(fd), pointer, len as u32, 0).offset(offset as u64).build()
    } else if reads {
        opcode::Read::new(types::Fd(fd), pointer, len as u32).offset(offset as u64).build()
    } else {
        opcode::Write::new(types::Fd(fd), pointer, len as u32).offset(offset as u64).build()
    };
    // SAFETY: the buffer outlives the wait below.
    unsafe { ring.submission().push(&entry) }.map_err(|_| libc::EBUSY)?;
    exposed(|| ring.submit()).map_err(errno)?;
    // Looked for again and again: whether a waiter is woken is not what cases are about.
    let look_again = types::Timespec::new().nsec(LOOK_AGAIN);
    loop {
        if let Some(entry) = ring.completion().next() {
            let done = entry.result();
            return if done < 0 { Err(-done) } else { Ok(done.into()) };
        }
        let wait = types::SubmitArgs::new().timespec(&look_again);
        match ring.submitter().submit_with_args(1, &wait) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {
                return Err(errno(error));
            }
            _ => {}
        }
    }
}

fn through_aio(fd: i32, pointer: *mut u8, len: usize, offset: i64, reads: bool) -> Result<i64, i32> {
    let block = Iocb {
        opcode: if reads { IOCB_CMD_PREAD } else { IOCB_CMD_PWRITE },
        fildes: fd as u32,
        buf: pointer as u64,
        nbytes: len as u64,
        offset,
        ..Iocb::default()
    };
    let context = submit(&block)?;
    let done = reap(context);
    // SAFETY: made by `submit`, and used no more.
    unsafe { libc::syscall(libc::SYS_io_destroy, context) };
    done
}

/// Submit one request to a context of its own, which is given. What the request points to has to outlive it.
fn submit(block: &Iocb) -> Result<u64, i32> {
    let mut context: u64 = 0;
    // SAFETY: the context starts as zero, as io_setup(2) asks.
    if unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) } == -1 {
        return Err(last_errno());
    }
    let blocks = [&raw const *block];
    // SAFETY: one block, which lives across the call: the kernel keeps a copy.
    if exposed(|| unsafe { libc::syscall(libc::SYS_io_submit, context, 1, blocks.as_ptr()) }) == 1 {
        return Ok(context);
    }
    let errno = last_errno();
    // SAFETY: made above.
    unsafe { libc::syscall(libc::SYS_io_destroy, context) };
    Err(errno)
}

/// Wait for the context's request.
fn reap(context: u64) -> Result<i64, i32> {
    let mut event = IoEvent::default();
    let before = interrupts();
    loop {
        // SAFETY: room for one event; a wait that a signal ends counts as failed.
        match unsafe { libc::syscall(libc::SYS_io_getevents, context, 1, 1, &raw mut event, 0) } {
            1 if event.res < 0 => return Err(-event.res as i32),
            1 => return Ok(event.res),
            _ if last_errno() == libc::EINTR && interrupts() == before => {}
            _ => return Err(last_errno()),
        }
    }
}
