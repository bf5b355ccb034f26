//! Daemons that are known, as data: what each is started with. It knows no daemon itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Where they stand, in the folder of the cases.
pub const PRESETS: &str = "daemon/presets.toml";

/// What a daemon is started with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// What it is.
    pub about: String,
    /// Its program, looked for in `$PATH`, and its words.
    pub command: Vec<String>,
    /// How to come by it, as the end of a message.
    pub get: String,
}

/// All of them in this folder of cases, by name.
///
/// # Errors
/// The file cannot be read, or is not what it has to be: where, for people.
pub fn presets(cases: &Path) -> Result<BTreeMap<String, Preset>, String> {
    let path = cases.join(PRESETS);
    let text =
        fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        format!("{}:{line}: {}", path.display(), error.message())
    })
}

impl Preset {
    /// The command with other words behind `--`: the first stands for the program, the others come next.
    pub fn command(&self, words: &[String]) -> Vec<String> {
        let (program, rest) = self.command.split_at(self.command.len().min(1));
        let (given, more) = words.split_at(words.len().min(1));
        [if given.is_empty() { program } else { given }, more, rest].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset() -> Preset {
        let command = ["there", "-f", "{source}"].map(str::to_string).into();
        Preset { about: String::new(), command, get: String::new() }
    }

    #[test]
    fn words_stand_for_the_program_and_behind_it() {
        let with =
            |words: &[&str]| preset().command(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        assert_eq!(with(&[]), ["there", "-f", "{source}"]);
        assert_eq!(with(&["./here"]), ["./here", "-f", "{source}"]);
        assert_eq!(with(&["./here", "-o", "x"]), ["./here", "-o", "x", "-f", "{source}"]);
    }

    #[test]
    fn the_projects_own_are_read() {
        let cases = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../cases"));
        let presets = presets(cases).expect("a table of presets");
        for (name, preset) in &presets {
            let has = |what: &str| preset.command.iter().any(|word| word.contains(what));
            assert!(has(crate::daemon::SOURCE) && has(crate::daemon::MOUNT), "{name}");
        }
    }

    #[test]
    fn a_mistake_has_its_line() {
        let folder = tempfile::tempdir().expect("temp");
        fs::create_dir(folder.path().join("daemon")).expect("made");
        fs::write(folder.path().join(PRESETS), "[a]\nabout = \"\"\ncommand = []\nget = \"\"\nhow = 1\n")
            .expect("written");
        let error = presets(folder.path()).expect_err("an unknown key");
        assert!(error.contains("presets.toml:5: unknown field `how`"), "{error}");
    }
}
