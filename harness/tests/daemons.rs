//! Daemons on trial: the honest one breaks no rule, and one that makes a mistake breaks exactly the rule that says so.
//!
//! They run on the running kernel, where it has passthrough and we are root.

#[expect(dead_code, reason = "some of it is for tests of other failures")]
mod desk;
mod ring;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use harness::daemon::trial::{Trial, Verdict, try_on};
use harness::daemon::{Fault, Launch, Mistake, Which};
use harness::rules::{self, Rules};
use harness::run::{Subject, probes};
use harness::script::{self, Case, Folder};
use libtest_mimic::{Arguments, Failed};
use nix::libc;
use nix::sys::signal::Signal;
use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use desk::Desk;
use ring::{Lines, PROGRAM, cases_dir};

/// How often the honest one has to be found so.
const TIMES: usize = 50;

/// A kernel whose machine has nothing but what is packed.
const GUEST: &str = "6.12";

fn main() {
    let arguments = Arguments::from_args();
    let missing_root = (!nix::unistd::geteuid().is_root()).then(|| "mounting needs root".to_string());
    let mut trials = vec![ring::trial("honest", missing_root.clone(), honest)];
    for mistake in Mistake::value_variants() {
        let name = mistake.to_possible_value().expect("each has a name").get_name().to_string();
        let found = move || breaks_one(*mistake);
        trials.push(ring::trial(&name, missing_root.clone(), found));
    }
    let cache = Cache::open().unwrap_or_else(|error| panic!("{error}"));
    let missing = if arguments.list { None } else { ring::no_machine(GUEST, &cache) };
    trials.push(ring::trial("honest-in-a-guest", missing, honest_in_a_guest));
    for errno in REFUSALS {
        for which in [Which::Every, Which::Nth(1), Which::Nth(2)] {
            let name = format!("refused-{errno}-{which:?}").to_lowercase().replace(['(', ')'], "");
            trials.push(ring::trial(&name, missing_root.clone(), move || falls_back(Fault { which, errno })));
        }
    }
    for (name, exit, words, says) in UNUSABLE {
        let found = move || is_unusable(*exit, words, says);
        trials.push(ring::trial(name, missing_root.clone(), found));
    }
    trials.push(ring::trial("a-flood-is-read", missing_root.clone(), a_flood_is_read));
    trials.push(ring::trial("kill-9-leaves-nothing", missing_root.clone(), kill_9_leaves_nothing));
    trials.push(ring::trial("ctrl-c-ends-it", missing_root.clone(), ctrl_c_ends_it));
    trials.push(ring::trial("presets", missing_root.clone(), presets));
    trials.push(ring::trial("a-recording-is-decoded", missing_root.clone(), a_recording_is_decoded));
    trials.push(ring::trial("every-rule-has-its-mistake", None, every_rule_has_its_mistake));
    ring::run(&arguments, trials, String::new);
}

fn text(error: impl std::fmt::Display) -> Failed {
    Failed::from(error.to_string())
}

fn workloads() -> Result<Vec<Case>, Failed> {
    let cases = script::load(cases_dir()).map_err(text)?;
    Ok(cases.into_iter().filter(|case| case.path.starts_with("daemon/")).collect())
}

fn law() -> Result<Rules, Failed> {
    rules::load(cases_dir()).map_err(text)
}

fn tried(kernel: &KernelSpec, mistake: Option<Mistake>, workloads: &[Case]) -> Result<Trial, Failed> {
    let refused = mistake.and_then(Mistake::needs_refused);
    let fault = refused.map(|which| Fault { which, errno: libc::ENOMEM });
    tried_with(kernel, mistake, fault, workloads)
}

fn tried_with(
    kernel: &KernelSpec,
    mistake: Option<Mistake>,
    fault: Option<Fault>,
    workloads: &[Case],
) -> Result<Trial, Failed> {
    let cache = Cache::open().map_err(text)?;
    let probes = probes(&Folder(cases_dir().to_path_buf())).map_err(text)?;
    let files = [(Path::new(PROGRAM).to_path_buf(), PROGRAM.to_string())];
    let subject =
        Subject::prepare_for(kernel, Path::new(PROGRAM), &files, &cache, &mut Lines).map_err(text)?;
    let option = mistake.and_then(|mistake| mistake.to_possible_value());
    let option = option.map(|value| format!("--mistake={}", value.get_name()));
    let words = [PROGRAM, "specimen"].map(str::to_string).into_iter().chain(option);
    let command = words.chain(["{source}", "{mount}"].map(str::to_string)).collect();
    let launch = Launch { command, faults: fault.into_iter().collect(), ..Launch::default() };
    try_on(&subject, &launch, workloads, &probes, &cache, &AtomicBool::new(false), &mut |_, _| {})
        .map_err(text)
}

fn broken(trial: &Trial, rules: &Rules) -> Result<BTreeSet<String>, Failed> {
    if let Some(why) = trial.unusable() {
        return Err(text(why));
    }
    let standings = trial.standings(rules);
    let broken = standings.iter().filter(|(_, standing)| !standing.breaks.is_empty());
    Ok(broken.map(|(rule, _)| rule.to_string()).collect())
}

