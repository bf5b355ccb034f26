//! A daemon on trial: it is started for each workload on a kernel, and what it did is held against the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use qemu::cache::Cache;

use super::decode::{Story, What, decode};
use super::judge::{self, EXPLAINS, Judgement, LAST, SEEN_BY_APPLICATIONS, judge};
use super::launch::Launch;
use super::trace::parse;
use crate::program::{Side, Verb};
use crate::rules::Rules;
use crate::run::{Subject, SubjectError, Watched, profile_of, watch};
use crate::script::{self, Case};

/// The group of the rules about daemons.
pub const GROUP: &str = "DMN";

/// The rule about what is written and read: where it is broken, others of what applications see cannot be seen to be kept.
const BYTES: &str = "DMN-60";

/// The rule that every file which passes through meets.
const PASSES: &str = "DMN-13";

/// The rule that every registration meets.
const REGISTERS: &str = "DMN-06";

/// The rule that each request is answered.
const ANSWERS: &str = "DMN-45";

/// The rule about SIGTERM: a workload that rests on it ends the daemon so.
const TERMINATION: &str = "DMN-51";

/// What came of a daemon's trial on a kernel.
#[derive(Debug)]
pub struct Trial {
    /// The kernel.
    pub kernel: String,
    /// `uname -r` there.
    pub release: String,
    /// Each workload, in the order of their names.
    pub workloads: Vec<Workload>,
}

/// What came of a workload.
#[derive(Debug)]
pub struct Workload {
    /// The case.
    pub name: String,
    /// What the application got.
    pub verdict: Verdict,
    /// What went over the device is worth.
    pub judgement: Judgement,
    /// Of each rule that is broken the lines of the transcript around the first time. All of it would be too much to keep.
    around: BTreeMap<&'static str, Vec<String>>,
}

/// What became of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The application got what it had to.
    Passed,
    /// It did not: the step, and why.
    Failed(String),
    /// The kernel lacks what it needs.
    Skipped(String),
    /// The daemon cannot be used, or cannot be seen: it says nothing about rules.
    Unusable(String),
    /// The machine is lost.
    Lost(String),
}

impl Verdict {
    /// In one word, and why, unless it passed.
    pub fn told(&self) -> (&'static str, Option<&str>) {
        match self {
            Verdict::Passed => ("passed", None),
            Verdict::Failed(why) => ("failed", Some(why)),
            Verdict::Skipped(why) => ("skipped", Some(why)),
            Verdict::Unusable(why) => ("unusable", Some(why)),
            Verdict::Lost(why) => ("lost", Some(why)),
        }
    }
}

/// How a daemon stands to a rule, all workloads together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How often it was kept.
    pub kept: usize,
    /// How it was broken, once a workload.
    pub breaks: Vec<Evidence>,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// In which workload.
    pub workload: String,
    /// What is wrong.
    pub why: String,
    /// How often in that workload.
    pub times: usize,
    /// The lines of the transcript around it.
    pub lines: Vec<String>,
}

/// What a daemon does with passthrough at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It does not ask for it.
    None,
    /// It asks for it and opens no file with it.
    Asked,
    /// It opens files with it.
    Used,
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Use::None => "does not ask for passthrough",
            Use::Asked => "asks for passthrough and never uses it",
            Use::Used => "uses passthrough",
        })
    }
}

