//! What the host does: lower file systems, abort, unmount, kill.

use super::daemon::Phase;
use super::numbers::*;
use super::ruling::{Doubt, Given, Ruled, Stop, UNSURE};
use super::traffic::Sent;
use super::world::*;
use crate::abi::Opcode;
use crate::program::{Actor, Call, Data, OVER_VIRTIOFS, Outcome, Side};

impl World {
    pub(super) fn lower(&mut self, call: &Call) -> Ruled {
        let at = if call.text("at").is_empty() { "lower" } else { call.text("at") };
        let kind = call.text("kind").to_string();
        let mut root = Root { mounted: true, ..Root::default() };
        root.ramfs = kind == "ramfs";
        root.small = call.arg("size").is_some();
        if kind == "overlay" {
            let over = call.text("over").to_string();
            let depth = match (mount_number(&over), self.roots.get(&over)) {
                (Some(number), _) => Some(self.connection(number).depth + 1),
                (None, Some(below)) => below.foreign.unwrap_or(Some(0)).map(|depth| depth + 1),
                (None, None) => Some(1),
            };
            let rule = if self.speaks_v12() { "T-01" } else { "INIT-07" };
            self.refuse(depth.is_some_and(|depth| depth > 2), rule, EINVAL)?;
            self.unless(!self.has("overlay"), Doubt::Everything)?;
            root.foreign = Some(depth);
            root.over = Some(over);
        } else if let Some(number) = mount_number(&kind) {
            root.foreign = Some(Some(self.connection(number).depth));
            root.over = Some(kind.clone());
        } else {
            self.unless(kind == "ext4" && !self.has("ext4"), Doubt::Everything)?;
        }
        let hidden = self.roots.get(at).is_some_and(|root| root.mounted);
        *self.root(at) = root;
        if hidden {
            self.root(at).foreign = Some(None);
        }
        Ok(Given::ok(&["POSIX"]))
    }

    pub(super) fn file(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (root, path) = self.place_below(actor, call)?;
        let state = self.root(&root).clone();
        if state.foreign.is_some() || path.contains('/') {
            self.doubt(Doubt::Traffic);
            return Err(Stop::Unsure(Doubt::Outcome));
        }
        self.unless(state.read_only || state.small && call.data("data").0.len() > 4096, Doubt::Everything)?;
        self.refuse(state.names.contains_key(&path), "POSIX", EEXIST)?;
        let file = self.new_lower(Kind::Regular, &root);
        self.lowers[file].bytes = Some(call.data("data").0);
        self.lowers[file].odd = call.int("mode", 0o644) & 0o6000 != 0;
        self.root(&root).names.insert(path, file);
        Ok(Given::ok(&["POSIX"]))
    }

    pub(super) fn cat(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (root, path) = self.place_below(actor, call)?;
        let state = self.root_now(&root);
        if state.foreign.is_some() {
            return Err(Stop::Unsure(Doubt::Traffic));
        }
        let bytes = state.names.get(&path).and_then(|file| self.lowers[*file].bytes.clone());
        match bytes.filter(|_| !self.foggy) {
            Some(bytes) => Ok(Given::one(Outcome::Data(Data(bytes)), &["POSIX"])),
            None => Err(Stop::Unsure(Doubt::Outcome)),
        }
    }

    /// Names below that are no regular files.
    pub(super) fn make_below(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (root, path) = self.place_below(actor, call)?;
        let kind = match call.name.as_str() {
            "mkdir" => Kind::Directory,
            "mknod" if call.text("type") == "file" => Kind::Regular,
            _ => Kind::Special,
        };
        let foreign = self.root(&root).foreign.is_some();
        self.unless(foreign || path.contains('/') || self.person(actor).ordinary, Doubt::Everything)?;
        let file = self.new_lower(kind, &root);
        self.root(&root).names.insert(path, file);
        Ok(Given::ok(&["POSIX"]))
    }

    pub(super) fn unlink_below(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (root, path) = self.place_below(actor, call)?;
        let foreign = self.root(&root).foreign.is_some();
        self.unless(foreign || path.contains('/') || self.person(actor).ordinary, Doubt::Everything)?;
        let known = self.root(&root).names.remove(&path).is_some();
        self.unless(!known, Doubt::Outcome)?;
        Ok(Given::ok(&["POSIX"]))
    }

    pub(super) fn chattr(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (root, path) = self.place_below(actor, call)?;
        let file = self.root(&root).names.get(&path).copied().ok_or(UNSURE)?;
        let attributes = call.int("attributes", 0);
        self.lowers[file].immutable = attributes & 0x10 != 0;
        self.lowers[file].append_only = attributes & 0x20 != 0;
        Err(Stop::Unsure(Doubt::Outcome))
    }

    pub(super) fn abort(&mut self, call: &Call) -> Ruled {
        let number = mount_number(call.text("at")).unwrap_or(1);
        let connection = self.connection(number);
        self.unless(!connection.mounted, Doubt::Everything)?;
        self.end(number);
        self.daemon(number).connection.aborted |= connection.phase != Phase::Ended;
        Ok(Given::ok(&[]))
    }

