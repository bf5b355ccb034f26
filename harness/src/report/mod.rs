//! What came of a run, for people (terminal) and for programs (JSON).
//!
//! Reports only show; they decide nothing. Colour belongs to the terminal and is never part of a value.

mod json;
mod terminal;

pub use json::{json, write_json};
pub use terminal::{Origin, Terminal, failure, summary};
