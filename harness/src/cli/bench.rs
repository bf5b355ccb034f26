//! `fuseproof bench`: what passthrough buys.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use qemu::cache::Cache;
use qemu::kernel::KernelSpec;
use qemu::progress::Progress as _;

use super::out::print;
use super::progress::Lines;
use super::run::stop_on_ctrl_c;
use super::{Exit, own_program, reports, trouble};
use crate::bench::{Bench, Job, Kernel, Lower, Measured, Point, Row, Told, rows};
use crate::report;
use crate::run::{Session, Subject};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A name from `fuseproof kernels list`, the path of a kernel, or `host`; several times for several.
    #[arg(long, default_value = "6.12")]
    kernel: Vec<KernelSpec>,
    /// Only rows whose name has this in it; may be repeated.
    #[arg(long, value_name = "FILTER")]
    row: Vec<String>,
    /// Measure the suite itself instead: boots, restored machines, cases and fuzz targets.
    #[arg(long = "self", conflicts_with = "row")]
    own: bool,
    /// How many turns each way of doing a row's work has; of fewer than six, no direction is told.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(2..=100))]
    rounds: u32,
    /// Where the order of turns, and places in files, come from.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write a report to a file: `html=PATH` (one page), `json=PATH` or `csv=PATH`; may be repeated.
    #[arg(long, value_name = "KIND=PATH", value_parser = reports::parse::<Kind>)]
    report: Vec<(Kind, PathBuf)>,
}

/// What a report may be.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// A page.
    Html,
    /// For programs, with the times of each round.
    Json,
    /// For spreadsheets.
    Csv,
}

pub(super) fn bench(arguments: &Arguments) -> Exit {
    if arguments.own {
        return own(arguments);
    }
    let all = rows();
    let is_meant = |row: &Row| {
        arguments.row.is_empty() || arguments.row.iter().any(|filter| row.name.contains(filter.as_str()))
    };
    let wanted: Vec<Row> = all.iter().filter(|row| is_meant(row)).cloned().collect();
    if wanted.is_empty() {
        let names: Vec<_> = all.iter().map(|row| format!("\n  {}", row.name)).collect();
        eprintln!("fuseproof: no row fits; these are known:{}", names.concat());
        return Exit::Usage;
    }
    match measured(arguments, &wanted) {
        Ok(exit) => exit,
        Err(why) => trouble(&why),
    }
}

fn own(arguments: &Arguments) -> Exit {
    if arguments.report.iter().any(|(kind, _)| !matches!(kind, Kind::Json)) {
        eprintln!("fuseproof: what the suite itself costs is told as json: write json=PATH");
        return Exit::Usage;
    }
    let json: Vec<&Path> = arguments.report.iter().map(|(_, path)| path.as_path()).collect();
    super::own::own(&arguments.kernel, arguments.rounds, &json).unwrap_or_else(|why| trouble(&why))
}

fn measured(arguments: &Arguments, rows: &[Row]) -> Result<Exit, String> {
    let in_the_way = |error: &dyn std::fmt::Display| error.to_string();
    let (cache, program) = (Cache::open().map_err(|error| in_the_way(&error))?, own_program()?);
    let stop = stop_on_ctrl_c(Exit::Trouble, "the turn in progress").map_err(|error| in_the_way(&error))?;
    let mut bench = Bench { rounds: arguments.rounds, seed: arguments.seed, kernels: Vec::new() };
    for spec in &arguments.kernel {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        // The others are measured all the same.
        let subject = Subject::prepare(spec, &program, &cache, &mut Lines::default())
            .unwrap_or_else(|error| Subject::unavailable(spec, &program, &error));
        bench.kernels.push(on_kernel(&subject, rows, arguments, &stop));
    }
    // What took minutes is not lost with one of the places that it is to be put in.
    let written = arguments.report.iter().map(|(kind, path)| {
        let text = match kind {
            Kind::Html => report::bench_html(&bench).map_err(|error| in_the_way(&error)),
            Kind::Json => report::bench_json(&bench).map_err(|error| in_the_way(&error)),
            Kind::Csv => report::bench_csv(&bench).map_err(|error| in_the_way(&error)),
        };
        reports::put(path, &text?)
    });
    let written = written.fold(Ok(()), Result::and);
    print(report::bench(&bench)).and(written)?;
    let is_whole = bench.kernels.iter().all(|kernel| kernel.troubles.is_empty());
    Ok(if is_whole && !stop.load(Ordering::SeqCst) { Exit::Expected } else { Exit::Trouble })
}

/// Measure what can be measured there, and say what cannot.
fn on_kernel(subject: &Subject, rows: &[Row], arguments: &Arguments, stop: &AtomicBool) -> Kernel {
    let mut kernel = Kernel::new(subject.name.clone());
    let mut lines = Lines::default();
    let jobs = jobs(rows, arguments);
    let all: u64 = jobs.iter().map(|(.., job)| turns(job)).sum();
    let (mut done, mut session) = (0, None);
    for (row, point, job) in jobs {
        let what = format!("{} on {}, {}", row.name, job.lower, subject.name);
        // After trouble with a job, the next one has a fresh agent.
        let mut own = match session.take().map_or_else(|| subject.session(), Ok) {
            Ok(own) => own,
            Err(error) => {
                note(&mut kernel, &mut lines, format!("{what}, and what comes after it: {error}"));
                break;
            }
        };
        kernel.release = Some(own.release.clone());
        let before = done;
        match turn_by_turn(&mut own, &job, stop, &mut |turn| lines.step(before + turn, Some(all), &what)) {
            Ok(heard) => kernel.measured.push(Measured::new(row, point, &job, heard)),
            Err(_) if stop.load(Ordering::SeqCst) => break,
            Err(lost) => note(&mut kernel, &mut lines, format!("{what}: {lost}")),
        }
        session = Some(own).filter(|own| !own.tainted);
        done += turns(&job);
    }
    lines.done();
    kernel
}

/// Trouble is told at once, as what is left may take minutes.
fn note(kernel: &mut Kernel, lines: &mut Lines, why: String) {
    lines.say(&format!("fuseproof: not measured: {}", report::on_one_line(&why)));
    kernel.troubles.push(why);
}

fn turn_by_turn(
    session: &mut Session,
    job: &Job,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(u64),
) -> Result<crate::bench::Heard, crate::run::Lost> {
    let mut turn = 0;
    session.measure(job, &mut |told| {
        turn += u64::from(matches!(told, Told::Sample { .. }));
        tell(turn);
        !stop.load(Ordering::SeqCst)
    })
}

/// Each row at each of its points, on each of its lower file systems.
fn jobs<'a>(rows: &'a [Row], arguments: &Arguments) -> Vec<(&'a Row, &'a Point, Job)> {
    let job = |point: &Point, lower: Lower| {
        Job::new(lower, point.work, &point.columns, arguments.rounds, arguments.seed)
    };
    let of_row = |row: &'a Row| {
        let places = row.lowers.iter().flat_map(|lower| row.points.iter().map(|point| (*lower, point)));
        places.map(|(lower, point)| (row, point, job(point, lower))).collect::<Vec<_>>()
    };
    rows.iter().flat_map(of_row).collect()
}

/// How many turns a job has.
fn turns(job: &Job) -> u64 {
    u64::from(job.rounds) * job.columns.len() as u64
}
