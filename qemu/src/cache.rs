//! The cache folder: named entries that appear whole or not at all, and locks between processes.
//!
//! An entry never changes once it is there. It knows nothing of what the entries hold, and it
//! removes only what an interrupted fill left behind.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use crate::progress::Progress;

/// The environment variable that moves the cache folder.
pub const VARIABLE: &str = "FUSEPROOF_CACHE";

/// An entry that is being filled carries this suffix; only the holder of its lock may touch it.
const PARTIAL: &str = ".partial";

/// Where the lock files live. They stay: removing one while another process waits on it would let
/// two processes hold "the" lock.
const LOCKS: &str = "locks";

/// What the cache folder can refuse.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither the variable nor a home directory says where the cache folder is.
    #[error("no home directory is known to keep the cache in: set {VARIABLE} to a folder")]
    NoHome,
    /// The file system of the cache folder is full.
    #[error(
        "no space left on the device for {path}: free some, or set {VARIABLE} to a folder on a larger file system"
    )]
    NoSpace {
        /// What was being written.
        path: PathBuf,
    },
    /// The cache folder cannot be written by this user.
    #[error(
        "cannot write {path} in the cache folder ({source}): make it writable, or set {VARIABLE} to a folder that is"
    )]
    NotWritable {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else that went wrong with a file in the cache folder.
    #[error(
        "cannot use {path} in the cache folder ({source}): remove it, or set {VARIABLE} to another folder"
    )]
    Io {
        /// The file in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Sorts an I/O error on `path` by its remedy.
    pub fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path, source }
            }
            _ => Self::Io { path, source },
        }
    }
}

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the user's cache folder: `$FUSEPROOF_CACHE`, otherwise `fuseproof` in the XDG cache
    /// folder.
    ///
    /// # Errors
    /// No home directory, or as [`Cache::at`].
    pub fn open() -> Result<Self, Error> {
        if let Some(root) = std::env::var_os(VARIABLE).filter(|root| !root.is_empty()) {
            return Self::at(root.into());
        }
        let strategy = etcetera::choose_base_strategy().map_err(|_| Error::NoHome)?;
        Self::at(strategy.cache_dir().join("fuseproof"))
    }

    /// Opens (and makes, where missing) the cache folder at `root`, and clears what fills of
    /// processes that are gone left behind.
    ///
    /// # Errors
    /// The folder cannot be made, written or read.
    pub fn at(root: PathBuf) -> Result<Self, Error> {
        // QEMU and apt are started in other working directories, so a relative path would move.
        let root = std::path::absolute(&root).map_err(|source| Error::io(&root, source))?;
        let locks = root.join(LOCKS);
        fs::create_dir_all(&locks).map_err(|source| Error::io(&locks, source))?;
        let cache = Self { root };
        cache.clear_partials()?;
        Ok(cache)
    }

    /// The folder itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the exclusive lock on `name`, waiting for whoever holds it, and says so. The lock ends
    /// when the value is dropped, or with the process.
    ///
    /// # Errors
    /// The lock file cannot be made or locked.
    ///
    /// # Panics
    /// When `name` is not a plain file name.
    pub fn lock(&self, name: &str, progress: &mut dyn Progress) -> Result<Lock, Error> {
        let path = self.lock_path(name);
        let fail = |source| Error::io(&path, source);
        let mut file = open_lock(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                (&file).take(16).read_to_string(&mut holder).map_err(fail)?;
                // Empty for the moment between taking a lock and signing it.
                let holder = match holder.as_str() {
                    "" => "another process".to_owned(),
                    id => format!("process {id}"),
                };
                progress.say(&format!("waiting for {holder}, which is busy with {name}"));
                file.lock().map_err(fail)?;
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        // The process id is for the message above only; the lock itself is the kernel's.
        file.set_len(0).map_err(fail)?;
        file.rewind().map_err(fail)?;
        write!(file, "{}", std::process::id()).map_err(fail)?;
        Ok(Lock { _file: file })
    }

    /// The path of `name` if it has been filled.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let path = self.root.join(name);
        path.is_dir().then_some(path)
    }

    /// The path of the folder `name`, which `fill` makes first if it is not there. `fill` gets an
    /// empty folder; it is renamed into place on success and removed on failure, so nobody sees a
    /// half-filled entry.
    ///
    /// # Errors
    /// What `fill` says, or trouble with the cache folder.
    ///
    /// # Panics
    /// When `name` is not a plain file name.
    pub fn entry<E: From<Error>>(
        &self,
        name: &str,
        progress: &mut dyn Progress,
        fill: impl FnOnce(&Path, &mut dyn Progress) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        if let Some(path) = self.find(name) {
            return Ok(path);
        }
        let _lock = self.lock(name, progress)?;
        // Whoever held the lock may have filled it.
        if let Some(path) = self.find(name) {
            return Ok(path);
        }
        let partial = Partial(self.root.join(format!("{name}{PARTIAL}")));
        remove(&partial.0)?;
        fs::create_dir(&partial.0).map_err(|source| Error::io(&partial.0, source))?;
        fill(&partial.0, progress)?;
        let path = self.root.join(name);
        let appear = || {
            // Whole or not at all, after a power cut as well: the content first, then the name.
            nix::unistd::syncfs(File::open(&partial.0)?)?;
            fs::rename(&partial.0, &path)?;
            File::open(&self.root)?.sync_all()
        };
        appear().map_err(|source| Error::io(&path, source))?;
        Ok(path)
    }

    /// Whether there is an entry whose name is `family` and sixteen digits.
    pub fn has_family(&self, family: &str) -> bool {
        !self.family(family).is_empty()
    }

    /// The entries whose name is `family` and sixteen digits.
    pub(crate) fn family(&self, family: &str) -> Vec<PathBuf> {
        let items = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let is_ours = |name: &str| {
            let key = name.strip_prefix(family);
            key.is_some_and(|key| key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        let ours = items.filter(|item| item.file_name().to_str().is_some_and(is_ours));
        ours.map(|item| item.path()).collect()
    }

    /// Removes all but the latest used entries whose name is `family` and sixteen digits, as far as that can be done.
    pub fn prune(&self, family: &str, kept: usize) {
        let used = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let mut entries: Vec<_> =
            self.family(family).into_iter().filter_map(|path| Some((used(&path)?, path))).collect();
        entries.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
        for (_, path) in entries.into_iter().skip(kept) {
            let _ = remove(&path);
        }
    }

    /// Removes the partial entries whose lock nobody holds.
    fn clear_partials(&self) -> Result<(), Error> {
        let fail = |source| Error::io(&self.root, source);
        for item in fs::read_dir(&self.root).map_err(fail)? {
            let file_name = item.map_err(fail)?.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(PARTIAL));
            let Some(name) = name.filter(|name| is_plain(name)) else { continue };
            let path = self.lock_path(name);
            let lock = open_lock(&path).map_err(|source| Error::io(&path, source))?;
            if lock.try_lock().is_ok() {
                remove(&self.root.join(&file_name))?;
            }
        }
        Ok(())
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        assert!(is_plain(name), "{name:?} is not a plain file name");
        self.root.join(LOCKS).join(name)
    }
}

