//! What the names and numbers of a program stand for on a mount that had programs before it: backing ids count on from where
//! those left off, and what one task calls by a name another one is given as a number.

use nix::libc;

use super::Run;
use crate::program::{Actor, Call, Reply, Value};

/// A number up to here may be meant as a backing id.
const MOST_IDS: i64 = 1 << 20;

impl Run {
    /// The kernel's number of what the program calls by that one.
    pub(super) fn id(&self, id: i64) -> i64 {
        if (1..=MOST_IDS).contains(&id) { id + self.given } else { id }
    }

    /// The reply with numbers in place of names of ids.
    pub(super) fn reply(&self, reply: &Reply) -> Reply {
        let known = |name: &str| self.holdings.values().find_map(|has| has.numbers.get(name)).copied();
        let field = |(name, value): &(String, Value)| {
            let value = match value {
                // An id that was never given counts as 0, as it does for the oracle.
                Value::Name(named, offset) if name == "backing_id" => {
                    Value::Int((known(named).unwrap_or(0) + offset).into())
                }
                Value::Name(named, offset) => {
                    known(named).map_or_else(|| value.clone(), |id| Value::Int((id + offset).into()))
                }
                other => other.clone(),
            };
            let value = match value {
                Value::Int(id) if name == "backing_id" => {
                    Value::Int(i64::try_from(id).map_or(id, |id| self.id(id).into()))
                }
                other => other,
            };
            (name.clone(), value)
        };
        match reply {
            Reply::Fields(fields) => Reply::Fields(fields.iter().map(field).collect()),
            Reply::Claim(fields) => Reply::Claim(fields.iter().map(field).collect()),
            other => other.clone(),
        }
    }

    /// The call with numbers in place of names.
    pub(super) fn resolved(&self, actor: Actor, call: &Call) -> Call {
        let numbers = self.holdings.get(&actor).map(|has| &has.numbers);
        let number = |name: &str, offset: i64| {
            numbers.and_then(|numbers| numbers.get(name)).map(|number| number + offset)
        };
        let args = call.args.iter().map(|(param, value)| {
            let value = match value {
                Value::Name(name, offset) => {
                    number(name, *offset).map_or_else(|| value.clone(), |number| Value::Int(number.into()))
                }
                other => other.clone(),
            };
            (param.clone(), value)
        });
        Call { name: call.name.clone(), args: args.collect() }
    }
}

/// An answer that the kernel keeps for the whole mount: ENOSYS, and a node id, which may be the root's and make that bad.
pub(super) fn is_remembered(reply: &Reply) -> bool {
    match reply {
        Reply::Error(errno) => errno.abs() == libc::ENOSYS,
        Reply::Fields(fields) | Reply::Claim(fields) => fields.iter().any(|(name, value)| {
            name == "nodeid" || (name == "error" && value.int() == Some((-libc::ENOSYS).into()))
        }),
        _ => false,
    }
}
