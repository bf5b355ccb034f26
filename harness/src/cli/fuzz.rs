//! `fuseproof fuzz`: a campaign, and its figures as they come.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qemu::cache::Cache;
use qemu::kernel::KernelSpec;
use qemu::kernel::build::Recipe;

use super::progress::Lines;
use super::run::{load, stop_on_ctrl_c};
use super::teller::Teller;
use super::{Exit, are_there, cases_folder, coverage, merge, own_program, trouble};
use crate::campaign::{
    self, Asked, Campaign, Event, Figures, Folder, HOST_TARGETS, HostCampaign, HostPlan, Known, Partition,
    Plan, TARGETS, Target,
};
use crate::hostile;
use crate::script;

/// It finds most.
const DEFAULT_KERNEL: &str = "kasan-7.2";
/// What a campaign finishes when it is ended.
const IN_PROGRESS: &str = "what is in progress";

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A name from `fuseproof kernels list`, or the path of a kernel [default: kasan-7.2]. The targets script, wire and link run
    /// on this computer and take none.
    #[arg(long)]
    kernel: Option<KernelSpec>,
    /// Patches on the kernel, applied in this order: it is built with them. For a recipe, such as kasan-7.2.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    patch: Vec<PathBuf>,
    /// What is fuzzed.
    #[arg(long, value_parser = targets(), default_value = TARGETS[0].name)]
    target: String,
    /// How long: 90s, 20m, 8h.
    #[arg(long, value_parser = time, default_value = "10m")]
    time: Duration,
    /// End as soon as something was found that is not known, and came again.
    #[arg(long)]
    until_found: bool,
    /// How many machines, or processes, at once [default: as many as there are processors].
    #[arg(long)]
    jobs: Option<usize>,
    /// The seed of all choices [default: another one each time; it is told].
    #[arg(long)]
    seed: Option<u32>,
    /// The folder for corpus and findings.
    #[arg(long, default_value = "fuzzing")]
    folder: PathBuf,
    /// Which of several campaigns this one is, from 1 on; `/N` takes the number from the environment [default: what Slurm,
    /// GitLab or Buildkite say there].
    #[arg(long, value_name = "M/N")]
    partition: Option<Asked>,
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
    /// Put what several folders have into one: inputs, findings, coverage and history. Done again, it changes nothing.
    Merge(merge::Arguments),
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
    match &arguments.command {
        Some(Command::Coverage(arguments)) => return coverage::coverage(arguments),
        Some(Command::Merge(arguments)) => return merge::merge_folders(arguments),
        None => {}
    }
    let is_here = HOST_TARGETS.contains(&arguments.target.as_str());
    if is_here && arguments.kernel.is_some() {
        eprintln!("fuseproof: the target {} runs without a kernel: leave --kernel out", arguments.target);
        return Exit::Usage;
    }
    let found = Partition::find(arguments.partition, &|name| std::env::var(name).ok());
    let (partition, from) = match found {
        Ok(found) => found,
        Err(error) => {
            eprintln!("fuseproof: {error}");
            return Exit::Usage;
        }
    };
    if let Some(from) = from {
        eprintln!("this is part {partition}, from {from}");
    }
    let ended = if is_here { run_here(arguments, partition) } else { run(arguments, partition) };
    ended.unwrap_or_else(|error| trouble(&error))
}

/// How a campaign has ended.
struct Ended {
    folder: Folder,
    was_stopped: bool,
    figures: Result<Figures, campaign::Error>,
}

impl Ended {
    /// Tell what came of it; `more` is for the report.
    fn tell(
        self,
        arguments: &Arguments,
        teller: &Teller,
        seed: u32,
        more: fn(&Figures) -> serde_json::Value,
    ) -> Exit {
        let unwritten = self.folder.unwritten();
        if !unwritten.is_nothing() {
            let (findings, files) = (unwritten.findings.len(), unwritten.files);
            eprintln!(
                "fuseproof: {findings} findings and {files} other files could not be written ({}): make room",
                unwritten.why
            );
        }
        // What was found is known only if it is told here.
        for name in &unwritten.findings {
            let text = |file| self.folder.text_of(name, file).unwrap_or_default();
            eprintln!("{name}, which is in no folder:\n{}\n{}", text("report.txt"), text("case"));
        }
        if self.was_stopped {
            eprintln!("fuseproof: the campaign was ended before its time");
        }
        let figures = match self.figures {
            Ok(figures) => figures,
            Err(error) => return trouble(&error),
        };
        teller.end(&figures);
        if let Err(error) = arguments.write(&figures, seed, more(&figures)) {
            return trouble(&error);
        }
        match (unwritten.findings.is_empty(), figures.findings, self.was_stopped) {
            (false, ..) => Exit::Trouble,
            (_, 1.., _) => Exit::Deviation,
            (_, _, true) => Exit::Trouble,
            _ => Exit::Expected,
        }
    }
}

