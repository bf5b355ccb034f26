//! Calls that were started and not yet awaited: what they wait for, and what became of them.
//!
//! A call that waits has not happened, but for what the daemon was asked and the lock it holds. Once what it waits for
//! is there it happens at once and as a whole.

use super::daemon::{Held, Phase};
use super::modes::Mode;
use super::numbers::*;
use super::ruling::{Doubt, Given, Ruled, Stop, UNSURE};
use super::world::{Node, Open, Thing, Way, World};
use crate::abi::Opcode;
use crate::program::{Actor, Call, Reply, Value};

/// A call in progress.
#[derive(Clone, Debug)]
pub(super) struct Started {
    pub(super) name: String,
    pub(super) actor: Actor,
    call: Call,
    served: Vec<(Opcode, Reply)>,
    /// The held request that it waits for; absent while somebody else is in the way.
    awaits: Option<(u8, String)>,
    /// How much had changed when it sent its request, see [`World::changes`].
    asked_at: u64,
    waited: bool,
    /// The answer to its OPEN has had its effect, while it waits for another one: what came of it is not followed.
    is_half_open: bool,
    /// What came of it; absent while it waits.
    pub(super) result: Option<Ruled>,
}

impl Started {
    pub(super) fn new(name: &str, actor: Actor, call: &Call) -> Started {
        let (name, call) = (name.to_string(), call.clone());
        Started {
            name,
            actor,
            call,
            served: Vec::new(),
            awaits: None,
            asked_at: 0,
            waited: false,
            is_half_open: false,
            result: None,
        }
    }

    /// Try it from its beginning, with the answers that it has had.
    pub(super) fn attempt(&mut self, world: &mut World) {
        if self.awaits.is_none() && self.is_half_open {
            self.result = Some(Err(UNSURE));
            world.doubt(Doubt::Everything);
            return;
        }
        let mut tried = world.clone();
        tried.locked.retain(|(name, ..)| *name != self.name);
        tried.waited = self.waited;
        (tried.replay, tried.replay_asked_at) = (self.served.clone().into(), self.asked_at);
        let result = tried.perform(self.actor, &self.call);
        if result != Err(Stop::Waits) {
            let node = world.locked.iter().find(|(name, ..)| *name == self.name).map(|(_, node, _)| *node);
            *world = tried;
            if let Some(node) = node {
                world.drop_idle_backing(node);
            }
            self.result = Some(result);
            return;
        }
        self.served = std::mem::take(&mut tried.served);
        self.awaits = tried.awaits.take();
        if let Some((number, _)) = self.awaits
            && self.served.iter().any(|(opcode, _)| matches!(*opcode, Opcode::OPEN | Opcode::CREATE))
        {
            self.is_half_open = true;
            world.unsure_modes(number);
        }
        (self.asked_at, self.waited) = (world.changes, true);
        for (number, daemon) in tried.daemons {
            let known = world.daemon(number);
            (known.rules, known.held, known.log) = (daemon.rules, daemon.held, daemon.log);
            // Names that it has asked for are known to others, too.
            known.next_node = daemon.next_node;
            let (now, then) = (&mut known.connection, daemon.connection);
            (now.absent, now.missed, now.root_is_bad) = (then.absent, then.missed, then.root_is_bad);
        }
        for (index, node) in tried.nodes.into_iter().enumerate() {
            match world.nodes.get_mut(index) {
                Some(known) => known.named |= node.named,
                None => world.nodes.push(Node { mode: Mode::default(), ..node }),
            }
        }
        world.locked.retain(|(name, ..)| *name != self.name);
        if let Some((node, shared)) = tried.lock.filter(|_| self.awaits.is_some()) {
            world.locked.push((self.name.clone(), node, shared));
        }
    }
}

impl World {
    /// Make a call.
    pub(super) fn perform(&mut self, actor: Actor, call: &Call) -> Ruled {
        (self.served, self.awaits, self.lock) = (Vec::new(), None, None);
        let ruled = self.call(actor, call);
        self.replay.clear();
        self.waited = false;
        if ruled != Err(Stop::Waits) {
            (self.served, self.awaits, self.lock) = (Vec::new(), None, None);
        }
        ruled
    }

