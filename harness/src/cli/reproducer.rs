//! `fuseproof reproducer`: a case as a C file that stands alone.

use std::path::{Path, PathBuf};

use super::messages::Messages;
use super::out::outln;
use super::{Exit, cases_folder, trouble};
use crate::reproducer::reproducer;
use crate::script::{self, Case, Folder, LoadError, Source, parse};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A case's file, also a finding's, or the name of a case.
    case: String,
    /// The folder of the cases, and of what they use [default: `cases` here, or the project's].
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    messages: Messages,
}

pub(super) fn print(arguments: &Arguments) -> Exit {
    let folder = cases_folder(arguments.cases.as_deref());
    let cases = match found(&arguments.case, &folder) {
        Ok(cases) => cases,
        Err(error) => {
            arguments.messages.tell(error, &folder);
            return Exit::Usage;
        }
    };
    let case = match &cases[..] {
        [case] => case,
        [] => {
            eprintln!(
                "fuseproof: {} is neither a file nor a case below {}",
                arguments.case,
                folder.display()
            );
            return Exit::Usage;
        }
        several => {
            eprintln!("fuseproof: {} is several cases, name one:", arguments.case);
            several.iter().for_each(|case| eprintln!("  {}", case.name()));
            return Exit::Usage;
        }
    };
    match reproducer(&case.program, &case.name()) {
        Ok(text) => {
            outln!("{}", text.trim_end());
            Exit::Expected
        }
        Err(refused) => trouble(&refused),
    }
}

/// The cases in that file, or of that name.
fn found(case: &str, folder: &Path) -> Result<Vec<Case>, LoadError> {
    let path = Path::new(case);
    if path.is_file() {
        let text = std::fs::read_to_string(path)
            .map_err(|source| LoadError::Unreadable { path: path.to_path_buf(), source })?;
        let source = Source { path: case.to_owned(), text };
        return parse(&source, &Folder(folder.to_path_buf())).map_err(|error| LoadError::Wrong(vec![error]));
    }
    let mut cases = script::load(folder)?;
    cases.retain(|known| known.path == case || known.name() == case);
    Ok(cases)
}
