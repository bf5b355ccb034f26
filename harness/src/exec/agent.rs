//! The agent: next to the kernel under test, sees to it that a conductor takes programs from the link and runs them, in a
//! process of its own, so that whatever becomes of a case, the agent can still say so. The conductor speaks over the
//! link itself, as every process that a message passes through costs an emulated machine dearly.

use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, fork};
use qemu::link::{Link, LinkError};

use super::actor::{Idle, ended};
use super::bench::{bare, bench};
use super::conductor::{Manner, conduct};
use super::fuzz::{Start, again, keep};
use super::{fault, kmemleak, kmsg, limits};
use crate::program::{Profile, Program, Transport};
use crate::protocol::{Ending, How, Order, Pace, Report, StepRecord, decode, encode};

/// Whose kernel the agent runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A machine's that nobody else uses.
    Ours,
    /// The user's own: no switch of it is touched.
    Theirs,
}

/// Serve a link until it closes. `base` is where stages are set.
///
/// # Errors
/// The link broke.
pub fn agent<S: Read + Write + AsFd>(mut link: Link<S>, base: &Path, kernel: Whose) -> io::Result<()> {
    kmsg::remember_boot();
    let inner_errno = kernel == Whose::Ours && kmsg::switch_inner_errnos(true);
    if kernel == Whose::Ours {
        fault::count_every_allocation();
    }
    let finds_leaks = match kernel {
        Whose::Ours => kmemleak::switch_on(),
        Whose::Theirs => Ok(false),
    };
    let finds_leaks = match finds_leaks {
        Ok(finds_leaks) => finds_leaks,
        Err(error) => {
            let trouble =
                format!("the kernel's search for leaks has given up ({error}): see kmemleak in its log");
            say(&mut link, &Report::Trouble(trouble))?;
            // The end of the agent is the machine's: it would come before the host has heard.
            let _ = link.receive(Duration::MAX);
            return Ok(());
        }
    };
    let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    say(&mut link, &Report::Hello { release, inner_errno, finds_leaks })?;
    let begun = Begun::new()?;
    loop {
        // SAFETY: the agent has one thread.
        let conductor = match unsafe { fork() }? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                // SAFETY: plain system calls on numbers. Orphans of actors are the conductor's to collect.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
                }
                let end = serve(&mut link, &begun, base, finds_leaks).unwrap_or_else(|error| {
                    // On the console, as the link may be what is broken.
                    eprintln!("fuseproof: the conductor ends: {error}");
                    End::Broken
                });
                // SAFETY: ends the process without running what the agent had registered for its own end.
                unsafe { libc::_exit(end as i32) }
            }
        };
        match outlived(conductor, &begun) {
            Ok(End::Closed) => return Ok(()),
            Ok(End::Doubtful) => {}
            Ok(End::Broken) => return Err(io::Error::other("the link broke")),
            Err(why) if begun.is_under_way() => {
                begun.end();
                say(&mut link, &Report::End(Ending { stuck: Some(why), ..Ending::default() }))?;
            }
            Err(why) => return Err(io::Error::other(why)),
        }
    }
}

/// How a conductor's life ends, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The link was closed: no more cases.
    Closed = 0,
    /// A case left something behind: the next one shall have a fresh conductor with fresh actors.
    Doubtful = 1,
    /// The link cannot be used.
    Broken = 2,
}

/// When the case in progress was begun, where agent and conductor both see it: asking would cost an emulated machine
/// two changes of address space.
struct Begun(NonNull<AtomicU64>);

impl Begun {
    fn new() -> io::Result<Begun> {
        let size = NonZeroUsize::MIN;
        let (access, kind) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping, zeroed as the atomic's 0, and never unmapped.
        Ok(Begun(unsafe { mmap_anonymous(None, size, access, kind) }?.cast()))
    }

    fn cell(&self) -> &AtomicU64 {
        // SAFETY: the mapping lives as long as the process, is aligned to a page, and holds an atomic.
        unsafe { self.0.as_ref() }
    }

    /// A case begins that may take so long.
    fn start(&self, limit: Duration) {
        self.cell().store(now() + limit.as_millis() as u64, Ordering::SeqCst);
    }

    fn end(&self) {
        self.cell().store(0, Ordering::SeqCst);
    }

    /// Is a case in progress?
    fn is_under_way(&self) -> bool {
        self.cell().load(Ordering::SeqCst) != 0
    }

