//! One case in one session: from a program to a verdict.

use qemu::console::scan;

use super::outcome::{CaseResult, Failure, Verdict};
use super::session::Session;
use crate::program::{Profile, Program};
use crate::protocol::{Ending, Report, StepRecord};
use crate::script::{self, Case};
use crate::transcript;

/// How steps are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Several together: fast, and a machine that dies takes its last few milliseconds along.
    Fast,
    /// Each at once.
    Careful,
}

/// Run the case; afterwards the session is tainted if it must not be used again.
pub(super) fn judge(session: &mut Session, case: &Case, profile: &Profile, pace: Pace) -> CaseResult {
    let program = &case.program;
    let result = |verdict, millis, transcript| CaseResult {
        path: case.name(),
        title: program.title.clone(),
        rules: program.rules.clone(),
        verdict,
        millis,
        transcript,
    };
    let before = session.splats().len();
    let mut steps = Vec::new();
    match attempt(session, program, profile, pace, &mut steps) {
        Err(lost) => {
            session.tainted = true;
            let after = steps.last().map(|record| transcript::step(program, record));
            let why = lost.why.clone();
            let verdict = Verdict::Lost { why, after, console: lost.console };
            result(verdict, 0, transcript::transcript(program, &steps, &Ending::default()))
        }
        Ok(ending) => {
            let splats = session.splats().len() > before;
            let failure = failure(
                case,
                &steps,
                &ending,
                splats.then(|| session.splats()).and_then(|all| all.last().map(|splat| splat.title.clone())),
            );
            session.tainted = splats || ending.stuck.is_some() || ending.leak.is_some();
            let transcript = transcript::transcript(program, &steps, &ending);
            let verdict = failure.map_or(Verdict::Passed, |failure| Verdict::Failed(Box::new(failure)));
            result(verdict, ending.millis, transcript)
        }
    }
}

/// The program's steps as they come, until its end.
fn attempt(
    session: &mut Session,
    program: &Program,
    profile: &Profile,
    pace: Pace,
    steps: &mut Vec<StepRecord>,
) -> Result<Ending, super::session::Lost> {
    session.run(program, profile, pace == Pace::Careful)?;
    loop {
        match session.report()? {
            // A guest that repeats itself without end is as lost as a silent one.
            Report::Steps(more) if steps.len() + more.len() > program.steps.len() => {
                return Err(super::session::Lost {
                    why: "the agent reports more steps than the case has".into(),
                    console: String::new(),
                });
            }
            Report::Steps(more) => steps.extend(more),
            Report::End(ending) => return Ok(ending),
            Report::Trouble(why) => {
                return Err(super::session::Lost { why, console: String::new() });
            }
            Report::Hello { .. } => {
                return Err(super::session::Lost {
                    why: "the agent started anew in the middle of a case".into(),
                    console: String::new(),
                });
            }
        }
    }
}

/// What is wrong with a run that ended, if something is.
fn failure(case: &Case, steps: &[StepRecord], ending: &Ending, console: Option<String>) -> Option<Failure> {
    let program = &case.program;
    let kernel: Vec<String> =
        steps.iter().flat_map(|record| &record.kernel).chain(&ending.kernel).cloned().collect();
    let log = scan(&kernel.join("\n"));
    let wrong_step = steps.iter().find_map(|record| {
        let step = program.steps.get(record.index)?;
        record.wrong.as_ref().map(|why| (Some(step), with_inner(why, record)))
    });
    let why = wrong_step
        // Who holds a file system says more than that a process does not end, which may be why.
        .or_else(|| ending.leak.clone().map(|leak| (None, format!("something is left behind: {leak}"))))
        .or_else(|| ending.stuck.clone().map(|why| (None, why)))
        .or_else(|| {
            let rule = ending.left_over.first()?;
            Some((None, format!("a scripted reply was never used: {rule}")))
        })
        .or_else(|| {
            console
                .or_else(|| log.first().map(|splat| splat.title.clone()))
                .map(|title| (None, format!("the kernel complained: {title}")))
        })?;
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

fn with_inner(why: &str, record: &StepRecord) -> String {
    match record.inner {
        Some(inner) => format!("{why} ({} inside the kernel)", crate::program::flags::errno_name(inner)),
        None => why.to_string(),
    }
}
