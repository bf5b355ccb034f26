//! Kernels: from what a person names (a catalogue row, a file, a build tree, a recipe) to an image that QEMU
//! boots, and its modules. It boots nothing.

pub(crate) mod apt;
pub mod build;
mod catalogue;
pub(crate) mod command;
mod compression;
mod error;
mod image;
mod modules;
mod origin;
mod package;
mod places;
mod source;
mod store;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use self::build::Recipe;
pub use self::catalogue::{Row, catalogue, default_row, row};
pub use self::error::Error;
pub use self::modules::{absent_modules, module_bytes, modules_in_order};
pub use self::origin::{Frame, Origin, Origins, origins};
pub use self::places::places;
use crate::cache::Cache;
use crate::progress::Progress;

/// What a person names a kernel by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSpec {
    /// A row of the catalogue, by its name.
    Catalogue(String),
    /// A bzImage, a vmlinux, a `.deb` package or a build tree.
    Path(PathBuf),
    /// One that is built here.
    Built(Box<Recipe>),
    /// The kernel that is running.
    Host,
}

impl FromStr for KernelSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "host" {
            return Ok(Self::Host);
        }
        if let Some(recipe) = Recipe::named(text) {
            return Ok(Self::Built(Box::new(recipe)));
        }
        match row(text) {
            Ok(row) => Ok(Self::Catalogue(row.name.clone())),
            Err(_) if text.contains('/') || PathBuf::from(text).exists() => Ok(Self::Path(text.into())),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalogue(name) => f.write_str(name),
            Self::Path(path) => path.display().fmt(f),
            Self::Built(recipe) => recipe.fmt(f),
            Self::Host => f.write_str("host"),
        }
    }
}

/// How QEMU has to boot an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boot {
    /// An uncompressed ELF kernel, through its PVH entry.
    Pvh,
    /// A bzImage, which unpacks itself in the guest.
    Bzimage,
}

/// A kernel that is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What it was named by.
    pub name: String,
    /// Its release, as in `uname -r`.
    pub release: String,
    /// The file to boot.
    pub image: PathBuf,
    /// How to boot it.
    pub boot: Boot,
    /// The folder with its modules and its list of what is built in, if it came with one:
    /// `lib/modules/<release>`, or a build tree.
    pub modules: Option<PathBuf>,
    /// The SHA-256 of the image, in hexadecimal.
    pub digest: String,
}

/// Brings a kernel to hand: from the cache, otherwise from where it is, or by building it.
///
/// # Errors
/// The name, the path, the package, the network or the cache folder; each with its remedy.
pub fn resolve(spec: &KernelSpec, cache: &Cache, progress: &mut dyn Progress) -> Result<Kernel, Error> {
    match spec {
        KernelSpec::Catalogue(name) => source::from_row(row(name)?, cache, progress),
        KernelSpec::Path(path) => source::from_path(path, cache, progress),
        KernelSpec::Built(recipe) => build::build(recipe, cache, progress),
        KernelSpec::Host => Err(Error::Host),
    }
}

/// The row's kernel, if it has been fetched.
pub fn is_cached(row: &Row, cache: &Cache) -> Option<Kernel> {
    store::open(&row.name, &cache.find(&source::entry_of(row))?).ok()
}
