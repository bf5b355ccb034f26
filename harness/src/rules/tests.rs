//! Rules are read strictly, and compared with cases: each mistake and each contradiction is made once.

use std::collections::BTreeMap;
use std::fmt::Write;

use miette::{GraphicalReportHandler, GraphicalTheme};

use super::*;
use crate::script::{self, Case, ScriptError, Source};

const RULES: &str = r#"# What an OPEN reply may say.

[OPEN-01]
law = "An open reply with a good id makes the file pass through."
dialects = ["backing"]
needs = "passthrough !overlay"
source = "fs/fuse/file.c: fuse_file_open()"

[OPEN-02]
law = "An open reply with id 0 fails the open with EIO."
dialects = ["backing", "v12"]
source = "fs/fuse/file.c: fuse_file_open()"

[OPEN-03]
law = "Memory of a failed open is given back."
dialects = ["backing"]
source = "fs/fuse/file.c: fuse_file_open()"
unobservable = "the kernel's memory cannot be seen from outside"

[OPEN-04]
law = "An id of 0 is an ordinary open."
dialects = ["v12"]
needs = "second_dialect"
source = "fs/fuse/file.c: fuse_file_open()"
later = "waits for a kernel of that dialect"

[S-01]
law = "A good id passes through, and 0 does not."
dialects = ["backing"]
source = "fs/fuse/file.c: fuse_file_open()"
see = ["OPEN-01", "OPEN-02"]

[S-02]
law = "A good id passes through, whatever the dialect."
dialects = ["backing", "v12"]
source = "fs/fuse/file.c: fuse_file_open()"
later = "waits for a kernel of that dialect"
see = ["S-01"]
"#;

fn file(text: &str) -> Source {
    Source { path: "rules/open.toml".into(), text: text.into() }
}

fn rules() -> Rules {
    parse(&[file(RULES)]).unwrap_or_else(|errors| panic!("{}", render(&errors)))
}

fn render(errors: &[ScriptError]) -> String {
    let mut text = String::new();
    let drawn = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(110);
    for error in errors {
        drawn.render_report(&mut text, error).unwrap();
    }
    text
}

fn text_of(rules: &str) -> String {
    format!("# A case.\nrules  {rules}\nhost   abort\n")
}

fn case(name: &str, rules: &str) -> Case {
    let source = Source { path: format!("{name}.case"), text: text_of(rules) };
    script::parse(&source, &BTreeMap::new()).unwrap().remove(0)
}

/// What `check` says of one case that rests on these.
fn contradictions(ids: &str) -> String {
    render(&check(&rules(), &[case("open/one", ids)], |_| text_of(ids)))
}

#[test]
fn a_file_is_read_as_it_is_written() {
    let rules = rules();
    let ids: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids, ["OPEN-01", "OPEN-02", "OPEN-03", "OPEN-04", "S-01", "S-02"]);
    let first = rules.get("OPEN-01").unwrap();
    assert_eq!(first.group(), "OPEN");
    assert_eq!(first.file, "rules/open.toml");
    assert_eq!(first.needs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["passthrough", "!overlay"]);
    assert_eq!(rules.get("S-01").unwrap().see, ["OPEN-01", "OPEN-02"]);
    assert_eq!(rules.unprobed(), ["second_dialect"].into());
    assert_eq!(rules.nearest("open-2")[0], "OPEN-02");
}

/// A change to the file above that makes it wrong: what is replaced, and by what.
const MISTAKES: &[(&str, &str)] = &[
    ("[OPEN-01]", "[OPEN-01"),
    ("[OPEN-01]", "[open-01]"),
    ("[OPEN-01]", "law = \"Nobody's.\"\n[OPEN-01]"),
    ("[OPEN-01]", "[OPEN-02]"),
    ("[S-01]", "[[S-01]]"),
    ("law = \"Memory", "lwa = \"Memory"),
    ("law = \"Memory of a failed open is given back.\"\n", ""),
    ("given back.", "given back"),
    ("\"An id of 0 is an ordinary open.\"", "\" \""),
    ("\"An id of 0 is an ordinary open.\"", "5"),
    ("[\"v12\"]", "[\"v13\"]"),
    ("[\"v12\"]", "[]"),
    ("[\"v12\"]", "\"v12\""),
    ("[\"v12\"]", "[12]"),
    ("unobservable = ", "later = \"one day\"\nunobservable = "),
    ("\"OPEN-02\"]", "\"OPEN-20\"]"),
    ("\"OPEN-02\"]", "\"S-01\"]"),
    ("\"OPEN-02\"]", "\"S-02\"]"),
];

