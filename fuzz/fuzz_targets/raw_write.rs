//! Bytes for the device, while files pass through and requests wait for an answer. `fuseproof fuzz` starts it next to the
//! kernel.
#![no_main]

use harness::exec::fuzz;
use harness::generate;
use libfuzzer_sys::Corpus;

#[unsafe(link_section = "__libfuzzer_extra_counters")]
static COUNTERS: fuzz::Counters = fuzz::Counters::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| -> Corpus {
    let is_ours = fuzz::raw_write(bytes, &COUNTERS);
    if is_ours { Corpus::Keep } else { Corpus::Reject }
});

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    generate::mutate_raw_in_place(data, size, max_size, seed)
});
