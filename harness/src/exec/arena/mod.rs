//! Programs by the hundred a second: on mounts that stay, where a case makes one of its own.
//!
//! ```text
//! runner ── makes the calls of all actors itself, one after the other
//!    ├── helpers   make those that are started and may be held up
//!    └── daemons   one a mount, told and asked through shared memory
//! ```
//!
//! All of them share one processor, and [`order`] says who goes first: what a step sets in motion is over when the next one
//! begins. A program begins with a prologue, and each prologue has its mount; after a program the kernel is made to forget
//! what it knows of that mount's files, and the lower files are put back. What cannot be undone costs the mount. It judges
//! nothing, and performs only what leaves the runner able to go on: no call that may wait, unless it is started.

mod daemon;
mod helper;
mod names;
mod order;
mod ours;
mod slot;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

use super::calls::{Holdings, handle_signals, observed};
use super::daemon::{Order, Word, spelled, via_of};
use super::device::{Device, Via};
use super::kcov::Kcov;
use crate::generate;
use crate::program::{Actor, Call, Observed, Program, Side, Step, Transport, Value, Verb};
use crate::protocol::{Answer, StepRecord, Traffic};
use daemon::Daemon;
use helper::Helper;
use names::is_remembered;
use order::Rank;
use ours::{OURS, duplicate};
use slot::Slot;

/// Where programs run, one after the other.
pub(super) struct Arena {
    base: PathBuf,
    /// What carries requests and answers: read(2) and write(2), or io_uring.
    pub(super) over: Transport,
    /// The one used last at the end.
    slots: Vec<Slot>,
    /// How many there were ever: each has a folder of its own.
    made: usize,
    helpers: BTreeMap<Actor, Helper>,
    /// Daemons without a mount. The one used last at the end.
    idle: Vec<Daemon>,
    /// The daemon used last is one of those.
    is_last_idle: bool,
    /// What the runner passes.
    kcov: Option<Kcov>,
    /// What was passed to make the latest program's mount, if it got a new one.
    staged: Vec<u64>,
}

/// What came of a program.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// Of each step that was reached.
    pub(super) records: Vec<StepRecord>,
    /// What its daemon received after the last step.
    pub(super) rest: Vec<Traffic>,
    /// A call that did not come back, not even when the connection was aborted.
    pub(super) stuck: Option<String>,
    /// The daemon ended, and nobody told it to.
    pub(super) ended: Option<String>,
    /// What stayed behind: looked for only when a mount is given up.
    pub(super) leak: Option<String>,
}

/// More mounts than that are not kept: the one that was not used for longest goes.
const MOST_SLOTS: usize = 64;
/// A mount is given up after so many programs, to see what they left behind.
const MOST_PROGRAMS: usize = 500;
/// A started call that is awaited and still not over waits for something that will not come.
const PATIENCE: Duration = Duration::from_secs(2);
/// With its connection aborted a call comes back.
const MORE_PATIENCE: Duration = Duration::from_secs(5);
/// A descriptor that nobody has.
const NOBODYS: i64 = 1 << 20;

impl Arena {
    /// An arena below that folder. The process is good for nothing else from here on: all its descriptors between what is open
    /// now and 512 belong to programs.
    ///
    /// # Errors
    /// The kernel lets nobody go before others, or ignores no signals.
    pub(super) fn open(base: &Path, over: Transport) -> io::Result<Arena> {
        std::fs::create_dir_all(base)?;
        handle_signals()?;
        order::take(Rank::Runner)?;
        let kcov = Kcov::new()?;
        kcov.as_ref().map_or(Ok(()), Kcov::fill)?;
        // Forked while there is little to copy, and before anything of a mount is mapped.
        let idle = vec![Daemon::start()?];
        let helpers: io::Result<_> = generate::apps().map(|app| Ok((app, Helper::start()?))).collect();
        let (slots, made, helpers) = (Vec::new(), 0, helpers?);
        let base = base.to_path_buf();
        let staged = Vec::new();
        Ok(Arena { base, over, slots, made, helpers, idle, is_last_idle: false, kcov, staged })
    }

    /// Run a program.
    ///
    /// # Errors
    /// The arena itself failed: there is no mount, or a lower file cannot be put back.
    pub(super) fn run(&mut self, program: &Program) -> io::Result<Ran> {
        let run = self.begin(program)?;
        self.finish(run)
    }