/// Try a daemon on a kernel. Each workload is told when it is over, with its recording.
///
/// # Errors
/// The kernel cannot be had.
pub fn try_on(
    subject: &Subject,
    launch: &Launch,
    workloads: &[Case],
    probes: &[Case],
    cache: &Cache,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Workload, &[u8]),
) -> Result<Trial, SubjectError> {
    let mut session = subject.session()?;
    let lost =
        |why: crate::run::Lost| SubjectError::NoAgent { name: subject.name.clone(), why: why.to_string() };
    // A profile of the running kernel is not kept, and to find out all that it can do takes seconds.
    let few = subject.is_host().then(|| asked(workloads, probes));
    let probes = few.as_deref().unwrap_or(probes);
    let profile = profile_of(subject, &mut session, probes, cache).map_err(lost)?;
    let mut trial =
        Trial { kernel: subject.name.clone(), release: session.release.clone(), workloads: Vec::new() };
    for case in workloads {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let missing = case.program.needs.iter().find(|need| !profile.meets(std::slice::from_ref(need)));
        let mut trace = Vec::new();
        let workload = match missing {
            Some(need) => Workload::skipped(case, format!("the kernel lacks {}", need.capability)),
            None => {
                if session.tainted {
                    session = subject.session()?;
                }
                let terminated = case.program.rules.iter().any(|rule| rule == TERMINATION);
                let launch = Launch { terminated, ..launch.clone() };
                match watch(&mut session, &case.program, &profile, &launch) {
                    Ok(watched) => {
                        session.tainted |= watched.ending.stuck.is_some() || watched.ending.leak.is_some();
                        let workload = Workload::new(case, &watched);
                        trace = watched.trace;
                        workload
                    }
                    Err(why) => {
                        session.tainted = true;
                        Workload {
                            verdict: Verdict::Lost(why.to_string()),
                            ..Workload::skipped(case, String::new())
                        }
                    }
                }
            }
        };
        tell(&workload, &trace);
        trial.workloads.push(workload);
    }
    if !trial.registers() {
        // What it shows need not be the folder at all, or not at once.
        for workload in &mut trial.workloads {
            if let Verdict::Failed(why) = &workload.verdict {
                workload.verdict = Verdict::Skipped(format!(
                    "{why}: the daemon registers no file, so this is not held against it"
                ));
            }
        }
    }
    Ok(trial)
}

/// The probes of the capabilities that decide on anything in these workloads.
fn asked(workloads: &[Case], probes: &[Case]) -> Vec<Case> {
    let mut wanted: BTreeSet<&str> = workloads.iter().flat_map(|case| case.program.capabilities()).collect();
    // A probe may ask for others, which come before it.
    for probe in probes.iter().rev() {
        if wanted.contains(probe.path.as_str()) {
            wanted.extend(probe.program.capabilities());
        }
    }
    probes.iter().filter(|probe| wanted.contains(probe.path.as_str())).cloned().collect()
}

impl Workload {
    fn skipped(case: &Case, why: String) -> Workload {
        Workload {
            name: case.name(),
            verdict: Verdict::Skipped(why),
            judgement: Judgement::default(),
            around: BTreeMap::new(),
        }
    }

    fn new(case: &Case, watched: &Watched) -> Workload {
        let Watched { steps, ending, trace } = watched;
        let parsed = parse(trace);
        let story = decode(parsed.as_deref().unwrap_or_default());
        let mut judgement = judge(&story);
        let wrong =
            steps.iter().find_map(|record| Some((&case.program.steps[record.index], record.wrong.as_ref()?)));
        let is_mount = |verb: &Verb| matches!(verb, Verb::Call(call) if call.name == "mount");
        let verdict = match (wrong, story.blind(), &parsed) {
            (Some((step, why)), ..) if step.actor.side == Side::Daemon && is_mount(&step.verb) => {
                Verdict::Unusable(why.clone())
            }
            (_, Some(why), _) => Verdict::Unusable(why),
            (_, _, Err(_))
                if trace.is_empty()
                    && let Some(why) = &ending.stuck =>
            {
                Verdict::Lost(why.clone())
            }
            (_, _, Err(error)) => Verdict::Lost(format!("the recording cannot be read: {error}")),
            (Some((step, why)), ..) if step.actor.side == Side::Host && !judgement.has_met(PASSES) => {
                let step = script::print_step(step);
                Verdict::Skipped(format!(
                    "{step}: {why}: the daemon passes nothing through and may write later"
                ))
            }
            (Some((step, why)), ..) => Verdict::Failed(format!("{}: {why}", script::print_step(step))),
            (None, ..) => match (&ending.stuck, &ending.leak) {
                (Some(why), _) | (None, Some(why)) => Verdict::Failed(why.clone()),
                (None, None) => Verdict::Passed,
            },
        };
        // What an application got is for the rules that the workload is about.
        if let Verdict::Passed | Verdict::Failed(_) = verdict {
            let is_step = |what: &What| matches!(what, What::Step(step) if step != LAST);
            let last = story.deeds.iter().rposition(|deed| is_step(&deed.what)).unwrap_or(0);
            let failed = match &verdict {
                Verdict::Failed(why) => Some(why.clone()),
                _ => None,
            };
            // One that hangs is ended by force.
            if !judgement.breaks(ANSWERS) {
                judgement.ended(ending.daemon, &story);
            }
            // Where the device shows why, that is the finding, and not what came of it.
            let explained = failed.is_some() && judgement.broken().any(|(rule, _)| EXPLAINS.contains(&rule));
            for rule in case.program.rules.iter().filter(|_| !explained) {
                judgement.met_by_name(rule, last, failed.clone());
            }
        }
        let first = |(rule, standing): (&'static str, &judge::Standing)| {
            (rule, standing.breaks.first().map_or_else(Vec::new, |found| around(&story, found.deed)))
        };
        let around = judgement.broken().map(first).collect();
        Workload { name: case.name(), verdict, judgement, around }
    }
}

