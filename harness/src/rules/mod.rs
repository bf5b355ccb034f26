//! The law, as data: `cases/rules/*.toml` say what must hold, in which dialects, and which of it a case can show.
//!
//! Rules are read and compared with cases here; nothing runs, and only [`load`] reads files. A rule never says how
//! it is shown: cases name their rules, rules name no cases.

mod check;
mod coverage;
mod evidence;
mod load;
mod parse;
#[cfg(test)]
mod tests;

pub use check::check;
pub use coverage::{Counts, Coverage, Entry, State};
pub use evidence::{Evidence, Outcome, Seen};
pub use load::load;
pub use parse::parse;

use std::collections::{BTreeMap, BTreeSet};

use crate::program::{Condition, capability};

/// The ways in which kernels speak about passthrough.
pub const DIALECTS: [&str; 5] = ["plain", "backing", "v12", "vz-splice", "virtiofs"];

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `OPEN-05`.
    pub id: String,
    /// The file below `cases/` that it stands in.
    pub file: String,
    /// What must hold, in sentences.
    pub law: String,
    /// Where it holds, each one of [`DIALECTS`].
    pub dialects: Vec<String>,
    /// What a kernel must be able to do for it to mean anything. A behaviour that no probe tells is no capability.
    pub needs: Vec<Condition>,
    /// Where in the kernel it is decided.
    pub source: String,
    /// Why nobody outside the kernel can see it, if so.
    pub unobservable: Option<String>,
    /// What it waits for, if the suite cannot show it yet.
    pub later: Option<String>,
    /// The rules that it says again: it is shown where all of them are.
    pub see: Vec<String>,
}

impl Rule {
    /// `OPEN` of `OPEN-05`.
    pub fn group(&self) -> &str {
        self.id.rsplit_once('-').map_or(&self.id, |(group, _)| group)
    }
}

/// All rules, by ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(BTreeMap<String, Rule>);

impl Rules {
    /// The rule of that ID.
    pub fn get(&self, id: &str) -> Option<&Rule> {
        self.0.get(id)
    }

    /// All of them, in the order of their IDs.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.values()
    }

    /// The IDs that look most like this one, best first.
    pub fn nearest(&self, id: &str) -> Vec<&str> {
        const FEW: usize = 3;
        let id = id.to_uppercase();
        let mut all: Vec<&str> = self.0.keys().map(String::as_str).collect();
        all.sort_by_key(|known| strsim::damerau_levenshtein(known, &id));
        all.truncate(FEW);
        all
    }

    /// What rules need and no probe tells: no case can say that it needs this.
    pub fn unprobed(&self) -> BTreeSet<&str> {
        let needs = self.iter().flat_map(|rule| &rule.needs).map(|need| need.capability.as_str());
        needs.filter(|name| capability(name).is_none()).collect()
    }
}
