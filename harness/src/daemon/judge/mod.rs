//! Which rules a daemon keeps and which it breaks, by what went over its device. Pure: a story in, a judgement out.
//!
//! A rule that nothing was about is not exercised, which is not the same as kept. What an application sees on the mount is
//! judged by the workload's own expectations, not here.

mod ids;
mod negotiation;
mod opens;
mod replies;

pub(crate) use replies::LAST;

use std::collections::BTreeMap;

use nix::libc;

use super::decode::{Story, What};
use super::launch::End;
use super::trace::Event;
use crate::program::flags::signal_name;

/// How a daemon stands to a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How often the rule was kept.
    pub kept: usize,
    /// How it was broken.
    pub breaks: Vec<Break>,
}

/// A rule that was broken once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// The deed that breaks it.
    pub deed: usize,
    /// What is wrong.
    pub why: String,
}

/// How a daemon stands to each rule that it met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement(pub BTreeMap<&'static str, Standing>);

impl Judgement {
    /// Was this rule met, kept or not?
    pub fn has_met(&self, rule: &str) -> bool {
        self.0.contains_key(rule)
    }

    /// Is this rule broken?
    pub fn breaks(&self, rule: &str) -> bool {
        self.0.get(rule).is_some_and(|standing| !standing.breaks.is_empty())
    }

    /// The rules that are broken.
    pub fn broken(&self) -> impl Iterator<Item = (&'static str, &Standing)> {
        self.0
            .iter()
            .filter(|(_, standing)| !standing.breaks.is_empty())
            .map(|(rule, standing)| (*rule, standing))
    }

    /// A rule that a workload is about was met, whichever that is.
    pub(super) fn met_by_name(&mut self, rule: &str, deed: usize, wrong: Option<String>) {
        if let Some(known) = SEEN_BY_APPLICATIONS.iter().find(|known| **known == rule) {
            self.met(known, deed, wrong);
        }
    }

    /// The daemon came to its end in that way.
    pub(super) fn ended(&mut self, end: Option<End>, story: &Story) {
        let last = story.deeds.len().saturating_sub(1);
        // By other signals a daemon may end what helps it; if it ends so itself, that is early.
        let crashed = story.deeds.iter().enumerate().find_map(|(index, deed)| match deed.what {
            What::Other(Event::Ended { signal: Some(signal), .. }) if CRASHES.contains(&signal) => {
                Some((index, format!("the daemon was ended by {}", signal_name(signal))))
            }
            _ => None,
        });
        match (crashed, end) {
            (Some((index, why)), _) => self.met("DMN-52", index, Some(why)),
            (None, None) => {}
            (None, Some(End::Early)) => {
                self.met("DMN-52", last, Some("the daemon ended while it was mounted".into()));
            }
            (None, Some(end @ (End::Terminated | End::LeftMount | End::Deaf))) => {
                let wrong = match end {
                    End::LeftMount => Some("it ended on SIGTERM and left its mount behind"),
                    End::Deaf => Some("it did not end within 3 s of SIGTERM"),
                    _ => None,
                };
                self.met("DMN-52", last, None);
                self.met("DMN-51", last, wrong.map(str::to_string));
            }
            (None, Some(end)) => {
                self.met("DMN-52", last, None);
                let wrong = match end {
                    End::Asked => Some("it did not end with its mount, only when SIGTERM came"),
                    End::Forced => Some("it did not end with its mount, nor when SIGTERM came"),
                    _ => None,
                };
                self.met("DMN-50", last, wrong.map(str::to_string));
            }
        }
    }

    /// This rule was met: kept, or broken for that reason.
    fn met(&mut self, rule: &'static str, deed: usize, wrong: Option<String>) {
        let standing = self.0.entry(rule).or_default();
        match wrong {
            None => standing.kept += 1,
            Some(why) => standing.breaks.push(Break { deed, why }),
        }
    }
}

/// What a program that is broken ends by.
const CRASHES: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP];

/// Rules by whose break an application gets an error or nothing, or its data goes another way: what it saw is then no finding
/// of its own.
pub(super) const EXPLAINS: [&str; 17] = [
    "DMN-04", "DMN-07", "DMN-08", "DMN-10", "DMN-11", "DMN-12", "DMN-13", "DMN-14", "DMN-15", "DMN-16",
    "DMN-22", "DMN-40", "DMN-41", "DMN-42", "DMN-43", "DMN-45", "DMN-52",
];

/// Rules about what an application sees: a workload that names one shows it.
pub(super) const SEEN_BY_APPLICATIONS: [&str; 10] =
    ["DMN-53", "DMN-60", "DMN-61", "DMN-62", "DMN-63", "DMN-64", "DMN-65", "DMN-66", "DMN-67", "DMN-68"];

/// Judge what a trace told.
pub fn judge(story: &Story) -> Judgement {
    let mut judgement = Judgement::default();
    let mut negotiations = negotiation::Negotiations::default();
    let mut books = ids::Books::default();
    for (index, deed) in story.deeds.iter().enumerate() {
        let bench = &mut judgement;
        match &deed.what {
            What::Asked(asked) => books.asked(asked),
            What::Told(told) => {
                replies::judge(bench, story, index, told);
                if let Some(asked) = told.to.and_then(|to| story.asked(to)).filter(|_| !told.again) {
                    negotiations.answered(bench, index, asked, told);
                    opens::answered(bench, &mut books, story, index, asked, told);
                }
            }
            What::BackingOpen { connection, file, rest, fsuid, result, .. } => {
                negotiations.registers(bench, index, *connection);
                ids::registers(bench, index, file.as_ref(), *rest);
                if *result > 0 {
                    ids::registered_by(bench, story, index, *fsuid);
                }
                books.opened(*connection, index, file.as_ref(), *result);
            }
            What::BackingClose { connection, id, result } => {
                books.closed(bench, index, *connection, *id, *result);
            }
            _ => {}
        }
    }
    books.end(&mut judgement, story);
    replies::end(&mut judgement, story);
    judgement
}

#[cfg(test)]
mod tests;
