//! A finding's folder: what it has, what its name is made of, and how it is read again.
//!
//! ```text
//! <kind>-<function>-<hash>/   case  report.txt  console.log  input   what was found
//!                             kernel  counts/<writer>                where, and how often somebody met it
//!                             rate  case.original                    what came of running it again
//! ```
//!
//! The folder is there whole or not at all, and so is each file that is written later. It runs nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use qemu::console::Splat;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::Wreck;
use crate::protocol::{Odd, OddKind};

/// Something found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What sort of thing, where, and a hash of what else tells it from others.
    pub name: String,
    /// One line.
    pub why: String,
    /// How often it came.
    pub times: usize,
    /// How often it came again when it was tried.
    pub rate: Rate,
    /// Where it was found.
    pub kernel: Identity,
    /// Why it wakes nobody, if so.
    pub known: Option<String>,
}

/// Which kernel it was, and what was fuzzed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// As it is named on the command line.
    pub name: String,
    /// `uname -r` there.
    pub release: String,
    /// The SHA-256 of its image; empty for the running kernel.
    #[serde(default)]
    pub image: String,
    /// The target.
    pub target: String,
    /// What the kernel can do.
    #[serde(default)]
    pub has: Vec<String>,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Count {
    /// Those that are counted.
    pub part: usize,
    /// All of them.
    pub all: usize,
}

/// What came of running a finding again, each time on a fresh machine. Nothing is there before that was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How often the input came to the same, alone, as the target runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Count>,
    /// How often the case failed alike, as `fuseproof run` runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case: Option<Count>,
    /// How many of the input's steps the case has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Count>,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.part, self.all)
    }
}

impl From<Count> for String {
    fn from(count: Count) -> String {
        count.to_string()
    }
}

impl TryFrom<String> for Count {
    type Error = String;

    fn try_from(text: String) -> Result<Count, String> {
        text.parse()
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Count, String> {
        let numbers = text.split_once(" of ").map(|(part, all)| (part.parse(), all.parse()));
        match numbers {
            Some((Ok(part), Ok(all))) => Ok(Count { part, all }),
            _ => Err(format!("`{text}` is no count: expected `3 of 10`")),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.input, self.case) {
            (Some(input), Some(case)) => write!(f, "{input} alone, {case} as a case"),
            (Some(input), None) => write!(f, "{input} alone"),
            _ => f.write_str("not replayed yet"),
        }
    }
}

/// What tells one finding from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct What {
    pub(super) kind: String,
    pub(super) function: String,
    pub(super) key: String,
}

/// How often somebody met it: a file each, as several may write at once.
pub(super) const COUNTS: &str = "counts";
/// What is being made begins with it.
pub(super) const NEW: &str = ".new-";
/// A machine that was lost without a word of its kernel's.
const LOST: &str = "lost";
/// The longest word in a name: what a guest tells is bounded.
const MOST: usize = 64;

impl What {
    /// The folder's name.
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.stem(), &hash(self.key.as_bytes())[..8])
    }

    /// What the name begins with, up to its hash.
    pub(super) fn stem(&self) -> String {
        let words = [&self.kind, &self.function].into_iter().filter(|word| !word.is_empty());
        let plain = |word: &String| {
            let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
            let letters = word.chars().take(MOST).map(|letter| if is_plain(&letter) { letter } else { '-' });
            letters.collect::<String>().to_lowercase()
        };
        words.map(|word| plain(word) + "-").collect()
    }

    /// Is this what the finding of that name is? Where nothing returns, chance says who notices first; and what the kernel
    /// complains of in one function may be reached in other ways on a fresh machine, which knows no names yet.
    pub(super) fn is(&self, name: &str) -> bool {
        let is_mute = |kind: &str| kind == LOST || kind == "hang";
        let is_judged = self.kind == OddKind::Oracle.to_string();
        let is_there = name.rsplit_once('-').is_some_and(|(stem, _)| self.stem() == format!("{stem}-"));
        self.name() == name
            || (is_there && !is_judged && !self.function.is_empty())
            || (is_mute(&self.kind) && is_mute(kind_of(name)))
    }
}

impl From<&Odd> for What {
    fn from(odd: &Odd) -> What {
        What { kind: odd.kind.to_string(), function: odd.function.clone(), key: odd.key.clone() }
    }
}

impl From<&Splat> for What {
    fn from(splat: &Splat) -> What {
        let function = splat.function.clone().unwrap_or_default();
        What { kind: splat.kind.to_string(), function, key: splat.key() }
    }
}

impl From<&Wreck> for What {
    fn from(wreck: &Wreck) -> What {
        match wreck.splats.first() {
            Some(splat) => What::from(splat),
            None => What {
                kind: LOST.into(),
                function: String::new(),
                key: wreck.why.lines().next().unwrap_or_default().into(),
            },
        }
    }
}

/// The kind that a name begins with.
pub(super) fn kind_of(name: &str) -> &str {
    name.split('-').next().unwrap_or_default()
}

impl Finding {
    /// The finding in that folder.
    ///
    /// # Errors
    /// There is none, in words.
    pub fn at(folder: &Path) -> Result<Finding, String> {
        let is_whole = ["case", "input", "kernel"].iter().all(|file| folder.join(file).is_file());
        // A path may end in a slash or a dot.
        let folder = folder.canonicalize().ok().filter(|_| is_whole).ok_or_else(|| {
            format!("{} is no finding: `fuseproof findings` lists those of a campaign", folder.display())
        })?;
        Ok(Finding::read(&folder))
    }

