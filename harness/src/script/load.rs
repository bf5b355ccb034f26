//! The case files of a folder, and the library files below it.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{LoadError, ScriptError};
use super::{Case, Library, Source, library_path, parse};

/// The library files of a folder of cases: `use mount/passthrough` means `lib/mount/passthrough.case` in it.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Library for Folder {
    fn find(&self, name: &str) -> Option<Source> {
        let path = library_path(name);
        let text = fs::read_to_string(self.0.join(&path)).ok()?;
        Some(Source { path, text })
    }
}

/// All cases below a folder, sorted by path; `lib/` holds none.
///
/// # Errors
/// A file or folder that cannot be read, or everything that is wrong with the files: each file's first mistake.
pub fn load(dir: &Path) -> Result<Vec<Case>, LoadError> {
    let library = Folder(dir.to_path_buf());
    let mut cases = Vec::new();
    let mut wrong: Vec<ScriptError> = Vec::new();
    for file in files(dir)? {
        let below = file.strip_prefix(dir).unwrap_or(&file);
        if below.starts_with("lib") {
            continue;
        }
        let path = below.to_string_lossy().into_owned();
        let text = fs::read_to_string(&file)
            .map_err(|source| LoadError::Unreadable { path: file.clone(), source })?;
        match parse(&Source { path, text }, &library) {
            Ok(parsed) => cases.extend(parsed),
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() { Ok(cases) } else { Err(LoadError::Wrong(wrong)) }
}

/// The case files at and below a path, sorted.
///
/// # Errors
/// A folder that cannot be read.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, LoadError> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    collect(path, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: dir.to_path_buf(), source };
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "case") {
            files.push(path);
        }
    }
    Ok(())
}
