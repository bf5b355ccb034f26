//! After a run: a table of kernels and groups, then one block a kernel.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::behaviour::classes;
use super::{NOT_RUN, group, on_one_line, splats, word};
use crate::run::{KernelResult, Run, Verdict};

/// The table, if it says more than the blocks; for each kernel counts, the reasons for them, how long things took.
pub fn summary(run: &Run) -> String {
    let mut text = table(run);
    for result in &run.kernels {
        text.push_str(&result.name);
        if !result.profile.release.is_empty() {
            let _ = write!(text, " ({})", on_one_line(&result.profile.release));
        }
        let _ = write!(text, ": {} passed", result.passed());
        let others = [
            (result.failed(), "failed"),
            (result.deviated(), "deviated as expected"),
            (result.skipped(), "skipped"),
            (result.lost(), "lost with their machine"),
            (run.cases.len() - result.cases.len(), NOT_RUN),
        ];
        for (count, what) in others {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        text.push('\n');
        let alone = result.cases.iter().filter(|case| case.by_oracle).count();
        if alone > 0 {
            let _ = writeln!(text, "  {alone} of them without backing ids, and judged by the oracle alone");
        }
        for (word, reason, count) in reasons(result) {
            let _ = writeln!(text, "  {count} {word}: {}", on_one_line(reason));
        }
        for line in splats::findings(result) {
            let _ = writeln!(text, "  {line}");
        }
        if let Some(points) = result.points() {
            let cases = result.cases.iter().filter(|case| case.points.is_some()).count();
            let _ = writeln!(text, "  {points} allocations failed on purpose ({cases} cases)");
        }
        let mut times = Vec::new();
        if let Some(seconds) = result.booted {
            times.push(format!("booted and saved in {seconds:.1} s"));
        }
        if let Some(seconds) = result.restored {
            times.push(format!("restored in {seconds:.2} s"));
        }
        if !result.cases.is_empty() {
            times.push(format!("cases over after {:.1} s", result.seconds));
        }
        if !times.is_empty() {
            let _ = writeln!(text, "  {}", times.join(", "));
        }
    }
    text
}

/// Groups of cases down, kernels across. Empty if there is but one group.
fn table(run: &Run) -> String {
    let groups: BTreeSet<&str> = run.cases.iter().map(|case| group(&case.path)).collect();
    if groups.len() < 2 {
        return String::new();
    }
    let names = run.kernels.iter().map(|kernel| kernel.name.clone());
    let mut rows = vec![Vec::from_iter(std::iter::once(String::new()).chain(names))];
    for name in groups {
        let head = if name.is_empty() { "(no group)" } else { name };
        let cells = (0..run.kernels.len()).map(|kernel| cell(run, kernel, name));
        rows.push(std::iter::once(head.to_string()).chain(cells).collect());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..=run.kernels.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let line: String =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}   ")).collect();
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push('\n');
    text
}

/// How many cases of a group passed on a kernel, and whatever else there is.
fn cell(run: &Run, kernel: usize, name: &str) -> String {
    let places = (0..run.cases.len()).filter(|place| group(&run.cases[*place].path) == name);
    let words = places.map(|place| word(run.result(kernel, place)));
    let (words, passed): (Vec<&str>, Vec<&str>) = words.partition(|word| *word != Verdict::Passed.word());
    let others = counts(words).into_iter().map(|(word, count)| format!(", {count} {word}"));
    std::iter::once(passed.len().to_string()).chain(others).collect()
}

/// Why cases deviated or were skipped, in the order in which it first came.
fn reasons(result: &KernelResult) -> Vec<(&'static str, &str, usize)> {
    let told = result.cases.iter().filter_map(|case| match &case.verdict {
        verdict @ (Verdict::Deviated { reason, .. } | Verdict::Skipped(reason)) => {
            Some((verdict.word(), reason.as_str()))
        }
        _ => None,
    });
    counts(told).into_iter().map(|((word, reason), count)| (word, reason, count)).collect()
}

/// How often there is each, in the order in which they first came.
fn counts<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<(T, usize)> {
    let (kinds, which) = classes(items);
    let count = |kind: usize| which.iter().filter(|known| **known == kind).count();
    kinds.into_iter().enumerate().map(|(kind, item)| (item, count(kind))).collect()
}
