//! What came of a case, and of a kernel.

use qemu::console::Splat;
use serde::{Deserialize, Serialize};

use crate::program::{Profile, Transport};
use crate::script::Case;

/// How a case ended on a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every step agreed with its law, nothing leaked, the kernel did not complain.
    Passed,
    /// It did not.
    Failed(Box<Failure>),
    /// It did not, as the table of deviations says.
    Deviated {
        /// What was wrong.
        failure: Box<Failure>,
        /// What the table says of it.
        reason: String,
    },
    /// The kernel lacks what the case needs, or the case is not for a machine one wants to keep. The reason.
    Skipped(String),
    /// The machine was lost while it ran; nothing is known about the case. What happened, and the console's end.
    Lost {
        /// What happened, and what to do.
        why: String,
        /// The last step that was over.
        after: Option<String>,
        /// The end of the console.
        console: String,
    },
}

impl Verdict {
    /// Its name in reports.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed(_) => "failed",
            Verdict::Deviated { .. } => "deviated",
            Verdict::Skipped(_) => "skipped",
            Verdict::Lost { .. } => "lost",
        }
    }

    /// Why it was skipped, how it failed, why it deviates, how the machine was lost.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Verdict::Passed => None,
            Verdict::Failed(failure) => Some(&failure.why),
            Verdict::Skipped(reason) | Verdict::Deviated { reason, .. } => Some(reason),
            Verdict::Lost { why, .. } => Some(why),
        }
    }
}

/// Everything that a person needs to understand a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The file below the folder of the cases, and line, of the step, or of the case's first line.
    pub file: String,
    /// Line in that file.
    pub line: u32,
    /// The step as it is written, if one step failed.
    pub step: Option<String>,
    /// What was expected and what came.
    pub why: String,
    /// The transcript up to there: what the daemons received stands in it.
    pub transcript: String,
    /// What the kernel logged during the case.
    pub kernel: Vec<String>,
}

impl Failure {
    /// The kernel complained, although each step agreed with its law.
    pub(super) fn of_kernel(case: &Case, splat: &Splat, transcript: &str, kernel: Vec<String>) -> Failure {
        Failure {
            file: format!("{}.case", case.path),
            line: 1,
            step: None,
            why: complaint(splat),
            transcript: transcript.into(),
            kernel,
        }
    }

    /// The same, in that round of a race.
    pub(super) fn in_round(mut self, number: u16, of: u16, seed: u64) -> Failure {
        self.why.push_str(&format!("{ROUND}{number} of {of} with seed {seed}"));
        self
    }

    /// The same, with that allocation of the failing step failing, or none.
    pub(super) fn at_point(mut self, nth: Option<u32>) -> Failure {
        self.why.push_str(&Failure::point(nth));
        self
    }

    /// How a point is told behind what went wrong there.
    pub(super) fn point(nth: Option<u32>) -> String {
        nth.map_or_else(|| NO_POINT.to_string(), |nth| format!("{POINT}{nth} failing"))
    }

    /// What was expected and what came, whatever round of a race, or at whatever point, it was in.
    pub(crate) fn told(&self) -> &str {
        let less = |why, from| str::split(why, from).next().unwrap_or_default();
        less(less(less(&self.why, ROUND), POINT), NO_POINT)
    }
}

/// How a report of the kernel is told as a failure.
pub(super) fn complaint(splat: &Splat) -> String {
    format!("the kernel complained: {}", splat.title)
}

/// What stands between a failure of a race and the round it came in.
const ROUND: &str = ", in round ";
/// What stands between a failure of a failing step and the allocation that failed, if one did.
const POINT: &str = ", with allocation ";
const NO_POINT: &str = ", with no allocation failing";

/// One case on one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case's name.
    pub path: String,
    /// Its title.
    pub title: String,
    /// The rules it rests on.
    pub rules: Vec<String>,
    /// What carried requests and replies.
    #[serde(default)]
    pub transport: Transport,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took there.
    pub millis: u64,
    /// What was observed; empty for a case that did not run.
    pub transcript: String,
    /// What the kernel complained of meanwhile, each once.
    #[serde(default)]
    pub splats: Vec<Splat>,
    /// Its own law said nothing, as it asks for what this transport has not: the oracle judged alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_oracle: bool,
    /// How many allocations were made to fail, of a case with a failing step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<u32>,
}

impl CaseResult {
    /// That a case ended so, before anything else is known of it.
    pub(super) fn of(case: &Case, transport: Transport, verdict: Verdict) -> CaseResult {
        CaseResult {
            path: case.name(),
            title: case.program.title.clone(),
            rules: case.program.rules.clone(),
            transport,
            verdict,
            millis: 0,
            transcript: String::new(),
            splats: Vec::new(),
            by_oracle: false,
            points: None,
        }
    }
}

/// All cases on one kernel.
#[derive(Clone, Debug)]
pub struct KernelResult {
    /// The name it was asked for by, and what carried requests and replies there: `7.3 over io_uring`.
    pub name: String,
    /// What it can do, and `uname -r`.
    pub profile: Profile,
    /// In the order of their names.
    pub cases: Vec<CaseResult>,
    /// Seconds that a machine took to be there, if there was one: booted once (if this run did it), restored.
    pub booted: Option<f64>,
    /// Seconds that the slowest restore took.
    pub restored: Option<f64>,
    /// Seconds from the first session to the last case.
    pub seconds: f64,
    /// Why it could not be asked about all cases, and what to do.
    pub trouble: Option<String>,
}

impl KernelResult {
    /// Nothing is known of it yet, but how long booting it took, in seconds, if that had to be done.
    pub(super) fn planned(name: &str, booted: Option<f64>) -> KernelResult {
        KernelResult {
            name: name.into(),
            profile: Profile::default(),
            cases: Vec::new(),
            booted,
            restored: None,
            seconds: 0.0,
            trouble: None,
        }
    }

    /// How many cases ended like this.
    pub fn count(&self, which: fn(&Verdict) -> bool) -> usize {
        self.cases.iter().filter(|case| which(&case.verdict)).count()
    }

    /// Passed.
    pub fn passed(&self) -> usize {
        self.count(|verdict| matches!(verdict, Verdict::Passed))
    }

    /// Failed.
    pub fn failed(&self) -> usize {
        self.count(|verdict| matches!(verdict, Verdict::Failed(_)))
    }

    /// Failed as expected.
    pub fn deviated(&self) -> usize {
        self.count(|verdict| matches!(verdict, Verdict::Deviated { .. }))
    }

    /// Skipped.
    pub fn skipped(&self) -> usize {
        self.count(|verdict| matches!(verdict, Verdict::Skipped(_)))
    }

    /// Allocations that were made to fail; `None` if no case with a failing step ran.
    pub fn points(&self) -> Option<u32> {
        self.cases.iter().filter_map(|case| case.points).reduce(|all, more| all + more)
    }

    /// Lost.
    pub fn lost(&self) -> usize {
        self.count(|verdict| matches!(verdict, Verdict::Lost { .. }))
    }
}
