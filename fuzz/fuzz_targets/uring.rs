//! Whole programs on a live kernel, as `sequence` runs them, with requests and answers over io_uring. `fuseproof fuzz` starts it
//! next to the kernel.
#![no_main]

use harness::exec::fuzz;
use harness::generate;

#[unsafe(link_section = "__libfuzzer_extra_counters")]
static COUNTERS: fuzz::Counters = fuzz::Counters::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz::uring(bytes, &COUNTERS);
});

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    generate::mutate_in_place(data, size, max_size, seed)
});

libfuzzer_sys::fuzz_crossover!(|one: &[u8], other: &[u8], into: &mut [u8], seed: u32| {
    generate::cross_in_place(one, other, into, seed)
});
