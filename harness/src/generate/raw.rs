//! Raw messages on a stage: what a daemon could write to its device if it were wrong about everything.
//!
//! The stage is a program of ours: a mount, files that are open, backing ids, requests that are held. What follows are bytes
//! for the device, a few times. Any bytes are some input.
//!
//! ```text
//! stage u8 · { via u8 · request u8 · length u16 · bytes }*
//! ```
//!
//! No stage holds a request whose caller has locked a page, a folder or an inode: a notification may wait for that, and whoever
//! writes it must not.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::mutate::put;
use super::repair::{outcome, program, step};
use super::values::{EDGES, chance, notification, one};
use super::{DAEMON, HOST};
use crate::program::{Call, Data, Program, Reply, Step, Value, Verb, Yields};
use crate::script::{self, Source};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How it is written: the number of one of [`VIA`].
    via: u8,
    /// In place of its unique stands that of one of the held requests, counted from 1; 0 for its own.
    request: u8,
    /// Header and payload.
    pub bytes: Vec<u8>,
}

/// The most messages that one input has.
const MOST_MESSAGES: usize = 4;
/// The most bytes of one.
const MOST: usize = 8 << 10;
/// A header: length, error or code, unique.
const HEADER: usize = 16;
/// Of a thousand inputs so many may answer held requests: to hold them again takes as long as hundreds of messages.
const ANSWERS: u32 = 1;
/// Of a hundred inputs so many keep their ways of writing, and the rest is written plainly: a pipe takes as long as ten messages.
const WAYS: u8 = 8;
/// The ways that a script has for `via`.
const VIA: [&str; 4] = ["write", "writev", "splice", "move"];

/// What messages meet.
const STAGES: [&str; 3] = [
    include_str!("stages/through.case"),
    include_str!("stages/attributes.case"),
    include_str!("stages/writeback.case"),
];

impl Message {
    /// The word for how it is written.
    pub fn via(&self) -> &'static str {
        VIA[usize::from(self.via)]
    }

    /// The held request that it names, counted from 0, where so many are held.
    pub fn request(&self, held: usize) -> Option<usize> {
        usize::from(self.request).checked_sub(1).filter(|_| held > 0).map(|request| request % held)
    }
}

/// The stage that a process with that seed keeps to.
pub fn stage_for(seed: u32) -> usize {
    seed as usize % STAGES.len()
}

/// The stage of these bytes, by its number.
pub fn stage_of(bytes: &[u8]) -> usize {
    usize::from(bytes.first().copied().unwrap_or(0)) % STAGES.len()
}

/// The program that sets a stage.
pub fn stage(number: usize) -> Program {
    parts(number).0
}

/// The program that sets a stage, and the steps that end it: what is held is answered, and who waits is waited for.
fn parts(number: usize) -> (Program, Vec<Step>) {
    let source = Source { path: "stage.case".into(), text: STAGES[number % STAGES.len()].into() };
    let mut cases = script::parse(&source, &BTreeMap::new()).expect("all stages are tested");
    let mut program = cases.remove(0).program;
    let is_end = |step: &Step| matches!(step.verb, Verb::Answer { .. });
    let first = program.steps.iter().position(is_end).unwrap_or(program.steps.len());
    let end = program.steps.split_off(first);
    (program, end)
}

/// The messages in these bytes.
pub fn messages(bytes: &[u8]) -> Vec<Message> {
    let mut rest = bytes.get(1..).unwrap_or_default();
    let mut messages = Vec::new();
    while let [via, request, low, high, behind @ ..] = rest
        && messages.len() < MOST_MESSAGES
    {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        let bytes = bytes.get(..MOST).unwrap_or(bytes).to_vec();
        messages.push(Message { via: *via % VIA.len() as u8, request: *request, bytes });
        rest = behind;
    }
    messages
}

fn to_bytes(stage: u8, messages: &[Message]) -> Vec<u8> {
    let mut bytes = vec![stage];
    for message in messages.iter().take(MOST_MESSAGES) {
        let content = message.bytes.get(..MOST).unwrap_or(&message.bytes);
        bytes.extend([message.via, message.request]);
        bytes.extend((content.len() as u16).to_le_bytes());
        bytes.extend(content);
    }
    bytes
}

