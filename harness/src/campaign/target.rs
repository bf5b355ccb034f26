//! Fuzz targets as programs: built from the project's sources when they are first needed.

use std::io;
use std::path::{Path, PathBuf};

use qemu::progress::Progress;
use xshell::{Shell, cmd};

use crate::generate;
use crate::program::Program;

/// A target that runs on a live kernel.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its program.
    pub name: &'static str,
    /// The inputs that a case makes.
    pub seeds: fn(&Program) -> Vec<Vec<u8>>,
    /// Can a process with that seed run the input?
    pub is_for: fn(&[u8], u32) -> bool,
    /// An input as a case.
    pub program: fn(&[u8]) -> Program,
}

/// Targets that run on a live kernel.
pub const TARGETS: &[Target] = &[
    Target {
        name: "sequence",
        seeds: |case| generate::seed(case).iter().map(generate::to_bytes).collect(),
        is_for: |_, _| true,
        program: generate::from_bytes,
    },
    Target {
        name: "raw_write",
        seeds: generate::raw_seeds,
        is_for: |input, seed| generate::stage_of(input) == generate::stage_for(seed),
        program: generate::raw_program,
    },
];

impl Target {
    /// The target of that name.
    pub fn named(name: &str) -> Option<Target> {
        TARGETS.iter().find(|target| target.name == name).copied()
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
}

/// The program of a target.
///
/// # Errors
/// It does not build.
pub(super) fn build(name: &str, progress: &mut dyn Progress) -> Result<PathBuf, TargetError> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    progress.say(&format!("building the fuzz target {name}"));
    let built = || -> Result<PathBuf, io::Error> {
        let shell = Shell::new().map_err(io::Error::other)?;
        shell.change_dir(&project);
        let told = cmd!(shell, "cargo build --quiet --release -p fuzz --bin {name} --message-format json")
            .quiet()
            .read()
            .map_err(io::Error::other)?;
        let executable = |line: &str| {
            let told: serde_json::Value = serde_json::from_str(line).ok()?;
            (told["target"]["name"] == name).then(|| told["executable"].as_str().map(PathBuf::from))?
        };
        told.lines().find_map(executable).ok_or_else(|| io::Error::other("cargo names no executable"))
    };
    built().map_err(|source| TargetError::Build { name: name.into(), folder: project.clone(), source })
}
