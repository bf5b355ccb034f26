//! A mistake in a file as a JSON object on one line, for editors and other programs.

use std::path::Path;

use miette::Diagnostic as _;
use serde::Serialize;

use crate::script::{LoadError, ScriptError};

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The file.
    pub file: String,
    /// The line, counted from 1; none if the file cannot be read at all.
    pub line: Option<usize>,
    /// The column, counted from 1 in characters.
    pub column: Option<usize>,
    /// Which kind of mistake: `unreadable`, `wrong`, `contradictory` or `layout`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What would have been right at this place.
    pub label: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Message {
    /// All that `error` says, of files below `folder`.
    pub fn all(error: &LoadError, folder: &Path) -> Vec<Message> {
        match error {
            LoadError::Unreadable { path, .. } => vec![Message {
                file: path.display().to_string(),
                line: None,
                column: None,
                code: "unreadable",
                message: error.to_string(),
                label: None,
                help: None,
            }],
            LoadError::Wrong(errors) => Message::each(errors, "wrong", folder),
            LoadError::Contradictory(errors) => Message::each(errors, "contradictory", folder),
        }
    }

    fn each(errors: &[ScriptError], code: &'static str, folder: &Path) -> Vec<Message> {
        errors.iter().map(|error| Message::new(error, code, folder)).collect()
    }

    fn new(error: &ScriptError, code: &'static str, folder: &Path) -> Message {
        let (path, line, column) = error.place();
        Message {
            file: folder.join(path).display().to_string(),
            line: Some(line),
            column: Some(column),
            code,
            message: error.to_string(),
            label: Some(error.expected().to_string()),
            help: error.help().map(|help| help.to_string()),
        }
    }

    /// The object on one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
