//! What is different between two kernels, case by case. Pure: results in, findings out.

use std::collections::{BTreeMap, BTreeSet};

use qemu::console::{Kind, Splat};
use serde::Serialize;

use crate::run::{CaseResult, KernelResult, Verdict};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What sort of difference.
    pub how: How,
    /// The kernel it was seen on.
    pub kernel: String,
    /// The case's name.
    pub case: String,
    /// Its title.
    pub title: String,
    /// The rules it rests on, the one it is most about first.
    pub rules: Vec<String>,
    /// How the case ended before, in words.
    pub before: String,
    /// How it ends now.
    pub after: String,
    /// What the kernel complained of, and did not before.
    pub splats: Vec<Splat>,
    /// What was observed before; empty where there is nothing to compare.
    #[serde(skip)]
    pub seen_before: String,
    /// What is observed now.
    #[serde(skip)]
    pub seen: String,
}

/// Sorts of differences, the weightiest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The kernel took the machine along.
    Lost,
    /// The kernel complained: a sanitizer's report, a warning, an oops.
    Splat,
    /// Something stays behind.
    Leak,
    /// What a rule asks for is not so any more.
    Broken,
    /// The kernel has lost an ability that the case needs.
    Gone,
    /// The law is kept, and something else is observed.
    Changed,
    /// The kernel has an ability that it had not, so the case says something now.
    Gained,
    /// What a rule asks for is so now.
    Mended,
}

impl Finding {
    /// A kernel that does not boot, or does not answer.
    pub(super) fn of_the_machine(kernel: &str, why: &dyn std::fmt::Display) -> Finding {
        Finding {
            how: How::Lost,
            kernel: kernel.to_owned(),
            case: "no case".into(),
            title: "The kernel boots, and says what it is able to do.".into(),
            rules: Vec::new(),
            before: "it does".into(),
            after: why.to_string(),
            splats: Vec::new(),
            seen_before: String::new(),
            seen: String::new(),
        }
    }
}

impl How {
    /// Is a rule broken, or a kernel damaged?
    pub fn is_bad(self) -> bool {
        self < How::Changed
    }

    /// In words, behind the name of a case.
    pub fn words(self) -> &'static str {
        match self {
            How::Lost => "the machine is lost",
            How::Splat => "the kernel complains",
            How::Leak => "something is left behind",
            How::Broken => "the rule is broken",
            How::Gone => "an ability is gone",
            How::Changed => "behaves differently, within the rules",
            How::Gained => "an ability is new",
            How::Mended => "the rule is kept now",
        }
    }
}

/// What is different from one kernel to another, by case.
pub fn findings(before: &KernelResult, after: &KernelResult) -> Vec<Finding> {
    let old: BTreeMap<&str, &CaseResult> =
        before.cases.iter().map(|case| (case.path.as_str(), case)).collect();
    let pairs = after.cases.iter().filter_map(|new| Some((*old.get(new.path.as_str())?, new)));
    let known: BTreeSet<String> = reports(before).map(Splat::key).collect();
    // Which case comes to a report may hang on what ran before it: locks are taken in both orders by two of them.
    let is_known = |new: &CaseResult| {
        let is_all = matches!(&new.verdict, Verdict::Failed(failure) if failure.step.is_none());
        is_all && !new.splats.is_empty() && new.splats.iter().all(|splat| known.contains(&splat.key()))
    };
    let pairs = pairs.filter(|(_, new)| !is_known(new));
    pairs.filter_map(|(old, new)| Some(finding(&after.name, old, new, how(old, new)?))).collect()
}

fn reports(result: &KernelResult) -> impl Iterator<Item = &Splat> {
    result.cases.iter().flat_map(|case| &case.splats)
}

/// What a kernel shows that nothing has to be compared with: cases that do not end as they should.
pub fn complaints(result: &KernelResult) -> Vec<Finding> {
    let is_wrong = |case: &&CaseResult| matches!(case.verdict, Verdict::Failed(_) | Verdict::Lost { .. });
    let one = |case: &CaseResult| {
        let passed = CaseResult {
            verdict: Verdict::Passed,
            transcript: String::new(),
            splats: Vec::new(),
            ..case.clone()
        };
        Some(finding(&result.name, &passed, case, how(&passed, case)?))
    };
    result.cases.iter().filter(is_wrong).filter_map(one).collect()
}

