//! What a patch changes: the same cases on a kernel without it and with it, and on kernels with sanitizers.
//!
//! Both are built, or taken as they are. What is different is run once more before it is told: a difference that does not
//! come again is none. It decides nothing about a patch but whether rules that were kept are broken.

mod finding;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use qemu::cache::Cache;
use qemu::console::Kind;
use qemu::kernel::KernelSpec;
use qemu::kernel::build::{Recipe, flavour};
use qemu::progress::Progress;
use serde::Serialize;

pub use finding::{Finding, How, complaints, findings};

use crate::program::Transport;
use crate::rules::Rules;
use crate::run::{CaseResult, Deviations, Event, KernelResult, Plan, Subject, SubjectError, Verdict};
use crate::script::Case;

/// The flavours that a patched kernel is run in, after the plain one.
const SANITIZERS: [&str; 3] = ["kasan", "lockdep", "kmemleak"];

/// What is needed to run cases.
#[derive(Debug)]
pub struct Desk<'a> {
    /// The cases to run.
    pub cases: &'a [Case],
    /// The cases below `cases/lib/probe/`.
    pub probes: &'a [Case],
    /// Which failures are expected.
    pub deviations: &'a Deviations,
    /// The law.
    pub rules: &'a Rules,
    /// How many machines may be alive at once.
    pub jobs: usize,
    /// This program, which becomes the agent.
    pub program: &'a Path,
    /// The cache folder.
    pub cache: &'a Cache,
    /// Ends it early.
    pub stop: &'a AtomicBool,
}

/// One kernel that was run: what it was and how long it took, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stage {
    /// The kernel.
    pub kernel: String,
    /// `uname -r` there.
    pub release: String,
    /// Patching, configuring, compiling, linking; 0 for what was built already.
    pub build: f64,
    /// Booting it once and saving it.
    pub boot: f64,
    /// The slowest restore.
    pub restore: f64,
    /// All cases.
    pub run: f64,
    /// How many cases were run there.
    pub cases: usize,
    /// How many said nothing there.
    pub skipped: usize,
}

/// All that is known of a patch, or of a pair of kernels.
#[derive(Clone, Debug, Default)]
pub struct Validation {
    /// What is judged: names of patches, or of a kernel.
    pub subject: String,
    /// The kernel without it.
    pub base: Stage,
    /// The kernels with it, the plain one first.
    pub stages: Vec<Stage>,
    /// The abilities that it adds, and those that it takes away.
    pub abilities: [Vec<String>; 2],
    /// What is different, the weightiest first.
    pub findings: Vec<Finding>,
    /// Differences that did not come again.
    pub unsteady: Vec<Finding>,
    /// Why it is not known what a sanitizer says, if so.
    pub trouble: Option<String>,
    /// Seconds it took, from building the first kernel with the patch to the last case.
    pub seconds: f64,
}

impl Validation {
    /// Is a rule broken, or the kernel damaged?
    pub fn is_bad(&self) -> bool {
        self.findings.iter().any(|finding| finding.how.is_bad())
    }
}

/// How thorough a patch is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All cases on all flavours.
    Full,
    /// Only until it is known that something is wrong with it.
    UntilFound,
}

/// In a run that only asks whether something is wrong, so many wrong cases are enough.
const ENOUGH: usize = 12;
/// So many of them are run once more at a time.
const FEW: usize = 4;

/// A kernel that patched ones are compared with.
#[derive(Debug)]
pub struct Base {
    subject: Subject,
    stage: Stage,
    result: KernelResult,
}

impl Base {
    /// Prepare and run the kernel without the patch.
    ///
    /// # Errors
    /// It cannot be had, or not be asked.
    pub fn run(desk: &Desk<'_>, spec: KernelSpec, hear: &mut Hear<'_>) -> Result<Base, SubjectError> {
        let (subject, mut stage) = prepare(desk, &spec, hear.progress)?;
        let result = run(desk, &subject, desk.cases, None, hear)?;
        fill(&mut stage, &result);
        Ok(Base { subject, stage, result })
    }

