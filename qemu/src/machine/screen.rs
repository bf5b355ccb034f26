//! The host's end of a guest's console: its last part as text, and the kernel's reports in all of it.
//!
//! It holds a bounded amount, whatever the guest prints, and refuses to print anything itself.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::console::{Scanner, Splat};

/// How much text is kept.
const KEPT: usize = 256 << 10;
/// A longer line is scanned in pieces.
const MAX_LINE: usize = 4 << 10;

/// A console, read by a thread until it is closed.
#[derive(Debug)]
pub(crate) struct Screen {
    stream: UnixStream,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    text: Mutex<Text>,
    ended: Condvar,
}

/// What was printed, as far as it is kept.
#[derive(Debug, Default)]
pub(crate) struct Text {
    tail: VecDeque<u8>,
    total: u64,
    line: Vec<u8>,
    scanner: Scanner,
    ended: bool,
}

impl Text {
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..excess);
        for &byte in bytes {
            if byte != b'\n' && self.line.len() < MAX_LINE {
                self.line.push(byte);
                continue;
            }
            self.scanner.push(&String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }

    /// The last 256 KiB, less control characters.
    pub(crate) fn shown(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        text.chars().filter(|&c| c == '\n' || c == '\t' || !c.is_control()).collect()
    }

    /// The kernel's reports so far.
    pub(crate) fn splats(&self) -> Vec<Splat> {
        self.scanner.splats()
    }
}

impl Shared {
    fn text(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Screen {
    /// Read what comes from `stream` from now on.
    pub(crate) fn watch(stream: UnixStream) -> io::Result<Screen> {
        let shared = Arc::new(Shared::default());
        let (theirs, mut source) = (Arc::clone(&shared), stream.try_clone()?);
        std::thread::Builder::new().name("console".into()).spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut chunk) {
                theirs.text().take(&chunk[..count]);
            }
            theirs.text().ended = true;
            theirs.ended.notify_all();
        })?;
        Ok(Screen { stream, shared })
    }

    /// The last 256 KiB, less control characters.
    pub(crate) fn text(&self) -> String {
        self.shared.text().shown()
    }

    /// The kernel's reports so far.
    pub(crate) fn splats(&self) -> Vec<Splat> {
        self.shared.text().splats()
    }

    /// Wait until no one can print any more; to be called when QEMU has ended.
    pub(crate) fn wait_for_end(&self, within: Duration) {
        let text = self.shared.text();
        let waited = self.shared.ended.wait_timeout_while(text, within, |text| !text.ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Wait until nothing was printed for a tenth of the bound.
    pub(crate) fn wait_for_quiet(&self, within: Duration) {
        let mut total = self.shared.text().total;
        for _ in 0..10 {
            std::thread::sleep(within / 10);
            let now = self.shared.text().total;
            if now == total {
                break;
            }
            total = now;
        }
    }

    /// Type into the console.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.stream).write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Kind;

    #[test]
    fn a_flood_is_cut_to_its_end_and_early_reports_are_kept() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let screen = Screen::watch(near).unwrap();
        far.write_all(b"[    1.0] WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2\r\n---[ end trace 0 ]---\r\n")
            .unwrap();
        (0..100).for_each(|_| far.write_all(&[b'x'; 10_000]).unwrap());
        far.write_all("\n\x1b[1mthe end\n".as_bytes()).unwrap();
        drop(far);
        screen.wait_for_end(Duration::from_secs(10));
        let text = screen.text();
        assert!(text.len() <= KEPT && text.ends_with("x\n[1mthe end\n"), "{} bytes", text.len());
        assert_eq!(screen.splats().iter().map(|splat| splat.kind).collect::<Vec<_>>(), [Kind::Warning]);
    }
}
