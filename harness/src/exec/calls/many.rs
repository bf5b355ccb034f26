//! Calls that many system calls stand behind: a load that no list of steps could be.

use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Holdings, Impossible, Outcome, observed};
use crate::program::Call;

/// The most files or threads of one call.
const MOST: i64 = 10_000;

impl Holdings {
    pub(super) fn many_call(&mut self, call: &Call) -> Option<Outcome> {
        Some(match call.name.as_str() {
            "open_many" => self.count(call, "count").map(|count| {
                // What this process may have open is no later call's concern.
                self.spoiled = true;
                observed(open_many(&self.path(call.text("path")), count))
            }),
            "read_by_many" => self.count(call, "threads").and_then(|threads| {
                let path = self.path(call.text("path"));
                Ok(observed(read_by_many(&path, threads, self.count(call, "each")?)))
            }),
            _ => return None,
        })
    }

    fn count(&self, call: &Call, name: &str) -> Result<usize, Impossible> {
        let count = self.number(call, name, 0)?;
        if (1..=MOST).contains(&count) { Ok(count as usize) } else { Err(format!("a {name} of {count}")) }
    }
}

/// As many open files as may be, and as are sure to be enough.
pub(crate) fn allow_many_files() -> nix::Result<()> {
    const ENOUGH: u64 = 1 << 16;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // More than the most is for root alone.
    let more = most.max(ENOUGH);
    setrlimit(Resource::RLIMIT_NOFILE, more, more).or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, most, most))
}

/// Make so many files in a folder, each with its own bytes, and read them when all are open. How many had theirs. They stay
/// open.
fn open_many(folder: &Path, count: usize) -> io::Result<i64> {
    allow_many_files()?;
    let open = |index: usize| {
        let path = folder.join(format!("{index}"));
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.write_all_at(index.to_string().as_bytes(), 0)?;
        Ok(file)
    };
    let files = (0..count).map(open).collect::<io::Result<Vec<File>>>()?;
    let mut right = 0;
    for (index, file) in files.iter().enumerate() {
        let mut bytes = [0; 16];
        let have = file.read_at(&mut bytes, 0)?;
        right += i64::from(bytes[..have] == *index.to_string().as_bytes());
    }
    for file in files {
        let _ = file.into_raw_fd();
    }
    Ok(right)
}

/// Open and read a file by so many threads at once, each so often. How many read what the first one did.
fn read_by_many(path: &Path, threads: usize, each: usize) -> io::Result<i64> {
    let expected = std::fs::read(path)?;
    let start = Barrier::new(threads);
    let read = || {
        start.wait();
        let reads = (0..each).map(|_| Ok(i64::from(std::fs::read(path)? == expected)));
        reads.sum::<io::Result<i64>>()
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        let counts = running.into_iter();
        counts.map(|thread| thread.join().map_err(|_| io::Error::other("a thread panicked"))?).sum()
    })
}
