//! A campaign over time: a line every ten seconds in the folder, one file a writer, and what all of them say together.
//!
//! ```text
//! history/<target>/<kernel>/<writer>.jsonl
//! ```
//!
//! Lines are only ever added. One that was cut, as its program or its computer was ended, is left out; campaigns that went on where
//! others had ended are one night. It draws nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use procfs::WithCurrentSystemInfo as _;
use procfs::process::{Process, Stat};
use serde::{Deserialize, Serialize};

use super::finding::entries;
use super::{Figures, FolderError};

/// Below a campaign's folder.
pub(super) const FOLDER: &str = "history";

/// How it stood at one moment. Figures count from the beginning of the campaign that wrote it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// When the campaign began, in seconds since 1970.
    pub begun: u64,
    /// Since then.
    pub seconds: f64,
    /// Inputs that were run.
    pub execs: u64,
    /// So many a second since the line before.
    pub rate: f64,
    /// Instrumented places that were ever passed.
    pub places: usize,
    /// Inputs in the corpus.
    pub corpus: usize,
    /// Different findings that are not known.
    pub findings: usize,
    /// Machines that were lost.
    pub restores: u64,
    /// Memory in use.
    pub memory: Memory,
}

/// Memory in use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// By this program.
    pub own: u64,
    /// By the machines, or the processes, that it has started.
    pub guests: u64,
}

/// What one writer said of one target on one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The target.
    pub target: String,
    /// The kernel, as the file's path has it.
    pub kernel: String,
    /// Who wrote it.
    pub writer: String,
    /// How many campaigns there were.
    pub campaigns: usize,
    /// In order. Figures count from the beginning of the first campaign.
    pub moments: Vec<Moment>,
}

impl Memory {
    /// That of now. What cannot be found out counts as nothing.
    pub(super) fn now() -> Memory {
        let bytes = |stat: Stat| stat.rss_bytes().get();
        let of = |process: Process| process.stat().map_or(0, bytes);
        let Ok(own) = Process::myself() else { return Memory::default() };
        let children = own.tasks().into_iter().flatten().flatten().filter_map(|task| task.children().ok());
        let processes = children.flatten().filter_map(|pid| Process::new(pid as i32).ok());
        let guests = processes.map(of).sum();
        Memory { own: of(own), guests }
    }
}

/// The file of a writer, below a campaign's folder.
pub(super) fn file(target: &str, kernel: &str, writer: &str) -> PathBuf {
    Path::new(FOLDER).join(target).join(kernel).join(format!("{writer}.jsonl"))
}

/// A file that lines are added to.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    /// What could not be written yet.
    waiting: String,
    /// The file may end within a line.
    is_torn: bool,
}

impl Lines {
    pub(super) fn new(path: PathBuf) -> Lines {
        Lines { path, waiting: String::new(), is_torn: true }
    }

    /// Add a line, and those that could not be written before.
    pub(super) fn add(&mut self, moment: &Moment) {
        self.waiting.push_str(&serde_json::to_string(moment).expect("plain data"));
        self.waiting.push('\n');
        match self.write() {
            Ok(()) => self.waiting.clear(),
            Err(_) => self.is_torn = true,
        }
    }

    fn write(&mut self) -> io::Result<()> {
        fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
        let mut file = fs::OpenOptions::new().create(true).append(true).read(true).open(&self.path)?;
        let is_cut = std::mem::take(&mut self.is_torn) && file.seek(SeekFrom::End(-1)).is_ok() && {
            let mut last = [0];
            file.read_exact(&mut last)?;
            last != *b"\n"
        };
        // At once, so that those of others do not come in between.
        file.write_all(if is_cut { format!("\n{}", self.waiting) } else { self.waiting.clone() }.as_bytes())
    }
}

/// The lines of a text, each once, in the order in which they were written.
pub(super) fn moments(text: &str) -> Vec<Moment> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Moment>(line).ok());
    // Times are not negative, so their bits are ordered as they are.
    let once: BTreeMap<(u64, u64), Moment> =
        lines.map(|moment| ((moment.begun, moment.seconds.to_bits()), moment)).collect();
    once.into_values().collect()
}