/// Inputs that are simpler by a message, by half of one, or by its way of writing.
pub(super) fn simpler(input: &[u8]) -> Vec<Vec<u8>> {
    let (stage, messages) = (stage_of(input) as u8, messages(input));
    let mut simpler = Vec::new();
    for at in (0..messages.len()).rev() {
        let mut fewer = messages.clone();
        fewer.remove(at);
        simpler.push(to_bytes(stage, &fewer));
    }
    for (at, message) in messages.iter().enumerate() {
        let mut change = |message: Message| {
            let mut changed = messages.clone();
            changed[at] = message;
            simpler.push(to_bytes(stage, &changed));
        };
        if message.bytes.len() > HEADER {
            let half = HEADER + (message.bytes.len() - HEADER) / 2;
            change(Message { bytes: message.bytes[..half].to_vec(), ..message.clone() });
        }
        if message.via != 0 {
            change(Message { via: 0, ..message.clone() });
        }
    }
    simpler
}

/// The same as a program: the stage, and a `send` for each message.
pub(super) fn raw_program(bytes: &[u8]) -> Program {
    let (stage, end) = parts(stage_of(bytes));
    let mut steps = stage.steps;
    let held = held(&steps);
    for message in messages(bytes) {
        let mut header = message.bytes.clone();
        header.resize(header.len().max(HEADER), 0);
        let (fields, payload) = header.split_at(HEADER);
        let int = |name: &str, number: i128| (name.to_string(), Value::Int(number));
        let four = |at: usize| <[u8; 4]>::try_from(&fields[at..at + 4]).unwrap_or_default();
        let unique = match message.request(held.len()) {
            Some(request) => Value::Name(held[request].clone(), 0),
            None => {
                let unique = <[u8; 8]>::try_from(&fields[8..]).unwrap_or_default();
                Value::Int(u64::from_le_bytes(unique).into())
            }
        };
        let mut args = vec![
            ("unique".to_string(), unique),
            int("error", i32::from_le_bytes(four(4)).into()),
            int("len", u32::from_le_bytes(four(0)).into()),
        ];
        if !payload.is_empty() {
            args.push(("payload".into(), Value::Data(Data(payload.to_vec()))));
        }
        if message.bytes.len() < HEADER {
            args.push(int("size", message.bytes.len() as i128));
        }
        if message.via != 0 {
            args.push(("via".into(), Value::Word(message.via().into())));
        }
        let call = Call { name: "send".into(), args };
        steps.push(step(DAEMON, Verb::Call(call), Some(outcome(Yields::Number, ""))));
    }
    steps.extend(end);
    program(steps)
}

/// The names of the requests that a stage holds, in their order.
pub fn held(steps: &[Step]) -> Vec<String> {
    steps
        .iter()
        .filter_map(|step| match &step.verb {
            Verb::On { reply: Reply::Hold(name), .. } => Some(name.clone()),
            _ => None,
        })
        .collect()
}

/// The messages of a case, one input a stage; none if it sends nothing.
pub(super) fn raw_seeds(case: &Program) -> Vec<Vec<u8>> {
    let sent = case.steps.iter().filter_map(|step| match &step.verb {
        Verb::Call(call) if call.name == "send" && step.actor != HOST => Some(call),
        _ => None,
    });
    let messages: Vec<Message> = sent.map(message).collect();
    let inputs = messages.chunks(MOST_MESSAGES).flat_map(|messages| {
        (0..STAGES.len() as u8).map(|stage| to_bytes(stage, messages)).collect::<Vec<_>>()
    });
    inputs.collect()
}

