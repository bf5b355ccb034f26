//! `fuseproof fuzz`: a campaign, and its figures as they come.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use super::out::outln;
use super::progress::Lines;
use super::run::load;
use super::{Exit, cases_folder, coverage, own_program, trouble};
use crate::campaign::{self, Event, Figures, Folder, HOST_TARGETS, HostPlan, Known, Plan, TARGETS, Target};
use crate::hostile;
use crate::script;

/// Without a terminal, the figures are told this often.
const EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A name from `fuseproof kernels list`, or the path of a kernel [default: kasan-7.2]. The targets script, wire and link run
    /// on this computer and take none.
    #[arg(long)]
    kernel: Option<KernelSpec>,
    /// What is fuzzed.
    #[arg(long, value_parser = targets(), default_value = TARGETS[0].name)]
    target: String,
    /// How long: 90s, 20m, 8h.
    #[arg(long, value_parser = time, default_value = "10m")]
    time: Duration,
    /// How many machines, or processes, at once [default: as many as there are processors].
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

/// On a kernel, and without one.
fn targets() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(
        TARGETS.iter().map(|target| target.name).chain(HOST_TARGETS.iter().copied()),
    )
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
    let is_here = HOST_TARGETS.contains(&arguments.target.as_str());
    if is_here && arguments.kernel.is_some() {
        eprintln!("fuseproof: the target {} runs without a kernel: leave --kernel out", arguments.target);
        return Exit::Usage;
    }
    match if is_here { run_here(arguments) } else { run(arguments) } {
        Ok(0) => Exit::Expected,
        Ok(_) => Exit::Deviation,
        Err(error) => trouble(&error),
    }
}

/// Gives the number of findings.
fn run(arguments: &Arguments) -> Result<usize, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let loaded = load(&cases_folder(arguments.cases.as_deref())).map_err(|error| text(&error))?;
    let target = Target::named(&arguments.target).ok_or("no such target")?;
    let known = Known::load(&cases_folder(arguments.cases.as_deref())).map_err(|error| text(&error))?;
    let mut folder = Folder::open(&arguments.folder, Some(target), known).map_err(|error| text(&error))?;
    for seed in loaded.cases.iter().flat_map(|case| (target.seeds)(&case.program)) {
        folder.keep(&seed).map_err(|error| text(&error))?;
    }
    let kernel = arguments.kernel.clone().map_or_else(|| "kasan-7.2".parse(), Ok);
    let plan = Plan {
        kernel: kernel.map_err(|error: <KernelSpec as std::str::FromStr>::Err| text(&error))?,
        target,
        time: arguments.time,
        jobs: arguments.jobs(),
        seed: arguments.seed(),
    };
    eprintln!("fuzzing {} on {} for {:?}, seed {}", plan.target.name, plan.kernel, plan.time, plan.seed);
    let cache = Cache::open().map_err(|error| text(&error))?;
    let mut teller = Teller::new(line);
    let program = own_program()?;
    let figures = campaign::run(
        &plan,
        &program,
        &loaded.probes,
        &cache,
        &mut folder,
        &mut Lines::default(),
        &mut |event| {
            teller.hear(event);
        },
    )
    .map_err(|error| text(&error))?;
    teller.end(&figures);
    let kernel = plan.kernel.to_string();
    arguments.write(
        &figures,
        plan.seed,
        serde_json::json!({
            "kernel": kernel,
            "passthrough_open_share": share(figures.opens, figures.execs),
            "data_share": share(figures.data, figures.execs),
        }),
    )?;
    Ok(figures.findings)
}

