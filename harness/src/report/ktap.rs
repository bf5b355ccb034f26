//! The KTAP report, as kernel developers' tools read it: version 1, a test for each kernel with a subtest for each case.
//!
//! The plan counts all cases that were to run; one that was not is an error. What is known of a failure stands above
//! its line.

use std::fmt::Write;

use super::failure::{Origin, failure};
use super::{not_run, on_one_line};
use crate::run::{CaseResult, Run, Verdict};

/// The report as a KTAP text.
pub fn ktap(run: &Run, origin: &Origin) -> String {
    let mut text = String::from("KTAP version 1\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "1..{}", run.kernels.len());
    for (index, kernel) in run.kernels.iter().enumerate() {
        let _ = write!(text, "  KTAP version 1\n  # Subtest: {}\n", line(&kernel.name));
        let _ = writeln!(text, "  1..{}", run.cases.len());
        let mut all_ok = true;
        for (place, case) in run.cases.iter().enumerate() {
            let result = run.result(index, place);
            let (ok, directive) =
                result.map_or_else(|| (false, format!(" # ERROR {}", line(&not_run(kernel)))), outcome);
            all_ok &= ok;
            for said in result.and_then(|result| failure(&kernel.name, result, origin)).iter() {
                said.lines().for_each(|said| {
                    let _ = writeln!(text, "  # {said}");
                });
            }
            let _ = writeln!(text, "  {} {} {}{directive}", word(ok), place + 1, line(&case.path));
        }
        let _ = writeln!(text, "{} {} {}", word(all_ok), index + 1, line(&kernel.name));
    }
    text
}

/// Is it as it should be, and what else is to be said on its line.
fn outcome(result: &CaseResult) -> (bool, String) {
    match &result.verdict {
        Verdict::Passed => (true, String::new()),
        Verdict::Failed(_) => (false, String::new()),
        Verdict::Deviated { reason, .. } => (true, format!(" # XFAIL {}", line(reason))),
        Verdict::Skipped(reason) => (true, format!(" # SKIP {}", line(reason))),
        // What went wrong is said above.
        Verdict::Lost { .. } => (false, " # ERROR".into()),
    }
}

fn word(ok: bool) -> &'static str {
    if ok { "ok" } else { "not ok" }
}

/// On one line, and without the mark that begins a directive.
fn line(text: &str) -> String {
    on_one_line(text).replace('#', "_")
}
