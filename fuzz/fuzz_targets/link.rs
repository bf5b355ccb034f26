//! What a guest may print, send, tell and leave behind, and what may lie in the cache: read without harm, within bounds, and
//! what was understood gives the same again.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    match kind % 7 {
        0 => qemu::hostile::printed(bytes),
        1 => qemu::hostile::left_behind(bytes),
        2 => {
            let parts = <(Vec<&[u8]>, &[u8])>::arbitrary_take_rest(Unstructured::new(bytes));
            if let Ok((messages, rest)) = parts {
                qemu::hostile::sent(&messages, rest);
            }
        }
        3 => harness::hostile::told(bytes),
        4 => harness::hostile::ordered(bytes),
        5 => harness::hostile::found(bytes),
        _ => harness::hostile::saved_profile(bytes),
    }
});
