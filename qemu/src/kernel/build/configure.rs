//! From fragments to the `.config` of an object folder. Nothing is asked: what no fragment names is off.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::patch::Changes;
use super::recipe::Recipe;
use super::tree::Tree;
use super::{make, trouble};
use crate::digest;
use crate::kernel::{Error, command};
use crate::progress::Progress;

const FRAGMENT: &str = "fuseproof.config";
/// Says what the folder is configured for.
const DONE: &str = "fuseproof.configured";

/// All lines of a recipe's configuration.
pub(super) fn fragment(recipe: &Recipe) -> String {
    recipe.flavour.fragment() + &recipe.own_config()
}

/// Configure the object folder, if it is not already. Options that did not make it are named.
///
/// # Errors
/// Without the option that its flavour is for, a kernel would find nothing and look as if there were nothing to find.
pub(super) fn configure(
    tree: &Tree,
    out: &Path,
    recipe: &Recipe,
    changes: &Changes,
    tools: &str,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let fragment = fragment(recipe);
    let key = digest::of_parts([&fragment, &tree.kconfig_identity(changes), tools].map(str::as_bytes));
    let (file, done, config) = (out.join(FRAGMENT), out.join(DONE), out.join(".config"));
    if config.is_file() && fs::read_to_string(&done).is_ok_and(|text| text == key) {
        return Ok(());
    }
    let _ = fs::remove_file(&done);
    fs::write(&file, &fragment).map_err(trouble(&file))?;
    let mut allnoconfig = Command::new("make");
    make::settings(&mut allnoconfig, tree, out);
    allnoconfig.arg(format!("KCONFIG_ALLCONFIG={}", file.display())).arg("allnoconfig");
    command::output(&mut allnoconfig)?;
    let text = fs::read_to_string(&config).map_err(trouble(&config))?;
    let absent = absent(&fragment, &text);
    if let Some(option) = recipe.flavour.purpose.iter().find(|option| absent.contains(&option.as_str())) {
        let (name, option) = (recipe.to_string(), option.clone());
        return Err(Error::NoOption { name, option, compiler: tools.replace('\n', ", ") });
    }
    if !absent.is_empty() {
        progress.say(&format!("this source leaves out {}", absent.join(" ")));
    }
    fs::write(&done, key).map_err(trouble(&done))
}

/// The options that a fragment sets, by the last word on each, and that the configuration does not have.
fn absent<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let name = |line: &'a str| line.trim_start_matches("# ").split(['=', ' ']).next().unwrap_or_default();
    let options: Vec<_> = fragment.lines().filter(|line| name(line).starts_with("CONFIG_")).collect();
    let last = |at: usize| !options[at + 1..].iter().any(|later| name(later) == name(options[at]));
    let wanted = (0..options.len()).filter(|at| last(*at)).map(|at| options[at]);
    let has = |option: &str| config.lines().any(|line| line == option);
    wanted.filter(|option| option.contains('=') && !has(option)).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_an_option_counts() {
        let fragment =
            "# Text about CONFIG_A.\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\n# CONFIG_B is not set\nCONFIG_D=4\n";
        assert_eq!(absent(fragment, "CONFIG_A=y\n# CONFIG_C is not set\nCONFIG_D=4\n"), ["CONFIG_C"]);
        assert_eq!(absent(fragment, "CONFIG_A=y\nCONFIG_C=y\nCONFIG_D=40\n"), ["CONFIG_D"]);
    }
}
