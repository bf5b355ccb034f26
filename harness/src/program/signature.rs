//! What a call looks like: who makes it, what it takes and what it gives. Which calls there are stands in [`super::calls`].

use super::Side;
use super::flags::FlagSet;

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
    /// The name of a mapping, possibly with an offset: `m`, `m+4096`.
    Map,
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
    /// Something to be named: `fd`, `id`, `map`, `pipe`.
    Named(&'static str),
}
