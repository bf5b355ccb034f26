//! Which module files to load, and in what order. It reads a modules tree as a package or a build
//! leaves it; it loads nothing and needs no `depmod`.
//!
//! Packages carry no `modules.dep`: that file is made on installation. So the order comes from
//! what each module says it depends on. Soft dependencies (a checksum that a file system asks for
//! by its algorithm's name) are not followed: the caller names those modules too.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

use super::{Error, Kernel};

/// No module unpacks to more than this; with debug information the largest take some 100 MiB.
const MODULE_BOUND: u64 = 256 << 20;

/// The files to load for the `wanted` modules, dependencies first. Modules that are built in, or
/// that this kernel does not have, are left out; [`absent_modules`] names the latter.
///
/// # Errors
/// The tree or a module in it cannot be read.
pub fn modules_in_order(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let tree = Tree::read(kernel)?;
    let mut order = Order { tree: &tree, seen: HashSet::new(), files: Vec::new() };
    for name in wanted {
        order.add(&plain(name))?;
    }
    Ok(order.files)
}

/// Those of the `wanted` modules that the kernel neither has built in nor as a file. Without a
/// modules tree nothing is known of what is built in, so all are named.
///
/// # Errors
/// The tree cannot be read.
pub fn absent_modules(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<String>, Error> {
    let tree = Tree::read(kernel)?;
    let known = |name: &str| tree.files.contains_key(name) || tree.built_in.contains(name);
    Ok(wanted.iter().map(|name| plain(name)).filter(|name| !known(name)).collect())
}

/// The bytes of a module file, unpacked if it is compressed (`.ko.xz`, `.ko.zst`, `.ko.gz`).
///
/// # Errors
/// The file cannot be read or unpacked.
pub fn module_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |error: std::io::Error| Error::Module { path: path.to_owned(), reason: error.to_string() };
    let data = fs::read(path).map_err(fail)?;
    let Some(decoder) = super::compression::decoder(&data).map_err(fail)? else {
        return Ok(data);
    };
    let mut plain = Vec::new();
    decoder.take(MODULE_BOUND).read_to_end(&mut plain).map_err(fail)?;
    Ok(plain)
}

/// The modules of one kernel, by name.
#[derive(Default)]
struct Tree {
    files: HashMap<String, PathBuf>,
    built_in: HashSet<String>,
}

impl Tree {
    fn read(kernel: &Kernel) -> Result<Self, Error> {
        let mut tree = Self::default();
        let Some(root) = &kernel.modules else {
            return Ok(tree);
        };
        // Absent where the package that carries it is gone from the mirror.
        if let Ok(text) = fs::read_to_string(root.join("modules.builtin")) {
            tree.built_in = text.lines().filter_map(|line| name_of(Path::new(line))).collect();
        }
        tree.walk(root)?;
        Ok(tree)
    }

    fn walk(&mut self, folder: &Path) -> Result<(), Error> {
        let fail = |source| Error::Unreadable { path: folder.to_owned(), source };
        for item in fs::read_dir(folder).map_err(fail)? {
            let item = item.map_err(fail)?;
            // Links are not followed: `build` and `source` lead out of the tree.
            let kind = item.file_type().map_err(fail)?;
            if kind.is_dir() {
                self.walk(&item.path())?;
            } else if kind.is_file()
                && let Some(name) = name_of(&item.path())
            {
                self.files.insert(name, item.path());
            }
        }
        Ok(())
    }
}

/// A depth-first walk along the dependencies.
struct Order<'a> {
    tree: &'a Tree,
    seen: HashSet<String>,
    files: Vec<PathBuf>,
}

impl Order<'_> {
    fn add(&mut self, name: &str) -> Result<(), Error> {
        let Some(path) = self.tree.files.get(name) else {
            return Ok(());
        };
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        for dependency in depends(path)? {
            self.add(&dependency)?;
        }
        self.files.push(path.clone());
        Ok(())
    }
}

/// What the module says it depends on: the `depends=` line of its `.modinfo` section.
fn depends(path: &Path) -> Result<Vec<String>, Error> {
    let fail = |reason: String| Error::Module { path: path.to_owned(), reason };
    let bytes = module_bytes(path)?;
    let module = object::File::parse(&*bytes).map_err(|error| fail(error.to_string()))?;
    let info = module.section_by_name(".modinfo").ok_or_else(|| fail("it has no .modinfo section".into()))?;
    let info = info.data().map_err(|error| fail(error.to_string()))?;
    let line = info.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"depends="));
    let text = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    Ok(text.split(',').filter(|name| !name.is_empty()).map(plain).collect())
}

/// The module's name, if the path is that of a module file.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, packing) = file.split_once(".ko")?;
    matches!(packing, "" | ".xz" | ".zst" | ".gz").then(|| plain(name))
}

/// Modules are named with either of two marks, which mean the same.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}
