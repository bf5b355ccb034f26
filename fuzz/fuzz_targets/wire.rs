//! Bytes as they come off the device, out of a ring's entry, out of the kernel's log and out of a saved recording, and answers made of any fields: read
//! without harm, and what was understood gives the same bytes again.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use harness::exec::hostile::{self, Field};

#[derive(Arbitrary)]
struct Answer<'a> {
    opcode: u32,
    unique: u64,
    numbers: Vec<(u8, i64)>,
    data: Vec<&'a [u8]>,
    pipes: Vec<Vec<u32>>,
    payload: &'a [u8],
}

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    match kind % 5 {
        0 => hostile::structure(bytes),
        1 => hostile::request(bytes),
        2 => hostile::logged(&String::from_utf8_lossy(bytes)),
        3 => harness::hostile::traced(bytes),
        _ => {
            let Ok(answer) = Answer::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
            let numbers = answer.numbers.into_iter().map(|(place, number)| Field::Number(place, number));
            let data = answer.data.into_iter().map(|data| Field::Data(data.to_vec()));
            let pipes = answer.pipes.into_iter().map(Field::Pipes);
            let fields: Vec<Field> = numbers.chain(data).chain(pipes).collect();
            hostile::answer(answer.opcode, answer.unique, answer.payload, &fields);
        }
    }
});
