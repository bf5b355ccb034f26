//! A source in the cache: where it comes from, how it is brought up to date, and which files of it are not as they came.
//!
//! ```text
//! tree-6.12-1234abcd/
//!   identity    what it is a copy of
//!   index       of a git tree: size, time and digest of each file that was copied
//!   src/        the source, with patches written into it
//!   patched     the paths of the files in it that are not as they came
//!   original/   those files as they came; one that is not here did not exist
//!   out/        an object folder a flavour
//! ```
//!
//! A git tree of a person's is copied, never built in and never written: what it ignores is left out, what it has not
//! committed is taken along.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::patch::Changes;
use super::{Source, trouble};
use crate::cache::{Cache, Lock, file_name};
use crate::digest;
use crate::kernel::{Error, Row, apt, command, compression, source as origin, store};
use crate::progress::Progress;

const IDENTITY: &str = "identity";
const INDEX: &str = "index";
const SOURCE: &str = "src";
const PATCHED: &str = "patched";
const ORIGINAL: &str = "original";
const OBJECTS: &str = "out";

/// A source, held against other builds.
#[derive(Debug)]
pub(super) struct Tree {
    folder: PathBuf,
    identity: String,
    _lock: Lock,
}

impl Tree {
    /// The tree of a source, fetched, unpacked or copied if need be.
    pub(super) fn of(source: &Source, cache: &Cache, progress: &mut dyn Progress) -> Result<Tree, Error> {
        match source {
            Source::Row(row) => {
                let name = origin::entry_of(row).replacen("kernel-", "tree-", 1);
                Self::open(&name, cache, progress, |folder, progress| fetch(row, folder, progress))
            }
            Source::Path(path) => {
                let path = path.canonicalize().map_err(|source| match source.kind() {
                    io::ErrorKind::NotFound => Error::NoSource { path: path.clone() },
                    _ => Error::Unreadable { path: path.clone(), source },
                })?;
                if path.is_dir() {
                    Self::of_git(&path, cache, progress)
                } else {
                    Self::of_tarball(&path, cache, progress)
                }
            }
        }
    }

    fn open(
        name: &str,
        cache: &Cache,
        progress: &mut dyn Progress,
        fill: impl FnOnce(&Path, &mut dyn Progress) -> Result<(), Error>,
    ) -> Result<Tree, Error> {
        let folder = cache.entry(name, progress, fill)?;
        let lock = cache.lock(name, progress)?;
        let path = folder.join(IDENTITY);
        let identity = fs::read_to_string(&path).map_err(trouble(&path))?;
        Ok(Tree { folder, identity, _lock: lock })
    }

    fn of_tarball(path: &Path, cache: &Cache, progress: &mut dyn Progress) -> Result<Tree, Error> {
        let digest = store::file_digest(path)?;
        Self::open(&format!("tree-tarball-{}", &digest[..8]), cache, progress, |folder, progress| {
            unpack(path, folder, progress)?;
            identify(folder, &digest)
        })
    }

    fn of_git(path: &Path, cache: &Cache, progress: &mut dyn Progress) -> Result<Tree, Error> {
        let digest = digest::of_parts([path.as_os_str().as_bytes()]);
        let name = format!("tree-{}-{}", file_name(&Source::Path(path.to_owned()).to_string()), &digest[..8]);
        let mut tree = Self::open(&name, cache, progress, |folder, _| {
            let source = folder.join(SOURCE);
            fs::create_dir(&source).map_err(trouble(&source))?;
            identify(folder, "")
        })?;
        tree.follow(path, progress)?;
        Ok(tree)
    }

    /// Where all of it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where `make` finds it.
    pub(super) fn source(&self) -> PathBuf {
        self.folder.join(SOURCE)
    }

