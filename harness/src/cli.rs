//! The command line: what it accepts, and what it does with it.

mod bench;
mod coverage;
mod daemon;
mod diff;
mod files;
mod findings;
mod fuzz;
mod kernels;
mod law;
mod merge;
mod messages;
mod out;
mod own;
mod progress;
mod replay;
mod reports;
mod reproducer;
mod run;
mod teller;
mod validate;
mod write;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The hidden subcommand that makes this program the agent on the running kernel, with the link as standard input.
pub const AGENT: &str = "agent";

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All as expected.
    Expected = 0,
    /// A case failed: a deviation from the law.
    Deviation = 1,
    /// The command line, or a case file, is wrong.
    Usage = 2,
    /// No machine, no kernel, a lost machine: trouble that says nothing about the kernel under test.
    Trouble = 3,
    /// Under `git bisect run`: this commit says nothing.
    CannotTell = 125,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Conformance and fuzzing suite for FUSE passthrough.
#[derive(Debug, Parser)]
#[command(name = "fuseproof", version, max_term_width = 110, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  all as expected
  1  a case failed: the kernel deviates from what the case says
  2  the command line or a case file is wrong
  3  trouble with a machine, a kernel or this computer; says nothing about the kernel under test";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run cases on kernels and judge them.
    Run(run::Arguments),
    /// What changed between two saved runs, or between two kernels of one.
    Diff(diff::Arguments),
    /// What a kernel patch changes, and whether that is right.
    Validate(validate::Validate),
    /// A step of `git bisect run` on a kernel's tree.
    BisectStep(validate::Step),
    /// Run somebody's daemon, watch what it says to the kernel, and judge it by the rules for daemons.
    ///
    /// The daemon is started for each workload below `cases/daemon/`, over a folder of files. Nothing of it is changed: its
    /// system calls on `/dev/fuse` are looked at from outside.
    Daemon(daemon::Arguments),
    /// Reports of several daemons side by side, as one page.
    Daemons(daemon::Compare),
    /// What a saved recording of a daemon says, a line each.
    Decode(daemon::Decode),
    /// Measure what passthrough buys, beside the other ways to make FUSE fast.
    ///
    /// The same work is done natively and through daemons that serve it differently, in turns; one of them comes twice, which says
    /// how far the figures can be trusted. No figure is right or wrong.
    Bench(bench::Arguments),
    /// Run programs that nobody wrote on a live kernel, and keep what is found.
    Fuzz(fuzz::Arguments),
    /// What fuzzing has found, and how often it came again.
    Findings(findings::Arguments),
    /// Run a finding's case on a kernel and judge it.
    Replay(replay::Arguments),
    /// A case as a C file that needs nothing of this project, on standard output.
    ///
    /// It is compiled with cc and run as root; it prints TAP and ends with 0 (passed), 1 (failed) or 4 (skipped). What one task
    /// cannot do, such as a call that blocks until a later step, cannot be told so.
    Reproducer(reproducer::Arguments),
    /// Count what cases show of the law, and list what they do not.
    ///
    /// A rule is shown if a case that names it ran and passed on at least one kernel, or if all the rules that it repeats
    /// are shown. Others need a reason: `unobservable`, or `later` for what the suite cannot do yet; the latter are
    /// counted by themselves, and the total is without them. What is left is uncovered.
    Rules(law::RulesArguments),
    /// All that is known of one rule: its law, what it needs, its cases and what became of them on which kernels.
    Explain(law::ExplainArguments),
    /// Begin a case: write a file that parses.
    New(write::NewArguments),
    /// Lay case files out: one blank between words.
    Fmt(write::FmtArguments),
    /// The kernels known by name.
    Kernels {
        #[command(subcommand)]
        command: kernels::Command,
    },
    /// Say what this computer lacks, and the command that mends it.
    Doctor,
    /// A guest with a shell and the reference daemon's mount, for poking around. Leave with C-a x.
    Shell {
        /// A name from `fuseproof kernels list`, or the path of a kernel.
        #[arg(long, default_value = "6.12")]
        kernel: qemu::kernel::KernelSpec,
    },
    /// The reference daemon as a program of its own, passing every file through: something to try `daemon` on.
    #[command(hide = true)]
    Specimen(daemon::Specimen),
    /// The agent on the running kernel.
    #[command(name = AGENT, hide = true)]
    Agent,
}

/// Do what the command line asks. Messages go to standard error, results to standard output.
pub fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let is_step = std::env::args_os().nth(1).is_some_and(|word| word == "bisect-step");
            let exit = match (error.use_stderr(), is_step) {
                // Help and version are no mistakes.
                (false, _) => Exit::Expected,
                // git would take a mistake for a bad commit.
                (true, true) => Exit::CannotTell,
                (true, false) => Exit::Usage,
            };
            let _ = error.print();
            return exit;
        }
    };
    match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Diff(arguments) => diff::diff(&arguments),
        Command::Validate(arguments) => validate::validate(&arguments),
        Command::BisectStep(arguments) => validate::step(&arguments),
        Command::Daemon(arguments) => daemon::daemon(&arguments),
        Command::Daemons(arguments) => daemon::compare(&arguments),
        Command::Decode(arguments) => daemon::decode(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Command::Findings(arguments) => findings::findings(&arguments),
        Command::Replay(arguments) => replay::replay(&arguments),
        Command::Reproducer(arguments) => reproducer::print(&arguments),
        Command::Rules(arguments) => law::rules(&arguments),
        Command::Explain(arguments) => law::explain_rule(&arguments),
        Command::New(arguments) => write::new(&arguments),
        Command::Fmt(arguments) => write::fmt(&arguments),
        Command::Kernels { command } => kernels::kernels(&command),
        Command::Doctor => kernels::doctor(),
        Command::Shell { kernel } => kernels::shell(&kernel),
        Command::Specimen(arguments) => daemon::specimen(&arguments),
        Command::Agent => agent(),
    }
}

fn agent() -> Exit {
    match crate::run::serve_on_host() {
        Ok(()) => Exit::Expected,
        Err(error) => trouble(&error),
    }
}

/// The folder of the cases: the one given, `cases` here, or the project's.
fn cases_folder(given: Option<&Path>) -> PathBuf {
    let here = Path::new("cases");
    let default =
        || if here.is_dir() { here.into() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("../cases") };
    given.map_or_else(default, Path::to_path_buf)
}

/// All these patches can be read.
fn are_there(patches: &[PathBuf]) -> Result<(), String> {
    match patches.iter().find(|file| !file.is_file()) {
        Some(missing) => Err(format!("there is no patch {}: check the spelling", missing.display())),
        None => Ok(()),
    }
}

/// This program, to be the agent on a kernel.
fn own_program() -> Result<PathBuf, String> {
    std::env::current_exe()
        .map_err(|error| format!("cannot tell which program this is ({error}): mount /proc"))
}

/// Say what is in the way.
fn trouble(error: &dyn std::fmt::Display) -> Exit {
    eprintln!("fuseproof: {error}");
    Exit::Trouble
}
