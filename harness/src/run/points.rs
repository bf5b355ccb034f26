//! A case with a failing step, as rounds: with its first, its second, ... allocation failing, until it makes no more.
//!
//! An allocation that fails is a point. How many there are is a matter of what the kernel's caches hold, so the figure is
//! told beside the transcript and not in it.

use qemu::console::{Kind, scan};

use super::outcome::{CaseResult, Failure, Verdict, complaint};
use crate::program::MOST_POINTS;
use crate::protocol::{Pace, StepRecord};
use crate::script::{self, Case};

/// What came of a round.
pub(super) struct Round {
    pub(super) result: CaseResult,
    pub(super) steps: Vec<StepRecord>,
}

/// Have rounds run, each with this allocation failing, as long as one fails and nothing is wrong.
pub(super) fn walk(case: &Case, pace: Pace, mut round: impl FnMut(u32) -> Round) -> CaseResult {
    let (mut millis, mut nth) = (0, 0);
    loop {
        nth += 1;
        let Round { mut result, steps } = round(nth);
        millis += result.millis;
        result.millis = millis;
        let failing = steps.iter().find(|record| record.struck.is_some());
        let struck = failing.and_then(|record| record.struck) == Some(true);
        // In the round that lost its machine nobody could tell.
        result.points = Some(nth - u32::from(!struck && !matches!(result.verdict, Verdict::Lost { .. })));
        match result.verdict {
            Verdict::Passed if struck && nth > MOST_POINTS => {
                let why = format!("allocations beyond the {MOST_POINTS} of a failing step: they do not end");
                result.verdict = Verdict::Failed(Box::new(failure(case, &steps, why, &result.transcript)));
            }
            Verdict::Passed if struck => continue,
            Verdict::Passed => result.transcript.insert_str(0, HEAD),
            Verdict::Failed(failure) => {
                let struck = struck.then_some(nth);
                result.verdict = Verdict::Failed(Box::new(failure.at_point(struck)));
            }
            lost => result.verdict = at_point(lost, case, pace, nth, &steps, &result.transcript),
        }
        return result;
    }
}

/// The first line of the transcript. Which of the allowed outcomes there were hangs on the kernel's caches, too.
const HEAD: &str = "each allocation failing in turn, then none:\n";

/// A machine that goes down with the kernel's report of why is a failure: the point is to see what too little memory leads
/// to. It is tried again with care first, so that the report comes with the step.
fn at_point(
    lost: Verdict,
    case: &Case,
    pace: Pace,
    nth: u32,
    steps: &[StepRecord],
    transcript: &str,
) -> Verdict {
    let (why, after, console) = match lost {
        Verdict::Lost { why, after, console } => (why, after, console),
        other => return other,
    };
    let reports = scan(&console);
    // The panic only ends what another report has begun.
    let report = reports.iter().find(|report| report.kind != Kind::Panic).or(reports.first());
    match report.filter(|_| pace == Pace::Careful) {
        Some(report) => {
            let failure = failure(case, steps, complaint(report), transcript);
            let kernel = console.lines().map(str::to_owned).collect();
            Verdict::Failed(Box::new(Failure { kernel, ..failure }.at_point(Some(nth))))
        }
        None => Verdict::Lost { why: format!("{why}{}", Failure::point(Some(nth))), after, console },
    }
}

