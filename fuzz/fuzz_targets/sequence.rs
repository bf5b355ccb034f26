//! Whole programs on a live kernel: open replies, ioctls, closes, holds, calls of several applications. `fuseproof fuzz`
//! starts it next to the kernel.
#![no_main]

use std::cell::UnsafeCell;

use harness::exec::fuzz;
use harness::generate;

/// What libFuzzer takes for counters of its own, as it lies in that section.
struct Counters(UnsafeCell<[u8; fuzz::COUNTERS]>);

// SAFETY: one thread runs inputs, and libFuzzer reads in between.
unsafe impl Sync for Counters {}

#[unsafe(link_section = "__libfuzzer_extra_counters")]
static COUNTERS: Counters = Counters(UnsafeCell::new([0; fuzz::COUNTERS]));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // SAFETY: as above; an input is over before the next one begins.
    fuzz::sequence(bytes, unsafe { &mut *COUNTERS.0.get() });
});

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    generate::mutate_in_place(data, size, max_size, seed)
});

libfuzzer_sys::fuzz_crossover!(|one: &[u8], other: &[u8], into: &mut [u8], seed: u32| {
    generate::cross_in_place(one, other, into, seed)
});
