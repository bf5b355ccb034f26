//! The JSON report: `{"kernels": [{"name", "release", "passthrough", "passed", ..., "cases": [...]}]}`.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::rules::{Outcome, Seen};
use crate::run::{KernelResult, Verdict};

#[derive(Serialize)]
struct Report<'a> {
    kernels: Vec<Kernel<'a>>,
}

#[derive(Serialize)]
struct Kernel<'a> {
    name: &'a str,
    release: &'a str,
    passthrough: bool,
    passed: usize,
    failed: usize,
    skipped: usize,
    lost: usize,
    expected_deviations: usize,
    seconds: f64,
    cases: Vec<Case<'a>>,
}

#[derive(Serialize)]
struct Case<'a> {
    path: &'a str,
    verdict: &'static str,
    rules: &'a [String],
    millis: u64,
    /// Why it was skipped, how it failed, how the machine was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// What was observed, normalised: the same on every run.
    #[serde(skip_serializing_if = "str::is_empty")]
    transcript: &'a str,
}

/// The report as a JSON text.
///
/// # Errors
/// None that can be provoked: all of it is plain data.
pub fn json(results: &[KernelResult]) -> serde_json::Result<String> {
    let kernels = results.iter().map(|result| Kernel {
        name: &result.name,
        release: &result.profile.release,
        passthrough: result.profile.has.contains("passthrough"),
        passed: result.passed(),
        failed: result.failed(),
        skipped: result.skipped(),
        lost: result.lost(),
        expected_deviations: result.deviated(),
        seconds: result.seconds,
        cases: result.cases.iter().map(case).collect(),
    });
    serde_json::to_string_pretty(&Report { kernels: kernels.collect() })
}

/// What became of the cases of a report.
///
/// # Errors
/// The text is no report.
pub fn read_json(report: &str) -> serde_json::Result<Vec<Seen>> {
    #[derive(Deserialize)]
    struct Report {
        kernels: Vec<Kernel>,
    }
    #[derive(Deserialize)]
    struct Kernel {
        name: String,
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        path: String,
        verdict: String,
        reason: Option<String>,
    }
    let seen = |kernel: &str, case: Case| Seen {
        case: case.path,
        kernel: kernel.to_string(),
        outcome: match (case.verdict.as_str(), case.reason) {
            ("passed", _) => Outcome::Passed,
            (verdict, Some(reason)) => Outcome::Not(format!("{verdict}: {reason}")),
            (verdict, None) => Outcome::Not(verdict.to_string()),
        },
    };
    let report: Report = serde_json::from_str(report)?;
    let kernels = report.kernels.into_iter();
    Ok(kernels
        .flat_map(|Kernel { name, cases }| cases.into_iter().map(move |case| seen(&name, case)))
        .collect())
}

fn case(result: &crate::run::CaseResult) -> Case<'_> {
    let (verdict, reason) = match &result.verdict {
        Verdict::Passed => ("passed", None),
        Verdict::Failed(failure) => ("failed", Some(failure.why.as_str())),
        Verdict::Deviated { reason, .. } => ("deviated", Some(reason.as_str())),
        Verdict::Skipped(reason) => ("skipped", Some(reason.as_str())),
        Verdict::Lost { why, .. } => ("lost", Some(why.as_str())),
    };
    Case {
        path: &result.path,
        verdict,
        rules: &result.rules,
        millis: result.millis,
        reason,
        transcript: &result.transcript,
    }
}

/// Put the report at `path`, whole or not at all.
///
/// # Errors
/// What the file system says.
pub fn write_json(results: &[KernelResult], path: &Path) -> io::Result<()> {
    use std::io::Write;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
    writeln!(file, "{}", json(results)?)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