    /// Cases that do not end as they should there, and do not in a second run either.
    ///
    /// # Errors
    /// It cannot be asked again.
    pub fn complaints(&self, desk: &Desk<'_>, hear: &mut Hear<'_>) -> Result<Vec<Finding>, SubjectError> {
        let found = complaints(&self.result);
        if found.is_empty() {
            return Ok(found);
        }
        let names = found.iter().map(|finding| finding.case.as_str()).collect();
        let again = complaints(&run(desk, &self.subject, &named(desk.cases, &names), None, hear)?);
        let comes_again = |finding: &Finding| again.iter().any(|other| other.case == finding.case);
        Ok(found.into_iter().filter(comes_again).collect())
    }

    /// How many cases said something there.
    pub fn ran(&self) -> usize {
        self.stage.cases - self.stage.skipped
    }
}

/// Who hears how far it is.
pub struct Hear<'a> {
    /// Of fetching, building and booting.
    pub progress: &'a mut dyn Progress,
    /// Of cases.
    pub events: &'a mut dyn FnMut(&Event),
}

impl std::fmt::Debug for Hear<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hear")
    }
}

/// Judge patches on the source that the base was built from.
///
/// # Errors
/// A patch does not apply or does not build, or a kernel cannot be asked.
pub fn patches(
    desk: &Desk<'_>,
    base: &Base,
    recipe: &Recipe,
    files: &[PathBuf],
    depth: Depth,
    hear: &mut Hear<'_>,
) -> Result<Validation, SubjectError> {
    let names = files.iter().map(|file| file.file_name().unwrap_or(file.as_os_str()).to_string_lossy());
    let subject = names.collect::<Vec<_>>().join(" ");
    let begin = Instant::now();
    let patched = Recipe { patches: files.to_vec(), ..recipe.clone() };
    let mut found = pair(desk, base, KernelSpec::Built(Box::new(patched.clone())), subject, depth, hear)?;
    for name in SANITIZERS {
        let over =
            desk.stop.load(Ordering::SeqCst) || (depth == Depth::UntilFound && !found.findings.is_empty());
        let Some(flavour) = flavour(name).filter(|_| !over) else { continue };
        let with = KernelSpec::Built(Box::new(patched.in_flavour(flavour)));
        let without = KernelSpec::Built(Box::new(recipe.in_flavour(flavour)));
        if let Err(error) = sanitized(desk, with, without, (&base.result, depth), &mut found, hear) {
            // What was found before is told all the same.
            if found.findings.is_empty() {
                return Err(error);
            }
            found.trouble = Some(error.to_string());
            break;
        }
    }
    found.findings.sort_by_key(|finding| finding.how);
    found.seconds = begin.elapsed().as_secs_f64();
    Ok(found)
}

/// Judge a kernel against the base.
///
/// # Errors
/// It cannot be had or not be asked.
pub fn kernel(
    desk: &Desk<'_>,
    base: &Base,
    spec: KernelSpec,
    hear: &mut Hear<'_>,
) -> Result<Validation, SubjectError> {
    let (subject, begin) = (spec.to_string(), Instant::now());
    let mut found = pair(desk, base, spec, subject, Depth::Full, hear)?;
    found.findings.sort_by_key(|finding| finding.how);
    found.seconds = begin.elapsed().as_secs_f64();
    Ok(found)
}

