//! `fuseproof run`.

use std::borrow::Cow;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use qemu::cache::Cache;
use qemu::kernel::{KernelSpec, catalogue};

use super::files::Saved;
use super::messages::Messages;
use super::out::{outln, print};
use super::progress::Lines;
use super::{Exit, cases_folder, own_program, reports, trouble};
use crate::program::Transport;
use crate::report::{Origin, Terminal, html, json, junit, ktap, on_one_line, summary};
use crate::rules::{self, Rules};
use crate::run::{Deviations, Event, Plan, Run, Selection, Subject, probes};
use crate::script::{self, Case, LoadError};

/// Run cases on kernels and judge them.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Run only cases whose name contains one of these.
    filter: Vec<String>,
    /// A name from `fuseproof kernels list`, or `all` of them, the path of a kernel (bzImage, vmlinux, .deb, build
    /// tree), or `host` for the running one; may be repeated [default: 6.12].
    #[arg(long, value_name = "KERNEL", value_parser = parse_kernels)]
    kernel: Vec<Vec<KernelSpec>>,
    /// What carries requests and replies between kernel and daemon; may be repeated [default: plain].
    #[arg(long, value_name = "TRANSPORT", value_parser = PossibleValuesParser::new(transport_names()))]
    transport: Vec<String>,
    /// Run only cases that rest on this rule (`OPEN-05`) or group of rules (`OPEN`); may be repeated.
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// Say which cases would run, and run none.
    #[arg(long)]
    list: bool,
    /// How many machines may be alive at once [default: one a processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Where the delays of cases about races come from.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write a report, too: `json`, `junit` (XML), `ktap` or `html` (one page); may be repeated.
    #[arg(long, value_name = "KIND=PATH", value_parser = reports::parse::<Kind>)]
    report: Vec<(Kind, PathBuf)>,
    /// Keep what happened, and its page, in this folder, for `fuseproof diff`; an earlier run kept there is replaced.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// The folder of the cases [default: `cases` here, or the project's].
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    messages: Messages,
}

/// Stands for every transport.
const ALL: &str = "all";

fn transport_names() -> impl Iterator<Item = &'static str> {
    Transport::ALL.into_iter().map(|(name, _)| name).chain([ALL])
}

/// The transports that were asked for, each once.
fn transports(names: &[String]) -> Vec<Transport> {
    let wanted = |name: &str| names.iter().any(|given| given == name || given == ALL);
    let mut transports: Vec<_> =
        Transport::ALL.into_iter().filter(|(name, _)| wanted(name)).map(|(_, transport)| transport).collect();
    if transports.is_empty() {
        transports.push(Transport::default());
    }
    transports
}

fn parse_kernels(text: &str) -> Result<Vec<KernelSpec>, qemu::kernel::Error> {
    if text == "all" {
        return Ok(catalogue().iter().map(|row| KernelSpec::Catalogue(row.name.clone())).collect());
    }
    text.parse().map(|spec| vec![spec])
}

/// What a report is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Json,
    Junit,
    Ktap,
    Html,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let folder = cases_folder(arguments.cases.as_deref());
    let loaded = match load(&folder) {
        Ok(loaded) => loaded,
        Err(error) => {
            arguments.messages.tell(error, &folder);
            return Exit::Usage;
        }
    };
    let cases = match loaded.select(&folder, &arguments.filter, &arguments.rule) {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("fuseproof: {error}");
            return Exit::Usage;
        }
    };
    if arguments.list {
        for case in &cases {
            outln!("{:<60} {}", case.name(), case.program.title);
        }
        return Exit::Expected;
    }
    let deviations = match Deviations::load(&folder, &loaded.cases) {
        Ok(deviations) => deviations,
        Err(error) => {
            eprintln!("fuseproof: {error}");
            return Exit::Usage;
        }
    };
    // Found out before the run, which may take long.
    let saved = match arguments.save.as_deref().map(Saved::at).transpose() {
        Ok(saved) => saved,
        Err(error) => {
            eprintln!("fuseproof: {error}");
            return Exit::Usage;
        }
    };
    match judge(arguments, &cases, &loaded.probes, &deviations, &loaded.rules) {
        Ok((run, events)) => {
            let written = write(arguments, saved.as_ref(), &run, &events);
            let shown = print(summary(&run)).map_err(Into::into);
            for kernel in &run.kernels {
                if let Some(why) = &kernel.trouble {
                    eprintln!("fuseproof: {}: {}", kernel.name, on_one_line(why));
                }
            }
            match written.and(shown) {
                Ok(()) => exit(&run),
                // What was found out about a kernel counts for more than what could not be told of it.
                Err(error) => match (trouble(&error), exit(&run)) {
                    (trouble, Exit::Expected) => trouble,
                    (_, exit) => exit,
                },
            }
        }
        Err(error) => trouble(&error),
    }
}

fn write(
    arguments: &Arguments,
    saved: Option<&Saved>,
    run: &Run,
    events: &[Event],
) -> Result<(), Box<dyn Error>> {
    let origin = origin(arguments);
    let wants_page = saved.is_some() || arguments.report.iter().any(|(kind, _)| matches!(kind, Kind::Html));
    let page = if wants_page { html(run, &origin)? } else { String::new() };
    for (kind, path) in &arguments.report {
        let text = match kind {
            Kind::Json => Cow::Owned(json(run)?),
            Kind::Junit => Cow::Owned(junit(run, &origin)?),
            Kind::Ktap => Cow::Owned(ktap(run, &origin)),
            Kind::Html => Cow::Borrowed(page.as_str()),
        };
        reports::put(path, &text)?;
    }
    match saved {
        Some(saved) => saved.write(events, &page),
        None => Ok(()),
    }
}

