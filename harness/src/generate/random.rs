//! Fresh programs. Most do what passthrough is about, with one or two things out of order; which calls there are besides
//! differs from program to program, so that some are all about mappings and others all about names.

use fastrand::Rng;

use super::repair::{Body, INVAL_ENTRY, SPLICE, bound, file, repair, step};
use super::values::{
    call, chance, data, id, notification, one, open_reply, path, some_app, some_flags, some_step, weighted,
};
use super::{DAEMON, HOST, menu};
use crate::abi::Opcode;
use crate::program::flags;
use crate::program::{Actor, Call, Data, Program, Reply, Step, Times, Value, Verb};

/// What is done with an open file that is passed through: a call, and how often compared with others.
const DATA: &[(&str, u32)] = &[
    ("read", 8),
    ("pread", 8),
    ("preadv2", 2),
    ("write", 8),
    ("pwrite", 8),
    ("pwritev2", 2),
    ("mmap", 6),
    ("ftruncate", 3),
    ("fallocate", 2),
    ("fstat", 2),
    ("lseek", 2),
    ("fsync", 2),
    ("splice", 4),
    ("sendfile", 2),
    ("copy_file_range", 2),
    ("aio_read", 1),
    ("aio_write", 1),
    ("dup", 1),
];

/// A fresh program: a prologue and some steps, four at the least.
pub fn random(rng: &mut Rng) -> Program {
    let mut body = Body::of(&stage(rng));
    let calls = swarm(rng);
    let most = rng.usize(4..=16);
    if chance(rng, 80) {
        dance(rng, &mut body);
    }
    if chance(rng, 4) {
        forget_together(rng, &mut body);
    }
    // A step may find no place, for ever: tries are bounded.
    for _ in 0..4 * most {
        if body.len() >= most {
            break;
        }
        let step = some_step(rng, &body.world, &calls);
        body.take(&step);
    }
    repair(body.finish())
}

/// A part of all calls, so that those that are left meet each other more often.
fn swarm(rng: &mut Rng) -> Vec<(&'static str, u32)> {
    let share = one(rng, &[15, 30, 50, 100]).unwrap_or_default();
    let mut calls: Vec<_> = menu::APP.iter().filter(|_| chance(rng, share)).copied().collect();
    calls.extend([("open", 2), ("read", 2), ("write", 2)]);
    calls
}

/// A stage. There are few different ones: each has a mount of its own, which is kept as long as others want the same.
pub(super) fn stage(rng: &mut Rng) -> Vec<Step> {
    let mut steps = vec![file("a", &Data(b"hello".to_vec()), None)];
    if chance(rng, 60) {
        steps.push(file("b", &Data(b"0123456789".to_vec()), None));
    }
    let int = |name: &str, number: i128| (name.to_string(), Value::Int(number));
    let bit = |set, name| i128::from(menu::bit(set, name));
    let (mut first, mut second) = (bit(flags::INIT, "INIT_EXT"), bit(flags::INIT2, "PASSTHROUGH"));
    let (mut depth, mut is_spliced) = (1, false);
    match rng.u8(..100) {
        0..57 => {}
        57..60 => {
            let args = vec![("kind".into(), Value::Word(menu::LOWER[1].into()))];
            steps.push(step(HOST, Verb::Call(Call { name: "lower".into(), args }), None));
        }
        60..70 => is_spliced = true,
        70..80 => second |= bit(flags::INIT2, "DIRECT_IO_ALLOW_MMAP"),
        80..88 => first |= bit(flags::INIT, "WRITEBACK_CACHE"),
        88..92 => first |= bit(flags::INIT, "ATOMIC_O_TRUNC"),
        92..95 => depth = 2,
        95..97 => depth = 0,
        97..99 => first |= bit(flags::INIT, "HANDLE_KILLPRIV_V2"),
        _ => second = 0,
    }
    let reply =
        Reply::Fields(vec![int("flags", first), int("flags2", second), int("max_stack_depth", depth)]);
    let init = Verb::On { times: Times::Once, opcode: Opcode::INIT, path: None, reply };
    steps.push(step(DAEMON, init, None));
    if is_spliced {
        let args = vec![("over".into(), Value::Word(SPLICE.into()))];
        steps.push(step(DAEMON, Verb::Call(Call { name: "mount".into(), args }), None));
    }
    steps
}

/// Register, open, use; out of order now and then.
pub(super) fn dance(rng: &mut Rng, body: &mut Body) {
    let path = path(rng, &body.world);
    let path = if body.world.files.contains(&path) { path } else { body.world.path("") };
    let flags = if chance(rng, 80) { "O_RDWR" } else { "O_RDONLY" };
    let lower = open(body, DAEMON, &path, menu::bit(flags::OPEN, flags).into());
    let given = call_on(rng, body, DAEMON, "backing_open", lower.as_deref());
    body.take(&given);
    let id = match body.steps.last().and_then(bound) {
        Some(name) if chance(rng, 92) => Value::Name(name.into(), 0),
        _ => id(rng, &body.world),
    };
    if chance(rng, 15) {
        let close = call_on(rng, body, DAEMON, "close", lower.as_deref());
        body.take(&close);
    }
    if chance(rng, 6) {
        close_id(body, &id);
    }
    let actor = some_app(rng);
    passed_open(rng, body, actor, &path, id.clone());
    if chance(rng, 15) {
        close_id(body, &id);
    }
    let fd = body.world.fds(actor).last().map(|name| (*name).to_string());
    for _ in 0..rng.u8(2..=4) {
        use_file(rng, body, actor, fd.as_deref());
    }
    if chance(rng, 30) {
        let other = some_app(rng);
        again(rng, body, other, &path, id);
    }
}