    /// The daemon deals with a request that it held.
    pub(super) fn answer(&mut self, number: u8, name: &str, reply: &Reply) -> Ruled {
        let held = self.daemon(number).held.get(name).copied().ok_or(UNSURE)?;
        self.refuse(held.over, "WRITE-27", ENOENT)?;
        self.unless(matches!(reply, Reply::Hold(_) | Reply::Die), Doubt::Everything)?;
        self.daemon(number).held.insert(name.into(), Held { over: true, ..held });
        if held.opcode == Opcode::INIT {
            self.unless(self.connection(number).phase != Phase::Waiting, Doubt::Everything)?;
            let answer = self.interpret(number, Opcode::INIT, reply)?;
            self.negotiate(number, &answer);
            self.refuse(answer.field("pad").is_some_and(|pad| pad > 0), "INIT-13", EINVAL)?;
            return Ok(Given::ok(&["WRITE-36"]));
        }
        self.settled.push((number, name.into(), reply.clone()));
        let rule = match self.interpret(number, held.opcode, reply) {
            // More than was asked for is EINVAL; how much that was is not followed, but for the least that the cache asks for.
            Ok(answer)
                if answer.data.as_ref().map_or(0, |data| data.len() as u64)
                    > self.least_asked(held.opcode) =>
            {
                return Err(UNSURE);
            }
            Ok(_) => "WRITE-30",
            Err(Stop::Refused(_, _, rule)) => {
                self.refuse(true, rule, EINVAL)?;
                return Err(UNSURE);
            }
            Err(stop) => return Err(stop),
        };
        Ok(Given::ok(&[rule]))
    }

    /// How many bytes such a request asks for at the least.
    fn least_asked(&self, opcode: Opcode) -> u64 {
        let is_direct = |open: &Open| matches!(open, Open::Fuse(file) if file.way == Way::Direct || file.flags & O_DIRECT != 0);
        if opcode != Opcode::READ || self.opens.iter().any(is_direct) { 0 } else { PAGE }
    }

    /// Does that call wait for a page of the kernel's own cache?
    fn reads_cache(&self, call: &Started) -> bool {
        let Some(Value::Name(fd, 0)) = call.call.arg("fd") else { return false };
        let Some(Thing::Fd(open)) = self.named(call.actor, fd) else { return false };
        matches!(&self.opens[*open], Open::Fuse(file) if file.way == Way::Cached)
    }

    /// Whoever can go on does. Gives nothing; the calls know what became of them.
    pub(super) fn go_on(&mut self, started: &mut [Started]) {
        for (number, name, reply) in std::mem::take(&mut self.settled) {
            let waits = started.iter_mut().find(|call| call.awaits == Some((number, name.clone())));
            let Some(call) = waits else { continue };
            let Some(held) = self.daemon(number).held.get(&name).copied() else { continue };
            call.served.push((held.opcode, reply.clone()));
            call.awaits = None;
            match reply {
                // What it was told is not known.
                Reply::Drop => {
                    call.result = Some(Err(UNSURE));
                    self.doubt(Doubt::Everything);
                }
                _ => call.attempt(self),
            }
        }
        for again in std::mem::take(&mut self.resent) {
            let waits = started.iter_mut().find(|call| call.awaits.as_ref() == Some(&again));
            waits.into_iter().for_each(|call| call.awaits = None);
        }
        let mut unsure = Vec::new();
        for call in started.iter_mut().filter(|call| call.result.is_none()) {
            match &call.awaits {
                Some((number, name)) => {
                    let held = self.daemon(*number).held.get(name).copied();
                    if let Some(held) = held.filter(|held| held.over) {
                        // A name that was known is asked for once more when it cannot be confirmed.
                        let again = held.opcode == Opcode::LOOKUP
                            && self.nodes.iter().any(|node| node.daemon == *number);
                        // A page that is read ahead fails with an errno of its own.
                        let stop = if again || self.reads_cache(call) {
                            Stop::Unsure(Doubt::Outcome)
                        } else {
                            Stop::Refused(ECONNABORTED, None, "LIFE-15")
                        };
                        call.result = Some(Err(stop));
                        let has_asked = call.served.iter().any(|(opcode, _)| *opcode == Opcode::LOOKUP);
                        unsure.extend(has_asked.then_some(*number));
                        // A read that fails makes the time of access stale as one that succeeds does.
                        for node in self.nodes.iter_mut().filter(|node| node.daemon == *number) {
                            node.fresh_access = node.fresh_access.in_doubt();
                        }
                        self.locked.retain(|(locker, ..)| *locker != call.name);
                    }
                }
                None => call.attempt(self),
            }
        }
        for number in unsure {
            self.daemon(number).connection.unsure_names = true;
        }
    }
}
