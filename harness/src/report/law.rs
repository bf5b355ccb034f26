//! How the law is covered, and one rule in full.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::on_one_line;
use crate::program::{Condition, capability};
use crate::rules::{Counts, Coverage, Entry, Evidence, Rules, State};

/// So many IDs stand on a line.
const A_LINE: usize = 10;

/// One row a group, all of them together, and the IDs of what is uncovered.
pub fn coverage_table(coverage: &Coverage<'_>) -> String {
    let mut text = String::from("group      rules  shown  unobservable  uncovered  later\n");
    let mut row = |group: &str, counts: &Counts| {
        let Counts { total, shown, unobservable, later, uncovered } = counts;
        let _ =
            writeln!(text, "{group:<9} {total:>6} {shown:>6} {unobservable:>13} {uncovered:>10} {later:>6}");
    };
    for (group, counts) in coverage.groups() {
        row(group, &counts);
    }
    row("total", &coverage.counts());
    let uncovered: Vec<_> = coverage.uncovered().collect();
    if !uncovered.is_empty() {
        text.push_str("uncovered:\n");
        let groups = uncovered.chunk_by(|one, next| one.group() == next.group());
        for rules in groups.flat_map(|rules| rules.chunks(A_LINE)) {
            let ids: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
            let _ = writeln!(text, "  {}", ids.join(" "));
        }
    }
    if !coverage.unprobed.is_empty() {
        let names: Vec<&str> = coverage.unprobed.iter().copied().collect();
        let _ = writeln!(text, "needed by rules, and no probe tells it yet:");
        for names in names.chunks(A_LINE / 2) {
            let _ = writeln!(text, "  {}", names.join(" "));
        }
    }
    text
}

#[derive(Serialize)]
struct Law<'a> {
    total: usize,
    shown: usize,
    unobservable: usize,
    later: usize,
    uncovered: Vec<&'a str>,
    groups: BTreeMap<&'a str, Counts>,
    rules: Vec<Rule<'a>>,
    /// What rules need and no probe tells.
    unprobed: Vec<&'a str>,
}

#[derive(Serialize)]
struct Rule<'a> {
    id: &'a str,
    state: State,
    /// The cases that show it, without their variants.
    cases: Vec<&'a str>,
    /// The cases that name it and are not known to have passed.
    unproven: Vec<&'a str>,
}

/// The same for programs: `{"total", "shown", "unobservable", "later", "uncovered": [...], ...}`.
///
/// # Errors
/// None that can be provoked: all of it is plain data.
pub fn coverage_json(coverage: &Coverage<'_>) -> serde_json::Result<String> {
    let Counts { total, shown, unobservable, later, .. } = coverage.counts();
    let rules = coverage.entries.iter().map(|entry| Rule {
        id: &entry.rule.id,
        state: entry.state,
        cases: paths(entry, true),
        unproven: paths(entry, false),
    });
    serde_json::to_string_pretty(&Law {
        total,
        shown,
        unobservable,
        later,
        uncovered: coverage.uncovered().map(|rule| rule.id.as_str()).collect(),
        groups: coverage.groups(),
        rules: rules.collect(),
        unprobed: coverage.unprobed.iter().copied().collect(),
    })
}

fn paths<'a>(entry: &Entry<'a>, has_passed: bool) -> Vec<&'a str> {
    let cases = entry.cases.iter().filter(|(_, passed)| *passed == has_passed);
    cases.map(|(case, _)| case.path.as_str()).collect()
}

/// All that is known of a rule.
pub fn explain(entry: &Entry<'_>, rules: &Rules, evidence: &Evidence) -> String {
    let rule = entry.rule;
    let mut text = format!("{} in {}\n  {}\n", rule.id, rule.file, rule.law);
    let mut line = |word: &str, what: &str| {
        let _ = writeln!(text, "  {word:<12} {what}");
    };
    line("dialects", &rule.dialects.join(" "));
    rule.needs.iter().for_each(|need| line("needs", &need_in_full(need)));
    line("source", &rule.source);
    for id in &rule.see {
        line("see", &format!("{id}: {}", rules.get(id).map_or("", |rule| &rule.law)));
    }
    if let Some(reason) = &rule.unobservable {
        line("unobservable", reason);
    }
    if let Some(reason) = &rule.later {
        line("later", reason);
    }
    for (case, has_passed) in &entry.cases {
        let word = if *has_passed { "shown by" } else { "named by" };
        line(word, &format!("{}: {}", case.path, case.program.title));
        for (kernels, outcome) in evidence.history(case) {
            line("", &on_one_line(&format!("{}: {outcome}", kernels.join(" "))));
        }
    }
    match entry.state {
        State::Shown if paths(entry, true).is_empty() => line("shown by", "the cases of the rules above"),
        State::Uncovered if entry.cases.is_empty() => line("uncovered", "no case names it"),
        State::Uncovered => line("uncovered", "no case that names it is known to have passed"),
        State::Shown | State::Unobservable | State::Later => {}
    }
    text
}

fn need_in_full(need: &Condition) -> String {
    match (capability(&need.capability), need.present) {
        (None, _) => format!("{need}: no probe tells this yet"),
        (Some(capability), true) => format!("{need}: not where {}", capability.absence),
        (Some(capability), false) => format!("{need}: only where {}", capability.absence),
    }
}
