//! What has a name at a place of a program, and whose it is.
//!
//! An open file, a mapping and a call in progress belong to the actor that made them. A backing id and a held
//! request's unique are numbers: every actor may use them, its own of that name first.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Source;
use super::error::{Fault, ScriptError};
use super::lexer::Token;
use crate::abi::Opcode;
use crate::program::{Actor, Yields};

/// Something that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    Fd,
    Id,
    Map,
    Pipe,
    Aio,
    Held(Opcode),
    Running(Yields),
}

impl Thing {
    /// What an outcome such as `fd f` makes.
    pub(super) fn of_kind(kind: &str) -> Option<Thing> {
        match kind {
            "fd" => Some(Thing::Fd),
            "id" => Some(Thing::Id),
            "map" => Some(Thing::Map),
            "pipe" => Some(Thing::Pipe),
            "aio" => Some(Thing::Aio),
            _ => None,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Thing::Fd => "an open file",
            Thing::Id => "a backing id",
            Thing::Map => "a mapping",
            Thing::Pipe => "a pipe, whose ends are `.r` and `.w`",
            Thing::Aio => "an asynchronous request",
            Thing::Held(_) => "a held request",
            Thing::Running(_) => "a call in progress",
        }
    }
}

/// Where and in which file a name was given.
#[derive(Clone, Debug)]
struct Begun {
    source: Source,
    span: Range<usize>,
}

/// The names given so far.
#[derive(Default)]
pub(super) struct Names {
    things: BTreeMap<(Actor, String), Thing>,
    /// Calls in progress that no step has awaited yet.
    pending: BTreeMap<(Actor, String), Begun>,
}

impl Names {
    pub(super) fn bind(&mut self, actor: Actor, name: &str, thing: Thing) {
        self.things.insert((actor, name.to_string()), thing);
    }

    /// A call in progress gets its name. One that is pending keeps it.
    pub(super) fn start(
        &mut self,
        actor: Actor,
        name: &Token,
        yields: Yields,
        source: &Source,
    ) -> Result<(), Fault> {
        let key = (actor, name.text.clone());
        if self.pending.contains_key(&key) {
            return Err(Fault::new(
                &name.span,
                format!("`{}` is in progress already", name.text),
                "expected another name, or an `await` before this line",
            ));
        }
        let begun = Begun { source: source.clone(), span: name.span.clone() };
        self.pending.insert(key, begun);
        self.bind(actor, &name.text, Thing::Running(yields));
        Ok(())
    }

    /// The call in progress is awaited; `last` if it is over then for certain, and nobody can await it again.
    pub(super) fn awaited(&mut self, actor: Actor, name: &str, last: bool) {
        let key = (actor, name.to_string());
        self.pending.remove(&key);
        if last {
            self.things.remove(&key);
        }
    }

    /// Every call in progress must have been awaited.
    pub(super) fn finish(self) -> Result<(), ScriptError> {
        match self.pending.into_iter().next() {
            None => Ok(()),
            Some(((actor, name), begun)) => Err(Fault::new(
                &begun.span,
                format!("`{name}` is started and never awaited"),
                format!("expected `{actor} await {name} -> OUTCOME` on a later line"),
            )
            .help("a call that must end with its process has an outcome too: `-> SIGKILL`")
            .within(&begun.source)),
        }
    }

    /// A forked child starts with its parent's open files and mappings.
    pub(super) fn fork(&mut self, parent: Actor, child: Actor) {
        let inherited: Vec<_> = self
            .things
            .iter()
            .filter(|((actor, _), thing)| {
                *actor == parent && matches!(thing, Thing::Fd | Thing::Map | Thing::Pipe | Thing::Id)
            })
            .map(|((_, name), thing)| (name.clone(), *thing))
            .collect();
        for (name, thing) in inherited {
            self.bind(child, &name, thing);
        }
    }

    /// What `name` is to this actor, if it is what `fits` asks for.
    pub(super) fn find<T>(
        &self,
        actor: Actor,
        name: &Token,
        wanted: &str,
        fits: impl Fn(Thing) -> Option<T>,
    ) -> Result<T, Fault> {
        let (base, is_end) = match name.text.strip_suffix(".r").or(name.text.strip_suffix(".w")) {
            Some(pipe) => (pipe, true),
            None => (name.text.as_str(), false),
        };
        let own = self.things.get(&(actor, base.to_string())).copied();
        let thing = own.or_else(|| self.number(base));
        let seen = match (thing, is_end) {
            (Some(Thing::Pipe), true) => Some(Thing::Fd),
            (_, true) => None,
            (other, false) => other,
        };
        let Some(thing) = seen else {
            return Err(self.missing(actor, name, wanted, |thing| fits(thing).is_some()));
        };
        fits(thing).ok_or_else(|| {
            Fault::new(
                &name.span,
                format!("`{}` is {}", name.text, thing.describe()),
                format!("expected {wanted}"),
            )
        })
    }

    fn number(&self, name: &str) -> Option<Thing> {
        self.things
            .iter()
            .filter(|(_, thing)| matches!(thing, Thing::Id | Thing::Held(_)))
            .find(|((_, other), _)| other == name)
            .map(|(_, thing)| *thing)
    }

    fn missing(&self, actor: Actor, name: &Token, wanted: &str, fits: impl Fn(Thing) -> bool) -> Fault {
        let fault = Fault::new(
            &name.span,
            format!("{actor} has nothing called `{}` here", name.text),
            format!("expected {wanted}, named on an earlier line"),
        );
        let owner = self.things.keys().find(|(_, other)| *other == name.text);
        if let Some((owner, _)) = owner {
            return fault.help(format!("`{}` is what {owner} has", name.text));
        }
        let fitting = self
            .things
            .iter()
            .filter(|((owner, _), thing)| *owner == actor && fits(**thing))
            .map(|((_, name), _)| name.as_str());
        match fitting.min_by_key(|known| strsim::damerau_levenshtein(known, &name.text)) {
            Some(nearest) => fault.help(format!("the nearest is `{nearest}`")),
            None => fault,
        }
    }
}

/// The name that a word gives to something new.
pub(super) fn new_name(token: &Token) -> Result<&str, Fault> {
    let mut chars = token.text.chars();
    let is_name = chars.next().is_some_and(|c| c.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_name {
        return Ok(&token.text);
    }
    Err(Fault::new(
        &token.span,
        format!("`{}` is no name", token.text),
        "expected a small letter, then small letters, digits and `_`",
    ))
}
