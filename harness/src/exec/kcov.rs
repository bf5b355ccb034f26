//! Which instrumented places of the kernel a task passed: KCOV, one buffer a task.
//!
//! It collects addresses and knows nothing of what they mean. A kernel without KCOV is no error of its own: nobody collects.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const FILE: &str = "/sys/kernel/debug/kcov";
/// `_IOR('c', 1, unsigned long)`, `_IO('c', 100)` (`include/uapi/linux/kcov.h`).
const INIT_TRACE: libc::c_ulong = 0x8008_6301;
const ENABLE: libc::c_ulong = 0x6364;
const TRACE_PC: libc::c_ulong = 0;

/// How many places are kept until they are collected; what comes after them is lost.
const PLACES: usize = 64 << 10;

/// A buffer, which forked children share: one task fills it, another may collect.
#[derive(Debug)]
pub(crate) struct Kcov {
    file: File,
    memory: NonNull<u8>,
}

const BYTES: NonZeroUsize = NonZeroUsize::new(PLACES * size_of::<u64>()).unwrap();

impl Kcov {
    /// A buffer that nobody fills yet; `None` if the kernel has no KCOV.
    ///
    /// # Errors
    /// It has, and does not give us a buffer.
    pub(crate) fn new() -> io::Result<Option<Kcov>> {
        let file = match OpenOptions::new().read(true).write(true).open(FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        // SAFETY: an integer as the argument.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), INIT_TRACE, PLACES as libc::c_ulong) })?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, at an address that the kernel chooses.
        let memory = unsafe { mmap(None, BYTES, protection, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Some(Kcov { file, memory: memory.cast() }))
    }

    /// The calling task fills it from here on, until it ends.
    ///
    /// # Errors
    /// Another task does already.
    pub(crate) fn fill(&self) -> io::Result<()> {
        // SAFETY: an integer as the argument.
        Errno::result(unsafe { libc::ioctl(self.file.as_raw_fd(), ENABLE, TRACE_PC) })?;
        Ok(())
    }

    /// Forget what was passed until now.
    pub(crate) fn clear(&self) {
        self.count().store(0, Ordering::Relaxed);
    }

    /// The places that were passed since it was cleared, in order.
    pub(crate) fn places(&self) -> &[u64] {
        let count = (self.count().load(Ordering::Acquire) as usize).min(PLACES - 1);
        // SAFETY: the kernel counts a place after it has written it; the buffer has room for all that it counts.
        unsafe { std::slice::from_raw_parts(self.memory.cast::<u64>().as_ptr().add(1), count) }
    }

    /// Before the places stands how many there are.
    fn count(&self) -> &AtomicU64 {
        // SAFETY: the buffer lives as long as this value, aligned to a page.
        unsafe { self.memory.cast().as_ref() }
    }
}

impl Drop for Kcov {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; other tasks have their own.
        let _ = unsafe { munmap(self.memory.cast(), BYTES.get()) };
    }
}