fn finding(kernel: &str, old: &CaseResult, new: &CaseResult, how: How) -> Finding {
    Finding {
        how,
        kernel: kernel.to_owned(),
        case: new.path.clone(),
        title: new.title.clone(),
        rules: first_named(new),
        before: ended(old),
        after: ended(new),
        splats: new_splats(old, new),
        seen_before: old.transcript.clone(),
        seen: new.transcript.clone(),
    }
}

fn how(old: &CaseResult, new: &CaseResult) -> Option<How> {
    let splats = new_splats(old, new);
    let is_lost = matches!(new.verdict, Verdict::Lost { .. });
    if !splats.is_empty() && !is_lost {
        let all_leaks = splats.iter().all(|splat| splat.kind == Kind::Kmemleak);
        return Some(if all_leaks { How::Leak } else { How::Splat });
    }
    Some(match (&old.verdict, &new.verdict) {
        (Verdict::Lost { .. }, Verdict::Lost { .. }) | (Verdict::Skipped(_), Verdict::Skipped(_)) => {
            return None;
        }
        (_, Verdict::Lost { .. }) => How::Lost,
        (
            Verdict::Failed(old) | Verdict::Deviated { failure: old, .. },
            Verdict::Failed(new) | Verdict::Deviated { failure: new, .. },
        ) => {
            if old.told() == new.told() {
                return None;
            }
            sort(&new.why)
        }
        (_, Verdict::Failed(failure) | Verdict::Deviated { failure, .. }) => sort(&failure.why),
        (_, Verdict::Skipped(_)) => How::Gone,
        (Verdict::Skipped(_), Verdict::Passed) => How::Gained,
        (Verdict::Passed, Verdict::Passed) if old.transcript == new.transcript => return None,
        (Verdict::Passed, Verdict::Passed) => How::Changed,
        (_, Verdict::Passed) => How::Mended,
    })
}

fn new_splats(old: &CaseResult, new: &CaseResult) -> Vec<Splat> {
    let is_new = |splat: &&Splat| !old.splats.iter().any(|known| known.key() == splat.key());
    new.splats.iter().filter(is_new).cloned().collect()
}

fn sort(why: &str) -> How {
    if why.starts_with("the kernel complained") {
        How::Splat
    } else if why.starts_with("something is left behind") {
        How::Leak
    } else {
        How::Broken
    }
}

/// The rules of a case; one that the oracle names in its complaint comes first.
fn first_named(result: &CaseResult) -> Vec<String> {
    let why = result.verdict.reason().unwrap_or_default();
    let mut rules = result.rules.clone();
    rules.sort_by_key(|rule| !why.contains(&format!("({rule}")));
    rules
}

