//! The case language: text to [`Program`] and back. `cases/README.md` shows the language by example.
//!
//! Each line is cut into words by hand and read left to right by a cursor. The language is a line at a time, with no
//! nesting to speak of, and what is right at a place depends on tables (the call's signature, the opcode's fields,
//! the names bound so far); so each place can say itself what it expected, which a parser library would be taught
//! again by annotation.
//!
//! Nothing here performs a step or knows a kernel. Only [`load`] and [`Folder`] read files.

mod axes;
mod error;
mod layout;
mod lexer;
mod load;
mod names;
mod outcome;
mod parser;
mod printer;
mod step;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use error::Fault;
pub use error::{LoadError, ScriptError};
pub use layout::format;
pub use load::{Folder, files, load};
pub use parser::parse;
pub(crate) use parser::{is_rule, rule_span};
pub use printer::{print, print_seen, print_step, usage};

use std::collections::BTreeMap;

use crate::abi::Opcode;
use crate::program::{CAPABILITIES, Kind, Program, signatures};

/// A file of the case language, or of rules.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path below `cases/`, such as `open_reply/backing-id-zero.case` or `rules/open_reply.toml`.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// What one case file, or one variant of it, parses to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The file's path below `cases/`, without `.case`.
    pub path: String,
    /// Which values the axes have, such as `flag=KEEP_CACHE`; none for a case without axes.
    pub variant: Option<String>,
    /// What it does.
    pub program: Program,
}

impl Case {
    /// Its file below `cases/`.
    pub fn file(&self) -> String {
        format!("{}.case", self.path)
    }

    /// The name in selections and reports: `open_reply/x` or `open_reply/x[flag=KEEP_CACHE]`.
    pub fn name(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{}[{variant}]", self.path),
            None => self.path.clone(),
        }
    }
}

/// Every word that the language knows by itself, for whoever makes up cases.
pub fn vocabulary() -> Vec<&'static str> {
    let calls = signatures().map(|signature| signature.name);
    let params = signatures().flat_map(|signature| signature.params).flat_map(|param| match param.kind {
        Kind::Flags(set) => set.names.iter().map(|(name, _)| *name).collect(),
        Kind::Word(words) => words.to_vec(),
        _ => vec![param.name],
    });
    let opcodes = Opcode::ALL.iter().filter_map(|opcode| opcode.name());
    let capabilities = CAPABILITIES.iter().map(|capability| capability.name);
    let marks = [
        "app", "app2", "daemon", "host", "->", ":", "=", ",", "[", "]", "ok", "EIO", "f", "\"a\"", "5", "or",
    ];
    let verbs = step::VERBS.iter().copied();
    calls.chain(params).chain(opcodes).chain(capabilities).chain(marks).chain(verbs).collect()
}

/// Where `use` lines find what they name.
pub trait Library {
    /// The file that `use <name>` means, if there is one.
    fn find(&self, name: &str) -> Option<Source>;
}

/// A library from name to text; an empty one for cases that use nothing.
impl Library for BTreeMap<&str, &str> {
    fn find(&self, name: &str) -> Option<Source> {
        let text = self.get(name)?;
        Some(Source { path: library_path(name), text: (*text).to_string() })
    }
}

/// Where below `cases/` the library file of that name stands.
fn library_path(name: &str) -> String {
    format!("lib/{name}.case")
}
