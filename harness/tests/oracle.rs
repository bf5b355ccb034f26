//! The oracle agrees with every case for every kernel, without any kernel, and it is noticed when one of them is wrong:
//! a case, the oracle, or a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use harness::oracle::{self, Judged};
use harness::program::{CAPABILITIES, Condition, OVER_VIRTIOFS, Profile, Transport, capability, flags};
use harness::rules::{self, Rule};
use harness::script::{self, Case, Folder, Source};
use rstest::rstest;

/// Of so many of a hundred steps with an outcome the oracle has an opinion at least, or it has become idle.
const LEAST_OPINIONS: usize = 70;

fn cases_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../cases"))
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    script::load(cases_dir()).unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)))
});

/// The kernels of the catalogue, as they were probed.
static PROBED: LazyLock<BTreeMap<String, Profile>> = LazyLock::new(|| {
    let rows: BTreeMap<String, String> = toml::from_str(include_str!("profiles.toml")).expect("a table");
    let profile = |words: String| {
        let has = words.split_whitespace().map(str::to_string).collect();
        Profile { release: String::new(), has }
    };
    rows.into_iter().map(|(name, words)| (name, profile(words))).collect()
});

/// The forms of a dialect, each with what the ones before it have. Its kernels do not speak the merged one.
const V12: [&str; 3] = ["v12", "v12_agreed", "v12_rework"];

/// Kernels of that dialect: 5.10, by each of the forms.
static OF_V12: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    let with = |forms: &[&str]| {
        let mut profile = PROBED["5.10"].clone();
        profile.has.extend(forms.iter().map(|name| (*name).to_string()));
        profile
    };
    (1..=V12.len()).map(|forms| with(&V12[..forms])).collect()
});

/// Those, and the oldest and the newest with passthrough with each capability turned round.
fn profiles() -> BTreeMap<String, Profile> {
    let mut all = PROBED.clone();
    all.extend(V12.iter().zip(&*OF_V12).map(|(form, profile)| ((*form).to_string(), profile.clone())));
    for name in ["6.1", "7.3"] {
        for capability in CAPABILITIES {
            let mut profile = PROBED[name].clone();
            let there = profile.has.remove(capability.name);
            if !there {
                profile.has.insert(capability.name.to_string());
            }
            if let Some(form) = V12.iter().position(|form| *form == capability.name) {
                profile.has.extend(V12[..=form].iter().map(|name| (*name).to_string()));
                profile.has.remove("passthrough");
            }
            all.insert(format!("{name}{}{}", if there { '-' } else { '+' }, capability.name), profile);
        }
    }
    all
}

/// What the case says and the oracle forbids, if there is such a thing.
fn disagreement(case: &Case, profile: &Profile, judged: &Judged) -> Option<String> {
    let wrong = judged.contradiction.as_ref()?;
    let step = &case.program.steps[wrong.index];
    let law = step.expect.as_ref().map_or(String::new(), |expect| format!(" -> {}", expect.on(profile)));
    let (at, text, allows) = (&step.at, script::print_step(step), &wrong.allows);
    let name = case.name();
    Some(format!(
        "{name} (cases/{}:{})\n    {text}\n  it says{law}, the oracle allows {allows}",
        at.file, at.line
    ))
}

/// By its own law.
fn runs_over_virtiofs(case: &Case, profile: &Profile) -> bool {
    let over = Transport::Virtiofs;
    let excluded = case.program.not.iter().any(|not| not.transport == over);
    !excluded && over.obstacle(&case.program, profile).is_none() && !over.lacks_ids(&case.program, profile)
}

#[test]
fn every_case_agrees_for_every_profile() {
    let mut wrong = BTreeMap::<String, BTreeSet<String>>::new();
    let (mut steps, mut opinions) = (0, 0);
    for (name, profile) in profiles() {
        for case in CASES.iter().filter(|case| profile.meets(&case.program.needs)) {
            if profile.has.contains(OVER_VIRTIOFS) && !runs_over_virtiofs(case, &profile) {
                continue;
            }
            let judged = oracle::against_case(&case.program, &profile);
            steps += judged.steps;
            opinions += judged.opinions;
            if let Some(text) = disagreement(case, &profile, &judged) {
                wrong.entry(text).or_default().insert(name.clone());
            }
        }
    }
    let share = opinions * 100 / steps;
    println!("the oracle has an opinion of {opinions} of {steps} steps, {share} of a hundred");
    let texts = wrong
        .iter()
        .map(|(text, names)| format!("{text}\n  on {}", names.iter().cloned().collect::<Vec<_>>().join(" ")));
    let texts: Vec<String> = texts.collect();
    assert!(texts.is_empty(), "{}\n{} cases and the oracle disagree", texts.join("\n"), texts.len());
    assert!(share >= LEAST_OPINIONS, "{share} of a hundred are less than {LEAST_OPINIONS}");
}