fn pair(
    desk: &Desk<'_>,
    base: &Base,
    spec: KernelSpec,
    subject: String,
    depth: Depth,
    hear: &mut Hear<'_>,
) -> Result<Validation, SubjectError> {
    let stop_after = (depth == Depth::UntilFound).then_some(&base.result);
    let ran = asked(desk, &spec, stop_after, hear);
    let (patched, mut stage, result) = match ran {
        Ok(ran) => ran,
        // The base does, on the same computer and a moment ago.
        Err(error) if error.is_the_kernels() => {
            return Ok(Validation {
                subject,
                base: base.stage.clone(),
                stages: vec![Stage { kernel: spec.to_string(), ..Stage::default() }],
                findings: vec![Finding::of_the_machine(&spec.to_string(), &error)],
                ..Validation::default()
            });
        }
        Err(error) => return Err(error),
    };
    let (found, unsteady) = confirm(
        desk,
        (&base.subject, &base.result),
        (&patched, &result),
        findings(&base.result, &result),
        depth,
        hear,
    )?;
    fill(&mut stage, &result);
    let (old, new) = (&base.result.profile.has, &result.profile.has);
    Ok(Validation {
        subject,
        base: base.stage.clone(),
        stages: vec![stage],
        abilities: [new.difference(old).cloned().collect(), old.difference(new).cloned().collect()],
        findings: found,
        unsteady,
        ..Validation::default()
    })
}

/// All cases on a kernel that is had first.
fn asked(
    desk: &Desk<'_>,
    spec: &KernelSpec,
    stop_after: Option<&KernelResult>,
    hear: &mut Hear<'_>,
) -> Result<(Subject, Stage, KernelResult), SubjectError> {
    let (subject, stage) = prepare(desk, spec, hear.progress)?;
    let result = run(desk, &subject, desk.cases, stop_after, hear)?;
    Ok((subject, stage, result))
}

