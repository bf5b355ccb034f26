//! `fuseproof fuzz merge`: the folders of several campaigns as one.

use std::path::PathBuf;

use super::findings::known_findings;
use super::out::outln;
use super::{Exit, trouble};
use crate::campaign::{Folder, Partition, merge};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The folder that gets what the others have; it is made if need be.
    into: PathBuf,
    /// Folders of campaigns, which are only read.
    #[arg(required = true)]
    from: Vec<PathBuf>,
    /// The folder of the cases, which has the table of known findings.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
}

pub(super) fn merge_folders(arguments: &Arguments) -> Exit {
    let known = match known_findings(arguments.cases.as_deref()) {
        Ok(known) => known,
        Err(exit) => return exit,
    };
    let mut into = match Folder::open(&arguments.into, None, known, Partition::WHOLE) {
        Ok(into) => into,
        Err(error) => return trouble(&error),
    };
    match merge(&mut into, &arguments.from) {
        Ok(merged) => {
            outln!("{} new inputs and {} new findings", merged.inputs, merged.findings);
            Exit::Expected
        }
        Err(error) => trouble(&error),
    }
}
