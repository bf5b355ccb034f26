//! A daemon under its recorder: started over a stage, seen to serve, and ended.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, chown, lchown};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::launch::{End, Launch, MOUNT, SOURCE};
use super::recorder;
use super::trace::{Event, FIRST_LINE, Stamped, frame, parse_as_far};
use crate::exec::{device_there, state, threads};
use crate::program::flags::signal_name;

/// A daemon that was started, with its recorder. Both die with this value.
#[derive(Debug)]
pub struct Under {
    recorder: Pid,
    trace: File,
    began: Instant,
    over: bool,
    free_to_go: bool,
    killed: bool,
}

/// How long it may take until it serves.
const SERVES: Duration = Duration::from_secs(10);
/// How long it may take to end by itself once it does nothing any more, and again when it is asked to.
const ENDS: Duration = Duration::from_secs(3);
/// How long it may do something before that: it may have thousands of registrations to close.
const CLEANS_UP: Duration = Duration::from_secs(20);
/// How long all of its threads have slept when it rests.
const RESTS: Duration = Duration::from_millis(50);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// Start a daemon under the recorder, which writes to the new file at `trace`, and wait until it serves. For a caller with
/// one thread.
///
/// # Errors
/// Why it does not, for whoever wrote the command.
pub fn start(launch: &Launch, source: &Path, mount: &Path, trace: &Path) -> Result<Under, String> {
    let there = |path: &Path| path.to_string_lossy().into_owned();
    let words = launch.command.iter();
    let words = words.map(|word| word.replace(SOURCE, &there(source)).replace(MOUNT, &there(mount)));
    let launch = Launch { command: words.collect(), ..launch.clone() };
    let begin = || -> io::Result<Under> {
        let mut file = File::options().create_new(true).read(true).append(true).open(trace)?;
        file.write_all(FIRST_LINE)?;
        let (command, source, mount) = (launch.command.clone(), there(source), there(mount));
        let event = Event::Starts { command, source, mount };
        let first = frame(&Stamped { micros: 0, task: 0, event }).map_err(io::Error::other)?;
        file.write_all(&first)?;
        let began = Instant::now();
        let recorder = recorder::start(&launch, file.try_clone()?, began)?;
        Ok(Under { recorder, trace: file, began, over: false, free_to_go: false, killed: false })
    };
    if let Some((uid, gid)) = launch.user {
        let given = give(source, uid, gid).and_then(|()| chown(mount, Some(uid), Some(gid)));
        given.map_err(|error| format!("the files cannot be given to user {uid}: {error}"))?;
    }
    let mounted = || device_there(mount).map_err(|error| format!("{}: {error}", mount.display()));
    let before = mounted()?;
    let mut under = begin().map_err(|error| format!("the recorder cannot be started: {error}"))?;
    under.waits_until("nothing was mounted at {mount}", |_| Ok(mounted()? != before))?;
    // Until then whoever touches the mount waits, and it would look as if an application hung.
    under.waits_until("the daemon has mounted and does not answer INIT", |under| Ok(under.has_answered()))?;
    Ok(under)
}

