//! A fuzz target's side of a live kernel: what libFuzzer calls for each input.
//!
//! ```text
//! agent (keeper) ── starts ──> target: libFuzzer, the arena's runner
//!        <── a folder: corpus, findings, figures ──
//! ```
//!
//! It runs one input, fills the coverage counters, and has the oracle judge what was observed. What the oracle forbids is written
//! down and the run goes on; what the kernel complains of ends the machine, and the input lies in the black box by then. It
//! chooses no inputs and keeps none.

mod again;
mod keeper;
mod odd;
mod raw;
mod reply;
mod sieve;

use std::cell::{RefCell, UnsafeCell};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use qemu::black_box::BlackBox;
use serde::{Deserialize, Serialize};

pub(super) use self::again::again;
pub(super) use self::keeper::{Start, keep};
use self::odd::odd;
pub(crate) use self::odd::performed;
pub use self::raw::raw_write;
pub use self::reply::virtio_reply;
use self::sieve::Sieve;
use super::arena::{Arena, Run};
use super::kmsg::KernelLog;
use super::shared::Shared;
use crate::generate;
use crate::program::{INNER_ERRNO, Observed, Profile, Program, Transport, Verb};
use crate::protocol::{Odd, StepRecord, decode, encode};

/// The most instrumented places that a kernel may have: as many counters a target gives to libFuzzer.
pub const COUNTERS: usize = 8 << 10;

/// What libFuzzer takes for counters of its own, where a target has one in the section of that name.
pub struct Counters(UnsafeCell<[u8; COUNTERS]>);

// SAFETY: one thread runs inputs, and libFuzzer reads in between.
unsafe impl Sync for Counters {}

impl Counters {
    /// All zero.
    #[expect(clippy::new_without_default, reason = "it is for a static")]
    pub const fn new() -> Counters {
        Counters(UnsafeCell::new([0; COUNTERS]))
    }

    /// For as long as an input runs.
    #[expect(clippy::mut_from_ref, reason = "an input is over before the next one begins")]
    fn lent(&self) -> &mut [u8] {
        // SAFETY: one input runs at a time, on one thread, and borrows them once.
        unsafe { &mut *self.0.get() }
    }
}

/// Where the agent and the target meet.
const FOLDER: &str = "/run/fuzz";

/// The numbers of first inputs that brought nothing, in that folder.
const DULL: &str = "dull";

/// What the agent lays down for the target.
#[derive(Debug, Serialize, Deserialize)]
struct Brief {
    profile: Profile,
    /// Instrumented places, by address.
    places: Vec<u64>,
    /// The seed of all choices.
    seed: u32,
}

/// What the target counts, for the agent to read while it runs.
#[derive(Debug)]
#[repr(C)]
struct Figures {
    execs: AtomicU64,
    steps: AtomicU64,
    /// Programs with an open that the kernel took for passthrough, and those with data through one.
    opens: AtomicU64,
    data: AtomicU64,
    /// Instrumented places that were passed: a bit for each.
    places: [AtomicU64; COUNTERS / 64],
}

/// What a target works with.
struct Ground {
    arena: Arena,
    brief: Brief,
    figures: Shared<Figures>,
    /// Places by address: from the lowest on, in steps of [`STEP`], the place's number plus one.
    numbers: Vec<u16>,
    passed: Vec<bool>,
    known: BTreeSet<String>,
    log: KernelLog,
    /// Until all first inputs were run; none where a kernel tells no places.
    sieve: Option<Sieve>,
    /// What the host can read when this machine is gone.
    last: BlackBox,
}

/// No two instrumented places are nearer to each other: a call has five bytes.
const STEP: u64 = 4;

thread_local! {
    static GROUND: RefCell<Option<Ground>> = const { RefCell::new(None) };
}

/// One input of the target `sequence`: a program. `counters` are those of libFuzzer.
///
/// # Panics
/// The arena is broken, which no program should be able to do: libFuzzer tells of the input.
pub fn sequence(bytes: &[u8], counters: &Counters) {
    program(bytes, counters, Transport::Plain);
}

/// The same for the target `uring`: requests and answers go over io_uring.
///
/// # Panics
/// As [`sequence`].
pub fn uring(bytes: &[u8], counters: &Counters) {
    program(bytes, counters, Transport::IoUring);
}

fn program(bytes: &[u8], counters: &Counters, over: Transport) {
    GROUND.with_borrow_mut(|ground| {
        let ground =
            ground.get_or_insert_with(|| Ground::enter(over).expect("the agent has laid everything down"));
        ground.last.write(bytes);
        let counters = counters.lent();
        ground.run(&generate::from_bytes(bytes), counters).expect("the arena goes on");
        ground.sift(bytes, counters).expect("the folder takes a file");
    });
}

impl Ground {
    fn enter(over: Transport) -> io::Result<Ground> {
        let mut brief: Brief = decode(&fs::read(folder().join("brief"))?).map_err(io::Error::other)?;
        // To read the kernel's log takes longer than a program.
        brief.profile.has.remove(INNER_ERRNO);
        let figures = Shared::open(&folder().join("figures"))?;
        let first = brief.places.first().copied().unwrap_or(0);
        let last = brief.places.last().copied().unwrap_or(0);
        let mut numbers = vec![0; ((last - first) / STEP + 1) as usize];
        for (number, place) in brief.places.iter().enumerate() {
            numbers[((place - first) / STEP) as usize] = number as u16 + 1;
        }
        let passed = vec![false; brief.places.len()];
        // Whoever ran an input again here before may have left something.
        let arena = Arena::open(Path::new(&format!("/run/arena-{}", std::process::id())), over)?;
        let log = KernelLog::follow();
        let last = BlackBox::of_guest().or_else(|_| BlackBox::in_file(&folder().join("last")))?;
        let has_places = !brief.places.is_empty();
        let sieve =
            has_places.then(|| Sieve::of(&folder().join("corpus"), brief.places.len())).transpose()?;
        Ok(Ground { arena, brief, figures, numbers, passed, known: BTreeSet::new(), log, sieve, last })
    }

