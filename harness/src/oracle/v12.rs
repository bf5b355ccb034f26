//! The v12 dialect: ids that an open reply uses up (reworked: that live until they are closed), files that are the
//! registered ones themselves, and no modes of inodes.
//!
//! Only what differs from the merged dialect is here. No kernel speaks both, as they have one ioctl number.

use super::numbers::*;
use super::ruling::{Doubt, Given, Ruled, Stop};
use super::world::*;
use crate::program::{Actor, Call};

/// As deep as file systems may be stacked, and as deep as each mount of the dialect counts.
pub(super) const DEEPEST: u32 = 2;

impl World {
    pub(super) fn speaks_v12(&self) -> bool {
        self.has("v12")
    }

    /// The errno of a refusal that review has changed.
    fn by_form(&self, posted: i32, agreed: i32) -> i32 {
        if self.has("v12_agreed") { agreed } else { posted }
    }

    /// Both ioctls ask for the same first, by rules of their own.
    fn v12_may_call(&mut self, actor: Actor, rules: [&'static str; 2]) -> Result<(), Stop> {
        let connection = self.connection(actor.number);
        self.unless(connection.phase == super::daemon::Phase::Unsure, Doubt::Everything)?;
        self.refuse(connection.phase == super::daemon::Phase::Detached, rules[0], EINVAL)?;
        self.unless(connection.devices == [false; 2], Doubt::Everything)?;
        self.refuse(!connection.passthrough, rules[1], EPERM)
    }

    pub(super) fn v12_register(&mut self, actor: Actor, call: &Call) -> Ruled {
        self.v12_may_call(actor, ["T-04", "T-06"])?;
        let length = self.number(actor, call, "flags", 0)?;
        self.refuse(length != 0, "T-07", EINVAL)?;
        let open = match self.fd(actor, call, "fd") {
            Err(Stop::Refused(errno, ..)) => {
                self.refuse(true, "T-08", errno)?;
                return Ok(Given::ok(&["T-12"]));
            }
            open => open?,
        };
        let file = match self.opens[open].clone() {
            Open::Fuse(file) => {
                let below = self.connection(self.nodes[file.node].daemon).depth;
                self.refuse(below >= DEEPEST, "T-10", self.by_form(EINVAL, ELOOP))?;
                self.new_lower(Kind::Unknown, "")
            }
            Open::Lower(open) => {
                self.refuse(open.flags & O_PATH != 0, "T-08", EBADF)?;
                let kind = self.lowers[open.file].kind;
                self.refuse(kind == Kind::Directory, "T-09", self.by_form(EBADF, EOPNOTSUPP))?;
                // Which of the others have both operations is their own matter.
                self.unless(kind != Kind::Regular, Doubt::Outcome)?;
                let foreign = self.root_of(open.file).and_then(|root| root.foreign);
                let below = foreign.map_or(Ok(0), |depth| depth.ok_or(super::ruling::UNSURE))?;
                self.refuse(below >= DEEPEST, "T-10", self.by_form(EINVAL, ELOOP))?;
                open.file
            }
        };
        self.backings.push(Backing { file, open, closed: false });
        let backing = self.backings.len() - 1;
        let ids = &mut self.daemon(actor.number).ids;
        let id = (1..).find(|id| !ids.live.contains_key(id)).unwrap_or(i32::MAX);
        ids.live.insert(id, backing);
        let unsure = ids.unsure;
        self.unless(unsure, Doubt::Outcome)?;
        Ok(Given { made: Some(Thing::Id(i64::from(id))), ..Given::int(id as u64, &["T-12"]) })
    }

    pub(super) fn v12_close(&mut self, actor: Actor, call: &Call) -> Ruled {
        self.refuse(!self.has("v12_rework"), "T-05", ENOTTY)?;
        self.v12_may_call(actor, ["T-35", "T-35"])?;
        let id = self.number(actor, call, "id", 0)? as i32;
        self.refuse(id <= 0, "T-35", EINVAL)?;
        let ids = &mut self.daemon(actor.number).ids;
        let (closed, unsure) = (ids.live.remove(&id), ids.unsure);
        self.unless(unsure, Doubt::Everything)?;
        let Some(closed) = closed else {
            self.refuse(true, "T-35", ENOENT)?;
            return Ok(Given::ok(&["T-34"]));
        };
        self.backings[closed].closed = true;
        // What FUSE had cached is dropped when the file is used next; what others cache meanwhile goes with it, or not.
        let bound = self.opens.iter().filter_map(|open| match open {
            Open::Fuse(file) if file.way == Way::Registered(closed) => Some(file.node),
            _ => None,
        });
        for node in bound.collect::<Vec<usize>>() {
            self.nodes[node].cache = Cache::Unknown;
        }
        Ok(Given::ok(&["T-34"]))
    }

    /// A device ioctl with a pointer that cannot be read; only type and number of its command count.
    pub(super) fn v12_unreadable(&mut self, number: u64) -> Result<(), Stop> {
        let [number, kind, ..] = number.to_le_bytes();
        self.refuse(kind != 229, "T-05", EINVAL)?;
        self.refuse(number == 0, "DEV-09", EFAULT)?;
        self.refuse(number == 1, "T-03", EFAULT)?;
        self.unless(number == 2 && self.has("v12_rework"), Doubt::Outcome)?;
        self.refuse(true, "T-05", ENOTTY)
    }

    /// How an open that was let in is served; a word that is no id is no error.
    pub(super) fn v12_admit(&mut self, node: usize, plain: Way, id: i128) -> Result<Way, Stop> {
        let number = self.nodes[node].daemon;
        let id = id as i32;
        if !self.connection(number).passthrough || id <= 0 {
            return Ok(plain);
        }
        let stays = self.has("v12_rework");
        let ids = &mut self.daemon(number).ids;
        let backing = if stays { ids.live.get(&id).copied() } else { ids.live.remove(&id) };
        let unsure = ids.unsure;
        self.unless(unsure, Doubt::Everything)?;
        Ok(backing.map_or(plain, Way::Registered))
    }

    /// The rule by which an open is an ordinary one.
    pub(super) fn v12_ordinary(&self, number: u8, id: i128) -> Vec<&'static str> {
        let connection = self.daemons.get(&number).map(|daemon| &daemon.connection);
        vec![match connection {
            Some(connection) if !connection.passthrough => "T-16",
            _ if id as i32 > 0 => "T-15",
            _ => "T-14",
        }]
    }

