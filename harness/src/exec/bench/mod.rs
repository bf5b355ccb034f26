//! The live side of the benchmark: a lower file system, a mount for each column of a row, and turns on them.
//!
//! Each daemon is a process of its own, the work is done in this one. Columns take turns in an order that is another one each round;
//! what comes of a turn is told at once. A column is left out only where what it needs is not offered; whatever else is in its way is
//! trouble, and ends the job: it may be a mistake of the daemon's.

mod bare;
mod daemon;
mod hindrance;
mod work;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::actor::ended;
use super::calls::many::allow_many_files;
use super::pipe::ready;
use super::stage::Stage;
use super::{limits, loopdev};
use crate::bench::{Job, Lower, Serving, Told, Work};
pub(super) use bare::bare;
use hindrance::{Hindrance, offered};
use work::Worker;

/// A turn lasts at least so long, of as many passes as it takes: what is over in a moment cannot be timed.
const TURN: Duration = Duration::from_millis(40);
/// And is of no more passes than this.
const MOST_PASSES: u32 = 64;
/// Size of an ext4; most of it is never written.
const EXT4_BYTES: u64 = 96 << 20;
/// More than this process has open for anything else.
const OTHER_FILES: u64 = 100;

/// Measure, and tell.
///
/// # Errors
/// The stage cannot be set, or nobody listens.
pub(super) fn bench(job: &Job, base: &Path, tell: &mut dyn FnMut(Told) -> io::Result<()>) -> io::Result<()> {
    allow_many_files()?;
    let mut stage = Stage::set(base)?;
    let mut served = Vec::new();
    let done = measure(job, base, &mut served, tell);
    let mounts = stage.mounts();
    let held = stage.strike(mounts, |_| ());
    drop(served);
    done?;
    held.map_or_else(|| tell(Told::Done), |held| Err(io::Error::other(held)))
}

fn measure(
    job: &Job,
    base: &Path,
    served: &mut Vec<Served>,
    tell: &mut dyn FnMut(Told) -> io::Result<()>,
) -> io::Result<()> {
    let lower = base.join("lower");
    let skipped = |index: usize, why: String| Told::Skipped { column: index as u32, why };
    let set = enough_files(job).and_then(|()| mount_lower(job.lower, base, &lower));
    let what = match offered(set)? {
        Ok(what) => what,
        Err(why) => return (0..job.columns.len()).try_for_each(|index| tell(skipped(index, why.clone()))),
    };
    work::prepare(&lower, job.work)?;
    tell(Told::Set(what))?;
    let in_column = |index: usize| {
        let name = &job.columns[index].name;
        move |error: io::Error| io::Error::other(format!("{name}: {error}"))
    };
    // All daemons come before the first worker: a process that is made later has open what this one has.
    let mut roots = Vec::new();
    for (index, column) in job.columns.iter().enumerate() {
        let root = root_of(base, &lower, index, column.serving, served);
        roots.push(offered(root).map_err(in_column(index))?);
    }
    let mut workers = Vec::new();
    for (index, root) in roots.into_iter().enumerate() {
        workers.push(match root {
            Ok(root) => Some(ready_to_work(&root, &lower, job).map_err(in_column(index))?),
            Err(why) => {
                tell(skipped(index, why))?;
                None
            }
        });
    }
    let mut order: Vec<usize> = (0..workers.len()).collect();
    for round in 0..job.rounds {
        let seed = job.seed.wrapping_add(round.into());
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        for index in order.iter().copied() {
            let Some(worker) = &mut workers[index] else { continue };
            let nanos = turn(worker, seed).map_err(in_column(index))?;
            tell(Told::Sample { column: index as u32, nanos })?;
        }
    }
    Ok(())
}

/// Where a column works: on the mount of its daemon, which is started, or natively.
fn root_of(
    base: &Path,
    lower: &Path,
    index: usize,
    serving: Option<Serving>,
    served: &mut Vec<Served>,
) -> Result<PathBuf, Hindrance> {
    let Some(serving) = serving else { return Ok(lower.to_path_buf()) };
    let at = base.join(format!("mnt-{index}"));
    fs::create_dir(&at)?;
    served.push(Served::start(lower, &at, serving)?);
    Ok(at)
}

/// Do the work once, which nobody times.
fn ready_to_work(root: &Path, lower: &Path, job: &Job) -> io::Result<Worker> {
    let mut worker = Worker::new(root, lower, job.work)?;
    worker.pass(job.seed)?;
    Ok(worker)
}

