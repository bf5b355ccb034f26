//! Walks a program: tells actors what to do, waits, collects what daemons and kernel had to say, reports each step.

mod crew;
mod foreign;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;

use super::actor::{Ask, Idle, Process, QUESTION, Say};
use super::kmsg::{KernelLog, inner_errno, logged_at_boot};
use super::limits;
use super::stage::Stage;
use crate::daemon::{Launch, Under};
use crate::program::{
    Actor, Call, INNER_ERRNO, Inner, Missing, Observed, Profile, Program, Saw, Side, Step, Transport, Verb,
};
use crate::protocol::{Ending, How, StepRecord, Traffic};
use crate::script;

/// How a program is run, and over whose daemon, if not over ours.
#[derive(Clone, Copy)]
pub(super) struct Manner<'a> {
    pub(super) how: How,
    pub(super) launch: Option<&'a Launch>,
}

/// Run a program at `base`; every step is told as soon as it is over. Gives also the recording of somebody else's daemon.
///
/// # Errors
/// The stage cannot be set: no mount, no folder.
pub(crate) fn conduct(
    program: &Program,
    profile: &Profile,
    manner: Manner<'_>,
    base: &Path,
    idle: &mut Idle,
    tell: &mut dyn FnMut(StepRecord) -> io::Result<()>,
) -> io::Result<(Ending, Vec<u8>)> {
    let Manner { how, launch } = manner;
    let stage = Stage::set(base)?;
    let start = Instant::now();
    let mut conductor = Conductor {
        stage,
        profile,
        transport: how.transport,
        lawless: how.lawless,
        shake: how.shake.map(fastrand::Rng::with_seed),
        failing: None,
        actors: BTreeMap::new(),
        idle,
        started: BTreeMap::new(),
        ids: BTreeMap::new(),
        seen: BTreeMap::new(),
        kernel: KernelLog::follow(),
        earlier: Vec::new(),
        told: BTreeMap::new(),
        launch,
        acts_as_others: program
            .steps
            .iter()
            .any(|step| matches!(&step.verb, Verb::Call(call) if call.name == "setuid")),
        under: None,
        trace: Vec::new(),
    };
    let mut missing = Missing::default();
    for (index, step) in program.steps.iter().enumerate() {
        if !profile.meets(&step.when) || missing.leaves_out(step, profile) {
            continue;
        }
        conductor.shake();
        let bind = binding(&program.steps[index..], profile);
        conductor.failing = how.failing.filter(|_| step.failing);
        let record = conductor.step(index, step, bind);
        if step.failing || (how.lawless && record.observed.is_some()) {
            missing.after(step, profile, record.observed.as_ref());
        }
        let is_wrong = record.wrong.is_some();
        if how.lawless && missing.is_something() && conductor.waits_for_ever(step, &record) {
            // From here on nothing can be said.
            break;
        }
        tell(record)?;
        if is_wrong {
            break;
        }
    }
    let (mut ending, trace) = conductor.end();
    ending.millis = start.elapsed().as_millis() as u64;
    Ok((ending, trace))
}

struct Conductor<'a> {
    stage: Stage,
    profile: &'a Profile,
    transport: Transport,
    /// See [`How::lawless`].
    lawless: bool,
    /// Where delays come from, for a case that looks for a race.
    shake: Option<fastrand::Rng>,
    /// Which allocation of the next call or answer is to fail.
    failing: Option<u32>,
    actors: BTreeMap<Actor, Process>,
    idle: &'a mut Idle,
    /// Calls that were started and not yet waited for.
    started: BTreeMap<String, Started>,
    /// Backing ids by who registered them: other actors may name them, too.
    ids: BTreeMap<(String, Actor), i64>,
    /// What each daemon received since its last exact `saw`.
    seen: BTreeMap<u8, Vec<Traffic>>,
    kernel: KernelLog,
    /// What daemons received, as they told with the answer to something else.
    told: BTreeMap<Actor, Vec<Traffic>>,
    /// What the kernel logged while the call that is just being awaited was in progress.
    earlier: Vec<String>,
    /// Somebody else's daemon: how it is started, and the daemon once it is.
    launch: Option<&'a Launch>,
    /// Somebody in the program becomes another user.
    acts_as_others: bool,
    under: Option<Under>,
    /// What was recorded of it, once it has ended.
    trace: Vec<u8>,
}