fn judge(
    arguments: &Arguments,
    cases: &[Case],
    probes: &[Case],
    deviations: &Deviations,
    rules: &Rules,
) -> Result<(Run, Vec<Event>), Box<dyn Error>> {
    let cache = Cache::open()?;
    let program = own_program()?;
    let subjects = kernels(arguments).into_iter().map(|spec| {
        // The others are run all the same.
        Subject::prepare(&spec, &program, &cache, &mut Lines::default())
            .unwrap_or_else(|error| Subject::unavailable(&spec, &program, &error))
    });
    let subjects: Vec<Subject> = subjects.collect();
    let jobs = jobs(arguments.jobs);
    let mut terminal = Terminal::new(origin(arguments));
    let mut events = Vec::new();
    let transports = transports(&arguments.transport);
    let plan = Plan {
        subjects: &subjects,
        transports: &transports,
        cases,
        probes,
        deviations,
        rules,
        seed: arguments.seed,
        jobs,
    };
    let stop = stop_on_ctrl_c(Exit::Trouble, CASES)?;
    let run = plan.run(&cache, &stop, &mut |event| {
        terminal.hear(event);
        events.push(event.clone());
    });
    drop(terminal);
    Ok((run, events))
}

/// How many machines may be alive at once.
pub(super) fn jobs(asked: Option<u16>) -> usize {
    let processors = || std::thread::available_parallelism().ok().map(usize::from);
    asked.map(usize::from).or_else(processors).unwrap_or(1)
}

/// Each kernel that was asked for, once.
fn kernels(arguments: &Arguments) -> Vec<KernelSpec> {
    let mut specs: Vec<KernelSpec> = Vec::new();
    for spec in arguments.kernel.iter().flatten() {
        if !specs.contains(spec) {
            specs.push(spec.clone());
        }
    }
    if specs.is_empty() {
        specs.push(KernelSpec::Catalogue(qemu::kernel::default_row().name.clone()));
    }
    specs
}

/// A kernel that could not be asked about every case is trouble, unless a deviation is known already.
pub(super) fn exit(run: &Run) -> Exit {
    if run.kernels.iter().any(|result| result.failed() > 0) {
        Exit::Deviation
    } else if run.kernels.iter().any(|result| result.lost() > 0 || result.cases.len() < run.cases.len()) {
        eprintln!("fuseproof: not every case was run to its end");
        Exit::Trouble
    } else {
        Exit::Expected
    }
}

/// What a folder of cases holds.
pub(super) struct Loaded {
    pub(super) cases: Vec<Case>,
    pub(super) probes: Vec<Case>,
    pub(super) rules: Rules,
}

impl Loaded {
    /// The cases whose name contains one of `names` and that rest on one of `rules`; at least one.
    pub(super) fn select(
        &self,
        folder: &Path,
        names: &[String],
        rules: &[String],
    ) -> Result<Vec<Case>, String> {
        let selection = Selection { names: names.to_vec(), rules: rules.to_vec() };
        let cases: Vec<Case> = self.cases.iter().filter(|case| selection.includes(case)).cloned().collect();
        if cases.is_empty() {
            return Err(format!("no case below {} fits; `fuseproof run --list` lists all", folder.display()));
        }
        Ok(cases)
    }
}

/// The cases, the probes and the law of a folder; all that is wrong with them otherwise.
pub(super) fn load(folder: &Path) -> Result<Loaded, LoadError> {
    let cases = script::load(folder)?;
    let probes =
        probes(&script::Folder(folder.to_path_buf())).map_err(|error| LoadError::Wrong(vec![error]))?;
    // Cases of one's own need no law of one's own.
    let rules = if folder.join("rules").is_dir() { rules::load(folder)? } else { Rules::default() };
    Ok(Loaded { cases, probes, rules })
}

/// What a failure says of how this program was called.
fn origin(arguments: &Arguments) -> Origin {
    let mut again = String::from(if std::env::var_os("CARGO").is_some() {
        "cargo run --release --"
    } else {
        "fuseproof"
    });
    again.push_str(" run");
    if let Some(folder) = &arguments.cases {
        again.push_str(&format!(" --cases {}", folder.display()));
    }
    Origin { cases: cases_folder(arguments.cases.as_deref()), again }
}

/// The first Ctrl-C lets what is in progress finish, such as cases; the second ends the program at once, with the
/// exit code `left`, and the kernel ends our machines.
pub(super) fn stop_on_ctrl_c(left: Exit, in_progress: &'static str) -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if told.swap(true, Ordering::SeqCst) {
                eprintln!("fuseproof: left at once; machines end with this process, nothing else remains");
                std::process::exit(left as i32);
            }
            eprintln!("fuseproof: stopping after {in_progress}; once more to leave at once");
        }
    });
    Ok(stop)
}

/// What `fuseproof run` and its like finish.
pub(super) const CASES: &str = "the cases in progress";
