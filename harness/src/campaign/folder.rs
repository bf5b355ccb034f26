//! What survives a campaign: a corpus, one file an input, and findings, one folder each.
//!
//! ```text
//! corpus/<target>/<hash>       an input, as bytes
//! findings/<name>/             see [`super::finding`]
//! coverage/<kernel>-<digest>/  see [`super::coverage`]
//! ```
//!
//! A file or a finding is there whole or not at all, whatever ends the program. It does not know what an input means, but prints
//! it as a case.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Identity, Rate, What, hash, put, put_all, rate_file};
use super::known::Known;
use super::replay::Examined;
use super::{Target, Wreck};
use crate::program::Program;
use crate::protocol::{Ending, Odd};
use crate::script;
use crate::transcript::transcript;

/// A campaign's folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Whose inputs it holds; none for a target that keeps them itself.
    target: Option<Target>,
    corpus: BTreeMap<String, Vec<u8>>,
    findings: BTreeMap<String, Finding>,
    known: Known,
    /// Where it is fuzzed now.
    kernel: Identity,
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
    pub(super) fn at(path: &Path, source: io::Error) -> FolderError {
        FolderError { path: path.to_owned(), source }
    }
}

/// All findings of the campaigns of a folder, by name, in the light of what is known.
///
/// # Errors
/// It cannot be read.
pub fn findings(path: &Path, known: &Known) -> Result<Vec<Finding>, FolderError> {
    read_all(path, known).map_err(|source| FolderError::at(&path.join("findings"), source))
}

fn read_all(path: &Path, known: &Known) -> io::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path.join("findings"))? {
        let mut finding = Finding::read(&entry?.path());
        // What begins with a dot was never finished.
        if !finding.name.starts_with('.') {
            finding.known = known.reason(&finding);
            found.push(finding);
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

impl Folder {
    /// The folder at that path, which is made if need be, with the inputs of that target, in the light of what is known.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub fn open(path: &Path, target: Option<Target>, known: Known) -> Result<Folder, FolderError> {
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
            for finding in read_all(path, &known)? {
                findings.insert(finding.name.clone(), finding);
            }
            Ok((corpus, findings))
        };
        let (corpus, findings) = read().map_err(|source| FolderError { path: path.to_owned(), source })?;
        Ok(Folder { path: path.to_owned(), target, corpus, findings, known, kernel: Identity::default() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is found from here on is found there.
    pub(super) fn on(&mut self, kernel: Identity) {
        self.kernel = kernel;
    }

    /// Findings of this kernel and target that wake somebody and were not run again, each with its input.
    pub(super) fn open_ones(&self) -> Vec<(String, Vec<u8>)> {
        let is_ours = |finding: &&Finding| {
            let (one, other) = (&finding.kernel, &self.kernel);
            (&one.name, &one.image, &one.target) == (&other.name, &other.image, &other.target)
        };
        let is_open = |finding: &&Finding| finding.rate.input.is_none() && finding.known.is_none();
        let open = self.findings.values().filter(is_ours).filter(is_open);
        let input = |name: &String| fs::read(self.finding(name).join("input"));
        open.filter_map(|finding| Some((finding.name.clone(), input(&finding.name).ok()?))).collect()
    }

    /// Where that finding is.
    pub(super) fn finding(&self, name: &str) -> PathBuf {
        self.path.join("findings").join(name)
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
        let program = self.program(&odd.bytes);
        let ending = Ending { traffic: odd.rest.clone(), ..Ending::default() };
        let report = format!("{}\n\n{}", odd.why, transcript(&program, &odd.records, &ending));
        let case = script::print(&program);
        let files = [("case", case.as_bytes()), ("report.txt", report.as_bytes()), ("input", &odd.bytes)];
        self.found(&What::from(odd), &odd.why, &files)
    }

    /// A machine that was lost. Gives it if it is new.
    pub(super) fn lost(&mut self, wreck: &Wreck) -> Result<Option<&Finding>, FolderError> {
        let case = script::print(&self.program(&wreck.input));
        let files = [
            ("case", case.as_bytes()),
            ("report.txt", wreck.why.as_bytes()),
            ("console.log", wreck.console.as_bytes()),
            ("input", &wreck.input),
        ];
        self.found(&What::from(wreck), &wreck.why, &files)
    }

    /// An input as a program.
    fn program(&self, input: &[u8]) -> Program {
        self.target.map_or_else(Program::default, |target| (target.program)(input))
    }

    /// Keep a finding's files, if it is the first with that key. Gives it then.
    pub(super) fn found(
        &mut self,
        what: &What,
        why: &str,
        files: &[(&str, &[u8])],
    ) -> Result<Option<&Finding>, FolderError> {
        let name = what.name();
        let path = self.finding(&name);
        let failed = |source| FolderError { path: path.clone(), source };
        if let Some(known) = self.findings.get_mut(&name) {
            known.times += 1;
            put(&path.join("times"), known.times.to_string().as_bytes()).map_err(failed)?;
            return Ok(None);
        }
        let rate = Rate::default();
        let kernel = toml::to_string(&self.kernel).map_err(|error| failed(io::Error::other(error)))?;
        let unreplayed = rate_file(&rate);
        let more = [("kernel", kernel.as_bytes()), ("times", b"1"), ("rate", unreplayed.as_bytes())];
        put_all(&path, &[files, &more].concat()).map_err(failed)?;
        let why = why.lines().next().unwrap_or_default().to_owned();
        let kernel = self.kernel.clone();
        let mut finding = Finding { name: name.clone(), why, times: 1, rate, kernel, known: None };
        finding.known = self.known.reason(&finding);
        Ok(Some(self.findings.entry(name).or_insert(finding)))
    }

    /// A finding was run again. Its rate is written last: without one, all of it is done again.
    pub(super) fn examined(&mut self, name: &str, examined: &Examined) -> Result<&Finding, FolderError> {
        let path = self.finding(name);
        examined.write(&path).map_err(|source| FolderError { path: path.clone(), source })?;
        let finding = self.findings.entry(name.to_owned()).or_insert_with(|| Finding::read(&path));
        finding.rate = examined.rate.clone();
        Ok(finding)
    }

    /// Write a file so that it is there whole or not at all.
    pub(super) fn write(&self, file: &Path, bytes: &[u8]) -> Result<(), FolderError> {
        let path = self.path.join(file);
        put(&path, bytes).map_err(|source| FolderError { path, source })
    }
}
