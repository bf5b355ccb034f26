//! What carries requests and replies between kernel and daemon, and which cases cannot do with which.

mod virtiofs;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{OVER_VIRTIOFS, Profile, Program};

/// How the daemon takes requests and gives replies. What a script says itself (`via=`, `send`, `read_device`) goes as
/// it says, over any transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    /// read(2) and write(2).
    #[default]
    Plain,
    /// readv(2) and writev(2), with the header apart.
    Writev,
    /// splice(2) through a pipe, both ways.
    Splice,
    /// read(2), write(2) and ioctl(2) on a clone of the device; the first stays open, and nobody reads it.
    Clone,
    /// FUSE over io_uring.
    IoUring,
    /// The queues of a virtio-fs device.
    Virtiofs,
}

impl Transport {
    /// Each of them, under its name.
    pub const ALL: [(&str, Transport); 6] = [
        ("plain", Transport::Plain),
        ("writev", Transport::Writev),
        ("splice", Transport::Splice),
        ("clone", Transport::Clone),
        ("io_uring", Transport::IoUring),
        ("virtiofs", Transport::Virtiofs),
    ];

    /// The transport of that name.
    pub fn parse(name: &str) -> Option<Transport> {
        Transport::ALL.iter().find(|(known, _)| *known == name).map(|(_, transport)| *transport)
    }

    /// The capability without which there is no such transport.
    pub fn need(self) -> Option<&'static str> {
        match self {
            Transport::IoUring => Some("over_io_uring"),
            Transport::Virtiofs => Some("virtiofs"),
            Transport::Plain | Transport::Writev | Transport::Splice | Transport::Clone => None,
        }
    }

    /// What in a program cannot be done over it, whatever the kernel.
    pub fn obstacle(self, program: &Program, profile: &Profile) -> Option<&'static str> {
        if self == Transport::Virtiofs { virtiofs::obstacle(program, profile) } else { None }
    }

    /// Does the program ask for backing ids where none can be had?
    pub fn lacks_ids(self, program: &Program, profile: &Profile) -> bool {
        self == Transport::Virtiofs && virtiofs::asks_for_ids(program, profile)
    }

    /// What a kernel can do, as a daemon sees it that is served by this transport.
    pub fn seen_over(self, profile: &Profile) -> Cow<'_, Profile> {
        if self != Transport::Virtiofs {
            return Cow::Borrowed(profile);
        }
        let mut profile = profile.clone();
        profile.has.insert(OVER_VIRTIOFS.into());
        Cow::Owned(profile)
    }

    /// ` over io_uring` behind a kernel's name; nothing for the plain one.
    pub fn suffix(self) -> String {
        if self == Transport::Plain { String::new() } else { format!(" over {self}") }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Transport::ALL.iter().find(|(_, transport)| transport == self).map(|(name, _)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

/// A transport that a case cannot run over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// Over which.
    pub transport: Transport,
    /// Why not.
    pub reason: String,
}
