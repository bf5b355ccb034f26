//! Runs the few programs that kernels are fetched and unpacked with, and keeps what they say. It
//! sorts nothing: what a complaint means is the caller's to know.

use std::io;
use std::process::{Command, Stdio};

use super::Error;

/// How much of a program's complaint is told on.
const DETAIL_BOUND: usize = 400;

/// A program that did not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be started.
    NotStarted {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with an error.
    Failed {
        /// The program and its arguments.
        command: String,
        /// Its exit code, if it was not killed.
        status: Option<i32>,
        /// All it said to standard error.
        stderr: String,
    },
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotStarted { program, source } if source.kind() == io::ErrorKind::NotFound => {
                Self::NoProgram { program }
            }
            Failure::NotStarted { program, source } => {
                Self::Command { command: program, detail: source.to_string() }
            }
            Failure::Failed { command, stderr, .. } => Self::Command { command, detail: detail(&stderr) },
        }
    }
}

/// A complaint as one short line: apt's first error, or else the first thing said, which is the
/// cause where programs of a pipe complain in turn.
pub(crate) fn detail(stderr: &str) -> String {
    let mut lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find_map(|line| line.strip_prefix("E: "));
    let line = error.or_else(|| lines.next()).unwrap_or("it gave no reason");
    line.chars().take(DETAIL_BOUND).collect()
}

/// Whether a complaint is about a full device. tar tells of a short write without its cause.
pub(super) fn is_out_of_space(stderr: &str) -> bool {
    ["No space left on device", "enough free space", "Wrote only "].iter().any(|mark| stderr.contains(mark))
}

/// Runs a program to its end, in the language that its complaints are recognised in, and without
/// a terminal that it could ask questions on.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match command.env("LC_ALL", "C").stdin(Stdio::null()).output() {
        Err(source) => {
            Err(Failure::NotStarted { program: command.get_program().to_string_lossy().into_owned(), source })
        }
        Ok(output) if output.status.success() => Ok(text(output.stdout)),
        Ok(output) => {
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
            let command = words.join(" ");
            Err(Failure::Failed { command, status: output.status.code(), stderr: text(output.stderr) })
        }
    }
}
