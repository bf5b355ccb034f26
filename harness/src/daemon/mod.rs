//! Somebody else's daemon: started over a stage, observed from outside, and judged by what went over `/dev/fuse`.
//!
//! ```text
//! conductor ── forks ──> recorder ── traces ──> the daemon, its threads and children
//!                            └── writes ──> trace ── decode ──> story ── judge ──> what is kept and what is broken
//! ```
//!
//! The daemon is not changed, preloaded or linked with, and what it is built with does not matter. From the trace on
//! everything is pure: a saved trace is judged like a fresh one. FUSE over io_uring moves messages without system calls,
//! so such a daemon is not judged but told to be started without.

pub mod decode;
pub mod judge;
mod launch;
mod mistake;
pub mod preset;
mod recorder;
pub mod trace;
pub mod trial;
mod under;

pub(crate) use judge::LAST;
pub use launch::{End, Fault, Launch, MOUNT, SOURCE, Which};
pub use mistake::Mistake;
pub use under::{Under, start};
