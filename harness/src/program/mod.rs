//! The program: what a case parses to, what a generator makes, what the executor runs.
//!
//! One value for everybody. It is plain data: it does no I/O, knows no text syntax (that is [`crate::script`])
//! and performs nothing (that is [`crate::exec`]).

mod call;
mod calls;
mod capability;
mod data;
mod failing;
pub mod flags;
mod outcome;
mod transport;

pub use call::{Call, Kind, Need, Param, Signature, VIA, Yields};
pub use calls::{signature, signatures};
pub use capability::{
    CAPABILITIES, Capability, Condition, FAULT_INJECTION, INNER_ERRNO, OVER_VIRTIOFS, Profile, capability,
};
pub use data::{Data, DataError};
pub use failing::{MOST_POINTS, Missing};
pub use outcome::{Expect, Inner, Observed, Outcome, Variant};
pub use transport::{Exclusion, Transport};

use serde::{Deserialize, Serialize};

use crate::abi::Opcode;

/// One executable case: a sentence, what it rests on, and the steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// One sentence saying what is true if the case passes; the title in every report.
    pub title: String,
    /// IDs of the rules the case rests on.
    pub rules: Vec<String>,
    /// Capabilities without which the case says nothing: it is skipped, with the capability's reason.
    pub needs: Vec<Condition>,
    /// Transports that it cannot run over.
    pub not: Vec<Exclusion>,
    /// Why the case must not run on a machine one wants to keep, if so.
    pub danger: Option<String>,
    /// For a race, whose outcome no order of steps decides: how it is looked for.
    pub stress: Option<Stress>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

impl Program {
    /// The capabilities that decide on anything in it.
    pub(crate) fn capabilities(&self) -> impl Iterator<Item = &str> {
        let steps = self.steps.iter().flat_map(|step| {
            let variants = step.expect.iter().flat_map(|expect| &expect.variants);
            step.when.iter().chain(variants.flat_map(|variant| &variant.when))
        });
        self.needs.iter().chain(steps).map(|condition| condition.capability.as_str())
    }
}

/// A race is run again and again, each time with other delays before its steps; calls that are started are not waited for
/// until they are awaited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stress {
    /// How often, at most [`Stress::MOST`].
    pub rounds: u16,
    /// Why no order of steps can show it.
    pub reason: String,
}

impl Stress {
    /// The most rounds that a case may have.
    pub const MOST: u16 = 1000;
}

/// One line of a case: who does what, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where the step was written.
    pub at: At,
    /// The step happens only where all of these hold; otherwise it is left out silently.
    pub when: Vec<Condition>,
    /// Who performs it.
    pub actor: Actor,
    /// Its allocations fail: the case is run again for the first, the second, ... until it makes no more.
    pub failing: bool,
    /// What is performed.
    pub verb: Verb,
    /// What must come of it; `None` for a verb that has no outcome.
    pub expect: Option<Expect>,
}

/// Where a step was written. Two places are always equal, so that programs compare by what they do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct At {
    /// Path of the file below `cases/`.
    pub file: String,
    /// Line, counted from 1.
    pub line: u32,
}

impl PartialEq for At {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for At {}

/// The side an actor stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// An application on the mount.
    App,
    /// The process behind `/dev/fuse`.
    Daemon,
    /// Neither: sets the stage, aborts, unmounts, looks at the lower file system.
    Host,
}

/// Who performs a step: `app`, `app2`, `daemon`, `daemon2`, `host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Actor {
    /// The side.
    pub side: Side,
    /// Counted from 1; `app` is `app1`.
    pub number: u8,
}

impl Actor {
    /// The most actors a side may have.
    pub const MOST: u8 = 9;

