//! Kernels built from source: Debian's source packages, a tarball or a git tree, patches, a configuration, `make`.
//!
//! A source has one folder in the cache, `tree-*`: the source as it came, with the patches of the moment written into it, and
//! an object folder a flavour. Nothing is thrown away between builds, so another patch costs the files that it touches. What
//! was built is an entry of its own, which a later build does not change. It boots nothing.

mod configure;
mod make;
mod patch;
mod recipe;
mod tree;

use std::fs;
use std::path::Path;

pub use self::recipe::{
    Dialect, Flavour, PATCHED, Recipe, Source, dialect, dialects, flavour, flavours, plain, sources,
};
use super::{Error, Kernel, origin, store};
use crate::cache::{self, Cache};
use crate::digest;
use crate::install::Program;
use crate::progress::Progress;

/// What a build calls.
const PROGRAMS: [Program; 8] = [
    Program::new("make", "make"),
    Program::new("gcc", "gcc"),
    Program::new("flex", "flex"),
    Program::new("bison", "bison"),
    Program::new("bc", "bc"),
    Program::new("patch", "patch"),
    Program::new("objcopy", "binutils"),
    // The kernel builds a tool of its own that reads objects.
    Program::header("gelf.h", "libelf-dev"),
];

/// What installs the programs that a build needs and this computer lacks; none if all are there.
pub fn remedy() -> Option<String> {
    let missing: Vec<String> =
        PROGRAMS.iter().filter(|program| program.find().is_none()).map(Program::remedy).collect();
    (!missing.is_empty()).then(|| missing.join(" && "))
}

/// How many kernels of one name are kept.
const KEPT: usize = 4;

/// The kernel of a recipe, built if need be.
///
/// # Errors
/// A program that is missing, a source that cannot be had, a patch that does not apply, a build that fails, the cache
/// folder; each with its remedy.
pub(super) fn build(recipe: &Recipe, cache: &Cache, progress: &mut dyn Progress) -> Result<Kernel, Error> {
    let name = recipe.to_string();
    for program in PROGRAMS {
        program.ensure(progress)?;
    }
    let tree = tree::Tree::of(&recipe.source, cache, progress)?;
    let changes = patch::changes(recipe, &tree, progress)?;
    let fragment = configure::fragment(recipe);
    let family = family(&name);
    let (tools, patched) = (make::identity()?, changes.digest());
    let key = digest::of_parts([tree.identity(), &patched, &fragment, &tools].map(str::as_bytes));
    let entry = cache.entry(&format!("{family}{}", &key[..16]), progress, |folder, progress| {
        tree.write(&changes)?;
        let out = tree.objects(&recipe.flavour.name)?;
        configure::configure(&tree, &out, recipe, &changes, &tools, progress)?;
        let vmlinux = make::vmlinux(&tree, &out, recipe, progress)?;
        strip(&vmlinux, &folder.join(store::IMAGE))?;
        keep_origins(&vmlinux, &folder.join(store::ORIGINS))?;
        store::record_built(folder, &name)
    })?;
    touch(&entry);
    cache.prune(&family, KEPT);
    store::open(&name, &entry)
}

/// Whether a kernel of that name has been built, with whatever patches and options: another one costs less then.
pub fn was_built(recipe: &Recipe, cache: &Cache) -> bool {
    cache.has_family(&family(&recipe.to_string()))
}

/// What the names of all entries with kernels of that name begin with.
fn family(name: &str) -> String {
    format!("built-{}-", cache::file_name(name))
}

/// Debug information is not booted, and is most of a kernel.
fn strip(vmlinux: &Path, image: &Path) -> Result<(), Error> {
    let mut objcopy = std::process::Command::new("objcopy");
    super::command::output(objcopy.arg("--strip-debug").arg(vmlinux).arg(image))?;
    Ok(())
}

/// What debug information says of instrumented places goes with the image, if there are any: it is small.
fn keep_origins(vmlinux: &Path, path: &Path) -> Result<(), Error> {
    let origins = origin::of_elf(vmlinux)?;
    if origins.places.is_empty() {
        return Ok(());
    }
    fs::write(path, origins.pack()).map_err(trouble(path))
}

/// Count the entry as used now.
fn touch(entry: &Path) {
    if let Ok(folder) = fs::File::open(entry) {
        // Only the order of pruning hangs on it.
        let _ = folder.set_modified(std::time::SystemTime::now());
    }
}

/// Trouble with a file of the build's.
fn trouble(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| cache::Error::io(&path, source).into()
}
