//! What being recorded costs a daemon: the same work on the mount of the reference daemon with and without a recorder, in
//! turns, and how much longer the one took than the other.
//!
//! `cargo bench --bench recorder`, as root, on a kernel with passthrough.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use harness::daemon::{self, Launch, MOUNT, SOURCE};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fuseproof");
/// How often each is done; the middle of the times counts.
const ROUNDS: usize = 9;
/// Files that are made, looked at, renamed and removed.
const FILES: usize = 500;
/// Bytes that are read, as often as this, in pieces.
const LARGE: usize = 16 << 20;
const READS: usize = 8;
const PIECE: usize = 1 << 16;

type Work = fn(&Path) -> io::Result<()>;

fn main() -> io::Result<()> {
    // What is mounted goes with this process, however it ends.
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    // What cargo says to every bench is nothing to this one.
    println!("{:<10} {:>12} {:>12} {:>8}", "work", "unrecorded", "recorded", "ratio");
    let works: [(&str, Work); 2] = [("metadata", metadata), ("reads", reads)];
    for (name, work) in works {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (index, times) in times.iter_mut().enumerate() {
                times.push(timed(index == 1, work)?);
            }
        }
        let [without, with] = times.map(middle);
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        println!("{name:<10} {without:>12.1?} {with:>12.1?} {ratio:>7.2}x");
    }
    Ok(())
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// How long the work takes on a fresh mount.
fn timed(is_recorded: bool, work: Work) -> io::Result<Duration> {
    let folder = tempfile::tempdir()?;
    let (source, mount) = (folder.path().join("source"), folder.path().join("mount"));
    fs::create_dir(&source)?;
    fs::create_dir(&mount)?;
    fs::write(source.join("large"), vec![7; LARGE])?;
    let took = || {
        let began = Instant::now();
        work(&mount).map(|()| began.elapsed())
    };
    if is_recorded {
        let command = [PROGRAM, "specimen", SOURCE, MOUNT].map(str::to_string).into();
        let launch = Launch { command, ..Launch::default() };
        let under = daemon::start(&launch, &source, &mount, &folder.path().join("trace"))
            .map_err(io::Error::other)?;
        let mounted = Mounted(&mount);
        let took = took();
        drop(mounted);
        under.end();
        return took;
    }
    let before = device(&mount)?;
    let mut serving = Serving(Command::new(PROGRAM).arg("specimen").args([&source, &mount]).spawn()?);
    while device(&mount)? == before {
        if serving.0.try_wait()?.is_some() {
            return Err(io::Error::other("the reference daemon does not serve: run this as root"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mounted = Mounted(&mount);
    let took = took();
    drop(mounted);
    drop(serving);
    took
}

fn device(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(path)?.dev())
}

/// A mount, until this value goes.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// A daemon that ends with its mount, and if not, with this value.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Nothing of it passes through: each step is a request or several.
fn metadata(mount: &Path) -> io::Result<()> {
    for index in 0..FILES {
        let (one, other) = (mount.join(format!("file-{index}")), mount.join(format!("renamed-{index}")));
        File::create(&one)?;
        fs::metadata(&one)?;
        fs::rename(&one, &other)?;
        fs::remove_file(&other)?;
    }
    Ok(())
}

/// All but opening passes through.
fn reads(mount: &Path) -> io::Result<()> {
    let file = File::open(mount.join("large"))?;
    let mut piece = vec![0; PIECE];
    for _ in 0..READS {
        for place in (0..LARGE).step_by(PIECE) {
            file.read_exact_at(&mut piece, place as u64)?;
        }
    }
    Ok(())
}
