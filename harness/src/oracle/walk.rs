//! A walk through a program: each step is judged, and the state goes on with what came of it.

use std::collections::{BTreeMap, BTreeSet};

use super::ruling::{Doubt, Ruled, Ruling, Stop};
use super::started::Started;
use super::traffic::{Got, Sent, explains, listed, relevant};
use super::world::{Thing, World};
use crate::abi::Opcode;
use crate::program::{Actor, INNER_ERRNO, Inner, Observed, Outcome, Profile, Program, Saw, Step, Verb};
use crate::protocol::StepRecord;

/// What the oracle said of a whole program.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// Steps that have an outcome or a list, and were reached.
    pub steps: usize,
    /// Those of them that the oracle has an opinion of.
    pub opinions: usize,
    /// The first step that it forbids.
    pub contradiction: Option<Contradiction>,
    /// Rules by which it ruled on the way, and errnos by which it refused something under them.
    pub rules: BTreeMap<&'static str, BTreeSet<i32>>,
}

/// A step that the oracle forbids.
#[derive(Clone, Debug)]
pub struct Contradiction {
    /// Which of the program's steps.
    pub index: usize,
    /// What it allows instead, and by which rules.
    pub allows: String,
    /// The same as values; `None` where it is about what a daemon saw, or about a call that should have returned.
    pub ruling: Option<Ruling>,
}

/// Walk with what the program's own expectations say: the oracle and the case must agree.
pub fn against_case(program: &Program, profile: &Profile) -> Judged {
    Walk::new(program, profile, None).through(&|_| None, program.steps.len())
}

/// Like [`against_case`], by an oracle that gets one rule wrong: what the rule refuses is let through.
pub fn wrong_about(rule: &str, program: &Program, profile: &Profile) -> Judged {
    Walk::new(program, profile, Some(rule)).through(&|_| None, program.steps.len())
}

/// Walk with what was observed on a kernel.
pub fn against_kernel(program: &Program, profile: &Profile, records: &[StepRecord]) -> Judged {
    Walk::new(program, profile, None).with(records)
}

/// The same for a program that nobody wrote: once a step was outside of the model, the oracle says no more. A case is written
/// by somebody who knows what is still certain then.
pub fn against_kernel_with_care(program: &Program, profile: &Profile, records: &[StepRecord]) -> Judged {
    Walk { is_careful: true, ..Walk::new(program, profile, None) }.with(records)
}

struct Walk<'a> {
    /// Say nothing once something was not known.
    is_careful: bool,
    program: &'a Program,
    profile: &'a Profile,
    world: World,
    started: Vec<Started>,
    judged: Judged,
}

/// What the oracle says of one step.
enum Opinion {
    /// It has no outcome: nothing to say.
    Nothing,
    None,
    Agrees,
    Forbids(String, Option<Ruling>),
}

