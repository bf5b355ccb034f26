//! Actors as processes, and what the conductor says to them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use serde::{Deserialize, Serialize};

use super::calls::{Holdings, handle_signals};
use super::pipe::{Pipe, ready};
use super::{daemon, fault, limits};
use crate::abi::Opcode;
use crate::program::{Actor, Call, Observed, Reply, Side, Times, Transport};
use crate::protocol::Traffic;

/// What the conductor asks of an actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Make a call; what it yields gets that name.
    Do { call: Call, bind: Option<String> },
    /// The same, and say [`Say::Begun`] before.
    Begin { call: Call, bind: Option<String> },
    /// Daemons only, before all else: what carries requests and replies.
    Over(Transport),
    /// Daemons only: a rule for requests to come.
    Rule { times: Times, opcode: Opcode, path: Option<String>, reply: Reply, text: String },
    /// Daemons only: answer what is held, and heed no rules any more.
    GiveUp,
    /// Daemons only: deal with a held request.
    Answer { held: String, reply: Reply },
    /// The same, a call or an answer, with its nth allocation failing.
    Failing(u32, Box<Ask>),
    /// Did one fail?
    Struck,
    /// Daemons only: what was received since the last time, now that everything pending is served.
    Log,
    /// Daemons only: rules that no request came for.
    LeftOver,
    /// The number behind a name.
    Number(String),
    /// The case is over: let go of everything, and be as good as new for the next.
    Reset,
}

/// What an actor says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Say {
    /// The call is about to be made: from here on it may block.
    Begun,
    /// What came of it; of a daemon also what [`Ask::Log`] would give now.
    Done(Observed, Vec<Traffic>),
    /// Answer to [`Ask::Log`]; unasked, the last words of a daemon that dies.
    Log(Vec<Traffic>),
    /// Answer to [`Ask::Struck`]: `None` if no call was made that allocations can fail in.
    Struck(Option<bool>),
    /// Answer to [`Ask::LeftOver`].
    LeftOver(Vec<String>),
    /// Answer to [`Ask::Number`].
    Number(Option<i64>),
    /// Answer to [`Ask::Reset`]. One that cannot be as good as new ends instead.
    Fresh,
}

/// An actor's process, as the conductor sees it. Killed on drop.
pub(crate) struct Process {
    pub(crate) actor: Actor,
    pub(crate) pid: Pid,
    pub(crate) pipe: Pipe,
    /// Is it busy with a call that was started and not yet waited for?
    pub(crate) busy: bool,
    /// It has ended, or was told to.
    pub(crate) ended: bool,
}

impl Process {
    /// Fork the actor, as that user and group if not as root.
    pub(crate) fn start(actor: Actor, base: PathBuf, user: Option<(u32, u32)>) -> io::Result<Process> {
        let (ours, theirs) = Pipe::pair()?;
        let root = match (actor.side, actor.number) {
            (Side::App, _) => "mnt".to_string(),
            (_, 1) => "lower".to_string(),
            (_, number) => format!("lower{number}"),
        };
        // SAFETY: the conductor has one thread, so the child may do whatever it likes.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                Ok(Process { actor, pid: child, pipe: ours, busy: false, ended: false })
            }
            ForkResult::Child => {
                drop(ours);
                // Whoever looks at processes, the leak check for one, sees the actor's name.
                let _ = CString::new(actor.to_string()).map(|name| nix::sys::prctl::set_name(&name));
                let theirs = settle_in(theirs);
                if let Some((uid, gid)) = user {
                    // What it cannot become it is not: its calls would be another's.
                    let became = nix::unistd::setgroups(&[])
                        .and_then(|()| nix::unistd::setgid(gid.into()))
                        .and_then(|()| nix::unistd::setuid(uid.into()));
                    if became.is_err() {
                        // SAFETY: as below.
                        unsafe { libc::_exit(1) }
                    }
                }
                match actor.side {
                    Side::Daemon => daemon::serve(actor.number, base, root, theirs),
                    _ => obey(Holdings::new(base, root), theirs),
                }
                // SAFETY: ends the process without running what the conductor had registered for its own end.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Make it as good as new. A failure means that it has ended, or has to be.
    pub(crate) fn reset(&mut self, within: Duration) -> bool {
        !self.busy && !self.ended && matches!(self.ask(&Ask::Reset, within), Some(Say::Fresh))
    }

    /// Ask, and wait for the answer. `None` if it does not come in time, or never will.
    pub(crate) fn ask(&mut self, ask: &Ask, within: Duration) -> Option<Say> {
        self.pipe.send(ask).ok()?;
        self.answer(within)
    }

    /// The next thing it says that is not [`Say::Begun`].
    pub(crate) fn answer(&mut self, within: Duration) -> Option<Say> {
        let until = Instant::now() + within;
        loop {
            if !self.pipe.ready(until.saturating_duration_since(Instant::now())) {
                return None;
            }
            match self.pipe.receive() {
                Ok(Say::Begun) => {}
                Ok(say) => return Some(say),
                Err(_) => {
                    self.ended = true;
                    return None;
                }
            }
        }
    }

    /// Is it asleep in the kernel, and what it has started as well?
    pub(crate) fn sleeps(&self) -> bool {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid));
        let children = children.unwrap_or_default();
        matches!(state(&self.pid.to_string()), Some('S' | 'D'))
            && children.split_whitespace().all(|pid| matches!(state(pid), Some('S' | 'D' | 'Z')))
    }

    /// End it by force; says whether it ended within that time.
    pub(crate) fn kill(&mut self, within: Duration) -> bool {
        let _ = kill(self.pid, Signal::SIGKILL);
        self.ended = true;
        self.wait(within)
    }

    /// Wait for its end.
    pub(crate) fn wait(&self, within: Duration) -> bool {
        let ended = ended(self.pid, within);
        // A child of ours is collected; a grandchild (after fork) is somebody else's to collect.
        let _ = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        ended
    }
}

