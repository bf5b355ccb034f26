//! A run that never happened: three kernels and a case for each way to end, with texts that every format has to mask.

use std::collections::{BTreeMap, BTreeSet};

use harness::program::Profile;
use harness::report::Origin;
use harness::run::{CaseResult, Event, Failure, PlannedCase, PlannedKernel, Verdict};
use qemu::console::{Splat, scan};

/// What a guest may say, to harm whoever shows it.
pub(crate) const HOSTILE: &str = "</script><b id=harm>&]]> # SKIP \u{1b}[31m";

pub(crate) fn origin() -> Origin {
    Origin { cases: "cases".into(), again: "fuseproof run".into() }
}

/// Names, titles and rules.
const CASES: [(&str, &str, &str); 5] = [
    ("io/reads", "A read gives the data.", "IO-01"),
    ("io/writes", "A write is refused.", "IO-02"),
    ("modes/direct", "Direct I/O goes to the daemon.", "MODE-01"),
    ("modes/never", "This is never run on the newest.", "IO-01"),
    ("modes/same", "This is the same everywhere.", "FWD-01"),
];

/// The text of the case at that place.
pub(crate) fn text(case: usize) -> String {
    let (_, title, rule) = CASES[case];
    format!("# {title}\nrules  {rule}\n\napp    open \"a\" O_RDONLY -> fd f\n")
}

/// The events, in the order in which they happened.
pub(crate) fn events() -> Vec<Event> {
    let kernels = ["6.1", "6.12", "7.3"];
    let planned = CASES.iter().enumerate().map(|(place, (path, title, rule))| PlannedCase {
        path: (*path).into(),
        title: (*title).into(),
        rules: vec![(*rule).into()],
        text: text(place),
    });
    let mut events = vec![Event::Plan {
        kernels: kernels.map(|name| PlannedKernel { name: name.into(), booted: None }).into(),
        cases: planned.collect(),
        laws: BTreeMap::from([("IO-01".into(), "A read gives the bytes of the file below.".into())]),
    }];
    for (kernel, name) in kernels.iter().enumerate() {
        let profile =
            Profile { release: format!("{name}.0-test"), has: BTreeSet::from(["passthrough".into()]) };
        events.push(Event::Session { kernel, restored: Some(0.5) });
        events.push(Event::Profile { kernel, profile });
    }
    // Not in the order of the plan: machines work side by side.
    for case in [2, 0, 4, 1, 3] {
        for kernel in 0..kernels.len() {
            if let Some((verdict, transcript)) = outcome(kernel, case) {
                let (path, title, rule) = CASES[case];
                let result = CaseResult {
                    path: path.into(),
                    title: title.into(),
                    rules: vec![rule.into()],
                    transport: harness::program::Transport::Plain,
                    verdict,
                    millis: 12,
                    transcript,
                    splats: splats(kernel, case),
                    by_oracle: false,
                    points: (case == 3).then_some(17),
                };
                events.push(Event::Case { kernel, case, after: 1.5, result });
            }
        }
    }
    events.push(Event::Trouble { kernel: 2, why: "no space left: free some".into() });
    events
}

fn outcome(kernel: usize, case: usize) -> Option<(Verdict, String)> {
    let read = "app    open \"a\" O_RDONLY -> fd f\napp    read f 5 -> \"hello\"\n";
    Some(match (case, kernel) {
        (0, 0 | 1) => (Verdict::Passed, read.into()),
        (0, _) => (Verdict::Passed, read.replace("hello", "hell")),
        (1, 0) => (Verdict::Skipped("the kernel has no passthrough".into()), String::new()),
        (1, 1) => {
            let failure = failure();
            let transcript = failure.transcript.clone();
            (Verdict::Failed(Box::new(failure)), transcript)
        }
        (1, _) => (Verdict::Passed, "app    write f \"x\" -> EIO\n".into()),
        (2, 2) => {
            let (why, console) = ("the guest's kernel panicked".into(), "Kernel panic".into());
            (Verdict::Lost { why, after: None, console }, String::new())
        }
        (3, 0) => {
            let reason = "it is forgotten there (a commit)".into();
            (Verdict::Deviated { failure: Box::new(failure()), reason }, read.into())
        }
        (3, 2) => return None,
        _ => (Verdict::Passed, read.into()),
    })
}

/// The same finding in a failure and in a deviation.
fn splats(kernel: usize, case: usize) -> Vec<Splat> {
    let text = "BUG: KASAN: slab-use-after-free in fuse_read+0x1/0x2\nCall Trace:\n kasan_report+0x1/0x2\n \
         fuse_read+0x1/0x2\n vfs_read+0x1/0x2\n </TASK>\n\nAllocated by task 7:\n fuse_open+0x1/0x2\n";
    if [(0, 3), (1, 1)].contains(&(kernel, case)) { scan(text) } else { Vec::new() }
}

fn failure() -> Failure {
    Failure {
        file: "io/writes.case".into(),
        line: 7,
        step: Some("app    write f \"x\" -> EIO".into()),
        why: format!("expected EIO, got {HOSTILE}"),
        transcript: format!("app    write f \"x\" -> {HOSTILE}\n"),
        kernel: vec!["fuse: refused".into()],
    }
}
