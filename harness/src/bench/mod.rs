//! What passthrough buys: which work is measured in which ways, and what the times mean.
//!
//! A [`Row`] is work, and columns that do it: the same folder natively and through daemons that serve it differently. All columns
//! of a row take turns within one run, and its first one, which the others are compared with, comes twice: how much
//! these two differ says how far the other figures can be trusted. Nothing here measures, and nothing says what a figure
//! has to be.

mod figures;
mod own;
mod rows;
mod statistics;

pub use figures::{Bench, Figure, Kernel, Measured};
pub use own::{Bound, Cost, Judged, Limit, Own};
pub use rows::{Point, Row, Unit, rows};
pub use statistics::{FEWEST_ROUNDS, Ratio, Spread, Verdict};

use serde::{Deserialize, Serialize};

/// The most that is taken of a reason that comes from a guest.
const LONGEST: usize = 300;

/// What is below the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lower {
    /// Memory.
    Tmpfs,
    /// A file system with blocks: on a disk of the machine's, or on a loop device where there is none.
    Ext4,
}

impl std::fmt::Display for Lower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lower::Tmpfs => "tmpfs",
            Lower::Ext4 => "ext4",
        })
    }
}

/// How a daemon opens files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opens {
    /// As any daemon: the kernel caches what is read.
    Cached,
    /// With FOPEN_DIRECT_IO: nothing is cached.
    Direct,
    /// With FOPEN_PASSTHROUGH and an id that is registered for this open and closed with it.
    PassedEach,
    /// With FOPEN_PASSTHROUGH and an id that is registered at the file's first open and kept.
    PassedKept,
}

/// How data gets into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrier {
    /// read(2) and write(2) on the device.
    Copies,
    /// The same, but what is read is spliced from the lower file through a pipe.
    Splices,
    /// FUSE over io_uring.
    Ring,
}

/// A daemon: all that a column can differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// How files are opened.
    pub opens: Opens,
    /// How requests and replies travel.
    pub carrier: Carrier,
    /// Whether what is written lies in the kernel until it is written back.
    pub writes_back: bool,
    /// The most pages of a request.
    pub pages: u16,
    /// What each WRITE takes longer, in microseconds of work.
    pub delay: u32,
    /// Whether the kernel may keep what symlinks say.
    pub keeps_links: bool,
    /// Whether opening a folder is a request; otherwise the first one is answered with ENOSYS.
    pub opens_folders: bool,
}

/// The usual daemon.
pub const CACHED: Serving = Serving {
    opens: Opens::Cached,
    carrier: Carrier::Copies,
    writes_back: false,
    pages: 256,
    delay: 0,
    keeps_links: false,
    opens_folders: true,
};

/// Who does a row's work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// What a reader calls it.
    pub name: String,
    /// The daemon; none for the folder below it, natively.
    pub serving: Option<Serving>,
}

/// Is what is read in memory before?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cache {
    /// Nowhere that the kernel can be told to drop it from.
    Cold,
    /// It is.
    Warm,
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// From the beginning on.
    Sequential,
    /// By chance, each place once.
    Random,
}

/// What is timed, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Read a large file.
    Read {
        /// In which order.
        order: Order,
        /// What of it is in memory.
        cache: Cache,
        /// Bytes of a call.
        piece: u32,
        /// How many calls.
        count: u32,
    },
    /// Write over a large file, and close it.
    Write {
        /// In which order.
        order: Order,
        /// Bytes of a call.
        piece: u32,
        /// How many calls.
        count: u32,
        /// Whether fsync(2) ends it.
        syncs: bool,
    },
    /// Map a large file and touch each page.
    Touch {
        /// How many pages.
        pages: u32,
    },
    /// Open small files one after the other, read each and close it.
    SmallFiles {
        /// How many there are.
        all: u32,
        /// How many of them are opened: the same ones each time, with equal distances.
        count: u32,
    },
    /// Open files and close them, by several tasks at once, each with its own.
    Tasks {
        /// How many tasks.
        tasks: u32,
        /// How many opens, all tasks together.
        count: u32,
    },
    /// Open files and close them while others are open.
    Beside {
        /// How many others.
        open: u32,
        /// How many opens.
        count: u32,
    },
    /// Read symlinks that were read before.
    Links {
        /// How many.
        count: u32,
    },
    /// Open folders and close them.
    Folders {
        /// How many times.
        count: u32,
    },
}

/// Bytes of a small file.
pub const SMALL: u32 = 4 << 10;
/// Bytes of a page.
pub const PAGE: u32 = 4 << 10;

impl Work {
    /// How many operations it is.
    pub fn count(self) -> u32 {
        match self {
            Work::Touch { pages } => pages,
            Work::Read { count, .. }
            | Work::Write { count, .. }
            | Work::SmallFiles { count, .. }
            | Work::Tasks { count, .. }
            | Work::Beside { count, .. }
            | Work::Links { count }
            | Work::Folders { count } => count,
        }
    }

    /// How many bytes it moves, where that is what it is about.
    pub fn bytes(self) -> u64 {
        match self {
            Work::Read { piece, count, .. } | Work::Write { piece, count, .. } => {
                u64::from(piece) * u64::from(count)
            }
            Work::Touch { pages } => u64::from(PAGE) * u64::from(pages),
            _ => 0,
        }
    }
}

/// What an agent is to measure: a row's work on one lower file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What is below.
    pub lower: Lower,
    /// The work.
    pub work: Work,
    /// Who does it, in turns. The last one is the first one again.
    pub columns: Vec<Column>,
    /// How many turns.
    pub rounds: u32,
    /// What their order, and places in files, are chosen by.
    pub seed: u64,
}