/// How long a pass takes, on average.
fn turn(worker: &mut Worker, seed: u64) -> io::Result<u64> {
    let (mut all, mut passes) = (Duration::ZERO, 0);
    while passes == 0 || (all < TURN && passes < MOST_PASSES) {
        all += worker.pass(seed)?;
        passes += 1;
    }
    Ok((all.as_nanos() / u128::from(passes)).max(1) as u64)
}

/// What is open beside the work is this process's, whatever the column.
fn enough_files(job: &Job) -> Result<(), Hindrance> {
    let Work::Beside { open, .. } = job.work else { return Ok(()) };
    let needed = u64::from(open) * job.columns.len() as u64 + OTHER_FILES;
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if needed <= most {
        return Ok(());
    }
    Err(Hindrance::Lacks(format!(
        "{needed} open files take CAP_SYS_RESOURCE, or so many in `ulimit -Hn`, which has {most}"
    )))
}

/// Mount what is below. Says what it is.
fn mount_lower(kind: Lower, base: &Path, at: &Path) -> Result<String, Hindrance> {
    match kind {
        Lower::Tmpfs => {
            mount(Some("lower"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
            Ok("tmpfs".into())
        }
        Lower::Ext4 => {
            let image = base.join("images/ext4");
            File::create_new(&image)?.set_len(EXT4_BYTES)?;
            make_ext4(&image)?;
            let (path, _device) = loopdev::attach(&image).map_err(no_ext4)?;
            mount(Some(&path), at, Some("ext4"), MsFlags::empty(), None::<&str>)
                .map_err(|errno| no_ext4(errno.into()))?;
            Ok("ext4 on a loop device in memory".into())
        }
    }
}

fn make_ext4(on: &Path) -> Result<(), Hindrance> {
    let mut make = Command::new("mkfs.ext4");
    // All that it would do later, in the middle of a measurement, is done now.
    make.args(["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]).arg(on);
    let made = make.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Hindrance::Lacks("mkfs.ext4 is missing: sudo apt-get install e2fsprogs".into())
        }
        _ => error.into(),
    })?;
    let said = String::from_utf8_lossy(&made.stderr);
    let failed = || io::Error::other(format!("mkfs.ext4 ends with {}: {}", made.status, said.trim()));
    if made.status.success() { Ok(()) } else { Err(failed().into()) }
}

/// A device that is not there, or a file system that the kernel does not know, is not offered.
fn no_ext4(error: io::Error) -> Hindrance {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Hindrance::Lacks(format!(
            "no ext4 on a loop device ({error}): take a kernel that has loop and ext4 built in, or whose modules can be had"
        )),
        _ => error.into(),
    }
}

/// A daemon's process. It ends with its connection, and if not, with this value.
struct Served(Pid);

impl Served {
    fn start(lower: &Path, at: &Path, serving: Serving) -> Result<Served, Hindrance> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let fd = device.as_raw_fd();
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("bench"), at, Some("fuse"), flags, Some(options.as_str()))?;
        let (mut hears, tells) = io::pipe()?;
        // SAFETY: this process has one thread.
        let served = match unsafe { fork() }? {
            ForkResult::Parent { child } => Served(child),
            ForkResult::Child => {
                // SAFETY: plain system call on numbers: it goes with whoever started it.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                drop(hears);
                let lower: PathBuf = lower.into();
                let failed = daemon::serve(device, &lower, serving, tells).is_err();
                // SAFETY: ends the process without running what its parent had registered for its own end.
                unsafe { libc::_exit(i32::from(failed)) }
            }
        };
        drop((device, tells));
        if !ready(&hears, limits::CALL) {
            let why = "the daemon does not come up: the kernel sends it no INIT";
            return Err(io::Error::other(why).into());
        }
        let mut told = Vec::new();
        hears.read_to_end(&mut told)?;
        Hindrance::heard(&told).map_or(Ok(served), Err)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Unmounted by now, or never of use.
        if !ended(self.0, limits::SETTLE) {
            let _ = kill(self.0, Signal::SIGKILL);
            // In the middle of a call it may not go at once.
            ended(self.0, limits::SETTLE);
        }
        let _ = waitpid(self.0, Some(WaitPidFlag::WNOHANG));
    }
}
