//! Arguments, replies and steps at random: of the kind that their place asks for, mostly sensible, now and then at an edge.
//!
//! Nothing here has to be acceptable: what is made up is mended afterwards.

use fastrand::Rng;

use super::world::{Thing, World};
use super::{APPS, DAEMON, HOST, app, menu};
use crate::abi::Opcode;
use crate::program::flags::{self, FlagSet};
use crate::program::{
    Actor, Call, Data, Kind, Need, Param, Reply, Side, Step, Times, VIA, Value, Verb, signature,
};

use super::repair::step;

const OFFSETS: [i128; 9] = [0, 0, 1, 2, 4, 5, 100, 4095, 4096];
const LENGTHS: [i128; 8] = [0, 1, 5, 5, 100, 4096, 4097, 65536];
pub(super) const EDGES: [i128; 14] = [
    0,
    1,
    2,
    5,
    -1,
    4095,
    4096,
    65535,
    1 << 20,
    i32::MAX as i128,
    1 << 31,
    u32::MAX as i128,
    i64::MAX as i128 - 4096,
    i64::MAX as i128,
];
const ERRNOS: [i32; 12] = [1, 2, 4, 5, 11, 12, 13, 16, 22, 28, 95, 110];
const ENOSYS: i32 = 38;

/// One of these.
pub(super) fn one<T: Copy>(rng: &mut Rng, of: &[T]) -> Option<T> {
    rng.choice(of).copied()
}

/// True so many times in a hundred.
pub(super) fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

/// One of those that have a weight.
pub(super) fn weighted<'a, T>(rng: &mut Rng, of: &'a [(T, u32)]) -> Option<&'a T> {
    let all: u32 = of.iter().map(|(_, weight)| weight).sum();
    let mut left = rng.u32(..all.max(1));
    let found = of.iter().find(|(_, weight)| {
        let is_it = left < *weight;
        left = left.saturating_sub(*weight);
        is_it
    });
    found.map(|(item, _)| item)
}

/// Some application.
pub(super) fn some_app(rng: &mut Rng) -> Actor {
    // The first one does most: what two of them share is found in two calls as well as in ten.
    if chance(rng, 60) { app(1) } else { app(rng.u8(1..=APPS)) }
}

/// A call with arguments.
pub(super) fn call(rng: &mut Rng, world: &World, actor: Actor, name: &str) -> Call {
    let mut call = Call { name: name.into(), args: Vec::new() };
    if name == "send" {
        call.args = message(rng, world);
        return call;
    }
    for param in signature(name).map_or(&[] as &[Param], |signature| signature.params) {
        let is_given = match param.need {
            Need::Required => true,
            Need::Trailing => chance(rng, 30),
            Need::Keyword => {
                menu::takes(name, param.name) && chance(rng, if name == "backing_open" { 3 } else { 30 })
            }
        };
        if is_given {
            let value = argument(rng, world, actor, name, param);
            call.args.push((param.name.into(), value));
        }
    }
    plumb(rng, world, actor, &mut call);
    call
}

/// Most calls between descriptors do nothing without a pipe at the right end.
fn plumb(rng: &mut Rng, world: &World, actor: Actor, call: &mut Call) {
    let (reads, writes) = match call.name.as_str() {
        "splice" => [(true, false), (false, true)][rng.usize(..2)],
        "sendfile" => (false, rng.bool()),
        "tee" => (true, true),
        _ => return,
    };
    for (is_piped, param, end) in [(reads, "in", 'r'), (writes, "out", 'w')] {
        let pipe = one(rng, &world.ends(actor, end));
        let arg = call.args.iter_mut().find(|(name, _)| name == param);
        if let (true, Some(pipe), Some((_, value))) = (is_piped, pipe, arg) {
            *value = Value::Name(pipe.into(), 0);
        }
    }
}