impl<'a> Walk<'a> {
    fn new(program: &'a Program, profile: &'a Profile, flipped: Option<&str>) -> Walk<'a> {
        let world = World::new(profile, flipped);
        Walk { is_careful: false, program, profile, world, started: Vec::new(), judged: Judged::default() }
    }

    /// As far as there are records.
    fn with(self, records: &'a [StepRecord]) -> Judged {
        let until = records.last().map_or(0, |last| last.index + 1);
        self.through(&|index| records.iter().find(|record| record.index == index), until)
    }

    fn through(mut self, record: &dyn Fn(usize) -> Option<&'a StepRecord>, until: usize) -> Judged {
        let program = self.program;
        // What a step with too little memory leaves behind, and what the steps behind it find, is the case's to say.
        let until = until.min(program.failing().unwrap_or(until));
        for (index, step) in program.steps.iter().enumerate().take(until) {
            if !self.profile.meets(&step.when) {
                continue;
            }
            self.doubt_what_is_in_progress();
            let opinion = match self.step(step, record(index)) {
                Opinion::Nothing => Opinion::Nothing,
                _ if self.world.lost || (self.is_careful && self.world.foggy) => Opinion::None,
                opinion => opinion,
            };
            let (counts, has_one) = match &opinion {
                Opinion::Nothing => (0, 0),
                Opinion::None => (1, 0),
                Opinion::Agrees | Opinion::Forbids(..) => (1, 1),
            };
            self.judged.steps += counts;
            self.judged.opinions += has_one;
            self.doubt_who_was_interrupted(index, record(index));
            if let Opinion::Forbids(allows, ruling) = opinion {
                self.judged.contradiction = Some(Contradiction { index, allows, ruling });
                break;
            }
            let mut started = std::mem::take(&mut self.started);
            self.world.go_on(&mut started);
            self.started = started;
        }
        for (rule, errno) in std::mem::take(&mut self.world.refusals) {
            self.judged.rules.entry(rule).or_default().insert(errno);
        }
        self.judged
    }

    /// A started call that is outside of the model may do what it does now, and hold up others as long as it likes.
    fn doubt_what_is_in_progress(&mut self) {
        let doubts = self.started.iter().filter_map(|call| match call.result {
            Some(Err(Stop::Unsure(doubt))) => Some(doubt),
            _ => None,
        });
        let doubts: Vec<Doubt> = doubts.collect();
        self.world.may_wait = !doubts.is_empty();
        doubts.into_iter().for_each(|doubt| self.world.doubt(doubt));
    }

    /// Whoever runs a program may interrupt what takes too long there: of such a request less is known.
    fn doubt_who_was_interrupted(&mut self, index: usize, record: Option<&StepRecord>) {
        let signals = |step: &Step| matches!(&step.verb, Verb::Call(call) if call.name == "signal");
        if !self.program.steps[..=index].iter().any(signals) {
            let traffic = record.iter().flat_map(|record| &record.traffic);
            for got in traffic.filter(|got| got.opcode == Opcode::INTERRUPT) {
                self.world.daemon(got.daemon).unsteady = true;
            }
        }
    }

    fn step(&mut self, step: &'a Step, record: Option<&StepRecord>) -> Opinion {
        let number = step.actor.number;
        match &step.verb {
            Verb::Call(call) => {
                let ruled = self.world.perform(step.actor, call);
                self.conclude(step, step.actor, ruled, record)
            }
            Verb::Start { name, call } => {
                let mut started = Started::new(name, step.actor, call);
                started.attempt(&mut self.world);
                self.started.push(started);
                Opinion::Nothing
            }
            Verb::Blocks { .. } if self.world.may_wait => Opinion::None,
            Verb::Blocks { name } => match self.started.iter().find(|call| call.name == *name) {
                Some(Started { result: Some(Ok(given)), .. }) if given.ruling.allows.is_empty() => {
                    Opinion::None
                }
                Some(Started { result: Some(Ok(_) | Err(Stop::Refused(..) | Stop::Signal(..))), .. }) => {
                    Opinion::Forbids(format!("`{name}` to have returned"), None)
                }
                Some(Started { result: None, .. }) => Opinion::Agrees,
                _ => Opinion::None,
            },
            Verb::Await { name } => {
                let Some(position) = self.started.iter().position(|call| call.name == *name) else {
                    return Opinion::None;
                };
                let call = self.started.remove(position);
                let ruled = call.result.unwrap_or(Err(super::ruling::UNSURE));
                self.world.locked.retain(|(locker, ..)| *locker != call.name);
                self.conclude(step, call.actor, ruled, record)
            }
            Verb::On { times, opcode, path, reply } => {
                let (path, reply) = (path.clone(), reply.clone());
                let rule = super::daemon::Rule { times: *times, opcode: *opcode, path, reply };
                self.world.daemon(number).rules.push(rule);
                Opinion::Nothing
            }
            Verb::Answer { held, reply } => {
                let ruled = self.world.answer(number, held, reply);
                self.conclude(step, step.actor, ruled, record)
            }
            Verb::Saw(saw) => self.saw(number, saw),
        }
    }

    /// Compare what is allowed with what came, and go on with the latter.
    fn conclude(&mut self, step: &Step, actor: Actor, ruled: Ruled, record: Option<&StepRecord>) -> Opinion {
        let law = step.expect.as_ref().map_or(&Outcome::Ok, |expect| expect.on(self.profile));
        let observed = record.and_then(|record| record.observed.as_ref());
        let told = record.and_then(|record| record.inner);
        let inside = if self.world.has(INNER_ERRNO) { Inner::Told(told) } else { Inner::Untold };
        let (ruling, made) = match ruled {
            Ok(given) => (Some(given.ruling), given.made),
            Err(stop) => {
                match stop {
                    Stop::Unsure(doubt) => self.world.doubt(doubt),
                    Stop::Waits => self.world.doubt(Doubt::Everything),
                    _ => {}
                }
                (stop.ruling(), None)
            }
        };
        let ruling = ruling.filter(|ruling| !ruling.allows.is_empty());
        for rule in ruling.iter().flat_map(|ruling| &ruling.rules) {
            self.judged.rules.entry(rule).or_default();
        }
        let succeeded = match observed {
            Some(Observed::Int(_) | Observed::Data(_) | Observed::Fields(_)) => true,
            Some(_) => false,
            None => may_succeed(law),
        };
        if succeeded {
            let number = match observed {
                Some(Observed::Int(number)) => Some(*number),
                _ => None,
            };
            self.bind(actor, law, made, number);
        } else if let Some(Thing::Fd(open)) = made {
            self.world.release(actor, open);
        }
        match ruling {
            None => Opinion::None,
            Some(ruling) if agrees(&ruling, law, observed, inside) => Opinion::Agrees,
            Some(ruling) => Opinion::Forbids(ruling.to_string(), Some(ruling)),
        }
    }

    fn bind(&mut self, actor: Actor, law: &Outcome, made: Option<Thing>, number: Option<i64>) {
        let Some((kind, name)) = law.binds() else { return };
        let thing = match (kind, made) {
            ("pipe", _) => {
                for end in ["r", "w"] {
                    self.world.names.insert((actor, format!("{name}.{end}")), Thing::Foreign);
                }
                return;
            }
            (_, Some(thing)) => thing,
            ("id", None) => number.map_or(Thing::Unknown, Thing::Id),
            (_, None) => Thing::Unknown,
        };
        self.world.names.insert((actor, name.to_string()), thing);
    }

    fn saw(&mut self, number: u8, saw: &Saw) -> Opinion {
        let log = self.world.daemon(number).log.clone();
        let unsure = log.contains(&Sent::Anything);
        let agrees = match saw {
            Saw::Exactly(list) => {
                let daemon = self.world.daemon(number);
                daemon.log.clear();
                if daemon.unsteady {
                    daemon.log.push(Sent::Anything);
                }
                explains(&log, &relevant(list.iter().map(Got::from)))
            }
            Saw::Some(list) => {
                // Anything may stand before, between and behind.
                let got = relevant(list.iter().map(Got::from));
                let loose: Vec<Sent> = log.iter().map(Sent::at_will).collect();
                explains(&loose, &got)
            }
            Saw::No(opcodes) => !log.iter().any(|sent| opcodes.iter().any(|opcode| sent.must_be(*opcode))),
        };
        match (agrees, unsure) {
            (false, _) => Opinion::Forbids(format!("the daemon to see {} there", listed(&log)), None),
            (true, true) => Opinion::None,
            (true, false) => Opinion::Agrees,
        }
    }
}

fn agrees(ruling: &Ruling, law: &Outcome, observed: Option<&Observed>, inside: Inner) -> bool {
    match observed {
        Some(observed) => ruling.allows.iter().any(|allowed| allowed.allows(observed, inside)),
        None => ruling.agrees_with(law),
    }
}

fn may_succeed(law: &Outcome) -> bool {
    match law {
        Outcome::Errno(_) | Outcome::Inside(..) | Outcome::Signal(_) => false,
        Outcome::Any(list) => list.iter().any(may_succeed),
        _ => true,
    }
}
