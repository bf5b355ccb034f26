//! Calls on a virtio-fs mount whose device lies about the answers. `fuseproof fuzz` starts it next to the kernel, in a machine that has
//! such a device.
#![no_main]

use harness::exec::fuzz;

#[unsafe(link_section = "__libfuzzer_extra_counters")]
static COUNTERS: fuzz::Counters = fuzz::Counters::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::virtio_reply(bytes, &COUNTERS));