    /// Run a program, and leave everything as it is when its last step is over.
    ///
    /// # Errors
    /// As those of [`Arena::run`].
    pub(super) fn begin(&mut self, program: &Program) -> io::Result<Run> {
        let prologue = generate::prologue(program);
        let first = prologue.len();
        self.kcov.iter().for_each(Kcov::clear);
        let mut slot = self.slot(prologue)?;
        slot.programs += 1;
        self.is_last_idle = false;
        // Where one was killed there is another, now that there is nothing of a program that it would hold on to.
        self.helpers.retain(|_, helper| !helper.is_killed);
        for app in generate::apps().filter(|app| !self.helpers.contains_key(app)).collect::<Vec<_>>() {
            self.helpers.insert(app, Helper::start()?);
        }
        let mut run = Run::new(slot, std::mem::take(&mut self.helpers))?;
        self.staged.clear();
        if run.slot.programs == 1 {
            let mut staged = Vec::new();
            self.passed_by(&run, |place| staged.push(place));
            self.staged = staged;
        }
        self.clear(&run);
        run.ran.records = run.slot.records.clone();
        for (index, step) in program.steps.iter().enumerate().skip(first) {
            let record = run.step(index, step)?;
            run.ran.records.push(record);
        }
        Ok(run)
    }

    /// Forget what was passed until now.
    pub(super) fn clear(&self, run: &Run) {
        let helpers = run.helpers.values().map(|helper| &helper.kcov);
        helpers.chain([&self.kcov, &run.slot.daemon.kcov]).flatten().for_each(Kcov::clear);
    }

    /// Forget what this process itself passed until now.
    pub(super) fn clear_own(&self) {
        self.kcov.iter().for_each(Kcov::clear);
    }

    /// Put everything back.
    ///
    /// # Errors
    /// A lower file cannot be put back.
    pub(super) fn finish(&mut self, run: Run) -> io::Result<Ran> {
        let (mut ran, slot, is_spoiled, helpers) = run.end()?;
        self.helpers = helpers;
        if is_spoiled || slot.programs >= MOST_PROGRAMS {
            ran.leak = self.end(slot);
            self.is_last_idle = true;
        } else {
            self.slots.push(slot);
        }
        Ok(ran)
    }

    /// Give up all mounts. Says what stayed behind.
    pub(super) fn close(&mut self) -> Option<String> {
        let ended = self.slots.drain(..).map(|slot| slot.end().0);
        ended.fold(None, Option::or)
    }

    /// Tell each instrumented place of the kernel that the latest program passed, by its address, as often as it did.
    pub(super) fn passed(&self, tell: impl FnMut(u64)) {
        let daemon =
            if self.is_last_idle { self.idle.last() } else { self.slots.last().map(|slot| &slot.daemon) };
        self.tell(&self.helpers, daemon, tell);
    }

    /// The same for a new mount, which hangs on the programs before it and not on its own.
    pub(super) fn staged(&self) -> &[u64] {
        &self.staged
    }

    /// The same while it is under way.
    pub(super) fn passed_by(&self, run: &Run, tell: impl FnMut(u64)) {
        self.tell(&run.helpers, Some(&run.slot.daemon), tell);
    }

    fn tell(&self, helpers: &BTreeMap<Actor, Helper>, daemon: Option<&Daemon>, mut tell: impl FnMut(u64)) {
        let daemon = daemon.and_then(|daemon| daemon.kcov.as_ref());
        let helpers = helpers.values().filter_map(|helper| helper.kcov.as_ref());
        for kcov in helpers.chain(self.kcov.as_ref()).chain(daemon) {
            kcov.places().iter().for_each(|place| tell(*place));
        }
    }

    fn slot(&mut self, prologue: &[Step]) -> io::Result<Slot> {
        if let Some(at) = self.slots.iter().position(|slot| slot.prologue == prologue) {
            return Ok(self.slots.remove(at));
        }
        if self.slots.len() >= MOST_SLOTS {
            let oldest = self.slots.remove(0);
            // It was given up for its age only: what it left behind comes of none of the programs of now.
            self.end(oldest);
        }
        // A ring is gone for sure only with its process.
        let daemon = match self.idle.pop().filter(|_| self.over != Transport::IoUring) {
            Some(daemon) => daemon,
            None => Daemon::start()?,
        };
        self.made += 1;
        Slot::new(&self.base.join(self.made.to_string()), prologue, daemon, self.over)
    }

    fn end(&mut self, slot: Slot) -> Option<String> {
        let (leak, daemon) = slot.end();
        self.idle.extend(daemon);
        leak
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.close();
    }
}

