//! What came of a run, how the law is covered and what is wrong with files, for people (terminal, HTML, changes) and for
//! programs (JSON, JUnit, KTAP).
//!
//! All that came of a run is made from its events. Reports only show; they decide nothing, and they write no files. Colour belongs
//! to the terminal and is never part of a value.

mod behaviour;
mod bench;
mod changes;
mod events;
mod failure;
mod html;
mod json;
mod junit;
mod ktap;
mod law;
mod message;
mod night;
mod observed;
mod reached;
mod splats;
mod summary;
mod terminal;
mod trial;
mod validation;

pub use bench::{bench, bench_csv, bench_html, bench_json, own, own_json};
pub use changes::{Changes, Side};
pub use events::{Unreadable, read_events, write_events};
pub use failure::{Origin, failure};
pub use html::html;
pub use json::{json, read_json};
pub use junit::junit;
pub use ktap::ktap;
pub use law::{coverage_json, coverage_table, explain};
pub use message::Message;
pub use night::night;
pub use observed::{observed, read_observed};
pub use reached::{Reached, Share, reached};
pub use summary::summary;
pub use terminal::{Bar, Terminal};
pub use trial::{State, Tried, read_trials, trial, trials_html, trials_json, trials_junit};
pub use validation::{Row, mail, patches_json, validation, validation_html, validation_json, verdict};

use crate::run::{CaseResult, KernelResult};

/// The word for a case that was to run on a kernel and was not: its kernel could not be used, or the run was stopped.
const NOT_RUN: &str = "not run";

/// Much of a report comes from a guest: nothing in it may talk to the terminal that it is shown on.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// The same where there is but one line for it: what a guest says begins no line of its own.
pub(crate) fn on_one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// How a case ended, in a word.
fn word(result: Option<&CaseResult>) -> &'static str {
    result.map_or(NOT_RUN, |result| result.verdict.word())
}

/// [`NOT_RUN`], and why, if that is known; on one line.
fn not_run(kernel: &KernelResult) -> String {
    let why = kernel.trouble.as_deref().map(on_one_line);
    why.map_or_else(|| NOT_RUN.to_string(), |why| format!("{NOT_RUN}: {why}"))
}

/// The folder of a case's name: what cases are grouped by.
fn group(path: &str) -> &str {
    path.split_once('/').map_or("", |(group, _)| group)
}
