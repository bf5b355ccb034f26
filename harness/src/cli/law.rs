//! `fuseproof rules` and `fuseproof explain`.
//!
//! What a rule's cases are worth rests on evidence: reports of runs if some are given, else the reviewed snapshots of the
//! project's own tests. A case that is not in it shows nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::messages::Messages;
use super::out::{out, outln};
use super::{Exit, cases_folder};
use crate::report::{coverage_json, coverage_table, explain, read_json, read_observed};
use crate::rules::{self, Coverage, Evidence, Rules, check};
use crate::script::{self, Case, LoadError};

/// Where the snapshots of a folder of cases are: those of the catalogue's kernels, and of kernels that are built here.
const SNAPSHOTS: [&str; 2] = ["../harness/tests/snapshots", "../harness/tests/built"];

/// What both commands work on.
#[derive(Debug, Args)]
struct Material {
    /// Rest on this report (`fuseproof run --report json=FILE`), not on the project's snapshots; may be repeated.
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// The folder of the cases [default: `cases` here, or the project's].
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    messages: Messages,
}

#[derive(Debug, Args)]
pub(super) struct RulesArguments {
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    material: Material,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// Its ID, such as `OPEN-05`.
    rule: String,
    #[command(flatten)]
    material: Material,
}

pub(super) fn rules(arguments: &RulesArguments) -> Exit {
    let Some((rules, cases, evidence)) = arguments.material.load() else { return Exit::Usage };
    let coverage = Coverage::new(&rules, &cases, &evidence);
    match arguments.format {
        Format::Table => out(coverage_table(&coverage)),
        Format::Json => match coverage_json(&coverage) {
            Ok(text) => outln!("{text}"),
            Err(error) => return super::trouble(&error),
        },
    }
    Exit::Expected
}

pub(super) fn explain_rule(arguments: &ExplainArguments) -> Exit {
    let Some((rules, cases, evidence)) = arguments.material.load() else { return Exit::Usage };
    let id = &arguments.rule;
    match Coverage::new(&rules, &cases, &evidence).get(id) {
        Some(entry) => {
            out(explain(entry, &rules, &evidence));
            Exit::Expected
        }
        None => {
            let near = rules.nearest(id).join(", ");
            eprintln!(
                "fuseproof: there is no rule {id} (near it: {near}); `fuseproof rules` counts all of them"
            );
            Exit::Usage
        }
    }
}

impl Material {
    /// All of it, or nothing and its mistakes are told.
    fn load(&self) -> Option<(Rules, Vec<Case>, Evidence)> {
        let folder = cases_folder(self.cases.as_deref());
        let (rules, cases) = load(&folder).map_err(|error| self.messages.tell(error, &folder)).ok()?;
        let evidence = if self.report.is_empty() {
            let mut evidence = Evidence::default();
            for snapshots in SNAPSHOTS.map(|below| folder.join(below)) {
                from_snapshots(&snapshots, &cases, &mut evidence)
                    .map_err(|error| {
                        self.messages.tell(LoadError::Unreadable { path: snapshots, source: error }, &folder)
                    })
                    .ok()?;
            }
            evidence
        } else {
            from_reports(&self.report).map_err(|error| eprintln!("fuseproof: {error}")).ok()?
        };
        Some((rules, cases, evidence))
    }
}

/// The rules and the cases of a folder, which agree with each other.
fn load(folder: &Path) -> Result<(Rules, Vec<Case>), LoadError> {
    let rules = rules::load(folder)?;
    let cases = script::load(folder)?;
    // It was read a moment ago; a file that has gone since is shown empty.
    let wrong = check(&rules, &cases, |file| fs::read_to_string(folder.join(file)).unwrap_or_default());
    if wrong.is_empty() { Ok((rules, cases)) } else { Err(LoadError::Contradictory(wrong)) }
}

fn from_snapshots(folder: &Path, cases: &[Case], evidence: &mut Evidence) -> io::Result<()> {
    let mut paths: Vec<&str> = cases.iter().map(|case| case.path.as_str()).collect();
    paths.dedup();
    for path in paths {
        match fs::read_to_string(folder.join(format!("{path}.snap"))) {
            Ok(text) => evidence.extend(read_observed(path, &text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn from_reports(files: &[PathBuf]) -> Result<Evidence, String> {
    let mut evidence = Evidence::default();
    for file in files {
        let text = fs::read_to_string(file).map_err(|error| error.to_string());
        let seen = text.and_then(|text| read_json(&text).map_err(|error| error.to_string()));
        evidence.extend(seen.map_err(|error| {
            let file = file.display();
            format!("{file} is no report ({error}): `fuseproof run --report json={file}` writes one")
        })?);
    }
    Ok(evidence)
}
