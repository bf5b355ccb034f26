//! Framed messages between host and guest: magic, length, checksum, payload. The same code runs on both ends.
//!
//! It trusts neither end: a frame is bounded before memory is taken for it, checked before it is handed out, and
//! every wait has an end. It refuses to look into a payload, and after a broken frame it does not try to
//! find the next one: whoever sent it is lost.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The most bytes that a payload may have.
pub const MAX_PAYLOAD: usize = 8 << 20;

const MAGIC: [u8; 4] = *b"fpL1";
const HEADER: usize = 12;
const CHUNK: usize = 64 << 10;

/// Why no message arrived.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing whole arrived in time; the link itself still stands and `receive` may be called again.
    #[error("no message arrived within {0:?}")]
    Silent(Duration),
    /// What arrived is no frame.
    #[error("the other end sent a broken frame: {0}")]
    Broken(String),
    /// The other end is gone.
    #[error("the other end closed the link")]
    Closed,
    /// The operating system refused to read.
    #[error("the link cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// One end of the link, over a stream that is in non-blocking mode.
#[derive(Debug)]
pub struct Link<S> {
    stream: S,
    patience: Duration,
    inbox: Vec<u8>,
}

impl<S: Read + Write + AsFd> Link<S> {
    /// Speak over `stream`, which must be non-blocking; a message that the other end does not take
    /// within `patience` fails to send (`Duration::MAX`: no bound).
    pub fn new(stream: S, patience: Duration) -> Link<S> {
        Link { stream, patience, inbox: Vec::new() }
    }

