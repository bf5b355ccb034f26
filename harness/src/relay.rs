//! What passes between a daemon in a guest and its virtio-fs device outside: plain data, and the names both ends know.
//!
//! The daemon serves from inside the guest, where cases are conducted; its device is a process of the host. Each device
//! has a virtio port of its own, over which a daemon is handed what lies in the queues and gives its answers.

use serde::{Deserialize, Serialize};

/// How many devices a machine has: daemons of one case are that many at most.
pub(crate) const DEVICES: u8 = 3;

/// What a daemon's device is mounted by.
pub(crate) fn tag(daemon: u8) -> String {
    format!("fuseproof{daemon}")
}

/// The name of the port of a daemon's device.
pub(crate) fn port(daemon: u8) -> String {
    format!("fuseproof.fs{daemon}")
}

/// What a daemon says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToDevice {
    /// It begins to serve: what nobody has answered comes again.
    Hello,
    /// Everything that lies in the queues by now is to come before [`FromDevice::Looked`].
    Look,
    /// The answer to the request of that unique.
    Answer {
        /// The request's, whatever the answer says of itself.
        unique: u64,
        /// The whole message.
        bytes: Vec<u8>,
        /// How many bytes the queue is to say were written, if not the truth.
        used: Option<u32>,
    },
}

/// What its device says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromDevice {
    /// The answer to [`ToDevice::Hello`].
    Hello,
    /// What the kernel has put into a queue.
    Request(Vec<u8>),
    /// The queues are empty.
    Looked,
    /// How many bytes of the answer there was room for; none if no such request waits.
    Given(Option<u32>),
}
