//! What is timed: each pass of a row's work, on whatever folder it is given. What has to be there is made here, too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::Mode;

use crate::bench::{Cache, Order, PAGE, SMALL, Work};

const LARGE: &str = "large";
const FOLDER: &str = "folder";
/// Bytes of the large file: all that any work reads or writes.
const LARGE_BYTES: usize = 16 << 20;
const MIB: usize = 1 << 20;

/// Make what the work is done on.
pub(super) fn prepare(lower: &Path, work: Work) -> io::Result<()> {
    match work {
        Work::Read { .. } | Work::Write { .. } | Work::Touch { .. } => {
            let file = File::create_new(lower.join(LARGE))?;
            let mut piece = vec![0; MIB];
            fastrand::Rng::with_seed(0).fill(&mut piece);
            for place in (0..LARGE_BYTES).step_by(MIB) {
                file.write_all_at(&piece, place as u64)?;
            }
            file.sync_all()
        }
        Work::SmallFiles { all, .. } => small_files(lower, all, &[7; SMALL as usize]),
        // Nobody reads them.
        Work::Tasks { count, .. } => small_files(lower, count, &[]),
        Work::Beside { open, count } => small_files(lower, open + count, &[]),
        Work::Links { count } => (0..count).try_for_each(|index| symlink("somewhere", small(lower, index))),
        Work::Folders { .. } => fs::create_dir(lower.join(FOLDER)),
    }
}

fn small_files(lower: &Path, count: u32, bytes: &[u8]) -> io::Result<()> {
    (0..count).try_for_each(|index| fs::write(small(lower, index), bytes))
}

fn small(root: &Path, index: u32) -> PathBuf {
    root.join(format!("{index:05}"))
}

/// Somebody who does the work on a folder, and what stays open there meanwhile.
pub(super) struct Worker {
    root: PathBuf,
    work: Work,
    /// The large file here, and below.
    large: Option<(File, File)>,
    /// Open all the time, and never touched.
    _others: Vec<File>,
    buffer: Vec<u8>,
}

impl Worker {
    pub(super) fn new(root: &Path, lower: &Path, work: Work) -> io::Result<Worker> {
        let large = match work {
            // Writers open it each time.
            Work::Write { .. } => Some((lower, lower)),
            Work::Read { .. } | Work::Touch { .. } => Some((root, lower)),
            _ => None,
        };
        let open = |folder: &Path| File::open(folder.join(LARGE));
        let large = large.map(|(here, below)| io::Result::Ok((open(here)?, open(below)?))).transpose()?;
        let others = match work {
            Work::Beside { open, count } => (count..count + open)
                .map(|index| File::open(small(root, index)))
                .collect::<io::Result<_>>()?,
            _ => Vec::new(),
        };
        let piece = match work {
            Work::Read { piece, .. } | Work::Write { piece, .. } => piece,
            _ => SMALL,
        };
        let buffer = vec![1; piece as usize];
        Ok(Worker { root: root.to_path_buf(), work, large, _others: others, buffer })
    }

    /// Do the work once, with places chosen by `seed`. Gives how long it took, without what has to be done before.
    ///
    /// Files that are opened are the same ones in each pass: after the first one, which nobody times, the kernel knows their names,
    /// and a daemon that keeps ids has them.
    pub(super) fn pass(&mut self, seed: u64) -> io::Result<Duration> {
        match self.work {
            Work::Read { order, cache, piece, count } => {
                let places = places(order, piece, count, seed);
                self.drop_pages(cache)?;
                let (file, _) = large(&self.large)?;
                // Touched when it was made: no page of it is faulted in while time runs.
                let buffer = &mut self.buffer;
                timed(|| places.iter().try_for_each(|place| file.read_exact_at(buffer, *place)))
            }
            Work::Write { order, piece, count, syncs } => {
                let places = places(order, piece, count, seed);
                // What an earlier pass left to be written out is not this one's.
                large(&self.large)?.1.sync_all()?;
                timed(|| {
                    let file = OpenOptions::new().write(true).open(self.root.join(LARGE))?;
                    places.iter().try_for_each(|place| file.write_all_at(&self.buffer, *place))?;
                    if syncs { file.sync_all() } else { Ok(()) }
                })
            }
            Work::Touch { pages } => {
                self.drop_pages(Cache::Cold)?;
                let (file, _) = large(&self.large)?;
                timed(|| touch(file, pages))
            }
            Work::SmallFiles { all, count } => {
                let names = self.names(count, all / count);
                let buffer = &mut self.buffer;
                timed(|| names.iter().try_for_each(|name| File::open(name)?.read_exact(buffer)))
            }
            Work::Tasks { tasks, count } => self.by_tasks(tasks, count),
            Work::Beside { count, .. } => {
                let names = self.names(count, 1);
                timed(|| names.iter().try_for_each(|name| File::open(name).map(drop)))
            }
            Work::Links { count } => {
                let names = self.names(count, 1);
                timed(|| names.iter().try_for_each(|name| fs::read_link(name).map(drop)))
            }
            Work::Folders { count } => {
                let folder = self.root.join(FOLDER);
                let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                timed(|| (0..count).try_for_each(|_| Ok(Dir::open(&folder, flags, Mode::empty()).map(drop)?)))
            }
        }
    }

