//! Programs made of other programs: changed in a few places, or put together from two.
//!
//! A change knows what has a name in its place; what it breaks further down is mended.

use fastrand::Rng;

use super::repair::{Body, is_of_stage, program, repair};
use super::values::{argument, chance, one, reply, some_app, some_step};
use super::world::World;
use super::{DAEMON, app, body, from_bytes, menu, prologue, random, to_bytes};
use crate::abi::Opcode;
use crate::program::{Program, Reply, Side, Step, Times, Value, Verb, flags, signature};

/// A program of so many steps grows by changes; a longer one shrinks. The machine makes steps, not programs.
const ENOUGH: usize = 10;

/// The program with one to four changes. Changes break what passthrough hangs on more often than they make it, so that now and
/// then a file that is passed through is put into it.
pub fn mutate(before: &Program, rng: &mut Rng) -> Program {
    let (mut stage, mut steps) = (prologue(before).to_vec(), body(before).to_vec());
    for _ in 0..rng.u8(1..=4) {
        change_once(&mut stage, &mut steps, rng);
    }
    if chance(rng, 55) {
        return repair(revived(&stage, &steps, rng));
    }
    stage.append(&mut steps);
    repair(program(stage))
}

/// Some of these steps, and before one of them what it takes to pass a file through, on a mount where that is agreed on.
fn revived(stage: &[Step], steps: &[Step], rng: &mut Rng) -> Program {
    let mut steps: Vec<&Step> = steps.iter().filter(|step| !is_of_stage(step)).collect();
    while steps.len() > ENOUGH / 2 {
        steps.remove(rng.usize(..steps.len()));
    }
    let fresh = random::stage(rng);
    let mut body = Body::of(if agrees_on_passthrough(stage) { stage } else { &fresh });
    // What was opened before it, for the kernel's cache, may keep it from being passed through.
    let at = if chance(rng, 60) { 0 } else { rng.usize(0..=steps.len()) };
    let (before, after) = steps.split_at(at);
    for step in before {
        body.take(step);
    }
    random::dance(rng, &mut body);
    for step in after {
        body.take(step);
    }
    body.finish()
}

fn agrees_on_passthrough(stage: &[Step]) -> bool {
    let bit = i128::from(menu::bit(flags::INIT2, "PASSTHROUGH"));
    let has = |(name, value): &(String, Value)| {
        name == "flags2" && value.int().is_some_and(|number| number & bit != 0)
    };
    stage.iter().any(|step| match &step.verb {
        Verb::On { opcode: Opcode::INIT, reply: Reply::Fields(fields), .. } => fields.iter().any(has),
        _ => false,
    })
}

/// The prologue and the first steps of one, and the last ones of the other.
pub fn cross(one: &Program, other: &Program, rng: &mut Rng) -> Program {
    let (head, tail) = (body(one), body(other));
    let head = head.get(..rng.usize(0..=head.len())).unwrap_or_default();
    let tail = tail.get(rng.usize(0..=tail.len())..).unwrap_or_default();
    let tail = tail.get(tail.len().saturating_sub(ENOUGH)..).unwrap_or(tail);
    let head = head.get(..(ENOUGH + ENOUGH / 2).saturating_sub(tail.len())).unwrap_or(head);
    let tail = tail.iter().filter(|step| !is_of_stage(step));
    repair(program([prologue(one), head].concat().into_iter().chain(tail.cloned()).collect()))
}

/// What a fuzzer of bytes calls: the first `size` bytes become those of a changed program of at most `most` bytes. Gives
/// how many those are.
pub fn mutate_in_place(bytes: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    let before = from_bytes(bytes.get(..size).unwrap_or_default());
    let after = to_bytes(&mutate(&before, &mut Rng::with_seed(seed.into())));
    put(&after, bytes, most).unwrap_or(size)
}

/// The same for two programs, whose bytes become those of a third one in `into`.
pub fn cross_in_place(one: &[u8], other: &[u8], into: &mut [u8], seed: u32) -> usize {
    let after = cross(&from_bytes(one), &from_bytes(other), &mut Rng::with_seed(seed.into()));
    let most = into.len();
    put(&to_bytes(&after), into, most).unwrap_or(0)
}

pub(super) fn put(bytes: &[u8], into: &mut [u8], most: usize) -> Option<usize> {
    let most = most.min(into.len());
    into.get_mut(..most)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(bytes.len())
}

