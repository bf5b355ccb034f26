//! The observations of one case on several kernels, as a snapshot keeps them and as it is read again:
//!
//! ```text
//! == 6.12 7.3            these kernels did all that follows, up to the next such line
//! -- extra=KEEP_CACHE    a variant of the case, if it has axes
//! app open "a" -> EIO    its transcript; or `skipped: ` or `deviates: ` with the reason
//! ```

use std::fmt::Write;

use super::behaviour::classes;
use crate::rules::{Outcome, Seen};
use crate::run::{CaseResult, Verdict};

const KERNELS: &str = "== ";
const VARIANT: &str = "-- ";
/// How a transcript begins that is none of a case that passed.
const NOT_PASSED: [&str; 2] = ["skipped: ", "deviates: "];

/// What happened on which kernels: each variant's transcript once for all kernels where it is the same, under a line that
/// names them. Of cases that failed or were lost there is nothing to keep.
pub fn observed(runs: &[(&str, Vec<&CaseResult>)]) -> String {
    let variants = runs.iter().map(|(_, cases)| cases.len()).max().unwrap_or(0);
    let mut blocks: Vec<(Vec<&str>, String)> = Vec::new();
    for index in 0..variants {
        let text = |cases: &[&CaseResult]| cases.get(index).map_or_else(String::new, |case| one(case));
        let (texts, which) = classes(runs.iter().map(|(_, cases)| text(cases)));
        for (kind, text) in texts.into_iter().enumerate() {
            let alike = runs.iter().zip(&which).filter(|(_, of)| **of == kind);
            let kernels: Vec<&str> = alike.map(|((kernel, _), _)| *kernel).collect();
            match blocks.iter_mut().find(|(others, _)| *others == kernels) {
                Some((_, block)) => block.push_str(&text),
                None => blocks.push((kernels, text)),
            }
        }
    }
    blocks.iter().fold(String::new(), |mut all, (kernels, text)| {
        let gap = if all.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _ = write!(all, "{gap}{KERNELS}{}\n{text}", kernels.join(" "));
        all
    })
}

fn one(case: &CaseResult) -> String {
    let variant = case.path.split_once('[').map(|(_, variant)| variant.trim_end_matches(']'));
    let head = variant.map_or_else(String::new, |variant| format!("{VARIANT}{variant}\n"));
    let [skipped, deviates] = NOT_PASSED;
    match &case.verdict {
        Verdict::Skipped(reason) => format!("{head}{skipped}{reason}\n"),
        Verdict::Deviated { reason, .. } => format!("{head}{deviates}{reason}\n{}", case.transcript),
        _ => head + &case.transcript,
    }
}

/// What became of the case with this path on each kernel of such a text.
pub fn read_observed(path: &str, text: &str) -> Vec<Seen> {
    let mut all = Vec::new();
    let mut kernels = "";
    let mut case = path.to_string();
    let mut is_begun = false;
    for line in text.lines() {
        if let Some(names) = line.strip_prefix(KERNELS) {
            (kernels, case, is_begun) = (names, path.to_string(), false);
        } else if let Some(variant) = line.strip_prefix(VARIANT) {
            (case, is_begun) = (format!("{path}[{variant}]"), false);
        } else if !is_begun && !line.is_empty() {
            // The first line of a transcript says how it was.
            is_begun = true;
            let outcome = match NOT_PASSED.iter().any(|word| line.starts_with(word)) {
                true => Outcome::Not(line.to_string()),
                false => Outcome::Passed,
            };
            all.extend(kernels.split_whitespace().map(|kernel| Seen {
                case: case.clone(),
                kernel: kernel.to_string(),
                outcome: outcome.clone(),
            }));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Failure;

    fn result(path: &str, verdict: Verdict, transcript: &str) -> CaseResult {
        let transcript = transcript.to_string();
        CaseResult {
            path: path.into(),
            title: String::new(),
            rules: Vec::new(),
            transport: crate::program::Transport::Plain,
            verdict,
            millis: 0,
            transcript,
            splats: Vec::new(),
            by_oracle: false,
            points: None,
        }
    }

    fn not(reason: &str) -> Outcome {
        Outcome::Not(reason.into())
    }

    /// What is written is read again, below a header that is not its own.
    #[test]
    fn observations_are_read_as_they_were() {
        let failure = Box::new(Failure {
            file: "a/b.case".into(),
            line: 1,
            step: None,
            why: String::new(),
            transcript: String::new(),
            kernel: Vec::new(),
        });
        let deviated = Verdict::Deviated { failure, reason: "it forgets (a commit)".into() };
        let skipped = || Verdict::Skipped("it has none".into());
        let old = [result("a/b[x=1]", skipped(), ""), result("a/b[x=2]", skipped(), "")];
        let [new, newer] = [(); 2].map(|()| {
            [
                result("a/b[x=1]", Verdict::Passed, "app -> ok\n"),
                result("a/b[x=2]", Verdict::Passed, "app -> EIO\n"),
            ]
        });
        let wrong = [
            result("a/b[x=1]", deviated, "app -> ok\n"),
            result("a/b[x=2]", Verdict::Passed, "app -> EIO\n"),
        ];
        let runs = [("1", &old), ("2", &new), ("3", &newer), ("4", &wrong)];
        let runs = runs.map(|(kernel, results)| (kernel, results.iter().collect::<Vec<_>>()));
        let text = format!("---\nsource: x\n---\n{}", observed(&runs));
        let mut seen = read_observed("a/b", &text);
        seen.sort_by_key(|seen| (seen.kernel.clone(), seen.case.clone()));
        let expected = [
            ("1", "a/b[x=1]", not("skipped: it has none")),
            ("1", "a/b[x=2]", not("skipped: it has none")),
            ("2", "a/b[x=1]", Outcome::Passed),
            ("2", "a/b[x=2]", Outcome::Passed),
            ("3", "a/b[x=1]", Outcome::Passed),
            ("3", "a/b[x=2]", Outcome::Passed),
            ("4", "a/b[x=1]", not("deviates: it forgets (a commit)")),
            ("4", "a/b[x=2]", Outcome::Passed),
        ];
        assert_eq!(
            seen,
            expected.map(|(kernel, case, outcome)| Seen {
                case: case.into(),
                kernel: kernel.into(),
                outcome
            })
        );
    }
}