/// What a sanitizer finds with the patch and not without it. The kernel without it is run only where there is something to
/// ask it.
fn sanitized(
    desk: &Desk<'_>,
    with: KernelSpec,
    without: KernelSpec,
    (base, depth): (&KernelResult, Depth),
    validation: &mut Validation,
    hear: &mut Hear<'_>,
) -> Result<(), SubjectError> {
    let stop_after = (depth == Depth::UntilFound).then_some(base);
    let (patched, mut stage, result) = match asked(desk, &with, stop_after, hear) {
        Ok(ran) => ran,
        Err(error) if error.is_the_kernels() => {
            // If this one does not answer either, the patch is not to blame.
            let (plain, _) = prepare(desk, &without, hear.progress)?;
            run(desk, &plain, &[], None, hear)?;
            validation.findings.push(Finding::of_the_machine(&with.to_string(), &error));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let found = complaints(&result);
    if !found.is_empty() {
        let names: BTreeSet<&str> = found.iter().map(|finding| finding.case.as_str()).collect();
        let (plain, _) = prepare(desk, &without, hear.progress)?;
        let real = |before: &KernelResult| -> Vec<Finding> {
            findings(before, &result).into_iter().filter(|finding| finding.how.is_bad()).collect()
        };
        let mut again = run(desk, &plain, &named(desk.cases, &names), None, hear)?;
        let mut reports = real(&again).into_iter().flat_map(|finding| finding.splats);
        if reports.any(|splat| splat.kind == Kind::Lockdep) {
            // What these cases alone do not bring about, others before them may.
            again = run(desk, &plain, desk.cases, None, hear)?;
        }
        let real = real(&again);
        let (found, unsteady) = confirm(desk, (&plain, &again), (&patched, &result), real, depth, hear)?;
        validation.findings.extend(found);
        validation.unsteady.extend(unsteady);
    }
    fill(&mut stage, &result);
    validation.stages.push(stage);
    Ok(())
}

/// Run the cases of findings once more on both kernels, and tell those that come again from those that do not. A report of
/// the kernel's and a leak need not come again: they do not happen by accident. Until something is found, a few at a time.
fn confirm(
    desk: &Desk<'_>,
    (base, before): (&Subject, &KernelResult),
    (patched, after): (&Subject, &KernelResult),
    mut found: Vec<Finding>,
    depth: Depth,
    hear: &mut Hear<'_>,
) -> Result<(Vec<Finding>, Vec<Finding>), SubjectError> {
    found.sort_by_key(|finding| finding.how);
    let is_sure = |finding: &Finding| matches!(finding.how, How::Splat | How::Leak | How::Gone | How::Gained);
    let (mut sure, mut doubtful): (Vec<_>, Vec<_>) = found.into_iter().partition(is_sure);
    let mut unsteady = Vec::new();
    while !doubtful.is_empty() && (depth == Depth::Full || !sure.iter().any(|finding| finding.how.is_bad())) {
        let few = if depth == Depth::Full { doubtful.len() } else { doubtful.len().min(FEW) };
        let few: Vec<Finding> = doubtful.drain(..few).collect();
        let cases = named(desk.cases, &few.iter().map(|finding| finding.case.as_str()).collect());
        let old = run(desk, base, &cases, None, hear)?;
        let new = run(desk, patched, &cases, None, hear)?;
        // Both against what came of the other the first time: neither may have been an accident.
        let again: BTreeSet<String> = {
            let cases =
                |found: Vec<Finding>| found.into_iter().map(|finding| finding.case).collect::<BTreeSet<_>>();
            &cases(findings(before, &new)) & &cases(findings(&old, after))
        };
        let (steady, other): (Vec<_>, Vec<_>) =
            few.into_iter().partition(|finding| again.contains(&finding.case));
        sure.extend(steady);
        unsteady.extend(other);
    }
    Ok((sure, unsteady))
}

fn named(cases: &[Case], names: &BTreeSet<&str>) -> Vec<Case> {
    cases.iter().filter(|case| names.contains(case.name().as_str())).cloned().collect()
}

fn prepare(
    desk: &Desk<'_>,
    spec: &KernelSpec,
    progress: &mut dyn Progress,
) -> Result<(Subject, Stage), SubjectError> {
    let begin = Instant::now();
    let subject = Subject::prepare(spec, desk.program, desk.cache, progress)?;
    let boot = subject.booted().map_or(0.0, |time| time.as_secs_f64());
    let build = begin.elapsed().as_secs_f64() - boot;
    let stage = Stage { kernel: spec.to_string(), build, boot, ..Stage::default() };
    Ok((subject, stage))
}

fn fill(stage: &mut Stage, result: &KernelResult) {
    stage.release.clone_from(&result.profile.release);
    stage.restore = result.restored.unwrap_or(0.0);
    stage.run = result.seconds;
    stage.cases = result.cases.len();
    stage.skipped = result.skipped();
}

/// These cases on one kernel; only until enough of them end wrong that do not in `stop_after`.
fn run(
    desk: &Desk<'_>,
    subject: &Subject,
    cases: &[Case],
    stop_after: Option<&KernelResult>,
    hear: &mut Hear<'_>,
) -> Result<KernelResult, SubjectError> {
    let plan = Plan {
        subjects: std::slice::from_ref(subject),
        transports: &[Transport::Plain],
        cases,
        probes: desk.probes,
        deviations: desk.deviations,
        rules: desk.rules,
        seed: 0,
        jobs: desk.jobs,
    };
    let is_wrong = |result: &CaseResult| matches!(result.verdict, Verdict::Failed(_) | Verdict::Lost { .. });
    let known: BTreeSet<&str> = stop_after
        .into_iter()
        .flat_map(|before| &before.cases)
        .filter(|case| is_wrong(case))
        .map(|case| case.path.as_str())
        .collect();
    let (mut wrong, enough) = (0, AtomicBool::new(false));
    let mut run = plan.run(desk.cache, &enough, &mut |event| {
        (hear.events)(event);
        if let Event::Case { result, .. } = event {
            wrong += usize::from(is_wrong(result) && !known.contains(result.path.as_str()));
        }
        if desk.stop.load(Ordering::SeqCst) || (stop_after.is_some() && wrong >= ENOUGH) {
            enough.store(true, Ordering::SeqCst);
        }
    });
    let result = run.kernels.remove(0);
    match &result.trouble {
        Some(why) => Err(SubjectError::Unavailable(why.clone())),
        None => Ok(result),
    }
}
