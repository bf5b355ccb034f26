//! Any text as a case: what parses must print, and parse back to itself. Words of the language come from a dictionary, which
//! `fuseproof fuzz` writes, and from cases.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| harness::hostile::written(text));
