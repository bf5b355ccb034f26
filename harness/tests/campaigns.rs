//! Campaigns through a night: ended at any moment, ended by whoever started them, and with a folder that is full.
//!
//! They fuzz the default kernel, which tells no coverage: what is looked at here is the folder and what is left behind.

#[expect(dead_code, reason = "some of it is for tests of other commands")]
mod desk;
mod ring;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use qemu::cache::Cache;
use qemu::kernel;
use serde_json::Value;

use desk::Desk;

/// A campaign that has not begun by then never will.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let arguments = Arguments::from_args();
    let cache = Cache::open().unwrap_or_else(|error| panic!("{error}"));
    let machine = if arguments.list { None } else { ring::no_machine(&kernel::default_row().name, &cache) };
    let root = (!nix::unistd::geteuid().is_root()).then(|| "mounting needs root".to_string());
    let trial = |name: &str, missing: Option<String>, test: fn()| -> Trial {
        ring::trial(name, missing, move || -> Result<(), Failed> {
            test();
            Ok(())
        })
    };
    let trials = vec![
        trial("campaigns/kill_9_leaves_a_folder_to_go_on_with", machine.clone(), kill_9),
        trial("campaigns/ctrl_c_ends_one_in_order", machine.clone(), ctrl_c),
        trial("campaigns/a_full_disk_ends_none", root.or(machine), a_full_disk),
        trial("campaigns/folders_are_merged", None, folders_are_merged),
    ];
    // They share the processors with their guests.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    ring::run(&arguments, trials, String::new)
}

fn campaign<'a>(time: &'a str, folder: &'a str) -> Vec<&'a str> {
    let cases = ring::cases_dir().to_str().expect("a text");
    let words = ["--time", time, "--folder", folder, "--cases", cases];
    [["fuzz", "--jobs", "1", "--kernel", "6.12"].as_slice(), &words].concat()
}

/// Whole lines of all histories in a campaign's folder, and how many are cut.
fn lines(folder: &Path) -> (Vec<Value>, usize) {
    let text: String = files(&folder.join("history")).iter().map(|(_, text)| text.as_str()).collect();
    let lines: Vec<Result<Value, _>> = text.lines().map(serde_json::from_str).collect();
    let cut = lines.iter().filter(|line| line.is_err()).count();
    (lines.into_iter().flatten().collect(), cut)
}

/// All files below a folder, by path.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else if let Ok(text) = fs::read(entry.path()) {
            found.push((entry.path().display().to_string(), String::from_utf8_lossy(&text).into_owned()));
        }
    }
    found
}

/// Wait until a campaign has written a line of its history that was not there before.
fn fuzzes(folder: &Path, before: usize) {
    let begin = Instant::now();
    while lines(folder).0.len() <= before {
        assert!(begin.elapsed() < PATIENCE, "it never tells how it goes");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn kill_9() {
    let desk = Desk::new();
    let folder = desk.path("fuzzing");
    for (round, wait) in [300, 1700].into_iter().enumerate() {
        let running = desk.start(&campaign("90s", "fuzzing"));
        running.machine();
        fuzzes(&folder, round);
        std::thread::sleep(Duration::from_millis(wait));
        running.signal(Signal::SIGKILL);
        running.wait().was_killed();
        assert!(desk.run(&["findings", "--folder", "fuzzing"]).ends(0).out.contains("findings,"));
        assert_eq!(lines(&folder).1, 0, "whole lines");
    }
    // As if it had been ended within a write.
    fs::write(folder.join("corpus/sequence/.new-half"), "half").expect("a file");
    let run = desk.run(&campaign("12s", "fuzzing"));
    assert!(run.out.contains("12 s: "), "{}{}", run.out, run.err);
    let left: Vec<_> =
        files(&folder).into_iter().map(|(path, _)| path).filter(|path| path.contains("/.new-")).collect();
    assert!(left.is_empty(), "{left:?}");
    let begun: Vec<u64> = lines(&folder).0.iter().filter_map(|line| line["begun"].as_u64()).collect();
    assert!(begun.len() >= 3 && begun.first() < begun.last(), "one night of three campaigns: {begun:?}");
    assert!(fs::read_to_string(folder.join("report.html")).expect("a page").contains("sequence on 6.12"));
}

fn ctrl_c() {
    let desk = Desk::new();
    let folder = desk.path("fuzzing");
    let running = desk.start(&campaign("90s", "fuzzing"));
    running.machine();
    fuzzes(&folder, 0);
    running.signal(Signal::SIGINT);
    let run = running.wait();
    run.says(&["stopping after what is in progress", "the campaign was ended before its time"]);
    run.shows(&["runs", "/s overall"]);
    assert!(folder.join("report.html").exists());
    let found = fs::read_dir(folder.join("findings")).expect("a folder").count();
    run.ends(if found > 0 { 1 } else { 3 });
}

/// The inputs alone do not fit.
fn a_full_disk() {
    let desk = Desk::new();
    let full = desk.folder("full");
    mount(Some("small"), &full, Some("tmpfs"), MsFlags::empty(), Some("size=1M")).expect("a tmpfs");
    let run = desk.run(&campaign("15s", "full/fuzzing"));
    umount(&full).expect("nothing holds it");
    run.says(&["takes nothing more", "other files could not be written (", "make room"]);
    run.shows(&["15 s: "]);
}

fn folders_are_merged() {
    let desk = Desk::new();
    desk.file("one/findings/oracle-x/case", b"case");
    desk.file("one/corpus/sequence/by-hand", b"input");
    let merge = ["fuzz", "merge", "all", "one"];
    desk.run(&merge).ends(0).shows(&["1 new inputs and 1 new findings"]);
    desk.run(&merge).ends(0).shows(&["0 new inputs and 0 new findings"]);
    assert!(desk.path("all/report.html").exists() && desk.path("all/findings/oracle-x/case").exists());
    desk.run(&["fuzz", "merge", "all", "cases"]).ends(3).says(&["cases", "no campaign's folder"]);
    for part in ["0/3", "4/3", "x"] {
        desk.run(&["fuzz", "--partition", part]).ends(2).says(&[part, "M from 1 to N"]);
    }
    desk.run(&["fuzz", "--partition", "/3"]).ends(2).says(&["JOB_COMPLETION_INDEX", "M/3"]);
}
