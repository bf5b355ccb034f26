//! QEMU's control socket: greeting, commands, and one file descriptor handed over.
//!
//! Why not the `qapi` crate: it decodes every reply and event into the types of one QEMU version, so an event of a newer
//! QEMU is an error, and it panics when QEMU ends before its greeting, which is how a bad start looks. What is needed
//! here is a handful of commands. It refuses to wait longer than its bound and to read a line without an end.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};

const MAX_LINE: u64 = 1 << 20;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("QEMU refused {command}: {reason}")]
    Refused { command: String, reason: String },
    #[error("QEMU did not answer on its control socket: {0}")]
    Io(#[from] io::Error),
    #[error("QEMU closed its control socket")]
    Closed,
    #[error("QEMU sent something else than QMP: {0}")]
    Foreign(#[from] serde_json::Error),
}

/// A conversation with one QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Greet the QEMU at the other end; no later read or write takes longer than `patience`.
    pub(crate) fn greet(stream: UnixStream, patience: Duration) -> Result<Qmp, QmpError> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut qmp = Qmp { stream: BufReader::new(stream) };
        qmp.line()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Run one command and return what it returns; events on the way are passed over.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let message = json!({ "execute": command, "arguments": arguments }).to_string();
        self.stream.get_mut().write_all(message.as_bytes())?;
        loop {
            let mut reply = self.line()?;
            if let Some(value) = reply.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = reply.get("error") {
                let reason = error["desc"].as_str().unwrap_or("it gave no reason").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), reason });
            }
        }
    }

    /// Give QEMU a copy of `fd` under `name`.
    pub(crate) fn hand_over(&mut self, fd: BorrowedFd<'_>, name: &str) -> Result<(), QmpError> {
        // The descriptor travels with a byte of white space; QEMU keeps it for the `getfd` that follows.
        let fds = [fd.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let socket = self.stream.get_ref().as_raw_fd();
        sendmsg::<()>(socket, &[IoSlice::new(b"\n")], &rights, MsgFlags::empty(), None)
            .map_err(io::Error::from)?;
        self.execute("getfd", json!({ "fdname": name })).map(drop)
    }

    fn line(&mut self) -> Result<Value, QmpError> {
        let mut line = Vec::new();
        self.stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(QmpError::Closed);
        }
        Ok(serde_json::from_slice(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);
    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

    /// A QEMU that says this from the start and then listens no more.
    fn scripted(script: &str) -> (Result<Qmp, QmpError>, UnixStream) {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(script.as_bytes()).unwrap();
        (Qmp::greet(near, SOON), far)
    }

    #[test]
    fn events_are_passed_over_and_refusals_keep_their_reason() {
        let event = "{\"event\": \"OF_A_NEWER_QEMU\", \"data\": {\"x\": [1]}}\r\n";
        let (qmp, _far) = scripted(&format!(
            "{GREETING}{event}{{\"return\": {{}}}}\r\n{event}{{\"return\": {{\"status\": \"paused\"}}}}\r\n\
             {{\"error\": {{\"class\": \"GenericError\", \"desc\": \"no\"}}}}\r\n"
        ));
        let mut qmp = qmp.unwrap();
        assert_eq!(qmp.execute("query-status", json!({})).unwrap()["status"], "paused");
        insta::assert_snapshot!(qmp.execute("cont", json!({})).unwrap_err(), @"QEMU refused cont: no");
    }

    #[test]
    fn a_qemu_that_says_nothing_or_ends_or_babbles_is_an_error_in_time() {
        assert!(matches!(scripted("").0, Err(QmpError::Io(_))));
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert!(matches!(Qmp::greet(near, SOON), Err(QmpError::Closed)));
        assert!(matches!(scripted("qemu: what?\n").0, Err(QmpError::Foreign(_))));
    }
}
