//! Messages between the processes of one case: length, then a compact encoding, over a socket pair.
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

/// The most bytes a message may have: a few megabytes of data.
const MOST: usize = 64 << 20;

/// What one read asks for: most messages fit, so that one costs one system call.
const CHUNK: usize = 16 << 10;

/// One end.
pub(crate) struct Pipe {
    stream: UnixStream,
    /// Read and not yet handed out.
    inbox: Vec<u8>,
}

impl From<UnixStream> for Pipe {
    fn from(stream: UnixStream) -> Pipe {
        Pipe { stream, inbox: Vec::new() }
    }
}

impl Pipe {
    pub(crate) fn pair() -> io::Result<(Pipe, Pipe)> {
        let (one, other) = UnixStream::pair()?;
        Ok((one.into(), other.into()))
    }

    pub(crate) fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let mut frame = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
        let len = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&len.to_le_bytes());
        self.stream.write_all(&frame)
    }

    /// Waits for a message. An error of kind `UnexpectedEof` means that the other end is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        while !self.holds_message() {
            let have = self.inbox.len();
            self.inbox.resize(have + CHUNK, 0);
            let got = self.stream.read(&mut self.inbox[have..]);
            self.inbox.truncate(have + *got.as_ref().unwrap_or(&0));
            match got {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            if self.announced().is_some_and(|len| len > MOST) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
            }
        }
        let end = 4 + self.announced().unwrap_or(0);
        let message = postcard::from_bytes(&self.inbox[4..end]).map_err(io::Error::other);
        self.inbox.drain(..end);
        message
    }

    /// Has a whole message been read already?
    pub(crate) fn holds_message(&self) -> bool {
        self.announced().is_some_and(|len| self.inbox.len() >= 4 + len)
    }

    fn announced(&self) -> Option<usize> {
        self.inbox.first_chunk().map(|len| u32::from_le_bytes(*len) as usize)
    }

    /// Is a message (or the other end's departure) there within that time?
    pub(crate) fn ready(&self, within: Duration) -> bool {
        self.holds_message() || ready(&self.stream, within)
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Hand over an open file.
    pub(crate) fn send_fd(&self, fd: &impl AsRawFd) -> io::Result<()> {
        let fds = [fd.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(self.stream.as_raw_fd(), &[io::IoSlice::new(b"f")], &rights, MsgFlags::empty(), None)?;
        Ok(())
    }

    /// Take over an open file. The other end sends it only when nothing else is under way: a read for a message would
    /// lose it.
    pub(crate) fn receive_fd(&self) -> io::Result<OwnedFd> {
        let mut byte = [0; 1];
        let mut slices = [io::IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!(RawFd);
        let message = recvmsg::<()>(
            self.stream.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
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
