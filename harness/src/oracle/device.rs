//! The daemon's calls on the device: mount, the backing ioctls, raw reads, writes and polls.

use super::daemon::{Held, Phase};
use super::numbers::*;
use super::ruling::{Doubt, Given, Ruled, Stop, UNSURE};
use super::world::*;
use crate::abi::{FUSE_OUT_SPLICES, Opcode};
use crate::program::{Actor, Call, OVER_VIRTIOFS, Outcome, Reply, Value};

/// The error of a reply that lists pipes.
const SPLICES: i128 = FUSE_OUT_SPLICES as i128;
/// The most pipes that a reply may list.
const MOST_PIPES: usize = 1024;

/// A message as it is written to the device.
struct Message {
    unique: Unique,
    error: i128,
    payload: Vec<u8>,
    /// Bytes of the call.
    total: i128,
}

/// Whom a reply is for.
enum Unique {
    Nobody,
    /// A held request, or the one so many behind it.
    Held(String, i64),
}

impl World {
    pub(super) fn mount(&mut self, number: u8, call: &Call) -> Ruled {
        let options = String::from_utf8_lossy(&call.data("options").0).into_owned();
        if call.text("over") == "io_uring" {
            self.lost = true;
            return Err(UNSURE);
        }
        let over_virtiofs = self.has(OVER_VIRTIOFS);
        self.refuse(over_virtiofs && call.arg("tag").is_some(), "S3-21", EINVAL)?;
        self.refuse(over_virtiofs && !options.is_empty(), "S3-02", EINVAL)?;
        let connection = &mut self.daemon(number).connection;
        if connection.phase != Phase::Detached || connection.devices[1] {
            connection.phase = Phase::Unsure;
            return Err(UNSURE);
        }
        connection.default_permissions = options == "default_permissions" || over_virtiofs;
        connection.options = !options.is_empty() && options != "default_permissions";
        connection.mounted = true;
        connection.devices[0] = true;
        connection.phase = Phase::On; // for INIT itself
        let connection = connection.clone();
        match self.request(number, Opcode::INIT, "") {
            Ok(answer) => self.negotiate(number, &answer),
            Err(Stop::Waits) => self.daemon(number).connection.phase = Phase::Waiting,
            Err(Stop::Refused(..)) => self.daemon(number).connection.phase = Phase::Ended,
            Err(_) => self.daemon(number).connection.phase = Phase::Unsure,
        }
        (self.awaits, self.served) = (None, Vec::new());
        if connection.options {
            self.daemon(number).connection.phase = Phase::Unsure;
            return Err(Stop::Unsure(Doubt::Outcome));
        }
        Ok(Given::ok(&["DEV-02"]))
    }

    /// A kernel without passthrough knows neither ioctl, unless it was built without and refuses them in its own way.
    fn knows_backing_files(&mut self) -> Result<(), Stop> {
        self.refuse(self.has(OVER_VIRTIOFS), "VFS-01", ENOTTY)?;
        let absent = !self.has("passthrough");
        self.unless(absent && self.has("backing_ioctls"), Doubt::Outcome)?;
        self.refuse(absent, "DEV-24", ENOTTY)
    }

