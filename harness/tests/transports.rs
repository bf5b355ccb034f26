//! Every case over every transport, on the kernel that has them all.
//!
//! Whatever carries requests and replies, the law is the same, and so is what happens: a transcript is the plain one with
//! a mark behind each request that shows what it came by. A case that cannot do with a transport says so itself.

mod dialects;
mod observed;
mod ring;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use harness::program::Transport;
use harness::report::{self, Origin};
use harness::rules::Rules;
use harness::run::{CaseResult, Deviations, KernelResult, Plan, Run, Subject, Verdict, probes};
use harness::script::{self, Case, Folder};
use harness::transcript;
use libtest_mimic::{Arguments, Failed};
use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use ring::{Lines, PROGRAM, cases_dir, no_machine};

/// It has FUSE over io_uring, as every kernel since 6.14.
const KERNEL: &str = "7.3";

/// Of a hundred cases so many pass there over the plain transport at least, and of a hundred of those over another.
const MOST: usize = 95;
const MOST_OF_THOSE: usize = 85;

/// What the kernel does not send over io_uring, but for the FORGET of an entry of READDIRPLUS that it cannot use.
const BY_DEVICE: [&str; 4] = ["INIT", "FORGET", "BATCH_FORGET", "INTERRUPT"];

/// What came of the one run of all cases over all transports, made by the first test that asks.
static RESULTS: OnceLock<Result<Run, String>> = OnceLock::new();

fn main() {
    let arguments = Arguments::from_args();
    let cache = Cache::open().unwrap_or_else(|error| panic!("{error}"));
    let missing = if arguments.list { None } else { no_machine(KERNEL, &cache) };
    let others = Transport::ALL.into_iter().filter(|(_, transport)| *transport != Transport::Plain);
    let trials = others.map(|(name, transport)| {
        ring::trial(name, missing.clone(), move || {
            let run = RESULTS.get_or_init(run).as_ref().map_err(Failed::from)?;
            if transport == Transport::Virtiofs {
                return over_virtiofs(&run.kernels);
            }
            over(&run.kernels, transport)
        })
    });
    ring::run(&arguments, trials.collect(), || match RESULTS.get() {
        Some(Ok(run)) => report::summary(run),
        _ => String::new(),
    });
}

fn run() -> Result<Run, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let cache = Cache::open().map_err(|error| text(&error))?;
    let cases = script::load(cases_dir()).map_err(|error| text(&error))?;
    let probes = probes(&Folder(cases_dir().to_path_buf())).map_err(|error| text(&error))?;
    let deviations = Deviations::load(cases_dir(), &cases).map_err(|error| text(&error))?;
    let spec = KernelSpec::Catalogue(KERNEL.into());
    let subject =
        Subject::prepare(&spec, Path::new(PROGRAM), &cache, &mut Lines).map_err(|error| text(&error))?;
    let plan = Plan {
        subjects: &[subject],
        transports: &Transport::ALL.map(|(_, transport)| transport),
        cases: &cases,
        probes: &probes,
        deviations: &deviations,
        rules: &Rules::default(),
        seed: 0,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let run = plan.run(&cache, &AtomicBool::new(false), &mut |_| {});
    let troubles: Vec<&str> = run.kernels.iter().filter_map(|kernel| kernel.trouble.as_deref()).collect();
    if troubles.is_empty() { Ok(run) } else { Err(troubles.join("\n")) }
}

/// The files of cases that are about virtio-fs, and what they say.
fn cases_about_it() -> Result<BTreeSet<(String, String)>, Failed> {
    let cases = script::load(cases_dir())?.into_iter().filter(|case| case.path.starts_with("virtiofs/"));
    Ok(cases.map(|case| (case.path, case.program.title)).collect())
}

/// Of a hundred cases that pass over the plain transport so many at least are run over virtio-fs, by the oracle's law if not by
/// their own.
const MOST_OVER_VIRTIOFS: usize = 60;

