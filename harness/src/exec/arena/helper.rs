//! A task beside the one that runs programs: it makes the calls that may take long.
//!
//! It shares the open files of the program and nothing else, so that a call that holds the memory of one does not hold up
//! the other. It has no names and no mappings: what it is given is resolved.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
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

/// The first nap while a call is not over. Each is twice as long as the one before it, ...
const NAP: Duration = Duration::from_micros(160);
/// ... up to this.
const LOOK: Duration = Duration::from_millis(10);
/// A call that sleeps the same sleep at so many looks waits for something that will not come: everybody else could run in
/// between, however little the machine itself was let run.
const LOOKS: usize = 6;
/// But for those who sleep for a time that the kernel chose.
const TIMED: &str = "balance_dirty_pages";

/// The task, as the one that runs programs sees it. It ends with that one.
#[derive(Debug)]
pub(super) struct Helper {
    pub(super) pid: Pid,
    jobs: Mailbox,
    done: Mailbox,
    pub(super) kcov: Option<Kcov>,
    /// It was given a call, and what came of that was not taken yet.
    pub(super) is_busy: bool,
    /// It was told to end, in the middle of what it was given.
    pub(super) is_killed: bool,
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
                Ok(Helper { pid, jobs, done, kcov, is_busy: false, is_killed: false, begun: 0 })
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

    /// What came of the last call, if it is over within that time, or before it is seen to wait for nothing.
    pub(super) fn end(&mut self, within: Duration) -> Option<Observed> {
        let until = Instant::now() + within;
        let (mut last, mut looks, mut nap) = (None, 0, NAP);
        loop {
            if let Some((number, observed)) = self.done.take::<(u64, Observed)>() {
                if number < self.begun {
                    continue;
                }
                self.is_busy = false;
                return Some(observed);
            }
            if self.is_dead() {
                self.is_busy = false;
                return Some(Observed::Signal(libc::SIGKILL));
            }
            if looks >= LOOKS || Instant::now() >= until {
                return None;
            }
            std::thread::sleep(nap);
            if nap < LOOK {
                nap *= 2;
                continue;
            }
            let sleep = self.sleep();
            looks = if sleep.is_some() && sleep == last { looks + 1 } else { 0 };
            last = sleep;
        }
    }

    /// Send it a signal while it makes a call.
    pub(super) fn signal(&mut self, signal: Signal) -> nix::Result<()> {
        self.is_killed |= signal == Signal::SIGKILL;
        kill(self.pid, signal)
    }

    /// Was it killed, and is its call over?
    pub(super) fn is_dead(&self) -> bool {
        self.is_killed && waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) != Ok(WaitStatus::StillAlive)
    }

    /// The number of the sleep that the task is in, if it sleeps until something comes.
    fn sleep(&self) -> Option<String> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).ok();
        let status = read("status")?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let is_asleep = field("State:")?.starts_with(['S', 'D']) && !read("stack")?.contains(TIMED);
        field("voluntary_ctxt_switches:").filter(|_| is_asleep).map(str::to_string)
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
