//! The kernels that go by a name: rows of `kernels.toml`, compiled in and read strictly. It knows
//! where a kernel is to be found, never whether it is at hand.

use std::sync::LazyLock;

use serde::Deserialize;

use super::Error;

/// One named kernel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What people type.
    pub name: String,
    /// The Debian suite that holds it.
    pub suite: String,
    /// The package that carries the image, with at most one star, which stands for any text.
    pub package: String,
    /// What tells it from its neighbours.
    pub note: String,
}

impl Row {
    /// What every package name of this row begins with.
    pub(super) fn prefix(&self) -> &str {
        self.package.split('*').next().unwrap_or_default()
    }

    /// Whether a package is one of this row's.
    pub(super) fn matches(&self, package: &str) -> bool {
        match self.package.split_once('*') {
            None => package == self.package,
            Some((prefix, suffix)) => package.strip_prefix(prefix).is_some_and(|rest| rest.ends_with(suffix)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: String,
    kernel: Vec<Row>,
}

static FILE: LazyLock<File> = LazyLock::new(|| {
    toml::from_str(include_str!("../../kernels.toml")).expect("a test reads the compiled-in catalogue")
});

/// All rows, oldest kernel first.
pub fn catalogue() -> &'static [Row] {
    &FILE.kernel
}

/// The row to use when nobody names one.
pub fn default_row() -> &'static Row {
    find(&FILE.default).expect("a test looks the default up")
}

/// The row called `name`.
///
/// # Errors
/// There is none; the error names those that look like it.
pub fn row(name: &str) -> Result<&'static Row, Error> {
    find(name).ok_or_else(|| Error::UnknownName { name: name.to_owned(), near: near(name) })
}

fn find(name: &str) -> Option<&'static Row> {
    catalogue().iter().find(|row| row.name == name)
}

/// The names that `name` may have been meant to be, nearest first, as a list for people.
fn near(name: &str) -> String {
    let mut near: Vec<_> =
        catalogue().iter().map(|row| (strsim::osa_distance(name, &row.name), row.name.as_str())).collect();
    near.sort_by_key(|(distance, _)| *distance);
    let names: Vec<_> = near.into_iter().take(3).map(|(_, name)| name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_compiled_in_catalogue_is_sound() {
        let names: HashSet<_> = catalogue().iter().map(|row| &row.name).collect();
        assert_eq!(names.len(), catalogue().len(), "a name stands twice");
        assert!(catalogue().iter().all(|row| row.package.matches('*').count() <= 1));
        assert_eq!(default_row().name, "6.12");
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = "default = \"a\"\n[[kernel]]\nname = \"a\"\nsuite = \"s\"\npackage = \"p\"\nnote = \"n\"\nflavour = \"f\"\n";
        let error = toml::from_str::<File>(text).err().expect("refused");
        assert!(error.to_string().contains("unknown field `flavour`"), "{error}");
    }

    #[test]
    fn an_unknown_name_is_answered_with_near_ones() {
        let error = row("6.13").expect_err("no such row");
        insta::assert_snapshot!(error, @"there is no kernel called 6.13 (near it: 6.1, 6.12, 6.16): `fuseproof kernels list` shows all names, and a file is named with a slash, as in ./6.13");
    }

    #[rstest::rstest]
    #[case("6.12", "linux-image-6.12.117+deb12-cloud-amd64", true)]
    #[case("6.12", "linux-image-6.12.117+deb12-cloud-amd64-dbg", false)]
    #[case("6.12", "linux-image-6.12.117+deb12-cloud-amd64-unsigned", false)]
    #[case("6.12", "linux-image-6.12-cloud-amd64", false)]
    #[case("6.12-old", "linux-image-6.12.43+deb12-cloud-amd64", true)]
    #[case("6.12-old", "linux-image-6.12.48+deb12-cloud-amd64", false)]
    #[case("6.1", "linux-image-6.1.0-55-cloud-amd64", true)]
    #[case("6.1", "linux-image-6.12.117-cloud-amd64", false)]
    #[case("7.2", "linux-binary-7.2.13+deb14-cloud-amd64", true)]
    #[case("7.2", "linux-binary-unsigned-7.2.13+deb14-cloud-amd64", false)]
    #[case("7.3", "linux-binary-7.3-cloud-amd64", true)]
    #[case("7.3", "linux-binary-7.3.1+deb14-cloud-amd64", true)]
    fn a_row_matches_ready_images_only(#[case] name: &str, #[case] package: &str, #[case] ours: bool) {
        assert_eq!(row(name).expect("row").matches(package), ours);
    }
}
