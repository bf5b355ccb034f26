//! A kernel in the cache: the image, the modules, and a record of both in `kernel.json`. It does not
//! know where kernels come from.

use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Boot, Error, Kernel, image};
use crate::progress::Progress;
use crate::{cache, digest};

const RECORD: &str = "kernel.json";
pub(super) const IMAGE: &str = "image";
/// What the image's instrumented places belong to.
pub(super) const ORIGINS: &str = "origins.gz";

/// What is worth knowing of a stored kernel without reading it again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    release: String,
    boot: Boot,
    digest: String,
    /// Where it came from, for people who look into the cache folder.
    origin: String,
}

/// Stores the bzImage of `release` in `folder`, as the ELF kernel inside it where that one can be
/// booted.
///
/// # Errors
/// Trouble with the folder.
pub(super) fn fill(
    folder: &Path,
    release: String,
    bzimage: Vec<u8>,
    origin: &str,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let (image, boot) = match image::bootable(&bzimage) {
        Ok(vmlinux) => (vmlinux, Boot::Pvh),
        Err(reason) => {
            progress.say(&format!("{release} will unpack itself in the guest, which is slower: {reason}"));
            (bzimage, Boot::Bzimage)
        }
    };
    write(&folder.join(IMAGE), &image)?;
    record(folder, release, boot, &image, origin)
}

/// Makes the ELF kernel that lies in `folder` as its image a stored one.
///
/// # Errors
/// It is no kernel that can be booted, or trouble with the folder.
pub(super) fn record_built(folder: &Path, origin: &str) -> Result<(), Error> {
    let path = folder.join(IMAGE);
    let image = fs::read(&path).map_err(|source| cache::Error::io(&path, source))?;
    let elf = image::elf(&*image).ok_or_else(|| Error::NotAKernel { path: path.clone() })?;
    if !elf.pvh {
        return Err(Error::NoPvh { path });
    }
    record(folder, elf.release, Boot::Pvh, &image, origin)
}

fn record(folder: &Path, release: String, boot: Boot, image: &[u8], origin: &str) -> Result<(), Error> {
    let digest = digest::of_reader(image).expect("memory reads");
    let record = Record { release, boot, digest, origin: origin.to_owned() };
    write(&folder.join(RECORD), &serde_json::to_vec_pretty(&record).expect("a record is plain data"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|source| cache::Error::io(path, source).into())
}

/// The kernel stored in `folder`, under the name it was asked for by.
///
/// # Errors
/// The record cannot be read.
pub(super) fn open(name: &str, folder: &Path) -> Result<Kernel, Error> {
    let path = folder.join(RECORD);
    let fail = |source| cache::Error::io(&path, source);
    let text = fs::read(&path).map_err(fail)?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| fail(error.into()))?;
    let modules = folder.join("lib/modules").join(&record.release);
    Ok(Kernel {
        name: name.to_owned(),
        image: folder.join(IMAGE),
        boot: record.boot,
        modules: modules.join("kernel").is_dir().then_some(modules),
        release: record.release,
        digest: record.digest,
    })
}

/// The SHA-256 of a file of the user's.
pub(super) fn file_digest(path: &Path) -> Result<String, Error> {
    File::open(path)
        .and_then(digest::of_reader)
        .map_err(|source| Error::Unreadable { path: path.to_owned(), source })
}