    pub(super) fn umount(&mut self, call: &Call) -> Ruled {
        let at = if call.text("at").is_empty() { "mnt" } else { call.text("at") };
        let flags = call.text("flags").to_string();
        let stacked = self.roots.values().any(|root| root.mounted && root.over.as_deref() == Some(at));
        match mount_number(at) {
            Some(number) => {
                let connection = self.connection(number);
                self.unless(!connection.mounted || connection.lazy, Doubt::Everything)?;
                if flags == "force" {
                    self.end(number);
                }
                let busy = self.mount_is_busy(number) || stacked;
                if flags == "lazy" {
                    let connection = &mut self.daemon(number).connection;
                    connection.lazy = true;
                    connection.mounted = false;
                    self.end_if_idle(number);
                    return Ok(Given::ok(&["LIFE-06"]));
                }
                self.unless(stacked, Doubt::Everything)?;
                self.refuse(busy, "LIFE-05", EBUSY)?;
                self.daemon(number).connection.mounted = false;
                if self.connection(number).phase != Phase::Detached {
                    if self.has(OVER_VIRTIOFS) {
                        self.log(number, Opcode::DESTROY, "", 1, 1); // S3-33
                    }
                    self.end(number);
                }
                Ok(Given::ok(&["DEV-38"]))
            }
            None => {
                let root = self.root_now(at);
                self.unless(!root.mounted || !flags.is_empty() || root.foreign.is_some(), Doubt::Everything)?;
                self.unless(stacked, Doubt::Everything)?;
                let busy = self.lower_is_busy(at);
                self.refuse(busy, if self.speaks_v12() { "T-24" } else { "LIFE-07" }, EBUSY)?;
                *self.root(at) = Root::default();
                Ok(Given::ok(&["POSIX"]))
            }
        }
    }

    /// Does an open file, a passthrough file, a mapping or a registered id hold the file system?
    fn lower_is_busy(&self, at: &str) -> bool {
        let used = self.uses_of(at).next().is_some();
        let registered = self.daemons.iter().any(|(number, daemon)| {
            let connection = &daemon.connection;
            let alive = connection.mounted || connection.devices != [false; 2] || self.mount_is_busy(*number);
            alive && daemon.ids.live.values().any(|backing| self.backing_is_at(*backing, at))
        });
        used || registered
    }

    /// VFS-02: over virtio-fs a close waits until RELEASE is answered.
    pub(super) fn may_wait_for_release(&mut self, open: usize) -> Result<(), Stop> {
        let Open::Fuse(file) = &self.opens[open] else { return Ok(()) };
        let number = self.nodes[file.node].daemon;
        let waits = self.has(OVER_VIRTIOFS) && self.is_told_about(number, Opcode::RELEASE);
        self.unless(waits, Doubt::Traffic)
    }

    /// Open files, passthrough files and mappings of files there, each by the flags that it was opened with.
    fn uses_of(&self, at: &str) -> impl Iterator<Item = u64> {
        let opens = self.opens.iter().filter_map(move |open| match open {
            Open::Lower(open) => (open.users > 0 && self.lowers[open.file].root == at).then_some(open.flags),
            Open::Fuse(file) => match file.way {
                Way::Passthrough(backing, _) => {
                    (file.users > 0 && self.backing_is_at(backing, at)).then_some(file.lower_flags)
                }
                Way::Registered(backing) => {
                    let used = file.users > 0 && !self.backings[backing].closed;
                    (used && self.backing_is_at(backing, at)).then(|| self.registered_flags(backing))
                }
                Way::Cached | Way::Direct => None,
            },
        });
        let maps = self.maps.iter().filter_map(move |map| match map.of {
            Mapped::Lower(file) => (!map.gone && self.lowers[file].root == at).then_some(map.flags),
            Mapped::Cache(_) => None,
        });
        opens.chain(maps)
    }

    fn backing_is_at(&self, backing: usize, at: &str) -> bool {
        self.lowers[self.backings[backing].file].root == at
    }

    /// LIFE-10: who writes keeps the file system writable.
    pub(super) fn remount(&mut self, call: &Call) -> Ruled {
        let at = if call.text("at").is_empty() { "lower" } else { call.text("at") };
        let read_only = call.text("mode") == "ro";
        if let Some(number) = mount_number(at) {
            self.daemon(number).connection.read_only = read_only;
            return Err(Stop::Unsure(Doubt::Traffic));
        }
        let written = self.uses_of(at).any(|flags| flags & O_ACCMODE != O_RDONLY && flags & O_PATH == 0);
        self.refuse(read_only && written, "LIFE-10", EBUSY)?;
        self.root(at).read_only = read_only;
        Ok(Given::ok(&["POSIX"]))
    }

    pub(super) fn kill(&mut self, victim: Actor) -> Ruled {
        self.ends(victim);
        if victim.side == Side::Daemon {
            self.daemon_gone(victim.number);
        }
        Ok(Given::ok(&["POSIX"]))
    }

    /// A daemon's process has ended, and its devices with it.
    pub(super) fn daemon_gone(&mut self, number: u8) {
        let daemon = self.daemon(number);
        daemon.connection.devices = [false; 2];
        daemon.log.push(Sent::Anything);
        if daemon.connection.phase != Phase::Detached {
            self.end(number);
        }
    }
}
