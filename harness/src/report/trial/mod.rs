//! What came of daemons' trials: for a terminal, for programs, for CI systems, and as a page with several side by side.

mod page;

use std::fmt::Write;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde::{Deserialize, Serialize};

use super::on_one_line;
use crate::daemon::trial::{Standing, Trial};
use crate::rules::Rules;

pub use page::trials_html;

/// A daemon's trial on a kernel, as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The daemon's command.
    pub command: Vec<String>,
    /// What it was tried under, as the command line of the trial says it.
    pub under: Vec<String>,
    /// The kernel.
    pub kernel: String,
    /// `uname -r` there.
    pub release: String,
    /// What it does with passthrough.
    #[serde(rename = "use")]
    pub uses: String,
    /// Why it cannot be judged, if so.
    pub unusable: Option<String>,
    /// How it stands to each rule.
    pub rules: Vec<Row>,
    /// What its applications got.
    pub workloads: Vec<Workload>,
}

/// How a daemon stands to a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The rule's ID.
    pub rule: String,
    /// Its law.
    pub law: String,
    /// Kept, broken, or nothing was about it.
    pub state: State,
    /// How often it was kept.
    pub kept: usize,
    /// How it was broken.
    pub breaks: Vec<Break>,
}

/// How a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Kept each time.
    Kept,
    /// Broken at least once.
    Broken,
    /// Nothing was about it.
    NotExercised,
}

impl State {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            State::Kept => "kept",
            State::Broken => "broken",
            State::NotExercised => "not exercised",
        }
    }
}

/// A rule that was broken in a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// In which.
    pub workload: String,
    /// What is wrong.
    pub why: String,
    /// How often there.
    pub times: usize,
    /// What went over the device around the first time.
    pub lines: Vec<String>,
}

/// What an application got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The workload.
    pub name: String,
    /// One word.
    pub verdict: String,
    /// Why, unless it passed.
    pub why: Option<String>,
}

impl Tried {
    /// A trial, with the laws that it was held against.
    pub fn new(trial: &Trial, command: &[String], under: Vec<String>, rules: &Rules) -> Tried {
        let row = |(id, standing): (&str, Standing)| Row {
            rule: id.to_string(),
            law: rules.get(id).map_or_else(String::new, |rule| rule.law.clone()),
            state: match &standing {
                Standing { breaks, .. } if !breaks.is_empty() => State::Broken,
                Standing { kept: 0, .. } => State::NotExercised,
                _ => State::Kept,
            },
            kept: standing.kept,
            breaks: standing
                .breaks
                .into_iter()
                .map(|found| Break {
                    workload: found.workload,
                    why: found.why,
                    times: found.times,
                    lines: found.lines,
                })
                .collect(),
        };
        let workload = |workload: &crate::daemon::trial::Workload| {
            let (verdict, why) = workload.verdict.told();
            Workload { name: workload.name.clone(), verdict: verdict.into(), why: why.map(str::to_string) }
        };
        Tried {
            command: command.to_vec(),
            under,
            kernel: trial.kernel.clone(),
            release: trial.release.clone(),
            uses: trial.uses().to_string(),
            unusable: trial.unusable().map(str::to_string),
            rules: trial.standings(rules).into_iter().map(row).collect(),
            workloads: trial.workloads.iter().map(workload).collect(),
        }
    }

    /// How many rules stand so.
    pub fn count(&self, state: State) -> usize {
        self.rules.iter().filter(|row| row.state == state).count()
    }

    /// How many workloads have that verdict.
    pub fn workloads_that(&self, verdict: &str) -> usize {
        self.workloads.iter().filter(|workload| workload.verdict == verdict).count()
    }

    /// The daemon in a few words: its program, and what options it was given.
    pub fn name(&self) -> String {
        let mut words = self.command.iter();
        let program = words.next().map_or("", |word| word.rsplit('/').next().unwrap_or(word));
        let options = words.filter(|word| !word.contains('{')).map(String::as_str);
        std::iter::once(program).chain(options).collect::<Vec<_>>().join(" ")
    }

    /// The kernel, and what else is to be known of the trial.
    pub fn on(&self) -> String {
        std::iter::once(&self.kernel).chain(&self.under).cloned().collect::<Vec<_>>().join(" ")
    }

