//! Allocations that fail: one system call of this task is made while the kernel counts what it allocates for it, and
//! gives it nothing the nth time.
//!
//! Whoever has a step to perform says [`failing`]; the call itself is made through [`exposed`], which does nothing else
//! between telling the kernel and calling it: what this program allocates for itself is never counted. It knows
//! nothing of calls, and takes no part in which allocations are the right ones.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

/// The calling task's own counter: 0 for none, or once it has struck.
const COUNTER: &str = "/proc/thread-self/fail-nth";

/// What makes every allocation count, also those that may wait and those of pages for the user.
const EVERY_ALLOCATION: [(&str, &str); 4] = [
    ("failslab/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-highmem", "N"),
    ("fail_page_alloc/min-order", "0"),
];

/// Let every allocation count, where the kernel has such switches; the capability's probe looks at them.
pub(crate) fn count_every_allocation() {
    for (switch, value) in EVERY_ALLOCATION {
        let _ = fs::write(format!("/sys/kernel/debug/{switch}"), value);
    }
}

/// What the next exposed call is to suffer.
struct Plan {
    counter: File,
    nth: String,
}

thread_local! {
    static NEXT: Cell<Option<Plan>> = const { Cell::new(None) };
    static STRUCK: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Do this, with the nth allocation of the one call that it exposes failing. Says in [`struck`] what became of that.
///
/// # Errors
/// The kernel has no such counter, or keeps it from us.
pub(crate) fn failing<T>(nth: u32, work: impl FnOnce() -> T) -> io::Result<T> {
    STRUCK.set(None);
    let counter = OpenOptions::new().read(true).write(true).open(COUNTER)?;
    NEXT.set(Some(Plan { counter, nth: nth.to_string() }));
    let done = work();
    NEXT.set(None);
    Ok(done)
}

/// Let the memory of a buffer be there before the call that fills it is exposed: it is our allocation, not the call's.
pub(crate) fn make_present(buffer: &mut [u8]) {
    if let Some(plan) = NEXT.take() {
        buffer.fill(0xff);
        NEXT.set(Some(plan));
    }
}

/// Whether an allocation failed in what was last done [`failing`]; `None` if that exposed no call.
pub(crate) fn struck() -> Option<bool> {
    STRUCK.get()
}

/// Make a system call that allocations may fail in. Its errno is still there afterwards.
pub(crate) fn exposed<T>(call: impl FnOnce() -> T) -> T {
    let Some(Plan { counter, nth }) = NEXT.take() else { return call() };
    let mut left = [0; 16];
    // The memory that holds errno becomes this process's own: the call is not to be charged with it.
    Errno::clear();
    let armed = counter.write_at(nth.as_bytes(), 0);
    let done = call();
    let errno = Errno::last_raw();
    let told = counter.read_at(&mut left, 0);
    // Nothing else of this task is to fail.
    let disarmed = counter.write_at(b"0", 0);
    STRUCK.set(match (armed, told, disarmed) {
        (Ok(_), Ok(count), Ok(_)) => Some(left[..count].trim_ascii() == b"0"),
        _ => None,
    });
    drop(counter);
    Errno::set_raw(errno);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_made_once_and_keeps_its_errno_whatever_the_kernel_can_do() {
        let calls = Cell::new(0);
        let fails = || {
            calls.set(calls.get() + 1);
            Errno::EXDEV.set();
            -1
        };
        assert_eq!(exposed(fails), -1);
        assert_eq!((calls.get(), Errno::last(), struck()), (1, Errno::EXDEV, None));
        // A kernel without the counter refuses before anything is done; one with it has nothing to fail here.
        match failing(1, || exposed(fails)) {
            Ok(number) => assert_eq!((number, calls.get(), struck()), (-1, 2, Some(false))),
            Err(error) => assert_eq!((error.kind(), calls.get()), (io::ErrorKind::NotFound, 1)),
        }
        assert_eq!(Errno::last() == Errno::EXDEV, calls.get() == 2);
    }
}
