//! What a program has made up to some step: names and what they stand for, armed holds, calls under way.
//!
//! It keeps account and decides nothing: what a step may do with it is `repair`'s.

use std::rc::Rc;

use super::{DAEMON, menu};
use crate::abi::Opcode;
use crate::program::{Actor, Call, Side, Value, Yields};

/// Something that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    Fd {
        /// An end of a pipe: it may be empty or full.
        is_pipe: bool,
        is_open: bool,
    },
    Id,
    Map {
        /// In bytes, up to the end of its last page.
        len: i128,
    },
    Pipe,
    Held,
}

/// A call that was begun and not awaited.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) actor: Actor,
    pub(super) name: String,
    pub(super) yields: Yields,
    /// What it makes if it succeeds.
    pub(super) makes: Option<Thing>,
}

/// The account. A copy costs little: one is kept for each step, in case that is left out.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) files: Rc<[String]>,
    /// By owner and name.
    things: Vec<((Actor, Rc<str>), Thing)>,
    /// Holds that were not answered, oldest first.
    pub(super) armed: Vec<(String, Opcode)>,
    /// Oldest first.
    pub(super) running: Vec<Running>,
    pub(super) is_aborted: bool,
    /// The daemon reads nothing.
    pub(super) is_paused: bool,
    /// Who was killed: makes no more calls.
    pub(super) killed: Vec<Actor>,
    /// A daemon that has a word for POLL may say that a file is not ready.
    pub(super) answers_poll: bool,
    /// Some file may be too long to be looked at as a whole.
    pub(super) has_large: bool,
}

/// The longest name.
const MOST_NAME: usize = 16;
const PAGE: i128 = 4096;

impl World {
    pub(super) fn new(files: Vec<String>) -> World {
        World { files: files.into(), ..World::default() }
    }

    /// May a call of an application wait for what a later step brings?
    pub(super) fn holds_up(&self) -> bool {
        self.is_paused || !self.armed.is_empty()
    }