    /// Neither ioctl is for everybody.
    fn may_register(
        &mut self,
        actor: Actor,
        unmounted: &'static str,
        refused: [&'static str; 2],
    ) -> Result<(), Stop> {
        let connection = self.connection(actor.number);
        self.knows_backing_files()?;
        self.unless(connection.phase == Phase::Unsure, Doubt::Everything)?;
        self.refuse(connection.phase == Phase::Detached, unmounted, EPERM)?;
        self.unless(connection.devices == [false; 2], Doubt::Everything)?;
        self.refuse(!connection.passthrough, refused[0], EPERM)?;
        self.refuse(self.person(actor).unprivileged, refused[1], EPERM)
    }

    pub(super) fn backing_open(&mut self, actor: Actor, call: &Call) -> Ruled {
        let registered =
            if self.speaks_v12() { self.v12_register(actor, call) } else { self.register(actor, call) };
        if let Err(Stop::Unsure(_)) = registered {
            self.daemon(actor.number).ids.unsure = true;
        }
        registered
    }

    fn register(&mut self, actor: Actor, call: &Call) -> Ruled {
        self.may_register(actor, "BOPEN-01", ["BOPEN-05", "BOPEN-06"])?;
        let words = (self.number(actor, call, "flags", 0)?, self.number(actor, call, "padding", 0)?);
        self.refuse(words != (0, 0), "BOPEN-07", EINVAL)?;
        let open = match self.fd(actor, call, "fd") {
            Err(Stop::Refused(errno, ..)) => {
                self.refuse(true, "BOPEN-08", errno)?;
                return Ok(Given::ok(&["BOPEN-20"]));
            }
            open => open?,
        };
        let depth = self.connection(actor.number).depth;
        let (file, below) = match &self.opens[open] {
            Open::Fuse(file) => {
                let number = self.nodes[file.node].daemon;
                let own = number == actor.number;
                let below = self.connection(number).depth;
                self.refuse(below >= depth, if own { "BOPEN-16" } else { "BOPEN-18" }, ELOOP)?;
                let file = self.new_lower(Kind::Unknown, "");
                (file, below)
            }
            Open::Lower(open) => {
                let file = open.file;
                let below = match self.root_of(file).map(|root| root.foreign) {
                    Some(Some(below)) => below.ok_or(UNSURE)?,
                    _ => 0,
                };
                (file, below)
            }
        };
        let kind = self.lowers[file].kind;
        self.unless(kind == Kind::Unknown && self.lowers[file].root.is_empty(), Doubt::Outcome)?;
        let typed = self.has("backing_type_check");
        self.refuse(typed && kind == Kind::Directory, "BOPEN-09", EISDIR)?;
        self.refuse(typed && kind == Kind::Special, "BOPEN-10", EINVAL)?;
        self.refuse(kind == Kind::Deep, "BOPEN-13", ELOOP)?;
        let mounted = self
            .root_of(file)
            .and_then(|root| root.over.as_ref())
            .is_some_and(|over| over.starts_with("mnt"));
        self.refuse(below >= depth, if mounted { "BOPEN-18" } else { "BOPEN-19" }, ELOOP)?;
        self.backings.push(Backing { file, open, closed: false });
        let backing = self.backings.len() - 1;
        let ids = &mut self.daemon(actor.number).ids;
        ids.last += 1;
        let id = ids.last;
        ids.live.insert(id, backing);
        let unsure = ids.unsure;
        self.unless(unsure, Doubt::Outcome)?;
        let given = Given::int(id as u64, &["BOPEN-20"]);
        Ok(Given { made: Some(Thing::Id(i64::from(id))), ..given })
    }

    pub(super) fn backing_close(&mut self, actor: Actor, call: &Call) -> Ruled {
        if self.speaks_v12() {
            return self.v12_close(actor, call);
        }
        self.may_register(actor, "BCLOSE-01", ["BCLOSE-03", "BCLOSE-03"])?;
        let id = self.number(actor, call, "id", 0)? as i32;
        self.refuse(id <= 0, "BCLOSE-04", EINVAL)?;
        let ids = &mut self.daemon(actor.number).ids;
        let unsure = ids.unsure;
        let closed = ids.live.remove(&id);
        if let Some(backing) = closed {
            self.let_go(self.backings[backing].file);
        }
        self.unless(unsure, Doubt::Outcome)?;
        self.refuse(closed.is_none(), "BCLOSE-05", ENOENT)?;
        Ok(Given::ok(&["BCLOSE-06"]))
    }

    pub(super) fn device_ioctl(&mut self, actor: Actor, call: &Call) -> Ruled {
        let connection = self.connection(actor.number);
        self.unless(connection.devices == [false; 2], Doubt::Outcome)?;
        if self.speaks_v12() {
            self.v12_unreadable(call.int("number", 0) as u64)?;
        }
        match call.int("number", 0) {
            number @ (0x4010_e501 | 0x4004_e502) => {
                self.knows_backing_files()?;
                let rule =
                    if number == 0x4010_e501 { ["BOPEN-01", "BOPEN-04"] } else { ["BCLOSE-01", "BCLOSE-02"] };
                self.refuse(connection.phase == Phase::Detached, rule[0], EPERM)?;
                self.refuse(true, rule[1], EFAULT)?;
            }
            0x8004_e500 => self.refuse(true, "DEV-09", EFAULT)?,
            0xe503 => return Err(UNSURE),
            _ => self.refuse(true, "DEV-24", ENOTTY)?,
        }
        Ok(Given::ok(&["DEV-24"]))
    }

    pub(super) fn clone_device(&mut self, number: u8) -> Ruled {
        let connection = &mut self.daemon(number).connection;
        let fits = connection.devices == [true, false]
            && !matches!(connection.phase, Phase::Detached | Phase::Unsure);
        connection.devices[1] = true;
        self.unless(!fits, Doubt::Everything)?;
        Ok(Given::ok(&["DEV-08"]))
    }

    pub(super) fn close_device(&mut self, number: u8, which: &str) -> Ruled {
        let connection = &mut self.daemon(number).connection;
        match which {
            "first" => connection.devices[0] = false,
            "clone" => connection.devices[1] = false,
            _ => connection.devices = [false; 2],
        }
        let last = connection.devices == [false; 2];
        let attached = connection.phase != Phase::Detached;
        let daemon = self.daemon(number);
        // Which device a request was read from is not followed, but with only one it is that.
        let kept = !last && daemon.held.values().any(|held| !held.over);
        if last && attached {
            self.end(number);
        } else if which != "clone" && kept {
            for held in self.daemon(number).held.values_mut() {
                held.over = true;
            }
        }
        Ok(Given::ok(&["DEV-16"]))
    }

    pub(super) fn read_device(&mut self, actor: Actor, call: &Call) -> Ruled {
        let connection = self.connection(actor.number);
        let len = self.number(actor, call, "len", 0)?;
        self.unless(connection.phase == Phase::Unsure || !connection.devices[0], Doubt::Everything)?;
        self.refuse(connection.phase == Phase::Detached, "READ-01", EPERM)?;
        let known = !matches!(connection.phase, Phase::Waiting | Phase::Refused);
        let max_write = if known { i128::from(connection.max_write) } else { 0 };
        self.refuse(len < (80 + max_write).max(8192), "READ-03", EINVAL)?;
        if connection.phase == Phase::Ended {
            let told = connection.aborted && connection.flags & ABORT_ERROR != 0;
            let still = connection.mounted || !self.has("abort_error_until_umount");
            self.refuse(told && still, if connection.mounted { "DEV-20" } else { "DEV-21" }, ECONNABORTED)?;
            self.refuse(true, "READ-08", ENODEV)?;
        }
        self.refuse(true, "READ-06", EAGAIN)?;
        Ok(Given::ok(&["READ-06"]))
    }

    pub(super) fn poll_device(&mut self, number: u8) -> Ruled {
        let connection = self.connection(number);
        self.unless(connection.phase == Phase::Unsure || connection.devices == [false; 2], Doubt::Outcome)?;
        let (events, rule) = match connection.phase {
            Phase::Detached => (POLLERR, "DEV-17"),
            Phase::Ended => (POLLERR, "DEV-19"),
            _ => (POLLOUT | POLLWRNORM, "DEV-18"),
        };
        Ok(Given::one(Outcome::Fields(vec![("revents".into(), i128::from(events))]), &[rule]))
    }

    pub(super) fn send(&mut self, actor: Actor, call: &Call) -> Ruled {
        let number = actor.number;
        let connection = self.connection(number);
        let (payload, lists) = match call.arg("pipes") {
            // Which descriptors they are is not followed.
            Some(Value::Fds(fds)) => (vec![0; 4 * fds.len()], SPLICES),
            _ => (call.data("payload").0, 0),
        };
        let whole = 16 + payload.len() as i128;
        let total = self.number(actor, call, "size", whole)?;
        let len = self.number(actor, call, "len", whole.min(i128::from(u32::MAX)))? & 0xffff_ffff;
        let len = if call.arg("len").is_none() && call.arg("size").is_some() { whole } else { len };
        let via = call.text("via");
        if total == 0 && matches!(via, "writev" | "splice" | "move") {
            return Ok(Given::int(0, &["WRITE-03"]));
        }
        self.unless(total < 0 || total > whole || connection.phase == Phase::Unsure, Doubt::Everything)?;
        self.unless(connection.devices == [false; 2], Doubt::Everything)?;
        self.refuse(connection.phase == Phase::Detached, "WRITE-01", EPERM)?;
        let pipe_has = self.number(actor, call, "pipe_has", total)?;
        self.refuse(via == "splice" && pipe_has < total, "WRITE-38", EINVAL)?;
        self.refuse(total < 16, "WRITE-02", EINVAL)?;
        self.refuse(len != total, "WRITE-04", EINVAL)?;
        let error = self.number(actor, call, "error", lists)?;
        let unique = match call.arg("unique") {
            None | Some(Value::Int(0)) => {
                return self.notify(number, error, &payload, total);
            }
            Some(Value::Name(name, offset)) => Unique::Held(name.clone(), *offset),
            Some(_) => Unique::Nobody,
        };
        let splices = error == SPLICES && self.has("splice_replies");
        self.refuse(error <= -512 || (error > 0 && !splices), "WRITE-07", EINVAL)?;
        self.refuse(connection.phase == Phase::Ended, "WRITE-27", ENOENT)?;
        self.unless(total != whole, Doubt::Everything)?;
        self.reply_raw(number, Message { unique, error, payload, total })
    }

    /// A reply to some request.
    fn reply_raw(&mut self, number: u8, message: Message) -> Ruled {
        let connection = self.connection(number);
        let others = self.daemon(number).held.values().filter(|held| !held.over).count();
        let (name, offset) = match message.unique {
            Unique::Held(name, offset) => (name, offset),
            Unique::Nobody => {
                self.unless(others > 0, Doubt::Everything)?;
                self.refuse(true, "WRITE-08", ENOENT)?;
                return Ok(Given::int(message.total as u64, &["WRITE-30"]));
            }
        };
        let unsteady = self.daemon(number).unsteady;
        // Which of them is answered is not followed.
        self.lost |= unsteady;
        self.unless(unsteady, Doubt::Everything)?;
        let held = self.daemon(number).held.get(&name).copied().ok_or(UNSURE)?;
        self.refuse(offset > 1 && others <= 1, "WRITE-08", ENOENT)?;
        self.unless(!(0..=1).contains(&offset), Doubt::Everything)?;
        self.refuse(held.over, "WRITE-14", ENOENT)?;
        self.refuse(connection.uses_clone, "WRITE-09", ENOENT)?;
        if offset == 1 {
            self.refuse(message.total != 16, "WRITE-10", EINVAL)?;
            self.refuse(message.error == SPLICES, "VZ-03", EINVAL)?;
            // Nobody has interrupted it: see WRITE-12.
            self.refuse(message.error == -i128::from(EAGAIN), "WRITE-12", EINVAL)?;
            return Ok(Given::int(16, &["WRITE-13"]));
        }
        let splices = message.error == SPLICES;
        self.refuse(splices && held.opcode != Opcode::READ, "VZ-02", EINVAL)?;
        // One into a buffer of the kernel cannot be answered so, either; which one that is, is not followed.
        self.daemon(number).held.insert(name.clone(), Held { over: true, ..held });
        if splices {
            let (odd, many) =
                (!message.payload.len().is_multiple_of(4), message.payload.len() > 4 * MOST_PIPES);
            let answered = if odd || many { Reply::Error(EIO) } else { Reply::Drop };
            self.settle_with(number, &name, answered);
            self.refuse(odd, "VZ-04", EINVAL)?;
            self.refuse(many, "VZ-05", E2BIG)?;
            // What is in the pipes is outside of the model.
            return Err(UNSURE);
        }
        if message.error != 0 && !message.payload.is_empty() {
            self.settle_with(number, &name, Reply::Error(EIO));
            self.refuse(true, "WRITE-16", EINVAL)?;
        }
        if message.error != 0 {
            self.settle_with(number, &name, Reply::Error(-message.error as i32));
            return Ok(Given::int(16, &["WRITE-15"]));
        }
        let exact: usize = held.opcode.reply_parts().iter().map(|(_, size)| size).sum();
        let variable = matches!(
            held.opcode,
            Opcode::READ
                | Opcode::READDIR
                | Opcode::READLINK
                | Opcode::INIT
                | Opcode::IOCTL
                | Opcode::GETXATTR
        );
        if variable {
            self.settle_with(number, &name, Reply::Drop);
            return Err(UNSURE);
        }
        if message.payload.len() != exact {
            self.settle_with(number, &name, Reply::Error(EIO));
            self.refuse(true, "WRITE-17", EINVAL)?;
        }
        // Well formed, but what is in it is not looked at: whoever gets it is outside of the model.
        self.settle_with(number, &name, Reply::Drop);
        Ok(Given::int(message.total as u64, &["WRITE-30"]))
    }

    /// Note how a held request was answered; the walk goes on with whoever waits for it.
    fn settle_with(&mut self, number: u8, name: &str, reply: Reply) {
        self.settled.push((number, name.to_string(), reply));
    }
}
