//! What changed between two kernels, or two runs: cases that both ran, and that did not end the same way or were not
//! observed alike, by the rules they rest on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::behaviour::{Behaviour, difference};
use super::{on_one_line, printable};
use crate::run::{CaseResult, PlannedCase, Run};

/// One kernel of one run.
#[derive(Clone, Debug)]
pub struct Side<'a> {
    /// What it is called.
    pub name: String,
    /// The run.
    pub run: &'a Run,
    /// The kernel's place there.
    pub kernel: usize,
}

/// What changed from one side to the other.
#[derive(Debug)]
pub struct Changes<'a> {
    before: Side<'a>,
    after: Side<'a>,
    /// How many cases both have.
    compared: usize,
    changed: Vec<Change<'a>>,
    /// How many cases only the one has, or the other.
    alone: [usize; 2],
}

#[derive(Debug)]
struct Change<'a> {
    case: &'a PlannedCase,
    before: &'a CaseResult,
    after: &'a CaseResult,
}

impl<'a> Changes<'a> {
    /// Compare two sides.
    pub fn between(before: Side<'a>, after: Side<'a>) -> Changes<'a> {
        let (old, new) = (results(&before), results(&after));
        let both = old.iter().filter_map(|(path, (_, old))| Some((old, new.get(path)?)));
        let changed = both.clone().filter(|(old, (_, new))| Behaviour::of(old) != Behaviour::of(new));
        Changes {
            compared: both.clone().count(),
            changed: changed.map(|(before, (case, after))| Change { case, before, after }).collect(),
            alone: [old.len() - both.clone().count(), new.len() - both.count()],
            before,
            after,
        }
    }

    /// How many cases both sides have.
    pub fn compared(&self) -> usize {
        self.compared
    }

    /// How many cases changed.
    pub fn count(&self) -> usize {
        self.changed.len()
    }

    /// For people. A case that rests on several rules is shown in full under the first.
    pub fn text(&self) -> String {
        let mut by_rule: BTreeMap<&str, Vec<&Change<'_>>> = BTreeMap::new();
        for change in &self.changed {
            change.case.rules.iter().for_each(|rule| by_rule.entry(rule).or_default().push(change));
        }
        let mut text = String::new();
        let mut shown = BTreeSet::new();
        for (rule, changes) in by_rule {
            let law = self.after.run.laws.get(rule).map_or_else(String::new, |law| format!("  {law}"));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{rule}{law}");
            for change in changes {
                if shown.insert(change.case.path.as_str()) {
                    push(&mut text, change);
                } else {
                    let _ = writeln!(text, "  {}: see above", change.case.path);
                }
            }
            text.push('\n');
        }
        let (before, after) = (&self.before.name, &self.after.name);
        let _ = writeln!(
            text,
            "{before} -> {after}: {} of {} cases behave differently",
            self.count(),
            self.compared
        );
        for (side, alone) in [before, after].into_iter().zip(self.alone) {
            if alone > 0 {
                let _ = writeln!(text, "  {alone} more were run only on {side}, and not compared");
            }
        }
        printable(&text)
    }
}

/// What was run there, by name.
fn results<'a>(side: &Side<'a>) -> BTreeMap<&'a str, (&'a PlannedCase, &'a CaseResult)> {
    let (run, kernel) = (side.run, side.kernel);
    let cases = run.cases.iter().enumerate();
    cases.filter_map(|(place, case)| Some((case.path.as_str(), (case, run.result(kernel, place)?)))).collect()
}

fn push(text: &mut String, change: &Change<'_>) {
    let _ = writeln!(text, "  {}\n    {}", change.case.path, change.case.title);
    let ended = |result: &CaseResult| match result.verdict.reason() {
        Some(reason) => format!("{} ({})", result.verdict.word(), on_one_line(reason)),
        None => result.verdict.word().to_string(),
    };
    let (before, after) = (ended(change.before), ended(change.after));
    if before != after {
        let _ = writeln!(text, "    {before} -> {after}");
    }
    // Against a case that did nothing, everything is different.
    if !change.before.transcript.is_empty() && !change.after.transcript.is_empty() {
        for line in difference(&change.before.transcript, &change.after.transcript).lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
}
