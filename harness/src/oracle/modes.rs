//! An inode's I/O mode: who uses it cached, who through a backing file, and which open replies that lets in.
//!
//! The kernel keeps one signed counter and the backing in use; here they are counted apart. Everything that can
//! refuse an open once its reply was well formed is in this file.

use super::numbers::*;
use super::ruling::{Doubt, Stop};
use super::v12::plain_way;
use super::world::{Kind, Way, World};

/// The mode of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mode {
    pub(super) cached: u32,
    pub(super) passthrough: u32,
    /// One of the world's backings: there while a file uses it, or a direct write that began beside one.
    pub(super) backing: Option<usize>,
    /// An open outside of the model may have changed it.
    pub(super) unsure: bool,
}

impl World {
    /// Direct writes of the inode that share their lock and have not ended.
    fn parallel_writes(&self, node: usize) -> bool {
        self.locked.iter().any(|(_, locked, shared)| *locked == node && *shared)
    }

    /// Let an open in by its reply, or refuse it with the errno inside.
    pub(super) fn admit(&mut self, node: usize, flags: u64, reply: u64, id: i128) -> Result<Way, Stop> {
        let plain = plain_way(reply);
        if self.speaks_v12() {
            return self.v12_admit(node, plain, id);
        }
        if !self.has("passthrough") {
            return Ok(plain);
        }
        let mode = self.nodes[node].mode;
        self.unless(mode.unsure, Doubt::Everything)?;
        let way = if reply & PASSTHROUGH == 0 {
            let rule = if plain == Way::Direct { "MODE-02" } else { "MODE-01" };
            self.refuse(mode.backing.is_some(), rule, EINVAL)?;
            if plain == Way::Cached && self.parallel_writes(node) {
                return Err(Stop::Waits); // MODE-16
            }
            plain
        } else {
            let backing = self.passthrough_reply(node, flags, reply, id)?;
            self.refuse(mode.backing.is_some_and(|old| old != backing), "OPEN-24", EBUSY)?;
            self.refuse(mode.cached > 0, "MODE-03", ETXTBSY)?;
            Way::Passthrough(backing, reply & DIRECT_IO != 0)
        };
        let mode = &mut self.nodes[node].mode;
        match way {
            Way::Cached => mode.cached += 1,
            Way::Direct | Way::Registered(_) => {}
            Way::Passthrough(backing, _) => {
                mode.passthrough += 1;
                mode.backing = Some(backing);
            }
        }
        Ok(way)
    }

    /// The backing that a reply with PASSTHROUGH means, and whether it can be opened.
    fn passthrough_reply(&mut self, node: usize, flags: u64, reply: u64, id: i128) -> Result<usize, Stop> {
        let number = self.nodes[node].daemon;
        let negotiated = self.daemons.get(&number).is_some_and(|daemon| daemon.connection.passthrough);
        self.refuse(!negotiated, "OPEN-02", EINVAL)?;
        self.refuse(reply & !(PASSTHROUGH | DIRECT_IO | NOFLUSH | PARALLEL) != 0, "OPEN-08", EINVAL)?;
        let id = id as i32;
        self.refuse(id <= 0, "OPEN-03", EINVAL)?;
        let ids = &self.daemon(number).ids;
        let (backing, unsure) = (ids.live.get(&id).copied(), ids.unsure);
        self.unless(unsure, Doubt::Everything)?;
        let backing = self.required(backing, "OPEN-04", ENOENT)?;
        self.open_lower(backing, flags)?;
        Ok(backing)
    }

    /// The kernel opens the registered file once more, with the application's flags.
    fn open_lower(&mut self, backing: usize, flags: u64) -> Result<(), Stop> {
        let file = self.lowers[self.backings[backing].file].clone();
        let root = self.root_now(&file.root);
        let writes = flags & O_ACCMODE != O_RDONLY;
        self.unless(file.kind != Kind::Regular || root.foreign.is_some(), Doubt::Everything)?;
        self.refuse(writes && root.read_only, "OPEN-28", EROFS)?;
        self.refuse(flags & O_DIRECT != 0 && root.ramfs, "OPEN-30", EINVAL)?;
        let immutable = writes && file.immutable && self.has("immutable_check");
        self.refuse(immutable, "OPEN-32", EPERM)?;
        let append_only = writes && file.append_only && self.has("append_only_check");
        self.refuse(append_only && flags & O_APPEND == 0, "OPEN-33", EPERM)?;
        Ok(())
    }

    /// The inode has one user less. What still holds the mode is looked at again when a direct write ends.
    pub(super) fn leave_mode(&mut self, node: usize, way: Way, cached_user: bool) {
        let mode = &mut self.nodes[node].mode;
        if matches!(way, Way::Passthrough(..)) {
            mode.passthrough = mode.passthrough.saturating_sub(1);
        }
        if cached_user {
            mode.cached = mode.cached.saturating_sub(1);
        }
        self.drop_idle_backing(node);
    }

    /// A backing goes with its last file and the last direct write in flight.
    pub(super) fn drop_idle_backing(&mut self, node: usize) {
        if self.nodes[node].mode.passthrough == 0 && !self.parallel_writes(node) {
            self.nodes[node].mode.backing = None;
        }
    }

    /// A shared mapping of the kernel's own cache makes a direct file a cached user until it is released.
    pub(super) fn join_cached(&mut self, node: usize) -> Result<(), Stop> {
        if self.parallel_writes(node) {
            return Err(Stop::Waits); // MODE-17
        }
        self.nodes[node].mode.cached += 1;
        Ok(())
    }

    /// Take the inode's lock for a call that may wait for the daemon; direct writes may share it.
    pub(super) fn take_lock(&mut self, node: usize, parallel: bool) -> Result<(), Stop> {
        self.unless(self.may_wait, Doubt::Everything)?;
        let shared = parallel && self.nodes[node].mode.cached == 0;
        if self.locked.iter().any(|(_, locked, other)| *locked == node && !(shared && *other)) {
            return Err(Stop::Waits); // MODE-15
        }
        self.lock = Some((node, shared));
        Ok(())
    }
}
