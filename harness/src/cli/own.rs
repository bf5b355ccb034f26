//! `fuseproof bench --self`: what the suite itself costs, on each of the kernels.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qemu::cache::Cache;
use qemu::kernel::KernelSpec;
use qemu::progress::Progress as _;

use super::out::print;
use super::progress::Lines;
use super::run::{load, stop_on_ctrl_c};
use super::{Exit, cases_folder, own_program, reports};
use crate::bench::{Cost, Own};
use crate::campaign::{Campaign, Event, Folder, Known, Partition, Plan, Target};
use crate::report;
use crate::run::OwnPlan;
use crate::script::Case;

/// What runs on several machines: these cases wait for nothing.
const MANY: &str = "open_reply/";
/// How long a target is fuzzed, ...
const FUZZED: Duration = Duration::from_secs(40);
/// ... and how much of that its first inputs take.
const AT_FIRST: f64 = 20.0;
/// Inputs are counted so many seconds long.
const WINDOW: f64 = 3.0;
/// The targets whose rates are told.
const RATES: [(&str, &str); 2] = [("raw_write", "an input of raw messages"), ("sequence", "a program")];

/// Measure on each kernel, tell, and write `json`.
pub(super) fn own(kernels: &[KernelSpec], rounds: u32, json: &[&Path]) -> Result<Exit, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let folder = cases_folder(None);
    let loaded = load(&folder).map_err(|error| text(&error))?;
    let cases: Vec<Case> = loaded.cases.iter().filter(|case| case.path.starts_with(MANY)).cloned().collect();
    let cache = Cache::open().map_err(|error| text(&error))?;
    let (program, lines) = (own_program()?, &mut Lines::default());
    let stop = stop_on_ctrl_c(Exit::Trouble, "the turn in progress").map_err(|error| text(&error))?;
    let jobs = std::thread::available_parallelism().map_or(1, Into::into);
    let mut all = Vec::new();
    let mut troubles = Vec::new();
    for spec in kernels {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let plan = OwnPlan { spec, program: &program, probes: &loaded.probes, cases: &cases, jobs, rounds };
        // The others are measured all the same.
        let mut own = match plan.measure(&cache, &stop, lines) {
            Ok(own) => own,
            Err(error) => {
                troubles.push(format!("{spec}: {error}"));
                continue;
            }
        };
        lines.done();
        let rates = if matches!(spec, KernelSpec::Host) { &[] } else { RATES.as_slice() };
        if rates.is_empty() {
            eprintln!("fuseproof: nothing is fuzzed on the running kernel, which one wants to keep");
        }
        for (name, what) in rates {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            match rate(spec, name, &program, &loaded, &cache, &stop) {
                Ok(nanos) => own.costs.push(fuzzed(name, what, nanos, &own)),
                Err(why) => own.troubles.push(format!("{name}: {why}")),
            }
        }
        all.push(own);
    }
    let written =
        json.iter().map(|path| reports::put(path, &report::own_json(&all).map_err(|error| text(&error))?));
    let written = written.fold(Ok(()), Result::and);
    print(report::own(&all)).and(written)?;
    troubles.iter().for_each(|why| eprintln!("fuseproof: not measured: {}", report::on_one_line(why)));
    let is_whole = troubles.is_empty() && all.iter().all(|own| own.troubles.is_empty());
    Ok(if is_whole && !stop.load(Ordering::SeqCst) { Exit::Expected } else { Exit::Trouble })
}

/// Raw messages cannot be faster than those that nobody chose.
fn fuzzed(name: &'static str, what: &str, nanos: Vec<u64>, own: &Own) -> Cost {
    let cost = Cost::of(name, what, nanos);
    match own.costs.iter().find(|cost| cost.name == "message") {
        Some(message) if name == "raw_write" => cost.beside(message.what.clone(), message.nanos.clone()),
        _ => cost,
    }
}

/// How long one input of a target takes, window by window, when its first ones were run.
fn rate(
    spec: &KernelSpec,
    name: &str,
    program: &Path,
    loaded: &super::run::Loaded,
    cache: &Cache,
    stop: &AtomicBool,
) -> Result<Vec<u64>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let target = Target::named(name).ok_or("no such target")?;
    let place = tempfile::tempdir().map_err(|error| text(&error))?;
    let mut folder = Folder::open(place.path(), Some(target), Known::default(), Partition::WHOLE)
        .map_err(|error| text(&error))?;
    for seed in loaded.cases.iter().flat_map(|case| target.inputs.seeds(&case.program)) {
        folder.keep(&seed);
    }
    let kernel = spec.clone();
    let plan = Plan { kernel, target, time: FUZZED, jobs: 1, seed: 0, partition: Partition::WHOLE };
    let lines = &mut Lines::default();
    let campaign = Campaign::prepare(&plan, program, &loaded.probes, cache, &mut folder, lines)
        .map_err(|error| text(&error))?;
    let mut counted: Vec<(f64, u64)> = Vec::new();
    campaign
        .run(&mut folder, stop, &mut |event| {
            let last = counted.last().map_or(AT_FIRST, |(seconds, _)| seconds + WINDOW);
            if let Event::Figures(figures) = event
                && (last..=FUZZED.as_secs_f64()).contains(&figures.seconds)
            {
                counted.push((figures.seconds, figures.execs));
            }
        })
        .map_err(|error| text(&error))?;
    let found: Vec<&str> = folder.findings().keys().map(String::as_str).collect();
    if !found.is_empty() {
        return Err(format!("it found {}: `fuseproof fuzz` tells more", found.join(", ")));
    }
    let each = |pair: &[(f64, u64)]| {
        let (seconds, execs) = (pair[1].0 - pair[0].0, pair[1].1.saturating_sub(pair[0].1));
        (execs > 0).then(|| (seconds * 1e9 / execs as f64) as u64)
    };
    Ok(counted.windows(2).filter_map(each).collect())
}
