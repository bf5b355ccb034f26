//! Where kernels come from: a row of the catalogue, or a path whose kind is told by its content.
//! What has to be fetched, unpacked or extracted goes to the cache, under a name made of what it
//! was made from; a vmlinux is booted where it lies.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use object::ReadCache;

use super::{Boot, Error, Kernel, Row, apt, image, package, store};
use crate::cache::{self, Cache};
use crate::digest;
use crate::progress::Progress;

/// The cache entry of a row. It changes with what the row says, so that an edited row is fetched
/// anew.
pub(super) fn entry_of(row: &Row) -> String {
    let says = format!("{} {}", row.suite, row.package);
    let digest = digest::of_reader(says.as_bytes()).expect("memory reads");
    format!("kernel-{}-{}", row.name, &digest[..8])
}

/// The row's kernel, fetched if need be.
pub(super) fn from_row(row: &Row, cache: &Cache, progress: &mut dyn Progress) -> Result<Kernel, Error> {
    let fetch = |folder: &Path, progress: &mut dyn Progress| fetch(row, folder, progress);
    store::open(&row.name, &cache.entry(&entry_of(row), progress, fetch)?)
}

fn fetch(row: &Row, folder: &Path, progress: &mut dyn Progress) -> Result<(), Error> {
    let download = folder.join("download");
    let fail = |source| cache::Error::io(&download, source);
    fs::create_dir(&download).map_err(fail)?;
    let fetched = apt::fetch(row, &download, progress)?;
    let origin = format!("{} from {}", fetched.package, row.suite);
    fill_from_packages(folder, &fetched.files, &origin, progress)?;
    fs::remove_dir_all(&download).map_err(fail)?;
    Ok(())
}

/// The kernel at `path`.
pub(super) fn from_path(path: &Path, cache: &Cache, progress: &mut dyn Progress) -> Result<Kernel, Error> {
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
        _ => Error::Unreadable { path: path.to_owned(), source },
    };
    // QEMU is started elsewhere.
    let path = &path.canonicalize().map_err(fail)?;
    if path.is_dir() {
        return from_build_tree(path, cache, progress);
    }
    if !path.is_file() {
        // Reading a fifo or a device might never end.
        return Err(Error::NotAKernel { path: path.clone() });
    }
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(1024).read_to_end(&mut head)).map_err(fail)?;
    if head.starts_with(b"\x7fELF") {
        from_vmlinux(path)
    } else if image::is_bzimage(&head) {
        from_file("image", path, cache, progress, |folder, progress| {
            let bytes = fs::read(path).map_err(fail)?;
            let release = image::bzimage_release(&bytes);
            let release = release.ok_or_else(|| Error::NotAKernel { path: path.clone() })?;
            store::fill(folder, release, bytes, &path.display().to_string(), progress)
        })
    } else if head.starts_with(b"!<arch>\ndebian-binary") {
        from_file("package", path, cache, progress, |folder, progress| {
            fill_from_packages(folder, std::slice::from_ref(path), &path.display().to_string(), progress)
        })
    } else {
        Err(Error::NotAKernel { path: path.clone() })
    }
}

/// A file's kernel, stored under the file's digest.
fn from_file(
    kind: &str,
    path: &Path,
    cache: &Cache,
    progress: &mut dyn Progress,
    fill: impl FnOnce(&Path, &mut dyn Progress) -> Result<(), Error>,
) -> Result<Kernel, Error> {
    let entry = format!("{kind}-{}", &store::file_digest(path)?[..16]);
    store::open(&path.display().to_string(), &cache.entry(&entry, progress, fill)?)
}

fn fill_from_packages(
    folder: &Path,
    packages: &[PathBuf],
    origin: &str,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    progress.say("unpacking the kernel");
    let bzimage = package::unpack(packages, folder)?;
    let release = image::bzimage_release(&bzimage)
        .ok_or_else(|| Error::NoImageInPackage { path: packages[0].clone() })?;
    store::fill(folder, release, bzimage, origin, progress)
}

/// The tree's vmlinux, which every `make` leaves there; a bzImage may be older than it.
fn from_build_tree(tree: &Path, cache: &Cache, progress: &mut dyn Progress) -> Result<Kernel, Error> {
    let images = [tree.join("vmlinux"), tree.join("arch/x86/boot/bzImage")];
    let image = images.iter().find(|path| path.is_file());
    let image = image.ok_or_else(|| Error::NotBuilt { path: tree.to_owned() })?;
    let kernel = match from_path(image, cache, progress) {
        Err(Error::NoPvh { .. }) if images[1].is_file() => from_path(&images[1], cache, progress)?,
        other => other?,
    };
    // Written when the modules are built.
    let modules = tree.join("modules.order").is_file().then(|| tree.to_owned());
    Ok(Kernel { name: tree.display().to_string(), modules, ..kernel })
}

fn from_vmlinux(path: &Path) -> Result<Kernel, Error> {
    let file = File::open(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let elf = image::elf(&ReadCache::new(file));
    let elf = elf.ok_or_else(|| Error::NotAKernel { path: path.to_owned() })?;
    if !elf.pvh {
        return Err(Error::NoPvh { path: path.to_owned() });
    }
    Ok(Kernel {
        name: path.display().to_string(),
        release: elf.release,
        image: path.to_owned(),
        boot: Boot::Pvh,
        modules: None,
        digest: store::file_digest(path)?,
    })
}