    /// What to wait on for the next message, once [`Link::receive`] has nothing more.
    pub fn waitable(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Send one message.
    ///
    /// # Errors
    /// `InvalidInput` for a payload over [`MAX_PAYLOAD`], `TimedOut` if the other end does not take it, else what
    /// the operating system says. After an error the link is unusable, as half a frame may be under way.
    pub fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        if payload.len() > MAX_PAYLOAD {
            let reason = format!("a message of {} bytes is over the link's {MAX_PAYLOAD}", payload.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let frame = frame(payload);
        let deadline = Instant::now().checked_add(self.patience);
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::POLLOUT, deadline)? {
                        let reason = format!("the other end took no message within {:?}", self.patience);
                        return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message (`Duration::MAX`: wait without an end).
    ///
    /// # Errors
    /// See [`LinkError`]; only after [`LinkError::Silent`] is there a point in calling again.
    pub fn receive(&mut self, within: Duration) -> Result<Vec<u8>, LinkError> {
        let deadline = Instant::now().checked_add(within);
        let mut chunk = vec![0; CHUNK];
        loop {
            if let Some(payload) = self.take_frame()? {
                return Ok(payload);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => self.inbox.extend(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::POLLIN, deadline)? {
                        return Err(LinkError::Silent(within));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(LinkError::Closed);
                }
                Err(error) => return Err(error.into()),
            }
            // A sender of endless crumbs never lets a read block, so the deadline counts here as well.
            if deadline.is_some_and(|deadline| Instant::now() > deadline) && !self.holds_frame()? {
                return Err(LinkError::Silent(within));
            }
        }
    }

    /// Length and checksum that the inbox's first header announces.
    fn header(&self) -> Result<Option<(usize, u32)>, LinkError> {
        let known = self.inbox.len().min(MAGIC.len());
        if self.inbox[..known] != MAGIC[..known] {
            return Err(LinkError::Broken(format!("it starts with {:02x?}", &self.inbox[..known])));
        }
        let Some(header) = self.inbox.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [_, _, _, _, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_PAYLOAD {
            return Err(LinkError::Broken(format!(
                "it announces {length} bytes, over the bound of {MAX_PAYLOAD}"
            )));
        }
        Ok(Some((length, u32::from_le_bytes([c0, c1, c2, c3]))))
    }

    fn holds_frame(&self) -> Result<bool, LinkError> {
        Ok(self.header()?.is_some_and(|(length, _)| self.inbox.len() >= HEADER + length))
    }

    fn take_frame(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        let Some((length, checksum)) = self.header()? else {
            return Ok(None);
        };
        if self.inbox.len() < HEADER + length {
            return Ok(None);
        }
        let rest = self.inbox.split_off(HEADER + length);
        let mut payload = std::mem::replace(&mut self.inbox, rest);
        payload.drain(..HEADER);
        if crc32fast::hash(&payload) != checksum {
            return Err(LinkError::Broken(format!("its {length} bytes do not match their checksum")));
        }
        Ok(Some(payload))
    }

    /// False when the deadline passed first.
    fn wait(&self, what: PollFlags, deadline: Option<Instant>) -> io::Result<bool> {
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(false);
                    }
                    // Rounded up, so that the last millisecond is slept and not spun.
                    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
                }
            };
            match poll(&mut [PollFd::new(self.stream.as_fd(), what)], timeout) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A message as it goes over the link.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend(MAGIC);
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(crc32fast::hash(payload).to_le_bytes());
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::os::unix::net::UnixStream;

    const SOON: Duration = Duration::from_millis(200);

    fn pair() -> (Link<UnixStream>, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (Link::new(near, SOON), far)
    }

    fn sent(payload: &[u8]) -> Vec<u8> {
        let (mut link, mut far) = pair();
        link.send(payload).unwrap();
        drop(link);
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_frame_has_one_layout() {
        insta::assert_snapshot!(format!("{:02x?}", sent(b"hi")), @"[66, 70, 4c, 31, 02, 00, 00, 00, ac, 2a, 93, d8, 68, 69]");
    }

    #[test]
    fn messages_arrive_whole_and_in_order_however_the_bytes_are_cut() {
        let (mut link, mut far) = pair();
        let bytes = [sent(b"one"), sent(b""), sent(b"three")].concat();
        let writer = std::thread::spawn(move || {
            for byte in bytes {
                far.write_all(&[byte]).unwrap();
            }
            far
        });
        for expected in [b"one".as_slice(), b"", b"three"] {
            assert_eq!(link.receive(SOON).unwrap(), expected);
        }
        drop(writer.join().unwrap());
        assert!(matches!(link.receive(SOON), Err(LinkError::Closed)));
    }

    #[rstest]
    #[case::no_magic(b"hello".to_vec())]
    #[case::wrong_in_the_first_byte(b"x".to_vec())]
    #[case::too_long([MAGIC.as_slice(), &(MAX_PAYLOAD as u32 + 1).to_le_bytes(), &[0; 4]].concat())]
    #[case::bad_checksum([MAGIC.as_slice(), &[1, 0, 0, 0], &[0; 4], b"x"].concat())]
    fn a_broken_frame_is_told_from_silence(#[case] bytes: Vec<u8>) {
        let (mut link, mut far) = pair();
        far.write_all(&bytes).unwrap();
        assert!(matches!(link.receive(SOON), Err(LinkError::Broken(_))));
    }

    #[test]
    fn a_truncated_frame_is_silence_and_then_a_closed_link() {
        let (mut link, mut far) = pair();
        far.write_all(&sent(b"cut")[..14]).unwrap();
        assert!(matches!(link.receive(SOON), Err(LinkError::Silent(_))));
        drop(far);
        assert!(matches!(link.receive(SOON), Err(LinkError::Closed)));
    }

    #[test]
    fn a_receiver_that_takes_nothing_fails_the_send_in_time() {
        let (mut link, _far) = pair();
        let error = link.send(&vec![0; MAX_PAYLOAD]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(link.send(&vec![0; MAX_PAYLOAD + 1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn crumbs_do_not_stretch_the_deadline() {
        let (mut link, mut far) = pair();
        far.write_all(&frame(&vec![0; 100_000])[..HEADER]).unwrap();
        let writer = std::thread::spawn(move || {
            while far.write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let start = Instant::now();
        assert!(matches!(link.receive(SOON), Err(LinkError::Silent(_))));
        assert!(start.elapsed() < SOON * 5);
        drop(link);
        writer.join().unwrap();
    }
}
