//! What survives a campaign: a corpus, one file an input, and findings, one folder each.
//!
//! ```text
//! corpus/<target>/<hash>               an input, as bytes
//! findings/<kind>-<function>-<hash>/   case  report.txt  console.log  input
//! coverage/<kernel>-<digest>/          see there
//! ```
//!
//! A file is there whole or not at all, whatever ends the program. It does not know what an input means, but prints it as a
//! case.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Target, Wreck};
use crate::protocol::Odd;
use crate::script;

/// A campaign's folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Whose inputs it holds; none for a target that keeps them itself.
    target: Option<Target>,
    corpus: BTreeMap<String, Vec<u8>>,
    findings: BTreeMap<String, Finding>,
}

/// Something found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What sort of thing, where, and a hash of both.
    pub name: String,
    /// One line.
    pub why: String,
    /// How often it came.
    pub times: usize,
}

/// Trouble with the folder.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use {path} for the campaign ({source}): see that it can be written and has room, and run the command again"
)]
pub struct FolderError {
    path: PathBuf,
    source: io::Error,
}

impl FolderError {
    pub(super) fn new(path: &Path, source: io::Error) -> FolderError {
        FolderError { path: path.to_owned(), source }
    }
}

impl Folder {
    /// The folder at that path, which is made if need be, with the inputs of that target.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub fn open(path: &Path, target: Option<Target>) -> Result<Folder, FolderError> {
        let read = || {
            let (mut corpus, mut findings) = (BTreeMap::new(), BTreeMap::new());
            fs::create_dir_all(path.join("findings"))?;
            if let Some(target) = target {
                let inputs = path.join("corpus").join(target.name);
                fs::create_dir_all(&inputs)?;
                for entry in fs::read_dir(inputs)? {
                    let entry = entry?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if !name.starts_with('.') {
                        corpus.insert(name, fs::read(entry.path())?);
                    }
                }
            }
            for entry in fs::read_dir(path.join("findings"))? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let why = fs::read_to_string(path.join("findings").join(&name).join("report.txt"));
                let why = why.unwrap_or_default().lines().next().unwrap_or_default().to_owned();
                findings.insert(name.clone(), Finding { name, why, times: 0 });
            }
            Ok((corpus, findings))
        };
        let (corpus, findings) = read().map_err(|source| FolderError { path: path.to_owned(), source })?;
        Ok(Folder { path: path.to_owned(), target, corpus, findings })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All inputs.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        self.corpus.values().cloned().collect()
    }

    /// How many inputs there are.
    pub(super) fn len(&self) -> usize {
        self.corpus.len()
    }

    /// All findings, by name.
    pub fn findings(&self) -> &BTreeMap<String, Finding> {
        &self.findings
    }

    /// Keep an input.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&mut self, input: &[u8]) -> Result<(), FolderError> {
        let name = hash(input);
        if let Some(target) = self.target
            && !self.corpus.contains_key(&name)
        {
            self.write(&Path::new("corpus").join(target.name).join(&name), input)?;
            self.corpus.insert(name, input.to_vec());
        }
        Ok(())
    }

    /// Something that the oracle forbids, or that stayed behind. Gives it if it is new.
    pub(super) fn odd(&mut self, odd: &Odd) -> Result<Option<&Finding>, FolderError> {
        let kind = if odd.why.contains("the oracle") { "oracle" } else { "behind" };
        let case = self.case(&odd.bytes);
        let report = format!("{}\n\n{}", odd.why, odd.transcript);
        let key: String = odd.why.split(": ").skip(1).collect();
        let files = [("case", case.as_bytes()), ("report.txt", report.as_bytes()), ("input", &odd.bytes)];
        self.found(kind, "", &key, &odd.why, &files)
    }

    /// A machine that was lost. Gives it if it is new.
    pub(super) fn lost(&mut self, wreck: &Wreck) -> Result<Option<&Finding>, FolderError> {
        let Wreck { why, console, splats, input } = wreck;
        let (kind, function, key) = match splats.first() {
            Some(splat) => (splat.kind.to_string(), splat.function.clone().unwrap_or_default(), splat.key()),
            None => ("lost".to_owned(), String::new(), why.lines().next().unwrap_or_default().to_owned()),
        };
        let case = self.case(input);
        let files = [
            ("case", case.as_bytes()),
            ("report.txt", why.as_bytes()),
            ("console.log", console.as_bytes()),
            ("input", input),
        ];
        self.found(&kind, &function, &key, why, &files)
    }

    /// An input as a case.
    fn case(&self, input: &[u8]) -> String {
        self.target.map_or_else(String::new, |target| script::print(&(target.program)(input)))
    }

    /// Keep a finding's files, if it is the first with that key. Gives it then.
    pub(super) fn found(
        &mut self,
        kind: &str,
        function: &str,
        key: &str,
        why: &str,
        files: &[(&str, &[u8])],
    ) -> Result<Option<&Finding>, FolderError> {
        let words =
            [kind, function].into_iter().filter(|word| !word.is_empty()).map(|word| word.to_lowercase());
        let name = words.chain([hash(key.as_bytes())[..8].to_owned()]).collect::<Vec<_>>().join("-");
        let name = name
            .replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-' && letter != '_', "-");
        if let Some(known) = self.findings.get_mut(&name) {
            known.times += 1;
            return Ok(None);
        }
        for (file, bytes) in files {
            self.write(&Path::new("findings").join(&name).join(file), bytes)?;
        }
        let why = why.lines().next().unwrap_or_default().to_owned();
        let finding = Finding { name: name.clone(), why, times: 1 };
        Ok(Some(self.findings.entry(name).or_insert(finding)))
    }

    /// Write a file so that it is there whole or not at all.
    pub(super) fn write(&self, file: &Path, bytes: &[u8]) -> Result<(), FolderError> {
        let path = self.path.join(file);
        let write = || {
            let folder = path.parent().unwrap_or(&self.path);
            fs::create_dir_all(folder)?;
            let mut new = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
            io::Write::write_all(&mut new, bytes)?;
            new.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| FolderError { path: path.clone(), source })
    }
}

pub(super) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