impl Trial {
    /// How the daemon stands to each rule about daemons, in the order of their IDs.
    pub fn standings<'a>(&self, rules: &'a Rules) -> BTreeMap<&'a str, Standing> {
        let mut standings: BTreeMap<&str, Standing> = BTreeMap::new();
        let has_wrong_bytes = self.breaks(BYTES);
        let registers = self.registers();
        for rule in rules.iter().filter(|rule| rule.group() == GROUP) {
            let standing = standings.entry(&rule.id).or_default();
            let is_seen = SEEN_BY_APPLICATIONS.contains(&rule.id.as_str());
            // Where bytes are wrong, whatever rests on bytes is.
            let follows = has_wrong_bytes && rule.id != BYTES;
            // What a daemon without passthrough shows need not be the folder at all.
            if is_seen && (follows || !registers) {
                continue;
            }
            for workload in &self.workloads {
                let Some(met) = workload.judgement.0.get(rule.id.as_str()) else { continue };
                standing.kept += met.kept;
                if let Some(first) = met.breaks.first() {
                    standing.breaks.push(Evidence {
                        workload: workload.name.clone(),
                        why: first.why.clone(),
                        times: met.breaks.len(),
                        lines: workload.around.get(rule.id.as_str()).cloned().unwrap_or_default(),
                    });
                }
            }
        }
        standings
    }

    /// Does it register files, or try to?
    fn registers(&self) -> bool {
        self.workloads.iter().any(|workload| workload.judgement.has_met(REGISTERS))
    }

    /// Does it break this rule in any workload?
    fn breaks(&self, rule: &str) -> bool {
        self.workloads.iter().any(|workload| workload.judgement.breaks(rule))
    }

    /// What it does with passthrough.
    pub fn uses(&self) -> Use {
        let met = |rule: &str| self.workloads.iter().any(|workload| workload.judgement.has_met(rule));
        if met(PASSES) {
            Use::Used
        } else if met("DMN-03") {
            Use::Asked
        } else {
            Use::None
        }
    }

    /// Why it cannot be judged, if so: no workload could be run.
    pub fn unusable(&self) -> Option<&str> {
        let mut why = None;
        for workload in &self.workloads {
            match &workload.verdict {
                Verdict::Passed | Verdict::Failed(_) => return None,
                Verdict::Unusable(reason) | Verdict::Lost(reason) => why = why.or(Some(reason.as_str())),
                Verdict::Skipped(_) => {}
            }
        }
        why
    }
}

/// The transcript around a deed, which is marked.
fn around(story: &Story, deed: usize) -> Vec<String> {
    const BEFORE: usize = 6;
    const AFTER: usize = 3;
    let shown = deed.saturating_sub(BEFORE)..(deed + AFTER + 1).min(story.deeds.len());
    shown
        .map(|index| {
            let mark = if index == deed { '*' } else { ' ' };
            format!("{mark} {}", story.line(index))
        })
        .collect()
}
