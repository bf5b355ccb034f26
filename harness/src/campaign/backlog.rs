//! What could not be written yet. A campaign whose folder is full, or gone for a while, goes on; what it has found is kept here
//! and written as soon as there is room.
//!
//! It decides nothing about what is worth keeping, and gives up nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::finding::{put, put_all};

/// Files, each with its name below a folder.
type Files = Vec<(String, Vec<u8>)>;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// In the order in which it is to be written, as some files say that others are there.
    findings: Vec<Waiting>,
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// Why, the last time that something could not be written.
    why: String,
}

/// Something of a finding.
#[derive(Debug)]
struct Waiting {
    folder: PathBuf,
    what: Part,
}

#[derive(Debug)]
enum Part {
    Whole(Files),
    File(String, Vec<u8>),
}

/// What of a campaign is in no file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unwritten {
    /// The names of findings of which something is missing.
    pub findings: BTreeSet<String>,
    /// Other files: inputs and figures.
    pub files: usize,
    /// Why.
    pub why: String,
}

impl Backlog {
    /// Put a finding there, with all of its files.
    pub(super) fn finding(&mut self, folder: &Path, files: Files) {
        self.write_part(Waiting { folder: folder.to_owned(), what: Part::Whole(files) });
    }

    /// Put a file of a finding there.
    pub(super) fn file_of_finding(&mut self, folder: &Path, file: &str, bytes: &[u8]) {
        let is_it = |waiting: &&mut Waiting| {
            waiting.folder == folder && matches!(&waiting.what, Part::File(name, _) if name == file)
        };
        match self.findings.iter_mut().find(is_it) {
            Some(waiting) => waiting.what = Part::File(file.to_owned(), bytes.to_vec()),
            None => self.write_part(Waiting {
                folder: folder.to_owned(),
                what: Part::File(file.to_owned(), bytes.to_vec()),
            }),
        }
    }

    fn write_part(&mut self, part: Waiting) {
        // Nothing of a finding overtakes what waits of it.
        if self.findings.iter().any(|waiting| waiting.folder == part.folder) {
            self.findings.push(part);
        } else if let Err(error) = part.write() {
            self.why = error.to_string();
            self.findings.push(part);
        }
    }

    /// Put a file there that is no finding's.
    pub(super) fn file(&mut self, path: &Path, bytes: &[u8]) {
        match put(path, bytes) {
            Ok(()) => drop(self.files.remove(path)),
            Err(error) => {
                self.why = error.to_string();
                self.files.insert(path.to_owned(), bytes.to_vec());
            }
        }
    }

    /// A file of a finding, as it is or will be.
    pub(super) fn read(&self, folder: &Path, file: &str) -> io::Result<Vec<u8>> {
        let waiting = self.findings.iter().rev().filter(|waiting| waiting.folder == folder);
        let found = waiting.filter_map(|waiting| match &waiting.what {
            Part::File(name, bytes) => (name == file).then_some(bytes),
            Part::Whole(files) => files.iter().find(|(name, _)| name == file).map(|(_, bytes)| bytes),
        });
        found.take(1).next().map_or_else(|| fs::read(folder.join(file)), |bytes| Ok(bytes.clone()))
    }

    /// Does it wait?
    pub(super) fn has(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Remove a file, or the need to write it. One that cannot be removed stays.
    pub(super) fn drop_file(&mut self, path: &Path) {
        self.files.remove(path);
        let _ = fs::remove_file(path);
    }

    /// Try again. Findings come first.
    pub(super) fn again(&mut self) {
        let mut failed: BTreeSet<PathBuf> = BTreeSet::new();
        for waiting in std::mem::take(&mut self.findings) {
            if failed.contains(&waiting.folder) {
                self.findings.push(waiting);
            } else if let Err(error) = waiting.write() {
                self.why = error.to_string();
                failed.insert(waiting.folder.clone());
                self.findings.push(waiting);
            }
        }
        while let Some((path, bytes)) = self.files.pop_first() {
            if let Err(error) = put(&path, &bytes) {
                self.why = error.to_string();
                self.files.insert(path, bytes);
                return;
            }
        }
    }

    /// What waits.
    pub(super) fn unwritten(&self) -> Unwritten {
        let name = |waiting: &Waiting| {
            waiting.folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        };
        let findings: BTreeSet<String> = self.findings.iter().map(name).collect();
        let is_nothing = findings.is_empty() && self.files.is_empty();
        let why = if is_nothing { String::new() } else { self.why.clone() };
        Unwritten { findings, files: self.files.len(), why }
    }
}

impl Waiting {
    fn write(&self) -> io::Result<()> {
        match &self.what {
            Part::Whole(files) => put_all(&self.folder, files),
            Part::File(name, bytes) => put(&self.folder.join(name), bytes),
        }
    }
}

impl Unwritten {
    /// Is everything written?
    pub fn is_nothing(&self) -> bool {
        self.findings.is_empty() && self.files == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that takes nothing until [`Full::make_room`]: something is in its way.
    struct Full {
        temp: tempfile::TempDir,
    }

    impl Full {
        fn new() -> Full {
            let temp = tempfile::tempdir().unwrap();
            fs::write(temp.path().join("folder"), "in the way").unwrap();
            Full { temp }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.temp.path().join("folder").join(name)
        }

        fn make_room(&self) {
            fs::remove_file(self.temp.path().join("folder")).unwrap();
        }
    }

    fn files(name: &str, text: &str) -> Files {
        vec![(name.into(), text.into())]
    }

    #[test]
    fn what_waits_is_written_whole_as_soon_as_there_is_room() {
        let (full, mut backlog) = (Full::new(), Backlog::default());
        let (one, other) = (full.path("findings/one"), full.path("findings/other"));
        backlog.finding(&one, files("case", "original"));
        backlog.file_of_finding(&one, "counts/me", b"1");
        backlog.file_of_finding(&one, "counts/me", b"2");
        backlog.finding(&other, files("case", "other"));
        backlog.file(&full.path("corpus/a"), b"input");
        backlog.again();
        let unwritten = backlog.unwritten();
        assert_eq!((unwritten.findings.len(), unwritten.files), (2, 1), "{unwritten:?}");
        assert!(!unwritten.why.is_empty() && backlog.has(&full.path("corpus/a")));
        // There is room, and nothing overtakes what has waited.
        full.make_room();
        backlog.file_of_finding(&one, "case", b"least");
        assert!(!one.exists());
        assert_eq!(backlog.read(&one, "case").unwrap(), b"least");
        backlog.again();
        assert_eq!(backlog.unwritten(), Unwritten::default());
        assert_eq!(backlog.read(&one, "case").unwrap(), b"least");
        assert_eq!(fs::read(one.join("counts/me")).unwrap(), b"2");
        assert_eq!(fs::read(other.join("case")).unwrap(), b"other");
        assert_eq!(fs::read(full.path("corpus/a")).unwrap(), b"input");
    }

    #[test]
    fn one_that_cannot_be_written_is_in_nobodys_way() {
        let (full, mut backlog) = (Full::new(), Backlog::default());
        let here = full.temp.path().join("there/one");
        backlog.finding(&full.path("one"), files("case", "x"));
        backlog.finding(&here, files("case", "y"));
        assert_eq!(fs::read(here.join("case")).unwrap(), b"y");
        assert_eq!(backlog.unwritten().findings, ["one".to_owned()].into());
    }
}
