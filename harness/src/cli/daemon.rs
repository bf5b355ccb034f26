//! `fuseproof daemon` and `fuseproof decode`: somebody else's daemon on trial, and what was recorded of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use super::files::write_whole;
use super::messages::Messages;
use super::out::{outln, print};
use super::progress::Lines;
use super::run::{CASES, load, stop_on_ctrl_c};
use super::{Exit, cases_folder, own_program, reports, trouble};
use crate::daemon::preset::presets;
use crate::daemon::trial::{Workload, try_on};
use crate::daemon::{Fault, Launch, Mistake, Which, decode as understand, trace};
use crate::exec;
use crate::program::flags::errno_number;
use crate::report::{self, State, Tried};
use crate::run::{Selection, Subject};
use crate::script::LoadError;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A name from `fuseproof kernels list`, the path of a kernel, or `host`; several times for several.
    #[arg(long, default_value = "host")]
    kernel: Vec<KernelSpec>,
    /// Only workloads whose name has this in it.
    #[arg(long, value_name = "FILTER")]
    case: Vec<String>,
    /// Refuse BACKING_OPEN in the kernel's place: `ENOMEM` each time, `ENOMEM@2` the second time.
    #[arg(long, value_name = "ERRNO[@N]", value_parser = fault)]
    refuse: Vec<Fault>,
    /// Run the daemon as this user and group: `1000` or `1000:1000`.
    #[arg(long, value_name = "UID[:GID]", value_parser = user)]
    user: Option<(u32, u32)>,
    /// Save the recording of each workload in this folder, for `fuseproof decode`.
    #[arg(long, value_name = "DIR")]
    save_trace: Option<PathBuf>,
    /// Write a report to a file: `html=PATH`, `json=PATH` or `junit=PATH`.
    #[arg(long, value_name = "FORMAT=PATH", value_parser = reports::parse::<Format>)]
    report: Vec<(Format, PathBuf)>,
    /// The folder of the cases.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// A daemon whose command is known: a name in `cases/daemon/presets.toml`.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    #[command(flatten)]
    messages: Messages,
    /// The daemon's command: `{source}` in it is the folder to show, `{mount}` is where. With --preset, its program, where that
    /// is not in $PATH, and more words for it.
    #[arg(last = true, required_unless_present = "preset", value_name = "COMMAND")]
    command: Vec<String>,
}

/// What a report may be.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// A page.
    Html,
    /// For programs: a list, of each kernel one.
    Json,
    /// For CI systems.
    Junit,
}

fn put(report: &[(Format, PathBuf)], trials: &[Tried]) -> Result<(), String> {
    for (format, path) in report {
        let text = match format {
            Format::Html => report::trials_html(trials).map_err(|error| error.to_string()),
            Format::Json => report::trials_json(trials).map_err(|error| error.to_string()),
            Format::Junit => report::trials_junit(trials).map_err(|error| error.to_string()),
        };
        reports::put(path, &text?)?;
    }
    Ok(())
}

/// `ENOMEM@2`.
fn fault(text: &str) -> Result<Fault, String> {
    let (name, nth) = text.split_once('@').map_or((text, None), |(name, nth)| (name, Some(nth)));
    let errno =
        errno_number(name).ok_or_else(|| format!("`{name}` is no errno: expected one such as ENOMEM"))?;
    let which = match nth.map(str::parse) {
        None => Which::Every,
        Some(Ok(nth @ 1..)) => Which::Nth(nth),
        Some(_) => return Err("expected a number from 1 on behind `@`".into()),
    };
    Ok(Fault { which, errno })
}

/// `1000:1000`.
fn user(text: &str) -> Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => Err("expected a user's number, such as 1000 or 1000:1000".into()),
    }
}

pub(super) fn daemon(arguments: &Arguments) -> Exit {
    match judged(arguments) {
        Ok(exit) => exit,
        Err(Wrong::Cases(error)) => {
            arguments.messages.tell(error, &cases_folder(arguments.cases.as_deref()));
            Exit::Usage
        }
        Err(Wrong::Usage(why)) => {
            eprintln!("fuseproof: {why}");
            Exit::Usage
        }
        Err(Wrong::Trouble(why)) => trouble(&why),
    }
}

