//! `fuseproof diff`.

use std::path::PathBuf;

use clap::Args;

use super::Exit;
use super::files::Saved;
use super::out::out;
use crate::report::{Changes, Side};
use crate::run::Run;

/// What changed between two saved runs, or between two kernels of one.
///
/// A case changed if it ended in another way or with another transcript.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:
  0  nothing changed
  1  some cases behave differently
  2  the command line is wrong, or a folder holds no saved run")]
pub(super) struct Arguments {
    /// The folder of a saved run: the earlier one, if there are two.
    #[arg(value_name = "DIR")]
    before: PathBuf,
    /// The folder of the later one.
    #[arg(value_name = "DIR2", required_unless_present = "kernels")]
    after: Option<PathBuf>,
    /// Compare these two kernels; the second is one of DIR2, if that is given [default: each with its namesake].
    #[arg(long, num_args = 2, value_names = ["KERNEL", "KERNEL2"])]
    kernels: Vec<String>,
}

pub(super) fn diff(arguments: &Arguments) -> Exit {
    match compare(arguments) {
        Ok(0) => Exit::Expected,
        Ok(_) => Exit::Deviation,
        Err(error) => {
            eprintln!("fuseproof: {error}");
            Exit::Usage
        }
    }
}

/// Show what changed; how many cases did.
fn compare(arguments: &Arguments) -> Result<usize, String> {
    let before = Saved::read(&arguments.before)?;
    let later = arguments.after.as_ref().map(|folder| Saved::read(folder)).transpose()?;
    let after = later.as_ref().unwrap_or(&before);
    let (mut text, mut count) = (String::new(), 0);
    for (old, new) in pairs(&before, after, &arguments.kernels)? {
        let name = |folder: &PathBuf, run: &Run, kernel: usize| {
            let name = &run.kernels[kernel].name;
            if later.is_some() { format!("{} {name}", folder.display()) } else { name.clone() }
        };
        let changes = Changes::between(
            Side { name: name(&arguments.before, &before, old), run: &before, kernel: old },
            Side {
                name: name(arguments.after.as_ref().unwrap_or(&arguments.before), after, new),
                run: after,
                kernel: new,
            },
        );
        if changes.compared() == 0 {
            return Err("the two have no case in common: run the same selection of cases".into());
        }
        text.push_str(&changes.text());
        count += changes.count();
    }
    out(text);
    Ok(count)
}

/// Which kernel is compared with which.
fn pairs(before: &Run, after: &Run, named: &[String]) -> Result<Vec<(usize, usize)>, String> {
    let find = |run: &Run, name: &str| run.kernels.iter().position(|kernel| kernel.name == name);
    if let [old, new] = named {
        let known = |run: &Run, name: &str| {
            find(run, name).ok_or_else(|| format!("{name} was not run; there are {}", names(run)))
        };
        return Ok(vec![(known(before, old)?, known(after, new)?)]);
    }
    // One on each side: a kernel before and after a patch may have other names.
    if before.kernels.len() == 1 && after.kernels.len() == 1 {
        return Ok(vec![(0, 0)]);
    }
    let namesakes = before.kernels.iter().enumerate();
    let pairs: Vec<_> =
        namesakes.filter_map(|(old, kernel)| Some((old, find(after, &kernel.name)?))).collect();
    if pairs.is_empty() {
        return Err(format!(
            "no kernel is in both ({}; {}): name two with --kernels",
            names(before),
            names(after)
        ));
    }
    Ok(pairs)
}

fn names(run: &Run) -> String {
    run.kernels.iter().map(|kernel| kernel.name.as_str()).collect::<Vec<_>>().join(" ")
}
