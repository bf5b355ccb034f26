//! A failure, in full: all that a person needs, on one screen.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::{printable, splats};
use crate::program::Transport;
use crate::run::{CaseResult, Failure, Verdict};

/// How many lines of a kernel log or console are shown.
const LINES: usize = 40;

/// Where a run's cases came from, and how it was called: for whoever is to repeat one.
#[derive(Debug)]
pub struct Origin {
    /// The folder of the cases.
    pub cases: PathBuf,
    /// How the command that repeats a case begins, up to the kernel's name.
    pub again: String,
}

/// All that a person needs to understand a failure; `None` if there is none. `kernel` is its name in the results.
pub fn failure(kernel: &str, result: &CaseResult, origin: &Origin) -> Option<String> {
    let mut text = match &result.verdict {
        Verdict::Passed | Verdict::Deviated { .. } | Verdict::Skipped(_) => return None,
        Verdict::Failed(_) => format!("FAILED {} on {kernel}\n", result.path),
        Verdict::Lost { .. } => format!("LOST {} on {kernel}\n", result.path),
    };
    let _ = writeln!(text, "  {}", result.title);
    match &result.verdict {
        Verdict::Failed(failure) => push_failure(&mut text, failure, &origin.cases),
        Verdict::Lost { why, after, console } => {
            let _ = writeln!(
                text,
                "  the machine was lost, so nothing is known about the case: {}",
                further_in(why)
            );
            if let Some(after) = after {
                let _ = writeln!(text, "  the last step that was over:");
                push_lines(&mut text, after);
            }
            let tail: Vec<_> = console.lines().rev().take(LINES).collect();
            if !tail.is_empty() {
                let _ = writeln!(text, "  the end of its console:");
                push_lines(&mut text, &tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        Verdict::Passed | Verdict::Deviated { .. } | Verdict::Skipped(_) => {}
    }
    text.push_str(&complaints(result));
    if !result.rules.is_empty() {
        let _ = writeln!(text, "  rules: {}", result.rules.join(" "));
    }
    let suffix = result.transport.suffix();
    let kernel = kernel.strip_suffix(suffix.as_str()).unwrap_or(kernel);
    let _ = write!(text, "  again: {} --kernel {kernel}", origin.again);
    if result.transport != Transport::Plain {
        let _ = write!(text, " --transport {}", result.transport);
    }
    let _ = write!(text, " '{}'", result.path);
    Some(printable(&text))
}

fn push_failure(text: &mut String, failure: &Failure, cases: &Path) {
    let _ = writeln!(text, "  {}:{}", cases.join(&failure.file).display(), failure.line);
    if let Some(step) = &failure.step {
        let _ = writeln!(text, "    {step}");
    }
    let _ = writeln!(text, "  {}", further_in(&failure.why));
    let _ = writeln!(text, "  what happened (`>` is a request to the daemon):");
    push_lines(text, &failure.transcript);
    if !failure.kernel.is_empty() {
        let _ = writeln!(text, "  kernel log:");
        let tail = failure.kernel.len().saturating_sub(LINES);
        push_lines(text, &failure.kernel[tail..].join("\n"));
    }
}

/// What the kernel complained of; empty if it did not.
pub(super) fn complaints(result: &CaseResult) -> String {
    let mut text = String::new();
    if !result.splats.is_empty() {
        text.push_str("  the kernel's reports (the innermost function first):\n");
        push_lines(&mut text, &result.splats.iter().flat_map(splats::lines).collect::<Vec<_>>().join("\n"));
    }
    text
}

/// What is behind a line end stands further in: it cannot be taken for a line of the report.
fn further_in(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

fn push_lines(text: &mut String, lines: &str) {
    for line in lines.lines() {
        let _ = writeln!(text, "    {line}");
    }
}
