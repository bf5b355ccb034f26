//! Fuzz targets as programs: built from the project's sources when they are first needed.

use std::io;
use std::path::{Path, PathBuf};

use qemu::kernel::KernelSpec;
use qemu::progress::Progress;
use xshell::{Shell, cmd};

use super::Error;
use crate::generate::Inputs;
use crate::program::{Profile, Transport};

/// A target that runs on a live kernel.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its program.
    pub name: &'static str,
    /// What its inputs mean.
    pub inputs: Inputs,
    /// What carries requests and answers.
    pub over: Transport,
}

/// Targets that run on a live kernel.
pub const TARGETS: &[Target] = &[
    Target { name: "sequence", inputs: Inputs::Programs, over: Transport::Plain },
    Target { name: "uring", inputs: Inputs::Programs, over: Transport::IoUring },
    Target { name: "raw_write", inputs: Inputs::Messages, over: Transport::Plain },
    Target { name: "virtio_reply", inputs: Inputs::Lies, over: Transport::Virtiofs },
];

impl Target {
    /// The target of that name.
    pub fn named(name: &str) -> Option<Target> {
        TARGETS.iter().find(|target| target.name == name).copied()
    }

    /// Is the kernel able to do what the target is about?
    pub(super) fn is_possible(self, kernel: &KernelSpec, profile: &Profile) -> Result<(), Error> {
        match self.over.need().filter(|need| !profile.has.contains(*need)) {
            Some(need) => Err(Error::Lacks { kernel: kernel.to_string(), target: self.name, need }),
            None => Ok(()),
        }
    }
}

/// Why there is no target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It does not build.
    #[error(
        "the fuzz target {name} does not build ({source}): run `cargo build --release -p fuzz --bin {name}` in {folder}"
    )]
    Build {
        /// The target.
        name: String,
        /// The project's folder.
        folder: PathBuf,
        /// What cargo came to.
        source: io::Error,
    },
    /// It ends although it has found nothing.
    #[error("the fuzz target {name} does not run: {said}")]
    Run {
        /// The target.
        name: String,
        /// Its last words.
        said: String,
    },
}

/// What a compiler does for a target that is to tell which places an input passes. These are LLVM's own options, so the stable
/// toolchain takes them.
const INSTRUMENTED: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "--cfg",
    "fuzzing",
];

/// The program of a target that runs next to a kernel.
///
/// # Errors
/// It does not build.
pub(super) fn build(name: &str, progress: &mut dyn Progress) -> Result<PathBuf, TargetError> {
    progress.say(&format!("building the fuzz target {name}"));
    cargo(name, &[], "").map_err(|source| does_not_build(name, source))
}

/// The program of a target that runs on this computer, and whether it is instrumented.
///
/// # Errors
/// It does not build.
pub(super) fn build_here(name: &str, progress: &mut dyn Progress) -> Result<(PathBuf, bool), TargetError> {
    progress.say(&format!("building the fuzz target {name}, instrumented"));
    let flags = [std::env::var("RUSTFLAGS").unwrap_or_default(), INSTRUMENTED.join(" ")].join(" ");
    // With a triple, build scripts and macros are not instrumented; with a folder of its own, nothing else is built again.
    let triple = host_triple().map_err(|source| does_not_build(name, source))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
    let folder = target.join("fuzzing").display().to_string();
    match cargo(name, &["--target", &triple, "--target-dir", &folder], &flags) {
        Ok(program) => Ok((program, true)),
        Err(_) => {
            let plain = cargo(name, &[], "").map_err(|source| does_not_build(name, source))?;
            Ok((plain, false))
        }
    }
}

fn does_not_build(name: &str, source: io::Error) -> TargetError {
    TargetError::Build { name: name.into(), folder: project(), source }
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn host_triple() -> io::Result<String> {
    let shell = Shell::new().map_err(io::Error::other)?;
    let told = cmd!(shell, "rustc -vV").quiet().read().map_err(io::Error::other)?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned);
    host.ok_or_else(|| io::Error::other("rustc -vV names no host"))
}

/// Have cargo build a target, with flags for the compiler if there are any.
fn cargo(name: &str, options: &[&str], flags: &str) -> io::Result<PathBuf> {
    let shell = Shell::new().map_err(io::Error::other)?;
    shell.change_dir(project());
    let mut command =
        cmd!(shell, "cargo build --quiet --release -p fuzz --bin {name} --message-format json {options...}");
    if !flags.is_empty() {
        command = command.env("RUSTFLAGS", flags);
    }
    let told = command.quiet().read().map_err(io::Error::other)?;
    let executable = |line: &str| {
        let told: serde_json::Value = serde_json::from_str(line).ok()?;
        (told["target"]["name"] == name).then(|| told["executable"].as_str().map(PathBuf::from))?
    };
    told.lines().find_map(executable).ok_or_else(|| io::Error::other("cargo names no executable"))
}