/// One program under way.
pub(super) struct Run {
    slot: Slot,
    helpers: BTreeMap<Actor, Helper>,
    holdings: BTreeMap<Actor, Holdings>,
    /// Descriptors of the program start here.
    floor: i32,
    /// The mount's backing ids before the program: it counts its own from 1.
    given: i64,
    /// Kernel's numbers of ids that are registered.
    registered: BTreeSet<i64>,
    /// Devices that are clones of the mount's.
    clones: Vec<OwnedFd>,
    started: BTreeMap<String, Actor>,
    /// Of requests that are held, or were.
    uniques: BTreeMap<String, i64>,
    /// Names in the root that the kernel may know.
    names: BTreeSet<String>,
    is_paused: bool,
    /// A lower file may have got what only a new one is without.
    is_rewritten: bool,
    /// The mount is not good for another program.
    is_spoiled: bool,
    ran: Ran,
}

impl Run {
    fn new(slot: Slot, helpers: BTreeMap<Actor, Helper>) -> io::Result<Run> {
        slot.daemon.order(&Order::Fresh)?;
        Ok(Run {
            floor: lowest_free()?,
            given: slot.ids,
            slot,
            helpers,
            holdings: BTreeMap::new(),
            registered: BTreeSet::new(),
            clones: Vec::new(),
            started: BTreeMap::new(),
            uniques: BTreeMap::new(),
            names: BTreeSet::new(),
            is_paused: false,
            is_rewritten: false,
            is_spoiled: false,
            ran: Ran::default(),
        })
    }

    fn step(&mut self, index: usize, step: &Step) -> io::Result<StepRecord> {
        let bind = |step: &Step| Some(step.expect.as_ref()?.law.binds()?.1.to_string());
        let observed = match &step.verb {
            Verb::Call(call) => Some(self.call(step.actor, call, bind(step).as_deref())?),
            Verb::Start { name, call } => {
                let call = self.resolved(step.actor, call);
                let base = self.slot.stage.base.clone();
                self.helper(step.actor)?.begin(call, base)?;
                self.started.insert(name.clone(), step.actor);
                None
            }
            Verb::Await { name } => Some(self.wait(name, bind(step).as_deref())),
            Verb::On { times, opcode, path, reply } => {
                self.is_spoiled |= is_remembered(reply);
                let reply = self.reply(reply);
                self.slot.daemon.order(&Order::Rule {
                    times: *times,
                    opcode: *opcode,
                    path: path.clone(),
                    reply,
                })?;
                None
            }
            Verb::Answer { held, reply } => {
                self.is_spoiled |= is_remembered(reply);
                let reply = self.reply(reply);
                self.slot.daemon.order_now(&Order::Answer { held: held.clone(), reply })?;
                // Unless the daemon, which hears it only while it holds something, has more to say.
                Some(Observed::Impossible(format!("no request came that could be held as `{held}`")))
            }
            // What others will judge by.
            Verb::Saw(_) | Verb::Blocks { .. } => None,
        };
        let mut record = StepRecord { index, observed, ..StepRecord::default() };
        let is_answer = matches!(step.verb, Verb::Answer { .. });
        if let Some(errno) = self.collect(&mut record).filter(|_| is_answer) {
            record.observed = Some(if errno == 0 { Observed::Int(0) } else { Observed::Errno(errno) });
        }
        Ok(record)
    }

    fn call(&mut self, actor: Actor, call: &Call, bind: Option<&str>) -> io::Result<Observed> {
        if actor.side == Side::Host {
            self.is_spoiled |= call.name == "abort";
            if call.name == "signal" {
                return Ok(self.signal(call));
            }
            let nothing = || Observed::Impossible(format!("`{}` is not for an arena", call.name));
            return Ok(self.slot.stage.perform(call).unwrap_or_else(nothing));
        }
        self.is_rewritten |= matches!(call.name.as_str(), "setxattr" | "removexattr");
        for (_, value) in &call.args {
            if let Value::Path(path) = value {
                self.names.extend(path.split('/').next().map(str::to_string));
            }
        }
        let done = match (actor.side, call.name.as_str()) {
            (Side::Daemon, "backing_open") => self.backing_open(actor, call, bind),
            (Side::Daemon, "backing_close") => self.backing_close(actor, call),
            (Side::Daemon, "send") => self.send(actor, call),
            (Side::Daemon, "clone_device") => self.clone_device(),
            (Side::Daemon, word @ ("pause" | "serve")) => {
                let paused = self.pause(word == "pause").map(|()| Observed::Int(0));
                paused.map_err(|error| error.to_string())
            }
            _ => Ok(self.holdings(actor).perform(call, bind)),
        };
        let observed = done.unwrap_or_else(Observed::Impossible);
        if let ("close", Some(Value::Name(name, 0)), Observed::Int(_)) =
            (call.name.as_str(), call.arg("fd"), &observed)
        {
            // The number may soon be another file's.
            self.holdings(actor).numbers.insert(name.clone(), NOBODYS);
        }
        Ok(observed)
    }

