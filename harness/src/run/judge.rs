//! One case in one session: from a program to a verdict.

use std::time::{Duration, Instant};

use qemu::console::{Splat, scan};

use super::outcome::{CaseResult, Failure, Verdict, complaint};
use super::points::{self, Round};
use super::session::Session;
use crate::daemon::Launch;
use crate::exec::fuzz::performed;
use crate::oracle;
use crate::program::{Missing, Profile, Program, Step, Transport, Verb};
use crate::protocol::{Ending, How, Order, Pace, Report, StepRecord};
use crate::script::{self, Case};
use crate::transcript;

/// How long a case may take in all, told or not: longer than the agent gives it there.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for a workload of somebody else's daemon.
const WORKLOAD: Duration = Duration::from_secs(260);

/// Who has a say in what a step may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The case alone: before the kernel's profile is known, the oracle knows nothing.
    Case,
    /// The case, and the oracle where it knows the way in which requests and replies travel: the plain one.
    Both,
    /// The oracle alone: the case asks for what cannot be had.
    Oracle,
}

/// How a case is run and judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// How each round is run; the seed of its delays is made of `seed`.
    pub(super) how: How,
    /// Where the delays of races come from.
    pub(super) seed: u64,
    pub(super) by: By,
}

/// Run the case, one about a race or a failing step again and again; afterwards the session is tainted if it must not be used again.
pub(super) fn judge(session: &mut Session, case: &Case, profile: &Profile, manner: Manner) -> CaseResult {
    session.began = None;
    if case.program.failing().is_some() {
        return points::walk(case, manner.how.pace, |nth| {
            let how = How { failing: Some(nth), ..manner.how };
            round(session, case, profile, Manner { how, ..manner })
        });
    }
    let Some(stress) = &case.program.stress else { return round(session, case, profile, manner).result };
    let mut millis = 0;
    for number in 1..=stress.rounds {
        let shake = Some(manner.seed.wrapping_add(number.into()));
        let shaken = Manner { how: How { shake, ..manner.how }, ..manner };
        let result = round(session, case, profile, shaken).result;
        millis += result.millis;
        let verdict = match result.verdict {
            Verdict::Passed => continue,
            Verdict::Failed(failure) => {
                Verdict::Failed(Box::new(failure.in_round(number, stress.rounds, manner.seed)))
            }
            other => other,
        };
        return CaseResult { verdict, millis, ..result };
    }
    let transcript = transcript::race(&case.program, profile);
    CaseResult { millis, transcript, ..CaseResult::of(case, manner.how.transport, Verdict::Passed) }
}

/// How a case is run that nobody has seen running: each step is told at once.
const fn with_care(transport: Transport) -> How {
    How { transport, pace: Pace::Careful, failing: None, shake: None, lawless: false }
}

/// Run one case with care, judged by itself and by the oracle.
pub(crate) fn judge_with_care(
    session: &mut Session,
    case: &Case,
    profile: &Profile,
    over: Transport,
) -> CaseResult {
    judge(session, case, profile, Manner { how: with_care(over), seed: 0, by: By::Both })
}

/// What came of the steps of a program until it ended, or the machine was lost.
pub(crate) fn observe(
    session: &mut Session,
    program: &Program,
    profile: &Profile,
    over: Transport,
) -> Vec<StepRecord> {
    let mut steps = Vec::new();
    session.tainted |= attempt(session, program, profile, with_care(over), &mut steps).is_err();
    steps
}

/// Run the case once.
fn round(session: &mut Session, case: &Case, profile: &Profile, manner: Manner) -> Round {
    let program = &case.program;
    let before = session.splats().len();
    let mut steps = Vec::new();
    let ended = attempt(session, program, profile, manner.how, &mut steps);
    let ending = ended.as_ref().ok();
    let logged = scan(&kernel_log(&steps, ending).join("\n"));
    let splats = each_once(logged, session.splats().into_iter().skip(before));
    let (verdict, millis, transcript) = match ended {
        Err(lost) => {
            session.tainted = true;
            let after = steps.last().map(|record| transcript::step(program, record));
            let why = lost.why.clone();
            let verdict = Verdict::Lost { why, after, console: lost.console };
            (verdict, 0, transcript::transcript(program, &steps, &Ending::default()))
        }
        Ok(ending) => {
            session.began = session.began.or(ending.began);
            let asks_oracle = match manner.by {
                By::Case => false,
                By::Both => manner.how.transport == Transport::Plain,
                By::Oracle => true,
            };
            // The oracle takes every step for one that was performed.
            let asked = asks_oracle.then(|| performed(program, &steps));
            let forbidden = asked.as_ref().and_then(|(done, seen)| forbidden(done, profile, seen));
            // What is scripted for a request that cannot come any more is left over.
            let left_over = if manner.by == By::Oracle { Vec::new() } else { ending.left_over };
            let ending = Ending { left_over, ..ending };
            let failure = failure(case, &steps, &ending, forbidden, splats.first());
            session.stuck = ending.stuck.is_some();
            session.tainted = !splats.is_empty() || session.stuck || ending.leak.is_some();
            let transcript = transcript::transcript(program, &steps, &ending);
            let verdict = failure.map_or(Verdict::Passed, |failure| Verdict::Failed(Box::new(failure)));
            (verdict, ending.millis, transcript)
        }
    };
    let of = CaseResult::of(case, manner.how.transport, verdict);
    Round { result: CaseResult { millis, transcript, splats, ..of }, steps }
}