    /// Tells this source from others, without its patches.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Tells by what the configuration hangs on, besides fragments.
    pub(super) fn kconfig_identity(&self, changes: &Changes) -> String {
        let is_kconfig = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with("Kconfig"));
        let index = read_index(&self.folder.join(INDEX));
        let copied = index
            .iter()
            .filter(|(path, _)| is_kconfig(path))
            .map(|(path, file)| format!("{path} {}", file.digest));
        let kept = changes.0.iter().filter(|(path, _)| is_kconfig(path));
        let patched = kept.map(|(path, content)| format!("{path} {}", digest::of_parts(content.as_deref())));
        let base = if index.is_empty() { self.identity.clone() } else { String::new() };
        std::iter::once(base).chain(copied).chain(patched).collect::<Vec<_>>().join("\n")
    }

    /// The object folder of that name.
    pub(super) fn objects(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(OBJECTS).join(name);
        fs::create_dir_all(&path).map_err(trouble(&path))?;
        Ok(path)
    }

    /// A file's content as it came; none if there was no such file.
    pub(super) fn original(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        content(&self.as_it_came(path, &self.patched()?))
    }

    /// Make the source what it was, with these changes. Only files whose content differs are written: `make` goes by times.
    pub(super) fn write(&self, changes: &Changes) -> Result<(), Error> {
        let before = self.patched()?;
        let all: BTreeSet<String> = before.iter().chain(changes.0.keys()).cloned().collect();
        // Said before it is so: a file that stands there too much is looked at in vain, one too little is lost.
        for path in changes.0.keys().filter(|path| !before.contains(*path)) {
            if let Some(content) = content(&self.folder.join(SOURCE).join(path))? {
                put(&self.folder.join(ORIGINAL).join(path), &content)?;
            }
        }
        self.note_patched(&all)?;
        for path in &all {
            let wanted = match changes.0.get(path) {
                Some(wanted) => wanted.clone(),
                None => content(&self.folder.join(ORIGINAL).join(path))?,
            };
            let place = self.folder.join(SOURCE).join(path);
            if content(&place)? == wanted {
                continue;
            }
            match wanted {
                Some(content) => put(&place, &content)?,
                None => fs::remove_file(&place).map_err(trouble(&place))?,
            }
        }
        self.note_patched(&changes.0.keys().cloned().collect())?;
        for path in all.iter().filter(|path| !changes.0.contains_key(*path)) {
            let _ = fs::remove_file(self.folder.join(ORIGINAL).join(path));
        }
        Ok(())
    }

    /// Where a file is without its patches.
    fn as_it_came(&self, path: &str, patched: &BTreeSet<String>) -> PathBuf {
        self.folder.join(if patched.contains(path) { ORIGINAL } else { SOURCE }).join(path)
    }

    /// The files that are not as they came.
    fn patched(&self) -> Result<BTreeSet<String>, Error> {
        let text = content(&self.folder.join(PATCHED))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }

    fn note_patched(&self, paths: &BTreeSet<String>) -> Result<(), Error> {
        let lines: String = paths.iter().map(|path| format!("{path}\n")).collect();
        put(&self.folder.join(PATCHED), lines.as_bytes())
    }

    /// Copy what has changed in the git tree since the last time.
    fn follow(&mut self, tree: &Path, progress: &mut dyn Progress) -> Result<(), Error> {
        let mut git = Command::new("git");
        git.arg("-C").arg(tree).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = command::output(&mut git).map_err(|failure| match failure {
            command::Failure::Failed { stderr, .. } if stderr.contains("not a git repository") => {
                Error::NoSource { path: tree.to_owned() }
            }
            // It knows what is wrong with a tree of somebody else's, and what to do.
            other => other.into(),
        })?;
        let listed: BTreeSet<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
        if !listed.contains("Kbuild") {
            return Err(Error::NoSource { path: tree.to_owned() });
        }
        let (old, patched) = (read_index(&self.folder.join(INDEX)), self.patched()?);
        if old.is_empty() {
            progress.say(&format!("copying {} files of {}", listed.len(), tree.display()));
        }
        let mut index = BTreeMap::new();
        for path in listed {
            let from = tree.join(path);
            // Listed and not there: removed, and the removal not yet committed.
            let Ok(meta) = fs::symlink_metadata(&from) else { continue };
            let stamp = format!("{} {}.{}", meta.size(), meta.mtime(), meta.mtime_nsec());
            let known = old.get(path).filter(|file| file.stamp == stamp);
            let digest = match known {
                Some(file) => file.digest.clone(),
                None => self.copy(&from, &meta, &self.as_it_came(path, &patched))?,
            };
            index.insert(path.to_owned(), Copied { stamp, digest });
        }
        for path in old.keys().filter(|path| !index.contains_key(*path)) {
            let _ = fs::remove_file(self.as_it_came(path, &patched));
        }
        let lines: String =
            index.iter().map(|(path, file)| format!("{} {} {path}\n", file.stamp, file.digest)).collect();
        put(&self.folder.join(INDEX), lines.as_bytes())?;
        self.identity =
            digest::of_parts(index.iter().flat_map(|(path, file)| [path.as_bytes(), file.digest.as_bytes()]));
        Ok(())
    }

    /// Copy one file or link, if it differs; its digest.
    fn copy(&self, from: &Path, meta: &fs::Metadata, to: &Path) -> Result<String, Error> {
        let unreadable = |source| Error::Unreadable { path: from.to_owned(), source };
        if meta.is_symlink() {
            let target = fs::read_link(from).map_err(unreadable)?;
            if fs::read_link(to).ok().as_ref() != Some(&target) {
                fs::create_dir_all(to.parent().unwrap_or(to)).map_err(trouble(to))?;
                let _ = fs::remove_file(to);
                symlink(&target, to).map_err(trouble(to))?;
            }
            return Ok(digest::of_parts([target.as_os_str().as_bytes()]));
        }
        if !meta.is_file() {
            // A submodule's folder: kernels have none that is built.
            return Ok(String::new());
        }
        let bytes = fs::read(from).map_err(unreadable)?;
        if content(to)?.as_ref() != Some(&bytes) {
            put(to, &bytes)?;
        }
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o777 | 0o600))
            .map_err(trouble(to))?;
        Ok(digest::of_parts([bytes.as_slice()]))
    }
}

