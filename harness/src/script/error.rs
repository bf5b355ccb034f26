//! What is wrong with a case file, or with a file of rules, where, and what would have been right.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use miette::{Diagnostic, NamedSource, SourceSpan};
use thiserror::Error;

use super::Source;

/// The first thing that is wrong with a case file, or with a file of rules.
#[derive(Debug, Error, Diagnostic)]
#[error("{what}")]
pub struct ScriptError {
    what: String,
    #[source_code]
    text: Arc<NamedSource<String>>,
    #[label("{expected}")]
    span: SourceSpan,
    expected: String,
    #[help]
    help: Option<String>,
}

impl ScriptError {
    /// The file, and the line and column in it, both counted from 1.
    pub fn place(&self) -> (&str, usize, usize) {
        let before = &self.text.inner()[..self.span.offset()];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (self.text.name(), line, column)
    }

    /// What would have been right.
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

/// Why the cases, or the rules, of a folder could not be loaded.
#[derive(Debug, Error, Diagnostic)]
pub enum LoadError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}; pass the folder that holds the cases", path.display())]
    Unreadable {
        /// What was to be read.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Some files are not what they should be.
    #[error("mistakes in the files below: {}", .0.len())]
    Wrong(#[related] Vec<ScriptError>),
    /// Cases and rules are right by themselves, but do not agree.
    #[error("contradictions between cases and rules: {}", .0.len())]
    Contradictory(#[related] Vec<ScriptError>),
}

/// Something wrong at a place of a file that the caller knows.
#[derive(Debug)]
pub(crate) struct Fault {
    span: Range<usize>,
    what: String,
    expected: String,
    help: Option<String>,
}

impl Fault {
    /// `what` is the headline; `expected` stands under the place itself.
    pub(crate) fn new(span: &Range<usize>, what: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault { span: span.clone(), what: what.into(), expected: expected.into(), help: None }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Fault {
        Fault { help: Some(help.into()), ..self }
    }

    pub(super) fn is_at(&self, span: &Range<usize>) -> bool {
        self.span == *span
    }

    /// A word that is none of those known for its place.
    pub(crate) fn unknown<'a>(
        span: &Range<usize>,
        kind: &str,
        word: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Fault {
        /// So many words can be listed without hiding the nearest one.
        const FEW: usize = 16;
        let known: Vec<&str> = known.into_iter().collect();
        let fault = Fault::new(span, format!("unknown {kind} `{word}`"), format!("no such {kind}"));
        let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(word, name));
        match nearest {
            None => fault,
            Some(nearest) if known.len() > FEW => fault.help(format!("the nearest is `{nearest}`")),
            Some(nearest) => {
                let all = known.join("`, `");
                fault.help(format!("the nearest is `{nearest}`, of `{all}`"))
            }
        }
    }

    pub(crate) fn within(self, source: &Source) -> ScriptError {
        ScriptError {
            what: self.what,
            text: Arc::new(NamedSource::new(&source.path, source.text.clone())),
            span: self.span.into(),
            expected: self.expected,
            help: self.help,
        }
    }
}
