//! Calls that move data between descriptors, and descriptors that are no files of the mount.

use std::os::fd::AsRawFd;

use nix::libc;
use nix::unistd::Pid;

use super::super::actor::pidfd_open;
use super::super::device;
use super::super::fault::exposed;
use super::{Holdings, Outcome, failed, last_errno, observed, result};
use crate::abi::fuse_backing_map;
use crate::program::{Call, Observed};

impl Holdings {
    pub(super) fn between_call(&mut self, call: &Call, bind: Option<&str>) -> Option<Outcome> {
        Some(match call.name.as_str() {
            "splice" | "copy_file_range" => self.between(call),
            "tee" => self.tee(call),
            "sendfile" => self.sendfile(call),
            "pipe" => self.pipe(call, bind),
            "setpipe_sz" => self.setpipe_sz(call),
            "backing_open" => self.backing_open(call),
            // SAFETY: plain system calls that make a descriptor, here and below.
            "eventfd" => Ok(result(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }.into())),
            // SAFETY: as above.
            "epoll" => Ok(result(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into())),
            // SAFETY: as above.
            "socket" => Ok(result(
                unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) }.into(),
            )),
            "memfd" => self.number(call, "flags", 0).map(|flags| {
                // SAFETY: a C string, and a number.
                result(unsafe { libc::memfd_create(c"case".as_ptr(), flags as u32) }.into())
            }),
            "take" => self.take(call),
            _ => return None,
        })
    }

    fn between(&self, call: &Call) -> Outcome {
        let (from, to, len) = (self.fd(call, "in")?, self.fd(call, "out")?, self.len(call)?);
        let mut off_in = self.number(call, "off_in", 0)?;
        let mut off_out = self.number(call, "off_out", 0)?;
        let flags = self.number(call, "flags", 0)? as u32;
        let pointer = |given: bool, offset: &mut i64| {
            if given { &raw mut *offset } else { std::ptr::null_mut() }
        };
        let off_in = pointer(call.arg("off_in").is_some(), &mut off_in);
        let off_out = pointer(call.arg("off_out").is_some(), &mut off_out);
        Ok(result(match call.name.as_str() {
            // SAFETY: the offsets are null or live across the call.
            "splice" => exposed(|| unsafe { libc::splice(from, off_in, to, off_out, len, flags) }),
            // SAFETY: as above.
            _ => exposed(|| unsafe { libc::copy_file_range(from, off_in, to, off_out, len, 0) }),
        } as i64))
    }

    fn tee(&self, call: &Call) -> Outcome {
        let (from, to, len) = (self.fd(call, "in")?, self.fd(call, "out")?, self.len(call)?);
        // SAFETY: plain system call on numbers.
        Ok(result(unsafe { libc::tee(from, to, len, 0) } as i64))
    }

    fn sendfile(&self, call: &Call) -> Outcome {
        let (to, from, len) = (self.fd(call, "out")?, self.fd(call, "in")?, self.len(call)?);
        let mut offset = self.number(call, "offset", 0)?;
        let pointer = if call.arg("offset").is_some() { &raw mut offset } else { std::ptr::null_mut() };
        // SAFETY: the offset is null or lives across the call.
        Ok(result(exposed(|| unsafe { libc::sendfile(to, from, pointer, len) }) as i64))
    }

    fn pipe(&mut self, call: &Call, bind: Option<&str>) -> Outcome {
        let flags = self.number(call, "flags", 0)? as i32;
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | flags) } == -1 {
            return Ok(Observed::Errno(last_errno()));
        }
        if let Some(name) = bind {
            self.numbers.insert(format!("{name}.r"), ends[0].into());
            self.numbers.insert(format!("{name}.w"), ends[1].into());
        }
        Ok(Observed::Int(0))
    }

    /// What BACKING_OPEN is given.
    pub(crate) fn backing_map(&self, call: &Call) -> Result<fuse_backing_map, String> {
        let number = |name, default| self.number(call, name, default);
        let (fd, flags, padding) = (number("fd", -1)?, number("flags", 0)?, number("padding", 0)?);
        Ok(fuse_backing_map { fd: fd as i32, flags: flags as u32, padding: padding as u64 })
    }

    /// Through a device that is an open file like any other here.
    fn backing_open(&self, call: &Call) -> Outcome {
        let opened = device::backing_open(self.fd(call, "device")?, self.backing_map(call)?);
        Ok(observed(opened.map(i64::from)))
    }

    fn setpipe_sz(&self, call: &Call) -> Outcome {
        let (fd, len) = (self.fd(call, "fd")?, self.number(call, "len", 0)?);
        // SAFETY: F_SETPIPE_SZ takes an integer.
        Ok(result(unsafe { libc::fcntl(fd, libc::F_SETPIPE_SZ, len as i32) }.into()))
    }

    /// The conductor has put the other actor's process id and descriptor in place of its names.
    fn take(&self, call: &Call) -> Outcome {
        let (pid, fd) = (self.number(call, "actor", 0)?, self.number(call, "fd", -1)?);
        Ok(match pidfd_open(Pid::from_raw(pid as i32)) {
            // SAFETY: plain system call that makes a descriptor.
            Ok(pidfd) => result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) }),
            Err(error) => failed(&error),
        })
    }
}
