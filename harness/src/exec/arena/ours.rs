//! Descriptors: the low numbers are a program's, the high ones are ours.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

/// Descriptors of ours are from here on, those of programs below.
pub(super) const OURS: i32 = 512;

/// The same open file under a number of ours.
pub(super) fn duplicate(file: &impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: plain system call that makes a descriptor; nobody else owns it.
    match unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, OURS) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: as above.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}
