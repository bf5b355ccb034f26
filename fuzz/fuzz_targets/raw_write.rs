//! Bytes for the device, while files pass through and requests wait for an answer. `fuseproof fuzz` starts it next to the
//! kernel.
#![no_main]

use std::cell::UnsafeCell;

use harness::exec::fuzz;
use harness::generate;
use libfuzzer_sys::Corpus;

/// What libFuzzer takes for counters of its own, as it lies in that section.
struct Counters(UnsafeCell<[u8; fuzz::COUNTERS]>);

// SAFETY: one thread runs inputs, and libFuzzer reads in between.
unsafe impl Sync for Counters {}

#[unsafe(link_section = "__libfuzzer_extra_counters")]
static COUNTERS: Counters = Counters(UnsafeCell::new([0; fuzz::COUNTERS]));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| -> Corpus {
    // SAFETY: as above; an input is over before the next one begins.
    let is_ours = fuzz::raw_write(bytes, unsafe { &mut *COUNTERS.0.get() });
    if is_ours { Corpus::Keep } else { Corpus::Reject }
});

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    generate::mutate_raw_in_place(data, size, max_size, seed)
});
