//! The loop: who stopped, why, and how it goes on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use super::super::launch::Fault;
use super::super::trace::{Event, Stamped, frame};
use super::calls::{Calls, Pending};
use super::device;

/// The most bytes a trace may have: some hundred thousand messages.
const MOST: usize = 24 << 20;

/// Where events are written down.
pub(super) struct Book {
    trace: File,
    began: Instant,
    written: usize,
    /// Nothing more is written.
    blind: bool,
}

impl Book {
    pub(super) fn new(trace: File, began: Instant) -> Book {
        Book { trace, began, written: 0, blind: false }
    }

    /// Write an event down, in one call.
    pub(super) fn add(&mut self, task: i32, event: Event) {
        let micros = self.began.elapsed().as_micros() as u64;
        let Ok(frame) = frame(&Stamped { micros, task, event }) else { return };
        if self.blind {
            return;
        }
        if self.written + frame.len() > MOST {
            return self.blind(&format!("the trace is longer than {} MiB", MOST >> 20));
        }
        self.written += frame.len();
        match self.trace.write(&frame) {
            Ok(count) if count == frame.len() => {}
            // Half a frame is what a reader takes for the end.
            _ => self.blind = true,
        }
    }

    /// From here on nothing is recorded, and that is said.
    pub(super) fn blind(&mut self, why: &str) {
        let micros = self.began.elapsed().as_micros() as u64;
        if !self.blind
            && let Ok(frame) = frame(&Stamped { micros, task: 0, event: Event::Blind(why.into()) })
        {
            let _ = self.trace.write(&frame);
        }
        self.blind = true;
    }
}

/// How a stopped thread goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    /// To the next call that stops.
    On,
    /// To the end of the call that it is about to make.
    ToExit,
}

/// A traced thread.
struct Task {
    process: i32,
    pending: Option<Pending>,
    /// Without a filter: the call it made is not over.
    inside: bool,
}

pub(super) struct Tracer<'a> {
    book: &'a mut Book,
    calls: Calls,
    tasks: BTreeMap<i32, Task>,
    /// Without one every call stops, which is slower and shows the same.
    filtered: bool,
}

impl<'a> Tracer<'a> {
    pub(super) fn new(book: &'a mut Book, faults: &[Fault], filtered: bool) -> Tracer<'a> {
        Tracer { book, calls: Calls::new(faults), tasks: BTreeMap::new(), filtered }
    }

    /// Trace until nobody is left.
    ///
    /// # Errors
    /// What ptrace(2) refused although the thread was there.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            let mut status = 0;
            // SAFETY: the kernel fills in one number. nix would not know real-time signals, which C libraries use.
            let task = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
            match task {
                -1 if Errno::last() == Errno::EINTR => {}
                -1 => return Ok(()),
                task if libc::WIFSTOPPED(status) => match self.stopped(task, status) {
                    // Killed meanwhile: its end is told next.
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno.into()),
                },
                task => self.ended(task, status),
            }
        }
    }

    fn ended(&mut self, task: i32, status: i32) {
        let known = self.tasks.remove(&task);
        // A thread's end says nothing.
        if known.is_none_or(|known| known.process == task) {
            let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
            self.book.add(task, Event::Ended { code, signal });
        }
    }

    fn stopped(&mut self, task: i32, status: i32) -> nix::Result<()> {
        const SYSCALL: i32 = libc::SIGTRAP | 0x80;
        let pid = Pid::from_raw(task);
        let signal = libc::WSTOPSIG(status);
        let known = self.tasks.entry(task).or_insert_with(|| Task {
            process: device::process(pid),
            pending: None,
            inside: false,
        });
        let go = match (status >> 16, signal) {
            (libc::PTRACE_EVENT_SECCOMP, _) => {
                let (go, pending) = self.calls.entered(pid, known.process, self.book)?;
                known.pending = pending;
                go
            }
            (0, SYSCALL) if !self.filtered && !known.inside => {
                known.inside = true;
                if self.calls.may_carry(pid)? {
                    known.pending = self.calls.entered(pid, known.process, self.book)?.1;
                }
                Go::On
            }
            (0, SYSCALL) => {
                known.inside = false;
                if let Some(pending) = known.pending.take() {
                    self.calls.left(pid, pending, self.book)?;
                }
                Go::On
            }
            (0, signal) => {
                return resume(
                    pid,
                    if self.filtered { libc::PTRACE_CONT } else { libc::PTRACE_SYSCALL },
                    signal,
                );
            }
            (event @ (libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK), _) => {
                let child = nix::sys::ptrace::getevent(pid)? as i32;
                let process =
                    event != libc::PTRACE_EVENT_CLONE || device::process(Pid::from_raw(child)) == child;
                if process {
                    self.calls.forked(known.process, child);
                }
                self.book.add(task, Event::Began { child, process });
                Go::On
            }
            (libc::PTRACE_EVENT_EXEC, _) => {
                let program = fs::read_link(format!("/proc/{task}/exe")).unwrap_or_default();
                self.book.add(task, Event::Runs(program.to_string_lossy().into_owned()));
                known.pending = None;
                Go::On
            }
            // Stopped as by SIGSTOP: it stays so until SIGCONT, as without us.
            (libc::PTRACE_EVENT_STOP, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) => {
                return resume(pid, libc::PTRACE_LISTEN, 0);
            }
            // A new thread's first stop, among others.
            _ => Go::On,
        };
        let stops = go == Go::ToExit || !self.filtered;
        resume(pid, if stops { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT }, 0)
    }
}

fn resume(task: Pid, how: libc::c_uint, signal: i32) -> nix::Result<()> {
    // SAFETY: plain system call on numbers. nix knows neither real-time signals nor PTRACE_LISTEN.
    Errno::result(unsafe { libc::ptrace(how, task.as_raw(), 0, libc::c_long::from(signal)) }).map(|_| ())
}