    /// What the folder holds. What is missing or cannot be read is as if it were not known yet.
    pub(super) fn read(folder: &Path) -> Finding {
        let text = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        Finding {
            name: folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            why: text("report.txt").lines().next().unwrap_or_default().to_owned(),
            times: counts(folder).values().sum::<usize>().max(1),
            rate: toml::from_str(&text("rate")).unwrap_or_default(),
            kernel: toml::from_str(&text("kernel")).unwrap_or_default(),
            known: None,
        }
    }
}

/// How often each writer has met the finding in that folder.
pub(super) fn counts(folder: &Path) -> BTreeMap<String, usize> {
    let files = fs::read_dir(folder.join(COUNTS)).into_iter().flatten().flatten();
    let count = |path: &Path| fs::read_to_string(path).ok()?.trim().parse().ok();
    files
        .filter_map(|file| Some((file.file_name().to_string_lossy().into_owned(), count(&file.path())?)))
        .filter(|(writer, _)| !writer.starts_with('.'))
        .collect()
}

/// The text of a `rate` file.
pub(super) fn rate_file(rate: &Rate) -> String {
    match toml::to_string(rate) {
        Ok(text) if rate.input.is_some() => format!("# Each time on a fresh machine.\n{text}"),
        _ => "# not replayed yet\n".into(),
    }
}

pub(super) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Write a file so that it is there whole or not at all.
pub(super) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    begin(path, bytes)?.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The same if there is none yet.
pub(super) fn put_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    begin(path, bytes)?.persist_noclobber(path).map_err(|error| error.error)?;
    Ok(())
}

fn begin(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut new = tempfile::Builder::new().prefix(NEW).tempfile_in(folder)?;
    io::Write::write_all(&mut new, bytes)?;
    Ok(new)
}

/// What is in a folder and whole, sorted; nothing if there is none.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    found.retain(|(name, _)| !name.starts_with(NEW));
    found.sort();
    Ok(found)
}

/// Make a folder of these files, so that it is there whole or not at all.
pub(super) fn put_all(path: &Path, files: &[(String, Vec<u8>)]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let new = tempfile::Builder::new().prefix(NEW).tempdir_in(parent)?;
    for (file, bytes) in files {
        fs::write(new.path().join(file), bytes)?;
    }
    match fs::rename(new.path(), path) {
        // Somebody else has found it at the same time.
        Err(_) if path.is_dir() => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain_and_bounded() {
        let what =
            |function: &str| What { kind: "hung task".into(), function: function.into(), key: "k".into() };
        assert_eq!(
            what("fuse_Open.part.0").name(),
            format!("hung-task-fuse_open-part-0-{}", &hash(b"k")[..8])
        );
        assert!(what(&"../x".repeat(100)).name().len() < 90 && !what("../x").name().contains(['/', '.']));
    }

    #[test]
    fn whoever_does_not_return_is_the_same() {
        let what = |kind: &str| What { kind: kind.into(), function: String::new(), key: kind.into() };
        assert!(what("lost").is("hang-fuse_open-00000000") && what("hang").is("lost-00000000"));
        assert!(!what("lost").is("oracle-open-00000000") && !what("oracle").is("oracle-open-00000000"));
        assert!(what("oracle").is(&what("oracle").name()));
    }

    #[test]
    fn a_function_may_be_reached_in_another_way() {
        let what = |kind: &str, function: &str| What {
            kind: kind.into(),
            function: function.into(),
            key: "k".into(),
        };
        assert!(what("kasan", "fuse_put_request").is("kasan-fuse_put_request-00000000"));
        assert!(!what("kasan", "fuse_put").is("kasan-fuse_put_request-00000000"));
        assert!(!what("warning", "fuse_put_request").is("kasan-fuse_put_request-00000000"));
        assert!(
            !what("oracle", "read").is("oracle-read-00000000") && !what("behind", "").is("behind-00000000")
        );
    }

    #[test]
    fn a_rate_reads_back() {
        let rate = Rate {
            input: Some(Count { part: 9, all: 10 }),
            case: Some(Count { part: 0, all: 10 }),
            steps: Some(Count { part: 4, all: 17 }),
        };
        assert_eq!(toml::from_str(&rate_file(&rate)), Ok(rate.clone()));
        assert_eq!(rate.to_string(), "9 of 10 alone, 0 of 10 as a case");
        let none: Rate = toml::from_str(&rate_file(&Rate::default())).unwrap();
        assert_eq!((none.to_string().as_str(), none.input), ("not replayed yet", None));
        assert!(toml::from_str::<Rate>("input = \"ten\"").is_err());
    }

    #[test]
    fn a_folder_is_there_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oracle-x");
        put_all(&path, &[("case".into(), b"one".into())]).unwrap();
        put_all(&path, &[("case".into(), b"two".into())]).unwrap();
        for (writer, count) in [("one", "3"), ("two", "4"), (".new-x", "9"), ("three", "")] {
            put(&path.join(COUNTS).join(writer), count.as_bytes()).unwrap();
        }
        assert_eq!(fs::read(path.join("case")).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let finding = Finding::read(&path);
        assert_eq!((finding.name.as_str(), finding.times), ("oracle-x", 7));
    }
}
