//! What the suite itself costs on a kernel: restored machines, the least case, and many of them on several machines.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use qemu::cache::Cache;
use qemu::kernel::KernelSpec;
use qemu::progress::Progress;

use super::deviations::Deviations;
use super::judge::{By, Manner, judge};
use super::outcome::Verdict;
use super::plan::Plan;
use super::profile::profile;
use super::session::{Lost, Session, Subject, SubjectError};
use crate::bench::{Bare, Bound, Cost, Own};
use crate::program::{Profile, Transport};
use crate::protocol::{How, Order, Pace, Report};
use crate::rules::Rules;
use crate::script::{self, Case, Source};

/// How long the agent may take for what is bare.
const PATIENCE: Duration = Duration::from_secs(45);
/// Mounts, and cases, of one turn.
const MOUNTS: u32 = 20;
/// Messages of one turn.
const MESSAGES: u32 = 20_000;
/// A kernel is booted so often at most: it takes as long as all the rest.
const MOST_BOOTS: u32 = 3;
/// What it should take at most to restore a machine, and a case, as the project promises.
const RESTORE: Bound = Bound::Seconds(0.3);
const CASE: Bound = Bound::Times(5.0);
/// The least that is a case: a mount, and nobody who uses it.
const LEAST: &str = "# A mount that nobody uses.\nrules INIT-01\n\nhost lower tmpfs\ndaemon mount\n";

/// What is to be measured.
pub struct OwnPlan<'a> {
    /// On which kernel.
    pub spec: &'a KernelSpec,
    /// `fuseproof` itself.
    pub program: &'a Path,
    /// For what the kernel can do.
    pub probes: &'a [Case],
    /// What runs on several machines.
    pub cases: &'a [Case],
    /// How many machines those are at most.
    pub jobs: usize,
    /// How many turns.
    pub rounds: u32,
}

/// What a turn came to, in nanoseconds.
#[derive(Default)]
struct Turns {
    restored: Vec<u64>,
    loaded: Vec<u64>,
    case: Vec<u64>,
    mount: Vec<u64>,
    message: Vec<u64>,
}

impl OwnPlan<'_> {
    /// Measure, until `stop` is set. What cannot be measured is said in what comes of it.
    ///
    /// # Errors
    /// There is no such kernel, or no agent comes up.
    pub fn measure(
        &self,
        cache: &Cache,
        stop: &AtomicBool,
        progress: &mut dyn Progress,
    ) -> Result<Own, SubjectError> {
        let subject = Subject::prepare(self.spec, self.program, cache, progress)?;
        let gone = |lost: Lost| SubjectError::NoAgent { name: subject.name.clone(), why: lost.to_string() };
        let mut session = subject.session()?;
        let profile = profile(&subject, &mut session, self.probes, cache).map_err(gone)?;
        let release = session.release.clone();
        drop(session);
        let mut costs = Vec::new();
        if !subject.is_host() {
            let mut boots = Vec::new();
            for round in 0..self.rounds.min(MOST_BOOTS) {
                progress.step(round.into(), Some(self.rounds.min(MOST_BOOTS).into()), "boot");
                boots.push(nanos(Subject::boot_anew(self.spec, self.program, cache, progress)?));
            }
            costs.push(Cost::of("boot", "from nothing to the agent's first word, and saved", boots));
        }
        let mut turns = Turns::default();
        for round in 0..self.rounds {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            progress.step(round.into(), Some(self.rounds.into()), "restore, case, mount");
            turns.turn(&subject, &profile).map_err(gone)?;
        }
        let restored = Cost::of("restore", "from nothing to an agent that has answered", turns.restored);
        costs.push(match subject.is_host() {
            true => restored,
            false => restored.beside("QEMU with the state loaded", turns.loaded).within(RESTORE),
        });
        let least = Cost::of("case", "the least case, run and judged", turns.case);
        costs.push(least.beside("a mount and its end, in one process", turns.mount).within(CASE));
        costs.push(Cost::of("message", "a message that the device refuses, in one process", turns.message));
        let (matrix, passed) = self.machines(subject, cache, stop, progress);
        costs.push(matrix);
        let mut troubles = Vec::new();
        if passed * 2 < self.cases.len() && !stop.load(Ordering::SeqCst) {
            troubles.push(format!("matrix: of {} cases {passed} passed", self.cases.len()));
        }
        Ok(Own { kernel: self.spec.to_string(), release, rounds: self.rounds, costs, troubles })
    }

    /// The wall time of many cases, against how many machines run them, and how many passed the last time.
    fn machines(
        &self,
        subject: Subject,
        cache: &Cache,
        stop: &AtomicBool,
        progress: &mut dyn Progress,
    ) -> (Cost, usize) {
        let subjects = [subject];
        let (mut alone, mut together, mut passed) = (Vec::new(), Vec::new(), 0);
        for round in 0..self.rounds {
            for (jobs, times) in [(1, &mut alone), (self.jobs, &mut together)] {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                progress.step(round.into(), Some(self.rounds.into()), "many cases");
                let (deviations, rules) = (Deviations::default(), Rules::default());
                let plan = Plan {
                    subjects: &subjects,
                    transports: &[Transport::Plain],
                    cases: self.cases,
                    probes: self.probes,
                    deviations: &deviations,
                    rules: &rules,
                    seed: 0,
                    jobs,
                };
                let start = Instant::now();
                let run = plan.run(cache, stop, &mut |_| ());
                passed = run.kernels.iter().map(|result| result.passed()).sum();
                times.push(nanos(start.elapsed()));
            }
        }
        together.truncate(alone.len());
        alone.truncate(together.len());
        let what = format!("{} cases on {} machines", self.cases.len(), self.jobs);
        let limit = alone.iter().map(|nanos| nanos / self.jobs as u64).collect();
        (
            Cost::of("matrix", what, together).beside(format!("the time on one, by {}", self.jobs), limit),
            passed,
        )
    }
}