    /// Has the case in progress, if there is one, taken too long?
    fn is_late(&self) -> bool {
        match self.cell().load(Ordering::SeqCst) {
            0 => false,
            over => now() > over,
        }
    }
}

/// Milliseconds of the machine's clock.
fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_millis() as u64)
}

/// A conductor's life: conduct what is ordered, with the same actors as long as they are as good as new.
fn serve<S: Read + Write + AsFd>(
    link: &mut Link<S>,
    begun: &Begun,
    base: &Path,
    finds_leaks: bool,
) -> io::Result<End> {
    let mut idle = Idle::default();
    let mut seeds = Vec::new();
    loop {
        let order = match link.receive(Duration::MAX) {
            Ok(bytes) => bytes,
            Err(LinkError::Closed) => return Ok(End::Closed),
            Err(error) => return Err(io::Error::other(error)),
        };
        let doubtful = match decode(&order) {
            Ok(Order::Run { program, profile, how }) => {
                let began = finds_leaks.then(kmemleak::next_jiffy).flatten();
                begun.start(limits::CASE);
                run(link, &program, &profile, Manner { how, launch: None }, base, &mut idle, began)?
            }
            Ok(Order::Watch { program, profile, launch }) => {
                let began = finds_leaks.then(kmemleak::next_jiffy).flatten();
                begun.start(limits::WORKLOAD);
                let how = How {
                    transport: Transport::Plain,
                    pace: Pace::Fast,
                    failing: None,
                    shake: None,
                    lawless: false,
                };
                let manner = Manner { how, launch: Some(&launch) };
                run(link, &program, &profile, manner, base, &mut idle, began)?
            }
            Ok(Order::Seeds(more)) => {
                seeds.extend(more);
                false
            }
            Ok(Order::Fuzz { program, profile, places, seed }) => {
                let seeds = std::mem::take(&mut seeds);
                keep(Start { program, profile, places, seeds, seed }, |told| {
                    say(link, &Report::Fuzzing(told))
                })?;
                true
            }
            Ok(Order::Again { sort, inputs, profile, over }) => {
                begun.start(limits::CASE);
                let again = again(sort, &inputs, profile, over).map_or_else(
                    |error| Report::Trouble(format!("the inputs cannot be run again: {error}")),
                    Report::Again,
                );
                say(link, &again)?;
                // An arena's process is good for nothing else.
                true
            }
            Ok(Order::Bench(job)) => {
                begun.start(limits::BENCH);
                if let Err(error) = bench(&job, base, &mut |told| say(link, &Report::Bench(told))) {
                    say(link, &Report::Trouble(format!("the benchmark cannot go on: {error}")))?;
                }
                // What it may have open is no later case's concern.
                true
            }
            Ok(Order::Bare { mounts, messages }) => {
                begun.start(limits::CASE);
                let bare = bare(base, mounts, messages).map_or_else(
                    |error| Report::Trouble(format!("nothing bare can be measured: {error}")),
                    Report::Bare,
                );
                say(link, &bare)?;
                false
            }
            // Not a case: the host has its own patience.
            Ok(Order::Leaks) => {
                let found = kmemleak::leaks().map_or_else(
                    |error| Report::Trouble(format!("the kernel does not say what leaked: {error}")),
                    Report::Leaks,
                );
                say(link, &found)?;
                false
            }
            Err(error) => {
                say(link, &Report::Trouble(format!("an order cannot be read: {error}")))?;
                false
            }
        };
        collect_children();
        begun.end();
        if doubtful {
            return Ok(End::Doubtful);
        }
    }
}

fn say<S: Read + Write + AsFd>(link: &mut Link<S>, report: &Report) -> io::Result<()> {
    link.send(&encode(report).map_err(io::Error::other)?)
}

/// Run the program, and tell the host. Says whether something stayed behind that another case might trip over.
fn run<S: Read + Write + AsFd>(
    link: &mut Link<S>,
    program: &Program,
    profile: &Profile,
    manner: Manner<'_>,
    base: &Path,
    idle: &mut Idle,
    began: Option<u64>,
) -> io::Result<bool> {
    let mut steps = Steps { done: Vec::new(), since: Instant::now(), pace: manner.how.pace };
    let end = conduct(program, profile, manner, base, idle, &mut |record| match steps.add(record) {
        Some(steps) => say(link, &Report::Steps(steps)),
        None => Ok(()),
    });
    say(link, &Report::Steps(steps.done))?;
    let end = match end {
        Ok((ending, trace)) => {
            trace.chunks(PART).try_for_each(|part| say(link, &Report::Trace(part.to_vec())))?;
            Ok(ending)
        }
        Err(error) => Err(error),
    };
    let doubtful = end.as_ref().map_or(true, |ending| ending.stuck.is_some() || ending.leak.is_some());
    let last = match end {
        Ok(ending) => Report::End(Ending { began, ..ending }),
        Err(error) => Report::Trouble(format!("the stage of a case cannot be set: {error}")),
    };
    say(link, &last)?;
    Ok(doubtful)
}