enum Wrong {
    Cases(LoadError),
    Usage(String),
    Trouble(String),
}

fn in_the_way(error: impl std::fmt::Display) -> Wrong {
    Wrong::Trouble(error.to_string())
}

/// Where the workloads lie.
const WORKLOADS: &str = "daemon/";

fn judged(arguments: &Arguments) -> Result<Exit, Wrong> {
    let folder = cases_folder(arguments.cases.as_deref());
    let loaded = load(&folder).map_err(Wrong::Cases)?;
    let selection = Selection { names: arguments.case.clone(), rules: Vec::new() };
    let is_meant = |case: &crate::script::Case| case.path.starts_with(WORKLOADS) && selection.includes(case);
    let workloads: Vec<_> = loaded.cases.into_iter().filter(is_meant).collect();
    if workloads.is_empty() {
        return Err(Wrong::Usage(format!("no workload below {}/{WORKLOADS} fits", folder.display())));
    }
    let command = command(arguments, &folder).map_err(Wrong::Usage)?;
    let launch = Launch {
        command: whole(&command),
        user: arguments.user,
        faults: arguments.refuse.clone(),
        terminated: false,
    };
    let (cache, program) = (Cache::open().map_err(in_the_way)?, own_program().map_err(Wrong::Trouble)?);
    let stop = stop_on_ctrl_c(Exit::Trouble, CASES).map_err(in_the_way)?;
    let (packed, files) = packed(&launch.command);
    let mut worst = Exit::Expected;
    let mut trials = Vec::new();
    for kernel in &arguments.kernel {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let subject = Subject::prepare_for(kernel, &program, &files, &cache, &mut Lines::default())
            .map_err(in_the_way)?;
        let mut unsaved = None;
        let mut tell = |workload: &Workload, trace: &[u8]| {
            tell(workload);
            if let Some(folder) = arguments.save_trace.as_deref().filter(|_| !trace.is_empty()) {
                unsaved = unsaved.take().or(save(folder, &subject.name, &workload.name, trace).err());
            }
        };
        let launch = match kernel {
            KernelSpec::Host => launch.clone(),
            _ => Launch { command: packed.clone(), ..launch.clone() },
        };
        let trial = try_on(&subject, &launch, &workloads, &loaded.probes, &cache, &stop, &mut tell)
            .map_err(in_the_way)?;
        if let Some(why) = unsaved {
            return Err(Wrong::Trouble(why));
        }
        let tried = Tried::new(&trial, &command, launch.conditions(), &loaded.rules);
        print(report::trial(&tried)).map_err(Wrong::Trouble)?;
        let exit = if tried.unusable.is_some() || tried.workloads_that("lost") > 0 {
            Exit::Trouble
        } else if tried.count(State::Broken) > 0 || tried.workloads_that("failed") > 0 {
            Exit::Deviation
        } else {
            Exit::Expected
        };
        worst = if worst as u8 > exit as u8 { worst } else { exit };
        trials.push(tried);
    }
    put(&arguments.report, &trials).map_err(Wrong::Trouble)?;
    Ok(if stop.load(Ordering::SeqCst) { Exit::Trouble } else { worst })
}

/// What was given, or what a preset says.
fn command(arguments: &Arguments, cases: &Path) -> Result<Vec<String>, String> {
    let Some(name) = &arguments.preset else { return Ok(arguments.command.clone()) };
    let presets = presets(cases)?;
    let Some(preset) = presets.get(name) else {
        let known = presets.iter().map(|(name, preset)| format!("\n  {name}: {}", preset.about));
        return Err(format!(
            "there is no preset called {name}; these are known:{}",
            known.collect::<String>()
        ));
    };
    let command = preset.command(&arguments.command);
    match command.first() {
        Some(program) if arguments.command.is_empty() && found(program).is_none() => Err(format!(
            "{program} is not in $PATH: {}, or give its path: fuseproof daemon --preset {name} -- PATH",
            preset.get
        )),
        _ => Ok(command),
    }
}

/// A program is meant by its path, wherever the daemon is started.
fn whole(command: &[String]) -> Vec<String> {
    let mut command = command.to_vec();
    if let Some(program) = command.first_mut()
        && let Some(path) = found(program).and_then(|path| path.canonicalize().ok())
    {
        *program = path.to_string_lossy().into_owned();
    }
    command
}

