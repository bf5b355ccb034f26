//! What cases show of the law, and what they do not.
//!
//! A case shows its rules if it passed somewhere; that it names them is not enough.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;
use serde::Serialize;

use super::{Evidence, Rule, Rules};
use crate::daemon::Mistake;
use crate::script::Case;

/// How a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A case that names it passed, or all the rules that it says again are shown; of a rule for daemons, one breaks it.
    Shown,
    /// Nobody outside the kernel can see it.
    Unobservable,
    /// The suite cannot show it yet.
    Later,
    /// A case that passed is missing.
    Uncovered,
}

/// A rule, how it stands, and the cases that name it.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// How it stands.
    pub state: State,
    /// The cases that name it, one of each file, and whether they show it.
    pub cases: Vec<(&'a Case, bool)>,
}

/// How many rules stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All but those to be shown later.
    pub total: usize,
    /// Shown.
    pub shown: usize,
    /// Unobservable.
    pub unobservable: usize,
    /// To be shown later.
    pub later: usize,
    /// Uncovered.
    pub uncovered: usize,
}

impl Counts {
    fn add(&mut self, state: State) {
        self.total += usize::from(state != State::Later);
        *match state {
            State::Shown => &mut self.shown,
            State::Unobservable => &mut self.unobservable,
            State::Later => &mut self.later,
            State::Uncovered => &mut self.uncovered,
        } += 1;
    }
}

/// Every rule, in the order of their IDs.
#[derive(Debug)]
pub struct Coverage<'a> {
    /// The rules.
    pub entries: Vec<Entry<'a>>,
    /// What rules need and no probe tells.
    pub unprobed: BTreeSet<&'a str>,
}

impl<'a> Coverage<'a> {
    /// What these cases show, if this is what became of them.
    pub fn new(
        rules: &'a Rules,
        cases: impl IntoIterator<Item = &'a Case>,
        evidence: &Evidence,
    ) -> Coverage<'a> {
        let mut named: Named<'_> = BTreeMap::new();
        for case in cases {
            let has_passed = evidence.has_passed(case);
            for id in &case.program.rules {
                let cases = named.entry(id).or_default();
                if cases.iter().all(|(other, _)| other.path != case.path) {
                    cases.push((case, has_passed));
                }
            }
        }
        let entries = rules.iter().map(|rule| Entry {
            rule,
            state: state(rules, &named, rule),
            cases: named.get(rule.id.as_str()).cloned().unwrap_or_default(),
        });
        Coverage { entries: entries.collect(), unprobed: rules.unprobed() }
    }

    /// The rule of that ID.
    pub fn get(&self, id: &str) -> Option<&Entry<'a>> {
        self.entries.iter().find(|entry| entry.rule.id == id)
    }

    /// How many of all.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.entries.iter().for_each(|entry| counts.add(entry.state));
        counts
    }

    /// How many of each group, in the order of their names.
    pub fn groups(&self) -> BTreeMap<&'a str, Counts> {
        let mut groups: BTreeMap<&str, Counts> = BTreeMap::new();
        self.entries.iter().for_each(|entry| groups.entry(entry.rule.group()).or_default().add(entry.state));
        groups
    }

    /// The rules that no case shows and that give no reason for it.
    pub fn uncovered(&self) -> impl Iterator<Item = &'a Rule> {
        let missing = self.entries.iter().filter(|entry| entry.state == State::Uncovered);
        missing.map(|entry| entry.rule)
    }
}

/// The cases that name a rule, and whether they passed.
type Named<'a> = BTreeMap<&'a str, Vec<(&'a Case, bool)>>;

/// `see` leads back to no rule that it came from: the parser has seen to that.
fn state(rules: &Rules, named: &Named<'_>, rule: &Rule) -> State {
    let has_passed =
        || named.get(rule.id.as_str()).is_some_and(|cases| cases.iter().any(|(_, passed)| *passed));
    let is_shown = |id: &String| rules.get(id).is_some_and(|rule| state(rules, named, rule) == State::Shown);
    // What a daemon has to do is shown by a daemon that does not: tests see that it is found.
    let is_broken = || Mistake::value_variants().iter().any(|mistake| mistake.breaks() == rule.id);
    if rule.unobservable.is_some() {
        State::Unobservable
    } else if has_passed() || is_broken() || (!rule.see.is_empty() && rule.see.iter().all(is_shown)) {
        State::Shown
    } else if rule.later.is_some() {
        State::Later
    } else {
        State::Uncovered
    }
}