/// An argument of that parameter.
pub(super) fn argument(rng: &mut Rng, world: &World, actor: Actor, call: &str, param: &Param) -> Value {
    match param.kind {
        Kind::Path => Value::Path(path(rng, world)),
        Kind::Fd if chance(rng, 2) => Value::Int(-1),
        // Where nothing is open, something has to be.
        Kind::Fd => Value::Name(one(rng, &world.fds(actor)).unwrap_or_default().into(), 0),
        Kind::Map => {
            let name = one(rng, &world.maps(actor)).unwrap_or_default();
            let is_long = matches!(world.thing(actor, name), Some(Thing::Map { len }) if len > 4096);
            Value::Name(name.into(), if is_long && chance(rng, 30) { 4096 } else { 0 })
        }
        Kind::Number => number(rng, world, call, param.name),
        Kind::Data => Value::Data(match (call, param.name) {
            ("getxattr" | "setxattr" | "removexattr", "name") => xattr(rng),
            _ => data(rng),
        }),
        Kind::Flags(set) => Value::Int(some_flags(rng, call, set)),
        Kind::Word(known) => Value::Word(one(rng, known).unwrap_or_default().into()),
        Kind::Fds | Kind::Aio | Kind::Actor | Kind::Name => Value::Int(0),
    }
}

/// A path: mostly of a file that is there.
pub(super) fn path(rng: &mut Rng, world: &World) -> String {
    let known: Vec<&str> = if chance(rng, 80) {
        world.files.iter().map(String::as_str).collect()
    } else {
        world.paths().collect()
    };
    one(rng, &known).unwrap_or_default().into()
}

fn number(rng: &mut Rng, world: &World, call: &str, param: &str) -> Value {
    if (call, param) == ("backing_close", "id") {
        return id(rng, world);
    }
    if chance(rng, 10) {
        return Value::Int(one(rng, &EDGES).unwrap_or_default());
    }
    Value::Int(match param {
        "pieces" => rng.i128(1..=4),
        "len" if call == "mmap" => one(rng, &[4096, 4096, 4096, 8192, 5, 65536]).unwrap_or_default(),
        "offset" if call == "mmap" => one(rng, &[0, 4096, 4096, 1]).unwrap_or_default(),
        "len" => one(rng, &LENGTHS).unwrap_or_default(),
        "uid" | "gid" => rng.i128(0..=1000),
        "seconds" => 1_000_000_000,
        "mode" => rng.i128(0..=7),
        // Zero is what the kernel asks for.
        "flags" | "padding" => rng.i128(0..=2),
        _ => one(rng, &OFFSETS).unwrap_or_default(),
    })
}

/// A backing id: one that was given, now and then another.
pub(super) fn id(rng: &mut Rng, world: &World) -> Value {
    match one(rng, &world.ids()) {
        Some(name) if chance(rng, 85) => Value::Name(name.into(), 0),
        Some(name) if chance(rng, 40) => Value::Name(name.into(), 1),
        _ => Value::Int(one(rng, &[0, 1, 2, -1, 9, i32::MAX.into()]).unwrap_or_default()),
    }
}

fn xattr(rng: &mut Rng) -> Data {
    let names: [&[u8]; 4] = [b"user.a", b"security.capability", b"trusted.a", b"system.posix_acl_access"];
    Data(one(rng, &names).unwrap_or_default().to_vec())
}

/// Bytes: a word, or many of one kind.
pub(super) fn data(rng: &mut Rng) -> Data {
    let words: [&[u8]; 6] = [b"J", b"HELLO", b"hello", b"", b"0123456789", b"\0"];
    if chance(rng, 70) {
        return Data(one(rng, &words).unwrap_or_default().to_vec());
    }
    let len = one(rng, &[100, 4095, 4096, 4097, 8192, 65536]).unwrap_or_default();
    Data(vec![rng.u8(b'a'..=b'z'); len])
}

/// Flags of a set: none, one or two, or what such a call mostly has.
pub(super) fn some_flags(rng: &mut Rng, call: &str, set: FlagSet) -> i128 {
    let any = |rng: &mut Rng| rng.choice(set.names).map_or(0, |(_, bits)| *bits);
    let bit = |name| menu::bit(set, name);
    let flags = if set == flags::OPEN && call == "open" {
        let mode = one(rng, &["O_RDWR", "O_RDWR", "O_RDONLY", "O_WRONLY"]).unwrap_or_default();
        let more = ["O_APPEND", "O_TRUNC", "O_DIRECT", "O_CREAT", "O_SYNC", "O_NONBLOCK"];
        let extra = if chance(rng, 30) { bit(one(rng, &more).unwrap_or_default()) } else { 0 };
        bit(mode) | extra | if chance(rng, 3) { any(rng) } else { 0 }
    } else if set == flags::MODE {
        one(rng, &[0o644, 0o600, 0o4755, 0o777, 0, 0o444]).unwrap_or_default()
    } else if set == flags::PROT {
        bit("PROT_READ") | if chance(rng, 60) { bit("PROT_WRITE") } else { 0 }
    } else if set == flags::MAP {
        bit(if chance(rng, 70) { "MAP_SHARED" } else { "MAP_PRIVATE" })
            | if chance(rng, 10) { any(rng) } else { 0 }
    } else if !set.bits {
        any(rng)
    } else if chance(rng, 50) {
        0
    } else {
        any(rng) | if chance(rng, 30) { any(rng) } else { 0 }
    };
    flags.into()
}

