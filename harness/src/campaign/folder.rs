//! What survives a campaign: a corpus, one file an input, and findings, one folder each.
//!
//! ```text
//! corpus/<target>/<hash>       an input, as bytes
//! findings/<name>/             see [`super::finding`]
//! coverage/<kernel>-<digest>/  see [`super::coverage`]
//! history/<target>/<kernel>/   see [`super::history`]
//! report.html                  all of it, as a page
//! id  lock                     who writes here
//! corpus/<target>.lock         who drops inputs that are not needed
//! ```
//!
//! Several campaigns may use it at once: a file has the hash of what is in it as its name, or that of its writer. It is there whole
//! or not at all, whatever ends the program; what cannot be written waits in the [`Backlog`]. The folder does not know what an
//! input means, but prints it as a case.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::backlog::{Backlog, Unwritten};
use super::finding::{COUNTS, Finding, Identity, NEW, Rate, What, hash, put_new, rate_file};
use super::known::Known;
use super::partition::Partition;
use super::replay::Examined;
use super::{Target, Wreck};
use crate::generate::Inputs;
use crate::protocol::{Ending, Odd};
use crate::transcript::{abridged, transcript};

/// A campaign's folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Whose inputs it holds; none for a target that keeps them itself.
    target: Option<Target>,
    corpus: BTreeMap<String, Vec<u8>>,
    findings: BTreeMap<String, Finding>,
    /// How often this writer has met a finding, here and in earlier campaigns.
    counts: BTreeMap<String, usize>,
    known: Known,
    /// Where it is fuzzed now.
    kernel: Identity,
    partition: Partition,
    /// What this writer's files are called.
    writer: String,
    backlog: Backlog,
    /// How often inputs were dropped.
    generation: u64,
    /// How often on end an input brought nothing.
    dull: BTreeMap<String, u32>,
    /// Held by the one that drops inputs.
    sieve: Option<File>,
    /// Held as long as somebody writes here.
    _lock: Option<File>,
}

/// What the turn of a machine begins with.
pub(super) struct Turn {
    /// How often inputs had been dropped by then.
    pub(super) generation: u64,
    /// Each with its name.
    pub(super) inputs: Vec<(String, Vec<u8>)>,
}

/// An input that brings nothing so often on end is dropped: once may be chance.
const DROPPED: u32 = 2;

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

/// Remove what was being made when a program was ended.
fn clear(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let (path, name, is_folder) = match entry {
            Ok(entry) => (entry.path(), entry.file_name(), entry.file_type()?.is_dir()),
            Err(error) => return Err(error),
        };
        match (name.to_string_lossy().starts_with(NEW), is_folder) {
            (true, true) => fs::remove_dir_all(path)?,
            (true, false) => fs::remove_file(path)?,
            (false, true) => clear(&path)?,
            (false, false) => {}
        }
    }
    Ok(())
}

/// Say that somebody writes here. Whoever is alone clears up first: what others are making looks the same.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::create(path.join("lock"))?;
    if file.try_lock().is_ok() {
        clear(path)?;
        file.unlock()?;
    }
    file.lock_shared()?;
    Ok(file)
}

/// The lock of that name, if nobody else has it.
pub(super) fn alone(path: &Path) -> Option<File> {
    File::create(path).ok().filter(|file| file.try_lock().is_ok())
}

/// What tells the writers of this folder from those of others. It is made once.
fn id(path: &Path) -> String {
    let file = path.join("id");
    let read = || fs::read_to_string(&file).ok().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty());
    read().unwrap_or_else(|| {
        let id = format!("{:08x}", fastrand::u32(..));
        // Somebody else may have been quicker. Where nothing can be written, it is this campaign's alone.
        let _ = put_new(&file, id.as_bytes());
        read().unwrap_or(id)
    })
}

