//! What a kernel is built from: a source, a flavour, a dialect, patches. Rows of `builds.toml` and fragments of `kconfig/`,
//! compiled in and read strictly. It builds nothing.

use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;

use include_dir::{Dir, include_dir};
use serde::Deserialize;

use crate::kernel::Row;

/// The fragments of configurations.
static KCONFIG: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/kconfig");
/// The patches of dialects.
static DIALECTS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/dialects");

/// What a kernel is built with.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flavour {
    /// What people type.
    pub name: String,
    /// Fragments of the configuration, later ones over earlier ones.
    fragments: Vec<String>,
    /// Folders, and objects, that are built for coverage.
    #[serde(default)]
    pub(super) coverage: Vec<String>,
    /// Options without which it finds nothing.
    #[serde(default)]
    pub(super) purpose: Vec<String>,
    /// What it finds.
    pub note: String,
}

impl Flavour {
    /// All of its options, a line each, with comments.
    pub(super) fn fragment(&self) -> String {
        self.fragments.iter().map(|name| text(&KCONFIG, &format!("{name}.config"))).collect()
    }
}

/// An interface that no released kernel has: patches of ours on a source.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialect {
    /// What people type.
    pub name: String,
    /// The source it is for.
    from: String,
    /// Files below `dialects/`, in the order in which they are applied.
    patches: Vec<String>,
    /// Lines of a configuration that switch it on.
    #[serde(default)]
    config: Vec<String>,
    /// Options that each put one flaw in. The dialect's name has all of them, `NAME-SP01` only the one that ends in `_SP01`.
    #[serde(default)]
    switches: Vec<String>,
    /// What it is.
    pub note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    source: Vec<Row>,
    flavour: Vec<Flavour>,
    #[serde(default)]
    dialect: Vec<Dialect>,
}

static FILE: LazyLock<File> = LazyLock::new(|| {
    toml::from_str(include_str!("../../../builds.toml")).expect("a test reads the compiled-in rows")
});

/// The sources that go by a name, oldest first.
pub fn sources() -> &'static [Row] {
    &FILE.source
}

/// All flavours, the plain one first.
pub fn flavours() -> &'static [Flavour] {
    &FILE.flavour
}

/// All dialects.
pub fn dialects() -> &'static [Dialect] {
    &FILE.dialect
}

/// The dialect called so.
pub fn dialect(name: &str) -> Option<&'static Dialect> {
    dialects().iter().find(|dialect| dialect.name == name)
}

/// The flavour called so.
pub fn flavour(name: &str) -> Option<&'static Flavour> {
    flavours().iter().find(|flavour| flavour.name == name)
}

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// One that goes by a name.
    Row(&'static Row),
    /// A tarball, or a git tree; the tree is read and never written.
    Path(PathBuf),
}

impl Source {
    /// The source that a person means: a name, or a path.
    pub fn named(text: &str) -> Source {
        match sources().iter().find(|row| row.name == text) {
            Some(row) => Source::Row(row),
            None => Source::Path(text.into()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Row(row) => f.write_str(&row.name),
            Source::Path(path) => {
                f.write_str(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
            }
        }
    }
}

/// Ends the name of a kernel with patches that are not a dialect's.
pub const PATCHED: &str = "+patch";

/// What a kernel is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The source.
    pub source: Source,
    /// What is laid over it.
    pub dialect: Option<&'static Dialect>,
    /// What it is built with.
    pub flavour: &'static Flavour,
    /// Patch files, in the order in which they are applied, after the dialect's own.
    pub patches: Vec<PathBuf>,
    /// The only one of the dialect's switches that is on.
    pub switch: Option<&'static str>,
}

impl Recipe {
    /// A source in a flavour.
    pub fn new(source: Source, flavour: &'static Flavour) -> Recipe {
        Recipe { source, dialect: None, flavour, switch: None, patches: Vec::new() }
    }

    /// A dialect in a flavour.
    pub fn of_dialect(dialect: &'static Dialect, flavour: &'static Flavour) -> Recipe {
        Recipe { dialect: Some(dialect), ..Recipe::new(Source::named(&dialect.from), flavour) }
    }

    /// What `kasan-6.12`, `v12`, `kasan-v12` and `vz-splice-as-posted-SP05` name.
    pub fn named(text: &str) -> Option<Recipe> {
        if let Some(recipe) = Recipe::dialect_named(text) {
            return Some(recipe);
        }
        let (flavour_name, rest) = text.split_once('-')?;
        let flavour = flavour(flavour_name)?;
        match (Recipe::dialect_named(rest), Source::named(rest)) {
            (Some(recipe), _) => Some(recipe.in_flavour(flavour)),
            (None, source @ Source::Row(_)) => Some(Recipe::new(source, flavour)),
            (None, Source::Path(_)) => None,
        }
    }