/// What is known of a file that was copied.
struct Copied {
    /// Size and time there.
    stamp: String,
    /// Of its content.
    digest: String,
}

/// An index that cannot be read is as good as none.
fn read_index(path: &Path) -> BTreeMap<String, Copied> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.splitn(4, ' ');
        let stamp = format!("{} {}", words.next()?, words.next()?);
        let digest = words.next()?.to_owned();
        Some((words.next()?.to_owned(), Copied { stamp, digest }))
    };
    text.lines().filter_map(line).collect()
}

fn content(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(trouble(path)(error)),
    }
}

/// Write a file whole or not at all, with the mode of the one it replaces.
fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(trouble(folder))?;
    let mode = fs::metadata(path).map_or(0o644, |meta| meta.mode() & 0o777);
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, bytes)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(trouble(path))
}

fn identify(folder: &Path, identity: &str) -> Result<(), Error> {
    put(&folder.join(IDENTITY), identity.as_bytes())
}

/// Fetch and unpack the source package of a row.
fn fetch(row: &Row, folder: &Path, progress: &mut dyn Progress) -> Result<(), Error> {
    let download = folder.join("download");
    fs::create_dir(&download).map_err(trouble(&download))?;
    let fetched = apt::fetch(row, &download, progress)?;
    let package = &fetched.files[0];
    let corrupt = |detail: &str| Error::CorruptPackage { path: package.clone(), detail: detail.into() };
    let root = folder.join("package");
    command::output(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root))?;
    let items = fs::read_dir(root.join("usr/src")).map_err(|_| corrupt("it has no usr/src"))?;
    let files = items.flatten().map(|item| item.path());
    let tarball = files.into_iter().find(|path| path.is_file() && path.to_string_lossy().contains(".tar."));
    unpack(&tarball.ok_or_else(|| corrupt("it holds no tarball"))?, folder, progress)?;
    for spent in [&download, &root] {
        fs::remove_dir_all(spent).map_err(trouble(spent))?;
    }
    identify(folder, &fetched.package)
}

