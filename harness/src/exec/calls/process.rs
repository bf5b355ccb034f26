//! Calls on the process itself.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, signal};
use nix::unistd::Pid;

use super::super::actor::pidfd_open;
use super::{Holdings, Outcome, failed, result};
use crate::program::{Call, Observed};

impl Holdings {
    pub(super) fn process_call(&mut self, call: &Call) -> Option<Outcome> {
        let number = |name| self.number(call, name, 0);
        let done = match call.name.as_str() {
            "setuid" => number("uid").map(set_user),
            "drop_capability" => number("capability").map(drop_capability),
            "umask" => number("mask").map(|mask| {
                // SAFETY: plain system call on a number; it cannot fail, and gives the old mask.
                unsafe { libc::umask(mask as u32) };
                Observed::Int(0)
            }),
            "limit_open_files" => number("count").map(limit_open_files),
            "unshare_user" => Ok(unshare_user()),
            "join" => number("actor").map(join),
            "limit_file_size" => number("len").map(limit_file_size),
            "exec" => Ok(self.exec(call)),
            "peek" => return Some(number("actor").map(peek)),
            _ => return None,
        };
        self.spoiled = true;
        Some(done)
    }

    fn exec(&self, call: &Call) -> Observed {
        let Ok(path) = self.c_path(call, "path") else {
            return Observed::Errno(libc::ENOENT);
        };
        let mut command = Command::new(OsStr::from_bytes(path.as_bytes()));
        let replace = move || {
            let arguments = [path.as_ptr(), std::ptr::null()];
            // Unlike the library's own way, it does not hand a file that is no program to a shell.
            // SAFETY: C strings in a list that ends with null.
            unsafe { libc::execv(path.as_ptr(), arguments.as_ptr()) };
            Err(std::io::Error::last_os_error())
        };
        // SAFETY: the closure makes one system call, and allocates nothing.
        let started = unsafe { command.pre_exec(replace) }.status();
        match started {
            Ok(status) => Observed::Int(i64::from(status.code().unwrap_or(-1))),
            Err(error) => failed(&error),
        }
    }
}

/// The command line lies in the process's own memory. The conductor has put the process id in place of the name.
fn peek(pid: i64) -> Observed {
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(_) => Observed::Int(0),
        Err(error) => failed(&error),
    }
}

fn set_user(uid: i64) -> Observed {
    let uid = uid as u32;
    // SAFETY: plain system calls on numbers; an empty group list needs no pointer.
    let number = unsafe {
        match (libc::setgroups(0, std::ptr::null()), libc::setresgid(uid, uid, uid)) {
            (0, 0) => libc::setresuid(uid, uid, uid),
            _ => -1,
        }
    };
    // The conductor may still ask for this process's descriptors, and it dies with the conductor: both were lost with
    // the old credentials.
    // SAFETY: plain system calls on numbers.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 1);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    result(number.into())
}

/// `struct __user_cap_header_struct`, version 3.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

fn drop_capability(capability: i64) -> Observed {
    let header = CapHeader { version: 0x2008_0522, pid: 0 };
    // effective, permitted, inheritable; low and high word.
    let mut sets = [[0_u32; 3]; 2];
    let (word, bit) = ((capability as usize / 32) & 1, 1_u32 << (capability as u32 % 32));
    // SAFETY: the version asks for two words of three sets, which is the room there is.
    let number = unsafe {
        match libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) {
            0 => {
                sets[word][0] &= !bit;
                sets[word][1] &= !bit;
                libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr())
            }
            failed => failed,
        }
    };
    result(number)
}

fn limit_open_files(count: i64) -> Observed {
    let limit = libc::rlimit { rlim_cur: count as u64, rlim_max: count as u64 };
    // SAFETY: the limit lives across the call.
    result(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }.into())
}

fn unshare_user() -> Observed {
    // SAFETY: plain system call on a number; the process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } == -1 {
        return result(-1);
    }
    let maps = [("uid_map", "0 0 1"), ("setgroups", "deny"), ("gid_map", "0 0 1")];
    match maps.iter().try_for_each(|(file, text)| fs::write(format!("/proc/self/{file}"), text)) {
        Ok(()) => Observed::Int(0),
        Err(error) => failed(&error),
    }
}

/// The conductor has put the process id in place of the name.
fn join(pid: i64) -> Observed {
    match pidfd_open(Pid::from_raw(pid as i32)) {
        Ok(pidfd) => {
            let spaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
            // SAFETY: plain system call on numbers.
            result(unsafe { libc::setns(pidfd.as_raw_fd(), spaces) }.into())
        }
        Err(error) => failed(&error),
    }
}

/// How often SIGUSR1 came.
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// How often this process was interrupted. A call may be EINTR without: what a ring of before has left to do is done then, too.
pub(super) fn interrupts() -> u32 {
    INTERRUPTS.load(Ordering::SeqCst)
}

/// SIGUSR1 does nothing but interrupt; SIGIO, which leases send, not even that.
pub(super) fn heed_signals() -> nix::Result<()> {
    extern "C" fn count(_: i32) {
        INTERRUPTS.fetch_add(1, Ordering::SeqCst);
    }
    let interrupts = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
    let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing but count.
    unsafe { sigaction(Signal::SIGUSR1, &interrupts) }?;
    // SAFETY: ignoring a signal runs no code.
    unsafe { sigaction(Signal::SIGIO, &ignored) }.map(|_| ())
}

fn limit_file_size(len: i64) -> Observed {
    // SAFETY: ignoring a signal runs no code.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    let limit = libc::rlimit { rlim_cur: len as u64, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit lives across the call.
    result(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }.into())
}
