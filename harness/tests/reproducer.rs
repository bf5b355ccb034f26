//! Reproducers are compiled and run on the running kernel: each passes, and fails when one expectation is turned. It takes a C
//! compiler and root.

#[expect(dead_code, reason = "it takes no machine")]
mod ring;

use std::path::Path;
use std::process::{Command, Output};

use harness::program::{Outcome, Program, Step, Verb};
use harness::reproducer::reproducer;
use harness::script;
use libtest_mimic::{Arguments, Failed, Trial};

/// Of several groups; [`turned`] finds something to turn in each.
const CASES: [&str; 21] = [
    "backing_close/an-id-can-be-closed-once",
    "backing_close/open-files-keep-a-closed-id",
    "backing_open/an-unlinked-file-is-accepted",
    "backing_open/ids-count-up-and-are-not-reused",
    "forward/seeking-from-start-or-here-asks-nobody",
    "mmap/private-mapping-keeps-its-stores",
    "mmap/shared-mapping-of-a-direct-file-alone",
    "modes/cached-mode-ends-with-last-cached-file",
    "modes/direct-then-cached-refuses-passthrough",
    "modes/o-direct-counts-as-cached",
    "reply/older-minors-have-shorter-entries",
    "open_reply/backing-id-zero",
    "open_reply/backing-id-negative",
    "open_reply/backing-id-never-given",
    "open_reply/backing-id-closed",
    "open_reply/backing-id-without-passthrough-is-ignored",
    "open_reply/a-second-open-by-the-same-id",
    "open_reply/passthrough-without-negotiation",
    "open_reply/flags-refused-beside-passthrough",
    "open_reply/flags-allowed-beside-passthrough",
    "open_reply/create-with-backing-id",
];

fn main() {
    let arguments = Arguments::from_args();
    let missing = missing();
    let cases = script::load(ring::cases_dir()).expect("the cases load");
    let mut trials = vec![Trial::test("every_case_is_told_or_refused_with_a_step", {
        let programs: Vec<_> = cases.iter().map(|case| (case.name(), case.program.clone())).collect();
        move || all(&programs)
    })];
    for name in CASES {
        let of_name: Vec<_> = cases.iter().filter(|case| case.path == name).cloned().collect();
        assert!(!of_name.is_empty(), "there is no case {name}");
        for case in of_name {
            let name = case.name();
            trials.push(ring::trial(&name.clone(), missing.clone(), move || {
                passes_and_fails(&name, &case.program).map_err(Failed::from)
            }));
        }
    }
    ring::run(&arguments, trials, String::new);
}

fn missing() -> Option<String> {
    let compiler = Command::new("cc").arg("--version").output();
    if !compiler.is_ok_and(|output| output.status.success()) {
        return Some("there is no C compiler: install gcc".into());
    }
    let has_device = Path::new("/dev").join("fuse").exists();
    (!nix::unistd::geteuid().is_root() || !has_device).then(|| "it takes root, and the device".into())
}

fn all(programs: &[(String, Program)]) -> Result<(), Failed> {
    let (mut told, mut why) = (0, std::collections::BTreeMap::<&str, usize>::new());
    for (name, program) in programs {
        match reproducer(program, name) {
            Ok(_) => told += 1,
            Err(refused) => {
                *why.entry(refused.why).or_default() += 1;
                if refused.step.is_empty() {
                    return Err(format!("{name}: {refused} names no step").into());
                }
            }
        }
    }
    let mut why: Vec<_> = why.into_iter().collect();
    why.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    eprintln!("reproducers: {told} of {} cases can be told in C", programs.len());
    why.iter().for_each(|(why, count)| eprintln!("  {count:4} {why}"));
    if told * 10 < programs.len() { Err("fewer than a tenth can be told".into()) } else { Ok(()) }
}

fn passes_and_fails(name: &str, program: &Program) -> Result<(), String> {
    let right = run(name, program)?;
    let said = String::from_utf8_lossy(&right.stdout).into_owned();
    if right.status.code() == Some(4) {
        return Err(format!("the running kernel cannot do it: {said}"));
    }
    if !right.status.success() || said.contains("not ok") {
        return Err(format!("{:?}: {said}", right.status));
    }
    let wrong = run(name, &turned(program).ok_or("there is no expectation to turn")?)?;
    let said = String::from_utf8_lossy(&wrong.stdout).into_owned();
    let is_told = wrong.status.code() == Some(1) && said.contains("not ok");
    if is_told { Ok(()) } else { Err(format!("a wrong expectation passes: {said}")) }
}

/// The program with its last expectation of an errno or success turned.
fn turned(program: &Program) -> Option<Program> {
    let mut program = program.clone();
    let is_call = |verb: &Verb| matches!(verb, Verb::Call(_));
    // One with a condition may be left out.
    let is_due = |step: &Step| step.when.is_empty() && is_call(&step.verb) && step.expect.is_some();
    let step = program.steps.iter_mut().rfind(|step| is_due(step))?;
    let expect = step.expect.as_mut()?;
    expect.variants.clear();
    expect.law = Outcome::Errno(nix::libc::EXDEV);
    Some(program)
}

fn run(name: &str, program: &Program) -> Result<Output, String> {
    let text = reproducer(program, name).map_err(|refused| refused.to_string())?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (source, binary) = (folder.path().join("a.c"), folder.path().join("a"));
    std::fs::write(&source, text).map_err(|error| error.to_string())?;
    let compiled = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .args([&binary, &source])
        .output()
        .map_err(|error| error.to_string())?;
    if !compiled.status.success() {
        return Err(String::from_utf8_lossy(&compiled.stderr).into_owned());
    }
    Command::new(&binary).output().map_err(|error| error.to_string())
}
