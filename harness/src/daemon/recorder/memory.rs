//! What lies in a traced thread's memory and in its pipes. Nothing is taken away from it.

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};
use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{Pid, pipe2};

use super::super::trace::Cut;

/// The most parts that the kernel takes in one call (UIO_MAXIOV).
const MOST_PARTS: u64 = 1024;

/// Up to this many bytes at an address; fewer where its memory ends.
pub(super) fn bytes(task: Pid, address: u64, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let remote = [RemoteIoVec { base: address as usize, len }];
    let have = process_vm_readv(task, &mut [IoSliceMut::new(&mut buffer)], &remote).unwrap_or(0);
    buffer.truncate(have);
    buffer
}

/// The parts of a message that lie where an array of `iovec` says.
pub(super) fn parts(task: Pid, address: u64, count: u64) -> Vec<(u64, u64)> {
    let array = bytes(task, address, 16 * count.min(MOST_PARTS) as usize);
    let words: Vec<u64> =
        array.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
    words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// The beginning of a message of `len` bytes that lies in these parts.
pub(super) fn gathered(task: Pid, parts: &[(u64, u64)], len: u64, keep: usize) -> Cut {
    let mut head = Vec::new();
    for (address, part) in parts {
        let want = (keep.min(len as usize) - head.len()).min(*part as usize);
        if want == 0 {
            break;
        }
        head.extend(bytes(task, *address, want));
    }
    Cut { len, head }
}

/// Of what lies in a pipe of the thread's: the last `len` bytes, or the first if `first`; the beginning of that.
///
/// # Errors
/// It is no pipe, or it cannot be looked into.
pub(super) fn piped(task: Pid, fd: i32, len: u64, first: bool, keep: usize) -> io::Result<Cut> {
    // A pipe is opened once more by its link: whichever end it is, this one can be read.
    let theirs =
        File::options().read(true).custom_flags(libc::O_NONBLOCK).open(format!("/proc/{task}/fd/{fd}"))?;
    let mut held: libc::c_int = 0;
    // SAFETY: the kernel fills in one number.
    nix::errno::Errno::result(unsafe { libc::ioctl(theirs.as_raw_fd(), libc::FIONREAD, &raw mut held) })?;
    let before = if first { 0 } else { (held as u64).saturating_sub(len) as usize };
    let (ours, end) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // As long as theirs may be; with less, fewer bytes are seen.
    let _ = fcntl(&end, FcntlArg::F_SETPIPE_SZ(1 << 20));
    let want = before + keep.min(len as usize);
    let there = tee(&theirs, &end, want, SpliceFFlags::SPLICE_F_NONBLOCK)?;
    let mut all = vec![0; there];
    File::from(ours).read_exact(&mut all)?;
    Ok(Cut { len, head: all.split_off(before.min(there)) })
}
