//! Calls on an open file.

use nix::libc;
use nix::sys::signal::{SigSet, Signal};

use super::super::fault::exposed;
use super::{Aligned, Holdings, Outcome, filled, last_errno, result};
use crate::program::{Call, Observed};

impl Holdings {
    pub(super) fn file_call(&mut self, call: &Call) -> Option<Outcome> {
        Some(match call.name.as_str() {
            "close" => self.on_fd(call, |fd| {
                // SAFETY: scripts own the descriptors they name; this process holds none of its own but its
                // standard streams and the conductor's socket, which have no name.
                unsafe { libc::close(fd) }.into()
            }),
            "dup" => self.on_fd(call, |fd| {
                // SAFETY: plain system call on a number.
                unsafe { libc::dup(fd) }.into()
            }),
            "fsync" => self.on_fd(call, |fd| {
                // SAFETY: plain system call on a number.
                unsafe { libc::fsync(fd) }.into()
            }),
            "fdatasync" => self.on_fd(call, |fd| {
                // SAFETY: plain system call on a number.
                unsafe { libc::fdatasync(fd) }.into()
            }),
            "syncfs" => self.on_fd(call, |fd| {
                // SAFETY: plain system call on a number.
                unsafe { libc::syncfs(fd) }.into()
            }),
            "sync_file_range" => self.with(call, &["offset", "len", "flags"], |fd, n| {
                // SAFETY: plain system call on numbers.
                unsafe { libc::sync_file_range(fd, n[0], n[1], n[2] as u32) }.into()
            }),
            "read" | "pread" | "preadv2" | "readv" => self.read(call),
            "write" | "pwrite" | "pwritev2" | "writev" => self.write(call),
            "lseek" => self.with(call, &["offset", "whence"], |fd, n| {
                // SAFETY: plain system call on numbers.
                unsafe { libc::lseek(fd, n[0], n[1] as i32) }
            }),
            "ftruncate" => self.with(call, &["len"], |fd, n| {
                // SAFETY: plain system call on numbers.
                unsafe { libc::ftruncate(fd, n[0]) }.into()
            }),
            "fallocate" => self.with(call, &["mode", "offset", "len"], |fd, n| {
                // SAFETY: plain system call on numbers.
                unsafe { libc::fallocate(fd, n[0] as i32, n[1], n[2]) }.into()
            }),
            "fchmod" => self.with(call, &["mode"], |fd, n| {
                // SAFETY: plain system call on numbers.
                unsafe { libc::fchmod(fd, n[0] as u32) }.into()
            }),
            "setfl" => self.with(call, &["flags"], |fd, n| {
                // SAFETY: F_SETFL takes an integer.
                unsafe { libc::fcntl(fd, libc::F_SETFL, n[0] as i32) }.into()
            }),
            "notify_me" => {
                self.spoiled = true;
                self.on_fd(call, notify_me)
            }
            "notified" => Ok(notified()),
            "flock" => self.with(call, &["operation"], |fd, n| {
                // SAFETY: plain system call on numbers.
                unsafe { libc::flock(fd, n[0] as i32) }.into()
            }),
            "setlease" => self.with(call, &["type"], |fd, n| {
                // SAFETY: F_SETLEASE takes an integer.
                unsafe { libc::fcntl(fd, libc::F_SETLEASE, n[0] as i32) }.into()
            }),
            "setlk" => self.with(call, &["type", "offset", "len"], |fd, n| {
                let lock = libc::flock {
                    l_type: n[0] as i16,
                    l_whence: libc::SEEK_SET as i16,
                    l_start: n[1],
                    l_len: n[2],
                    l_pid: 0,
                };
                // SAFETY: `lock` lives across the call.
                unsafe { libc::fcntl(fd, libc::F_SETLK, &raw const lock) }.into()
            }),
            "fadvise" => self.with(call, &["offset", "len", "advice"], |fd, n| {
                // SAFETY: plain system call on numbers.
                match unsafe { libc::posix_fadvise(fd, n[0], n[1], n[2] as i32) } {
                    0 => 0,
                    errno => {
                        nix::errno::Errno::from_raw(errno).set();
                        -1
                    }
                }
            }),
            "readahead" => self.with(call, &["offset", "len"], |fd, n| {
                // SAFETY: plain system call on numbers.
                unsafe { libc::readahead(fd, n[0], n[1] as usize) as i64 }
            }),
            "poll" => self.poll(call),
            "ioctl" => self.ioctl(call),
            "add_seals" => self.with(call, &["seals"], |fd, n| {
                // SAFETY: F_ADD_SEALS takes an integer.
                unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, n[0] as i32) }.into()
            }),
            _ => return None,
        })
    }

    fn on_fd(&self, call: &Call, work: impl FnOnce(i32) -> i64) -> Outcome {
        let fd = self.fd(call, "fd")?;
        Ok(result(exposed(|| work(fd))))
    }

    /// A call on `fd` and some numbers, none of which may be missing.
    fn with(&self, call: &Call, names: &[&str], work: impl FnOnce(i32, &[i64]) -> i64) -> Outcome {
        let numbers = names.iter().map(|name| self.number(call, name, 0)).collect::<Result<Vec<_>, _>>()?;
        self.on_fd(call, |fd| work(fd, &numbers))
    }

    fn read(&self, call: &Call) -> Outcome {
        let fd = self.fd(call, "fd")?;
        let len = self.len(call)?;
        let offset = self.number(call, "offset", 0)?;
        let mut buffer = Aligned::new(len);
        let pointer = buffer.pointer();
        let number = match call.name.as_str() {
            // SAFETY: `pointer` has `len` bytes behind it, here and in the arms below.
            "read" => exposed(|| unsafe { libc::read(fd, pointer.cast(), len) }),
            // SAFETY: as above.
            "pread" => exposed(|| unsafe { libc::pread(fd, pointer.cast(), len, offset) }),
            "preadv2" => {
                let vector = [libc::iovec { iov_base: pointer.cast(), iov_len: len }];
                let flags = self.number(call, "flags", 0)? as i32;
                // SAFETY: as above.
                exposed(|| unsafe { libc::preadv2(fd, vector.as_ptr(), 1, offset, flags) })
            }
            _ => {
                let vector = pieces(pointer, len, self.number(call, "pieces", 1)?);
                // SAFETY: the pieces lie within the buffer.
                exposed(|| unsafe { libc::readv(fd, vector.as_ptr(), vector.len() as i32) })
            }
        };
        Ok(filled(number as i64, buffer.into_vec()))
    }

    fn write(&self, call: &Call) -> Outcome {
        let fd = self.fd(call, "fd")?;
        let data = call.data("data").0;
        let offset = self.number(call, "offset", 0)?;
        let mut buffer = Aligned::holding(&data);
        let pointer = buffer.pointer();
        let number = match call.name.as_str() {
            // SAFETY: `pointer` has the data's bytes behind it, here and in the arms below.
            "write" => exposed(|| unsafe { libc::write(fd, pointer.cast(), data.len()) }),
            // SAFETY: as above.
            "pwrite" => exposed(|| unsafe { libc::pwrite(fd, pointer.cast(), data.len(), offset) }),
            "pwritev2" => {
                let vector = [libc::iovec { iov_base: pointer.cast(), iov_len: data.len() }];
                let flags = self.number(call, "flags", 0)? as i32;
                // SAFETY: as above.
                exposed(|| unsafe { libc::pwritev2(fd, vector.as_ptr(), 1, offset, flags) })
            }
            _ => {
                let vector = pieces(pointer, data.len(), self.number(call, "pieces", 1)?);
                // SAFETY: the pieces lie within the buffer.
                exposed(|| unsafe { libc::writev(fd, vector.as_ptr(), vector.len() as i32) })
            }
        };
        Ok(result(number as i64))
    }

    fn poll(&self, call: &Call) -> Outcome {
        let events = self.number(call, "events", 0)? as i16;
        let mut fds = [libc::pollfd { fd: self.fd(call, "fd")?, events, revents: 0 }];
        // SAFETY: one entry, which lives across the call.
        let number = unsafe { libc::poll(fds.as_mut_ptr(), 1, 0) };
        Ok(match number {
            -1 => result(-1),
            _ => Observed::Fields(vec![("revents".into(), i128::from(fds[0].revents))]),
        })
    }

    fn ioctl(&self, call: &Call) -> Outcome {
        let fd = self.fd(call, "fd")?;
        let number = self.number(call, "number", 0)? as libc::c_ulong;
        // Room behind the argument, as the number says how much the kernel reads and writes, not the script.
        let mut argument = call.data("argument").0;
        argument.resize(argument.len() + (1 << 14), 0);
        // SAFETY: an ioctl moves at most 2^14 - 1 bytes by its number's size field, and there are more.
        Ok(result(exposed(|| unsafe { libc::ioctl(fd, number, argument.as_mut_ptr()) }).into()))
    }
}