/// No case failed over virtio-fs, each that was skipped says why, and every request came by the queues.
fn over_virtiofs(results: &[KernelResult]) -> Result<(), Failed> {
    let named = |name: &str| results.iter().find(|result| result.name == name).ok_or("it was not run");
    let plain = named(KERNEL)?;
    let judged = named(&format!("{KERNEL}{}", Transport::Virtiofs.suffix()))?;
    let origin = Origin { cases: "cases".into(), again: "cargo run --release -- run".into() };
    let mark = transcript::mark(Transport::Virtiofs);
    let is_request = |line: &&str| line.strip_prefix("    ").is_some_and(|line| line.contains("> "));
    let elsewhere = |result: &CaseResult| {
        let line = result.transcript.lines().filter(is_request).find(|line| !line.ends_with(&mark))?;
        Some(format!("{}: a request came by something else:{line}", result.path))
    };
    let mut wrong: Vec<String> = Vec::new();
    for (plain, other) in plain.cases.iter().zip(&judged.cases) {
        wrong.extend(report::failure(&judged.name, other, &origin).or_else(|| elsewhere(other)));
        let Verdict::Skipped(reason) = &other.verdict else { continue };
        if !reason.starts_with("not over virtiofs: ") && plain.verdict != other.verdict {
            wrong.push(format!("{} was skipped for no reason of its own: {reason}", other.path));
        }
    }
    for (path, title) in cases_about_it()? {
        let belongs = |case: &&CaseResult| case.path.split('[').next() == Some(&path);
        let runs = [(judged.name.as_str(), judged.cases.iter().filter(belongs).collect())];
        observed::compare("built", &path, &title, &report::observed(&runs));
    }
    let (alone, of_its_own) = judged.cases.iter().partition::<Vec<_>, _>(|result| result.by_oracle);
    let shown = of_its_own.iter().filter(|result| result.path.starts_with("virtiofs/")).count();
    if judged.passed() * 100 < plain.passed() * MOST_OVER_VIRTIOFS || alone.is_empty() || shown == 0 {
        let (with, plain) = (judged.passed(), plain.passed());
        wrong.push(format!("only {with} cases passed, and {plain} plainly"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// No case failed over that transport, and each did what it does over the plain one.
fn over(results: &[KernelResult], transport: Transport) -> Result<(), Failed> {
    let of = |wanted: Transport| {
        let name = format!("{KERNEL}{}", wanted.suffix());
        results.iter().find(|result| result.name == name).ok_or("it was not run")
    };
    let (plain, judged) = (of(Transport::Plain)?, of(transport)?);
    let cases = script::load(cases_dir())?;
    if plain.cases.len() != cases.len() || judged.cases.len() != cases.len() {
        let (with, plain) = (judged.cases.len(), plain.cases.len());
        return Err(format!("of {} cases {with} were run, and {plain} plainly", cases.len()).into());
    }
    let origin = Origin { cases: "cases".into(), again: "cargo run --release -- run".into() };
    let wrong: Vec<String> = cases
        .iter()
        .zip(std::iter::zip(&plain.cases, &judged.cases))
        .filter_map(|(case, (plain, other))| {
            report::failure(&judged.name, other, &origin)
                .or_else(|| without_reason(case, plain, other))
                .or_else(|| difference(plain, other))
        })
        .collect();
    if !wrong.is_empty() {
        return Err(wrong.join("\n").into());
    }
    let possible = cases.iter().filter(|case| !dialects::is_about_one(&case.path)).count();
    if plain.passed() * 100 < possible * MOST || judged.passed() * 100 < plain.passed() * MOST_OF_THOSE {
        let (with, plain) = (judged.passed(), plain.passed());
        return Err(format!("of {possible} cases only {with} passed, and {plain} plainly").into());
    }
    Ok(())
}

/// A case that was skipped, though neither its file says that it cannot do with this transport nor the kernel lacks what
/// it needs, which is then so over the plain one, too.
fn without_reason(case: &Case, plain: &CaseResult, other: &CaseResult) -> Option<String> {
    let Verdict::Skipped(reason) = &other.verdict else { return None };
    let excluded = case.program.not.iter().any(|not| {
        not.transport == other.transport && *reason == format!("not over {}: {}", not.transport, not.reason)
    });
    let lacks = !case.program.needs.is_empty() && plain.verdict == other.verdict;
    let founded = case.name() == other.path && (excluded || lacks);
    (!founded).then(|| {
        format!("{} over {} was skipped for no reason of its own: {reason}", other.path, other.transport)
    })
}

/// Where a transcript is more than the plain one with a mark behind each request.
fn difference(plain: &CaseResult, other: &CaseResult) -> Option<String> {
    if matches!(other.verdict, Verdict::Skipped(_)) {
        return None;
    }
    // A case that mounts over io_uring does so over any transport.
    let chosen = transcript::mark(Transport::IoUring);
    let over = match plain.transcript.contains("daemon mount over=io_uring") {
        true => Transport::Plain,
        false => other.transport,
    };
    let wanted: Vec<String> = plain.transcript.lines().map(|line| marked(line, over)).collect();
    let either = |line: &str| match line.contains("> FORGET ") {
        true => line.trim_end_matches(&chosen).to_string(),
        false => line.to_string(),
    };
    let same = wanted.iter().map(|line| either(line)).eq(other.transcript.lines().map(either));
    (!same).then(|| {
        let name = format!("{} over {}", other.path, other.transport);
        format!("{name} did\n{}but was to do\n{}\n", other.transcript, wanted.join("\n"))
    })
}

/// A line of the plain transcript as it is to be over another transport.
fn marked(line: &str, over: Transport) -> String {
    // `    > OPEN "a" = ok`; other daemons than the first have their number before the `>`.
    let request = line.strip_prefix("    ").and_then(|line| line.split_once("> "));
    match request.and_then(|(_, request)| request.split(' ').next()) {
        // A ring that is filled by hand carries what it carries.
        Some(_) if line.ends_with(&transcript::mark(Transport::IoUring)) => line.to_string(),
        Some(opcode) if over != Transport::IoUring || !BY_DEVICE.contains(&opcode) => {
            line.to_string() + &transcript::mark(over)
        }
        _ => line.to_string(),
    }
}
