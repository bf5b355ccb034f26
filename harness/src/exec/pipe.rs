//! Messages between the processes of one case: length, then JSON, over a socket pair.
//!
//! These ends trust each other; the framing towards the host is [`qemu::link`].

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most bytes a message may have: a few megabytes of data, escaped.
const MOST: usize = 64 << 20;

/// One end.
pub(crate) struct Pipe(pub(crate) UnixStream);

impl Pipe {
    pub(crate) fn pair() -> io::Result<(Pipe, Pipe)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Pipe(one), Pipe(other)))
    }

    pub(crate) fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let mut frame = (body.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(&body);
        self.0.write_all(&frame)
    }

    /// Waits for a message. An error of kind `UnexpectedEof` means that the other end is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Is a message (or the other end's departure) there within that time?
    pub(crate) fn ready(&self, within: Duration) -> bool {
        ready(&self.0, within)
    }

    /// Hand over an open file.
    pub(crate) fn send_fd(&self, fd: &impl AsRawFd) -> io::Result<()> {
        let fds = [fd.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(self.0.as_raw_fd(), &[io::IoSlice::new(b"f")], &rights, MsgFlags::empty(), None)?;
        Ok(())
    }

    /// Take over an open file.
    pub(crate) fn receive_fd(&self) -> io::Result<OwnedFd> {
        let mut byte = [0; 1];
        let mut slices = [io::IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!(RawFd);
        let message =
            recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control
                && let Some(fd) = fds.first()
            {
                // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
                return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "no descriptor in the message"))
    }
}

/// Is something to be read within that time? A signal does not end the wait early.
pub(crate) fn ready(fd: &impl AsFd, within: Duration) -> bool {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}
