//! The reference daemon: on the raw device, a loopback over a lower directory, overridden by the script.
//!
//! [`Engine`] is the daemon without a process: it takes requests from a [`Device`] and answers them. [`process`] puts
//! it behind a conductor. It keeps no lower file open between requests, so that what pins a lower file system is the
//! kernel alone.

mod channel;
mod engine;
pub mod hostile;
mod loopback;
mod message;
mod nodes;
mod process;
mod request;
mod send;
mod specimen;
mod standing;
mod steady;

pub(crate) use loopback::attr_out;
pub(crate) use message::via_of;
pub(crate) use process::serve;
pub(crate) use send::spelled;
pub use specimen::specimen;
pub(crate) use standing::{Order, Word, stand};
pub(crate) use steady::serve_for_ever;
