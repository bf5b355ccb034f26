//! The live side: the only part that opens `/dev/fuse`, forks actors and mounts things.
//!
//! ```text
//! agent ── forks ──> conductor ── forks ──> app, app2, ...   (calls on the mount)
//!                                          └──────> daemon, ...      (calls, and the device)
//! ```
//!
//! Applications and daemons are processes of their own, as in life: a process that is both hangs when it exits with
//! a FUSE file open. The conductor walks the program, tells actors what to do and waits, always bounded. It judges
//! nothing but single steps, and reports everything.

mod actor;
mod agent;
mod arena;
mod bench;
mod calls;
mod conductor;
mod daemon;
mod device;
mod fault;
pub mod fuzz;
mod kcov;
mod kmemleak;
mod kmsg;
mod limits;
mod loopdev;
mod mailbox;
mod pipe;
mod queues;
mod ring;
mod shared;
mod shell;
mod stage;

pub(crate) use actor::{state, threads};
pub use agent::{Whose, agent, into_namespaces, mount_fusectl, settle_in_namespaces};
pub(crate) use calls::many::allow_many_files;
pub use daemon::{hostile, specimen};
pub(crate) use limits::BENCH;
pub use shell::shell;
pub(crate) use stage::device_there;
