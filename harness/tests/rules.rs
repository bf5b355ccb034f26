//! The project's rules and cases agree, and the commands about them say what there is. No kernel here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::report::read_observed;
use harness::rules::Outcome;
use harness::script::{self, Folder, Source};
use rstest::{fixture, rstest};
use serde_json::Value;
use tempfile::TempDir;

fn cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cases")
}

/// So many rules wait for a case today. It may only fall; a rule without a case has a reason, or is work to be done.
const UNCOVERED: u64 = 0;

/// Of each hundred so many at least.
fn is_most(part: u64, all: u64, least: u64, what: &str) {
    assert!(all > 0 && part * 100 >= all * least, "{part} of {all} {what}, less than {least} of a hundred");
}

/// What cases and rules contradict each other in is told by the program itself, which then counts nothing.
#[test]
fn the_projects_rules_and_cases_agree() {
    let program = env!("CARGO_BIN_EXE_fuseproof");
    let output =
        Command::new(program).args(["rules", "--format", "json", "--cases"]).arg(cases_dir()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |name: &str| json[name].as_u64().unwrap();
    let uncovered = json["uncovered"].as_array().unwrap();
    assert!(uncovered.len() as u64 <= UNCOVERED, "no case that passed, and no reason: {uncovered:?}");
    assert_eq!(number("shown") + number("unobservable") + uncovered.len() as u64, number("total"));
    assert_eq!(json["rules"].as_array().unwrap().len() as u64, number("total") + number("later"));
    // Nor do reasons take the place of cases.
    is_most(number("shown"), number("total"), 95, "rules are shown");
    is_most(number("shown"), number("total") + number("later"), 75, "rules, with those that wait, are shown");
}

/// Every case's snapshots can be read as evidence: one outcome on each kernel, which are the same for all cases, and on each
/// kernel that was built for a group, the same for all cases of the group.
#[test]
fn the_snapshots_are_evidence() {
    let (mut cases, mut told, mut proven) = (0, 0, 0);
    let (mut outcomes_in_all, mut passed_in_all) = (0, 0);
    let mut all_kernels: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let all = script::load(&cases_dir()).unwrap();
    for case in &all {
        cases += 1;
        let group = case.path.split('/').next().unwrap();
        let (mut is_told, mut passed_here) = (false, 0);
        for (folder, key) in [("snapshots", ""), ("built", group)] {
            let path = cases_dir().join("../harness/tests").join(folder).join(format!("{}.snap", case.path));
            // A case without one is told by the test that makes it.
            let Ok(text) = fs::read_to_string(path) else { continue };
            let seen = read_observed(&case.path, &text);
            let outcomes: Vec<_> = seen.iter().filter(|seen| seen.case == case.name()).collect();
            let kernels: BTreeSet<String> = outcomes.iter().map(|seen| seen.kernel.clone()).collect();
            assert_eq!(kernels.len(), outcomes.len(), "{}", case.name());
            assert_eq!(
                *all_kernels.entry(key).or_insert_with(|| kernels.clone()),
                kernels,
                "{}",
                case.name()
            );
            passed_here += outcomes.iter().filter(|seen| seen.outcome == Outcome::Passed).count() as u64;
            outcomes_in_all += outcomes.len() as u64;
            is_told = true;
        }
        told += u64::from(is_told);
        proven += u64::from(passed_here > 0);
        passed_in_all += passed_here;
    }
    is_most(told, cases, 95, "cases have a snapshot");
    is_most(proven, cases, 95, "cases passed somewhere");
    // The oldest kernel skips what is about passthrough.
    is_most(passed_in_all, outcomes_in_all, 75, "outcomes are passes");
}

/// A folder of cases for the commands to work in: the project's library, two rules that are shown by one case, one that is not.
struct Desk(TempDir);

const RULES: &str = r#"
[DATA-01]
law = "What the lower file holds is what an application reads."
dialects = ["plain", "backing"]
source = "fs/fuse/file.c: fuse_file_read_iter()"

[DATA-02]
law = "What an application reads through a backing file is not asked of the daemon."
dialects = ["backing"]
needs = "passthrough backing_reads"
source = "fs/fuse/passthrough.c: fuse_passthrough_read_iter()"
see = ["DATA-01"]

[DATA-03]
law = "Nobody sees this."
dialects = ["plain"]
source = "fs/fuse/file.c: fuse_file_read_iter()"
unobservable = "it is a matter of memory"

[GONE-01]
law = "No case is about this."
dialects = ["plain"]
source = "fs/fuse/file.c: fuse_release()"

[GONE-02]
law = "No kernel does this yet."
dialects = ["v12"]
source = "fs/fuse/file.c: fuse_release()"
later = "waits for a kernel"
"#;

const CASE: &str = r#"# A file can be read through the mount.
rules  DATA-01
axis   mode = O_RDONLY O_RDWR
use    mount/passthrough

app    open "a" $mode -> fd f
app    read f 5 -> "hello"
"#;

const SNAPSHOT: &str = r#"---
source: harness/tests/kernels.rs
---
== 6.1
-- mode=O_RDONLY
skipped: it was too old
-- mode=O_RDWR
app    open "a" O_RDWR -> fd f

== 6.12 7.3
-- mode=O_RDONLY
app    open "a" O_RDONLY -> fd f
-- mode=O_RDWR
app    open "a" O_RDWR -> fd f
"#;

#[fixture]
fn desk() -> Desk {
    let desk = Desk(tempfile::tempdir().unwrap());
    desk.write("cases/rules/data.toml", RULES);
    desk.write("cases/data/a-file-can-be-read.case", CASE);
    desk.write("harness/tests/snapshots/data/a-file-can-be-read.snap", SNAPSHOT);
    std::os::unix::fs::symlink(cases_dir().join("lib"), desk.path("cases/lib")).unwrap();
    desk
}

impl Desk {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// What the program prints and says, if it ends with this exit code.
    fn run(&self, words: &[&str], code: i32) -> (String, String) {
        let program = env!("CARGO_BIN_EXE_fuseproof");
        let Output { status, stdout, stderr } =
            Command::new(program).args(words).current_dir(self.0.path()).output().unwrap();
        let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert_eq!(status.code(), Some(code), "{words:?}\n{out}\n{err}");
        (out, err)
    }

    /// The JSON objects that it says, one a line.
    fn messages(&self, words: &[&str]) -> Vec<Value> {
        let (_, said) = self.run(&[words, &["--message-format", "json"]].concat(), 2);
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

#[rstest]
fn rules_are_counted_in_a_table(desk: Desk) {
    let (out, _) = desk.run(&["rules"], 0);
    insta::assert_snapshot!(out, @r"
    group      rules  shown  unobservable  uncovered  later
    DATA           3      2             1          0      0
    GONE           1      0             0          1      1
    total          4      2             1          1      1
    uncovered:
      GONE-01
    needed by rules, and no probe tells it yet:
      backing_reads
    ");
}

#[rstest]
fn rules_are_counted_for_programs(desk: Desk) {
    let (out, _) = desk.run(&["rules", "--format", "json"], 0);
    let json: Value = serde_json::from_str(&out).unwrap();
    let keys: BTreeSet<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["total", "shown", "unobservable", "later", "uncovered", "groups", "rules", "unprobed"];
    assert_eq!(keys, expected.into());
    assert_eq!((&json["total"], &json["shown"]), (&4.into(), &2.into()));
    assert_eq!((&json["unobservable"], &json["later"]), (&1.into(), &1.into()));
    assert_eq!(json["uncovered"], serde_json::json!(["GONE-01"]));
    assert_eq!(json["groups"]["DATA"]["total"], 3);
    let cases = ["data/a-file-can-be-read"];
    let first = serde_json::json!({"id": "DATA-01", "state": "shown", "cases": cases, "unproven": []});
    assert_eq!(json["rules"][0], first);
}

/// A report takes the place of the snapshots; a case that did not pass anywhere shows nothing.
#[rstest]
#[case::passed_once("passed", "failed", 2)]
#[case::passed_on_another_kernel("skipped", "passed", 2)]
#[case::never_passed("failed", "skipped", 0)]
fn a_report_says_what_was_shown(desk: Desk, #[case] first: &str, #[case] second: &str, #[case] shown: u64) {
    let kernel = |verdict| {
        let path = "data/a-file-can-be-read[mode=O_RDWR]";
        serde_json::json!({"name": "k", "cases": [{"path": path, "verdict": verdict, "rules": []}]})
    };
    desk.write("report.json", &serde_json::json!({"kernels": [kernel(first), kernel(second)]}).to_string());
    let (out, _) = desk.run(&["rules", "--format", "json", "--report", "report.json"], 0);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["shown"], shown);
}

/// The clean clone's evidence are its snapshots: a case that has none was never seen to pass.
#[rstest]
fn a_case_without_a_snapshot_shows_nothing(desk: Desk) {
    fs::remove_dir_all(desk.path("harness")).unwrap();
    let (out, _) = desk.run(&["rules", "--format", "json"], 0);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["shown"], 0);
    assert_eq!(json["uncovered"], serde_json::json!(["DATA-01", "DATA-02", "GONE-01"]));
    assert_eq!(json["rules"][0]["unproven"], serde_json::json!(["data/a-file-can-be-read"]));
}

/// What two runs saw is seen by one of them.
#[rstest]
fn several_reports_are_taken_together(desk: Desk) {
    for (name, verdict) in [("one", "failed"), ("two", "passed")] {
        let path = "data/a-file-can-be-read[mode=O_RDWR]";
        let case = serde_json::json!({"path": path, "verdict": verdict, "reason": "no", "rules": []});
        let report = serde_json::json!({"kernels": [{"name": name, "cases": [case]}]});
        desk.write(&format!("{name}.json"), &report.to_string());
    }
    let (out, _) = desk.run(&["explain", "DATA-01", "--report", "one.json", "--report", "two.json"], 0);
    assert!(out.contains("one: failed: no\n") && out.contains("two: passed\n"), "{out}");
    let (out, _) = desk.run(&["explain", "DATA-01", "--report", "one.json"], 0);
    assert!(
        out.contains("named by     data/") && out.contains("uncovered    no case that names it"),
        "{out}"
    );
}

/// Whoever made the report may have had it from a guest.
#[rstest]
fn what_a_report_says_stays_text(desk: Desk) {
    let reason = "\u{1b}[2J\u{9b}31m\r\nDATA-09 in\trules";
    let case = serde_json::json!({"path": "data/a-file-can-be-read", "verdict": "failed", "reason": reason});
    let report = serde_json::json!({"kernels": [{"name": "one", "cases": [case]}]});
    desk.write("one.json", &report.to_string());
    let (out, _) = desk.run(&["explain", "DATA-01", "--report", "one.json"], 0);
    assert!(out.contains("one: failed: ") && out.contains(" DATA-09 in rules\n"), "{out}");
    assert!(!out.contains(|c: char| c.is_control() && c != '\n') && !out.contains("\nDATA-09"), "{out}");
}

#[rstest]
fn what_is_no_report_is_refused(desk: Desk) {
    desk.write("report.json", "[]");
    let (_, said) = desk.run(&["rules", "--report", "report.json"], 2);
    assert!(said.contains("`fuseproof run --report json=report.json` writes one"), "{said}");
}

#[rstest]
fn a_rule_is_explained(desk: Desk) {
    let (out, _) = desk.run(&["explain", "DATA-01"], 0);
    insta::assert_snapshot!(out, @r"
    DATA-01 in rules/data.toml
      What the lower file holds is what an application reads.
      dialects     plain backing
      source       fs/fuse/file.c: fuse_file_read_iter()
      shown by     data/a-file-can-be-read: A file can be read through the mount.
                   6.1: passed in 1 of 2 variants, else skipped: it was too old
                   6.12 7.3: passed
    ");
    let (out, _) = desk.run(&["explain", "DATA-02"], 0);
    insta::assert_snapshot!(out, @r"
    DATA-02 in rules/data.toml
      What an application reads through a backing file is not asked of the daemon.
      dialects     backing
      needs        passthrough: not where the kernel does not offer FUSE_PASSTHROUGH at INIT
      needs        backing_reads: no probe tells this yet
      source       fs/fuse/passthrough.c: fuse_passthrough_read_iter()
      see          DATA-01: What the lower file holds is what an application reads.
      shown by     the cases of the rules above
    ");
}

#[rstest]
fn an_unknown_rule_is_answered_with_near_ones(desk: Desk) {
    let (_, said) = desk.run(&["explain", "DATE-1"], 2);
    assert!(said.contains("no rule DATE-1 (near it: DATA-01, "), "{said}");
}

#[rstest]
fn a_mistake_in_the_rules_is_located(desk: Desk) {
    desk.write("cases/rules/data.toml", &RULES.replace("law = \"Nobody", "lwa = \"Nobody"));
    let (_, said) = desk.run(&["rules"], 2);
    assert!(said.contains("[rules/data.toml:15:1]") && said.contains("nearest is `law`"), "{said}");
    let [message] = &desk.messages(&["rules"])[..] else { panic!("one message") };
    assert_eq!(message["file"], "cases/rules/data.toml");
    assert_eq!((&message["line"], &message["column"]), (&15.into(), &1.into()));
    assert_eq!(message["message"], "unknown field `lwa`");
    assert!(message["help"].as_str().unwrap().contains("nearest is `law`"), "{message}");
}

#[rstest]
fn a_contradiction_is_located(desk: Desk) {
    desk.write("cases/data/a-file-can-be-read.case", &CASE.replace("DATA-01", "DATA-03"));
    let [message] = &desk.messages(&["rules"])[..] else { panic!("one message") };
    assert_eq!(message["file"], "cases/data/a-file-can-be-read.case");
    assert_eq!((&message["line"], &message["column"]), (&2.into(), &8.into()));
    assert_eq!(message["message"], "`DATA-03` is unobservable: it is a matter of memory");
}

/// The column is that of an editor: characters are counted, not bytes.
#[rstest]
fn a_mistake_in_a_case_is_a_message(desk: Desk) {
    desk.write("cases/data/two-mistakes.case", &CASE.replace("read f 5", "raed f 5"));
    desk.write("cases/data/a-file-can-be-read.case", &CASE.replace("open \"a\" $", "open \"ä\" 5 6 $"));
    let messages = desk.messages(&["run"]);
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0]["column"], 21);
    assert_eq!(messages[1]["file"], "cases/data/two-mistakes.case");
    assert_eq!((&messages[1]["line"], &messages[1]["column"]), (&7.into(), &8.into()));
    assert_eq!(messages[1]["message"], "unknown call `raed`");
}

#[rstest]
fn a_folder_that_is_not_there_is_a_message_without_a_line(desk: Desk) {
    let [message] = &desk.messages(&["run", "--cases", "none"])[..] else { panic!("one message") };
    assert_eq!((&message["file"], &message["line"]), (&"none".into(), &Value::Null));
}

const UNTIDY: &str = "# A file can   be read.\r\n\n\nrules DATA-01   # the law\naxis mode=O_RDONLY O_RDWR\nneeds !ext4\n\n   # opened  by name\n[ passthrough ,!ext4 ]  app open \"a  b\" $mode   -> fd f [ !overlay : EIO   \"why  not\" ]#odd\ndaemon on OPEN \"a\" :reply  fh=0x77\n\n\n";

const TIDY: &str = "# A file can   be read.\n\nrules  DATA-01 # the law\naxis   mode=O_RDONLY O_RDWR\nneeds  !ext4\n\n# opened  by name\n[passthrough, !ext4] app open \"a  b\" $mode -> fd f [!overlay: EIO \"why  not\"] #odd\ndaemon on OPEN \"a\": reply fh=0x77\n";

#[test]
fn a_file_is_laid_out_and_nothing_is_lost() {
    let format = |text: &str| script::format(&Source { path: "a.case".into(), text: text.into() }).unwrap();
    assert_eq!(format(UNTIDY), TIDY);
    assert_eq!(format(TIDY), TIDY);
}

/// Laying out a case changes neither what it does nor its comments; and what the printer prints is laid out already.
#[rstest]
fn layout_changes_no_meaning(#[files("../cases/**/*.case")] file: PathBuf) {
    let text = fs::read_to_string(&file).unwrap();
    let source = |text: &str| Source { path: "layout.case".into(), text: text.into() };
    let formatted = script::format(&source(&text)).unwrap();
    let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    assert_eq!(letters(&formatted), letters(&text));
    assert_eq!(script::format(&source(&formatted)).unwrap(), formatted);
    if file.components().any(|part| part.as_os_str() == "lib") {
        return;
    }
    let parse = |text: &str| script::parse(&source(text), &Folder(cases_dir())).unwrap();
    assert_eq!(parse(&formatted), parse(&text));
    for case in parse(&text) {
        let printed = script::print(&case.program);
        assert_eq!(script::format(&source(&printed)).unwrap(), printed);
    }
}

#[rstest]
fn fmt_checks_without_writing(desk: Desk) {
    desk.write("cases/data/untidy.case", UNTIDY);
    let (out, said) = desk.run(&["fmt", "--check"], 2);
    assert_eq!(out, "");
    assert_eq!(
        said,
        "cases/data/untidy.case:1:24: not in canonical form; `fuseproof fmt cases/data/untidy.case` mends it\n"
    );
    let [message] = &desk.messages(&["fmt", "--check", "cases/data"])[..] else { panic!("one message") };
    assert_eq!(message["message"], "not in canonical form");
    assert_eq!(desk.read("cases/data/untidy.case"), UNTIDY);
}

#[rstest]
fn fmt_writes_what_is_not_canonical(desk: Desk) {
    desk.write("cases/data/untidy.case", UNTIDY);
    let (out, _) = desk.run(&["fmt", "cases/data"], 0);
    assert_eq!(out, "cases/data/untidy.case\n");
    assert_eq!(desk.read("cases/data/untidy.case"), TIDY);
    assert_eq!(desk.run(&["fmt", "cases/data"], 0).0, "");
    desk.run(&["fmt", "--check", "cases/data/untidy.case"], 0);
}

#[rstest]
fn fmt_leaves_what_it_cannot_read(desk: Desk) {
    let open = "# A string is not closed.\nhost   file \"a\n";
    desk.write("cases/data/open.case", open);
    let [message] = &desk.messages(&["fmt", "cases/data"])[..] else { panic!("one message") };
    assert_eq!((&message["file"], &message["line"]), (&"cases/data/open.case".into(), &2.into()));
    assert_eq!(desk.read("cases/data/open.case"), open);
    let (_, said) = desk.run(&["fmt", "nowhere"], 2);
    assert!(said.contains("cannot read nowhere"), "{said}");
}

#[rstest]
fn a_new_case_parses_and_says_what_is_next(desk: Desk) {
    let (out, _) = desk.run(&["new", "new_group/data-can-be-read"], 0);
    for part in
        ["cases/new_group/data-can-be-read.case is there", "RULE-00", "run new_group/data-can-be-read"]
    {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    let (list, _) = desk.run(&["run", "--list", "new_group/"], 0);
    assert!(list.starts_with("new_group/data-can-be-read "), "{list}");
    desk.run(&["fmt", "--check", "cases/new_group"], 0);
    // It cannot stay as it is.
    let [message] = &desk.messages(&["rules"])[..] else { panic!("one message") };
    assert_eq!(message["message"], "there is no rule `RULE-00`");
}

#[rstest]
fn a_new_case_replaces_no_other(desk: Desk) {
    let (_, said) = desk.run(&["new", "data/a-file-can-be-read"], 2);
    assert!(said.contains("is there already"), "{said}");
    assert_eq!(desk.read("cases/data/a-file-can-be-read.case"), CASE);
}

#[rstest]
#[case("no-group-at-all")]
#[case("data/oneword")]
#[case("data/Capital-letters")]
#[case("lib/a-library-file")]
#[case("../outside/of-the-cases")]
#[case("data/deeper/than-a-group")]
fn a_name_that_is_none_is_refused(desk: Desk, #[case] name: &str) {
    let (_, said) = desk.run(&["new", name], 2);
    assert!(said.contains("as in open_reply/an-id-never-given"), "{said}");
}

#[rstest]
fn a_folder_without_the_library_gets_no_case(desk: Desk) {
    desk.write("other/data/some.txt", "");
    let (_, said) = desk.run(&["new", "data/a-file-can-be-written", "--cases", "other"], 2);
    assert!(
        said.contains("there is no library file `mount/passthrough`") && said.contains("--cases"),
        "{said}"
    );
    assert!(!desk.path("other/data/a-file-can-be-written.case").exists());
}
