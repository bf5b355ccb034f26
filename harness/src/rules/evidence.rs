//! What became of cases on kernels, as far as it is known: a rule is shown by a case that passed, not by one that is there.

use std::collections::BTreeMap;

use crate::script::Case;

/// What became of a case on a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran and passed.
    Passed,
    /// It did not: `skipped: ` and the reason, for one.
    Not(String),
}

/// One case's outcome on one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The case's name, with its variant.
    pub case: String,
    /// The kernel's name.
    pub kernel: String,
    /// What became of it there.
    pub outcome: Outcome,
}

/// All that is known, by the path of the case's file and by kernel: one outcome of each variant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence(BTreeMap<String, BTreeMap<String, Vec<Outcome>>>);

impl Extend<Seen> for Evidence {
    fn extend<T: IntoIterator<Item = Seen>>(&mut self, all: T) {
        for Seen { case, kernel, outcome } in all {
            let path = case.split('[').next().unwrap_or_default().to_string();
            self.0.entry(path).or_default().entry(kernel).or_default().push(outcome);
        }
    }
}

impl FromIterator<Seen> for Evidence {
    fn from_iter<T: IntoIterator<Item = Seen>>(all: T) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.extend(all);
        evidence
    }
}

impl Evidence {
    /// Did the case, or a variant of it, pass on at least one kernel?
    pub fn has_passed(&self, case: &Case) -> bool {
        self.0.get(&case.path).is_some_and(|kernels| kernels.values().flatten().any(is_passed))
    }

    /// What became of the case, kernels with the same outcome together; nothing if that is not known.
    pub fn history(&self, case: &Case) -> Vec<(Vec<&str>, String)> {
        let mut alike: Vec<(Vec<&str>, String)> = Vec::new();
        for (kernel, outcomes) in self.0.get(&case.path).into_iter().flatten() {
            let outcome = in_short(outcomes);
            match alike.iter_mut().find(|(_, other)| *other == outcome) {
                Some((kernels, _)) => kernels.push(kernel),
                None => alike.push((vec![kernel], outcome)),
            }
        }
        alike
    }
}

fn is_passed(outcome: &Outcome) -> bool {
    *outcome == Outcome::Passed
}

/// What became of the variants of a case.
fn in_short(outcomes: &[Outcome]) -> String {
    let passed = outcomes.iter().filter(|outcome| is_passed(outcome)).count();
    let reason = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::Passed => None,
        Outcome::Not(reason) => Some(reason.as_str()),
    });
    match reason {
        None => "passed".into(),
        Some(reason) if passed == 0 => reason.into(),
        Some(reason) => format!("passed in {passed} of {} variants, else {reason}", outcomes.len()),
    }
}
