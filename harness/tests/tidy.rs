//! The house rules that a compiler does not know: boundaries between modules, sizes, names, and what stands in no file.
//!
//! Each rule is a pure function of files, shown here to find an offence made for it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use harness::program::{CAPABILITIES, INNER_ERRNO, OVER_VIRTIOFS};
use harness::script;
use rstest::rstest;

/// A file of the project.
struct File {
    /// Relative to the top.
    path: String,
    text: String,
}

impl File {
    /// The lines of the program itself, numbered: no comments, no unit tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]").enumerate();
        lines.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(index, line)| (index + 1, line))
    }

    fn is_below(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files that people write, sorted.
fn files() -> Vec<File> {
    let mut found = Vec::new();
    for part in ["qemu", "harness", "fuzz", "cases", ".ci", "Cargo.toml", "README.md"] {
        collect(&top().join(part), &mut found);
    }
    found.sort();
    let relative = |path: &PathBuf| path.strip_prefix(top()).unwrap().to_string_lossy().into_owned();
    found.iter().map(|path| File { path: relative(path), text: fs::read_to_string(path).unwrap() }).collect()
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) {
    const KINDS: [&str; 6] = ["rs", "toml", "md", "case", "snap", "patch"];
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|item| collect(&item.unwrap().path(), found));
    } else if path.extension().is_none_or(|kind| KINDS.iter().any(|known| kind == *known)) {
        found.push(path.to_path_buf());
    }
}

type Rule = fn(&File) -> Vec<String>;

#[rstest]
#[case::docs(opens_with_what_it_is_for)]
#[case::size(is_at_most_600_lines)]
#[case::glue(is_glue)]
#[case::machine(names_no_machine)]
#[case::boundary(machines_know_no_fuse)]
#[case::pure(touches_no_operating_system)]
#[case::device(leaves_the_device_to_exec)]
fn the_project_keeps(#[case] rule: Rule) {
    let offences: Vec<String> = files().iter().flat_map(rule).collect();
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[rstest]
#[case::docs(opens_with_what_it_is_for, "qemu/src/a.rs", "use std::io;\n")]
#[case::size(is_at_most_600_lines, "harness/src/a.rs", &"//! A.\n".repeat(601))]
#[case::glue(is_glue, "fuzz/fuzz_targets/a.rs", &"//! A.\n".repeat(40))]
#[case::home(names_no_machine, "README.md", concat!("see /ro", "ot/notes\n"))]
#[case::mirror(names_no_machine, "qemu/a.toml", concat!("url = \"https:/", "/mirror.test/debian\"\n"))]
#[case::boundary(machines_know_no_fuse, "qemu/src/a.rs", "const MODULE: &str = \"fuse\";\n")]
#[case::call(touches_no_operating_system, "harness/src/program/a.rs", "std::fs::read(path);\n")]
#[case::system_call(touches_no_operating_system, "harness/src/protocol.rs", "nix::unistd::fork();\n")]
#[case::needless(touches_no_operating_system, "harness/src/script/load.rs", "//! Reads nothing.\n")]
#[case::device(leaves_the_device_to_exec, "harness/src/run/a.rs", "File::open(\"/dev/fuse\");\n")]
fn a_rule_finds_its_offence(#[case] rule: Rule, #[case] path: &str, #[case] text: &str) {
    assert_eq!(rule(&File { path: path.into(), text: text.into() }).len(), 1);
}

fn opens_with_what_it_is_for(file: &File) -> Vec<String> {
    let offends = file.path.ends_with(".rs") && !file.text.starts_with("//! ");
    Vec::from_iter(offends.then(|| format!("{}: open it with `//!` and what it is for", file.path)))
}

fn is_at_most_600_lines(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    let offends = file.path.ends_with(".rs") && lines > 600;
    Vec::from_iter(offends.then(|| format!("{}: {lines} lines, split it", file.path)))
}

fn is_glue(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    let offends = file.is_below(&["fuzz/fuzz_targets/"]) && lines >= 40;
    Vec::from_iter(offends.then(|| format!("{}: {lines} lines, move them to the library", file.path)))
}

/// No folder of whoever wrote it, and no host: kernels come from the mirror that a machine already uses.
fn names_no_machine(file: &File) -> Vec<String> {
    // Split, or this file would be the first offender.
    const HOMES: [&str; 3] = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    let hosts = |line: &str| {
        let urls =
            line.split("://").skip(1).map(|rest| rest.split(['/', ' ', '"', '`', ')']).next().unwrap_or(""));
        let foreign = urls
            .filter(|host| host.contains('.') && !host.ends_with(".example") && !host.starts_with("127."));
        foreign.count()
    };
    let lines = file.text.lines().enumerate();
    let bad = lines.filter(|(_, line)| HOMES.iter().any(|home| line.contains(home)) || hosts(line) > 0);
    bad.map(|(index, line)| format!("{}:{}: a path or host of some machine: {line}", file.path, index + 1))
        .collect()
}

fn machines_know_no_fuse(file: &File) -> Vec<String> {
    if !file.is_below(&["qemu/src/"]) || !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let words =
        |line: &str| line.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w.eq_ignore_ascii_case("fuse"));
    let bad = file.code().filter(|(_, line)| words(line));
    bad.map(|(number, line)| format!("{}:{number}: what is about FUSE belongs to harness: {line}", file.path))
        .collect()
}

