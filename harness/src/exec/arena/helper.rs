//! A task beside the one that runs programs: it makes the calls that may take long.
//!
//! It shares the open files of the program and nothing else, so that a call that holds the memory of one does not hold up
//! the other. It has no names and no mappings: what it is given is resolved.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::super::calls::Holdings;
use super::super::kcov::Kcov;
use super::super::mailbox::Mailbox;
use super::order::{self, Rank};
use crate::program::{Call, Observed};

#[derive(Debug, Serialize, Deserialize)]
struct Job {
    call: Call,
    base: PathBuf,
}

/// The task, as the one that runs programs sees it. It ends with that one.
#[derive(Debug)]
pub(super) struct Helper {
    pub(super) pid: Pid,
    jobs: Mailbox,
    done: Mailbox,
    pub(super) kcov: Option<Kcov>,
    /// It was given a call, and what came of that was not taken yet.
    pub(super) is_busy: bool,
    /// How many calls it was given: what comes of an earlier one than the last comes too late.
    begun: u64,
}

impl Helper {
    pub(super) fn start() -> io::Result<Helper> {
        let (jobs, done, kcov) = (Mailbox::new()?, Mailbox::new()?, Kcov::new()?);
        // SAFETY: like fork, and the child goes its own way; this process has one thread.
        match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: plain system call on numbers.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                if order::take(Rank::Helper).is_ok() && kcov.as_ref().is_none_or(|kcov| kcov.fill().is_ok()) {
                    work(&jobs, &done);
                }
                // SAFETY: ends the process without running what its parent had registered for its own end.
                unsafe { libc::_exit(1) }
            }
            pid => {
                // From its first word on it goes first.
                done.wait();
                let _ = done.take::<(u64, Observed)>();
                let pid = Pid::from_raw(pid as i32);
                Ok(Helper { pid, jobs, done, kcov, is_busy: false, begun: 0 })
            }
        }
    }

    /// Begin the call. When this returns, it is over or asleep in the kernel.
    pub(super) fn begin(&mut self, call: Call, base: PathBuf) -> io::Result<()> {
        self.jobs.put(&Job { call, base })?;
        self.is_busy = true;
        self.begun += 1;
        Ok(())
    }

    /// What came of the last call, if it is over within that time.
    pub(super) fn end(&mut self, within: Duration) -> Option<Observed> {
        let until = Instant::now() + within;
        loop {
            if let Some((number, observed)) = self.done.take::<(u64, Observed)>() {
                if number < self.begun {
                    continue;
                }
                self.is_busy = false;
                return Some(observed);
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn work(jobs: &Mailbox, done: &Mailbox) {
    if done.put(&(0_u64, Observed::Int(0))).is_err() {
        return;
    }
    for number in 1_u64.. {
        jobs.wait();
        let Some(Job { call, base }) = jobs.take() else { return };
        // The name is only so that the number is not lost among those of nobody.
        let observed = Holdings::new(base, "mnt".into()).perform(&call, None);
        if done.put(&(number, observed)).is_err() {
            return;
        }
    }
}