    /// The application or daemon that a word stands for.
    pub fn named(word: &str) -> Option<Actor> {
        let sides = [(Side::App, "app"), (Side::Daemon, "daemon")];
        let (side, digits) =
            sides.into_iter().find_map(|(side, name)| Some((side, word.strip_prefix(name)?)))?;
        let number = if digits.is_empty() { 1 } else { digits.parse().ok()? };
        (1..=Actor::MOST).contains(&number).then_some(Actor { side, number })
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = match self.side {
            Side::App => "app",
            Side::Daemon => "daemon",
            Side::Host => "host",
        };
        if self.number == 1 { f.write_str(side) } else { write!(f, "{side}{}", self.number) }
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// A call that is waited for.
    Call(Call),
    /// A call that is begun and not waited for; `name` stands for it from here on.
    Start {
        /// What the call in progress is called.
        name: String,
        /// The call.
        call: Call,
    },
    /// The call of that name has not returned and does not return within a short while.
    Blocks {
        /// Name given by [`Verb::Start`].
        name: String,
    },
    /// Wait for the call of that name; its result is the step's outcome.
    Await {
        /// Name given by [`Verb::Start`].
        name: String,
    },
    /// What the daemon will do with a request that matches.
    On {
        /// Consumed by one request (and a failure if none came), or in force until the end.
        times: Times,
        /// The request's opcode.
        opcode: Opcode,
        /// The file it is about, relative to the mount's root; any file if absent.
        path: Option<String>,
        /// What is done with it.
        reply: Reply,
    },
    /// Deal with a request that was held.
    Answer {
        /// Name given by [`Reply::Hold`].
        held: String,
        /// What is done with it.
        reply: Reply,
    },
    /// What the daemon received since the last such step.
    Saw(Saw),
}

/// How often a daemon rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Times {
    /// `on`: for the next match; a leftover at the end is a failure.
    Once,
    /// `always`: for every match.
    Always,
}

/// What a daemon does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Answer as the loopback would, with these fields put in place of its own. The names are the reply
    /// structure's (`open_flags`, `backing_id`, ...), the header's (`len`, `error`, `unique`), or one of
    /// `data` (the variable part), `cut` and `pad` (bytes taken off or added at the end) and `via`.
    Fields(Vec<(String, Value)>),
    /// Answer with success, and these fields, without having done anything.
    Claim(Vec<(String, Value)>),
    /// Answer with an errno and no payload.
    Error(i32),
    /// Keep the request, under this name, for [`Verb::Answer`].
    Hold(String),
    /// Never answer.
    Drop,
    /// The daemon's process ends at once, without answering.
    Die,
}

/// What must stand in the daemon's log since the last look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Saw {
    /// Exactly these, in this order. Opcodes that are housekeeping ([`Opcode::is_housekeeping`]) count
    /// only if the list names them.
    Exactly(Vec<Seen>),
    /// These, in this order, among whatever else.
    Some(Vec<Seen>),
    /// None of these opcodes.
    No(Vec<Opcode>),
}

/// A request as an expectation describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The opcode.
    pub opcode: Opcode,
    /// The file it is about, relative to the mount's root.
    pub path: Option<String>,
    /// Fields of the request (header's or body's) that must have these values.
    pub fields: Vec<(String, Value)>,
}

/// An argument, or the value of a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// A number. Flags are numbers too: the text form names the bits.
    Int(i128),
    /// Something named earlier (an fd, a map, a backing id, a held request's unique), plus an offset.
    Name(String, i64),
    /// Several open files, each a number or a name.
    Fds(Vec<Value>),
    /// Bytes.
    Data(Data),
    /// A path: `a` below the actor's own root, `mnt2:a` below a named one, `/proc/version`, absolute.
    Path(String),
    /// One of the fixed words of a parameter.
    Word(String),
}

impl Value {
    /// The most files that a list may have.
    pub const MOST_FDS: usize = 4096;

    /// The number, if it is one.
    pub fn int(&self) -> Option<i128> {
        match self {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_is_named_as_it_is_shown() {
        for side in [Side::App, Side::Daemon] {
            for number in 1..=Actor::MOST {
                let actor = Actor { side, number };
                assert_eq!(Actor::named(&actor.to_string()), Some(actor));
            }
        }
        for none in ["app0", "daemon10", "app-1", "ap", "host", ""] {
            assert_eq!(Actor::named(none), None, "{none}");
        }
    }
}