fn message(call: &Call) -> Message {
    let payload = call.data("payload").0;
    let int = |name: &str, default: i128| call.int(name, default);
    let len = int("len", (HEADER + payload.len()) as i128) as u32;
    let (request, unique) = match call.arg("unique") {
        Some(Value::Name(..)) => (1, 0),
        _ => (0, int("unique", 0) as u64),
    };
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend((int("error", 0) as i32).to_le_bytes());
    bytes.extend(unique.to_le_bytes());
    bytes.extend(payload);
    let size = int("size", bytes.len() as i128).clamp(0, MOST as i128) as usize;
    bytes.resize(size, 0);
    let via = VIA.iter().position(|via| *via == call.text("via")).unwrap_or(0) as u8;
    Message { via, request, bytes }
}

/// What a fuzzer of bytes calls: the first `size` bytes become those of a changed input of at most `most` bytes, on the same
/// stage. Gives how many those are.
pub fn mutate_raw_in_place(bytes: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    let before = bytes.get(..size).unwrap_or_default();
    let stage = stage_of(before) as u8;
    let mut messages = messages(before);
    let rng = &mut Rng::with_seed(seed.into());
    for _ in 0..rng.u8(1..=3) {
        change(rng, &mut messages);
    }
    let is_answer = rng.u32(..1000) < ANSWERS;
    let keeps_ways = chance(rng, WAYS);
    for message in &mut messages {
        message.via = if keeps_ways { message.via } else { 0 };
        message.request = if is_answer { rng.u8(1..=3) } else { 0 };
    }
    put(&to_bytes(stage, &messages), bytes, most).unwrap_or(size)
}

fn change(rng: &mut Rng, messages: &mut Vec<Message>) {
    if messages.is_empty() || (messages.len() < MOST_MESSAGES && chance(rng, 5)) {
        let at = rng.usize(0..=messages.len());
        messages.insert(at, notice(rng));
        return;
    }
    if messages.len() > 1 && chance(rng, 30) {
        let at = rng.usize(0..messages.len());
        messages.remove(at);
        return;
    }
    let at = rng.usize(0..messages.len());
    let message = &mut messages[at];
    let was_whole = is_whole(&message.bytes);
    match rng.u8(..100) {
        0..5 => message.via = rng.u8(..VIA.len() as u8),
        5..20 => *message = notice(rng),
        20..30 => {
            let len = length(rng, message.bytes.len());
            field(&mut message.bytes, 0, &len.to_le_bytes());
        }
        30..40 => field(&mut message.bytes, 4, &code(rng).to_le_bytes()),
        40..45 => field(&mut message.bytes, 8, &(one(rng, &EDGES).unwrap_or_default() as u64).to_le_bytes()),
        45..60 => payload_number(rng, &mut message.bytes),
        60..70 => {
            let len = rng.usize(0..=message.bytes.len());
            message.bytes.truncate(len);
        }
        70..85 => {
            let more = one(rng, &[1, 8, 16, 40, 104, 128, 4096]).unwrap_or_default();
            let byte = rng.u8(..);
            let len = (message.bytes.len() + more).min(MOST);
            message.bytes.resize(len, byte);
        }
        _ => {
            if !message.bytes.is_empty() {
                let at = rng.usize(0..message.bytes.len());
                message.bytes[at] = rng.u8(..);
            }
        }
    }
    let bytes = &mut messages[at].bytes;
    if was_whole && chance(rng, 90) {
        let len = bytes.len() as u32;
        field(bytes, 0, &len.to_le_bytes());
    }
}

/// Does the header tell the length that the message has?
fn is_whole(bytes: &[u8]) -> bool {
    bytes.get(..4).is_some_and(|len| *len == (bytes.len() as u32).to_le_bytes())
}