/// Modules of `harness` that do no I/O and make no system call, and why some of their files may name one.
const PURE: [&str; 16] = [
    "harness/src/abi/",
    "harness/src/bench/",
    "harness/src/daemon/decode.rs",
    "harness/src/daemon/judge/",
    "harness/src/daemon/mistake.rs",
    "harness/src/daemon/trace.rs",
    "harness/src/generate/",
    "harness/src/program/",
    "harness/src/script/",
    "harness/src/transcript/",
    "harness/src/hostile.rs",
    "harness/src/report/",
    "harness/src/reproducer/",
    "harness/src/rules/",
    "harness/src/protocol.rs",
    "harness/src/oracle/",
];
const SYSTEM: [&str; 6] = ["std::fs", "std::process", "std::net", "std::os::", "nix::", "tempfile::"];
const EXCEPTIONS: [(&str, &str); 9] = [
    ("harness/src/daemon/judge/ids.rs", "numbers of errnos and of file types"),
    ("harness/src/daemon/judge/mod.rs", "numbers of signals"),
    ("harness/src/daemon/judge/replies.rs", "numbers of errnos"),
    ("harness/src/rules/load.rs", "reads files of rules"),
    ("harness/src/oracle/numbers.rs", "numbers of flags, errnos and signals"),
    ("harness/src/program/flags.rs", "numbers and names of flags, errnos and signals"),
    ("harness/src/script/outcome.rs", "names of signals"),
    ("harness/src/script/load.rs", "reads case files"),
    ("harness/src/script/tests.rs", "tests what reads case files"),
];

fn touches_no_operating_system(file: &File) -> Vec<String> {
    if !file.is_below(&PURE) || !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let used: Vec<_> =
        file.code().filter(|(_, line)| SYSTEM.iter().any(|name| line.contains(name))).collect();
    if EXCEPTIONS.iter().any(|(path, _)| *path == file.path) {
        let idle = used.is_empty();
        return Vec::from_iter(idle.then(|| format!("{}: needs no exception any more", file.path)));
    }
    let tell =
        |(number, line)| format!("{}:{number}: only exec, run and cli touch the system: {line}", file.path);
    used.into_iter().map(tell).collect()
}

fn leaves_the_device_to_exec(file: &File) -> Vec<String> {
    // It looks whether the device is there, for `doctor`.
    const LOOKS: &str = "harness/src/cli/kernels.rs";
    if !file.is_below(&["harness/src/", "fuzz/"]) || file.is_below(&["harness/src/exec/", LOOKS]) {
        return Vec::new();
    }
    let bad = file.code().filter(|(_, line)| line.contains("\"/dev/fuse\""));
    bad.map(|(number, _)| format!("{}:{number}: only exec opens the device", file.path)).collect()
}

#[test]
fn every_capability_has_its_probe_and_no_probe_is_idle() {
    let probes: BTreeSet<String> = files()
        .iter()
        .filter_map(|file| {
            file.path.strip_prefix("cases/lib/probe/")?.strip_suffix(".case").map(str::to_string)
        })
        .collect();
    // No program can find these out: the agent tells the one, and the transport is the other.
    let told = [INNER_ERRNO, OVER_VIRTIOFS];
    let probed =
        CAPABILITIES.iter().map(|row| row.name).filter(|name| !told.contains(name)).map(str::to_string);
    assert_eq!(probes, probed.collect());
}

#[test]
fn cases_have_kebab_case_names_and_rules_with_a_number() {
    let cases = script::load(&top().join("cases")).unwrap_or_else(|e| panic!("{:?}", miette::Report::new(e)));
    assert!(!cases.is_empty());
    for case in cases {
        let name = case.path.rsplit('/').next().unwrap();
        assert!(is_kebab_case(name), "cases/{}.case: name it like-a-sentence", case.path);
        assert!(case.path.contains('/'), "cases/{}.case: put it into the folder of its family", case.path);
        let rules = &case.program.rules;
        assert!(!rules.is_empty() && rules.iter().all(|rule| is_rule(rule)), "{}: {rules:?}", case.path);
    }
}

fn is_kebab_case(name: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.split('-').count() > 1 && name.split('-').all(is_word)
}

/// `OPEN-05`.
fn is_rule(rule: &str) -> bool {
    rule.rsplit_once('-').is_some_and(|(group, number)| {
        let is_group =
            !group.is_empty() && group.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        is_group && number.len() >= 2 && number.chars().all(|c| c.is_ascii_digit())
    })
}

#[rstest]
#[case("Backing-id-zero", "OPEN05")]
#[case("backing_id_zero", "open-05")]
#[case("case1", "-05")]
#[case("a--b", "OPEN-5")]
fn other_names_are_found(#[case] name: &str, #[case] rule: &str) {
    assert!(!is_kebab_case(name) && !is_rule(rule));
}

#[test]
fn every_snapshot_has_its_case() {
    let files = files();
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for path in &paths {
        if let Some(name) =
            path.strip_prefix("harness/tests/snapshots/").and_then(|rest| rest.strip_suffix(".snap"))
        {
            assert!(
                paths.contains(format!("cases/{name}.case").as_str()),
                "{path}: its case is gone, remove it"
            );
        }
    }
}