/// Let the file's SIGIO come to this process, where it stays pending.
fn notify_me(fd: i32) -> i64 {
    if SigSet::from(Signal::SIGIO).thread_block().is_err() {
        return -1;
    }
    // SAFETY: F_SETOWN, F_GETFL and F_SETFL take and give integers.
    unsafe {
        match libc::fcntl(fd, libc::F_SETOWN, libc::getpid()) {
            0 => libc::fcntl(fd, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) | libc::O_ASYNC).into(),
            failed => failed.into(),
        }
    }
}

/// Whether SIGIO is pending; it is not any more then.
fn notified() -> Observed {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let signals = SigSet::from(Signal::SIGIO);
    // SAFETY: the set and the time live across the call; nobody wants to know more about the signal.
    let signal = unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &raw const now) };
    match signal {
        -1 if last_errno() == libc::EAGAIN => Observed::Int(0),
        -1 => result(-1),
        _ => Observed::Int(1),
    }
}

/// A vector of so many equal pieces; the last one takes what is left.
fn pieces(pointer: *mut u8, len: usize, count: i64) -> Vec<libc::iovec> {
    let count = count.clamp(1, 1024) as usize;
    let each = len / count;
    (0..count)
        .map(|index| libc::iovec {
            iov_base: pointer.wrapping_add(index * each).cast(),
            iov_len: if index + 1 == count { len - index * each } else { each },
        })
        .collect()
}