fn honest() -> Result<(), Failed> {
    breaks_none(&KernelSpec::Host, TIMES)
}

fn honest_in_a_guest() -> Result<(), Failed> {
    breaks_none(&KernelSpec::Catalogue(GUEST.into()), 1)
}

fn breaks_none(kernel: &KernelSpec, times: usize) -> Result<(), Failed> {
    let workloads = workloads()?;
    let many: Vec<Case> = workloads.iter().filter(|case| is_small(case)).cloned().collect();
    let rest = many.iter().cycle().take((times - 1) * many.len()).cloned();
    let many: Vec<Case> = workloads.into_iter().chain(rest).collect();
    let trial = tried(kernel, None, &many)?;
    let failed = trial.workloads.iter().filter(|workload| workload.verdict != Verdict::Passed);
    let failed: Vec<_> = failed.map(|workload| (&workload.name, &workload.verdict)).collect();
    let broken = broken(&trial, &law()?)?;
    if failed.is_empty() && broken.is_empty() { Ok(()) } else { Err(text(format!("{broken:?} {failed:?}"))) }
}

fn breaks_one(mistake: Mistake) -> Result<(), Failed> {
    let mut workloads = workloads()?;
    if mistake == Mistake::Silent {
        // Each of them hangs until its time is over.
        workloads.retain(|case| case.path.contains("bytes-are-the-lower"));
    }
    if mistake != Mistake::FewFiles {
        workloads.retain(is_small);
    }
    let broken = broken(&tried(&KernelSpec::Host, Some(mistake), &workloads)?, &law()?)?;
    let expected = BTreeSet::from([mistake.breaks().to_string()]);
    if broken == expected { Ok(()) } else { Err(text(format!("expected {expected:?}, got {broken:?}"))) }
}

fn every_rule_has_its_mistake() -> Result<(), Failed> {
    let made: BTreeSet<&str> = Mistake::value_variants().iter().map(|mistake| mistake.breaks()).collect();
    let law = law()?;
    let all = law.iter().filter(|rule| rule.group() == harness::daemon::trial::GROUP);
    let missing: Vec<&str> = all.map(|rule| rule.id.as_str()).filter(|id| !made.contains(id)).collect();
    if missing.is_empty() { Ok(()) } else { Err(text(format!("no mistake breaks {missing:?}"))) }
}

/// A workload that takes no seconds, of which the others say the same of most daemons.
fn is_small(case: &Case) -> bool {
    !case.path.contains("five-thousand")
}

/// What BACKING_OPEN may say, each in the kernel's place.
const REFUSALS: [i32; 6] = [libc::EPERM, libc::ENOMEM, libc::ELOOP, libc::EINVAL, libc::ENOTTY, libc::EMFILE];

/// Refused, the honest daemon serves the file itself, and its applications see no difference.
fn falls_back(fault: Fault) -> Result<(), Failed> {
    let workloads: Vec<Case> = workloads()?.into_iter().filter(is_small).collect();
    let trial = tried_with(&KernelSpec::Host, None, Some(fault), &workloads)?;
    let broken = broken(&trial, &law()?)?;
    let refused = trial.workloads.iter().any(|workload| workload.judgement.has_met("DMN-08"));
    let failed = trial.workloads.iter().find(|workload| workload.verdict != Verdict::Passed);
    match failed {
        None if broken.is_empty() && refused => Ok(()),
        failed => Err(text(format!("{broken:?} {refused} {:?}", failed.map(|workload| &workload.verdict)))),
    }
}

