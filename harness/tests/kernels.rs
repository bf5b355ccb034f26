//! Every case on real kernels: law from the case, observation from the snapshot.
//!
//! The cases run once, on all kernels, and are then judged file by file. A test passes if on no kernel the case
//! failed, and the transcripts are those of `snapshots/<the case's path>.snap`, which say what kernels did and which of
//! them behave alike. `fuseproof rules` takes them as the evidence that cases ran and passed.
//!
//! A new or changed transcript fails its test and is left beside the snapshot as `.snap.new`, to be looked at and accepted
//! one by one: `cargo insta review`, or without that tool `INSTA_UPDATE=always cargo test --release --test kernels
//! open_reply/backing-id-zero` for one case, and `git diff`.
//!
//! The examples of the manual, `cases/README.md`, are run as well, and judged by their law alone.
//!
//! Nothing here judges a step: that was done beside the kernel. A kernel that is not to be had is left out aloud;
//! the others are judged all the same, but not compared with snapshots, which are about all of them.

mod dialects;
mod observed;
mod ring;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use harness::program::Transport;
use harness::report::{self, Origin};
use harness::rules::Rules;
use harness::run::{CaseResult, Deviations, KernelResult, Plan, Run, Subject, probes};
use harness::script::{self, Case, Folder, ScriptError, Source};
use libtest_mimic::{Arguments, Failed};
use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use observed::compare;
use ring::{Lines, PROGRAM, cases_dir, no_machine};

/// The last kernel without passthrough, the default one, and the newest there is.
const KERNELS: [&str; 3] = ["6.1", "6.12", "7.3"];

/// What the manual's examples are called, all of them.
const MANUAL: &str = "README";

/// What came of the one run of all cases, made by the first test that asks.
static RESULTS: OnceLock<Result<Run, String>> = OnceLock::new();

fn main() {
    let arguments = Arguments::from_args();
    let cases = script::load(cases_dir()).unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
    let mut missing: BTreeMap<&str, String> = BTreeMap::new();
    if !arguments.list {
        let cache = Cache::open().unwrap_or_else(|error| panic!("{error}"));
        missing.extend(KERNELS.into_iter().filter_map(|name| Some((name, no_machine(name, &cache)?))));
    }
    let here: Vec<&str> = KERNELS.into_iter().filter(|name| !missing.contains_key(name)).collect();

    // A kernel that is left out is counted as an ignored test of its own.
    let mut trials = Vec::new();
    for name in KERNELS {
        let here = here.clone();
        trials.push(ring::trial(&format!("kernel/{name}"), missing.get(name).cloned(), move || {
            is_judged(results(&here)?, name)
        }));
    }
    let missing_all = here.is_empty().then(|| "no kernel to run it on".to_string());
    let manual = here.clone();
    trials.push(ring::trial("the manual's examples", missing_all.clone(), move || {
        law(results(&manual)?, MANUAL)
    }));
    let files: BTreeSet<String> = cases.into_iter().map(|case| case.path).collect();
    for path in files {
        let here = here.clone();
        let name = path.clone();
        trials.push(ring::trial(&name, missing_all.clone(), move || file(results(&here)?, &path)));
    }
    ring::run(&arguments, trials, || match RESULTS.get() {
        Some(Ok(run)) => report::summary(run),
        _ => String::new(),
    });
}

/// All cases on these kernels. Run once.
fn results(kernels: &[&str]) -> Result<&'static [KernelResult], Failed> {
    match RESULTS.get_or_init(|| judge(kernels)) {
        Ok(run) => Ok(&run.kernels),
        Err(error) => Err(error.into()),
    }
}

fn judge(kernels: &[&str]) -> Result<Run, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let cache = Cache::open().map_err(|error| text(&error))?;
    let mut cases = script::load(cases_dir()).map_err(|error| text(&error))?;
    cases.extend(manual().map_err(|error| text(&error))?);
    let probes = probes(&Folder(cases_dir().to_path_buf())).map_err(|error| text(&error))?;
    let prepare = |name: &&str| {
        let spec = KernelSpec::Catalogue((*name).to_string());
        Subject::prepare(&spec, Path::new(PROGRAM), &cache, &mut Lines)
    };
    let subjects: Vec<Subject> =
        kernels.iter().map(prepare).collect::<Result<_, _>>().map_err(|error| text(&error))?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let deviations = Deviations::load(cases_dir(), &cases).map_err(|error| text(&error))?;
    let rules = Rules::default();
    let plan = Plan {
        subjects: &subjects,
        transports: &[Transport::Plain],
        cases: &cases,
        probes: &probes,
        deviations: &deviations,
        rules: &rules,
        seed: 0,
        jobs,
    };
    let run = plan.run(&cache, &AtomicBool::new(false), &mut |_| {});
    let troubles: Vec<&str> = run.kernels.iter().filter_map(|kernel| kernel.trouble.as_deref()).collect();
    if troubles.is_empty() { Ok(run) } else { Err(troubles.join("\n")) }
}

/// The cases in the manual.
fn manual() -> Result<Vec<Case>, ScriptError> {
    let blocks = include_str!("../../cases/README.md").split("```case\n").skip(1);
    let cases = blocks.map(|rest| {
        let text = rest.split("```").next().unwrap_or_default().to_string();
        script::parse(&Source { path: format!("{MANUAL}.case"), text }, &Folder(cases_dir().to_path_buf()))
    });
    Ok(cases.collect::<Result<Vec<_>, _>>()?.concat())
}

/// The kernel answered for every case, did something in at least one, and can do what the oracle is told that it can.
fn is_judged(results: &[KernelResult], name: &str) -> Result<(), Failed> {
    let result = results.iter().find(|result| result.name == name).ok_or("it was not run")?;
    let cases = script::load(cases_dir())?.len() + manual()?.len();
    if result.cases.len() != cases {
        return Err(format!("{} of {cases} cases were run", result.cases.len()).into());
    }
    if result.passed() == 0 {
        return Err("not one case passed".into());
    }
    let known: BTreeMap<String, String> = toml::from_str(include_str!("profiles.toml"))?;
    let probed = result.profile.has.iter().cloned().collect::<Vec<_>>().join(" ");
    if known.get(name) != Some(&probed) {
        return Err(
            format!("its line in harness/tests/profiles.toml must be\n\"{name}\" = \"{probed}\"").into()
        );
    }
    Ok(())
}

/// One case file: law, then observation.
fn file(results: &[KernelResult], path: &str) -> Result<(), Failed> {
    law(results, path)?;
    let runs = of_file(results, path);
    if runs.len() == KERNELS.len() && !dialects::is_about_one(path) {
        let title = &runs[0].1.first().ok_or("it was not run")?.title;
        compare("snapshots", path, title, &report::observed(&runs));
    }
    Ok(())
}

/// No kernel deviated from what the file says.
fn law(results: &[KernelResult], path: &str) -> Result<(), Failed> {
    let origin = Origin { cases: "cases".into(), again: "cargo run --release -- run".into() };
    let runs = of_file(results, path);
    let all = runs.iter().flat_map(|(kernel, cases)| cases.iter().map(move |case| (kernel, case)));
    let failures: Vec<String> =
        all.filter_map(|(kernel, case)| report::failure(kernel, case, &origin)).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

/// What came of a file's variants on each kernel.
fn of_file<'a>(results: &'a [KernelResult], path: &str) -> Vec<(&'a str, Vec<&'a CaseResult>)> {
    let belongs = |case: &&CaseResult| case.path.split('[').next() == Some(path);
    results
        .iter()
        .map(|result| (result.name.as_str(), result.cases.iter().filter(belongs).collect()))
        .collect()
}