/// The explanations are for people, and read as a whole: one snapshot holds them all.
#[test]
fn every_mistake_is_explained() {
    let mut text = String::new();
    for (right, wrong) in MISTAKES {
        assert!(RULES.contains(right), "{right}");
        match parse(&[file(&RULES.replacen(right, wrong, 1))]) {
            Ok(_) => panic!("{wrong} is taken for right"),
            Err(errors) => writeln!(text, "{}", render(&errors)).unwrap(),
        }
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("mistakes", text) });
}

/// A word that nearly is a capability was meant to be one.
#[test]
fn a_slip_in_a_capability_is_found() {
    for slip in ["passthrough !overley", "Passthrough", "pass-through"] {
        let errors = parse(&[file(&RULES.replacen("passthrough !overlay", slip, 1))]).unwrap_err();
        let found = render(&errors);
        assert!(found.contains("unknown capability `") && found.contains("[rules/open.toml:6:"), "{found}");
    }
}

#[test]
fn the_same_id_in_two_files_is_found() {
    let other = Source { path: "rules/other.toml".into(), text: RULES.into() };
    let errors = parse(&[file(RULES), other]).unwrap_err();
    assert_eq!(errors.len(), 6);
    assert!(render(&errors).contains("`OPEN-01` is there twice"), "{}", render(&errors));
}

#[test]
fn each_files_first_mistake_is_told() {
    let other = Source { path: "rules/other.toml".into(), text: "law = 5".into() };
    assert_eq!(parse(&[file("[X]"), other]).unwrap_err().len(), 2);
}

/// Whatever is cut off, there is an answer.
#[test]
fn a_truncated_file_is_refused_or_has_fewer_rules() {
    for end in 0..RULES.len() {
        let parsed = parse(&[file(&RULES[..end])]);
        assert!(parsed.is_err() || parsed.is_ok_and(|rules| rules.iter().count() <= 6));
    }
}

#[test]
fn cases_that_rest_on_what_can_be_shown_are_right() {
    assert_eq!(contradictions("OPEN-01 OPEN-02 S-01"), "");
}

#[test]
fn a_case_with_an_unknown_rule_is_found() {
    let found = contradictions("OPEN-01 OPEN-09");
    assert!(
        found.contains("there is no rule `OPEN-09`") && found.contains("[open/one.case:2:16]"),
        "{found}"
    );
    assert!(found.contains("near it: `OPEN-0"), "{found}");
}

#[test]
fn a_case_with_an_unobservable_rule_is_found() {
    let found = contradictions("OPEN-03");
    assert!(found.contains("`OPEN-03` is unobservable: the kernel's memory"), "{found}");
    assert!(found.contains("take `unobservable` out of rules/open.toml"), "{found}");
}

#[test]
fn a_case_with_a_rule_that_is_to_be_shown_later_is_found() {
    let found = contradictions("OPEN-04");
    assert!(found.contains("`OPEN-04` cannot be shown yet: waits for"), "{found}");
    assert!(found.contains("take `later` out of rules/open.toml"), "{found}");
}

/// What no probe tells can be written down; a case can rest on it only when there is a probe.
#[test]
fn a_case_with_a_rule_that_needs_what_is_no_capability_is_found() {
    let text = RULES.replacen("passthrough !overlay", "passthrough second_dialect", 1);
    let rules = parse(&[file(&text)]).unwrap_or_else(|errors| panic!("{}", render(&errors)));
    let found = render(&check(&rules, &[case("open/one", "OPEN-01")], |_| text_of("OPEN-01")));
    assert!(found.contains("`OPEN-01` needs `second_dialect`, which is no capability"), "{found}");
    assert!(found.contains("mend `needs` in rules/open.toml"), "{found}");
}

/// The variants of a case have one header, so a mistake in it is told once.
#[test]
fn a_contradiction_is_told_once() {
    let variants = ["a", "b"].map(|variant| Case { variant: Some(variant.into()), ..case("x/y", "OPEN-03") });
    assert_eq!(check(&rules(), &variants, |_| text_of("OPEN-03")).len(), 1);
}

