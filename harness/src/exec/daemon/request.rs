//! A request, where it came from, and what it is about.

use std::ops::Deref;

use super::nodes::Nodes;
use crate::abi::Incoming;

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    /// Which of the daemon's devices it came from; the answer must go there.
    pub(super) device: usize,
    message: Incoming,
}

impl Deref for Request {
    type Target = Incoming;

    fn deref(&self) -> &Incoming {
        &self.message
    }
}

impl Request {
    /// `None` if the bytes are no whole request.
    pub(super) fn new(device: usize, bytes: &[u8]) -> Option<Request> {
        let message = Incoming::new(bytes).filter(Incoming::is_whole)?;
        Some(Request { device, message })
    }

    /// The path it is about, relative to the mount's root.
    pub(super) fn path(&self, nodes: &Nodes) -> String {
        let own = nodes.path(self.header.nodeid).unwrap_or("?").to_string();
        match self.names().first() {
            Some(name) if self.names_a_child() => nodes.child(self.header.nodeid, name).unwrap_or(own),
            _ => own,
        }
    }
}