/// Between two looks at whether anything still happens.
const PAUSE: Duration = Duration::from_millis(1);

/// The longest delay before a step that looks for a race is 2 to the power of this many microseconds.
const MOST_DELAY: u32 = 12;

/// A call in progress.
struct Started {
    actor: Actor,
    /// What the kernel logged since it was begun.
    kernel: Vec<String>,
}

/// What a verb led to: an observation, or a judgement of its own.
enum Did {
    Observed(Observed),
    Nothing,
    Wrong(String),
}

impl Conductor<'_> {
    /// Let the calls in progress get ahead by no, little, or much time.
    fn shake(&mut self) {
        if let Some(random) = &mut self.shake
            && random.bool()
        {
            std::thread::sleep(Duration::from_micros(1 << random.u32(0..=MOST_DELAY)));
        }
    }

    fn step(&mut self, index: usize, step: &Step, bind: Option<&str>) -> StepRecord {
        let mut traffic = Vec::new();
        let is_failing = self.failing.is_some();
        let foreign = self.foreign(step);
        let did = match &step.verb {
            _ if foreign.is_some() => foreign.unwrap_or(Did::Nothing),
            Verb::Call(call) => Did::Observed(self.call(step.actor, call, bind, &mut traffic)),
            Verb::Start { name, call } => self.start(step.actor, name, call, bind, &mut traffic),
            Verb::Blocks { name } => self.blocks(name),
            Verb::Await { name } => self.wait(name),
            Verb::On { times, opcode, path, reply } => {
                let text = script::print_step(step);
                let ask = Ask::Rule {
                    times: *times,
                    opcode: *opcode,
                    path: path.clone(),
                    reply: self.reply_with_foreign_ids(step.actor, reply),
                    text,
                };
                match self.ask(step.actor, &ask) {
                    Observed::Int(_) => Did::Nothing,
                    failed => Did::Wrong(failed.to_string()),
                }
            }
            Verb::Answer { held, reply } => {
                let ask =
                    Ask::Answer { held: held.clone(), reply: self.reply_with_foreign_ids(step.actor, reply) };
                match self.ask(step.actor, &ask) {
                    Observed::Impossible(why) => Did::Wrong(why),
                    observed => Did::Observed(observed),
                }
            }
            Verb::Saw(saw) => self.saw(step.actor, saw, &mut traffic),
        };
        let (did, struck) = if is_failing { self.struck(step.actor, did) } else { (did, None) };
        if self.started.is_empty() {
            traffic.extend(self.collect());
        } else if !matches!(step.verb, Verb::Start { .. }) {
            self.settle(&mut traffic);
        }
        // Each daemon has an order of its own; between two there is none that would be the same on every run.
        traffic.sort_by_key(|got| got.daemon);
        let kernel = self.kernel.take();
        for call in self.started.values_mut() {
            call.kernel.extend(kernel.iter().cloned());
        }
        let earlier = std::mem::take(&mut self.earlier);
        let inner = match did {
            Did::Observed(Observed::Errno(libc::EIO)) => inner_errno(&earlier).or(inner_errno(&kernel)),
            _ => None,
        };
        let (observed, wrong) = match did {
            Did::Nothing => (None, None),
            Did::Wrong(why) => (None, Some(why)),
            Did::Observed(observed) => {
                let law = step.expect.as_ref().map(|expect| expect.on(self.profile));
                let inside =
                    if self.profile.has.contains(INNER_ERRNO) { Inner::Told(inner) } else { Inner::Untold };
                let is_done = !matches!(observed, Observed::Impossible(_));
                let wrong = law
                    .filter(|law| !(law.allows(&observed, inside) || self.lawless && is_done))
                    .map(|law| format!("expected {law}, got {observed}"));
                (Some(observed), wrong)
            }
        };
        StepRecord { index, observed, inner, wrong, struck, traffic, kernel }
    }

    /// Does a step come to nothing because one was left out that it waits for: an answer, or the request that is answered?
    fn waits_for_ever(&self, step: &Step, record: &StepRecord) -> bool {
        let is_busy = self.actors.get(&step.actor).is_some_and(|process| process.busy && !process.ended);
        let waits = is_busy || matches!(step.verb, Verb::Answer { .. } | Verb::Await { .. });
        waits && (record.wrong.is_some() || record.observed == Some(Observed::Hung))
    }

    fn process(&mut self, actor: Actor) -> Result<&mut Process, String> {
        if !self.actors.contains_key(&actor) {
            let user = self.user_of(actor);
            // Those that are idle are root's.
            let idle = if user.is_none() { self.idle.take(actor) } else { None };
            let mut process = match idle {
                Some(process) => process,
                None => Process::start(actor, self.stage.base.clone(), user)
                    .map_err(|error| format!("cannot start {actor}: {error}"))?,
            };
            if actor.side == Side::Daemon && self.transport != Transport::Plain {
                process.ask(&Ask::Over(self.transport), QUESTION);
            }
            self.actors.insert(actor, process);
        }
        let process = self.actors.get_mut(&actor).ok_or("no such actor")?;
        if process.ended {
            return Err(format!("{actor} has ended"));
        }
        if process.busy {
            return Err(format!("{actor} is still busy with a call that has not returned"));
        }
        Ok(process)
    }

    /// How long a call may take, also one that ends an actor: it closes all that the actor has open.
    fn limit(&self) -> Duration {
        if self.launch.is_some() { limits::CALL_OF_WORKLOAD } else { limits::CALL }
    }

    /// Ask an actor and wait for what came of it.
    fn ask(&mut self, actor: Actor, ask: &Ask) -> Observed {
        let limit = self.limit();
        let failing = self.failing.take().map(|nth| Ask::Failing(nth, Box::new(ask.clone())));
        let process = match self.process(actor) {
            Ok(process) => process,
            Err(why) => return Observed::Impossible(why),
        };
        let answer = process.ask(failing.as_ref().unwrap_or(ask), limit);
        self.observed(actor, answer)
    }

    /// Whether an allocation of what the actor just did was made to fail. A step that makes no call in which one could
    /// be is no such step.
    fn struck(&mut self, actor: Actor, did: Did) -> (Did, Option<bool>) {
        let answer = match &did {
            Did::Observed(Observed::Impossible(_) | Observed::Hung) | Did::Wrong(_) => return (did, None),
            _ => self.process(actor).ok().and_then(|process| process.ask(&Ask::Struck, QUESTION)),
        };
        match (self.failing.take(), answer) {
            (None, Some(Say::Struck(Some(struck)))) => (did, Some(struck)),
            _ => {
                let why = "nothing in this step can be made to fail: expected one system call on files, memory or the device";
                (Did::Wrong(why.into()), None)
            }
        }
    }

    /// Last words of a dying daemon are kept; silence is a call that hangs.
    fn observed(&mut self, actor: Actor, say: Option<Say>) -> Observed {
        let Some(process) = self.actors.get_mut(&actor) else {
            return Observed::Impossible("no such actor".into());
        };
        match say {
            Some(Say::Done(observed, log)) => {
                if actor.side == Side::Daemon {
                    self.told.entry(actor).or_default().extend(log);
                }
                observed
            }
            Some(Say::Log(last_words)) => {
                process.ended = true;
                self.seen.entry(actor.number).or_default().extend(last_words);
                Observed::Impossible(format!("{actor} has ended"))
            }
            Some(other) => Observed::Impossible(format!("{actor} said something else: {other:?}")),
            None if process.ended => Observed::Impossible(format!("{actor} has ended")),
            None => {
                process.busy = true;
                Observed::Hung
            }
        }
    }

    fn call(
        &mut self,
        actor: Actor,
        call: &Call,
        bind: Option<&str>,
        traffic: &mut Vec<Traffic>,
    ) -> Observed {
        if actor.side == Side::Host
            && let Some(observed) = self.stage.perform(call)
        {
            return observed;
        }
        let call = &self.resolved(actor, call);
        match call.name.as_str() {
            "logged" => {
                let start = call.data("start").0;
                let count = match call.text("when") {
                    "boot" => logged_at_boot(&start),
                    _ => self.kernel.logged(&start),
                };
                Observed::Int(count as i64)
            }
            "kill" => self.kill(call, traffic),
            "signal" => self.signal(call),
            "fork" => self.fork(actor, call),
            "exit" => self.exit(actor, call),
            "take" => match self.resolved_take(call) {
                Ok(call) => self.ask(actor, &Ask::Do { call, bind: bind.map(str::to_string) }),
                Err(why) => Observed::Impossible(why),
            },
            _ => {
                let observed =
                    self.ask(actor, &Ask::Do { call: call.clone(), bind: bind.map(str::to_string) });
                if let ("backing_open", Some(name), Observed::Int(id)) = (call.name.as_str(), bind, &observed)
                {
                    self.ids.insert((name.to_string(), actor), *id);
                }
                observed
            }
        }
    }

    fn start(
        &mut self,
        actor: Actor,
        name: &str,
        call: &Call,
        bind: Option<&str>,
        traffic: &mut Vec<Traffic>,
    ) -> Did {
        let call = self.resolved(actor, call);
        let process = match self.process(actor) {
            Ok(process) => process,
            Err(why) => return Did::Wrong(why),
        };
        let ask = Ask::Begin { call, bind: bind.map(str::to_string) };
        if process.pipe.send(&ask).is_err() {
            return Did::Wrong(format!("{actor} has ended"));
        }
        // Wait until it has begun, ...
        if !process.pipe.ready(limits::SETTLE) || !matches!(process.pipe.receive(), Ok(Say::Begun)) {
            return Did::Wrong(format!("{actor} did not begin the call"));
        }
        process.busy = true;
        self.started.insert(name.to_string(), Started { actor, kernel: Vec::new() });
        // ... and then until nothing happens any more.
        self.settle(traffic);
        Did::Nothing
    }

    /// Wait until every call in progress has returned, or sleeps in the kernel while nothing more reaches a daemon:
    /// what a step sets in motion belongs to that step, on every run.
    fn settle(&mut self, traffic: &mut Vec<Traffic>) {
        if self.shake.is_some() {
            return;
        }
        let until = Instant::now() + limits::SETTLE;
        let mut quiet = 0;
        while quiet < 2 && Instant::now() < until {
            let new = self.collect();
            let mut callers = self.started.values().filter_map(|call| self.actors.get(&call.actor));
            let settled = callers.all(|process| process.pipe.ready(PAUSE) || process.sleeps());
            quiet = if new.is_empty() && settled { quiet + 1 } else { 0 };
            traffic.extend(new);
        }
    }

    fn blocks(&mut self, name: &str) -> Did {
        let Some(process) = self.started.get(name).and_then(|call| self.actors.get(&call.actor)) else {
            return Did::Wrong(format!("no call `{name}` is in progress"));
        };
        if process.pipe.ready(limits::BLOCK) {
            match self.wait(name) {
                Did::Observed(observed) => {
                    Did::Wrong(format!("expected `{name}` to block, it returned {observed}"))
                }
                other => other,
            }
        } else {
            Did::Nothing
        }
    }

    fn wait(&mut self, name: &str) -> Did {
        let Some(Started { actor, kernel }) = self.started.remove(name) else {
            return Did::Wrong(format!("no call `{name}` is in progress"));
        };
        self.earlier = kernel;
        let limit = self.limit();
        let Some(process) = self.actors.get_mut(&actor) else {
            return Did::Wrong("no such actor".into());
        };
        process.busy = false;
        // Whoever has a call in progress cannot have been told to exit.
        let killed = process.ended;
        let answer = process.answer(limit);
        if killed && answer.is_none() {
            return Did::Observed(Observed::Signal(libc::SIGKILL));
        }
        Did::Observed(self.observed(actor, answer))
    }

    fn saw(&mut self, actor: Actor, saw: &Saw, traffic: &mut Vec<Traffic>) -> Did {
        let until = Instant::now() + limits::SETTLE;
        loop {
            traffic.extend(self.collect());
            let seen = self.seen.entry(actor.number).or_default();
            let complete = saw.is_complete(seen);
            if !complete && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            let wrong = saw.disagreement(seen);
            if let Saw::Exactly(_) = saw {
                seen.clear();
            }
            return wrong.map_or(Did::Nothing, Did::Wrong);
        }
    }

    /// What the daemons received since the last time. Also kept for the next `saw`.
    fn collect(&mut self) -> Vec<Traffic> {
        let mut new = Vec::new();
        for process in self.actors.values_mut().filter(|process| process.actor.side == Side::Daemon) {
            if process.busy {
                continue;
            }
            if let Some(log) = self.told.remove(&process.actor) {
                self.seen.entry(process.actor.number).or_default().extend(log.iter().cloned());
                new.extend(log);
                continue;
            }
            // One that has ended may have left its last words.
            let asked = !process.ended && process.pipe.send(&Ask::Log).is_ok();
            let within = if asked { QUESTION } else { Duration::ZERO };
            if let Some(Say::Log(log)) = process.answer(within) {
                self.seen.entry(process.actor.number).or_default().extend(log.iter().cloned());
                new.extend(log);
            }
        }
        new
    }

    /// End all actors in order, unmount, and see what will not go.
    fn end(mut self) -> (Ending, Vec<u8>) {
        let mut ending = Ending::default();
        let apps: Vec<Actor> =
            self.actors.keys().filter(|actor| actor.side != Side::Daemon).copied().collect();
        for actor in apps {
            if let Some(stuck) = self.end_one(actor) {
                // What it holds will not go either, and to wait for each part of it shows nothing more.
                let traffic = self.collect();
                self.mount_goes(false, &mut ending);
                ending = Ending { stuck: Some(stuck), traffic, kernel: self.kernel.take(), ..ending };
                return (ending, std::mem::take(&mut self.trace));
            }
        }
        ending.traffic = self.collect();
        for process in self.actors.values_mut().filter(|process| process.actor.side == Side::Daemon) {
            if !process.ended
                && let Some(Say::LeftOver(rules)) = process.ask(&Ask::LeftOver, QUESTION)
            {
                ending.left_over.extend(rules);
            }
        }
        let mounted = self.stage.mounts();
        self.mount_goes(mounted.iter().any(|at| at.ends_with(mount_name(1))), &mut ending);
        // On its way out a daemon may have unmounted.
        let mounted = if self.launch.is_some() { self.stage.mounts() } else { mounted };
        if self.transport == Transport::Virtiofs {
            // An unmount asks the daemon, and waits for what it holds.
            crew::give_up(&mut self.actors);
        }
        let Conductor { stage, actors, idle, under, trace, .. } = &mut self;
        let daemons: Vec<Actor> = actors.keys().filter(|actor| actor.side == Side::Daemon).copied().collect();
        let mut stuck = None;
        let mut end_daemon = |actor: Actor| {
            let Some(mut process) = actors.remove(&actor) else { return };
            if process.reset(limits::SETTLE) {
                idle.put(process);
            } else if !process.kill(limits::SETTLE) {
                stuck = Some(format!("{actor} does not end, even after SIGKILL"));
            }
        };
        // A daemon without a mount may hold lower files; one with a mount is needed until that is gone.
        let is_mounted = |actor: &&Actor| mounted.iter().any(|at| at.ends_with(mount_name(actor.number)));
        for actor in daemons.iter().filter(|actor| !is_mounted(actor)) {
            end_daemon(*actor);
        }
        let mut last = Ending::default();
        let leak = stage.strike(mounted, |name| {
            if name == mount_name(1) && under.is_some() {
                *trace = foreign::see_off(under, ending.daemon, &mut last);
            }
            if let Some(actor) = daemons.iter().find(|actor| mount_name(actor.number) == name) {
                end_daemon(*actor);
            }
        });
        if under.is_some() {
            // Its mount would not go.
            *trace = foreign::see_off(under, ending.daemon, &mut last);
        }
        ending = Ending { leak, stuck, daemon: last.daemon.or(ending.daemon), ..ending };
        ending.kernel = self.kernel.take();
        (ending, std::mem::take(&mut self.trace))
    }
}

/// What the first of these steps gives a name to; a call that is started gets the name that its `await` gives.
fn binding<'a>(steps: &'a [Step], profile: &Profile) -> Option<&'a str> {
    let (first, rest) = steps.split_first()?;
    let step = match &first.verb {
        Verb::Start { name, .. } => rest.iter().find(|step| {
            matches!(&step.verb, Verb::Await { name: awaited } if awaited == name)
                && profile.meets(&step.when)
        })?,
        _ => first,
    };
    step.expect.as_ref()?.on(profile).binds().map(|(_, name)| name)
}

/// Where a daemon mounts.
pub(super) fn mount_name(number: u8) -> String {
    if number == 1 { "mnt".into() } else { format!("mnt{number}") }
}
