//! What a daemon is started with and what is done to it, and how it may end: as told by whoever asks for a trial. It starts
//! nothing.

use serde::{Deserialize, Serialize};

use crate::program::flags::errno_name;

/// What stands for the folder to be shown, in a command.
pub const SOURCE: &str = "{source}";
/// What stands for the place to mount at, in a command.
pub const MOUNT: &str = "{mount}";

/// A daemon's command, and what is done to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The program and its arguments, with [`SOURCE`] and [`MOUNT`] in them.
    pub command: Vec<String>,
    /// The user and the group it runs as; root without.
    pub user: Option<(u32, u32)>,
    /// What BACKING_OPEN is answered with in the kernel's place.
    pub faults: Vec<Fault>,
    /// It is ended by SIGTERM, and not by unmounting.
    pub terminated: bool,
}

impl Launch {
    /// What is unusual about it, as it is asked for on the command line.
    pub fn conditions(&self) -> Vec<String> {
        let faults = self.faults.iter().map(|fault| match fault.which {
            Which::Every => format!("--refuse {}", errno_name(fault.errno)),
            Which::Nth(nth) => format!("--refuse {}@{nth}", errno_name(fault.errno)),
        });
        faults.chain(self.user.map(|(uid, gid)| format!("--user {uid}:{gid}"))).collect()
    }
}

/// A BACKING_OPEN that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which one.
    pub which: Which,
    /// With what.
    pub errno: i32,
}

/// Which of a daemon's calls is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// All of them.
    Every,
    /// The nth, from 1 on.
    Nth(u32),
}

impl Which {
    /// Is it the call that so many came before?
    pub(super) fn is(self, before: u32) -> bool {
        match self {
            Which::Every => true,
            Which::Nth(nth) => nth == before + 1,
        }
    }
}

/// How a daemon came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself, when its mount was gone.
    Itself,
    /// After SIGTERM.
    Asked,
    /// By force: it heeded neither.
    Forced,
    /// Before its mount was gone.
    Early,
    /// On SIGTERM, with its mount.
    Terminated,
    /// On SIGTERM, and its mount stayed.
    LeftMount,
    /// SIGTERM did not end it.
    Deaf,
}