impl Folder {
    /// The folder at that path, which is made if need be, with the inputs of that target, in the light of what is known, for one
    /// part of those who use it.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub fn open(
        path: &Path,
        target: Option<Target>,
        known: Known,
        partition: Partition,
    ) -> Result<Folder, FolderError> {
        let failed = |source| FolderError { path: path.to_owned(), source };
        fs::create_dir_all(path.join("findings")).map_err(failed)?;
        // A file system without locks, or without room for one, is no reason to stop.
        let lock = lock(path).ok();
        let findings = read_all(path, &known).map_err(failed)?;
        let mut folder = Folder {
            path: path.to_owned(),
            target,
            corpus: BTreeMap::new(),
            findings: findings.into_iter().map(|finding| (finding.name.clone(), finding)).collect(),
            counts: BTreeMap::new(),
            known,
            kernel: Identity::default(),
            partition,
            // Campaigns of several targets may use it at once.
            writer: format!(
                "{}-{}{}",
                id(path),
                partition.word(),
                target.map_or_else(String::new, |target| format!("-{}", target.name))
            ),
            backlog: Backlog::default(),
            generation: 0,
            dull: BTreeMap::new(),
            sieve: None,
            _lock: lock,
        };
        if let Some(inputs) = folder.inputs_folder() {
            fs::create_dir_all(&inputs).map_err(failed)?;
            folder.sieve = alone(&inputs.with_extension("lock"));
        }
        folder.refresh().map_err(failed)?;
        Ok(folder)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The name of this writer's own files.
    pub(super) fn writer(&self) -> &str {
        &self.writer
    }

    fn inputs_folder(&self) -> Option<PathBuf> {
        self.target.map(|target| self.path.join("corpus").join(target.name))
    }

    /// Take what others have added to the corpus, and leave what they have dropped.
    ///
    /// # Errors
    /// It cannot be read. What is known stays.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        let Some(inputs) = self.inputs_folder() else { return Ok(()) };
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&inputs)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                names.insert(name);
            }
        }
        let backlog = &self.backlog;
        self.corpus.retain(|name, _| names.contains(name) || backlog.has(&inputs.join(name)));
        names.retain(|name| !self.corpus.contains_key(name));
        for name in names {
            let input = fs::read(inputs.join(&name))?;
            // One of ours that is not what its name says was cut.
            let is_ours = name.len() == 16 && name.chars().all(|letter| letter.is_ascii_hexdigit());
            if !is_ours || hash(&input) == name {
                self.corpus.insert(name, input);
            }
        }
        Ok(())
    }

    /// What is found from here on is found there.
    pub(super) fn on(&mut self, kernel: Identity) {
        self.kernel = kernel;
    }

    /// Findings of this kernel and target that wake somebody, were not run again, and are this part's; each with its input.
    pub(super) fn open_ones(&self) -> Vec<(String, Vec<u8>)> {
        let is_ours = |finding: &&Finding| {
            let (one, other) = (&finding.kernel, &self.kernel);
            let number = finding.name.bytes().map(u64::from).sum();
            (&one.name, &one.image, &one.target) == (&other.name, &other.image, &other.target)
                && self.partition.has(number)
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

    /// All inputs of now.
    pub(super) fn turn(&self) -> Turn {
        let inputs = self.corpus.iter().map(|(name, input)| (name.clone(), input.clone()));
        Turn { generation: self.generation, inputs: inputs.collect() }
    }

    /// Inputs of a turn were run, in that generation, and some brought nothing. What does so twice on end is dropped.
    ///
    /// Each of two inputs may bring nothing because of the other: so those that made them needless must be there still, which they
    /// are if nothing was dropped since the turn began; and of several campaigns one drops.
    pub(super) fn sift(&mut self, generation: u64, ran: &[(String, bool)]) {
        for (name, is_dull) in ran {
            match (is_dull, self.corpus.contains_key(name)) {
                (true, true) => *self.dull.entry(name.clone()).or_default() += 1,
                _ => drop(self.dull.remove(name)),
            }
        }
        if self.sieve.is_none() || generation != self.generation {
            return;
        }
        let Some(inputs) = self.inputs_folder() else { return };
        for (name, _) in ran.iter().filter(|(_, is_dull)| *is_dull) {
            if self.dull.get(name).is_some_and(|times| *times >= DROPPED) {
                self.dull.remove(name);
                self.corpus.remove(name);
                self.backlog.drop_file(&inputs.join(name));
                self.generation = generation + 1;
            }
        }
    }

    /// How many inputs there are.
    pub(super) fn len(&self) -> usize {
        self.corpus.len()
    }

    /// All findings, by name.
    pub fn findings(&self) -> &BTreeMap<String, Finding> {
        &self.findings
    }

    /// The same with those that others have found meanwhile, as far as they can be read.
    pub(super) fn all_findings(&self) -> Vec<Finding> {
        let mut all = read_all(&self.path, &self.known).unwrap_or_default();
        let is_there = |name: &String| all.iter().any(|finding| finding.name == *name);
        let unwritten: Vec<_> = self
            .findings
            .iter()
            .filter(|(name, _)| !is_there(name))
            .map(|(_, finding)| finding.clone())
            .collect();
        all.extend(unwritten);
        all
    }

    /// Keep an input.
    pub fn keep(&mut self, input: &[u8]) {
        let name = hash(input);
        if let Some(inputs) = self.inputs_folder()
            && !self.corpus.contains_key(&name)
        {
            self.backlog.file(&inputs.join(&name), input);
            self.corpus.insert(name, input.to_vec());
        }
    }

    /// Something that the oracle forbids, or that stayed behind. Gives it if it is new.
    pub(super) fn odd(&mut self, odd: &Odd) -> Option<&Finding> {
        let program = self.inputs().and_then(|inputs| inputs.program(&odd.bytes)).unwrap_or_default();
        let ending = Ending { traffic: odd.rest.clone(), ..Ending::default() };
        let report = format!("{}\n\n{}", odd.why, abridged(&transcript(&program, &odd.records, &ending)));
        let case = self.print(&odd.bytes);
        let files = [("case", case.as_bytes()), ("report.txt", report.as_bytes()), ("input", &odd.bytes)];
        self.found(&What::from(odd), &odd.why, &files)
    }

    /// A machine that was lost. Gives it if it is new.
    pub(super) fn lost(&mut self, wreck: &Wreck) -> Option<&Finding> {
        let case = self.print(&wreck.input);
        let files = [
            ("case", case.as_bytes()),
            ("report.txt", wreck.why.as_bytes()),
            ("console.log", wreck.console.as_bytes()),
            ("input", &wreck.input),
        ];
        self.found(&What::from(wreck), &wreck.why, &files)
    }

    fn inputs(&self) -> Option<Inputs> {
        self.target.map(|target| target.inputs)
    }

    /// An input for a person to read.
    fn print(&self, input: &[u8]) -> String {
        self.inputs().map(|inputs| inputs.print(input)).unwrap_or_default()
    }

    /// Keep a finding's files, if it is the first with that key. Gives it then.
    pub(super) fn found(&mut self, what: &What, why: &str, files: &[(&str, &[u8])]) -> Option<&Finding> {
        let name = what.name();
        let (path, is_new) = (self.finding(&name), !self.findings.contains_key(&name));
        if is_new {
            let finding = Finding {
                name: name.clone(),
                why: why.lines().next().unwrap_or_default().to_owned(),
                times: 0,
                rate: Rate::default(),
                kernel: self.kernel.clone(),
                known: None,
            };
            let kernel = toml::to_string(&self.kernel).expect("plain data");
            let unreplayed = rate_file(&finding.rate);
            let more = [("kernel", kernel.as_bytes()), ("rate", unreplayed.as_bytes())];
            let files = files.iter().chain(&more).map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
            self.backlog.finding(&path, files.collect());
            let known = self.known.reason(&finding);
            self.findings.insert(name.clone(), Finding { known, ..finding });
        }
        let file = format!("{COUNTS}/{}", self.writer);
        let before = || fs::read_to_string(path.join(&file)).ok().and_then(|text| text.trim().parse().ok());
        let count = self.counts.entry(name.clone()).or_insert_with(|| before().unwrap_or(0));
        *count += 1;
        self.backlog.file_of_finding(&path, &file, count.to_string().as_bytes());
        let finding = self.findings.get_mut(&name)?;
        finding.times += 1;
        is_new.then_some(&*finding)
    }

    /// A finding was run again. Its rate is written last: without one, all of it is done again.
    pub(super) fn examined(&mut self, name: &str, examined: &Examined) -> &Finding {
        let path = self.finding(name);
        // What cannot be read is not written over: the next campaign does all of it again.
        for (file, bytes) in examined.files(&|file| self.backlog.read(&path, file)).unwrap_or_default() {
            self.backlog.file_of_finding(&path, file, &bytes);
        }
        let finding = self.findings.entry(name.to_owned()).or_insert_with(|| Finding::read(&path));
        finding.rate = examined.rate.clone();
        finding
    }

    /// Write a file so that it is there whole or not at all, now or later.
    pub(super) fn write(&mut self, file: &Path, bytes: &[u8]) {
        self.backlog.file(&self.path.join(file), bytes);
    }

    /// Write what could not be written before.
    pub(super) fn write_again(&mut self) {
        self.backlog.again();
    }

    /// See that nothing waits to be written.
    ///
    /// # Errors
    /// Something does.
    pub(super) fn written(&self) -> Result<(), FolderError> {
        let unwritten = self.unwritten();
        let failed = || FolderError::at(&self.path, io::Error::other(unwritten.why.clone()));
        if unwritten.is_nothing() { Ok(()) } else { Err(failed()) }
    }

    /// What could not be written yet.
    pub fn unwritten(&self) -> Unwritten {
        self.backlog.unwritten()
    }

    /// A file of a finding as text, also if it is in no file yet.
    pub fn text_of(&self, finding: &str, file: &str) -> Option<String> {
        let bytes = self.backlog.read(&self.finding(finding), file).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests;