fn seen(case: &Case, kernel: &str, outcome: Outcome) -> Seen {
    Seen { case: case.name(), kernel: kernel.into(), outcome }
}

fn all_passed(cases: &[Case]) -> Evidence {
    cases.iter().map(|case| seen(case, "6.12", Outcome::Passed)).collect()
}

fn states(cases: &[Case], evidence: &Evidence) -> Vec<State> {
    let rules = rules();
    let coverage = Coverage::new(&rules, cases, evidence);
    assert_eq!(coverage.counts().uncovered, coverage.uncovered().count());
    coverage.entries.iter().map(|entry| entry.state).collect()
}

#[test]
fn a_rule_stands_as_its_cases_and_its_fields_say() {
    let states = |cases: &[Case]| states(cases, &all_passed(cases));
    use State::{Later, Shown, Uncovered, Unobservable};
    assert_eq!(states(&[]), [Uncovered, Uncovered, Unobservable, Later, Uncovered, Later]);
    // A rule that says others again is shown when all of them are, through others, too.
    let one = case("a/one", "OPEN-01");
    assert_eq!(states(std::slice::from_ref(&one)), [Shown, Uncovered, Unobservable, Later, Uncovered, Later]);
    let both = [one, case("a/two", "OPEN-02")];
    assert_eq!(states(&both), [Shown, Shown, Unobservable, Later, Shown, Shown]);
    // Or by a case of its own.
    assert_eq!(states(&[case("a/s", "S-01")]), [Uncovered, Uncovered, Unobservable, Later, Shown, Shown]);
}

#[test]
fn a_case_that_is_not_known_to_have_passed_shows_nothing() {
    let variant = |name: &str| Case { variant: Some(name.into()), ..case("a/one", "OPEN-01") };
    let cases = [variant("x=1"), variant("x=2")];
    let first = |evidence: Vec<Seen>| states(&cases, &evidence.into_iter().collect())[0];
    let not = || Outcome::Not("skipped: no".into());
    assert_eq!(first(vec![]), State::Uncovered);
    assert_eq!(first(vec![seen(&case("a/other", "OPEN-01"), "6.12", Outcome::Passed)]), State::Uncovered);
    assert_eq!(first(vec![seen(&cases[0], "6.1", not()), seen(&cases[1], "6.12", not())]), State::Uncovered);
    // One variant on one kernel will do.
    let one = vec![seen(&cases[0], "6.1", not()), seen(&cases[1], "6.12", Outcome::Passed)];
    assert_eq!(first(one), State::Shown);
}

#[test]
fn the_history_of_a_case_has_kernels_alike_together() {
    let variant = |name: &str| Case { variant: Some(name.into()), ..case("a/one", "OPEN-01") };
    let (one, two) = (variant("x=1"), variant("x=2"));
    let not = || Outcome::Not("skipped: no".into());
    let evidence: Evidence = [
        seen(&one, "6.1", not()),
        seen(&two, "6.1", not()),
        seen(&one, "6.12", Outcome::Passed),
        seen(&two, "6.12", not()),
        seen(&one, "6.18", Outcome::Passed),
        seen(&one, "7.3", Outcome::Passed),
    ]
    .into_iter()
    .collect();
    let expected = [
        (vec!["6.1"], "skipped: no".to_string()),
        (vec!["6.12"], "passed in 1 of 2 variants, else skipped: no".to_string()),
        (vec!["6.18", "7.3"], "passed".to_string()),
    ];
    assert_eq!(evidence.history(&one), expected);
    assert_eq!(evidence.history(&case("a/other", "OPEN-01")), []);
}

/// What is to be shown later is not counted in the total.
#[test]
fn groups_are_counted_by_themselves() {
    let rules = rules();
    let coverage = Coverage::new(&rules, [], &Evidence::default());
    let groups = coverage.groups();
    assert_eq!(groups.keys().copied().collect::<Vec<_>>(), ["OPEN", "S"]);
    assert_eq!(groups["OPEN"], Counts { total: 3, shown: 0, unobservable: 1, later: 1, uncovered: 2 });
    assert_eq!(groups.values().map(|counts| counts.total).sum::<usize>(), coverage.counts().total);
}