impl Under {
    fn waits_until(
        &mut self,
        what: &str,
        is_so: impl Fn(&Under) -> Result<bool, String>,
    ) -> Result<(), String> {
        let until = Instant::now() + SERVES;
        loop {
            // Looked at in this order: it may end once it has mounted.
            let over = self.is_over(Duration::ZERO);
            if is_so(self)? {
                return Ok(());
            } else if over {
                return Err(format!("{what}: the daemon {}{}", self.ended_how(), self.said()));
            } else if Instant::now() > until {
                self.kill();
                return Err(format!("{what} within {} s{}", SERVES.as_secs(), self.said()));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Has it ended, with all that it started, or does it within that time?
    pub(crate) fn is_over(&mut self, within: Duration) -> bool {
        let until = Instant::now() + within;
        while !self.over {
            self.over =
                !matches!(waitpid(self.recorder, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
            if self.over || Instant::now() >= until {
                break;
            }
            std::thread::sleep(LOOK);
        }
        self.over
    }

    /// A step of the workload begins.
    pub(crate) fn step(&mut self, step: &str) {
        let micros = self.began.elapsed().as_micros() as u64;
        if let Ok(frame) = frame(&Stamped { micros, task: 0, event: Event::Step(step.into()) }) {
            // One call: what the recorder writes meanwhile comes before or behind it. On a full disk the trace ends.
            let _ = self.trace.write(&frame);
        }
    }

    /// From here on it may end while it is mounted.
    pub(crate) fn may_go(&mut self) {
        self.free_to_go = true;
    }

    /// It is killed by the workload: how it ends says nothing.
    pub(crate) fn is_to_be_killed(&mut self) {
        self.free_to_go = true;
        self.killed = true;
    }

    /// Was it?
    pub(crate) fn was_killed(&self) -> bool {
        self.killed
    }

    /// May it?
    pub(crate) fn is_free_to_go(&self) -> bool {
        self.free_to_go
    }

    /// Send a signal to whoever serves the device, when it has come to rest; who only holds the device gets none.
    pub(crate) fn signal(&self, signal: Signal) -> nix::Result<()> {
        self.comes_to_rest();
        let tasks = self.serving_tasks();
        let traced = self.processes();
        let serves = |pid: &Pid| threads(&pid.to_string()).any(|task| tasks.contains(&task));
        let (serving, others): (Vec<_>, Vec<_>) = traced.into_iter().partition(serves);
        let meant = if serving.is_empty() { others } else { serving };
        meant.iter().try_for_each(|pid| kill(*pid, signal))
    }

    /// The threads that have read requests.
    fn serving_tasks(&self) -> BTreeSet<i32> {
        let events = parse_as_far(&self.read()).0.into_iter();
        let requests = events.filter(|stamped| matches!(stamped.event, Event::Request { .. }));
        requests.map(|stamped| stamped.task).collect()
    }

    /// The daemon's processes.
    fn processes(&self) -> Vec<Pid> {
        let tracer = format!("TracerPid:\t{}\n", self.recorder);
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&tracer))
        })
        .map(Pid::from_raw)
        .collect()
    }

    /// The mount is gone, or ought to be: see the daemon off. Gives how it ended and the whole trace.
    pub fn end(mut self) -> (End, Vec<u8>) {
        let end = if self.ends_by_itself() {
            End::Itself
        } else if self.signal(Signal::SIGTERM).is_ok() && self.is_over(ENDS) {
            End::Asked
        } else {
            self.kill();
            End::Forced
        };
        (end, self.read())
    }

    fn ends_by_itself(&mut self) -> bool {
        let until = Instant::now() + CLEANS_UP;
        let (mut since, mut recorded) = (Instant::now(), 0);
        while !self.is_over(LOOK) {
            if self.recorded() != recorded {
                (since, recorded) = (Instant::now(), self.recorded());
            }
            if since.elapsed() > ENDS || Instant::now() > until {
                return false;
            }
        }
        true
    }

    /// Wait until none of its threads has anything to do, or too long. A daemon may serve before it has come to where it heeds
    /// signals, and one that looks at its own mount then cannot even be killed.
    fn comes_to_rest(&self) {
        let until = Instant::now() + ENDS;
        let mut since = Instant::now();
        while since.elapsed() < RESTS && Instant::now() < until {
            if !self.processes().into_iter().all(is_asleep) {
                since = Instant::now();
            }
            std::thread::sleep(LOOK);
        }
    }

    /// End it by SIGTERM; `is_mounted` says whether its mount is still there.
    pub(crate) fn terminate(&mut self, is_mounted: impl FnOnce() -> bool) -> End {
        if self.signal(Signal::SIGTERM).is_err() || !self.is_over(ENDS) {
            End::Deaf
        } else if is_mounted() {
            End::LeftMount
        } else {
            End::Terminated
        }
    }

    fn kill(&mut self) {
        if !self.over {
            for pid in self.processes() {
                let _ = kill(pid, Signal::SIGKILL);
            }
            if !self.is_over(ENDS) {
                // What it still traces dies with it.
                let _ = kill(self.recorder, Signal::SIGKILL);
                self.is_over(ENDS);
            }
        }
    }

    /// How many bytes there are to read.
    fn recorded(&self) -> u64 {
        self.trace.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.recorded() as usize];
        let have = self.trace.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(have);
        bytes
    }

    fn events(&self) -> Vec<Event> {
        // The last frame may be half there.
        parse_as_far(&self.read()).0.into_iter().map(|stamped| stamped.event).collect()
    }

    /// Was anything written to a device, which begins with the answer to INIT?
    fn has_answered(&self) -> bool {
        self.events().iter().any(|event| matches!(event, Event::Returned { .. }))
    }

    /// How its last process ended.
    fn ended_how(&self) -> String {
        let ended = self.events().into_iter().rev().find_map(|event| match event {
            Event::Ended { code: Some(code), .. } => Some(format!("ended with exit code {code}")),
            Event::Ended { signal: Some(signal), .. } => {
                Some(format!("was ended by {}", signal_name(signal)))
            }
            Event::Blind(why) => Some(why),
            _ => None,
        });
        ended.unwrap_or_else(|| "ended".into())
    }

    /// What it wrote last, as the end of a message.
    fn said(&self) -> String {
        let said = self.events().into_iter().find_map(|event| match event {
            Event::Said { head, tail, .. } => Some(if tail.is_empty() { head } else { tail }),
            _ => None,
        });
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
        let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        match lines.len().checked_sub(3) {
            _ if lines.is_empty() => String::new(),
            more => format!("; it said: {}", lines[more.unwrap_or(0)..].join(" / ")),
        }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Do all threads of a process sleep?
fn is_asleep(pid: Pid) -> bool {
    threads(&pid.to_string()).all(|thread| state(&format!("{pid}/task/{thread}")) == Some('S'))
}

/// Give a folder and what is in it to a user.
fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    match lchown(path, Some(uid), Some(gid)) {
        // As the workload wants it: what is there can be read by everybody.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        given => given,
    }
}
