//! Findings that are known: which ones they are, and why nobody is to be woken by them.
//!
//! The table is `cases/known-findings.toml`. A finding in it is counted and stored as any other, and changes no exit code. A row
//! knows findings by how their names begin and, where that says too little, by words of their first line; it cannot
//! say that something is not to be looked for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Finding;
use crate::program::capability;

/// The table's name in the folder of the cases.
const FILE: &str = "known-findings.toml";

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    #[serde(default)]
    finding: Vec<Row>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// How its name begins: the kind, or kind and function.
    name: String,
    /// What is in its first line.
    #[serde(default)]
    why: String,
    /// It is known on kernels that can do this; `!` before one that they cannot.
    #[serde(default)]
    needs: Vec<String>,
    /// What it is, and why it is left so.
    reason: String,
    /// Where more is told.
    source: String,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// It cannot be read.
    #[error("cannot read {} ({source}): mend its permissions", path.display())]
    Unreadable {
        /// The table's file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// It is no such table.
    #[error("{} is not a table of known findings: {source}", path.display())]
    Wrong {
        /// The table's file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: Box<toml::de::Error>,
    },
    /// A row that says nothing, or knows everything.
    #[error("{}: the row of `{name}` has no {field}: say it, or remove the row", path.display())]
    Empty {
        /// The table's file.
        path: PathBuf,
        /// How the row's finding begins.
        name: String,
        /// What it lacks.
        field: &'static str,
    },
    /// A row about something that no kernel is asked.
    #[error("{}: there is no capability {need}, which the row of `{name}` needs: cases/README.md lists all", path.display())]
    NoCapability {
        /// The table's file.
        path: PathBuf,
        /// How the row's finding begins.
        name: String,
        /// What it needs.
        need: String,
    },
}

impl Known {
    /// The table in a folder of cases; none there is an empty one.
    ///
    /// # Errors
    /// See [`KnownError`].
    pub fn load(folder: &Path) -> Result<Known, KnownError> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
            Err(source) => return Err(KnownError::Unreadable { path, source }),
        };
        let table: Known = match toml::from_str(&text) {
            Ok(table) => table,
            Err(source) => return Err(KnownError::Wrong { path, source: Box::new(source) }),
        };
        for row in &table.finding {
            let name = row.name.clone();
            let fields = [("name", &row.name), ("reason", &row.reason), ("source", &row.source)];
            if let Some((field, _)) = fields.into_iter().find(|(_, text)| text.trim().is_empty()) {
                return Err(KnownError::Empty { path, name, field });
            }
            let unknown = |need: &&String| capability(need.trim_start_matches('!')).is_none();
            if let Some(need) = row.needs.iter().find(unknown).cloned() {
                return Err(KnownError::NoCapability { path, name, need });
            }
        }
        Ok(table)
    }

    /// What is known of the finding, if it is.
    pub(super) fn reason(&self, finding: &Finding) -> Option<String> {
        let row = self.finding.iter().find(|row| row.is_about(finding))?;
        Some(format!("{} ({})", row.reason, row.source))
    }
}

impl Row {
    fn is_about(&self, finding: &Finding) -> bool {
        let rest = finding.name.strip_prefix(self.name.as_str());
        let begins = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        begins && finding.why.contains(self.why.as_str()) && self.is_met(&finding.kernel.has)
    }

    fn is_met(&self, has: &[String]) -> bool {
        self.needs.iter().all(|need| match need.strip_prefix('!') {
            Some(absent) => !has.iter().any(|one| one == absent),
            None => has.contains(need),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::{Identity, Rate};

    const ROW: &str = "[[finding]]\nname = \"oracle-open\"\nwhy = \"allows EIO\"\nneeds = [\"passthrough\"]\nreason = \"r\"\n\
                       source = \"s\"\n";

    fn load(text: &str) -> Result<Known, KnownError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), text).unwrap();
        Known::load(folder.path())
    }

    fn finding(name: &str, why: &str, has: &str) -> Finding {
        let kernel = Identity { has: vec![has.into()], ..Identity::default() };
        let (name, why) = (name.into(), why.into());
        Finding { name, why, times: 1, rate: Rate::default(), kernel, known: None }
    }

    #[test]
    fn a_row_knows_what_fits_it_and_nothing_else() {
        let known = load(ROW).unwrap();
        let reason = |name, why, has| known.reason(&finding(name, why, has));
        let why = "step 7, app open: the oracle allows EIO";
        assert_eq!(reason("oracle-open-01234567", why, "passthrough"), Some("r (s)".into()));
        assert_eq!(reason("oracle-openat-01234567", why, "passthrough"), None);
        assert_eq!(reason("oracle-open-01234567", "the oracle allows ok", "passthrough"), None);
        assert_eq!(reason("oracle-open-01234567", why, "overlay"), None);
        let absent = load(&ROW.replace("passthrough", "!passthrough")).unwrap();
        assert_eq!(absent.reason(&finding("oracle-open-01234567", why, "passthrough")), None);
        assert_eq!(Known::default().reason(&finding("oracle-open", why, "passthrough")), None);
    }

    #[test]
    fn mistakes_in_the_table_are_located() {
        let told = |text: &str| load(text).unwrap_err().to_string();
        let error = told(&ROW.replace("reason", "raison"));
        assert!(error.contains(FILE) && error.contains("line 5, column 1"), "{error}");
        let error = told(&ROW.replace("oracle-open", ""));
        assert!(error.contains("the row of `` has no name"), "{error}");
        let error = told(&ROW.replace("\"r\"", "\" \""));
        assert!(error.contains("`oracle-open` has no reason"), "{error}");
        let error = told(&ROW.replace("passthrough", "passthru"));
        assert!(error.contains("no capability passthru"), "{error}");
    }

    #[test]
    fn the_project_s_own_table_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cases");
        assert!(folder.join(FILE).is_file());
        Known::load(&folder).unwrap();
    }
}
