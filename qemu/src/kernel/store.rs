//! A kernel in the cache: the image, the modules, and a record of both in `kernel.json`. It does not
//! know where kernels come from.

use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Boot, Error, Kernel, image};
use crate::progress::Progress;
use crate::{cache, digest};

const RECORD: &str = "kernel.json";
const IMAGE: &str = "image";

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
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|source| cache::Error::io(&path, source).into())
    };
    write(IMAGE, &image)?;
    let record = Record {
        release,
        boot,
        digest: digest::of_reader(&*image).expect("memory reads"),
        origin: origin.to_owned(),
    };
    write(RECORD, &serde_json::to_vec_pretty(&record).expect("a record is plain data"))
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