/// What the kernel's log told, and what only its console did: that may end in the middle of a report which the log has
/// in full.
fn each_once(logged: Vec<Splat>, console: impl Iterator<Item = Splat>) -> Vec<Splat> {
    let mut splats: Vec<Splat> = Vec::new();
    for splat in logged {
        if !splats.iter().any(|known| known.key() == splat.key()) {
            splats.push(splat);
        }
    }
    for splat in console {
        if !splats.iter().any(|known| (known.kind, &known.title) == (splat.kind, &splat.title)) {
            splats.push(splat);
        }
    }
    splats
}

/// The program's steps as they come, until its end.
fn attempt(
    session: &mut Session,
    program: &Program,
    profile: &Profile,
    how: How,
    steps: &mut Vec<StepRecord>,
) -> Result<Ending, super::session::Lost> {
    session.run(program, profile, how)?;
    let what = Ordered { program, profile, lawless: how.lawless };
    collect(session, &what, steps, None, PATIENCE)
}

/// The same on the mount of somebody else's daemon, and what was recorded of that.
pub(crate) fn watch(
    session: &mut Session,
    program: &Program,
    profile: &Profile,
    launch: &Launch,
) -> Result<Watched, super::session::Lost> {
    let (program_box, launch) = (Box::new(program.clone()), launch.clone());
    session.order(&Order::Watch { program: program_box, profile: profile.clone(), launch })?;
    let (mut steps, mut trace) = (Vec::new(), Vec::new());
    let what = Ordered { program, profile, lawless: false };
    let ending = collect(session, &what, &mut steps, Some(&mut trace), WORKLOAD)?;
    Ok(Watched { steps, ending, trace })
}

/// What came of a program on the mount of somebody else's daemon.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) ending: Ending,
    /// The recording.
    pub(crate) trace: Vec<u8>,
}

/// The most bytes of a recording: more than a recorder writes.
const MOST_TRACE: usize = 32 << 20;

/// What was ordered.
struct Ordered<'a> {
    program: &'a Program,
    profile: &'a Profile,
    /// See [`How::lawless`].
    lawless: bool,
}

fn collect(
    session: &mut Session,
    what: &Ordered<'_>,
    steps: &mut Vec<StepRecord>,
    mut trace: Option<&mut Vec<u8>>,
    patience: Duration,
) -> Result<Ending, super::session::Lost> {
    let until = Instant::now() + patience;
    loop {
        match session.report(until.saturating_duration_since(Instant::now()))? {
            // A guest that repeats itself without end is as lost as a silent one.
            Report::Steps(more) if steps.len() + more.len() > what.program.steps.len() => {
                return Err(super::session::Lost {
                    why: "the agent reports more steps than the case has".into(),
                    console: String::new(),
                });
            }
            Report::Steps(more) => steps.extend(more),
            Report::End(ending) if !is_whole(what, steps, &ending) => {
                return Err(super::session::Lost {
                    why: "the agent ended the case without having told of all its steps".into(),
                    console: String::new(),
                });
            }
            Report::End(ending) => return Ok(ending),
            Report::Trouble(why) => {
                return Err(super::session::Lost { why, console: String::new() });
            }
            Report::Trace(part)
                if trace.as_ref().is_some_and(|trace| trace.len() + part.len() <= MOST_TRACE) =>
            {
                if let Some(trace) = &mut trace {
                    trace.extend(part);
                }
            }
            Report::Hello { .. }
            | Report::Leaks(_)
            | Report::Fuzzing(_)
            | Report::Again(_)
            | Report::Bench(_)
            | Report::Bare(_)
            | Report::Trace(_) => {
                return Err(super::session::Lost {
                    why: "the agent talks of something else in the middle of a case".into(),
                    console: String::new(),
                });
            }
        }
    }
}

/// Does the report tell of each step that was to happen, in order, up to the first wrong one or to the end?
fn is_whole(what: &Ordered<'_>, steps: &[StepRecord], ending: &Ending) -> bool {
    let Ordered { program, profile, lawless } = *what;
    let observed = |index| steps.iter().find(|record| record.index == index)?.observed.as_ref();
    let (mut missing, mut due) = (Missing::default(), Vec::new());
    for (index, step) in program.steps.iter().enumerate() {
        if profile.meets(&step.when) && !missing.leaves_out(step, profile) {
            due.push(index);
            if step.failing || (lawless && observed(index).is_some()) {
                missing.after(step, profile, observed(index));
            }
        }
    }
    // Where nothing is expected, it may end anywhere.
    let stopped = lawless || ending.stuck.is_some() || steps.last().is_some_and(|last| last.wrong.is_some());
    let told = steps.iter().map(|record| record.index);
    if stopped { told.eq(due.into_iter().take(steps.len())) } else { told.eq(due) }
}