/// The same for a target that needs no kernel.
fn run_here(arguments: &Arguments) -> Result<usize, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let loaded = load(&cases_folder(arguments.cases.as_deref())).map_err(|error| text(&error))?;
    let known = Known::load(&cases_folder(arguments.cases.as_deref())).map_err(|error| text(&error))?;
    let mut folder = Folder::open(&arguments.folder, None, known).map_err(|error| text(&error))?;
    let programs: Vec<_> = loaded.cases.into_iter().map(|case| case.program).collect();
    let plan = HostPlan {
        target: arguments.target.clone(),
        time: arguments.time,
        jobs: arguments.jobs(),
        seed: arguments.seed(),
        seeds: hostile::seeds(&arguments.target, &programs),
        words: if arguments.target == "script" { script::vocabulary() } else { Vec::new() },
    };
    eprintln!("fuzzing {} on this computer for {:?}, seed {}", plan.target, plan.time, plan.seed);
    let mut teller = Teller::new(line_here);
    let figures =
        campaign::run_here(&plan, &mut folder, &mut Lines::default(), &mut |event| teller.hear(event))
            .map_err(|error| text(&error))?;
    teller.end(&figures);
    let none = serde_json::Value::Null;
    arguments.write(
        &figures,
        plan.seed,
        serde_json::json!({
            "kernel": none, "passthrough_open_share": none, "data_share": none,
        }),
    )?;
    Ok(figures.findings)
}

impl Arguments {
    fn jobs(&self) -> usize {
        self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into)).max(1)
    }

    fn seed(&self) -> u32 {
        self.seed.unwrap_or_else(|| fastrand::u32(1..))
    }

    /// Write the report, if one is asked for.
    fn write(&self, figures: &Figures, seed: u32, mut more: serde_json::Value) -> Result<(), String> {
        let Some(path) = &self.report else { return Ok(()) };
        more["target"] = self.target.as_str().into();
        more["seed"] = seed.into();
        more["seconds"] = figures.seconds.into();
        more["execs"] = figures.execs.into();
        more["execs_per_second"] = (figures.execs as f64 / figures.seconds.max(0.001)).into();
        more["coverage"] = figures.places.into();
        more["findings"] = figures.findings.into();
        more["known"] = figures.known.into();
        std::fs::write(path, more.to_string())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

/// Tells a campaign's figures and findings on standard error: a bar on a terminal, a line a minute in a log.
struct Teller {
    bar: Option<ProgressBar>,
    told: Instant,
    line: fn(&Figures) -> String,
}

impl Teller {
    fn new(line: fn(&Figures) -> String) -> Teller {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        Teller { bar, told: Instant::now(), line }
    }

    fn hear(&mut self, event: Event<'_>) {
        match (event, &self.bar) {
            (Event::Found(finding), _) => match &finding.known {
                Some(reason) => self.say(&format!("found {}, which is known: {reason}", finding.name)),
                None => self.say(&format!("found {}: {}", finding.name, finding.why)),
            },
            (Event::Replayed(finding), _) => {
                self.say(&format!("replayed {}: {}", finding.name, finding.rate))
            }
            (Event::Figures(figures), Some(bar)) => bar.set_message((self.line)(figures)),
            (Event::Figures(figures), None) if self.told.elapsed() >= EVERY => {
                self.told = Instant::now();
                eprintln!("{}", (self.line)(figures));
            }
            (Event::Figures(_), None) => {}
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn end(&self, figures: &Figures) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        outln!("{}", (self.line)(figures));
    }
}

fn line_here(figures: &Figures) -> String {
    let rate = figures.execs as f64 / figures.seconds.max(0.001);
    format!(
        "{:.0} s: {} runs, {rate:.0}/s, {} places, corpus {}, {} findings, {} restarts",
        figures.seconds, figures.execs, figures.places, figures.corpus, figures.findings, figures.restores,
    )
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

fn line(figures: &Figures) -> String {
    let rate = figures.execs as f64 / figures.seconds.max(0.001);
    format!(
        "{:.0} s: {} runs, {rate:.0}/s, {:.1} steps each, passthrough open {:.0}%, data {:.0}%, {} places, corpus {}, {} findings, {} known, {} restores",
        figures.seconds,
        figures.execs,
        share(figures.steps, figures.execs),
        100.0 * share(figures.opens, figures.execs),
        100.0 * share(figures.data, figures.execs),
        figures.places,
        figures.corpus,
        figures.findings,
        figures.known,
        figures.restores,
    )
}