    fn list(&self, state: State) -> String {
        let rows = self.rules.iter().filter(|row| row.state == state);
        rows.map(|row| row.rule.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// A line for the daemon's README.
    pub fn line(&self) -> String {
        let (kept, broken) = (self.count(State::Kept), self.count(State::Broken));
        let found = if broken == 0 { String::new() } else { format!(" ({})", self.list(State::Broken)) };
        let under = self.under.iter().map(|condition| format!(" {condition}")).collect::<String>();
        format!(
            "FUSE passthrough, by fuseproof {} on Linux {}{under}: {kept} of {} rules kept, {broken} broken{found}, {} not exercised; {}.",
            env!("CARGO_PKG_VERSION"),
            self.release,
            self.rules.len(),
            self.count(State::NotExercised),
            self.uses
        )
    }
}

/// What a daemon keeps, what it breaks and by what that is seen, and what nothing was about.
pub fn trial(tried: &Tried) -> String {
    let mut text = format!("{} on {} ({})\n", tried.command.join(" "), tried.on(), tried.release);
    if let Some(why) = &tried.unusable {
        let _ = writeln!(text, "  cannot be judged: {}", on_one_line(why));
        return text;
    }
    let _ = writeln!(text, "  {}", tried.uses);
    for row in tried.rules.iter().filter(|row| row.state == State::Broken) {
        let _ = writeln!(text, "\n  broken  {}  {}", row.rule, row.law);
        for found in &row.breaks {
            let more = if found.times > 1 { format!(", {} times", found.times) } else { String::new() };
            let _ = writeln!(text, "    {}: {}{more}", found.workload, on_one_line(&found.why));
        }
        if let Some(found) = row.breaks.first() {
            found.lines.iter().for_each(|line| _ = writeln!(text, "      {}", on_one_line(line)));
        }
    }
    for workload in tried.workloads.iter().filter(|workload| ["failed", "lost"].contains(&&*workload.verdict))
    {
        let why = on_one_line(workload.why.as_deref().unwrap_or_default());
        let _ = writeln!(text, "\n  {}  {}: {why}", workload.verdict, workload.name);
    }
    let _ = writeln!(text, "\n  kept           {}", tried.list(State::Kept));
    let _ = writeln!(text, "  not exercised  {}", tried.list(State::NotExercised));
    let _ = writeln!(text, "\n  {}", tried.line());
    text
}

/// For programs: a list, of each daemon on each kernel one.
///
/// # Errors
/// None that plain data can provoke.
pub fn trials_json(trials: &[Tried]) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(trials)? + "\n")
}

/// What was saved so.
///
/// # Errors
/// It is something else.
pub fn read_trials(text: &str) -> serde_json::Result<Vec<Tried>> {
    serde_json::from_str(text)
}

/// For CI systems: a suite for each daemon on each kernel, a test for each rule and for each workload.
///
/// # Errors
/// None that can be provoked: what XML cannot hold is taken out of texts.
pub fn trials_junit(trials: &[Tried]) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new("fuseproof daemon");
    for tried in trials {
        let mut suite = TestSuite::new(on_one_line(&format!("{} on {}", tried.name(), tried.on())));
        suite.add_property(("release", on_one_line(&tried.release).as_str()));
        suite.add_property(("use", tried.uses.as_str()));
        for row in &tried.rules {
            let status = match (&tried.unusable, row.state) {
                (Some(why), _) => failed(NonSuccessKind::Error, why, ""),
                (None, State::Kept) => TestCaseStatus::success(),
                (None, State::NotExercised) => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message("no workload was about it");
                    status
                }
                (None, State::Broken) => {
                    let first = row.breaks.first();
                    let why = first.map_or("", |found| found.why.as_str());
                    let lines = first.map_or_else(String::new, |found| found.lines.join("\n"));
                    failed(NonSuccessKind::Failure, why, &lines)
                }
            };
            let mut test = TestCase::new(&row.rule, status);
            test.set_classname(on_one_line(&tried.name()));
            suite.add_test_case(test);
        }
        for workload in &tried.workloads {
            let why = workload.why.as_deref().unwrap_or_default();
            let status = match workload.verdict.as_str() {
                "passed" => TestCaseStatus::success(),
                "failed" => failed(NonSuccessKind::Failure, why, ""),
                "lost" => failed(NonSuccessKind::Error, why, ""),
                _ => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message(on_one_line(why));
                    status
                }
            };
            let mut test = TestCase::new(on_one_line(&workload.name), status);
            test.set_classname(on_one_line(&tried.name()));
            suite.add_test_case(test);
        }
        report.add_test_suite(suite);
    }
    report.to_string()
}

fn failed(kind: NonSuccessKind, why: &str, lines: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(on_one_line(why));
    status.set_description(lines);
    status
}
