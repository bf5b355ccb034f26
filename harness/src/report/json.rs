//! The JSON report: `{"kernels": [{"name", "release", "passthrough", "passed", ..., "cases": [...]}]}`.

use qemu::console::Splat;
use serde::{Deserialize, Serialize};

use crate::rules::{Outcome, Seen};
use crate::run::{CaseResult, Run};

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
    /// Allocations that were made to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    points: Option<u32>,
    seconds: f64,
    cases: Vec<Case<'a>>,
}

#[derive(Serialize)]
struct Case<'a> {
    path: &'a str,
    verdict: &'static str,
    rules: &'a [String],
    millis: u64,
    /// How many allocations were made to fail, of a case with a failing step.
    #[serde(skip_serializing_if = "Option::is_none")]
    points: Option<u32>,
    /// Why it was skipped, how it failed, how the machine was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// What was observed, normalised: the same on every run.
    #[serde(skip_serializing_if = "str::is_empty")]
    transcript: &'a str,
    /// What the kernel complained of, each once.
    splats: &'a [Splat],
}

/// The report as a JSON text.
///
/// # Errors
/// None that can be provoked: all of it is plain data.
pub fn json(run: &Run) -> serde_json::Result<String> {
    let kernels = run.kernels.iter().map(|result| Kernel {
        name: &result.name,
        release: &result.profile.release,
        passthrough: result.profile.has.contains("passthrough"),
        passed: result.passed(),
        failed: result.failed(),
        skipped: result.skipped(),
        lost: result.lost(),
        expected_deviations: result.deviated(),
        points: result.points(),
        seconds: result.seconds,
        cases: result.cases.iter().map(case).collect(),
    });
    Ok(serde_json::to_string_pretty(&Report { kernels: kernels.collect() })? + "\n")
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

fn case(result: &CaseResult) -> Case<'_> {
    Case {
        path: &result.path,
        verdict: result.verdict.word(),
        rules: &result.rules,
        millis: result.millis,
        points: result.points,
        reason: result.verdict.reason(),
        transcript: &result.transcript,
        splats: &result.splats,
    }
}