/// Cases with one wrong expectation.
#[rstest]
#[case::errno("app open 'a' O_RDONLY -> fd f\napp write f 'x' -> EPERM # wrong", "EBADF")]
#[case::failure("app open 'b' O_RDONLY -> fd f # wrong", "ENOENT")]
#[case::bytes("app open 'a' O_RDONLY -> fd f\napp read f 5 -> 'HELLO' # wrong", "'hello'")]
#[case::number("app open 'a' O_RDWR -> fd f\napp pwrite f 'x' 0 -> 2 # wrong", "1")]
#[case::field("app stat 'a' -> size=6 # wrong", "size=5")]
#[case::request(
    "app open 'a' O_RDONLY -> fd f\ndaemon saw OPEN 'a', READ 'a' # wrong",
    "the daemon to see OPEN 'a' there"
)]
#[case::no_request(
    "app open 'a' O_RDONLY -> fd f\ndaemon saw nothing # wrong",
    "the daemon to see OPEN 'a' there"
)]
#[case::exception(
    "daemon on OPEN: reply open_flags=PASSTHROUGH\napp open 'a' O_RDONLY -> EIO [!passthrough: EINVAL 'x'] # wrong",
    "ok"
)]
#[case::waiting(
    "app start r: open 'a' O_RDONLY\napp blocks r # wrong\napp await r -> fd f",
    "`r` to have returned"
)]
fn a_wrong_case_is_found(#[case] steps: &str, #[case] allows: &str) {
    let (steps, allows) = (steps.replace('\'', "\""), allows.replace('\'', "\""));
    let text = format!("# A wrong case.\nrules OPEN-01\nuse mount/passthrough\n{steps}\n");
    let line = 1 + text.lines().position(|line| line.ends_with("# wrong")).expect("a mark");
    let source = Source { path: "wrong.case".into(), text };
    let case = script::parse(&source, &Folder(cases_dir().to_path_buf())).expect("it parses").remove(0);
    let profile = &PROBED["6.1"];
    let judged = oracle::against_case(&case.program, profile);
    let found = disagreement(&case, profile, &judged).expect("a disagreement");
    let (at, said) = (format!("(cases/wrong.case:{line})"), format!("the oracle allows {allows}"));
    assert!(found.contains(&at) && found.contains(&said), "{found}");
}

/// What holds for every file system is no rule of this one.
const POSIX: &str = "POSIX";

/// Rules that can be forgotten without that being seen, and why.
const MASKED: [(&str, &str); 5] = [
    ("BOPEN-16", "nothing is known of what would be registered instead"),
    ("NOTIFY-15", "a name that is too short for its head is also one of the wrong length"),
    ("OPEN-04", "nothing is known of what would be opened instead"),
    ("T-09", "nothing is known of what would be registered instead"),
    ("WRITE-02", "a message shorter than its head cannot say its own length"),
];