/// What was written of all targets in a campaign's folder.
///
/// # Errors
/// It cannot be read.
pub(super) fn histories(folder: &Path) -> Result<Vec<History>, FolderError> {
    let folder = folder.join(FOLDER);
    let read = || {
        let mut found = Vec::new();
        for (target, path) in entries(&folder)? {
            for (kernel, path) in entries(&path)? {
                for (file, path) in entries(&path)? {
                    let Some(writer) = file.strip_suffix(".jsonl") else { continue };
                    let text = fs::read(path)?;
                    let moments = moments(&String::from_utf8_lossy(&text));
                    found.push(history(&target, &kernel, writer, moments));
                }
            }
        }
        Ok(found)
    };
    read().map_err(|source| FolderError::at(&folder, source))
}

/// Campaigns one after the other, as one.
fn history(target: &str, kernel: &str, writer: &str, mut moments: Vec<Moment>) -> History {
    let (mut campaigns, mut before, mut last) = (0, Moment::default(), Moment::default());
    for moment in &mut moments {
        if campaigns == 0 || moment.begun != last.begun {
            campaigns += 1;
            before.seconds += last.seconds;
            before.execs += last.execs;
            before.restores += last.restores;
        }
        last = moment.clone();
        moment.seconds += before.seconds;
        moment.execs += before.execs;
        moment.restores += before.restores;
    }
    History { target: target.into(), kernel: kernel.into(), writer: writer.into(), campaigns, moments }
}

impl Moment {
    pub(super) fn of(figures: &Figures, begun: u64, rate: f64) -> Moment {
        Moment {
            begun,
            seconds: figures.seconds,
            execs: figures.execs,
            rate,
            places: figures.places,
            corpus: figures.corpus,
            findings: figures.findings,
            restores: figures.restores,
            memory: figures.memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(begun: u64, seconds: f64, execs: u64) -> Moment {
        Moment { begun, seconds, execs, restores: 1, ..Moment::default() }
    }

    #[test]
    fn campaigns_that_go_on_are_one_night_and_what_was_cut_is_left_out() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(file("sequence", "kasan-7.2", "x-1-of-1"));
        let mut lines = Lines::new(path.clone());
        lines.add(&moment(100, 10.0, 7));
        lines.add(&moment(100, 20.0, 9));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..20]].concat()).unwrap();
        let mut lines = Lines::new(path.clone());
        lines.add(&moment(300, 10.0, 1));
        // As a write that did not get through leaves it.
        fs::write(&path, [&fs::read(&path).unwrap()[..], b"\xff{"].concat()).unwrap();
        let [told] = &histories(temp.path()).unwrap()[..] else { panic!("one history") };
        let figures: Vec<_> = told.moments.iter().map(|one| (one.seconds, one.execs, one.restores)).collect();
        assert_eq!(figures, [(10.0, 7, 1), (20.0, 9, 1), (30.0, 10, 2)]);
        assert_eq!(
            (told.campaigns, told.writer.as_str(), told.kernel.as_str()),
            (2, "x-1-of-1", "kasan-7.2")
        );
    }

    #[test]
    fn what_cannot_be_written_is_written_later_and_counts_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("history");
        fs::write(&path, "in the way").unwrap();
        let mut lines = Lines::new(path.join("a/b/c.jsonl"));
        lines.add(&moment(1, 10.0, 1));
        lines.add(&moment(1, 20.0, 2));
        fs::remove_file(&path).unwrap();
        lines.add(&moment(1, 30.0, 3));
        lines.add(&moment(1, 30.0, 3));
        assert_eq!(histories(temp.path()).unwrap()[0].moments.len(), 3);
    }

    #[test]
    fn this_program_takes_memory() {
        let mut child = std::process::Command::new("sleep").arg("9").spawn().unwrap();
        // It has none before it has begun.
        let begin = std::time::Instant::now();
        let mut memory = Memory::now();
        while memory.guests == 0 && begin.elapsed().as_secs() < 5 {
            memory = Memory::now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(memory.own > 1 << 20 && memory.guests > 0, "{memory:?}");
    }
}
