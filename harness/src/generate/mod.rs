//! Programs that nobody wrote: made at random, mutated, crossed, read from bytes or taken from a case, and always repaired,
//! so that an arena can perform them.
//!
//! What an arena is: a mount that stays, over a tmpfs with a few files, one daemon and three applications, whose calls are all
//! made by one task. That task must never wait for something that only a later step brings, which is what most of
//! [`repair`]'s rules are about. Everything here is a function of its arguments: it does no I/O, looks at no clock, and takes
//! what is random from the generator it is given. It performs nothing and judges nothing.

mod bounds;
mod bytes;
mod inputs;
mod lies;
mod menu;
mod minimise;
mod mutate;
mod random;
mod raw;
mod repair;
mod reply;
mod seed;
#[cfg(test)]
mod tests;
mod values;
mod world;

pub use bytes::{MOST_BYTES, from_bytes, to_bytes};
pub use inputs::Inputs;
pub use lies::{Act, Lie, Told, turns};
use minimise::minimise;
pub use mutate::{cross, cross_in_place, mutate, mutate_in_place};
pub use random::random;
pub use raw::{Message, held, messages, mutate_raw_in_place, stage, stage_for, stage_of};
pub use repair::{is_acceptable, repair};
pub use seed::seed;

use crate::program::{Actor, Program, Side, Step, Verb};

/// The most steps behind the prologue.
const MOST_STEPS: usize = 24;
/// The most files that a prologue makes.
const MOST_FILES: usize = 4;
/// The most bytes that one piece of data has.
const MOST_DATA: usize = 64 << 10;
/// The only daemon.
const DAEMON: Actor = Actor { side: Side::Daemon, number: 1 };
/// Whoever looks below.
const HOST: Actor = Actor { side: Side::Host, number: 1 };
/// So many applications there are.
const APPS: u8 = 3;

/// The steps that set the stage, up to and including the mount; none if nothing is mounted.
pub fn prologue(program: &Program) -> &[Step] {
    let mount = |step: &Step| matches!(&step.verb, Verb::Call(call) if call.name == "mount");
    let end = program.steps.iter().position(mount).map_or(0, |at| at + 1);
    program.steps.get(..end).unwrap_or_default()
}

/// The steps behind the prologue.
fn body(program: &Program) -> &[Step] {
    program.steps.get(prologue(program).len()..).unwrap_or_default()
}

/// All applications.
pub fn apps() -> impl Iterator<Item = Actor> {
    (1..=APPS).map(app)
}

/// The application of that number.
fn app(number: u8) -> Actor {
    Actor { side: Side::App, number }
}
