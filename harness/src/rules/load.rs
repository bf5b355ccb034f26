//! The files of rules in a folder of cases.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Rules, parse};
use crate::script::{LoadError, Source};

/// All rules of a folder of cases: `rules/*.toml` in it.
///
/// # Errors
/// A file or folder that cannot be read, or everything that is wrong with the rules.
pub fn load(cases: &Path) -> Result<Rules, LoadError> {
    let folder = cases.join("rules");
    let unreadable = |path: &Path, source| LoadError::Unreadable { path: path.to_path_buf(), source };
    let items = fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut files: Vec<PathBuf> =
        items.map_err(|error| unreadable(&folder, error))?.into_iter().map(|item| item.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
        let below = path.strip_prefix(cases).unwrap_or(path);
        Ok(Source { path: below.to_string_lossy().into_owned(), text })
    };
    let sources = files.iter().map(read).collect::<Result<Vec<_>, LoadError>>()?;
    parse(&sources).map_err(LoadError::Wrong)
}
