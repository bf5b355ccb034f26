//! What the oracle says of one step. A ruling knows outcomes and the rules behind them, nothing of the state.

use std::fmt;

use super::world::Thing;
use crate::program::Outcome;

/// What the rules allow of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// One of these; more than one where the rules leave room.
    pub allows: Vec<Outcome>,
    /// IDs of the rules it follows from.
    pub rules: Vec<&'static str>,
}

impl Ruling {
    /// Could something be observed that this ruling and that law both allow?
    pub fn agrees_with(&self, law: &Outcome) -> bool {
        self.allows.iter().any(|allowed| overlap(allowed, law))
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcomes: Vec<String> = self.allows.iter().map(ToString::to_string).collect();
        write!(f, "{}", outcomes.join(" or "))?;
        if self.rules.is_empty() { Ok(()) } else { write!(f, " ({})", self.rules.join(" ")) }
    }
}

fn overlap(one: &Outcome, other: &Outcome) -> bool {
    use Outcome::*;
    match (one, other) {
        (Any(list), outcome) | (outcome, Any(list)) => list.iter().any(|one| overlap(one, outcome)),
        (Errno(_) | Inside(..) | Signal(_), Errno(_) | Inside(..) | Signal(_)) => fails_alike(one, other),
        (Errno(_) | Inside(..) | Signal(_), _) | (_, Errno(_) | Inside(..) | Signal(_)) => false,
        (Data(one), Data(other)) => one == other,
        (Fields(one), Fields(other)) => {
            one.iter().all(|(name, value)| other.iter().all(|(n, v)| n != name || v == value))
        }
        (one, other) => match (number(one), number(other)) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        },
    }
}

fn fails_alike(one: &Outcome, other: &Outcome) -> bool {
    match (one, other) {
        (Outcome::Inside(a, i), Outcome::Inside(b, j)) => a == b && i == j,
        (Outcome::Inside(a, _) | Outcome::Errno(a), Outcome::Inside(b, _) | Outcome::Errno(b)) => a == b,
        (one, other) => one == other,
    }
}

fn number(outcome: &Outcome) -> Option<i64> {
    match outcome {
        Outcome::Int(value) | Outcome::Bind { value: Some(value), .. } => Some(*value),
        _ => None,
    }
}

/// What a call gives by the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) ruling: Ruling,
    /// What was made, to be given a name.
    pub(super) made: Option<Thing>,
}

impl Given {
    pub(super) fn one(outcome: Outcome, rules: &[&'static str]) -> Given {
        Given { ruling: Ruling { allows: vec![outcome], rules: rules.to_vec() }, made: None }
    }

    pub(super) fn ok(rules: &[&'static str]) -> Given {
        Given::one(Outcome::Ok, rules)
    }

    pub(super) fn int(value: u64, rules: &[&'static str]) -> Given {
        Given::one(Outcome::Int(value as i64), rules)
    }

    /// It may give this, or fail.
    pub(super) fn untold(self) -> Given {
        Given { ruling: Ruling { allows: Vec::new(), rules: Vec::new() }, ..self }
    }

    pub(super) fn made(thing: Thing, rules: &[&'static str]) -> Given {
        Given { made: Some(thing), ..Given::ok(rules) }
    }
}

/// Why a call gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It fails by that rule; the second errno is the one inside.
    Refused(i32, Option<i32>, &'static str),
    /// It waits: for an answer that is held back, or for somebody who is in the way.
    Waits,
    /// It gets that signal.
    Signal(i32, &'static str),
    /// Outside of the model; how much of the state is in doubt from here on.
    Unsure(Doubt),
}

/// What a step outside of the model may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Nothing: only its outcome is unknown.
    Outcome,
    /// Nothing but that requests may have been sent.
    Traffic,
    /// Contents, sizes and names.
    Everything,
}

pub(super) type Ruled = Result<Given, Stop>;

pub(super) const UNSURE: Stop = Stop::Unsure(Doubt::Everything);

impl Stop {
    /// What is to be observed, if that is known.
    pub(super) fn ruling(&self) -> Option<Ruling> {
        let (outcome, rule) = match *self {
            Stop::Refused(errno, None, rule) => (Outcome::Errno(errno), rule),
            Stop::Refused(errno, Some(inner), rule) => (Outcome::Inside(errno, inner), rule),
            Stop::Signal(signal, rule) => (Outcome::Signal(signal), rule),
            Stop::Waits | Stop::Unsure(_) => return None,
        };
        Some(Ruling { allows: vec![outcome], rules: vec![rule] })
    }
}