    /// A dialect, or one with a single switch on, in the plain flavour.
    fn dialect_named(text: &str) -> Option<Recipe> {
        if let Some(dialect) = dialect(text) {
            return Some(Recipe::of_dialect(dialect, plain()));
        }
        let (name, flaw) = text.rsplit_once('-')?;
        let dialect = dialect(name)?;
        let switch = dialect.switches.iter().find(|switch| short(switch) == flaw)?;
        Some(Recipe { switch: Some(switch), ..Recipe::of_dialect(dialect, plain()) })
    }

    /// The same in another flavour.
    pub fn in_flavour(&self, flavour: &'static Flavour) -> Recipe {
        Recipe { flavour, ..self.clone() }
    }

    /// Lines of the configuration that come from the dialect.
    pub(super) fn own_config(&self) -> String {
        let Some(dialect) = self.dialect else { return String::new() };
        let is_on = |switch: &&String| self.switch.is_none_or(|one| one == switch.as_str());
        let switches = dialect.switches.iter().filter(is_on).map(|switch| format!("{switch}=y"));
        dialect.config.iter().cloned().chain(switches).map(|line| line + "\n").collect()
    }

    /// The texts of the dialect's patches, with their names.
    pub(super) fn own_patches(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let names = self.dialect.into_iter().flat_map(|dialect| &dialect.patches);
        names.map(|name| (name.as_str(), text(&DIALECTS, name)))
    }
}

/// The flavour of a kernel that is not looked into.
pub fn plain() -> &'static Flavour {
    &FILE.flavour[0]
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dialect {
            Some(dialect) if self.flavour == plain() => f.write_str(&dialect.name)?,
            Some(dialect) => write!(f, "{}-{}", self.flavour.name, dialect.name)?,
            None => write!(f, "{}-{}", self.flavour.name, self.source)?,
        }
        if let Some(switch) = self.switch {
            write!(f, "-{}", short(switch))?;
        }
        if !self.patches.is_empty() {
            f.write_str(PATCHED)?;
        }
        Ok(())
    }
}

/// What a switch is called behind a dialect's name.
fn short(switch: &str) -> &str {
    switch.rsplit_once('_').map_or(switch, |(_, short)| short)
}

fn text(folder: &'static Dir<'_>, name: &str) -> &'static str {
    folder.get_file(name).and_then(|file| file.contents_utf8()).expect("a test looks up what rows name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_rows_are_sound() {
        for flavour in flavours() {
            assert!(flavour.fragment().contains("CONFIG_PVH=y"), "{} is laid over the base", flavour.name);
            assert_eq!(flavour.purpose.is_empty(), flavour == plain(), "{} is for something", flavour.name);
            for option in &flavour.purpose {
                assert!(
                    flavour.fragment().contains(&format!("\n{option}=y\n")),
                    "{}: {option}",
                    flavour.name
                );
            }
        }
        for dialect in dialects() {
            let recipe = Recipe::of_dialect(dialect, plain());
            assert!(
                matches!(recipe.source, Source::Row(_)),
                "{}: there is no source {}",
                dialect.name,
                dialect.from
            );
            assert!(recipe.own_patches().all(|(_, text)| text.contains("\n+++ ")), "{}", dialect.name);
            for switch in &dialect.switches {
                let option = format!("\n+config {}\n", switch.trim_start_matches("CONFIG_"));
                assert!(recipe.own_patches().any(|(_, text)| text.contains(&option)), "{switch}");
            }
        }
        assert_eq!(plain().name, "small");
    }

    #[test]
    fn each_option_of_a_fragment_has_its_place() {
        for file in KCONFIG.files() {
            let text = file.contents_utf8().expect("text");
            assert!(text.starts_with("# "), "{} says first what it is for", file.path().display());
            let mut names = std::collections::BTreeSet::new();
            for line in text.lines().filter(|line| line.contains("CONFIG_")) {
                let name = line.trim_start_matches("# ").split(['=', ' ']).next();
                assert!(names.insert(name), "{}: {line} stands twice", file.path().display());
            }
        }
    }

    #[rstest::rstest]
    #[case("kasan-6.12", Some("kasan-6.12"))]
    #[case("small-7.2", Some("small-7.2"))]
    #[case("6.12", None)]
    #[case("kasan-6.13", None)]
    #[case("kazan-6.12", None)]
    #[case("v12-rework", Some("v12-rework"))]
    #[case("kasan-vz-splice-as-posted-SP05", Some("kasan-vz-splice-as-posted-SP05"))]
    #[case("vz-splice-as-posted-SP99", None)]
    #[case("vz-splice-SP05", None)]
    fn a_name_is_a_flavour_and_a_source(#[case] text: &str, #[case] name: Option<&str>) {
        assert_eq!(Recipe::named(text).map(|recipe| recipe.to_string()).as_deref(), name);
    }
}
