//! What came of a run, how the law is covered and what is wrong with files, for people (terminal) and for programs (JSON).
//!
//! Reports only show; they decide nothing. Colour belongs to the terminal and is never part of a value.

mod json;
mod law;
mod message;
mod observed;
mod terminal;

pub use json::{json, read_json, write_json};
pub use law::{coverage_json, coverage_table, explain};
pub use message::Message;
pub use observed::{observed, read_observed};
pub use terminal::{Origin, Terminal, failure, summary};