impl Job {
    /// The columns, with the first one as its own control at the end.
    pub fn new(lower: Lower, work: Work, columns: &[Column], rounds: u32, seed: u64) -> Job {
        let control = columns.first().cloned();
        let columns = columns.iter().cloned().chain(control).collect();
        Job { lower, work, columns, rounds, seed }
    }
}

/// What an agent tells of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// What the columns stand on is there; what it is.
    Set(String),
    /// A column cannot do the work.
    Skipped {
        /// Its place.
        column: u32,
        /// Why not.
        why: String,
    },
    /// A column has had its turn.
    Sample {
        /// Its place.
        column: u32,
        /// How long the work took, once.
        nanos: u64,
    },
    /// Each has had all its turns.
    Done,
}

/// What is bare: how long one of it takes, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bare {
    /// A mount, INIT, and the end of both.
    pub mount: u64,
    /// A message that the device refuses.
    pub message: u64,
}

/// What a column came to: a time a round, or why there are none.
pub type Times = Result<Vec<u64>, String>;

/// What came of a job, as far as it went: what an agent tells is believed only where it can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What was below, in the agent's words.
    pub lower: String,
    /// Of each column of the job.
    pub times: Vec<Times>,
    rounds: usize,
    /// Whether the agent has said what is below.
    is_set: bool,
}

impl Heard {
    /// Of a job that nothing was heard of yet.
    pub fn of(job: &Job) -> Heard {
        Heard {
            lower: job.lower.to_string(),
            times: vec![Ok(Vec::new()); job.columns.len()],
            rounds: job.rounds as usize,
            is_set: false,
        }
    }

    /// Take in what was told. Says whether that was the end. What can be told is bounded: a word for each turn, one for each column,
    /// and what is below.
    ///
    /// # Errors
    /// No agent in its right mind says so; what is wrong with it.
    pub fn hear(&mut self, told: Told) -> Result<bool, String> {
        match told {
            Told::Set(lower) if !self.is_set => (self.lower, self.is_set) = (cut(lower), true),
            Told::Set(_) => return Err("the agent tells twice what is below".into()),
            Told::Skipped { column, why } => {
                let own = self.column(column)?;
                if !own.as_ref().is_ok_and(Vec::is_empty) {
                    return Err(format!("the agent leaves out column {column}, which it has told of"));
                }
                *own = Err(cut(why));
            }
            Told::Sample { column, nanos } => {
                let most = self.rounds;
                match self.column(column)? {
                    Ok(times) if nanos > 0 && times.len() < most => times.push(nanos),
                    _ => return Err(format!("the agent tells a time of {nanos} ns that no turn can have")),
                }
            }
            Told::Done => {
                let rounds = self.rounds;
                let lacks = |times: &&Times| times.as_ref().is_ok_and(|times| times.len() != rounds);
                if self.times.iter().any(|times| lacks(&times)) {
                    return Err("the agent is done before each column has had its turns".into());
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn column(&mut self, column: u32) -> Result<&mut Times, String> {
        let all = self.times.len();
        let wrong = || format!("the agent tells of column {column} of {all}");
        self.times.get_mut(column as usize).ok_or_else(wrong)
    }
}

fn cut(text: String) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        let column = Column { name: "cached".into(), serving: Some(CACHED) };
        Job::new(Lower::Tmpfs, Work::Links { count: 3 }, &[column], 2, 0)
    }

    #[test]
    fn the_first_column_is_its_own_control() {
        let job = job();
        assert_eq!(job.columns.len(), 2);
        assert_eq!(job.columns[0], job.columns[1]);
    }

    #[test]
    fn what_is_told_is_taken_in() {
        let mut heard = Heard::of(&job());
        let sample = |column, nanos| Told::Sample { column, nanos };
        let all = [Told::Set("tmpfs".into()), sample(0, 5), sample(1, 6), sample(1, 7), sample(0, 8)];
        for told in all {
            assert_eq!(heard.hear(told), Ok(false));
        }
        assert_eq!(heard.hear(Told::Done), Ok(true));
        assert_eq!(heard.times, [Ok(vec![5, 8]), Ok(vec![6, 7])]);
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        let fresh = || Heard::of(&job());
        assert!(fresh().hear(Told::Done).is_err());
        assert!(fresh().hear(Told::Sample { column: 2, nanos: 1 }).is_err());
        assert!(fresh().hear(Told::Sample { column: 0, nanos: 0 }).is_err());
        assert!(fresh().hear(Told::Skipped { column: 9, why: String::new() }).is_err());
        let mut heard = fresh();
        let (set, skipped) = (Told::Set("tmpfs".into()), Told::Skipped { column: 1, why: "no".into() });
        for once in [set, skipped] {
            assert_eq!(heard.hear(once.clone()), Ok(false));
            assert!(heard.hear(once).is_err());
        }
        assert_eq!(heard.hear(Told::Sample { column: 0, nanos: 1 }), Ok(false));
        assert!(heard.hear(Told::Skipped { column: 0, why: "no".into() }).is_err());
        let mut heard = fresh();
        let sample = || Told::Sample { column: 0, nanos: 1 };
        assert_eq!([heard.hear(sample()), heard.hear(sample())], [Ok(false), Ok(false)]);
        assert!(heard.hear(sample()).is_err());
        assert_eq!(heard.hear(Told::Skipped { column: 1, why: "x".repeat(5000) }), Ok(false));
        assert_eq!(heard.times[1], Err("x".repeat(LONGEST)));
        assert_eq!(heard.hear(Told::Done), Ok(true));
    }
}