    /// Every path that steps may name.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).chain(menu::PATHS)
    }

    /// The nearest path that a step may name.
    pub(super) fn path(&self, wished: &str) -> String {
        let known = self.paths().find(|path| *path == wished).or(self.paths().next());
        known.unwrap_or_default().to_string()
    }

    /// What this actor calls by that name.
    pub(super) fn thing(&self, actor: Actor, name: &str) -> Option<Thing> {
        self.things.iter().find(|(key, _)| is_key(key, actor, name)).map(|(_, thing)| *thing)
    }

    /// All names of such things that the actor has.
    pub(super) fn names(&self, actor: Actor, fits: impl Fn(Thing) -> bool) -> Vec<&str> {
        let own = self.things.iter().filter(|((owner, _), thing)| *owner == actor && fits(*thing));
        own.map(|((_, name), _)| &**name).collect()
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        self.names(DAEMON, |thing| thing == Thing::Id)
    }

    pub(super) fn held(&self) -> Vec<&str> {
        self.names(DAEMON, |thing| thing == Thing::Held)
    }

    pub(super) fn maps(&self, actor: Actor) -> Vec<&str> {
        self.names(actor, |thing| matches!(thing, Thing::Map { .. }))
    }

    pub(super) fn fds(&self, actor: Actor) -> Vec<&str> {
        self.names(actor, |thing| matches!(thing, Thing::Fd { is_open: true, .. }))
    }

    /// Ends of pipes that are open: `r` to read from, `w` to write to.
    pub(super) fn ends(&self, actor: Actor, end: char) -> Vec<&str> {
        let mut names = self.names(actor, |thing| thing == Thing::Fd { is_pipe: true, is_open: true });
        names.retain(|name| name.strip_suffix(end).is_some_and(|pipe| pipe.ends_with('.')));
        names
    }

    pub(super) fn is_pipe(&self, actor: Actor, fd: Option<&Value>) -> bool {
        let Some(Value::Name(name, _)) = fd else { return false };
        matches!(self.thing(actor, name), Some(Thing::Fd { is_pipe: true, .. }))
    }

    /// The name itself if it can be given to something new, or another.
    pub(super) fn name_for_thing(&self, actor: Actor, wished: Option<&str>, letter: char) -> String {
        self.name(wished, letter, |name| self.is_taken(actor, name))
    }

    /// The same for a call in progress, whose name means nothing else and is nobody else's.
    pub(super) fn name_for_call(&self, actor: Actor, wished: &str) -> String {
        self.name(Some(wished), 'r', |name| {
            self.thing(actor, name).is_some() || self.running.iter().any(|call| call.name == name)
        })
    }

    /// A held request that waits and a call in progress must not lose their names.
    fn is_taken(&self, actor: Actor, name: &str) -> bool {
        (actor == DAEMON && self.armed.iter().any(|(held, _)| held == name))
            || self.running.iter().any(|call| call.actor == actor && call.name == name)
    }

    fn name(&self, wished: Option<&str>, letter: char, is_taken: impl Fn(&str) -> bool) -> String {
        // A name stands for one thing: when it is looked up must make no difference.
        let is_known = |name: &str| self.things.iter().any(|((_, known), _)| &**known == name);
        if let Some(name) = wished.filter(|name| is_name(name) && !is_taken(name) && !is_known(name)) {
            return name.to_string();
        }
        let mut fresh = (1_u32..).map(|number| format!("{letter}{number}"));
        fresh.find(|name| !is_taken(name) && !is_known(name)).unwrap_or_default()
    }

    /// Something has this name from here on.
    pub(super) fn bind(&mut self, actor: Actor, name: &str, thing: Thing) {
        let is_end = |known: &str| matches!(known.strip_prefix(name), Some("" | ".r" | ".w"));
        self.things.retain(|((owner, known), _)| *owner != actor || !is_end(known));
        if thing == Thing::Pipe {
            let end = Thing::Fd { is_pipe: true, is_open: true };
            self.things.extend(["r", "w"].map(|letter| ((actor, format!("{name}.{letter}").into()), end)));
        }
        self.things.push(((actor, name.into()), thing));
        self.things.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    }

    /// What the call makes, to be bound to a name.
    pub(super) fn made_by(&self, actor: Actor, call: &Call, yields: Yields) -> Option<Thing> {
        let Yields::Named(kind) = yields else { return None };
        Some(match kind {
            "id" => Thing::Id,
            "map" => Thing::Map { len: (call.int("len", 0) + PAGE - 1) / PAGE * PAGE },
            "pipe" => Thing::Pipe,
            _ => Thing::Fd { is_pipe: self.is_pipe(actor, call.arg("fd")), is_open: true },
        })
    }

    /// What the call takes away or makes impossible.
    pub(super) fn after(&mut self, actor: Actor, call: &Call) {
        let named = |param| match call.arg(param) {
            Some(Value::Name(name, _)) => Some(name.as_str()),
            _ => None,
        };
        match call.name.as_str() {
            "close" => {
                let name = named("fd").unwrap_or_default();
                let thing = self.things.iter_mut().find(|(key, _)| is_key(key, actor, name));
                if let Some((_, Thing::Fd { is_open, .. })) = thing {
                    *is_open = false;
                }
            }
            "munmap" => {
                let name = named("map").unwrap_or_default();
                self.things.retain(|(key, _)| !is_key(key, actor, name));
            }
            "abort" => self.is_aborted = true,
            word @ ("pause" | "serve") => self.is_paused = word == "pause",
            "signal" if call.text("signal") == menu::SIGKILL => {
                self.killed.extend(Actor::named(call.text("actor")));
            }
            _ => {
                let large = |(param, value): &(String, Value)| {
                    value.int().is_some_and(|number| menu::enlarges(&call.name, param, number))
                };
                self.has_large |= actor.side != Side::Host && call.args.iter().any(large);
            }
        }
    }
}

fn is_key((owner, known): &(Actor, Rc<str>), actor: Actor, name: &str) -> bool {
    *owner == actor && **known == *name
}

/// Does the text form take it for a name?
fn is_name(name: &str) -> bool {
    let is_tail = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= MOST_NAME
        && name.chars().all(is_tail)
        // Stands for the unique of the very request that is answered.
        && name != "same"
}
