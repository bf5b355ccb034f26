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
            if let Ok((messages, rest)) = Arbitrary::arbitrary_take_rest(Unstructured::new(bytes)) {
                qemu::hostile::sent(&Vec::<&[u8]>::as_slice(&messages), rest);
            }
        }
        3 => harness::hostile::told(bytes),
        4 => harness::hostile::ordered(bytes),
        5 => harness::hostile::found(bytes),
        _ => harness::hostile::saved_profile(bytes),
    }
});