impl Turns {
    fn turn(&mut self, subject: &Subject, profile: &Profile) -> Result<(), Lost> {
        let start = Instant::now();
        let mut session = subject.session().map_err(|error| no_session(&error))?;
        bare(&mut session, 1, 1)?;
        self.restored.push(nanos(start.elapsed()));
        self.loaded.extend(session.restored_in().map(nanos));
        let least = least();
        // A machine begins slowly, with nothing translated yet.
        run(&mut session, &least, profile)?;
        let Bare { mount, message } = bare(&mut session, MOUNTS, MESSAGES)?;
        let start = Instant::now();
        (0..MOUNTS).try_for_each(|_| run(&mut session, &least, profile))?;
        self.case.push(nanos(start.elapsed()) / u64::from(MOUNTS));
        self.mount.push(mount);
        self.message.push(message);
        Ok(())
    }
}

fn run(session: &mut Session, case: &Case, profile: &Profile) -> Result<(), Lost> {
    let how =
        How { transport: Transport::Plain, pace: Pace::Fast, failing: None, shake: None, lawless: false };
    let result = judge(session, case, profile, Manner { how, seed: 0, by: By::Both });
    match result.verdict {
        Verdict::Passed => Ok(()),
        other => {
            let why = format!("the least case {}: {}", other.word(), other.reason().unwrap_or_default());
            Err(Lost { why, console: String::new() })
        }
    }
}

fn bare(session: &mut Session, mounts: u32, messages: u32) -> Result<Bare, Lost> {
    session.order(&Order::Bare { mounts, messages })?;
    match session.report(PATIENCE)? {
        Report::Bare(bare) => Ok(bare),
        Report::Trouble(why) => Err(Lost { why, console: session.console() }),
        _ => Err(Lost { why: "the agent talks of something else".into(), console: session.console() }),
    }
}

fn no_session(error: &SubjectError) -> Lost {
    Lost { why: error.to_string(), console: String::new() }
}

fn least() -> Case {
    let source = Source { path: "least.case".into(), text: LEAST.into() };
    script::parse(&source, &std::collections::BTreeMap::new()).expect("it is tested").remove(0)
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_least_case_is_one() {
        assert_eq!(super::least().program.steps.len(), 2);
    }
}
