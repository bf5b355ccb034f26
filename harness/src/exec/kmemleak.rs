//! The kernel's search for memory that nobody points to any more.
//!
//! It says so only of memory that is at least five seconds old, so nobody can ask after each case. It says when the
//! memory was allocated, too, and that belongs to a case.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use qemu::console::{Leak, leaks as records};

const FILE: &str = "/sys/kernel/debug/kmemleak";
/// Where the kernel's own count of time can be read.
const TIMERS: &str = "/proc/timer_list";
/// `MSECS_MIN_AGE` of mm/kmemleak.c, and a little more for rounding to ticks.
const AGE: Duration = Duration::from_millis(5200);
/// How much is read of what it says.
const MOST: u64 = 1 << 20;
/// No tick of any kernel takes longer.
const TICK: Duration = Duration::from_millis(10);

/// Have it search only when asked to, and forget what leaked until now. Says whether this kernel can search.
///
/// Stacks are not searched: what a case leaked is still on those of its processes, long after they returned.
///
/// # Errors
/// It could search, and does not: it gives up for ever when its own memory is too little.
pub(crate) fn switch_on() -> io::Result<bool> {
    for word in ["scan=off", "stack=off", "clear"] {
        match tell(word) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            told => told?,
        }
    }
    Ok(jiffies().is_some())
}

fn tell(word: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(FILE)?.write_all(word.as_bytes())
}

/// Wait until nothing is allocated at the same time as anything before; that time.
pub(crate) fn next_jiffy() -> Option<u64> {
    std::thread::sleep(TICK);
    jiffies()
}

fn jiffies() -> Option<u64> {
    let text = fs::read_to_string(TIMERS).ok()?;
    text.lines().find_map(|line| line.strip_prefix("jiffies: ")?.trim().parse().ok())
}

fn read() -> io::Result<Vec<Leak>> {
    let mut text = Vec::new();
    File::open(FILE)?.take(MOST).read_to_end(&mut text)?;
    // Names of tasks are whatever they chose.
    Ok(records(&String::from_utf8_lossy(&text)))
}

/// What leaked since the last call. The first search only notes how memory looks: what still changes is in use. The
/// second reports what is old enough, and what it reports has to be there after a third one.
pub(crate) fn leaks() -> io::Result<Vec<Leak>> {
    let begun = Instant::now();
    tell("scan")?;
    std::thread::sleep(AGE.saturating_sub(begun.elapsed()));
    tell("scan")?;
    let mut found = read()?;
    if !found.is_empty() {
        tell("scan")?;
        found = read()?;
        tell("clear")?;
    }
    Ok(found)
}