    /// Interrupt the call that an actor has in progress. Who has none heeds no signal.
    fn signal(&mut self, call: &Call) -> Observed {
        let actor = Actor::named(call.text("actor"));
        let helper = actor.and_then(|actor| self.helpers.get_mut(&actor)).filter(|helper| helper.is_busy);
        let (Some(helper), Ok(signal)) = (helper, call.text("signal").parse()) else {
            return Observed::Int(0);
        };
        helper.signal(signal).map_or_else(|errno| Observed::Errno(errno as i32), |()| Observed::Int(0))
    }

    /// What an application had, that was killed and whose call is over, ends with it. Not before somebody looks: the daemon may
    /// have to be told to answer what that leads to.
    fn bury(&mut self, actor: Actor) {
        if self.helpers.get(&actor).is_some_and(Helper::is_dead)
            && let Some(mut holdings) = self.holdings.remove(&actor)
        {
            holdings.unmap_all();
            for number in
                holdings.numbers.into_values().filter(|number| (self.floor..OURS).contains(&(*number as i32)))
            {
                // SAFETY: a descriptor of the program; what is ours is below or above.
                unsafe { libc::close(number as i32) };
            }
        }
    }

    fn pause(&mut self, is_paused: bool) -> io::Result<()> {
        self.is_paused = is_paused;
        self.slot.daemon.interrupt(&Order::Pause(is_paused))
    }

    fn backing_open(&mut self, actor: Actor, call: &Call, bind: Option<&str>) -> Result<Observed, String> {
        let map = self.holdings(actor).backing_map(call)?;
        let opened = self.slot.device.backing_open(map).map(i64::from);
        if let Ok(id) = &opened {
            self.registered.insert(*id);
            self.slot.ids = *id;
        }
        let opened = opened.map(|id| id - self.given);
        if let (Ok(id), Some(name)) = (&opened, bind) {
            self.holdings(actor).numbers.insert(name.to_string(), *id);
        }
        Ok(observed(opened))
    }

    fn backing_close(&mut self, actor: Actor, call: &Call) -> Result<Observed, String> {
        let id = self.holdings(actor).number(call, "id", 0)?;
        let id = self.id(id);
        let closed = self.slot.device.backing_close(id as u32);
        if closed.is_ok() {
            self.registered.remove(&id);
        }
        Ok(observed(closed.map(|()| 0)))
    }

    /// Another device of the connection, that nobody reads.
    fn clone_device(&mut self) -> Result<Observed, String> {
        let made = self.slot.device.another(Transport::Plain).and_then(|device| duplicate(device.as_file()));
        Ok(observed(made.map(|device| {
            self.clones.push(device);
            0
        })))
    }

    fn send(&mut self, actor: Actor, call: &Call) -> Result<Observed, String> {
        self.is_spoiled |= call.int("error", 0) == i128::from(-libc::ENOSYS);
        let uniques = self.uniques.clone();
        let holdings = self.holdings(actor);
        holdings.numbers.extend(uniques);
        let (bytes, via) = spelled(holdings, call)?;
        Ok(observed(self.slot.device.write(&bytes, via).map(|count| count as i64)))
    }

