//! Calls that concern more than the actor that makes them: one actor ends, signals or forks another, or uses what is another's.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::super::actor::{Ask, Process, QUESTION, Say};
use super::super::pipe::Pipe;
use super::super::{limits, ring};
use super::{Conductor, mount_name};
use crate::program::{Actor, Call, Observed, Reply, Side, Transport, Value};
use crate::protocol::Traffic;

/// Have all daemons answer what they hold, and heed no rules from here on.
pub(super) fn give_up(actors: &mut BTreeMap<Actor, Process>) {
    let daemons = actors.values_mut().filter(|process| process.actor.side == Side::Daemon && !process.ended);
    // One may wait for another: all are told before any is waited for.
    let told = daemons.filter_map(|process| process.pipe.send(&Ask::GiveUp).ok().map(|()| process));
    for process in told.collect::<Vec<_>>() {
        process.answer(limits::SETTLE);
    }
}

impl Conductor<'_> {
    /// The call with the numbers of ids that only another actor has registered, and with the process's id in place of the
    /// actor that it is about.
    pub(super) fn resolved(&self, actor: Actor, call: &Call) -> Call {
        let pid = || self.actors.get(&Actor::named(call.text("actor"))?).map(|process| process.pid.as_raw());
        let args = match call.name.as_str() {
            "peek" | "join" => vec![("actor".to_string(), Value::Int(pid().unwrap_or(0).into()))],
            _ => self.fields_with_foreign_ids(actor, &call.args),
        };
        Call { name: call.name.clone(), args }
    }

    fn with_foreign_id(&self, actor: Actor, value: &Value) -> Value {
        if let Value::Name(name, offset) = value
            && !self.ids.contains_key(&(name.clone(), actor))
            && let Some((_, id)) = self.ids.iter().find(|((known, _), _)| known == name)
        {
            return Value::Int(i128::from(*id) + i128::from(*offset));
        }
        value.clone()
    }

    pub(super) fn reply_with_foreign_ids(&self, actor: Actor, reply: &Reply) -> Reply {
        match reply {
            Reply::Fields(fields) => Reply::Fields(self.fields_with_foreign_ids(actor, fields)),
            Reply::Claim(fields) => Reply::Claim(self.fields_with_foreign_ids(actor, fields)),
            other => other.clone(),
        }
    }

    fn fields_with_foreign_ids(&self, actor: Actor, fields: &[(String, Value)]) -> Vec<(String, Value)> {
        fields.iter().map(|(name, value)| (name.clone(), self.with_foreign_id(actor, value))).collect()
    }

    pub(super) fn kill(&mut self, call: &Call, traffic: &mut Vec<Traffic>) -> Observed {
        let Some(actor) = Actor::named(call.text("actor")) else {
            return Observed::Impossible("no such actor".into());
        };
        // What it has received so far is not to be lost.
        traffic.extend(self.collect());
        match self.actors.get_mut(&actor) {
            None => Observed::Impossible(format!("{actor} never did anything")),
            Some(process) => {
                let ended = process.kill(limits::SETTLE);
                self.see_off(actor, ended)
            }
        }
    }

    pub(super) fn signal(&mut self, call: &Call) -> Observed {
        let process = Actor::named(call.text("actor")).and_then(|actor| self.actors.get_mut(&actor));
        match (process, call.text("signal").parse::<Signal>()) {
            (Some(process), Ok(signal)) => {
                // Its call in progress is awaited with this.
                process.ended |= signal == Signal::SIGKILL;
                nix::sys::signal::kill(process.pid, signal)
                    .map_or_else(|errno| Observed::Errno(errno as i32), |()| Observed::Int(0))
            }
            _ => Observed::Impossible("no such actor, or no such signal".into()),
        }
    }

    pub(super) fn exit(&mut self, actor: Actor, call: &Call) -> Observed {
        let ask = Ask::Do { call: call.clone(), bind: None };
        let limit = self.limit();
        match self.process(actor) {
            Err(why) => Observed::Impossible(why),
            Ok(process) => {
                let _ = process.pipe.send(&ask);
                process.ended = true;
                let ended = process.wait(limit);
                self.see_off(actor, ended)
            }
        }
    }

    /// What came of ending an actor: a daemon's ring ends with it, so that what follows finds the connection dead.
    fn see_off(&self, actor: Actor, ended: bool) -> Observed {
        if !ended {
            return Observed::Hung;
        }
        if actor.side == Side::Daemon {
            return ring::outlive(&self.stage.base.join(mount_name(actor.number)));
        }
        Observed::Int(0)
    }

    pub(super) fn fork(&mut self, actor: Actor, call: &Call) -> Observed {
        let Some(child) = Actor::named(call.text("child")).filter(|child| !self.actors.contains_key(child))
        else {
            return Observed::Impossible(format!("{} is already there", call.text("child")));
        };
        let made = Pipe::pair().and_then(|(ours, theirs)| {
            let process = self.process(actor).map_err(io::Error::other)?;
            process.pipe.send(&Ask::Begin { call: call.clone(), bind: None })?;
            // Only when it has begun is nothing else under way that the descriptor could be mistaken for.
            if !matches!(process.pipe.receive()?, Say::Begun) {
                return Err(io::Error::other("it did not begin"));
            }
            process.pipe.send_fd(theirs.stream())?;
            Ok((ours, process.answer(limits::CALL)))
        });
        match made {
            Err(error) => Observed::Impossible(error.to_string()),
            Ok((pipe, say)) => match self.observed(actor, say) {
                Observed::Int(pid) => {
                    let pid = nix::unistd::Pid::from_raw(pid as i32);
                    self.actors.insert(child, Process { actor: child, pid, pipe, busy: false, ended: false });
                    Observed::Int(0)
                }
                failed => failed,
            },
        }
    }

    /// The other actor's process id and descriptor in place of its names.
    pub(super) fn resolved_take(&mut self, call: &Call) -> Result<Call, String> {
        let actor = Actor::named(call.text("actor")).ok_or("no such actor")?;
        let name = call.text("fd").to_string();
        let process = self.process(actor)?;
        let pid = process.pid.as_raw();
        let Some(Say::Number(Some(fd))) = process.ask(&Ask::Number(name.clone()), QUESTION) else {
            return Err(format!("{actor} has no `{name}`"));
        };
        let args =
            vec![("actor".to_string(), Value::Int(pid.into())), ("fd".to_string(), Value::Int(fd.into()))];
        Ok(Call { name: call.name.clone(), args })
    }

    /// Nobody answers any more. Over virtio-fs nothing can be aborted, so the daemons say so themselves.
    fn give_up(&mut self) {
        match self.transport {
            Transport::Virtiofs => give_up(&mut self.actors),
            _ => self.stage.abort_all(),
        }
    }

    /// Let an application let go of everything; one that cannot serve again ends, by force if it does not go by
    /// itself. Says if even that fails.
    pub(super) fn end_one(&mut self, actor: Actor) -> Option<String> {
        let mut process = self.actors.remove(&actor)?;
        if process.reset(limits::SETTLE) {
            // Somebody else than root is no actor for another case.
            if self.user_of(actor).is_none() {
                self.idle.put(process);
            }
            return None;
        }
        if process.ended && process.wait(limits::SETTLE) {
            return None;
        }
        if process.kill(Duration::from_millis(100)) {
            return None;
        }
        // It waits for an answer that nobody gives: a request in progress ignores even SIGKILL.
        self.give_up();
        (!process.kill(limits::SETTLE)).then(|| format!("{actor} does not end, even after SIGKILL and abort"))
    }
}