fn run(arguments: &Arguments, partition: Partition) -> Result<Exit, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let loaded = load(&cases_folder(arguments.cases.as_deref())).map_err(|error| text(&error))?;
    let target = Target::named(&arguments.target).ok_or("no such target")?;
    let mut folder = arguments.open(Some(target), partition)?;
    for seed in loaded.cases.iter().flat_map(|case| target.inputs.seeds(&case.program)) {
        folder.keep(&seed);
    }
    let plan = Plan {
        kernel: arguments.patched_kernel()?,
        target,
        time: arguments.time,
        jobs: arguments.jobs(),
        seed: arguments.seed(),
        partition,
    };
    eprintln!("fuzzing {} on {} for {:?}, seed {}", plan.target.name, plan.kernel, plan.time, plan.seed);
    let cache = Cache::open().map_err(|error| text(&error))?;
    let program = own_program()?;
    let progress = &mut Lines::default();
    let campaign = Campaign::prepare(&plan, &program, &loaded.probes, &cache, &mut folder, progress)
        .map_err(|error| text(&error))?;
    // Up to here Ctrl-C ends the program at once, as nothing is lost.
    let stop = stop_on_ctrl_c(Exit::Trouble, IN_PROGRESS).map_err(|error| text(&error))?;
    let mut teller = Teller::new(plan.time, line);
    let mut is_found = false;
    let figures = campaign.run(&mut folder, &stop, &mut |event| {
        is_found |= arguments.until_found && is_enough(&event);
        teller.hear(event);
        if is_found {
            stop.store(true, Ordering::SeqCst);
        }
    });
    let ended = Ended { folder, was_stopped: stop.load(Ordering::SeqCst) && !is_found, figures };
    Ok(ended.tell(arguments, &teller, plan.seed, |figures| {
        serde_json::json!({
            "passthrough_open_share": share(figures.opens, figures.execs),
            "data_share": share(figures.data, figures.execs),
        })
    }))
}

/// Was something found that came again?
fn is_enough(event: &Event<'_>) -> bool {
    matches!(event, Event::Replayed(finding) if finding.rate.input.is_some_and(|rate| rate.part > 0))
}

/// The same for a target that needs no kernel.
fn run_here(arguments: &Arguments, partition: Partition) -> Result<Exit, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let loaded = load(&cases_folder(arguments.cases.as_deref())).map_err(|error| text(&error))?;
    let mut folder = arguments.open(None, partition)?;
    let programs: Vec<_> = loaded.cases.into_iter().map(|case| case.program).collect();
    let plan = HostPlan {
        target: arguments.target.clone(),
        time: arguments.time,
        jobs: arguments.jobs(),
        seed: arguments.seed(),
        partition,
        seeds: hostile::seeds(&arguments.target, &programs),
        words: if arguments.target == "script" { script::vocabulary() } else { Vec::new() },
    };
    eprintln!("fuzzing {} on this computer for {:?}, seed {}", plan.target, plan.time, plan.seed);
    let campaign = HostCampaign::prepare(&plan, &mut Lines::default()).map_err(|error| text(&error))?;
    let stop = stop_on_ctrl_c(Exit::Trouble, IN_PROGRESS).map_err(|error| text(&error))?;
    let mut teller = Teller::new(plan.time, line_here);
    let figures = campaign.run(&mut folder, &stop, &mut |event| teller.hear(event));
    let ended = Ended { folder, was_stopped: stop.load(Ordering::SeqCst), figures };
    Ok(ended.tell(
        arguments,
        &teller,
        plan.seed,
        |_| serde_json::json!({ "passthrough_open_share": null, "data_share": null }),
    ))
}

impl Arguments {
    fn open(&self, target: Option<Target>, partition: Partition) -> Result<Folder, String> {
        let known = Known::load(&cases_folder(self.cases.as_deref())).map_err(|error| error.to_string())?;
        Folder::open(&self.folder, target, known, partition).map_err(|error| error.to_string())
    }

    fn kernel(&self) -> KernelSpec {
        self.kernel.clone().unwrap_or_else(|| DEFAULT_KERNEL.parse().expect("a flavour of ours"))
    }

    fn patched_kernel(&self) -> Result<KernelSpec, String> {
        match self.kernel() {
            KernelSpec::Built(recipe) if !self.patch.is_empty() => {
                are_there(&self.patch)?;
                Ok(KernelSpec::Built(Box::new(Recipe { patches: self.patch.clone(), ..*recipe })))
            }
            kernel if self.patch.is_empty() => Ok(kernel),
            kernel => Err(format!("{kernel} is not built here: patches go on a recipe, such as kasan-7.2")),
        }
    }

    fn jobs(&self) -> usize {
        self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into)).max(1)
    }

    fn seed(&self) -> u32 {
        self.seed.unwrap_or_else(|| fastrand::u32(1..))
    }

    /// Write the report, if one is asked for.
    fn write(&self, figures: &Figures, seed: u32, mut more: serde_json::Value) -> Result<(), String> {
        let Some(path) = &self.report else { return Ok(()) };
        let is_here = HOST_TARGETS.contains(&self.target.as_str());
        more["kernel"] = if is_here { None } else { Some(self.patched_kernel()?.to_string()) }.into();
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

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

fn line_here(figures: &Figures) -> String {
    let Figures { places, corpus, findings, known, restores, .. } = figures;
    format!(
        "{}, {places} places, corpus {corpus}, {findings} findings, {known} known, {restores} restarts",
        pace(figures)
    )
}

fn line(figures: &Figures) -> String {
    let Figures { places, corpus, findings, known, restores, .. } = figures;
    format!(
        "{}, {places} places, corpus {corpus}, {findings} findings, {known} known, {restores} restores, {:.1} steps each, passthrough open {:.0}%, data {:.0}%",
        pace(figures),
        share(figures.steps, figures.execs),
        100.0 * share(figures.opens, figures.execs),
        100.0 * share(figures.data, figures.execs),
    )
}

/// How long, how many, and how fast.
fn pace(figures: &Figures) -> String {
    let Figures { seconds, execs, rate, .. } = figures;
    format!(
        "{seconds:.0} s: {execs} runs, {rate:.0}/s now, {:.0}/s overall",
        *execs as f64 / seconds.max(0.001)
    )
}