/// Something that a daemon does with a request of this opcode.
pub(super) fn reply(rng: &mut Rng, world: &World, opcode: Opcode) -> Reply {
    if matches!(opcode, Opcode::OPEN | Opcode::CREATE) && chance(rng, 80) {
        let id = id(rng, world);
        return open_reply(rng, id);
    }
    if chance(rng, 25) {
        // The kernel remembers ENOSYS for as long as the mount is there, which costs the mount.
        let errno = if chance(rng, 2) { Some(ENOSYS) } else { one(rng, &ERRNOS) };
        return Reply::Error(errno.unwrap_or_default());
    }
    let mut fields = Vec::new();
    if menu::has_data(opcode) && chance(rng, 60) {
        fields.push(("data".into(), Value::Data(data(rng))));
    }
    let parts = opcode.reply_parts().iter().flat_map(|(fields, _)| fields.iter());
    let names: Vec<&str> = parts.map(|field| field.name).collect();
    for _ in 0..rng.u8(0..=2) {
        if let Some(name) = one(rng, &names) {
            fields.push((name.to_string(), Value::Int(one(rng, &EDGES).unwrap_or_default())));
        }
    }
    if chance(rng, 10) {
        let name = if rng.bool() { "cut" } else { "pad" };
        fields.push((name.into(), Value::Int(rng.i128(1..=16))));
    }
    if let (Some(way), true) = (one(rng, VIA), chance(rng, 8)) {
        fields.push(("via".into(), Value::Word(way.into())));
    }
    if chance(rng, 15) { Reply::Claim(fields) } else { Reply::Fields(fields) }
}

/// An open reply with that backing id, mostly one that passes through.
pub(super) fn open_reply(rng: &mut Rng, id: Value) -> Reply {
    let bit = |name| menu::bit(flags::FOPEN, name);
    let mut open_flags = if chance(rng, 75) { bit("PASSTHROUGH") } else { 0 };
    // Only these go together with passthrough.
    if chance(rng, 20) {
        open_flags |= bit(one(rng, &["DIRECT_IO", "PARALLEL_DIRECT_WRITES", "NOFLUSH"]).unwrap_or_default());
    }
    if chance(rng, 8) {
        open_flags |= rng.choice(flags::FOPEN.names).map_or(0, |(_, bits)| *bits);
    }
    if open_flags == 0 && rng.bool() {
        open_flags = bit("DIRECT_IO") | if rng.bool() { bit("PARALLEL_DIRECT_WRITES") } else { 0 };
    }
    Reply::Fields(vec![("open_flags".into(), Value::Int(open_flags.into())), ("backing_id".into(), id)])
}

/// A message to the device that answers nobody: a notification, or a reply to a unique that may be none.
fn message(rng: &mut Rng, world: &World) -> Vec<(String, Value)> {
    let int = |name: &str, number: i128| (name.to_string(), Value::Int(number));
    let mut args = Vec::new();
    if chance(rng, 30) {
        let unique = match one(rng, &world.held()) {
            Some(name) if chance(rng, 70) => {
                Value::Name(name.into(), one(rng, &[0, 1, 2, -1]).unwrap_or_default())
            }
            _ => Value::Int(one(rng, &EDGES).unwrap_or_default()),
        };
        args.push(("unique".to_string(), unique));
        args.push(int("error", one(rng, &[0, -5, -38, 1, -512]).unwrap_or_default()));
    } else {
        let codes = if chance(rng, 90) { 1..=9 } else { 0..=12 };
        let code = rng.u8(codes);
        args.push(int("error", code.into()));
        let mut payload = notification(rng, code);
        if chance(rng, 15) {
            payload.truncate(rng.usize(0..=payload.len()));
        }
        args.push(("payload".to_string(), Value::Data(Data(payload))));
    }
    if chance(rng, 5) {
        args.push(int("len", one(rng, &[0, 15, 16, 17, 1 << 20]).unwrap_or_default()));
    }
    if chance(rng, 5) {
        args.push(int("size", one(rng, &[0, 15, 16, 4096]).unwrap_or_default()));
    }
    args
}