    /// How a file is served now: one whose id was closed is an ordinary one.
    pub(super) fn way_now(&self, file: &FuseFile) -> Way {
        match file.way {
            Way::Registered(backing) if self.backings[backing].closed => plain_way(file.reply),
            way => way,
        }
    }

    /// A folder is opened, which is not followed; what is replied to that may use an id up.
    pub(super) fn v12_folder(&mut self) {
        self.lost |= self.speaks_v12() && self.daemons.values().any(|daemon| !daemon.ids.live.is_empty());
    }

    /// Flags of the registered file, which the daemon may change any time.
    pub(super) fn registered_flags(&self, backing: usize) -> u64 {
        match &self.opens[self.backings[backing].open] {
            Open::Fuse(file) => file.flags,
            Open::Lower(file) => file.flags,
        }
    }

    pub(super) fn v12_read(&mut self, file: &FuseFile, backing: usize) -> Result<usize, Stop> {
        let flags = self.registered_flags(backing);
        self.refuse(flags & O_ACCMODE == O_WRONLY, "T-19", EBADF)?;
        self.unless((file.flags | flags) & O_DIRECT != 0, Doubt::Outcome)?;
        Ok(self.backings[backing].file)
    }

    /// Gives which file is written, and with which flags beside the FUSE file's.
    pub(super) fn v12_write(&mut self, file: &FuseFile, backing: usize) -> Result<(usize, u64), Stop> {
        let flags = self.registered_flags(backing);
        self.take_lock(file.node, false)?;
        self.refuse(flags & O_ACCMODE == O_RDONLY, "T-19", EBADF)?;
        self.unless((file.flags | flags) & O_DIRECT != 0, Doubt::Everything)?;
        Ok((self.backings[backing].file, flags))
    }

    /// What is mapped, and what it was opened for.
    pub(super) fn v12_map(&mut self, backing: usize, shared: bool, prot: u64) -> Result<(Mapped, u64), Stop> {
        let access = self.registered_flags(backing) & O_ACCMODE;
        let asks_too_much = access == O_WRONLY || (shared && prot & PROT_WRITE != 0 && access == O_RDONLY);
        self.refuse(asks_too_much, "T-22", EACCES)?;
        let file = self.backings[backing].file;
        self.unless(self.lowers[file].kind != Kind::Regular, Doubt::Everything)?;
        Ok((Mapped::Lower(file), access))
    }
}

/// How an open reply is served that asks for no passthrough.
pub(super) fn plain_way(reply: u64) -> Way {
    if reply & DIRECT_IO != 0 { Way::Direct } else { Way::Cached }
}