/// Unpack a tarball with one folder in it.
fn unpack(tarball: &Path, folder: &Path, progress: &mut dyn Progress) -> Result<(), Error> {
    progress.say(&format!("unpacking {}", tarball.file_name().unwrap_or_default().display()));
    let unreadable = |source| Error::Unreadable { path: tarball.to_owned(), source };
    let no_source = || Error::NoSource { path: tarball.to_owned() };
    let packed = fs::read(tarball).map_err(unreadable)?;
    let place = folder.join("unpacked");
    let reader: Box<dyn io::Read + '_> = match compression::decoder(&packed).map_err(unreadable)? {
        Some(decoder) => decoder,
        None => Box::new(packed.as_slice()),
    };
    // It stays inside of the folder, whatever the paths and links in it say.
    tar::Archive::new(reader).unpack(&place).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => trouble(&place)(error),
        _ => no_source(),
    })?;
    let items = fs::read_dir(&place).map_err(trouble(&place))?;
    let top: Vec<PathBuf> = items.flatten().map(|item| item.path()).collect();
    match top.as_slice() {
        [top] if top.join("Kbuild").is_file() => {
            let source = folder.join(SOURCE);
            fs::rename(top, &source).map_err(trouble(&source))?;
            fs::remove_dir_all(&place).map_err(trouble(&place))
        }
        _ => Err(no_source()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Quiet;

    struct Desk {
        _folder: tempfile::TempDir,
        cache: Cache,
        tree: PathBuf,
    }

    fn desk() -> Desk {
        let folder = tempfile::tempdir().expect("temp");
        let cache = Cache::at(folder.path().join("cache")).expect("cache");
        let tree = folder.path().join("linux");
        fs::create_dir_all(tree.join("fs")).expect("made");
        for (name, text) in
            [("Kbuild", ""), ("fs/a.c", "a"), ("fs/b.c", "b"), (".gitignore", "*.o\n"), ("fs/a.o", "o")]
        {
            fs::write(tree.join(name), text).expect("written");
        }
        let git = |arguments: &[&str]| {
            command::output(Command::new("git").arg("-C").arg(&tree).args(arguments)).expect("git");
        };
        git(&["init", "-q"]);
        git(&["add", "."]);
        Desk { _folder: folder, cache, tree }
    }

    fn open(desk: &Desk) -> Tree {
        Tree::of(&Source::Path(desk.tree.clone()), &desk.cache, &mut Quiet).expect("a tree")
    }

    fn changes(list: &[(&str, Option<&str>)]) -> Changes {
        Changes(
            list.iter()
                .map(|(path, text)| ((*path).to_owned(), text.map(|text| text.as_bytes().to_vec())))
                .collect(),
        )
    }

    #[test]
    fn a_git_tree_is_followed_and_what_it_ignores_is_not() {
        let desk = desk();
        let (first, place) = {
            let tree = open(&desk);
            (tree.identity().to_owned(), tree.source())
        };
        assert!(place.join("fs/a.c").exists() && !place.join("fs/a.o").exists());
        let time = || fs::metadata(place.join("fs/b.c")).expect("there").modified().expect("a time");
        let b = time();
        fs::write(desk.tree.join("fs/a.c"), "aa").expect("written");
        fs::write(desk.tree.join("fs/new.c"), "n").expect("written");
        assert_ne!(open(&desk).identity(), first);
        assert_eq!(fs::read_to_string(place.join("fs/a.c")).expect("read"), "aa");
        fs::remove_file(desk.tree.join("fs/new.c")).expect("removed");
        fs::write(desk.tree.join("fs/a.c"), "a").expect("written");
        assert_eq!(open(&desk).identity(), first, "the same content is the same source");
        assert!(!place.join("fs/new.c").exists());
        assert_eq!(time(), b, "what did not change is not written");
    }

    #[test]
    fn changes_come_and_go_and_only_what_differs_is_written() {
        let desk = desk();
        let tree = open(&desk);
        let read = |path: &str| fs::read_to_string(tree.source().join(path)).ok();
        tree.write(&changes(&[("fs/a.c", Some("x")), ("fs/c.c", Some("c")), ("fs/b.c", None)]))
            .expect("written");
        assert_eq!(
            (read("fs/a.c"), read("fs/b.c"), read("fs/c.c")),
            (Some("x".into()), None, Some("c".into()))
        );
        assert_eq!(tree.original("fs/a.c").expect("read"), Some(b"a".to_vec()));
        assert_eq!(tree.original("fs/c.c").expect("read"), None);
        let time = || fs::metadata(tree.source().join("fs/a.c")).expect("there").modified().expect("a time");
        let a = time();
        tree.write(&changes(&[("fs/a.c", Some("x"))])).expect("written");
        assert_eq!((read("fs/b.c"), read("fs/c.c"), time()), (Some("b".into()), None, a));
        tree.write(&Changes::default()).expect("written");
        assert_eq!(read("fs/a.c"), Some("a".into()));
        assert_eq!(fs::read_to_string(tree.folder.join(PATCHED)).expect("read"), "");
    }

    #[test]
    fn a_patched_file_is_followed_below_its_patch() {
        let desk = desk();
        open(&desk).write(&changes(&[("fs/a.c", Some("x"))])).expect("written");
        fs::write(desk.tree.join("fs/a.c"), "later").expect("written");
        let tree = open(&desk);
        assert_eq!(tree.original("fs/a.c").expect("read"), Some(b"later".to_vec()));
        tree.write(&Changes::default()).expect("written");
        assert_eq!(fs::read_to_string(tree.source().join("fs/a.c")).expect("read"), "later");
    }

    #[test]
    fn what_is_no_source_is_refused() {
        let desk = desk();
        let refused = |path: PathBuf| {
            let error = Tree::of(&Source::Path(path), &desk.cache, &mut Quiet).expect_err("refused");
            assert!(matches!(error, Error::NoSource { .. }), "{error}");
        };
        refused(desk.tree.join("fs"));
        refused(desk.tree.join("fs/a.c"));
        refused(desk.tree.join("missing"));
    }
}