fn notice(rng: &mut Rng) -> Message {
    let code = rng.u8(1..=9);
    let payload = notification(rng, code);
    let mut bytes = ((HEADER + payload.len()) as u32).to_le_bytes().to_vec();
    bytes.extend(u32::from(code).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    Message { via: if chance(rng, 80) { 0 } else { rng.u8(..VIA.len() as u8) }, request: 0, bytes }
}

fn length(rng: &mut Rng, len: usize) -> u32 {
    let len = len as u32;
    one(rng, &[len, len, len.wrapping_sub(1), len + 1, 0, 15, 16, 17, u32::MAX, 1 << 31]).unwrap_or(len)
}

fn code(rng: &mut Rng) -> i32 {
    match rng.u8(..4) {
        0 => rng.i32(0..=12),
        1 => -rng.i32(1..=133),
        _ => one(rng, &[0, -1, -38, -511, -512, -1000, i32::MIN, i32::MAX]).unwrap_or_default(),
    }
}

fn payload_number(rng: &mut Rng, bytes: &mut [u8]) {
    let Some(places) = bytes.len().checked_sub(HEADER + 4).map(|room| room / 4 + 1) else { return };
    let at = HEADER + 4 * rng.usize(0..places);
    let number = one(rng, &EDGES).unwrap_or_default() as u64;
    let number = if rng.bool() { number } else { rng.u64(0..16) };
    field(bytes, at, &number.to_le_bytes());
}

/// Write a number, as far as it fits.
fn field(bytes: &mut [u8], at: usize, number: &[u8]) {
    let room = bytes.get_mut(at..).unwrap_or_default();
    let len = number.len().min(room.len());
    room[..len].copy_from_slice(&number[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_holds_requests_and_waits_for_none() {
        for number in 0..STAGES.len() {
            let steps = stage(number).steps;
            let is_hold = |step: &Step| held(std::slice::from_ref(step)).len() == 1;
            let first = steps.iter().position(is_hold).expect("something is held");
            assert_eq!(held(&steps).len(), 3, "stage {number}");
            for step in &steps[first..] {
                assert!(
                    !matches!(&step.verb, Verb::Call(_) | Verb::Await { .. }),
                    "stage {number}: {}",
                    script::print_step(step)
                );
            }
        }
    }

    #[test]
    fn simpler_inputs_keep_their_stage_and_come_to_an_end() {
        let rng = &mut Rng::with_seed(1);
        let (mut bytes, mut size) = (vec![0; 64 << 10], 0);
        for round in 0..200 {
            bytes[0] = rng.u8(..);
            size = mutate_raw_in_place(&mut bytes, size, 16 << 10, round);
            let mut least = bytes[..size].to_vec();
            while let Some(one) = simpler(&least).pop() {
                let ways = |input: &[u8]| messages(input).iter().filter(|message| message.via != 0).count();
                assert_eq!(stage_of(&one), stage_of(&least));
                assert!((one.len(), ways(&one)) < (least.len(), ways(&least)));
                least = one;
            }
            assert!(messages(&least).is_empty());
        }
    }

    #[test]
    fn an_input_is_a_program_that_prints_and_parses() {
        let rng = &mut Rng::with_seed(1);
        let mut bytes = vec![0; 64 << 10];
        let mut size = 0;
        for round in 0..2000 {
            bytes[0] = rng.u8(..);
            size = mutate_raw_in_place(&mut bytes, size, 16 << 10, round);
            let program = raw_program(&bytes[..size]);
            let source = Source { path: "raw.case".into(), text: script::print(&program) };
            let again = script::parse(&source, &BTreeMap::new()).expect("what was printed parses");
            assert_eq!(again[0].program.steps.len(), program.steps.len());
            let seeds = raw_seeds(&program);
            let own = &seeds[stage_of(&bytes)];
            let contents = |bytes: &[u8]| {
                messages(bytes).into_iter().map(|one| (one.via, one.bytes.len())).collect::<Vec<_>>()
            };
            assert_eq!(contents(own), contents(&bytes[..size]), "{}", source.text);
        }
    }

    #[test]
    fn any_bytes_are_some_input_of_bounded_size() {
        let rng = &mut Rng::with_seed(2);
        for _ in 0..1000 {
            let bytes: Vec<u8> = (0..rng.usize(0..200)).map(|_| rng.u8(..)).collect();
            let messages = messages(&bytes);
            assert!(messages.len() <= MOST_MESSAGES);
            assert!(messages.iter().all(|message| message.bytes.len() <= MOST));
            let _ = raw_program(&bytes);
        }
    }
}