/// A failure in the step behind the last one that was told of.
fn failure(case: &Case, steps: &[StepRecord], why: String, transcript: &str) -> Failure {
    let next = steps.last().map_or(0, |last| last.index + 1);
    let step = case.program.steps.get(next);
    Failure {
        file: step.map_or_else(|| format!("{}.case", case.path), |step| step.at.file.clone()),
        line: step.map_or(1, |step| step.at.line),
        step: step.map(script::print_step),
        why,
        transcript: transcript.to_string(),
        kernel: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::program::{Observed, Transport};

    fn case() -> Case {
        let text = "# A.\nrules A-01\nneeds fault_injection\n\napp failing creat \"a\" -> fd f or ENOMEM\n";
        let source = script::Source { path: "a/b.case".into(), text: text.into() };
        script::parse(&source, &BTreeMap::<&str, &str>::new()).unwrap().remove(0)
    }

    fn round(struck: bool, observed: Observed, verdict: Verdict) -> Round {
        let mut result = CaseResult::of(&case(), Transport::Plain, verdict);
        result.transcript = "app    failing creat \"a\"\n".into();
        result.millis = 2;
        let record = StepRecord { observed: Some(observed), struck: Some(struck), ..StepRecord::default() };
        Round { result, steps: vec![record] }
    }

    fn failed(why: &str) -> Verdict {
        Verdict::Failed(Box::new(failure(&case(), &[], why.into(), "")))
    }

    #[test]
    fn rounds_end_with_the_one_that_does_not_strike() {
        let mut asked = Vec::new();
        let result = walk(&case(), Pace::Fast, |nth| {
            asked.push(nth);
            let observed = if nth < 3 { Observed::Errno(12) } else { Observed::Int(4) };
            round(nth < 4, observed, Verdict::Passed)
        });
        assert_eq!(asked, [1, 2, 3, 4]);
        assert_eq!((result.points, result.millis, result.verdict), (Some(3), 8, Verdict::Passed));
        assert_eq!(
            result.transcript,
            "each allocation failing in turn, then none:\napp    failing creat \"a\"\n"
        );
    }

    #[test]
    fn allocations_without_end_are_a_failure() {
        let mut rounds = 0;
        let result = walk(&case(), Pace::Fast, |_| {
            rounds += 1;
            round(true, Observed::Errno(12), Verdict::Passed)
        });
        assert_eq!(rounds, MOST_POINTS + 1);
        assert!(matches!(result.verdict, Verdict::Failed(failure) if failure.why.contains("do not end")));
    }

    #[test]
    fn what_is_wrong_in_a_round_ends_them_and_tells_the_allocation() {
        let why = |struck| {
            let result = walk(&case(), Pace::Fast, |nth| match nth {
                1 => round(true, Observed::Errno(12), Verdict::Passed),
                _ => round(struck, Observed::Errno(5), failed("expected ok, got EIO")),
            });
            let Verdict::Failed(failure) = result.verdict else { panic!("it did not fail") };
            assert_eq!(failure.told(), "expected ok, got EIO");
            (result.points, failure.why)
        };
        assert_eq!(why(true), (Some(2), "expected ok, got EIO, with allocation 2 failing".into()));
        assert_eq!(why(false), (Some(1), "expected ok, got EIO, with no allocation failing".into()));
    }

    #[test]
    fn a_machine_that_tells_why_it_goes_down_fails_the_case() {
        let console = "[ 1.0] BUG: KASAN: null-ptr-deref in f+0x1/0x2\n[ 1.1] Oops: general protection fault\n\
            [ 1.2] ---[ end trace 0 ]---\n[ 1.3] Kernel panic - not syncing: Fatal exception\n";
        let verdict = |pace, console: &str| {
            let lost = Verdict::Lost { why: "it ended".into(), after: None, console: console.into() };
            walk(&case(), pace, |_| round(true, Observed::Int(0), lost.clone())).verdict
        };
        let Verdict::Failed(failure) = verdict(Pace::Careful, console) else { panic!("it did not fail") };
        assert_eq!(failure.told(), "the kernel complained: BUG: KASAN: null-ptr-deref in f");
        assert!(failure.why.ends_with(", with allocation 1 failing"));
        for lost in [verdict(Pace::Careful, "silence"), verdict(Pace::Fast, console)] {
            assert_eq!(lost.reason(), Some("it ended, with allocation 1 failing"));
            assert!(matches!(lost, Verdict::Lost { .. }));
        }
    }
}
