//! Messages between tasks that share a piece of memory: without a system call where nobody waits.
//!
//! One task puts, one takes. Both are ours and trust each other. It knows nothing of what is said, and keeps no more than it
//! has room for.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How many bytes may lie untaken. Memory that was never needed is never there.
const ROOM: usize = 4 << 20;

/// What stands before the messages.
#[repr(C)]
struct Head {
    /// Where the next message is put (upper half), and where the next one to take is.
    places: AtomicU64,
    /// Counts messages: who takes waits on it.
    rung: AtomicU32,
    /// Somebody waits.
    waits: AtomicU32,
}

const START: usize = size_of::<Head>();
/// A message's length stands before it.
const LEN: usize = size_of::<u32>();

/// A mailbox in memory that forked children share.
#[derive(Debug)]
pub(crate) struct Mailbox(NonNull<u8>);

impl Mailbox {
    pub(crate) fn new() -> io::Result<Mailbox> {
        let len = std::num::NonZeroUsize::new(START + ROOM).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, at an address that the kernel chooses.
        let memory = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_SHARED) }?;
        Ok(Mailbox(memory.cast()))
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping is longer than a head, aligned to a page, zero at first, and lives as long as this value.
        unsafe { self.0.cast().as_ref() }
    }

    /// Put a message, and wake whoever waits for one.
    ///
    /// # Errors
    /// There is no room left.
    pub(crate) fn put<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let head = self.head();
        let mut places = head.places.load(Ordering::Acquire);
        if end(places) == next(places)
            && head.places.compare_exchange(places, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            // All is taken, so the taker looks at nothing: from the start again.
            places = 0;
        }
        let at = end(places);
        if at + LEN > ROOM {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // SAFETY: nobody else touches what lies behind the last message.
        let free =
            unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr().add(START + at + LEN), ROOM - at - LEN) };
        let len = postcard::to_slice(message, free).map_err(|_| io::ErrorKind::StorageFull)?.len();
        // SAFETY: as above.
        unsafe { self.0.as_ptr().add(START + at).cast::<u32>().write_unaligned(len as u32) };
        head.places.fetch_add(((LEN + len) as u64) << 32, Ordering::AcqRel);
        head.rung.fetch_add(1, Ordering::SeqCst);
        if head.waits.load(Ordering::SeqCst) != 0 {
            // SAFETY: a system call on an address of ours.
            unsafe { libc::syscall(libc::SYS_futex, head.rung.as_ptr(), libc::FUTEX_WAKE, 1, 0, 0, 0) };
        }
        Ok(())
    }

    /// The next message, if there is one.
    pub(crate) fn take<T: DeserializeOwned>(&self) -> Option<T> {
        let head = self.head();
        let places = head.places.load(Ordering::Acquire);
        let (at, end) = (next(places), end(places));
        if at == end {
            return None;
        }
        // SAFETY: what lies between the two places was put and is not written again before it is taken.
        let (message, len) = unsafe {
            let at = self.0.as_ptr().add(START + at);
            let len = at.cast::<u32>().read_unaligned() as usize;
            (postcard::from_bytes(std::slice::from_raw_parts(at.add(LEN), len)), len)
        };
        head.places.fetch_add((LEN + len) as u64, Ordering::AcqRel);
        message.ok()
    }

    /// Wait until there is a message.
    pub(crate) fn wait(&self) {
        let head = self.head();
        head.waits.store(1, Ordering::SeqCst);
        loop {
            let rung = head.rung.load(Ordering::SeqCst);
            let places = head.places.load(Ordering::Acquire);
            if end(places) != next(places) {
                break;
            }
            // SAFETY: as in `put`.
            unsafe { libc::syscall(libc::SYS_futex, head.rung.as_ptr(), libc::FUTEX_WAIT, rung, 0, 0, 0) };
        }
        head.waits.store(0, Ordering::SeqCst);
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; other tasks have their own.
        let _ = unsafe { munmap(self.0.cast(), START + ROOM) };
    }
}

fn end(places: u64) -> usize {
    (places >> 32) as usize
}

fn next(places: u64) -> usize {
    (places & u64::from(u32::MAX)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_order_and_the_room_is_used_again() {
        let mailbox = Mailbox::new().expect("memory");
        for round in 0..3 {
            for number in 0..1000_u32 {
                mailbox.put(&(round, number, "x".repeat(1000))).expect("there is room");
            }
            for number in 0..1000_u32 {
                assert_eq!(mailbox.take(), Some((round, number, "x".repeat(1000))));
            }
            assert_eq!(mailbox.take::<u32>(), None);
        }
    }

    #[test]
    fn a_full_one_takes_no_more_and_loses_nothing() {
        let mailbox = Mailbox::new().expect("memory");
        mailbox.put(&1_u32).expect("there is room");
        assert!(mailbox.put(&vec![7_u8; ROOM]).is_err());
        mailbox.put(&2_u32).expect("there is room");
        assert_eq!((mailbox.take(), mailbox.take()), (Some(1_u32), Some(2_u32)));
    }

    #[test]
    fn who_waits_is_woken() {
        let mailbox = Mailbox::new().expect("memory");
        let shared = mailbox.0.as_ptr() as usize;
        let taker = std::thread::spawn(move || {
            let mailbox =
                std::mem::ManuallyDrop::new(Mailbox(NonNull::new(shared as *mut u8).expect("an address")));
            (0..1000)
                .map(|_| {
                    mailbox.wait();
                    mailbox.take::<u32>().expect("it was woken for one")
                })
                .sum::<u32>()
        });
        (0..1000_u32).for_each(|number| mailbox.put(&number).expect("there is room"));
        assert_eq!(taker.join().expect("it ends"), 999 * 1000 / 2);
    }
}