/// The path of a program, which a name without a slash has in `$PATH`.
fn found(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The command as it is in a guest, and the files of it that have to be there: those that it names, away from where file
/// systems are mounted, and at its own place what mounts for a daemon that may not.
fn packed(command: &[String]) -> (Vec<String>, Vec<(PathBuf, String)>) {
    const HELPERS: [&str; 2] = ["/usr/bin/fusermount3", "/usr/bin/mount"];
    let mut files: Vec<(PathBuf, String)> = HELPERS
        .iter()
        .filter(|path| Path::new(path).is_file())
        .map(|path| (path.into(), path.to_string()))
        .collect();
    let mut command = command.to_vec();
    for (index, word) in command.iter_mut().enumerate() {
        let path = PathBuf::from(&*word);
        if path.is_absolute() && path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            *word = format!("/daemon/{index}/{name}");
            files.push((path, word.clone()));
        }
    }
    (command, files)
}

fn tell(workload: &Workload) {
    let (word, why) = workload.verdict.told();
    // Some of it is the daemon's own words.
    let why = why.map(|why| format!(": {}", report::on_one_line(why))).unwrap_or_default();
    eprintln!("{word:<8} {}{why}", workload.name);
}

fn save(folder: &Path, kernel: &str, workload: &str, trace: &[u8]) -> Result<(), String> {
    let path = folder.join(format!("{}-{}.trace", kernel.replace('/', "-"), workload.replace('/', "-")));
    std::fs::create_dir_all(folder)
        .and_then(|()| write_whole(&path, trace))
        .map_err(|error| format!("cannot save the recording {}: {error}", path.display()))
}

#[derive(Debug, clap::Args)]
pub(super) struct Compare {
    /// What `fuseproof daemon --report json=PATH` wrote, of each daemon one.
    #[arg(required = true, value_name = "JSON")]
    reports: Vec<PathBuf>,
    /// Write them side by side to a file: `html=PATH`, `json=PATH` or `junit=PATH`.
    #[arg(long, required = true, value_name = "FORMAT=PATH", value_parser = reports::parse::<Format>)]
    report: Vec<(Format, PathBuf)>,
}

pub(super) fn compare(arguments: &Compare) -> Exit {
    let mut trials = Vec::new();
    for path in &arguments.reports {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        match read.and_then(|text| report::read_trials(&text).map_err(|error| error.to_string())) {
            Ok(more) => trials.extend(more),
            Err(error) => {
                let path = path.display();
                eprintln!(
                    "fuseproof: {path} is no report of a daemon ({error}): name one that `fuseproof daemon --report json=PATH` wrote"
                );
                return Exit::Usage;
            }
        }
    }
    match put(&arguments.report, &trials) {
        Ok(()) => Exit::Expected,
        Err(error) => trouble(&error),
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Decode {
    /// A recording that `fuseproof daemon --save-trace` wrote.
    trace: PathBuf,
}

pub(super) fn decode(arguments: &Decode) -> Exit {
    let path = arguments.trace.display();
    let bytes = match std::fs::read(&arguments.trace) {
        Ok(bytes) => bytes,
        Err(error) => {
            eprintln!("fuseproof: cannot read {path} ({error}): name a recording");
            return Exit::Usage;
        }
    };
    let (events, error) = trace::parse_as_far(&bytes);
    let story = understand::decode(&events);
    for index in 0..story.deeds.len() {
        outln!("{}", report::on_one_line(&story.line(index)));
    }
    match error {
        None => Exit::Expected,
        Some(error) => {
            eprintln!("fuseproof: {path}: {error}");
            Exit::Usage
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Specimen {
    /// What it does wrong.
    #[arg(long)]
    mistake: Option<Mistake>,
    /// The folder to show.
    source: PathBuf,
    /// Where.
    mount: PathBuf,
}

pub(super) fn specimen(arguments: &Specimen) -> Exit {
    match exec::specimen(&arguments.source, &arguments.mount, arguments.mistake) {
        Ok(()) => Exit::Expected,
        Err(error) => {
            trouble(&format!("cannot serve {} ({error}): run it as root", arguments.mount.display()))
        }
    }
}