/// Actors between two cases: as good as new, and far cheaper than forking new ones.
#[derive(Default)]
pub(crate) struct Idle(BTreeMap<Actor, Process>);

impl Idle {
    pub(crate) fn take(&mut self, actor: Actor) -> Option<Process> {
        self.0.remove(&actor)
    }

    pub(crate) fn put(&mut self, process: Process) {
        self.0.insert(process.actor, process);
    }
}

/// Wait for the end of a process, a child of ours or not. It stays to be collected.
pub(crate) fn ended(pid: Pid, within: Duration) -> bool {
    // Without a descriptor of it, it is collected already.
    pidfd_open(pid).map_or(true, |pidfd| ready(&pidfd, within))
}

/// A process as a descriptor.
pub(super) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: plain system call that makes a descriptor.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if pidfd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd as i32) })
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// Make a fresh process one of its own: it dies with the conductor and holds nothing of it but its end of the pipe.
/// That end moves to descriptor 3, so that descriptors of scripts count up from 4 everywhere.
fn settle_in(pipe: Pipe) -> Pipe {
    use std::os::fd::{AsRawFd, IntoRawFd};
    let fd = pipe.into_stream().into_raw_fd();
    // SAFETY: the process was just forked and is single-threaded; nothing else uses these descriptors.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // On the running kernel, the user's would show.
        libc::umask(0o022);
        if fd != 3 {
            libc::dup2(fd, 3);
        }
        libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
        // Standard input may be the link to the host.
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        libc::dup2(nothing, 0);
        libc::close(nothing);
        let stream = std::os::unix::net::UnixStream::from_raw_fd(3);
        libc::fcntl(stream.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC);
        stream.into()
    }
}

/// The letter of the state of a process, or of a thread (`self/task/TID`), in /proc; none if it is gone.
pub(crate) fn state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (command) state ...": the command may hold anything, also parentheses.
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// The threads of a process (a number, or `self`), by their numbers; none if it is gone.
pub(crate) fn threads(pid: &str) -> impl Iterator<Item = i32> {
    let listed = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    listed.filter_map(|thread| thread.file_name().to_str()?.parse().ok())
}

/// An application's life: do what is asked, until the conductor is gone or says exit.
fn obey(mut holdings: Holdings, mut pipe: Pipe) {
    if handle_signals().is_err() {
        return;
    }
    let done = |observed| Say::Done(observed, Vec::new());
    while let Ok(ask) = pipe.receive::<Ask>() {
        if matches!(ask, Ask::Begin { .. }) && pipe.send(&Say::Begun).is_err() {
            return;
        }
        let say = match ask {
            Ask::Begin { call, .. } if call.name == "fork" => {
                let Ok(end) = pipe.receive_fd() else { return };
                // SAFETY: this process has one thread.
                match unsafe { fork() } {
                    Ok(ForkResult::Parent { child }) => done(Observed::Int(child.as_raw().into())),
                    Ok(ForkResult::Child) => {
                        let Some(own) = settle_child(pipe, end) else { return };
                        pipe = own;
                        // It dies with its parent, so it is no actor for another case.
                        holdings.spoiled = true;
                        continue;
                    }
                    Err(errno) => done(Observed::Errno(errno as i32)),
                }
            }
            Ask::Do { call, .. } if call.name == "exit" => return,
            Ask::Reset if holdings.let_go() => Say::Fresh,
            Ask::Reset => return,
            Ask::Do { call, bind } | Ask::Begin { call, bind } => {
                done(holdings.perform(&call, bind.as_deref()))
            }
            Ask::Failing(nth, ask) => done(match *ask {
                Ask::Do { call, bind } => suffer(nth, || holdings.perform(&call, bind.as_deref())),
                _ => Observed::Impossible("only a call can fail".into()),
            }),
            Ask::Struck => Say::Struck(fault::struck()),
            Ask::Number(name) => Say::Number(holdings.numbers.get(&name).copied()),
            _ => done(Observed::Impossible("this is for daemons".into())),
        };
        if pipe.send(&say).is_err() {
            return;
        }
    }
}

/// Do this with its nth allocation failing, where the kernel lets us.
pub(super) fn suffer(nth: u32, work: impl FnOnce() -> Observed) -> Observed {
    fault::failing(nth, work)
        .unwrap_or_else(|error| Observed::Impossible(format!("no allocation can be made to fail: {error}")))
}

/// A forked child keeps the open files it inherited; only its pipe is new, and takes the place of its parent's.
fn settle_child(pipe: Pipe, end: OwnedFd) -> Option<Pipe> {
    use std::os::fd::AsRawFd;
    drop(pipe);
    // SAFETY: plain system calls on numbers; a forked process starts without the first, and 3 was just closed.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let fd = libc::dup3(end.as_raw_fd(), 3, libc::O_CLOEXEC);
        (fd == 3).then(|| std::os::unix::net::UnixStream::from_raw_fd(fd).into())
    }
}

/// How long an actor may take to answer a question that needs no system call.
pub(crate) const QUESTION: Duration = limits::CALL;
