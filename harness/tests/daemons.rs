//! Daemons on trial: the honest one breaks no rule, and one that makes a mistake breaks exactly the rule that says so.
//!
//! They run on the running kernel, where it has passthrough and we are root.

mod ring;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use clap::ValueEnum;
use harness::daemon::trial::{Trial, Verdict, try_on};
use harness::daemon::{Fault, Launch, Mistake, Which};
use harness::rules::{self, Rules};
use harness::run::{Subject, probes};
use harness::script::{self, Case, Folder};
use libtest_mimic::{Arguments, Failed};
use nix::libc;
use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use ring::{Lines, PROGRAM, cases_dir};

/// How often the honest one has to be found so.
const TIMES: usize = 50;

/// A kernel whose machine has nothing but what is packed.
const GUEST: &str = "6.12";

fn main() {
    let arguments = Arguments::from_args();
    let missing = (!nix::unistd::geteuid().is_root()).then(|| "mounting needs root".to_string());
    let mut trials = vec![ring::trial("honest", missing.clone(), honest)];
    for mistake in Mistake::value_variants() {
        let name = mistake.to_possible_value().expect("each has a name").get_name().to_string();
        let found = move || breaks_one(*mistake);
        trials.push(ring::trial(&name, missing.clone(), found));
    }
    let cache = Cache::open().unwrap_or_else(|error| panic!("{error}"));
    let missing = if arguments.list { None } else { ring::no_machine(GUEST, &cache) };
    trials.push(ring::trial("honest-in-a-guest", missing, honest_in_a_guest));
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
    let cache = Cache::open().map_err(text)?;
    let probes = probes(&Folder(cases_dir().to_path_buf())).map_err(text)?;
    let files = [(Path::new(PROGRAM).to_path_buf(), PROGRAM.to_string())];
    let subject =
        Subject::prepare_for(kernel, Path::new(PROGRAM), &files, &cache, &mut Lines).map_err(text)?;
    let option = mistake.and_then(|mistake| mistake.to_possible_value());
    let option = option.map(|value| format!("--mistake={}", value.get_name()));
    let words = [PROGRAM, "specimen"].map(str::to_string).into_iter().chain(option);
    let command = words.chain(["{source}", "{mount}"].map(str::to_string)).collect();
    let refused = mistake.is_some_and(Mistake::needs_refusal);
    let faults = refused.then_some(Fault { which: Which::Nth(1), errno: libc::ENOMEM });
    let launch = Launch { command, faults: faults.into_iter().collect(), ..Launch::default() };
    try_on(&subject, &launch, workloads, &probes, &cache, &AtomicBool::new(false), &mut |_| {}).map_err(text)
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
    let many: Vec<Case> = workloads.iter().cycle().take(times * workloads.len()).cloned().collect();
    let trial = tried(kernel, None, &many)?;
    let failed = trial.workloads.iter().filter(|workload| workload.verdict != Verdict::Passed);
    let failed: Vec<_> = failed.map(|workload| (&workload.name, &workload.verdict)).collect();
    let broken = broken(&trial, &law()?)?;
    if failed.is_empty() && broken.is_empty() { Ok(()) } else { Err(text(format!("{broken:?} {failed:?}"))) }
}

fn breaks_one(mistake: Mistake) -> Result<(), Failed> {
    let broken = broken(&tried(&KernelSpec::Host, Some(mistake), &workloads()?)?, &law()?)?;
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
