//! Packages of Debian's in the cache, as files: programs that others wrote, and their sources, to be tried and not to be
//! installed.
//!
//! It unpacks, and never runs anything of a package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{self, Cache};
use crate::digest;
use crate::kernel::{Error, apt, command};
use crate::progress::Progress;

/// The folder with the files of these packages, the newest ones of a suite, fetched if need be.
///
/// # Errors
/// No Debian archive, no such package, no network, no space.
pub fn unpacked(
    suite: &str,
    names: &[&str],
    cache: &Cache,
    progress: &mut dyn Progress,
) -> Result<PathBuf, Error> {
    cache.entry(&entry_of("packages", suite, names), progress, |folder, progress| {
        let download = in_folder(folder)?;
        for package in apt::fetch_named(suite, names, &download, progress)? {
            command::output(Command::new("dpkg-deb").arg("--extract").arg(package).arg(folder))?;
        }
        forget(&download)
    })
}

/// The folder with the newest source of a package in a suite, with Debian's patches, fetched if need be.
///
/// # Errors
/// As those of [`unpacked`].
pub fn source(suite: &str, name: &str, cache: &Cache, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
    let entry = cache.entry(&entry_of("source", suite, &[name]), progress, |folder, progress| {
        let download = in_folder(folder)?;
        let description = apt::fetch_source(suite, name, &download, progress)?;
        let unpack = ["--no-check", "--extract"];
        command::output(
            Command::new("dpkg-source").args(unpack).arg(description).arg(folder.join("source")),
        )?;
        forget(&download)
    })?;
    Ok(entry.join("source"))
}

/// It changes with what is wanted, so that something else is fetched anew.
fn entry_of(kind: &str, suite: &str, names: &[&str]) -> String {
    let wanted = format!("{suite} {}", names.join(" "));
    let digest = digest::of_reader(wanted.as_bytes()).expect("memory reads");
    format!("{kind}-{}-{}", names[0], &digest[..8])
}

fn in_folder(folder: &Path) -> Result<PathBuf, Error> {
    let download = folder.join(".download");
    fs::create_dir(&download).map_err(|source| cache::Error::io(&download, source))?;
    Ok(download)
}

fn forget(download: &Path) -> Result<(), Error> {
    Ok(fs::remove_dir_all(download).map_err(|source| cache::Error::io(download, source))?)
}
