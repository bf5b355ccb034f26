//! Programs as bytes, for a fuzzer that knows nothing but bytes, and for its corpus.
//!
//! Only the steps are kept, and of what they expect only the names. Any bytes are some program: what does not decode is the
//! seed of a random one. Bytes come from anywhere, so lengths are looked at before anything is made of them.

use serde::{Deserialize, Serialize};

use super::bounds::pieces;
use super::repair::{bound, outcome, program, repair, step};
use super::{APPS, DAEMON, HOST, MOST_DATA, MOST_FILES, MOST_STEPS, app, menu, random};
use crate::abi::Opcode;
use crate::program::{Actor, Call, Data, Program, Reply, Side, Step, Times, Value, Verb, Yields, signature};
use crate::protocol;

/// The most bytes that are looked at. An acceptable program has fewer.
pub const MOST_BYTES: usize = 16 << 10;

/// Steps that are decoded: some may be dropped by repair.
const MOST_DECODED: usize = 2 * (MOST_STEPS + MOST_FILES);

/// Bytes of data in all of them together: no acceptable program has more.
const MOST_UNPACKED: usize = 2 * (MOST_STEPS + MOST_FILES) * MOST_DATA;

#[derive(Serialize, Deserialize)]
struct Packed {
    actor: u8,
    what: What,
    /// The name that it gives to something.
    bind: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum What {
    Call(Calling),
    Start(String, Calling),
    Await(String),
    On { opcode: u8, path: Option<String>, answer: Answering },
    Always { opcode: u8, path: Option<String>, answer: Answering },
    Answer { held: String, answer: Answering },
}

#[derive(Serialize, Deserialize)]
struct Calling {
    /// Its place among the calls that there are.
    name: u8,
    /// Each with its parameter's place.
    args: Vec<(u8, Packing)>,
}

#[derive(Serialize, Deserialize)]
enum Answering {
    Fields(Vec<(String, Packing)>),
    Claim(Vec<(String, Packing)>),
    Error(i32),
    Hold(String),
}

#[derive(Serialize, Deserialize)]
enum Packing {
    Int(i128),
    Name(String, i64),
    /// Pieces, each so many times.
    Data(Vec<(u32, Vec<u8>)>),
    Path(String),
    Word(String),
}

/// The steps of a program, packed; steps that no acceptable program has are left out.
pub fn to_bytes(program: &Program) -> Vec<u8> {
    let steps: Vec<Packed> = program.steps.iter().filter_map(packed).collect();
    protocol::encode(&steps).unwrap_or_default()
}

/// The program in these bytes, repaired; of bytes that hold none, a random one that they are the seed of.
pub fn from_bytes(bytes: &[u8]) -> Program {
    let within = Some(bytes).filter(|bytes| bytes.len() <= MOST_BYTES);
    match within.and_then(|bytes| protocol::decode::<Vec<Packed>>(bytes).ok()) {
        Some(steps) => {
            let mut unpacker = Unpacker { room: MOST_UNPACKED };
            let steps = steps.into_iter().take(MOST_DECODED);
            repair(program(steps.filter_map(|step| unpacker.step(step)).collect()))
        }
        None => random(&mut fastrand::Rng::with_seed(hash(bytes))),
    }
}

/// FNV-1a: the same everywhere and always.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn packed(step: &Step) -> Option<Packed> {
    let what = match &step.verb {
        Verb::Call(call) => What::Call(calling(call)?),
        Verb::Start { name, call } => What::Start(name.clone(), calling(call)?),
        Verb::Await { name } => What::Await(name.clone()),
        Verb::On { times, opcode, path, reply } => {
            let (opcode, path, answer) = (u8::try_from(opcode.0).ok()?, path.clone(), answering(reply)?);
            match times {
                Times::Once => What::On { opcode, path, answer },
                Times::Always => What::Always { opcode, path, answer },
            }
        }
        Verb::Answer { held, reply } => What::Answer { held: held.clone(), answer: answering(reply)? },
        Verb::Blocks { .. } | Verb::Saw(_) => return None,
    };
    let actor = match step.actor.side {
        Side::Host => 0,
        Side::Daemon => 1,
        Side::App => step.actor.number.saturating_add(1),
    };
    Some(Packed { actor, what, bind: bound(step).map(str::to_string) })
}