/// Commands that are no daemon: the exit code, and what is said.
type Unusable = (&'static str, i32, &'static [&'static str], &'static [&'static str]);
const UNUSABLE: &[Unusable] = &[
    ("one-that-is-not-there", 3, &["/no/such/daemon"], &["cannot run /no/such/daemon: No such file"]),
    (
        "one-that-ends-at-once",
        3,
        &["sh", "-c", "echo no disk >&2; exit 7"],
        &["exit code 7", "it said: no disk"],
    ),
    ("one-that-dies-at-once", 3, &["sh", "-c", "kill -SEGV $$"], &["ended by SIGSEGV"]),
    ("one-that-mounts-nothing", 3, &["sleep", "1000"], &["nothing was mounted at {mount} within 10 s"]),
    (
        "one-that-ignores-everything",
        3,
        &["sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done"],
        &["nothing was mounted at {mount} within 10 s"],
    ),
    (
        "one-that-floods-and-mounts-nothing",
        3,
        &["sh", "-c", "while :; do echo all work and no play; done"],
        &["nothing was mounted", "it said: all work and no play"],
    ),
];

/// A trial with one workload of the project's.
fn trial_of_one() -> [&'static str; 5] {
    let cases = cases_dir().to_str().expect("a path that is text");
    ["daemon", "--cases", cases, "--case", "bytes-are-the-lower"]
}

/// One clear message, and nothing stays: the desk sees to that.
fn is_unusable(exit: i32, words: &[&str], says: &[&str]) -> Result<(), Failed> {
    let run = Desk::new().run(&[&trial_of_one()[..], &["--"], words].concat()).ends(exit);
    run.says(says);
    Ok(())
}

/// A daemon that writes without end is served all the same, and judged.
fn a_flood_is_read() -> Result<(), Failed> {
    let shell = format!(
        "(while kill -0 $$; do echo all work and no play; done) & exec {PROGRAM} specimen {{source}} {{mount}}"
    );
    Desk::new()
        .run(&[&trial_of_one()[..], &["--", "sh", "-c", &shell]].concat())
        .ends(0)
        .shows(&["uses passthrough", " 0 broken"]);
    Ok(())
}

/// A daemon that never answers FLUSH: whoever waits for it hangs, and with them the trial.
const HANGS: [&str; 6] = ["--", PROGRAM, "specimen", "--mistake=silent", "{source}", "{mount}"];

/// In the middle of a workload: the mount is there, and somebody waits on it.
fn kill_9_leaves_nothing() -> Result<(), Failed> {
    let desk = Desk::new();
    let running = desk.start(&[&trial_of_one()[..], &HANGS].concat());
    hangs(&running);
    running.signal(Signal::SIGKILL);
    running.wait().was_killed();
    Ok(())
}

/// The first lets the workload come to its end, and nothing more is tried.
fn ctrl_c_ends_it() -> Result<(), Failed> {
    let desk = Desk::new();
    let cases = cases_dir().to_str().expect("a path that is text");
    let running = desk.start(&[&["daemon", "--cases", cases][..], &HANGS].concat());
    hangs(&running);
    running.signal(Signal::SIGINT);
    let run = running.wait().ends(3);
    run.says(&["stopping after the cases in progress"]);
    if run.err.matches("daemon/").count() == 1 { Ok(()) } else { Err(text(&run.err)) }
}

/// Wait until the daemon has been asked for what it will not answer.
fn hangs(running: &desk::Running<'_>) {
    // It mounts where nobody else sees it.
    let mounts = format!("/proc/{}/mountinfo", running.agent());
    let start = Instant::now();
    let is_mounted = || {
        let mounts = std::fs::read_to_string(&mounts).expect("it runs");
        mounts.lines().any(|line| line.contains(" fuse specimen "))
    };
    while !is_mounted() {
        assert!(start.elapsed() < Duration::from_secs(30), "the daemon never mounts");
        std::thread::sleep(Duration::from_millis(10));
    }
    // A few calls later comes the first close.
    std::thread::sleep(Duration::from_millis(500));
}

/// A known daemon is found, or it is said how to come by it, and by which names they go.
fn presets() -> Result<(), Failed> {
    let desk = Desk::new();
    let [command, rest @ ..] = trial_of_one();
    let path = desk.folder("bin").to_string_lossy().into_owned();
    let with = |preset: &str| {
        let words = [&[command, "--preset", preset][..], &rest].concat();
        desk.run_with(&words, |command| {
            command.env("PATH", &path);
        })
    };
    with("mergerfs").ends(2).says(&["mergerfs is not in $PATH: install", "--preset mergerfs -- PATH"]);
    with("nonesuch").ends(2).says(&[
        "no preset called nonesuch",
        "bindfs: a folder",
        "mergerfs: several folders",
    ]);
    // What stands behind `--` is the program, with more words for it.
    let shell = desk.file("mine", b"#!/bin/sh\nexec \"$PROGRAM\" specimen \"$3\" \"$4\"\n");
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755))?;
    let words = [&[command, "--preset", "passthrough_hp"][..], &rest, &["--", &shell, "--more"]].concat();
    desk.run_with(&words, |command| {
        command.env("PROGRAM", PROGRAM);
    })
    .ends(0)
    .shows(&["mine --more --foreground {source} {mount} on host", "uses passthrough"]);
    Ok(())
}

/// What was saved is told a line each, and of a cut recording what is there, and where it ends.
fn a_recording_is_decoded() -> Result<(), Failed> {
    let desk = Desk::new();
    let folder = desk.path("traces").to_string_lossy().into_owned();
    let words = ["--save-trace", &folder, "--", PROGRAM, "specimen", "{source}", "{mount}"];
    desk.run(&[&trial_of_one()[..], &words].concat()).ends(0);
    let saved = std::fs::read_dir(&folder)?.next().ok_or("nothing was saved")??.path();
    let path = saved.to_string_lossy().into_owned();
    let lines = ["> INIT", "BACKING_OPEN \"a\" O_RDWR -> id 1", "backing_id=1", "BACKING_CLOSE id 1 -> ok"];
    desk.run(&["decode", &path]).ends(0).shows(&lines);
    let whole = std::fs::read(&saved)?;
    std::fs::write(&saved, &whole[..whole.len() - 3])?;
    let run = desk.run(&["decode", &path]).ends(2);
    run.shows(&lines);
    run.says(&["the trace ends in the middle of an event"]);
    Ok(())
}
