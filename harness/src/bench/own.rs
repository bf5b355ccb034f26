//! What the suite itself costs, beside what it cannot be cheaper than, where that can be said: measured in the same run.
//!
//! A bound is what the project promises itself. Where it is missed this says so, and nothing fails.

use serde::Serialize;

use super::{Ratio, Spread};

/// What was measured of a kernel.
#[derive(Debug, Serialize)]
pub struct Own {
    /// The name it was asked for by.
    pub kernel: String,
    /// `uname -r` there.
    pub release: String,
    /// How many turns there were.
    pub rounds: u32,
    /// What it is all about.
    pub costs: Vec<Cost>,
    /// What could not be measured, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
}

/// Something that the suite does over and over.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// What it is called.
    pub name: &'static str,
    /// What is timed.
    pub what: String,
    /// How long that took, a time a turn, in nanoseconds.
    pub nanos: Vec<u64>,
    /// The middle of that.
    pub spread: Option<Spread>,
    /// What it cannot be cheaper than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// What it should not exceed, and whether it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<Judged>,
}

/// What something cannot be cheaper than.
#[derive(Debug, Serialize)]
pub struct Limit {
    /// What is timed.
    pub what: String,
    /// As for the cost, turn by turn.
    pub nanos: Vec<u64>,
    /// The middle of that.
    pub spread: Option<Spread>,
    /// How many times as long the cost takes.
    pub times: Option<Ratio>,
}

/// A bound, and whether it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// The bound.
    pub most: Bound,
    /// Whether it is.
    pub is_kept: bool,
}

/// A bound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// So many times the limit.
    Times(f64),
    /// So many seconds.
    Seconds(f64),
}

impl Cost {
    /// Of these times, without a limit.
    pub fn of(name: &'static str, what: impl Into<String>, nanos: Vec<u64>) -> Cost {
        Cost { name, what: what.into(), spread: spread(&nanos), nanos, limit: None, bound: None }
    }

    /// Beside these times of what it cannot be cheaper than.
    pub fn beside(mut self, what: impl Into<String>, nanos: Vec<u64>) -> Cost {
        // A ratio tells how many times as fast what comes second is.
        let times = Ratio::of(&self.nanos, &nanos);
        self.limit = Some(Limit { what: what.into(), spread: spread(&nanos), nanos, times });
        self
    }

    /// Which should not exceed that.
    pub fn within(mut self, bound: Bound) -> Cost {
        let value = match bound {
            Bound::Times(_) => self.limit.as_ref().and_then(|limit| Some(limit.times?.median)),
            Bound::Seconds(_) => self.spread.map(|spread| spread.median / 1e9),
        };
        let (Bound::Times(most) | Bound::Seconds(most)) = bound;
        self.bound = value.map(|value| Judged { most: bound, is_kept: value <= most });
        self
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::Times(most) => write!(f, "{most} times"),
            Bound::Seconds(most) => write!(f, "{most} s"),
        }
    }
}

fn spread(nanos: &[u64]) -> Option<Spread> {
    Spread::of(&nanos.iter().map(|nanos| *nanos as f64).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_kept_or_missed() {
        let cost = || Cost::of("a case", "it", vec![300, 400, 500]).beside("a mount", vec![100, 100, 100]);
        assert_eq!(cost().limit.unwrap().times.unwrap().median, 4.0);
        assert_eq!(
            cost().within(Bound::Times(5.0)).bound,
            Some(Judged { most: Bound::Times(5.0), is_kept: true })
        );
        assert_eq!(
            cost().within(Bound::Times(3.9)).bound,
            Some(Judged { most: Bound::Times(3.9), is_kept: false })
        );
        assert_eq!(
            cost().within(Bound::Seconds(4e-7)).bound,
            Some(Judged { most: Bound::Seconds(4e-7), is_kept: true })
        );
        assert_eq!(
            cost().within(Bound::Seconds(3e-7)).bound,
            Some(Judged { most: Bound::Seconds(3e-7), is_kept: false })
        );
        assert_eq!(Cost::of("boot", "it", Vec::new()).within(Bound::Seconds(1.0)).bound, None);
    }
}