    /// Write a message to the device, which may be anything. The mount is good for no other program then.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn write(&mut self, message: &[u8], via: &str) -> io::Result<usize> {
        self.is_spoiled = true;
        let via = match via_of(via) {
            Via::Splice { .. } => Via::Splice { pipe_has: message.len() },
            other => other,
        };
        self.slot.device.write(message, via)
    }

    /// The kernel's number of a request that is held, by the program's name.
    pub(super) fn unique(&self, held: &str) -> Option<u64> {
        self.uniques.get(held).map(|unique| *unique as u64)
    }

    /// What the steps until now led to.
    pub(super) fn records(&self) -> &[StepRecord] {
        &self.ran.records
    }

    /// What the daemon received since it was last asked for.
    pub(super) fn received(&self) -> Vec<Traffic> {
        self.slot.served()
    }

    fn wait(&mut self, name: &str, bind: Option<&str>) -> Observed {
        let Some(actor) = self.started.remove(name) else {
            return Observed::Impossible(format!("no call `{name}` is in progress"));
        };
        let observed = match self.helpers.get_mut(&actor) {
            None => Observed::Impossible(format!("{actor} has ended")),
            Some(helper) => helper.end(PATIENCE).unwrap_or(Observed::Hung),
        };
        self.bury(actor);
        if let (Observed::Int(number), Some(name)) = (&observed, bind) {
            self.holdings(actor).numbers.insert(name.to_string(), *number);
        }
        observed
    }

    /// What the daemon told belongs to this step. Gives what came of an answer, as an errno.
    fn collect(&mut self, record: &mut StepRecord) -> Option<i32> {
        let mut answered = None;
        for word in self.slot.daemon.words() {
            match word {
                Word::Served(traffic) => record.traffic.push(traffic),
                Word::Answered(errno) => answered = errno.or(answered),
                Word::Ends(why) => self.ran.ended = Some(why),
                Word::Begins => {}
            }
        }
        for traffic in &mut record.traffic {
            // What a program says of the root may make it bad for ever.
            let is_changed = matches!(&traffic.answer, Answer::Reply { fields, .. } if !fields.is_empty());
            self.is_spoiled |= traffic.path.is_empty() && is_changed;
            self.names
                .extend(traffic.path.split('/').next().filter(|name| !name.is_empty()).map(str::to_string));
            if let Answer::Held(name) = &traffic.answer {
                let unique = traffic.fields.iter().find(|(field, _)| field == "unique");
                self.uniques.extend(unique.map(|(_, unique)| (name.clone(), *unique as i64)));
            }
            if let Answer::Reply { fields, .. } = &mut traffic.answer {
                for (_, value) in fields.iter_mut().filter(|(name, _)| name == "backing_id") {
                    *value -= if *value > i128::from(self.given) { i128::from(self.given) } else { 0 };
                }
            }
        }
        answered
    }

    /// Leave nothing behind: neither files nor ids nor what the kernel has cached. Gives the mount
    /// back, whether it is not good for another program, and the helpers.
    fn end(mut self) -> io::Result<(Ran, Slot, bool, BTreeMap<Actor, Helper>)> {
        if self.is_paused {
            self.pause(false)?;
        }
        let busy: Vec<Actor> =
            self.helpers.iter().filter(|(_, helper)| helper.is_busy).map(|(actor, _)| *actor).collect();
        if !busy.is_empty() {
            self.is_spoiled = true;
            let _ = self.slot.stage.abort(&self.slot.stage.base.join("mnt"));
        }
        for actor in busy {
            if let Some(helper) = self.helpers.get_mut(&actor)
                && helper.end(MORE_PATIENCE).is_none()
            {
                let stack =
                    std::fs::read_to_string(format!("/proc/{}/stack", helper.pid)).unwrap_or_default();
                self.ran.stuck = Some(format!("{actor} hangs although its connection was aborted:\n{stack}"));
                self.helpers.remove(&actor);
            }
        }
        self.holdings.values_mut().for_each(Holdings::unmap_all);
        // SAFETY: descriptors of the program; what is ours is below or above.
        unsafe { libc::syscall(libc::SYS_close_range, self.floor, OURS - 1, 0) };
        self.clones.clear();
        // With the mount go its ids, too.
        for id in std::mem::take(&mut self.registered).into_iter().filter(|_| !self.is_spoiled) {
            let _ = self.slot.device.backing_close(id as u32);
        }
        let mut last = StepRecord::default();
        self.collect(&mut last);
        self.ran.rest = last.traffic;
        if self.is_spoiled || self.ran.ended.is_some() || self.slot.forget(&self.names).is_err() {
            return Ok((self.ran, self.slot, true, self.helpers));
        }
        // What the kernel had to say of that is of no program.
        self.slot.served();
        self.slot.restore(self.is_rewritten)?;
        Ok((self.ran, self.slot, false, self.helpers))
    }

    fn holdings(&mut self, actor: Actor) -> &mut Holdings {
        let base = &self.slot.stage.base;
        let root = if actor.side == Side::App { "mnt" } else { "lower" };
        self.holdings.entry(actor).or_insert_with(|| Holdings::new(base.clone(), root.into()))
    }

    fn helper(&mut self, actor: Actor) -> io::Result<&mut Helper> {
        match self.helpers.entry(actor) {
            Entry::Occupied(helper) => Ok(helper.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(Helper::start()?)),
        }
    }
}

/// The descriptor that the next open file gets.
fn lowest_free() -> io::Result<i32> {
    // SAFETY: plain system calls on numbers.
    match unsafe { libc::dup(0) } {
        -1 => Err(io::Error::last_os_error()),
        fd => {
            // SAFETY: just made.
            unsafe { libc::close(fd) };
            Ok(fd)
        }
    }
}
