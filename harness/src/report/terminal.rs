//! For people: a bar on a terminal, plain lines in a log, every failure in full, a summary.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::run::{CaseResult, Failure, KernelResult, Verdict};

/// Without a terminal, a line is printed this often.
const EVERY: Duration = Duration::from_secs(5);
/// How many lines of a kernel log or console are shown.
const LINES: usize = 40;

/// Progress on standard error; failures on standard output as they come.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    plain: bool,
    last: Instant,
    origin: Origin,
}

/// Where a run's cases came from, and how it was called: for whoever is to repeat one.
#[derive(Debug)]
pub struct Origin {
    /// The folder of the cases.
    pub cases: PathBuf,
    /// How the command that repeats a case begins, up to the kernel's name.
    pub again: String,
}

impl Terminal {
    /// For so many case runs to come.
    pub fn new(total: u64, origin: Origin) -> Terminal {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        Terminal { bar, plain, last: Instant::now(), origin }
    }

    /// A case is over.
    pub fn case(&mut self, kernel: &str, result: &CaseResult) {
        self.bar.inc(1);
        self.bar.set_message(format!("{kernel} {}", result.path));
        if let Some(text) = failure(kernel, result, &self.origin) {
            self.bar.suspend(|| println!("{text}"));
        }
        if self.plain && self.last.elapsed() > EVERY {
            self.last = Instant::now();
            eprintln!("{}/{} {kernel} {}", self.bar.position(), self.bar.length().unwrap_or(0), result.path);
        }
    }

    /// Nothing more comes.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// All that a person needs to understand a failure; `None` if there is none.
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
            let _ = writeln!(text, "  the machine was lost, so nothing is known about the case: {why}");
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
    if !result.rules.is_empty() {
        let _ = writeln!(text, "  rules: {}", result.rules.join(" "));
    }
    let _ = write!(text, "  again: {} --kernel {kernel} '{}'", origin.again, result.path);
    Some(printable(&text))
}

/// Much of it comes from a guest: nothing in it may talk to the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

fn push_failure(text: &mut String, failure: &Failure, cases: &Path) {
    let _ = writeln!(text, "  {}:{}", cases.join(&failure.file).display(), failure.line);
    if let Some(step) = &failure.step {
        let _ = writeln!(text, "    {step}");
    }
    let _ = writeln!(text, "  {}", failure.why);
    let _ = writeln!(text, "  what happened (`>` is a request to the daemon):");
    push_lines(text, &failure.transcript);
    if !failure.kernel.is_empty() {
        let _ = writeln!(text, "  kernel log:");
        let tail = failure.kernel.len().saturating_sub(LINES);
        push_lines(text, &failure.kernel[tail..].join("\n"));
    }
}

fn push_lines(text: &mut String, lines: &str) {
    for line in lines.lines() {
        let _ = writeln!(text, "    {line}");
    }
}

/// One block a kernel: counts, why cases were skipped, how long things took.
pub fn summary(results: &[KernelResult]) -> String {
    let mut text = String::new();
    for result in results {
        let _ = write!(text, "{} ({}): {} passed", result.name, result.profile.release, result.passed());
        let others = [
            (result.failed(), "failed"),
            (result.deviated(), "deviated as expected"),
            (result.skipped(), "skipped"),
            (result.lost(), "lost with their machine"),
        ];
        for (count, what) in others {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        text.push('\n');
        for (reason, count) in reasons(result, |verdict| match verdict {
            Verdict::Deviated { reason, .. } => Some(reason),
            _ => None,
        }) {
            let _ = writeln!(text, "  {count} deviated: {reason}");
        }
        for (reason, count) in reasons(result, |verdict| match verdict {
            Verdict::Skipped(reason) => Some(reason),
            _ => None,
        }) {
            let _ = writeln!(text, "  {count} skipped: {reason}");
        }
        let mut times = Vec::new();
        if let Some(seconds) = result.booted {
            times.push(format!("booted and saved in {seconds:.1} s"));
        }
        if let Some(seconds) = result.restored {
            times.push(format!("restored in {seconds:.2} s"));
        }
        times.push(format!("cases over after {:.1} s", result.seconds));
        let _ = writeln!(text, "  {}", times.join(", "));
    }
    text
}

/// Reasons in the order they first came, with how many cases each.
fn reasons(result: &KernelResult, of: fn(&Verdict) -> Option<&String>) -> Vec<(&str, usize)> {
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for case in &result.cases {
        if let Some(reason) = of(&case.verdict) {
            match reasons.iter_mut().find(|(known, _)| known == reason) {
                Some((_, count)) => *count += 1,
                None => reasons.push((reason, 1)),
            }
        }
    }
    reasons
}