/// The bytes of a trace that go into one message.
const PART: usize = 256 << 10;

/// Steps that are over and not yet told. Every message costs an emulated machine a few hundred microseconds, so
/// several go together; a machine that dies takes the last few milliseconds' steps along.
struct Steps {
    done: Vec<StepRecord>,
    since: Instant,
    pace: Pace,
}

impl Steps {
    const EVERY: Duration = Duration::from_millis(5);

    /// Take one more; gives those to be told now.
    fn add(&mut self, record: StepRecord) -> Option<Vec<StepRecord>> {
        self.done.push(record);
        if self.pace == Pace::Fast && self.since.elapsed() < Self::EVERY {
            return None;
        }
        self.since = Instant::now();
        Some(std::mem::take(&mut self.done))
    }
}

/// Collect every child that has ended, also those that were left to us.
fn collect_children() {
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status != WaitStatus::StillAlive) {}
}

/// Wait for a conductor's end, by force if a case takes too long, and collect every process that was left to us.
///
/// # Errors
/// Why it cannot have said its last word.
fn outlived(conductor: Pid, begun: &Begun) -> Result<End, String> {
    const LOOK: Duration = Duration::from_secs(1);
    let mut in_time = true;
    while in_time && !ended(conductor, LOOK) {
        in_time = !begun.is_late();
    }
    if !in_time {
        let _ = nix::sys::signal::kill(conductor, nix::sys::signal::Signal::SIGKILL);
        ended(conductor, limits::SETTLE);
    }
    let status = waitpid(conductor, Some(WaitPidFlag::WNOHANG));
    collect_children();
    match status {
        _ if !in_time => Err("the case was not over after its time".into()),
        Ok(WaitStatus::Exited(_, 0)) => Ok(End::Closed),
        Ok(WaitStatus::Exited(_, 1)) => Ok(End::Doubtful),
        Ok(WaitStatus::Exited(_, 2)) => Ok(End::Broken),
        other => Err(format!("the conductor went away: {other:?}")),
    }
}

/// Prepare `command` to run an agent on the running kernel: alone in mount and pid namespaces, which the kernel takes
/// down with their last process, and dead as soon as its parent is.
pub fn into_namespaces(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let enter = || {
        // SAFETY: plain system call on numbers; the parent thread outlives the run.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
        Ok(())
    };
    // A terminal's Ctrl-C is for whoever started us: the case in progress is to be finished.
    command.process_group(0);
    // SAFETY: the closure makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(enter) };
}

/// The rest of the way into the namespaces, in the process that [`into_namespaces`] made: the first child is PID 1 of
/// the new pid namespace and runs `work`; this process waits for it.
///
/// # Errors
/// A mount or the fork was refused.
pub fn settle_in_namespaces(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: this process has just started and has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            waitpid(child, None)?;
            Ok(())
        }
        ForkResult::Child => {
            let done = own_mounts().and_then(|()| work());
            if let Err(error) = &done {
                eprintln!("fuseproof: the agent cannot work: {error}");
            }
            // SAFETY: ends the process; its parent only waits for that.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
    }
}

/// Mounts made from here on are nobody else's; /proc shows this pid namespace; fusectl is there.
fn own_mounts() -> io::Result<()> {
    // SAFETY: plain system call on numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)?;
    // Stages are set below it: nobody else sees them, and they end with the namespace.
    mount(Some("fuseproof"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    mount_fusectl();
    Ok(())
}

/// Where connections are aborted. Without it `host abort` fails, which says enough.
pub fn mount_fusectl() {
    let place = "/sys/fs/fuse/connections";
    let empty = std::fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none());
    if empty {
        let _ = mount(Some("fusectl"), place, Some("fusectl"), MsFlags::empty(), None::<&str>);
    }
}
