//! A child process: started, waited for with a bound, killed, reaped; it does not outlive us, however we end.
//!
//! It knows nothing of what the child does.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getppid};

/// A killed process that does not end by then is stuck in the kernel; waiting longer would not help.
const REAP_WITHIN: Duration = Duration::from_secs(10);

/// A running or ended child process; killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    end: Arc<End>,
}

#[derive(Debug, Default)]
struct End {
    status: Mutex<Option<ExitStatus>>,
    known: Condvar,
}

impl End {
    fn status(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Start `command`. The kernel kills it when we end, kill -9 included.
    pub(crate) fn spawn(mut command: Command) -> io::Result<Process> {
        let us = getpid();
        // SAFETY: between fork and exec only two system calls are made, which touch no memory of the parent.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // We may have ended before the line above.
                if getppid() == us { Ok(()) } else { Err(Errno::ESRCH.into()) }
            });
        }
        let end = Arc::new(End::default());
        let (started, outcome) = mpsc::channel();
        let theirs = Arc::clone(&end);
        // The death signal is tied to the thread that forks, not to the process: so a thread of its own
        // starts the child and stays until the child has ended.
        std::thread::Builder::new().name("keeper".into()).spawn(move || match command.spawn() {
            Ok(child) => {
                // What the command holds of our sockets must go, or their other ends would never see an end.
                drop(command);
                let _ = started.send(Ok(child.id()));
                keep(child, &theirs);
            }
            Err(error) => drop(started.send(Err(error))),
        })?;
        let pid = outcome.recv().map_err(io::Error::other)??;
        Ok(Process { pid: Pid::from_raw(pid as i32), end })
    }

    /// The exit status, if the process ends in time.
    pub(crate) fn wait(&self, within: Duration) -> Option<ExitStatus> {
        let status = self.end.status();
        let waited = self.end.known.wait_timeout_while(status, within, |status| status.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// End the process now, and wait until it is gone.
    pub(crate) fn kill(&self) -> Option<ExitStatus> {
        {
            // Held while the signal is sent: the child is not reaped meanwhile, so the pid is still its own.
            let status = self.end.status();
            if status.is_none() {
                let _ = kill(self.pid, Signal::SIGKILL);
            }
        }
        self.wait(REAP_WITHIN)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Wait for the child's end, and reap it under the lock that `kill` takes.
fn keep(mut child: Child, end: &End) {
    let pid = Pid::from_raw(child.id() as i32);
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let mut status = end.status();
    *status = child.wait().ok();
    end.known.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn an_end_is_seen_and_a_sleeper_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let status = Process::spawn(command).unwrap().wait(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(3));

        let mut command = Command::new("sleep");
        command.arg("60");
        let sleeper = Process::spawn(command).unwrap();
        assert!(sleeper.wait(Duration::from_millis(50)).is_none());
        assert_eq!(sleeper.kill().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert_eq!(Process::spawn(Command::new("/no/such")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