/// The name with nothing in it that an entry's name cannot hold.
pub(crate) fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "+-_.".contains(c) { c } else { '_' };
    name.chars().map(plain).collect()
}

/// May an entry be called so?
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

/// An exclusive lock, held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A folder that is removed on drop, unless it was renamed away.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // A leftover is cleared by the next open; the error that brought us here is the one to report.
        let _ = remove(&self.0);
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::io(path, source)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::progress::Quiet;

    struct Lines(mpsc::Sender<String>);

    impl Progress for Lines {
        fn say(&mut self, line: &str) {
            self.0.send(line.to_owned()).expect("the test listens");
        }
    }

    fn names(cache: &Cache) -> Vec<String> {
        let items = fs::read_dir(cache.root()).expect("readable");
        let mut names: Vec<_> =
            items.map(|item| item.expect("item").file_name().into_string().expect("utf-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn an_entry_is_filled_once() {
        let folder = tempfile::tempdir().expect("temp");
        let cache = Cache::at(folder.path().join("new")).expect("cache");
        for text in ["first", "second"] {
            let path = cache
                .entry("thing", &mut Quiet, |dir, _| {
                    fs::write(dir.join("text"), text).map_err(|source| Error::io(dir, source))
                })
                .expect("filled");
            assert_eq!(fs::read_to_string(path.join("text")).expect("text"), "first");
        }
        assert_eq!(names(&cache), ["locks", "thing"]);
    }

    #[test]
    fn a_failed_fill_leaves_nothing_and_may_be_tried_again() {
        let folder = tempfile::tempdir().expect("temp");
        let cache = Cache::at(folder.path().to_owned()).expect("cache");
        let failed = cache.entry("thing", &mut Quiet, |dir, _| {
            fs::write(dir.join("half"), "half").expect("written");
            Err(Error::NoHome)
        });
        assert!(matches!(failed, Err(Error::NoHome)), "{failed:?}");
        assert_eq!(names(&cache), ["locks"]);
        cache.entry("thing", &mut Quiet, |_, _| Ok::<_, Error>(())).expect("filled");
        assert_eq!(names(&cache), ["locks", "thing"]);
    }

    #[test]
    fn opening_clears_what_nobody_is_filling_and_only_that() {
        let folder = tempfile::tempdir().expect("temp");
        let cache = Cache::at(folder.path().to_owned()).expect("cache");
        for name in ["dead.partial", "alive.partial"] {
            fs::create_dir(folder.path().join(name)).expect("made");
        }
        let _alive = cache.lock("alive", &mut Quiet).expect("locked");
        let again = Cache::at(folder.path().to_owned()).expect("cache");
        assert_eq!(names(&again), ["alive.partial", "locks"]);
    }

    #[test]
    fn a_lock_excludes_and_says_who_holds_it() {
        let folder = tempfile::tempdir().expect("temp");
        let cache = Cache::at(folder.path().to_owned()).expect("cache");
        let held = cache.lock("thing", &mut Quiet).expect("locked");
        let (sender, lines) = mpsc::channel();
        let (done, finished) = mpsc::channel();
        let waiter = std::thread::spawn({
            let cache = cache.clone();
            move || {
                let lock = cache.lock("thing", &mut Lines(sender)).expect("locked");
                done.send(()).expect("the test listens");
                lock
            }
        });
        let line = lines.recv_timeout(Duration::from_secs(10)).expect("a line");
        let us = std::process::id();
        assert_eq!(line, format!("waiting for process {us}, which is busy with thing"));
        finished.try_recv().expect_err("the lock excludes");
        drop(held);
        finished.recv_timeout(Duration::from_secs(10)).expect("the lock is passed on");
        waiter.join().expect("waiter");
    }

    #[test]
    fn a_folder_that_cannot_be_made_says_what_to_set() {
        let file = tempfile::NamedTempFile::new().expect("temp");
        let error = Cache::at(file.path().join("below")).expect_err("a file is no folder");
        let text = error.to_string();
        assert!(text.contains("FUSEPROOF_CACHE") && text.contains("below"), "{text}");
    }

    #[test]
    fn a_family_keeps_its_latest_used() {
        let folder = tempfile::tempdir().expect("temp");
        let cache = Cache::at(folder.path().to_owned()).expect("cache");
        for (name, age) in [("built-a-", 1), ("built-a-", 2), ("built-a-", 3), ("built-a-b-", 9)] {
            let path = folder.path().join(format!("{name}{age:016x}"));
            fs::create_dir(&path).expect("made");
            let used = std::time::SystemTime::now() - Duration::from_secs(age);
            File::open(path).expect("open").set_modified(used).expect("set");
        }
        cache.prune("built-a-", 2);
        let left = |name: &str, age: u64| folder.path().join(format!("{name}{age:016x}")).exists();
        assert_eq!([1, 2, 3].map(|age| left("built-a-", age)), [true, true, false]);
        assert!(left("built-a-b-", 9) && cache.has_family("built-a-b-") && !cache.has_family("built-c-"));
    }

    #[test]
    fn errors_are_sorted_by_remedy() {
        let path = Path::new("/cache/thing");
        let text = |kind: io::ErrorKind| Error::io(path, kind.into()).to_string();
        insta::assert_snapshot!(
            [
                text(io::ErrorKind::StorageFull),
                text(io::ErrorKind::PermissionDenied),
                text(io::ErrorKind::ReadOnlyFilesystem),
                text(io::ErrorKind::IsADirectory),
            ]
            .join("\n"),
            @"
        no space left on the device for /cache/thing: free some, or set FUSEPROOF_CACHE to a folder on a larger file system
        cannot write /cache/thing in the cache folder (permission denied): make it writable, or set FUSEPROOF_CACHE to a folder that is
        cannot write /cache/thing in the cache folder (read-only filesystem or storage medium): make it writable, or set FUSEPROOF_CACHE to a folder that is
        cannot use /cache/thing in the cache folder (is a directory): remove it, or set FUSEPROOF_CACHE to another folder
        "
        );
    }
}