fn kernel_log(steps: &[StepRecord], ending: Option<&Ending>) -> Vec<String> {
    let last = ending.iter().flat_map(|ending| &ending.kernel);
    steps.iter().flat_map(|record| &record.kernel).chain(last).cloned().collect()
}

/// Which step is wrong, if it is one, and why.
type Wrong<'a> = (Option<&'a Step>, String);

/// What is wrong with a run that ended, if something is.
fn failure(
    case: &Case,
    steps: &[StepRecord],
    ending: &Ending,
    forbidden: Option<Wrong<'_>>,
    splat: Option<&Splat>,
) -> Option<Failure> {
    let program = &case.program;
    let kernel = kernel_log(steps, Some(ending));
    let wrong_step = steps.iter().find_map(|record| {
        let step = program.steps.get(record.index)?;
        record.wrong.as_ref().map(|why| (Some(step), with_inner(why, record)))
    });
    let why = wrong_step
        .or(forbidden)
        // Who holds a file system says more than that a daemon does not end, which may be why.
        .or_else(|| ending.leak.clone().map(|leak| (None, format!("something is left behind: {leak}"))))
        .or_else(|| ending.stuck.clone().map(|why| (None, why)))
        .or_else(|| {
            let rule = ending.left_over.first()?;
            Some((None, format!("a scripted reply was never used: {rule}")))
        })
        .or_else(|| Some((None, complaint(splat?))))?;
    let (step, why) = why;
    let (file, line) = match step {
        Some(step) => (step.at.file.clone(), step.at.line),
        None => (format!("{}.case", case.path), 1),
    };
    Some(Failure {
        file,
        line,
        step: step.map(script::print_step),
        why,
        transcript: transcript::transcript(program, steps, ending),
        kernel,
    })
}

/// The first step whose outcome the case allows and the oracle does not.
fn forbidden<'a>(program: &'a Program, profile: &Profile, steps: &[StepRecord]) -> Option<Wrong<'a>> {
    // Of a race it judges what is before: from there on no order of steps is the kernel's.
    let is_race = |step: &Step| program.stress.is_some() && matches!(step.verb, Verb::Start { .. });
    let race = program.steps.iter().position(is_race).unwrap_or(program.steps.len());
    let ordered = &steps[..steps.partition_point(|record| record.index < race)];
    let wrong = oracle::against_kernel(program, profile, ordered).contradiction?;
    let record = steps.iter().find(|record| record.index == wrong.index)?;
    let why = match &record.observed {
        Some(observed) => {
            with_inner(&format!("the oracle allows {}, observed {observed}", wrong.allows), record)
        }
        None => format!("the oracle allows {}, observed what the case says", wrong.allows),
    };
    Some((program.steps.get(wrong.index), why))
}

fn with_inner(why: &str, record: &StepRecord) -> String {
    match record.inner {
        Some(inner) => format!("{why} ({} inside the kernel)", crate::program::flags::errno_name(inner)),
        None => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::program::Observed;

    /// Steps that each agree with a case that asks for little, the last with this.
    fn seen(case: &Case, last: Observed) -> Vec<StepRecord> {
        let steps = 0..case.program.steps.len();
        let record = |index| StepRecord { index, observed: Some(Observed::Int(0)), ..StepRecord::default() };
        let mut records: Vec<StepRecord> = steps.map(record).collect();
        if let Some(record) = records.last_mut() {
            record.observed = Some(last);
        }
        records
    }

    #[test]
    fn what_only_the_oracle_forbids_is_a_failure() {
        let text = "# A case that lets everything through.\nrules A-01\nhost lower tmpfs\nhost file \"a\" \"hello\"\n\
            daemon mount\napp open \"a\" O_RDONLY -> fd f\napp read f 5 -> \"hello\" or EIO\n";
        let source = script::Source { path: "a/lenient.case".into(), text: text.into() };
        let case = script::parse(&source, &BTreeMap::<&str, &str>::new()).unwrap().remove(0);
        let why = |last| {
            let records = seen(&case, last);
            let forbidden = forbidden(&case.program, &Profile::default(), &records);
            failure(&case, &records, &Ending::default(), forbidden, None)
                .map(|failure| (failure.line, failure.why))
        };
        assert_eq!(why(Observed::Data(crate::program::Data(b"hello".to_vec()))), None);
        let (line, why) = why(Observed::Errno(5)).unwrap();
        assert_eq!((line, why.as_str()), (7, "the oracle allows \"hello\" (OPEN-13), observed EIO"));
    }
}
