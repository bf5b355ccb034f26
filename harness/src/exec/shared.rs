//! A value in a file that two processes have mapped.

use std::fs::OpenOptions;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::path::Path;
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A value of atomics, all zero at first.
#[derive(Debug)]
pub(super) struct Shared<T> {
    memory: NonNull<c_void>,
    value: PhantomData<T>,
}

/// One page, which is more than any such value has.
const BYTES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

impl<T: Sync> Shared<T> {
    /// The value in this file, which is made if need be.
    ///
    /// # Errors
    /// What the system says of the file.
    pub(super) fn open(path: &Path) -> io::Result<Shared<T>> {
        const { assert!(size_of::<T>() <= BYTES.get()) };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(BYTES.get() as u64)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, at an address that the kernel chooses.
        let memory = unsafe { mmap(None, BYTES, protection, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Shared { memory, value: PhantomData })
    }

    pub(super) fn get(&self) -> &T {
        // SAFETY: the page is large enough, aligned, and zero or what the other process made of it; values are atomics.
        unsafe { self.memory.cast().as_ref() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping of `open`.
        let _ = unsafe { munmap(self.memory, BYTES.get()) };
    }
}