fn change_once(stage: &mut [Step], steps: &mut Vec<Step>, rng: &mut Rng) {
    if chance(rng, 1) {
        init(rng, stage);
    }
    let at = rng.usize(0..=steps.len());
    let world = world(stage, steps.get(..at).unwrap_or_default());
    let (inserts, removes) = if steps.len() < ENOUGH { (30, 12) } else { (5, 40) };
    match rng.u8(..100) {
        roll if roll < inserts => steps.insert(at, some_step(rng, &world, menu::APP)),
        roll if roll < inserts + removes => drop((at < steps.len()).then(|| steps.remove(at))),
        42..50 => {
            if let Some(step) = steps.get(at).cloned() {
                steps.insert(rng.usize(0..=steps.len()), step);
            }
        }
        50..58 => {
            let other = rng.usize(0..=steps.len());
            if at.max(other) < steps.len() {
                steps.swap(at, other);
            }
        }
        58..66 if at < steps.len() => {
            let step = steps.remove(at);
            steps.insert(rng.usize(0..=steps.len()), step);
        }
        _ => {
            if let Some(step) = steps.get_mut(at) {
                change(rng, &world, step);
            }
        }
    }
}

/// What there is behind these steps.
fn world(stage: &[Step], steps: &[Step]) -> World {
    let mut body = Body::of(stage);
    for step in steps {
        body.take(step);
    }
    body.world
}

/// Change something within a step.
fn change(rng: &mut Rng, world: &World, step: &mut Step) {
    let actor = step.actor;
    match &mut step.verb {
        Verb::Call(call) | Verb::Start { call, .. } if chance(rng, 70) => {
            let params = signature(&call.name).map_or(&[] as &[_], |signature| signature.params);
            let Some(param) = rng.choice(params) else { return };
            let value = argument(rng, world, actor, &call.name, param);
            match call.args.iter_mut().find(|(name, _)| name == param.name) {
                Some((_, Value::Int(number))) if chance(rng, 30) => nudge(rng, number),
                Some((_, old)) => *old = value,
                None => call.args.push((param.name.into(), value)),
            }
        }
        Verb::Call(call) if actor.side == Side::App && rng.bool() => {
            step.verb = Verb::Start { name: "r".into(), call: call.clone() };
        }
        Verb::Start { call, .. } if rng.bool() => step.verb = Verb::Call(call.clone()),
        Verb::Call(_) | Verb::Start { .. } => {
            step.actor = match actor.side {
                Side::App if chance(rng, 90) => app(actor.number % super::APPS + 1),
                Side::App => DAEMON,
                Side::Daemon => some_app(rng),
                Side::Host => actor,
            };
        }
        Verb::On { times, path, opcode, reply: old } => match rng.u8(..10) {
            0 => *times = if *times == Times::Once { Times::Always } else { Times::Once },
            1 => *path = if path.is_some() { None } else { Some(world.path("")) },
            2 => *opcode = one(rng, menu::OPCODES).unwrap_or(*opcode),
            3 => *old = Reply::Hold("h".into()),
            _ => other_reply(rng, world, *opcode, old),
        },
        Verb::Answer { held, reply: old } => {
            let opcode = world.armed.iter().find(|(name, _)| name == held).map(|(_, opcode)| *opcode);
            other_reply(rng, world, opcode.unwrap_or(Opcode::OPEN), old);
        }
        Verb::Await { .. } | Verb::Blocks { .. } | Verb::Saw(_) => {}
    }
}

/// Another reply, or the same but for a field.
fn other_reply(rng: &mut Rng, world: &World, opcode: Opcode, old: &mut Reply) {
    let new = reply(rng, world, opcode);
    match (old, new) {
        (Reply::Fields(old) | Reply::Claim(old), Reply::Fields(new)) if chance(rng, 60) => {
            let Some((name, value)) = rng.choice(new) else { return };
            match old.iter_mut().find(|(known, _)| *known == name) {
                Some((_, Value::Int(number))) if rng.bool() => *number ^= 1 << rng.u8(..9),
                Some((_, known)) => *known = value,
                None => old.push((name, value)),
            }
        }
        (old, new) => *old = new,
    }
}

/// Another number close by.
fn nudge(rng: &mut Rng, number: &mut i128) {
    *number = match rng.u8(..4) {
        0 => number.saturating_add(1),
        1 => number.saturating_sub(1),
        2 => number.saturating_mul(2),
        _ => *number ^ (1 << rng.u8(..13)),
    };
}

/// Change what INIT agrees on. Each answer to it takes a mount of its own: not often.
fn init(rng: &mut Rng, stage: &mut [Step]) {
    for step in stage {
        let Verb::On { opcode: Opcode::INIT, reply: Reply::Fields(fields), .. } = &mut step.verb else {
            continue;
        };
        let Some((name, range)) = rng.choice(menu::INIT) else { continue };
        match fields.iter_mut().find(|(known, _)| known == name) {
            Some((_, Value::Int(number))) if name.starts_with("flags") => *number ^= 1 << rng.u8(..32),
            Some((_, Value::Int(number))) => nudge(rng, number),
            _ => fields
                .push(((*name).into(), Value::Int(rng.i128(*range.start()..=*range.end().min(&(1 << 20)))))),
        }
    }
}
