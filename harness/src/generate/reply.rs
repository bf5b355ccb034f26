//! Replies that a daemon of an arena gives: each request it is asked is answered in the end, however wrongly.
//!
//! Fields that make the kernel turn the message down before it looks for the request (its length, another's unique, an errno
//! that is none) are no part of a reply: the caller would wait for ever. A raw message can have them.

use super::bounds::bounded;
use super::menu;
use super::world::World;
use crate::abi::Opcode;
use crate::program::flags::FlagSet;
use crate::program::{Reply, VIA, Value};

/// The most fields that a reply sets.
pub(super) const MOST_FIELDS: usize = 6;
/// The most bytes that are cut off or added.
const MOST_CUT: i128 = 64;
const S_IFMT: i128 = 0o170_000;
const S_IFIFO: i128 = 0o010_000;
const S_IFREG: i128 = 0o100_000;
/// EIO.
const EIO: i32 = 5;

/// The nearest reply that a request of this opcode may be given at once; none for one that never comes.
pub(super) fn repaired(world: &World, opcode: Opcode, reply: &Reply) -> Option<Reply> {
    Some(match reply {
        Reply::Fields(given) => Reply::Fields(fields(world, opcode, given)),
        Reply::Claim(given) => Reply::Claim(fields(world, opcode, given)),
        Reply::Error(errno) if (1..512).contains(errno) => Reply::Error(*errno),
        Reply::Error(_) => Reply::Error(EIO),
        Reply::Hold(_) | Reply::Drop | Reply::Die => return None,
    })
}

fn fields(world: &World, opcode: Opcode, given: &[(String, Value)]) -> Vec<(String, Value)> {
    let mut fields: Vec<(String, Value)> = Vec::new();
    for (name, value) in given {
        if fields.len() < MOST_FIELDS
            && fields.iter().all(|(other, _)| other != name)
            && let Some(value) = field(world, opcode, name, value)
        {
            fields.push((name.clone(), value));
        }
    }
    fields
}

fn field(world: &World, opcode: Opcode, name: &str, value: &Value) -> Option<Value> {
    let number = value.int().unwrap_or_default();
    Some(match name {
        "cut" | "pad" => Value::Int(number.clamp(0, MOST_CUT)),
        "error" => Value::Int(number.clamp(-511, 0)),
        "via" => match value {
            Value::Word(way) if VIA.contains(&way.as_str()) => value.clone(),
            _ => return None,
        },
        // Who reads a pipe without a writer waits for ever.
        "mode" if number & S_IFMT == S_IFIFO => Value::Int(number - S_IFIFO + S_IFREG),
        "len" | "unique" => return None,
        "data" if menu::has_data(opcode) => match value {
            Value::Data(data) => Value::Data(bounded(data)),
            _ => return None,
        },
        _ => {
            opcode.reply_field(name)?;
            match value {
                Value::Name(..) if name == "backing_id" => id(world, value),
                _ if FlagSet::of_wire_field(opcode, name).is_some() => {
                    Value::Int(number.clamp(0, *menu::ANY.end()))
                }
                _ => Value::Int(number.clamp(*menu::ANY.start(), *menu::ANY.end())),
            }
        }
    })
}

/// The nearest backing id: a number, or what a known id's name stands for.
pub(super) fn id(world: &World, value: &Value) -> Value {
    numbered(&world.ids(), value)
}

/// The nearest unique.
pub(super) fn unique(world: &World, value: &Value) -> Value {
    numbered(&world.held(), value)
}

fn numbered(known: &[&str], value: &Value) -> Value {
    const FAR: i64 = 1024;
    match value {
        Value::Int(number) => Value::Int(*number),
        Value::Name(name, offset) => match known.iter().find(|known| *known == name).or(known.last()) {
            Some(known) => Value::Name((*known).to_string(), (*offset).clamp(-FAR, FAR)),
            None => Value::Int(1),
        },
        _ => Value::Int(1),
    }
}