    fn run(&mut self, program: &Program, counters: &mut [u8]) -> io::Result<()> {
        let ran = self.arena.run(program)?;
        self.hear_complaint()?;
        self.count(None, counters);
        self.tally(program.steps.len(), reached(program, &ran.records));
        match odd(program, &self.brief.profile, self.arena.over, ran) {
            Some(odd) => self.report(&odd),
            None => Ok(()),
        }
    }

    /// A kernel that does not stop by itself when something is wrong, as one that only checks locks, is stopped by the end of the
    /// target: the host reads what it had to say, and the latest input is the one that it is about.
    fn hear_complaint(&mut self) -> io::Result<()> {
        if self.log.complains() { Err(io::Error::other("the kernel complained")) } else { Ok(()) }
    }

    /// Once all first inputs were run, write down which of them brought nothing.
    fn sift(&mut self, input: &[u8], counters: &[u8]) -> io::Result<()> {
        let dull = self.sieve.as_mut().and_then(|sieve| sieve.take(input, counters));
        let Some(dull) = dull else { return Ok(()) };
        self.sieve = None;
        put(DULL, &dull)
    }

    /// Count an input that was run, with so many steps: whether it has a passthrough open, and data through that.
    fn tally(&self, steps: usize, (opens, data): (bool, bool)) {
        let figures = self.figures.get();
        figures.execs.fetch_add(1, Ordering::Relaxed);
        figures.steps.fetch_add(steps as u64, Ordering::Relaxed);
        figures.opens.fetch_add(opens.into(), Ordering::Relaxed);
        figures.data.fetch_add(data.into(), Ordering::Relaxed);
    }

    /// Write down what is not as it should be, once of each kind.
    fn report(&mut self, odd: &Odd) -> io::Result<()> {
        if self.known.insert(format!("{} {} {}", odd.kind, odd.function, odd.key)) {
            put(&format!("findings/odd-{}", self.known.len()), odd)?;
        }
        Ok(())
    }

    /// Raise the counter of each place that was passed by the latest program, or by the one that is under way. What was passed to
    /// make its mount is seen, but no merit of the program.
    fn count(&mut self, run: Option<&Run>, counters: &mut [u8]) {
        let Some(first) = self.brief.places.first() else { return };
        let (numbers, passed, figures) = (&self.numbers, &mut self.passed, self.figures.get());
        let mut see = |place: u64| -> Option<usize> {
            let at = (place.wrapping_sub(*first) / STEP) as usize;
            let number = usize::from(numbers.get(at)?.checked_sub(1)?);
            let is_new = !std::mem::replace(&mut passed[number], true);
            if let (true, Some(places)) = (is_new, figures.places.get(number / 64)) {
                places.fetch_or(1 << (number % 64), Ordering::Relaxed);
            }
            Some(number)
        };
        for place in self.arena.staged() {
            see(*place);
        }
        let tell = |place: u64| {
            if let Some(counter) = see(place).and_then(|number| counters.get_mut(number)) {
                *counter = counter.saturating_add(1);
            }
        };
        match run {
            Some(run) => self.arena.passed_by(run, tell),
            None => self.arena.passed(tell),
        }
    }
}

/// Write for the keeper to find: there whole or not at all.
fn put(name: &str, what: &impl Serialize) -> io::Result<()> {
    fs::write(folder().join("new"), encode(what).map_err(io::Error::other)?)?;
    fs::rename(folder().join("new"), folder().join(name))
}

fn folder() -> PathBuf {
    PathBuf::from(FOLDER)
}

/// Whether the kernel took an open for passthrough, and whether data went through such a file.
fn reached(program: &Program, records: &[StepRecord]) -> (bool, bool) {
    let is_passthrough = |record: &StepRecord| {
        record.observed.as_ref().is_some_and(|observed| matches!(observed, Observed::Int(_)))
            && record.traffic.iter().any(opens_passthrough)
    };
    let first = records.iter().position(is_passthrough);
    let has_data = |record: &StepRecord| {
        let name = match program.steps.get(record.index).map(|step| &step.verb) {
            Some(Verb::Call(call) | Verb::Start { call, .. }) => call.name.as_str(),
            _ => return false,
        };
        let is_data = DATA.contains(&name);
        is_data && !matches!(record.observed, None | Some(Observed::Errno(_) | Observed::Impossible(_)))
    };
    let data = first.is_some_and(|first| records[first..].iter().any(has_data));
    (first.is_some(), data)
}

/// Calls that move data of a file.
const DATA: &[&str] = &[
    "read",
    "pread",
    "readv",
    "preadv2",
    "write",
    "pwrite",
    "writev",
    "pwritev2",
    "load",
    "store",
    "splice",
    "sendfile",
    "copy_file_range",
    "aio_read",
    "aio_write",
    "uring_read",
    "uring_write",
];

fn opens_passthrough(traffic: &crate::protocol::Traffic) -> bool {
    use crate::abi::Opcode;
    use crate::protocol::Answer;
    const PASSTHROUGH: i128 = 1 << 7;
    let is_open = matches!(traffic.opcode, Opcode::OPEN | Opcode::CREATE);
    let has_flag = |fields: &[(String, i128)]| {
        fields.iter().any(|(name, value)| name == "open_flags" && value & PASSTHROUGH != 0)
    };
    is_open && matches!(&traffic.answer, Answer::Reply { fields, errno: 0 } if has_flag(fields))
}
