//! Unpacks Debian kernel packages and picks the image and the modules out of them. It trusts no
//! path inside a package and keeps nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;
use super::command::{self, Failure};
use crate::cache;

/// Unpacks the packages and moves their modules to `folder`/lib/modules. What comes back is the
/// image's bytes.
///
/// # Errors
/// A corrupt package, no image in any of them, no space.
pub(super) fn unpack(packages: &[PathBuf], folder: &Path) -> Result<Vec<u8>, Error> {
    let root = folder.join("package");
    for package in packages {
        dpkg_deb(package, &root)?;
    }
    let image = image(&root).ok_or_else(|| Error::NoImageInPackage { path: packages[0].clone() })?;
    let bytes = fs::read(&image).map_err(|source| cache::Error::io(&image, source))?;
    // It may lie among the modules, which are kept.
    fs::remove_file(&image).map_err(|source| cache::Error::io(&image, source))?;
    // Debian moved the modules from /lib to /usr/lib with the merge of the two.
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| root.join(path));
    if let Some(modules) = modules.iter().find(|path| is_inside(path, &root) && path.is_dir()) {
        let lib = folder.join("lib");
        fs::create_dir(&lib).map_err(|source| cache::Error::io(&lib, source))?;
        fs::rename(modules, lib.join("modules")).map_err(|source| cache::Error::io(modules, source))?;
    }
    fs::remove_dir_all(&root).map_err(|source| cache::Error::io(&root, source))?;
    Ok(bytes)
}

fn dpkg_deb(package: &Path, root: &Path) -> Result<(), Error> {
    match command::output(Command::new("dpkg-deb").arg("--extract").arg(package).arg(root)) {
        Ok(_) => Ok(()),
        Err(Failure::Failed { stderr, .. }) if command::is_out_of_space(&stderr) => {
            Err(cache::Error::NoSpace { path: root.to_owned() }.into())
        }
        Err(Failure::Failed { stderr, .. }) => {
            Err(Error::CorruptPackage { path: package.to_owned(), detail: command::detail(&stderr) })
        }
        Err(failure) => Err(failure.into()),
    }
}

/// The image: `boot/vmlinuz-<release>`, or in the newest packages `vmlinuz` beside the modules.
fn image(root: &Path) -> Option<PathBuf> {
    let boot = entries(&root.join("boot"))
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")));
    let beside = entries(&root.join("usr/lib/modules")).into_iter().map(|path| path.join("vmlinuz"));
    boot.chain(beside).find(|path| is_inside(path, root) && path.is_file())
}

/// Whether the path exists and no link on the way leads out of the unpacked package.
fn is_inside(path: &Path, root: &Path) -> bool {
    match (path.canonicalize(), root.canonicalize()) {
        (Ok(path), Ok(root)) => path.starts_with(root),
        _ => false,
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|items| items.flatten().map(|item| item.path()).collect()).unwrap_or_default()
}