/// An open of that file that is answered with that id: by a rule, or by hand.
fn passed_open(rng: &mut Rng, body: &mut Body, actor: Actor, path: &str, id: Value) {
    let flags = some_flags(rng, "open", flags::OPEN);
    let mut reply = open_reply(rng, id);
    if let Reply::Fields(fields) = &mut reply
        && chance(rng, 90)
    {
        for (_, value) in fields.iter_mut().filter(|(name, _)| name == "open_flags") {
            let bit = i128::from(menu::bit(flags::FOPEN, "PASSTHROUGH"));
            *value = Value::Int(value.int().unwrap_or_default() | bit);
        }
    }
    let rule = |times, reply| Verb::On { times, opcode: Opcode::OPEN, path: Some(path.to_string()), reply };
    if chance(rng, 12) {
        body.take(&step(DAEMON, rule(Times::Once, Reply::Hold("h".into())), None));
        let Some((held, _)) = body.world.armed.last().cloned() else { return };
        let call = opening(path, flags);
        body.take(&step(actor, Verb::Start { name: "r".into(), call }, None));
        let running = body.world.running.last().map(|call| call.name.clone());
        if chance(rng, 30) {
            let other = some_app(rng);
            use_file(rng, body, other, None);
        }
        body.take(&step(DAEMON, Verb::Answer { held, reply }, None));
        body.take(&step(actor, Verb::Await { name: running.unwrap_or_default() }, None));
    } else {
        let times = if chance(rng, 40) { Times::Always } else { Times::Once };
        body.take(&step(DAEMON, rule(times, reply), None));
        open(body, actor, path, flags);
    }
}

/// The same file once more, in whatever mode.
fn again(rng: &mut Rng, body: &mut Body, actor: Actor, path: &str, id: Value) {
    let reply = open_reply(rng, id);
    let times = Times::Once;
    let rule = Verb::On { times, opcode: Opcode::OPEN, path: Some(path.to_string()), reply };
    body.take(&step(DAEMON, rule, None));
    let flags = some_flags(rng, "open", flags::OPEN);
    let fd = open(body, actor, path, flags);
    use_file(rng, body, actor, fd.as_deref());
}

/// Names that the kernel forgets while nobody reads, so that it tells of all of them at once.
fn forget_together(rng: &mut Rng, body: &mut Body) {
    for word in ["pause", "send", "send", "serve"] {
        let mut call = Call { name: word.into(), args: Vec::new() };
        if word == "send" {
            let code = INVAL_ENTRY as u8;
            let payload = Data(notification(rng, code));
            call.args =
                vec![("error".into(), Value::Int(code.into())), ("payload".into(), Value::Data(payload))];
        }
        body.take(&step(DAEMON, Verb::Call(call), None));
    }
}

/// A few calls on an open file.
fn use_file(rng: &mut Rng, body: &mut Body, actor: Actor, fd: Option<&str>) {
    let name = weighted(rng, DATA).copied().unwrap_or("read");
    if matches!(name, "splice" | "sendfile") && body.world.ends(actor, 'w').is_empty() {
        fill_pipe(rng, body, actor);
    }
    let used = call_on(rng, body, actor, name, fd);
    if body.take(&used) && name == "mmap" {
        for _ in 0..rng.u8(1..=2) {
            let touch = if rng.bool() { "load" } else { "store" };
            let touch = call(rng, &body.world, actor, touch);
            body.take(&step(actor, Verb::Call(touch), None));
        }
    }
}

/// A pipe, mostly with something in it.
fn fill_pipe(rng: &mut Rng, body: &mut Body, actor: Actor) {
    let pipe = call(rng, &body.world, actor, "pipe");
    body.take(&step(actor, Verb::Call(pipe), None));
    if let Some(end) = body.world.ends(actor, 'w').last().map(|name| (*name).to_string())
        && chance(rng, 60)
    {
        let args = vec![("fd".into(), Value::Name(end, 0)), ("data".into(), Value::Data(data(rng)))];
        body.take(&step(actor, Verb::Call(Call { name: "write".into(), args }), None));
    }
}

/// A call whose open file is this one.
fn call_on(rng: &mut Rng, body: &Body, actor: Actor, name: &str, fd: Option<&str>) -> Step {
    let mut call = call(rng, &body.world, actor, name);
    let is_file = |(param, value): &&mut (String, Value)| {
        matches!(param.as_str(), "fd" | "in" | "out") && !body.world.is_pipe(actor, Some(value))
    };
    if let (Some((_, value)), Some(fd)) = (call.args.iter_mut().find(is_file), fd)
        && chance(rng, 95)
    {
        *value = Value::Name(fd.into(), 0);
    }
    step(actor, Verb::Call(call), None)
}

fn close_id(body: &mut Body, id: &Value) {
    let call = Call { name: "backing_close".into(), args: vec![("id".into(), id.clone())] };
    body.take(&step(DAEMON, Verb::Call(call), None));
}

fn opening(path: &str, flags: i128) -> Call {
    let args = vec![("path".into(), Value::Path(path.into())), ("flags".into(), Value::Int(flags))];
    Call { name: "open".into(), args }
}

/// Open the file; gives its name.
fn open(body: &mut Body, actor: Actor, path: &str, flags: i128) -> Option<String> {
    let is_in = body.take(&step(actor, Verb::Call(opening(path, flags)), None));
    body.steps.last().filter(|_| is_in).and_then(bound).map(str::to_string)
}