fn ended(result: &CaseResult) -> String {
    match result.verdict.reason() {
        Some(reason) => format!("{} ({reason})", result.verdict.word()),
        None => result.verdict.word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Profile;
    use crate::run::Failure;

    fn kernel(cases: &[(&str, Verdict, &str)]) -> KernelResult {
        let case = |(path, verdict, transcript): &(&str, Verdict, &str)| CaseResult {
            path: (*path).into(),
            title: "T.".into(),
            rules: vec!["A-01".into(), "B-02".into()],
            transport: crate::program::Transport::Plain,
            verdict: verdict.clone(),
            millis: 1,
            transcript: (*transcript).into(),
            splats: Vec::new(),
            by_oracle: false,
            points: None,
        };
        KernelResult {
            name: "k".into(),
            profile: Profile::default(),
            cases: cases.iter().map(case).collect(),
            booted: None,
            restored: None,
            seconds: 0.0,
            trouble: None,
        }
    }

    fn failed(why: &str) -> Verdict {
        Verdict::Failed(Box::new(Failure {
            file: "a.case".into(),
            line: 1,
            step: None,
            why: why.into(),
            transcript: String::new(),
            kernel: Vec::new(),
        }))
    }

    fn lost() -> Verdict {
        Verdict::Lost { why: "w".into(), after: None, console: String::new() }
    }

    #[rstest::rstest]
    #[case::same(Verdict::Passed, "a", Verdict::Passed, "a", None)]
    #[case::changed(Verdict::Passed, "a", Verdict::Passed, "b", Some(How::Changed))]
    #[case::broken(Verdict::Passed, "a", failed("expected 0, got EIO"), "b", Some(How::Broken))]
    #[case::splat(Verdict::Passed, "a", failed("the kernel complained: BUG: x"), "a", Some(How::Splat))]
    #[case::leak(Verdict::Passed, "a", failed("something is left behind: lower"), "a", Some(How::Leak))]
    #[case::lost(Verdict::Passed, "a", lost(), "", Some(How::Lost))]
    #[case::gone(Verdict::Passed, "a", Verdict::Skipped("no x".into()), "", Some(How::Gone))]
    #[case::gained(Verdict::Skipped("no x".into()), "", Verdict::Passed, "a", Some(How::Gained))]
    #[case::mended(failed("w"), "a", Verdict::Passed, "b", Some(How::Mended))]
    #[case::as_wrong_as_before(
        failed("w, in round 3 of 9 with seed 1"),
        "a",
        failed("w, in round 4 of 9 with seed 2"),
        "b",
        None
    )]
    #[case::wrong_in_another_way(failed("w"), "a", failed("v"), "b", Some(How::Broken))]
    fn a_pair_of_results_is_one_finding_or_none(
        #[case] before: Verdict,
        #[case] seen_before: &str,
        #[case] after: Verdict,
        #[case] seen: &str,
        #[case] how: Option<How>,
    ) {
        let found = findings(&kernel(&[("io/a", before, seen_before)]), &kernel(&[("io/a", after, seen)]));
        assert_eq!(found.iter().map(|finding| finding.how).next(), how);
    }

    #[test]
    fn a_report_of_the_kernels_weighs_more_than_the_verdict() {
        let mut after = kernel(&[("io/a", Verdict::Passed, "a")]);
        after.cases[0].splats = qemu::console::scan("BUG: KASAN: slab-use-after-free in fuse_read+0x1/0x2");
        let before = kernel(&[("io/a", Verdict::Passed, "a")]);
        let found = findings(&before, &after);
        assert_eq!((found[0].how, found[0].splats.len()), (How::Splat, 1));
        assert_eq!(findings(&after, &after), [], "known before");
        after.cases[0].splats[0].kind = Kind::Kmemleak;
        assert_eq!(findings(&before, &after)[0].how, How::Leak);
    }

    #[test]
    fn a_report_that_the_base_has_in_another_case_is_not_the_patchs() {
        let report = || qemu::console::scan("BUG: KASAN: slab-use-after-free in fuse_read+0x1/0x2");
        let why = "the kernel complained: BUG: KASAN: slab-use-after-free in fuse_read";
        let mut before = kernel(&[("io/a", failed(why), ""), ("io/b", Verdict::Passed, "")]);
        before.cases[0].splats = report();
        let mut after = kernel(&[("io/a", Verdict::Passed, ""), ("io/b", failed(why), "")]);
        after.cases[1].splats = report();
        let told = |after: &KernelResult| {
            findings(&before, after)
                .into_iter()
                .map(|finding| (finding.case, finding.how))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&after), [("io/a".to_string(), How::Mended)]);
        after.cases[1].splats[0].function = Some("fuse_write".into());
        assert_eq!(told(&after).last(), Some(&("io/b".to_string(), How::Splat)));
    }

    #[test]
    fn cases_that_only_one_side_has_are_not_compared() {
        let found =
            findings(&kernel(&[("io/a", Verdict::Passed, "")]), &kernel(&[("io/b", failed("w"), "")]));
        assert_eq!(found, []);
    }

    #[test]
    fn the_rule_that_the_oracle_names_comes_first() {
        let found = complaints(&kernel(&[("io/a", failed("the oracle allows 0 (B-02), observed EIO"), "")]));
        assert_eq!(found[0].rules, ["B-02", "A-01"]);
        assert!(How::Broken.is_bad() && !How::Changed.is_bad() && !How::Mended.is_bad());
    }
}
