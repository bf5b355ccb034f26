//! Which system calls stop: those that can carry messages of FUSE, whatever file they are made on.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::libc;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter};

/// A program for the kernel's filter.
pub(super) type Filter = BpfProgram;

/// The calls that stop.
pub(super) const CALLS: [i64; 11] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_splice,
    libc::SYS_ioctl,
    libc::SYS_io_uring_setup,
];

/// The filter.
pub(super) fn program() -> Result<Filter, BackendError> {
    let calls: BTreeMap<_, _> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Trace(0), TargetArch::x86_64)?.try_into()
}

/// Does the kernel have filters?
pub(super) fn can_be() -> bool {
    // SAFETY: plain system call on numbers.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP) != -1 }
}

/// Put it over this thread and all that it will start. With privileges only: `seccompiler::apply_filter` would set
/// no_new_privs, under which set-user-id programs such as fusermount3 do not get theirs.
pub(super) fn install(filter: &Filter) -> nix::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    const _: () = assert!(size_of::<sock_filter>() == size_of::<libc::sock_filter>());
    // SAFETY: the program lives across the call, and the kernel only reads it.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) })
        .map(|_| ())
}
