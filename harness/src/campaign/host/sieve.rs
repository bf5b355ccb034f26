//! The corpus without what is not needed: before a campaign, libFuzzer says which inputs bring something.
//!
//! It is one process, and takes no longer than it is given; what it cannot say in time, or without finding something, drops
//! nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::super::finding::{NEW, hash};
use super::super::folder::alone;
use super::Ground;

/// It may take so long.
const MOST: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

impl Ground {
    /// Remove inputs whose coverage others have. Of several campaigns in one folder the first one does.
    ///
    /// # Errors
    /// The corpus cannot be read or written.
    pub(super) fn sift(&self, until: Instant, stop: &AtomicBool) -> io::Result<()> {
        let Some(_lock) = alone(&self.corpus.with_extension("lock")) else { return Ok(()) };
        let names = names(&self.corpus)?;
        let parent = self.corpus.parent().unwrap_or(Path::new("."));
        let needed = tempfile::Builder::new().prefix(NEW).tempdir_in(parent)?;
        let wrong = tempfile::Builder::new().prefix(NEW).tempdir_in(parent)?;
        if names.is_empty() || !self.merge(needed.path(), wrong.path(), until, stop)? {
            return Ok(());
        }
        let mut hashes = BTreeSet::new();
        for entry in fs::read_dir(needed.path())? {
            hashes.insert(hash(&fs::read(entry?.path())?));
        }
        // What was added meanwhile was not asked about.
        for name in names {
            let path = self.corpus.join(name);
            if !hashes.contains(&hash(&fs::read(&path)?)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Have libFuzzer copy what is needed to a folder. Tells whether it has done all of it, and found nothing wrong.
    fn merge(&self, needed: &Path, wrong: &Path, until: Instant, stop: &AtomicBool) -> io::Result<bool> {
        let until = until.min(Instant::now() + MOST);
        let mut command = self.bare(wrong);
        command.arg("-merge=1").arg(needed).arg(&self.corpus).stderr(Stdio::null()).process_group(0);
        let most = MOST.as_secs();
        // SAFETY: the closure makes a system call only, and allocates nothing.
        unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_CPU, most, most)?)) };
        let mut child = command.spawn()?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success() && names(wrong)?.is_empty());
            }
            if Instant::now() >= until || stop.load(Ordering::SeqCst) {
                // It has a process of its own, which a limit of its time ends if nobody does.
                let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
                child.wait()?;
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}
