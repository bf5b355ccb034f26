//! `fuseproof findings`: what fuzz campaigns have found, and what came of running it again.

use std::path::{Path, PathBuf};

use super::out::outln;
use super::{Exit, cases_folder, trouble};
use crate::campaign::{self, Finding, Known};
use crate::report::on_one_line;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The folder of the campaigns.
    #[arg(long, value_name = "DIR", default_value = "fuzzing")]
    folder: PathBuf,
    /// The folder of the cases, which has the table of known findings.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
}

/// The known findings of the cases in that folder, or those of the project. Says what is wrong with their table.
pub(super) fn known_findings(cases: Option<&Path>) -> Result<Known, Exit> {
    Known::load(&cases_folder(cases)).map_err(|error| {
        eprintln!("fuseproof: {error}");
        Exit::Usage
    })
}

pub(super) fn findings(arguments: &Arguments) -> Exit {
    let known = match known_findings(arguments.cases.as_deref()) {
        Ok(known) => known,
        Err(exit) => return exit,
    };
    let found = match campaign::findings(&arguments.folder, &known) {
        Ok(found) => found,
        Err(error) => return trouble(&error),
    };
    let (known, new): (Vec<&Finding>, Vec<&Finding>) =
        found.iter().partition(|finding| finding.known.is_some());
    for finding in &new {
        show(finding);
    }
    if !known.is_empty() {
        outln!("known:");
    }
    for finding in &known {
        show(finding);
        outln!("  known: {}", finding.known.as_deref().unwrap_or_default());
    }
    outln!("{} findings, {} known", new.len(), known.len());
    Exit::Expected
}

fn show(finding: &Finding) {
    let Finding { name, times, rate, kernel, .. } = finding;
    let times = if *times == 1 { "once".to_string() } else { format!("{times} times") };
    outln!("{name}  {times}, {rate}, on {} ({})", kernel.name, kernel.release);
    outln!("  {}", on_one_line(&finding.why));
}
