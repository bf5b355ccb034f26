//! The JUnit report, for CI systems: a suite for each kernel, a test for each case.
//!
//! A case that was to run and was not is an error; one that deviates as expected is a success with a property that
//! tells it, as the format has no word for it.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::failure::{Origin, failure};
use super::{group, not_run, on_one_line};
use crate::run::{CaseResult, Run, Verdict};

/// The report as an XML text.
///
/// # Errors
/// None that can be provoked: what XML cannot hold is taken out of texts.
pub fn junit(run: &Run, origin: &Origin) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new("fuseproof");
    report.add_test_suites((0..run.kernels.len()).map(|kernel| suite(run, kernel, origin)));
    report.to_string()
}

fn suite(run: &Run, kernel: usize, origin: &Origin) -> TestSuite {
    let of = &run.kernels[kernel];
    let mut suite = TestSuite::new(&of.name);
    suite.set_time(Duration::from_secs_f64(of.seconds));
    suite.add_property(("release", on_one_line(&of.profile.release).as_str()));
    for (place, case) in run.cases.iter().enumerate() {
        let mut test = match run.result(kernel, place) {
            Some(result) => test(&of.name, result, origin),
            None => TestCase::new(&case.path, status(NonSuccessKind::Error, &not_run(of))),
        };
        test.set_classname(format!("{}.{}", of.name, group(&case.path)));
        test.add_property(("rules", case.rules.join(" ").as_str()));
        suite.add_test_case(test);
    }
    suite
}

fn test(kernel: &str, result: &CaseResult, origin: &Origin) -> TestCase {
    let reason = &on_one_line(result.verdict.reason().unwrap_or_default());
    let mut status = match &result.verdict {
        Verdict::Passed | Verdict::Deviated { .. } => TestCaseStatus::success(),
        Verdict::Failed(_) => status(NonSuccessKind::Failure, reason),
        Verdict::Skipped(_) => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(reason.as_str());
            status
        }
        // Nothing is known about the case.
        Verdict::Lost { .. } => status(NonSuccessKind::Error, reason),
    };
    if let Some(text) = failure(kernel, result, origin) {
        status.set_type(result.verdict.word()).set_description(text);
    }
    let mut test = TestCase::new(&result.path, status);
    test.set_time(Duration::from_millis(result.millis));
    if let Verdict::Deviated { .. } = &result.verdict {
        test.add_property(("deviates", reason.as_str()));
    }
    test
}

fn status(kind: NonSuccessKind, message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(message);
    status
}
