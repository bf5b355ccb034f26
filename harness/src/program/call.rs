//! A call and its signature: what a call is made of, whatever it is called.

use serde::{Deserialize, Serialize};

use super::flags::FlagSet;
use super::{Data, Side, Value};

/// A call with its arguments, in the signature's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Which call; [`signature`](super::signature) knows it.
    pub name: String,
    /// Parameter name and argument. Optional ones that were not given are absent.
    pub args: Vec<(String, Value)>,
}

/// What a call looks like.
#[derive(Debug)]
pub struct Signature {
    /// The word that stands for it: the system call's name where it is one.
    pub name: &'static str,
    /// Who can make it.
    pub sides: &'static [Side],
    /// Its parameters.
    pub params: &'static [Param],
    /// What success gives.
    pub yields: Yields,
    /// One line for the manual.
    pub doc: &'static str,
}

/// A parameter.
#[derive(Debug)]
pub struct Param {
    /// Its name; also the keyword where it is given by keyword.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// How it is given.
    pub need: Need,
}

/// How a parameter is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// By its place, always.
    Required,
    /// By its place, last, possibly left out.
    Trailing,
    /// As `name=value`, anywhere behind those given by place, possibly left out.
    Keyword,
}

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A quoted path.
    Path,
    /// The name of an open file; a number is taken as it is, valid or not.
    Fd,
    /// Several of them, joined by `+`, each possibly repeated: `p.r+q.r*3`.
    Fds,
    /// The name of a mapping, possibly with an offset: `m`, `m+4096`.
    Map,
    /// The name of an asynchronous request.
    Aio,
    /// A number, or something named that has one (a backing id, a held request's unique), with an offset.
    Number,
    /// Bytes.
    Data,
    /// Named bits.
    Flags(FlagSet),
    /// An actor: `app2`.
    Actor,
    /// A new or known name.
    Name,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// The ways a message gets into the device.
pub const VIA: &[&str] = &["write", "writev", "splice", "move"];

/// What a call gives when it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yields {
    /// Nothing of interest: `ok`.
    Nothing,
    /// A number.
    Number,
    /// Bytes.
    Data,
    /// A record.
    Fields,
    /// Something to be named: `fd`, `id`, `map`, `pipe`, `aio`.
    Named(&'static str),
}

impl Call {
    /// The argument of that parameter, if given.
    pub fn arg(&self, name: &str) -> Option<&Value> {
        self.args.iter().find(|(param, _)| param == name).map(|(_, value)| value)
    }

    /// A number, or `default` where it was left out or is no number.
    pub fn int(&self, name: &str, default: i128) -> i128 {
        self.arg(name).and_then(Value::int).unwrap_or(default)
    }

    /// Bytes; empty where left out.
    pub fn data(&self, name: &str) -> Data {
        match self.arg(name) {
            Some(Value::Data(data)) => data.clone(),
            _ => Data::default(),
        }
    }

    /// The text of a path, a word or a name; empty where left out.
    pub fn text(&self, name: &str) -> &str {
        match self.arg(name) {
            Some(Value::Path(text) | Value::Word(text) | Value::Name(text, _)) => text,
            _ => "",
        }
    }
}
