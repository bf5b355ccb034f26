//! `fuseproof fuzz merge`: the folders of several campaigns as one.

use std::path::PathBuf;

use super::out::outln;
use super::{Exit, cases_folder, trouble};
use crate::campaign::{Folder, Known, Partition, merge};

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
    let known = match Known::load(&cases_folder(arguments.cases.as_deref())) {
        Ok(known) => known,
        Err(error) => {
            eprintln!("fuseproof: {error}");
            return Exit::Usage;
        }
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
