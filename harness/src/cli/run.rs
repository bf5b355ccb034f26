//! `fuseproof run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use super::messages::Messages;
use super::{Exit, Lines, cases_folder, own_program, trouble};
use crate::report::{Origin, Terminal, summary, write_json};
use crate::run::{Deviations, Event, KernelResult, Plan, Selection, Subject, Trouble, probes};
use crate::script::{self, Case, LoadError};

/// Run cases on kernels and judge them.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Run only cases whose name contains one of these.
    filter: Vec<String>,
    /// A name from `fuseproof kernels list`, the path of a kernel (bzImage, vmlinux, .deb, build tree), or `host` for
    /// the running one; may be repeated [default: 6.12].
    #[arg(long, value_name = "KERNEL")]
    kernel: Vec<KernelSpec>,
    /// Run only cases that rest on this rule (`OPEN-05`) or group of rules (`OPEN`); may be repeated.
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// Say which cases would run, and run none.
    #[arg(long)]
    list: bool,
    /// How many machines may be alive at once [default: one a processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Write a report, too.
    #[arg(long, value_name = "json=PATH", value_parser = parse_report)]
    report: Option<PathBuf>,
    /// The folder of the cases [default: `cases` here, or the project's].
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    messages: Messages,
}

fn parse_report(text: &str) -> Result<PathBuf, String> {
    match text.split_once('=') {
        Some(("json", path)) if !path.is_empty() => Ok(path.into()),
        _ => Err("expected json=PATH".into()),
    }
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let folder = cases_folder(arguments.cases.as_deref());
    let (all, probes) = match load(&folder) {
        Ok(loaded) => loaded,
        Err(error) => {
            arguments.messages.tell(error, &folder);
            return Exit::Usage;
        }
    };
    let selection = Selection { names: arguments.filter.clone(), rules: arguments.rule.clone() };
    let cases: Vec<Case> = all.iter().filter(|case| selection.includes(case)).cloned().collect();
    if cases.is_empty() {
        eprintln!("fuseproof: no case below {} fits; `fuseproof run --list` lists all", folder.display());
        return Exit::Usage;
    }
    if arguments.list {
        for case in &cases {
            println!("{:<60} {}", case.name(), case.program.title);
        }
        return Exit::Expected;
    }
    let deviations = match Deviations::load(&folder, &all) {
        Ok(deviations) => deviations,
        Err(error) => {
            eprintln!("fuseproof: {error}");
            return Exit::Usage;
        }
    };
    match judge(arguments, &cases, &probes, &deviations) {
        Ok((results, troubles)) => {
            print!("{}", summary(&results));
            if let Some(path) = &arguments.report
                && let Err(error) = write_json(&results, path)
            {
                return trouble(&format!("cannot write the report {}: {error}", path.display()));
            }
            for trouble in &troubles {
                eprintln!("fuseproof: {}: {}", subject_name(&results, trouble), trouble.error);
            }
            exit(&results, cases.len())
        }
        Err(error) => trouble(&error),
    }
}

/// The name of the kernel that there was trouble with.
fn subject_name<'a>(results: &'a [KernelResult], trouble: &Trouble) -> &'a str {
    results.get(trouble.subject).map_or("?", |result| result.name.as_str())
}

fn judge(
    arguments: &Arguments,
    cases: &[Case],
    probes: &[Case],
    deviations: &Deviations,
) -> Result<(Vec<KernelResult>, Vec<Trouble>), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let cache = Cache::open().map_err(|error| text(&error))?;
    let default = [KernelSpec::Catalogue(qemu::kernel::default_row().name.clone())];
    let specs = if arguments.kernel.is_empty() { &default[..] } else { &arguments.kernel };
    let program = own_program()?;
    let mut subjects = Vec::new();
    for spec in specs {
        subjects.push(Subject::prepare(spec, &program, &cache, &mut Lines).map_err(|error| text(&error))?);
    }
    let jobs = arguments.jobs.map(usize::from);
    let jobs = jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let mut terminal = Terminal::new((cases.len() * subjects.len()) as u64, origin(arguments));
    let plan = Plan { subjects: &subjects, cases, probes, deviations, jobs };
    let stop = stop_on_ctrl_c().map_err(|error| text(&error))?;
    let results = plan.run(&cache, &stop, &mut |Event::Case(kernel, result)| terminal.case(kernel, result));
    terminal.finish();
    Ok(results)
}

/// A kernel that could not be asked about every case is trouble, unless a deviation is known already.
fn exit(results: &[KernelResult], cases: usize) -> Exit {
    if results.iter().any(|result| result.failed() > 0) {
        Exit::Deviation
    } else if results.iter().any(|result| result.lost() > 0 || result.cases.len() < cases) {
        eprintln!("fuseproof: not every case was run to its end");
        Exit::Trouble
    } else {
        Exit::Expected
    }
}

/// The cases, and the probes, of a folder; all that is wrong with them otherwise.
fn load(folder: &Path) -> Result<(Vec<Case>, Vec<Case>), LoadError> {
    let cases = script::load(folder)?;
    let probes =
        probes(&script::Folder(folder.to_path_buf())).map_err(|error| LoadError::Wrong(vec![error]))?;
    Ok((cases, probes))
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

/// The first Ctrl-C lets cases in progress finish; the second ends the program at once, and the kernel ends our machines.
fn stop_on_ctrl_c() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if told.swap(true, Ordering::SeqCst) {
                eprintln!("fuseproof: left at once; machines end with this process, nothing else remains");
                std::process::exit(Exit::Trouble as i32);
            }
            eprintln!("fuseproof: stopping after the cases in progress; once more to leave at once");
        }
    });
    Ok(stop)
}