fn calling(call: &Call) -> Option<Calling> {
    let name = menu::calls().iter().position(|name| *name == call.name)?;
    let params = signature(&call.name)?.params;
    let place = |param: &str| params.iter().position(|known| known.name == param);
    let args = call
        .args
        .iter()
        .filter_map(|(param, value)| Some((u8::try_from(place(param)?).ok()?, packing(value)?)));
    Some(Calling { name: u8::try_from(name).ok()?, args: args.collect() })
}

fn answering(reply: &Reply) -> Option<Answering> {
    let all = |fields: &[(String, Value)]| {
        fields.iter().filter_map(|(name, value)| Some((name.clone(), packing(value)?))).collect()
    };
    Some(match reply {
        Reply::Fields(fields) => Answering::Fields(all(fields)),
        Reply::Claim(fields) => Answering::Claim(all(fields)),
        Reply::Error(errno) => Answering::Error(*errno),
        Reply::Hold(name) => Answering::Hold(name.clone()),
        Reply::Drop | Reply::Die => return None,
    })
}

fn packing(value: &Value) -> Option<Packing> {
    Some(match value {
        Value::Int(number) => Packing::Int(*number),
        Value::Name(name, offset) => Packing::Name(name.clone(), *offset),
        Value::Data(Data(data)) => {
            Packing::Data(pieces(data).into_iter().map(|(times, piece)| (times, piece.to_vec())).collect())
        }
        Value::Path(path) => Packing::Path(path.clone()),
        Value::Word(word) => Packing::Word(word.clone()),
        Value::Fds(_) => return None,
    })
}

/// Makes steps of packed ones, as long as there is room for their data.
struct Unpacker {
    /// In bytes.
    room: usize,
}

impl Unpacker {
    fn step(&mut self, packed: Packed) -> Option<Step> {
        let actor: Actor = match packed.actor {
            0 => HOST,
            1 => DAEMON,
            number => app((number - 2) % APPS + 1),
        };
        // Of which kind a name is, repair knows.
        let expect = packed.bind.map(|name| outcome(Yields::Named("fd"), &name));
        let rule =
            |times, opcode: u8, path, reply| Verb::On { times, opcode: Opcode(opcode.into()), path, reply };
        let verb = match packed.what {
            What::Call(calling) => Verb::Call(self.call(calling)?),
            What::Start(name, calling) => Verb::Start { name, call: self.call(calling)? },
            What::Await(name) => Verb::Await { name },
            What::On { opcode, path, answer } => rule(Times::Once, opcode, path, self.reply(answer)),
            What::Always { opcode, path, answer } => rule(Times::Always, opcode, path, self.reply(answer)),
            What::Answer { held, answer } => Verb::Answer { held, reply: self.reply(answer) },
        };
        Some(step(actor, verb, expect))
    }

    fn call(&mut self, calling: Calling) -> Option<Call> {
        let name = *menu::calls().get(usize::from(calling.name))?;
        let params = signature(name)?.params;
        let args = calling.args.into_iter().filter_map(|(param, value)| {
            Some((params.get(usize::from(param))?.name.to_string(), self.value(value)))
        });
        Some(Call { name: name.to_string(), args: args.collect() })
    }

    fn reply(&mut self, answer: Answering) -> Reply {
        match answer {
            Answering::Fields(fields) => Reply::Fields(self.fields(fields)),
            Answering::Claim(fields) => Reply::Claim(self.fields(fields)),
            Answering::Error(errno) => Reply::Error(errno),
            Answering::Hold(name) => Reply::Hold(name),
        }
    }

    fn fields(&mut self, fields: Vec<(String, Packing)>) -> Vec<(String, Value)> {
        fields.into_iter().map(|(name, value)| (name, self.value(value))).collect()
    }

    fn value(&mut self, packing: Packing) -> Value {
        match packing {
            Packing::Int(number) => Value::Int(number),
            Packing::Name(name, offset) => Value::Name(name, offset),
            Packing::Data(pieces) => {
                let mut data = Vec::new();
                for (times, piece) in pieces {
                    let room = self.room.min(MOST_DATA - data.len()) / piece.len().max(1);
                    let all = piece.repeat(room.min(times as usize));
                    self.room -= all.len();
                    data.extend_from_slice(&all);
                }
                Value::Data(Data(data))
            }
            Packing::Path(path) => Value::Path(path),
            Packing::Word(word) => Value::Word(word),
        }
    }
}
