//! A daemon's process, as whoever runs programs sees it. It serves one mount after the other: to fork one for each mount would
//! take longer than most programs.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, write};

use super::super::daemon::{Order, Word, stand};
use super::super::device::DevFuse;
use super::super::kcov::Kcov;
use super::super::mailbox::Mailbox;
use super::order::{self, Rank};
use super::ours::duplicate;
use crate::program::Transport;

/// The process. It ends with this value.
pub(super) struct Daemon {
    pid: Pid,
    bell: OwnedFd,
    orders: Mailbox,
    words: Mailbox,
    /// What it passes.
    pub(super) kcov: Option<Kcov>,
}

impl Daemon {
    /// Start one that serves nothing yet.
    ///
    /// # Errors
    /// No process, memory or coverage.
    pub(super) fn start() -> io::Result<Daemon> {
        let (orders, words, kcov) = (Mailbox::new()?, Mailbox::new()?, Kcov::new()?);
        let (bell, theirs) = UnixStream::pair()?;
        let bell = duplicate(&bell)?;
        // SAFETY: this process has one thread.
        let pid = match unsafe { fork() }? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                let run = || -> io::Result<()> {
                    kcov.as_ref().map_or(Ok(()), Kcov::fill)?;
                    // It holds nothing of programs, nor of other daemons.
                    // SAFETY: plain system calls on numbers; what they close belongs to the parent's objects, which this
                    // process does not use.
                    let bell = unsafe {
                        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                        libc::dup2(theirs.as_raw_fd(), 3);
                        libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
                        UnixStream::from_raw_fd(3)
                    };
                    order::take(Rank::Daemon)?;
                    stand(&bell, &orders, &words)
                };
                if let Err(error) = run() {
                    let _ = words.put(&Word::Ends(error.to_string()));
                }
                // SAFETY: ends the process without running what its parent had registered for its own end.
                unsafe { libc::_exit(1) }
            }
        };
        let daemon = Daemon { pid, bell, orders, words, kcov };
        // From its first word on it goes first.
        daemon.words.wait();
        match daemon.words.take() {
            Some(Word::Begins) => Ok(daemon),
            other => Err(io::Error::other(format!("the daemon does not begin: {other:?}"))),
        }
    }

    /// Give it a device, which is not mounted yet, and the files that it shows.
    pub(super) fn give(&self, device: &DevFuse, lower: &Path, over: Transport) -> io::Result<()> {
        self.order(&Order::Serve { lower: lower.to_path_buf(), over })?;
        let (fds, byte) = ([device.raw()], [IoSlice::new(&[1])]);
        sendmsg::<()>(
            self.bell.as_raw_fd(),
            &byte,
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            None,
        )?;
        Ok(())
    }

    /// Tell it something that can wait until the next request.
    pub(super) fn order(&self, order: &Order) -> io::Result<()> {
        self.orders.put(order)
    }

    /// Tell it something, and let it do that.
    pub(super) fn order_now(&self, order: &Order) -> io::Result<()> {
        self.orders.put(order)?;
        self.ring()
    }

    /// Have it look at its orders and its device.
    pub(super) fn ring(&self) -> io::Result<()> {
        write(&self.bell, &[1])?;
        Ok(())
    }

    /// The same while it may be reading its device.
    pub(super) fn interrupt(&self, order: &Order) -> io::Result<()> {
        self.orders.put(order)?;
        kill(self.pid, Signal::SIGUSR1)?;
        Ok(())
    }

    /// What it told since the last time.
    pub(super) fn words(&self) -> impl Iterator<Item = Word> {
        std::iter::from_fn(|| self.words.take())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}
