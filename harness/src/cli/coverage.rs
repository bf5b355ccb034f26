//! `fuseproof fuzz coverage`: what campaigns reached of a kernel, as a table and a page.

use std::path::PathBuf;

use clap::ValueEnum;

use super::files::write_whole;
use super::out::print;
use super::{Exit, reports, trouble};
use crate::campaign::covered;
use crate::report::reached;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The campaigns' folder.
    #[arg(long, value_name = "DIR", default_value = "fuzzing")]
    folder: PathBuf,
    /// The kernel, as the campaign named it [default: the one that was fuzzed last].
    #[arg(long)]
    kernel: Option<String>,
    /// Write it to a file, too: `json=PATH` or `html=PATH`; may be repeated.
    #[arg(long, value_name = "KIND=PATH", value_parser = reports::parse::<Kind>)]
    report: Vec<(Kind, PathBuf)>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Json,
    Html,
}

pub(super) fn coverage(arguments: &Arguments) -> Exit {
    match tell(arguments) {
        Ok(()) => Exit::Expected,
        Err(error) => trouble(&error),
    }
}

fn tell(arguments: &Arguments) -> Result<(), String> {
    let (passed, origins, folder) =
        covered(&arguments.folder, arguments.kernel.as_deref()).map_err(|error| error.to_string())?;
    let reached = reached(&passed, &origins);
    let html = reached.html().map_err(|error| error.to_string())?;
    let page = folder.join("page.html");
    write_whole(&page, &html)
        .map_err(|error| format!("cannot write the page {}: {error}", page.display()))?;
    for (kind, path) in &arguments.report {
        match kind {
            Kind::Json => reports::put(path, &reached.json().map_err(|error| error.to_string())?)?,
            Kind::Html => reports::put(path, &html)?,
        }
    }
    print(format_args!("{}\nthe page: {}\n", reached.table(), page.display()))
}