/// Of each rule by which the oracle refuses something, an oracle that lets it through is found by some case.
#[test]
fn a_wrong_oracle_is_found() {
    let profiles: Vec<&Profile> =
        ["6.1", "6.12", "7.3"].map(|name| &PROBED[name]).into_iter().chain(&*OF_V12).collect();
    let runs: Vec<(&Case, &Profile, Judged)> = CASES
        .iter()
        .flat_map(|case| profiles.iter().map(move |profile| (case, *profile)))
        .filter(|(case, profile)| profile.meets(&case.program.needs))
        .map(|(case, profile)| (case, profile, oracle::against_case(&case.program, profile)))
        .collect();
    let refused = |(_, errnos): &(&&'static str, &BTreeSet<i32>)| !errnos.is_empty();
    let mut rules: BTreeSet<&str> = runs
        .iter()
        .flat_map(|(_, _, judged)| judged.rules.iter().filter(refused).map(|(rule, _)| *rule))
        .collect();
    rules.retain(|rule| *rule != POSIX && MASKED.iter().all(|(masked, _)| masked != rule));
    let found = |rule: &str| {
        let mut concerned =
            runs.iter().filter(|(_, _, judged)| judged.rules.get(rule).is_some_and(|r| !r.is_empty()));
        concerned.any(|(case, profile, _)| {
            oracle::wrong_about(rule, &case.program, profile).contradiction.is_some()
        })
    };
    let unnoticed: Vec<&&str> = rules.iter().filter(|rule| !found(rule)).collect();
    println!("{} rules refuse something", rules.len());
    assert!(unnoticed.is_empty(), "no case would notice an oracle that forgot {unnoticed:?}");
}

fn rules() -> BTreeMap<String, Rule> {
    let rules = rules::load(cases_dir()).unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
    rules.iter().map(|rule| (rule.id.clone(), rule.clone())).collect()
}

/// Laws that have a word of their own for an errno: "busy".
const WORDED: [(&str, &str); 1] = [("LIFE-07", "EBUSY")];

/// What is wrong between the oracle and the rules that it ruled by on a kernel: it knows one that is not there, or one
/// that says nothing of such a kernel, or refuses by one with an errno that the law does not name.
fn misreadings(rules: &BTreeMap<String, Rule>, profile: &Profile, judged: &Judged) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, errnos) in judged.rules.iter().filter(|(id, _)| **id != POSIX) {
        let Some(rule) = rules.get(*id) else {
            wrong.push(format!("there is no rule {id}"));
            continue;
        };
        // What no probe tells, nobody knows.
        for need in rule.needs.iter().filter(|need| capability(&need.capability).is_some()) {
            if !profile.meets(std::slice::from_ref(need)) {
                wrong.push(format!("{id} needs {need}"));
            }
        }
        let names: BTreeSet<&str> = rule
            .law
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| word.len() > 2 && word.starts_with('E') && flags::errno_number(word).is_some())
            .collect();
        // An application that opens gets EIO; the errno by the rule is the one inside.
        let inside = names.contains("EIO") && (id.starts_with("OPEN-") || id.starts_with("MODE-"));
        let said = |name: &String| inside || names.contains(name.as_str()) || WORDED.contains(&(id, name));
        let refused = errnos.iter().filter(|errno| **errno != 0).map(|errno| flags::errno_name(*errno));
        wrong.extend(
            refused.filter(|name| !said(name)).map(|name| format!("{id} knows no {name}: {}", rule.law)),
        );
    }
    wrong
}

fn misread(rules: &BTreeMap<String, Rule>, profile: &Profile) -> BTreeSet<String> {
    let cases = CASES.iter().filter(|case| profile.meets(&case.program.needs));
    cases
        .flat_map(|case| misreadings(rules, profile, &oracle::against_case(&case.program, profile)))
        .collect()
}

#[test]
fn the_oracle_rules_by_the_rules() {
    let rules = rules();
    let wrong: BTreeSet<String> =
        PROBED.values().chain(&*OF_V12).flat_map(|profile| misread(&rules, profile)).collect();
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn no_passthrough() -> Condition {
    Condition { capability: "passthrough".into(), present: false }
}

#[rstest]
#[case::errno("BOPEN-05", |rule: &mut Rule| rule.law = rule.law.replace("EPERM", "EACCES"), "BOPEN-05 knows no EPERM")]
#[case::errno_of_an_open("BOPEN-05", |rule: &mut Rule| rule.law = rule.law.replace("EPERM", "EIO"), "BOPEN-05 knows no EPERM")]
#[case::no_errno("BOPEN-05", |rule: &mut Rule| rule.law = "It fails.".into(), "BOPEN-05 knows no EPERM")]
#[case::kernel("BOPEN-05", |rule: &mut Rule| rule.needs.push(no_passthrough()), "BOPEN-05 needs !passthrough")]
fn a_wrong_rule_is_found(#[case] id: &str, #[case] spoil: fn(&mut Rule), #[case] what: &str) {
    let mut rules = rules();
    spoil(rules.get_mut(id).expect("a rule"));
    assert!(misread(&rules, &PROBED["7.3"]).iter().any(|wrong| wrong.starts_with(what)));
    rules.remove(id);
    assert!(misread(&rules, &PROBED["7.3"]).contains(&format!("there is no rule {id}")));
}