    /// So many names, this far apart.
    fn names(&self, count: u32, apart: u32) -> Vec<PathBuf> {
        (0..count).map(|index| small(&self.root, index * apart)).collect()
    }

    /// Have the kernel forget what it holds of the large file. Memory below stays what it is.
    fn drop_pages(&self, cache: Cache) -> io::Result<()> {
        if cache == Cache::Warm {
            return Ok(());
        }
        let (here, below) = large(&self.large)?;
        for file in [here, below] {
            posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        Ok(())
    }

    fn by_tasks(&self, tasks: u32, count: u32) -> io::Result<Duration> {
        let names = self.names(count, 1);
        // Not one for each task: fewer are enough where shares that are rounded up use all names up.
        let shares = names.chunks(count.div_ceil(tasks) as usize);
        let start = Barrier::new(shares.len() + 1);
        std::thread::scope(|scope| {
            let running: Vec<_> = shares
                .map(|share| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        let done = share.iter().try_for_each(|name| File::open(name).map(drop));
                        done.map(|()| Instant::now())
                    })
                })
                .collect();
            let began = Instant::now();
            start.wait();
            let mut last = began;
            for task in running {
                let ended = task.join().map_err(|_| io::Error::other("a task panicked"))??;
                last = last.max(ended);
            }
            Ok(last - began)
        })
    }
}

fn large(files: &Option<(File, File)>) -> io::Result<&(File, File)> {
    files.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let began = Instant::now();
    work().map(|()| began.elapsed())
}

/// Where in the file each call is.
fn places(order: Order, piece: u32, count: u32, seed: u64) -> Vec<u64> {
    let piece = u64::from(piece);
    match order {
        Order::Sequential => (0..u64::from(count)).map(|index| index * piece).collect(),
        Order::Random => {
            let mut all: Vec<u64> = (0..LARGE_BYTES as u64 / piece).map(|index| index * piece).collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut all);
            all.truncate(count as usize);
            all
        }
    }
}

fn touch(file: &File, pages: u32) -> io::Result<()> {
    let len = NonZeroUsize::new(PAGE as usize * pages as usize).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping of a file that nobody truncates.
    let mapped = unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0)? };
    for page in 0..pages as usize {
        // SAFETY: within the mapping.
        unsafe { mapped.cast::<u8>().add(page * PAGE as usize).read_volatile() };
    }
    // SAFETY: the whole of it, which nobody uses any more.
    unsafe { munmap(mapped, len.get())? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_comes_once() {
        let mut random = places(Order::Random, 4096, 4096, 7);
        assert_ne!(random, places(Order::Random, 4096, 4096, 8));
        random.sort_unstable();
        assert_eq!(random, places(Order::Sequential, 4096, 4096, 0));
        assert_eq!(places(Order::Random, 4096, 9, 7).len(), 9);
    }

    #[test]
    fn each_pass_opens_the_same_small_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let work = Work::SmallFiles { all: 5, count: 2 };
        prepare(folder.path(), work).expect("it is prepared");
        // Of the others nobody takes notice.
        for index in [1, 3, 4] {
            fs::remove_file(small(folder.path(), index)).expect("it was there");
        }
        let mut worker = Worker::new(folder.path(), folder.path(), work).expect("a worker");
        assert!((0..4).all(|seed| worker.pass(seed).is_ok()));
    }

    #[test]
    fn any_folder_can_be_worked_on() {
        let read = |order, cache| Work::Read { order, cache, piece: 4096, count: 4 };
        let works = [
            read(Order::Random, Cache::Cold),
            read(Order::Sequential, Cache::Warm),
            Work::Write { order: Order::Random, piece: 4096, count: 3, syncs: true },
            Work::Touch { pages: 5 },
            Work::SmallFiles { all: 5, count: 2 },
            Work::Tasks { tasks: 2, count: 4 },
            // Two opens for each of two tasks, and none for the third.
            Work::Tasks { tasks: 3, count: 4 },
            Work::Beside { open: 3, count: 2 },
            Work::Links { count: 3 },
            Work::Folders { count: 2 },
        ];
        for work in works {
            let folder = tempfile::tempdir().expect("a folder");
            prepare(folder.path(), work).expect("it is prepared");
            let mut worker = Worker::new(folder.path(), folder.path(), work).expect("a worker");
            for seed in 0..4 {
                assert!(worker.pass(seed).expect("it works") > Duration::ZERO, "{work:?}");
            }
        }
    }
}
