//! What a step must lead to, and what it did lead to.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::flags::{self, FlagSet};
use super::{Condition, Data, Profile};

/// The law of a step: what it leads to, with named exceptions by capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// What holds where no variant applies.
    pub law: Outcome,
    /// Exceptions; the first whose conditions hold applies.
    pub variants: Vec<Variant>,
}

impl Expect {
    /// The outcome that holds on a kernel with this profile.
    pub fn on(&self, profile: &Profile) -> &Outcome {
        let variant = self.variants.iter().find(|variant| profile.meets(&variant.when));
        variant.map_or(&self.law, |variant| &variant.outcome)
    }
}

/// An exception to a law, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// When it applies.
    pub when: Vec<Condition>,
    /// What holds then.
    pub outcome: Outcome,
    /// Why; shown to whoever reads the case.
    pub reason: String,
}

/// What a step may lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Success, whatever the value.
    Ok,
    /// Success with exactly this number.
    Int(i64),
    /// Success with exactly these bytes.
    Data(Data),
    /// Failure with this errno.
    Errno(i32),
    /// Failure with the first errno, for which the kernel had the second one inside (`EIO/EBUSY`). What is inside
    /// counts only on a kernel that tells; on such a one, silence is another reason for failing.
    Inside(i32, i32),
    /// Success; what was made is called `name` from here on. `kind` is `fd`, `id`, `map` or `pipe`.
    Bind {
        /// What kind of thing it is.
        kind: String,
        /// Its name in later steps.
        name: String,
        /// The number it must have, where that is the point.
        value: Option<i64>,
    },
    /// Success with a record of which these fields must have these values.
    Fields(Vec<(String, i128)>),
    /// The calling process gets this signal.
    Signal(i32),
    /// One of these: the rule leaves room.
    Any(Vec<Outcome>),
}

/// What a call led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observed {
    /// It succeeded with this number.
    Int(i64),
    /// It succeeded with these bytes.
    Data(Data),
    /// It failed with this errno.
    Errno(i32),
    /// It succeeded with this record.
    Fields(Vec<(String, i128)>),
    /// The process got this signal.
    Signal(i32),
    /// It had not returned when its time was over.
    Hung,
    /// Whoever should have done it is gone, or could not do it at all.
    Impossible(String),
}

/// What a kernel tells about the errno inside, in its debug messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// This kernel tells nothing: it has no such messages.
    Untold,
    /// It tells, and this is what it said, if anything.
    Told(Option<i32>),
}

impl Outcome {
    /// Does what was observed agree with this outcome? `inside` is what the kernel told about the errno inside.
    pub fn allows(&self, seen: &Observed, inside: Inner) -> bool {
        match (self, seen) {
            (Outcome::Ok, Observed::Int(_) | Observed::Data(_) | Observed::Fields(_)) => true,
            (Outcome::Int(law), Observed::Int(value)) => law == value,
            (Outcome::Data(law), Observed::Data(data)) => law == data,
            (Outcome::Errno(law), Observed::Errno(errno)) => law == errno,
            (Outcome::Inside(law, law_inside), Observed::Errno(errno)) => {
                law == errno
                    && match inside {
                        Inner::Untold => true,
                        Inner::Told(told) => told == Some(*law_inside),
                    }
            }
            (Outcome::Bind { value, .. }, Observed::Int(seen)) => value.is_none_or(|value| value == *seen),
            (Outcome::Fields(law), Observed::Fields(seen)) => law.iter().all(|field| seen.contains(field)),
            (Outcome::Signal(law), Observed::Signal(signal)) => law == signal,
            (Outcome::Any(outcomes), seen) => outcomes.iter().any(|outcome| outcome.allows(seen, inside)),
            _ => false,
        }
    }

    /// The name this outcome gives to what was made, if any: (kind, name).
    pub fn binds(&self) -> Option<(&str, &str)> {
        match self {
            Outcome::Bind { kind, name, .. } => Some((kind, name)),
            Outcome::Any(outcomes) => outcomes.iter().find_map(Outcome::binds),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Ok => f.write_str("ok"),
            Outcome::Int(value) => write!(f, "{value}"),
            Outcome::Data(data) => write!(f, "{data}"),
            Outcome::Errno(errno) => f.write_str(&flags::errno_name(*errno)),
            Outcome::Inside(errno, inner) => {
                write!(f, "{}/{}", flags::errno_name(*errno), flags::errno_name(*inner))
            }
            Outcome::Bind { kind, name, value: None } => write!(f, "{kind} {name}"),
            Outcome::Bind { kind, name, value: Some(value) } => write!(f, "{kind} {name}={value}"),
            Outcome::Fields(fields) => write_fields(f, fields),
            Outcome::Signal(signal) => f.write_str(&flags::signal_name(*signal)),
            Outcome::Any(outcomes) => {
                for (index, outcome) in outcomes.iter().enumerate() {
                    write!(f, "{}{outcome}", if index == 0 { "" } else { " or " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Observed::Int(value) => write!(f, "{value}"),
            Observed::Data(data) => write!(f, "{data}"),
            Observed::Errno(errno) => f.write_str(&flags::errno_name(*errno)),
            Observed::Fields(fields) => write_fields(f, fields),
            Observed::Signal(signal) => f.write_str(&flags::signal_name(*signal)),
            Observed::Hung => f.write_str("did not return"),
            Observed::Impossible(why) => write!(f, "could not be done: {why}"),
        }
    }
}

fn write_fields(f: &mut fmt::Formatter<'_>, fields: &[(String, i128)]) -> fmt::Result {
    for (index, (name, value)) in fields.iter().enumerate() {
        write!(f, "{}{name}=", if index == 0 { "" } else { " " })?;
        match FlagSet::of_field(name) {
            Some(set) => f.write_str(&set.print(*value as u64))?,
            None => write!(f, "{value}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const LAW: Outcome = Outcome::Inside(5, 16);

    #[rstest]
    #[case::as_the_law_says(Inner::Told(Some(16)), true)]
    #[case::for_another_reason(Inner::Told(Some(2)), false)]
    #[case::for_a_reason_of_another_kind(Inner::Told(None), false)]
    #[case::nobody_can_tell(Inner::Untold, true)]
    fn an_errno_inside_is_looked_at_where_it_is_told(#[case] inside: Inner, #[case] allowed: bool) {
        assert_eq!(LAW.allows(&Observed::Errno(5), inside), allowed);
        let one_of = Outcome::Any(vec![Outcome::Ok, LAW]);
        assert_eq!(one_of.allows(&Observed::Errno(5), inside), allowed);
        assert!(!LAW.allows(&Observed::Errno(16), inside));
    }
}
