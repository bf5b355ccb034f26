//! `fuseproof fuzz`: a campaign, and its figures as they come.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::ProgressBar;
use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use super::out::outln;
use super::progress::Lines;
use super::run::load;
use super::{Exit, cases_folder, coverage, own_program, trouble};
use crate::campaign::{self, Event, Figures, Folder, Plan, TARGETS, Target};

/// Without a terminal, the figures are told this often.
const EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A name from `fuseproof kernels list`, or the path of a kernel.
    #[arg(long, default_value = "kasan-7.2")]
    kernel: KernelSpec,
    /// What is fuzzed.
    #[arg(long, value_parser = target(), default_value = TARGETS[0].name)]
    target: Target,
    /// How long: 90s, 20m, 8h.
    #[arg(long, value_parser = time, default_value = "10m")]
    time: Duration,
    /// How many machines at once [default: as many as there are processors].
    #[arg(long)]
    jobs: Option<usize>,
    /// The seed of all choices [default: another one each time; it is told].
    #[arg(long)]
    seed: Option<u32>,
    /// The folder for corpus and findings.
    #[arg(long, default_value = "fuzzing")]
    folder: PathBuf,
    /// The folder of the cases, which are the first inputs.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Write the figures to a file: `json=PATH`.
    #[arg(long, value_name = "FORMAT=PATH", value_parser = report)]
    report: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What campaigns reached of a kernel: files, functions and lines, and what the last one changed.
    Coverage(coverage::Arguments),
}

fn target() -> impl TypedValueParser<Value = Target> {
    PossibleValuesParser::new(TARGETS.iter().map(|target| target.name))
        .map(|name| Target::named(&name).expect("it is one of them"))
}

/// A number with a unit.
fn time(text: &str) -> Result<Duration, String> {
    let mistake = || format!("`{text}` is no time: write 90s, 20m or 8h");
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(mistake()),
    };
    let number: u64 = number.parse().map_err(|_| mistake())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(mistake)
}

fn report(text: &str) -> Result<PathBuf, String> {
    text.strip_prefix("json=")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| format!("`{text}` is no report: write json=PATH"))
}

pub(super) fn fuzz(arguments: &Arguments) -> Exit {
    if let Some(Command::Coverage(arguments)) = &arguments.command {
        return coverage::coverage(arguments);
    }
    match run(arguments) {
        Ok(0) => Exit::Expected,
        Ok(_) => Exit::Deviation,
        Err(error) => trouble(&error),
    }
}

/// Gives the number of findings.
fn run(arguments: &Arguments) -> Result<usize, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let loaded = load(&cases_folder(arguments.cases.as_deref())).map_err(|error| text(&error))?;
    let target = arguments.target;
    let mut folder = Folder::open(&arguments.folder, target).map_err(|error| text(&error))?;
    for seed in loaded.cases.iter().flat_map(|case| (target.seeds)(&case.program)) {
        folder.keep(&seed).map_err(|error| text(&error))?;
    }
    let plan = Plan {
        kernel: arguments.kernel.clone(),
        target,
        time: arguments.time,
        jobs: arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into)),
        seed: arguments.seed.unwrap_or_else(|| fastrand::u32(1..)),
    };
    eprintln!("fuzzing {} on {} for {:?}, seed {}", plan.target.name, plan.kernel, plan.time, plan.seed);
    let cache = Cache::open().map_err(|error| text(&error))?;
    let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
    let mut told = Instant::now();
    let mut hear = |event: Event<'_>| match (event, &bar) {
        (Event::Found(finding), Some(bar)) => {
            bar.suspend(|| eprintln!("found {}: {}", finding.name, finding.why))
        }
        (Event::Found(finding), None) => eprintln!("found {}: {}", finding.name, finding.why),
        (Event::Figures(figures), Some(bar)) => bar.set_message(line(figures)),
        (Event::Figures(figures), None) if told.elapsed() >= EVERY => {
            told = Instant::now();
            eprintln!("{}", line(figures));
        }
        (Event::Figures(_), None) => {}
    };
    let program = own_program()?;
    let figures =
        campaign::run(&plan, &program, &loaded.probes, &cache, &mut folder, &mut Lines::default(), &mut hear)
            .map_err(|error| text(&error))?;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    outln!("{}", line(&figures));
    if let Some(path) = &arguments.report {
        let json = json(&plan, &figures);
        std::fs::write(path, json).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(figures.findings)
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

fn line(figures: &Figures) -> String {
    let rate = figures.execs as f64 / figures.seconds.max(0.001);
    format!(
        "{:.0} s: {} runs, {rate:.0}/s, {:.1} steps each, passthrough open {:.0}%, data {:.0}%, {} places, corpus {}, {} findings, {} restores",
        figures.seconds,
        figures.execs,
        share(figures.steps, figures.execs),
        100.0 * share(figures.opens, figures.execs),
        100.0 * share(figures.data, figures.execs),
        figures.places,
        figures.corpus,
        figures.findings,
        figures.restores,
    )
}

fn json(plan: &Plan, figures: &Figures) -> String {
    serde_json::json!({
        "target": plan.target.name,
        "kernel": plan.kernel.to_string(),
        "seed": plan.seed,
        "seconds": figures.seconds,
        "execs": figures.execs,
        "execs_per_second": figures.execs as f64 / figures.seconds.max(0.001),
        "coverage": figures.places,
        "passthrough_open_share": share(figures.opens, figures.execs),
        "data_share": share(figures.data, figures.execs),
        "findings": figures.findings,
    })
    .to_string()
}
