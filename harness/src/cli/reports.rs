//! `--report KIND=PATH`: the argument, and putting the file there. Which kinds there are is each command's own.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::files::write_whole;

/// What `KIND=PATH` means.
pub(super) fn parse<K: ValueEnum>(text: &str) -> Result<(K, PathBuf), String> {
    let (kind, path) = text.split_once('=').unwrap_or((text, ""));
    let kind = K::from_str(kind, false).map_err(|_| {
        let kinds = K::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let all: Vec<_> = kinds.map(|kind| format!("{}=PATH", kind.get_name())).collect();
        match all.split_last() {
            Some((last, [])) => format!("expected {last}"),
            Some((last, others)) => format!("expected {} or {last}", others.join(", ")),
            None => unreachable!("a command with --report has kinds of it"),
        }
    })?;
    if path.is_empty() { Err("expected a path behind `=`".into()) } else { Ok((kind, path.into())) }
}

/// Put a report at its path, whole.
pub(super) fn put(path: &Path, text: &str) -> Result<(), String> {
    write_whole(path, text).map_err(|error| format!("cannot write the report {}: {error}", path.display()))
}
