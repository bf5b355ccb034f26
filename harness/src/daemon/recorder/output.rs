//! What the daemon writes to its standard output and error: all of it is read, and little of it is kept.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::trace::Event;

/// What is kept of the beginning, and of the end.
const KEPT: usize = 8 << 10;

#[derive(Default)]
struct Kept {
    len: u64,
    head: Vec<u8>,
    tail: VecDeque<u8>,
}

/// Its reader: a daemon that writes much must not wait for anybody.
pub(super) struct Output(Arc<Mutex<Kept>>, JoinHandle<()>);

impl Output {
    /// Begin to read. The thread ends with the last who could write.
    pub(super) fn read(said: OwnedFd) -> Output {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let ours = Arc::clone(&kept);
        let reader = thread::spawn(move || {
            let mut said = File::from(said);
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = said.read(&mut buffer) {
                ours.lock().unwrap_or_else(PoisonError::into_inner).add(&buffer[..count]);
            }
        });
        Output(kept, reader)
    }

    /// What was read until the last writer was gone, or until now if one is left whom nobody traces.
    pub(super) fn all(&self) -> Event {
        const AWHILE: Duration = Duration::from_millis(500);
        let until = Instant::now() + AWHILE;
        while !self.1.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Event::Said {
            len: kept.len,
            head: std::mem::take(&mut kept.head),
            tail: std::mem::take(&mut kept.tail).into(),
        }
    }
}

impl Kept {
    fn add(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(KEPT - self.head.len()));
        self.head.extend(head);
        self.tail.extend(rest);
        let more = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..more);
    }
}