/// The payload of a notification: about the root, or the first file that was looked up.
pub(super) fn notification(rng: &mut Rng, code: u8) -> Vec<u8> {
    let node = |rng: &mut Rng| one(rng, &[1_u64, 2, 2, 2, 3, 99]).unwrap_or_default();
    let offset = |rng: &mut Rng| one(rng, &[0_u64, 1, 5, 4096, u64::MAX]).unwrap_or_default();
    let name: &[u8] = if rng.bool() { b"a\0" } else { b"b\0" };
    let longs = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    match code {
        // Node, offset, length.
        2 => longs(&[node(rng), offset(rng), offset(rng)]),
        // Parent, length of the name, flags; the name.
        3 => [longs(&[1, name.len() as u64 - 1]), name.to_vec()].concat(),
        // Node, offset, size; the bytes.
        4 => [longs(&[node(rng), offset(rng), 5]), b"STORE".to_vec()].concat(),
        // Unique, node, offset, size.
        5 => longs(&[7, node(rng), offset(rng), one(rng, &[0, 5, 4096]).unwrap_or_default()]),
        // Parent, child, length of the name; the name.
        6 => [longs(&[1, node(rng), name.len() as u64 - 1]), name.to_vec()].concat(),
        // Poll handle, or a count of nodes and the nodes.
        1 => longs(&[node(rng)]),
        9 => longs(&[1, 0, node(rng)]),
        _ => Vec::new(),
    }
}

/// Some step for this place, by weights of an application's calls.
pub(super) fn some_step(rng: &mut Rng, world: &World, calls: &[(&str, u32)]) -> Step {
    if !world.armed.is_empty() && chance(rng, 30) {
        if let Some((held, opcode)) = rng.choice(&world.armed) {
            let reply = if rng.bool() { reply(rng, world, *opcode) } else { Reply::Fields(Vec::new()) };
            return step(DAEMON, Verb::Answer { held: held.clone(), reply }, None);
        }
    } else if !world.running.is_empty()
        && chance(rng, 30)
        && let Some(running) = rng.choice(&world.running)
    {
        return step(running.actor, Verb::Await { name: running.name.clone() }, None);
    }
    if !world.running.is_empty() && chance(rng, 10) {
        let call = call(rng, world, HOST, "signal");
        return step(HOST, Verb::Call(call), None);
    }
    if world.is_paused && chance(rng, 20) {
        let serve = Call { name: "serve".into(), args: Vec::new() };
        return step(DAEMON, Verb::Call(serve), None);
    }
    let actor = match rng.u8(..100) {
        0..16 => DAEMON,
        16..28 => return rule(rng, world),
        28..32 => HOST,
        _ => some_app(rng),
    };
    let name = match actor.side {
        Side::App => weighted(rng, calls),
        Side::Daemon => weighted(rng, menu::DAEMON),
        Side::Host => weighted(rng, menu::HOST),
    };
    let call = call(rng, world, actor, name.copied().unwrap_or("open"));
    if actor.side == Side::App && chance(rng, 6) {
        return step(actor, Verb::Start { name: "r".into(), call }, None);
    }
    step(actor, Verb::Call(call), None)
}

/// A rule for requests to come.
fn rule(rng: &mut Rng, world: &World) -> Step {
    // The first ones are those that passthrough is about.
    let opcodes = if rng.bool() { menu::OPCODES.get(..3).unwrap_or_default() } else { menu::OPCODES };
    let opcode = one(rng, opcodes).unwrap_or(Opcode::OPEN);
    let path = chance(rng, 60).then(|| path(rng, world));
    let reply = if chance(rng, 12) { Reply::Hold("h".into()) } else { reply(rng, world, opcode) };
    let times = if chance(rng, 15) { Times::Always } else { Times::Once };
    step(DAEMON, Verb::On { times, opcode, path, reply }, None)
}
