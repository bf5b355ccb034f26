//! What a guest may print, send and leave behind, given to all that reads it: for fuzz targets, which panic where a promise
//! is broken.
//!
//! It starts no machine. What a message means is for whoever sends such messages.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use crate::black_box::{self, BOX_BYTES, MOST_RECORD};
use crate::console::{self, Splat};
use crate::link::{Link, LinkError, frame};
use crate::machine::{Text, memory_file};

/// The most that is printed in one go.
const GO: usize = 4096;
/// What is held of a report, at most: a title and three stacks, or both sides of a race.
const MOST_SPLAT: usize = 16 << 10;

/// Texts to begin with, as kernels print them.
pub const TEXTS: &[&str] = &[
    include_str!("console/texts/kasan-use-after-free.txt"),
    include_str!("console/texts/lockdep-circular.txt"),
    include_str!("console/texts/kcsan.txt"),
    include_str!("console/texts/kmemleak.txt"),
    include_str!("console/texts/warning-7.2.txt"),
    include_str!("console/texts/hung-task.txt"),
];

/// A text on the console, in a log, in `kmemleak`.
///
/// # Panics
/// It is read in two ways, or more is held than is promised.
pub fn printed(bytes: &[u8]) {
    let (mut whole, mut pieces) = (Text::default(), Text::default());
    whole.take(bytes);
    bytes.chunks(1 + bytes.len() % GO).for_each(|piece| pieces.take(piece));
    assert_eq!(whole.splats(), pieces.splats(), "what was printed in pieces is read like the whole");
    assert_eq!(whole.shown(), pieces.shown(), "what was printed in pieces is shown like the whole");
    let is_plain = |c: char| c == '\n' || c == '\t' || !c.is_control();
    assert!(whole.shown().chars().all(is_plain), "no control character reaches a terminal");
    let text = String::from_utf8_lossy(bytes);
    let leaks = console::leaks(&text).into_iter().map(|leak| leak.splat);
    console::scan(&text).iter().chain(&whole.splats()).for_each(is_bounded);
    leaks.for_each(|splat| is_bounded(&splat));
}

fn is_bounded(splat: &Splat) {
    let names = [&splat.stack, &splat.allocated, &splat.freed].into_iter().flatten();
    let size = splat.title.len() + names.map(String::len).sum::<usize>();
    assert!(size <= MOST_SPLAT, "a report of {size} bytes");
    assert!(splat.key().len() <= MOST_SPLAT, "a key of {} bytes", splat.key().len());
}

/// Whole messages on the link, and any bytes behind them.
///
/// # Panics
/// A message does not arrive as it was sent, or bytes that are no frame arrive as a message.
pub fn sent(messages: &[&[u8]], rest: &[u8]) {
    thread_local! { static FILE: File = memory_file().expect("memory"); }
    let mut bytes: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
    bytes.extend(rest);
    FILE.with(|file| {
        let mut link = Link::new(Stream { bytes: &bytes, file }, Duration::ZERO);
        let mut arrived = Vec::new();
        let end = loop {
            match link.receive(Duration::MAX) {
                Ok(message) => arrived.extend(frame(&message)),
                Err(end) => break end,
            }
        };
        assert!(bytes.starts_with(&arrived), "what arrives is what was sent");
        assert!(arrived.len() + rest.len() >= bytes.len(), "every whole message arrives: {end}");
        assert!(matches!(end, LinkError::Broken(_) | LinkError::Closed), "{end}");
    });
}

/// A stream that has everything and ends.
struct Stream<'a> {
    bytes: &'a [u8],
    file: &'a File,
}

impl io::Read for Stream<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(to)
    }
}

impl io::Write for Stream<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nobody waits for it.
impl AsFd for Stream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Bytes in the black box.
///
/// # Panics
/// The record is too long, or none of what lies there.
pub fn left_behind(bytes: &[u8]) {
    thread_local! { static BOX: RefCell<File> = RefCell::new(memory_file().expect("memory")); }
    let bytes = &bytes[..bytes.len().min(BOX_BYTES)];
    BOX.with_borrow_mut(|file| {
        file.set_len(0).and_then(|()| file.set_len(BOX_BYTES as u64)).expect("memory");
        file.write_all_at(bytes, 0).expect("memory");
        let record = black_box::read(file).expect("a box of the right size can be read");
        assert!(record.len() <= MOST_RECORD, "a record of {} bytes", record.len());
        let written = bytes.get(size_of::<u64>()..).unwrap_or_default();
        let common = record.len().min(written.len());
        assert_eq!(record[..common], written[..common]);
        assert!(record[common..].iter().all(|byte| *byte == 0));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_bytes_do_no_harm() {
        printed(b"[ 1.0] WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2\r\n\xff\x1b[2J\n---[ cut here ]---");
        printed(&b"BUG: KCSAN: data-race in a / b\n".repeat(100));
        sent(&[b"one", b"", b"three"], b"fpL1\xff\xff\xff\xff");
        sent(&[], &frame(b"whole")[..14]);
        left_behind(b"");
        left_behind(&[0xff; BOX_BYTES]);
    }

    #[test]
    #[should_panic(expected = "every whole message arrives")]
    fn a_message_that_does_not_arrive_is_noticed() {
        sent(&[&vec![0; crate::link::MAX_PAYLOAD + 1]], b"");
    }
}
