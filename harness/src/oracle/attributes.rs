//! Sizes and everything else that stays with the daemon also on a passthrough file.

use super::daemon::{Answer, Phase};
use super::numbers::*;
use super::opens::Place;
use super::ruling::{Doubt, Given, Ruled, Ruling, Stop, UNSURE};
use super::world::*;
use crate::abi::Opcode;
use crate::program::{Actor, Call, Outcome};

const OF_WRITES: u64 = STATX_SIZE | STATX_MTIME | STATX_CTIME | STATX_BLOCKS;

impl World {
    pub(super) fn stat(&mut self, actor: Actor, call: &Call) -> Ruled {
        let statx = call.name == "statx";
        let (flags, mask) = if statx {
            (call.int("flags", 0) as u64, call.int("mask", 0) as u64)
        } else {
            (0, OF_WRITES | STATX_ATIME)
        };
        let both = AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC;
        self.refuse(flags & both == both, "POSIX", EINVAL)?;
        let node = if call.name == "fstat" {
            let open = self.fd(actor, call, "fd")?;
            match &self.opens[open] {
                Open::Fuse(file) => file.node,
                Open::Lower(file) => return self.stat_below(file.file),
            }
        } else {
            if let Place::Lower(root, path) = self.place(actor, call.text("path")) {
                let root = self.root_now(&root);
                let file = root.names.get(&path).copied().filter(|_| root.foreign.is_none());
                return self.stat_below(file.ok_or(Stop::Unsure(Doubt::Outcome))?);
            }
            self.mounted_inode(actor, call)?
        };
        self.refuse(self.nodes[node].bad, "WRITE-23", EIO)?;
        self.unless(mask & STATX_BTIME != 0, Doubt::Everything)?;
        self.attributes(node, flags, mask)?;
        let size = self.nodes[node].size.filter(|_| mask & STATX_SIZE != 0);
        let outcome = match size {
            Some(size) => Outcome::Fields(vec![("size".into(), i128::from(size))]),
            None => Outcome::Ok,
        };
        Ok(Given::one(outcome, &["FWD-10"]))
    }

    fn stat_below(&mut self, file: usize) -> Ruled {
        let size = self.len_of(file).filter(|_| self.lowers[file].kind == Kind::Regular);
        let size = size.ok_or(Stop::Unsure(Doubt::Outcome))?;
        Ok(Given::one(Outcome::Fields(vec![("size".into(), i128::from(size))]), &["POSIX"]))
    }

    /// Bring the attributes of this mask up to date, as far as the kernel would.
    pub(super) fn attributes(&mut self, node: usize, flags: u64, mask: u64) -> Result<(), Stop> {
        // Whether who wants nothing is told that at once depends on the kernel.
        self.unless(mask == 0 && flags & AT_STATX_FORCE_SYNC != 0, Doubt::Everything)?;
        let state = self.nodes[node].clone();
        let wanted = [(OF_WRITES, state.fresh), (STATX_ATIME, state.fresh_access)];
        let mut needs = Fresh::Yes;
        for (bits, fresh) in wanted {
            match fresh {
                Fresh::No if mask & bits != 0 => needs = Fresh::No,
                Fresh::Unknown if mask & bits != 0 && needs == Fresh::Yes => needs = Fresh::Unknown,
                _ => {}
            }
        }
        if flags & AT_STATX_FORCE_SYNC != 0 {
            needs = Fresh::No;
        } else if flags & AT_STATX_DONT_SYNC != 0 {
            needs = Fresh::Yes;
        }
        match needs {
            Fresh::Yes => Ok(()),
            Fresh::No => {
                let (number, path) = self.place_of(node);
                let answer = self.request(number, Opcode::GETATTR, &path)?;
                if let Some(errno) = answer.errno {
                    return Err(Stop::Refused(errno, None, "WRITE-15"));
                }
                if !answer.done && answer.field("mode").is_none() {
                    // A claim about a file of no kind.
                    self.nodes[node].bad = true;
                    self.refuse(true, "WRITE-23", EIO)?;
                }
                self.take_attributes(node, &answer)
            }
            Fresh::Unknown => {
                // The old size or the daemon's: known only if they are the same.
                let below = self.size_below(node);
                let (number, path) = self.place_of(node);
                let scripted = self.is_told_of_attributes(number, &path);
                let alive = self.connection(number).phase == Phase::On;
                self.unless(scripted || !alive || below.is_none() || below != state.size, Doubt::Everything)
            }
        }
    }

    fn size_below(&self, node: usize) -> Option<u64> {
        self.known_lower_of(node).and_then(|file| self.len_of(file))
    }

    /// Attributes that came with an answer, or by the loopback.
    pub(super) fn take_attributes(&mut self, node: usize, answer: &Answer) -> Result<(), Stop> {
        let spoiled = answer.kind() != S_IFREG || answer.has_impossible_size();
        if spoiled && let Err(stop) = self.refuse(true, "WRITE-23", EIO) {
            self.nodes[node].bad = true;
            return Err(stop);
        }
        // Where the kernel writes back its cache it believes its own size.
        if self.flag(self.nodes[node].daemon, WRITEBACK_CACHE) {
            self.nodes[node].size = None;
            self.nodes[node].set_freshness(Fresh::Unknown);
            return Err(Stop::Unsure(Doubt::Outcome));
        }
        // ATTR-09: a change has overtaken the answer. Whoever asked gets it, the kernel does not keep it.
        self.unless(self.nodes[node].changed_at > self.asked_at, Doubt::Outcome)?;
        self.keep_attributes(node, answer);
        Ok(())
    }

    /// The kernel believes an answer about size and times, for as long as that says.
    pub(super) fn keep_attributes(&mut self, node: usize, answer: &Answer) {
        let below = self.size_below(node);
        let state = &mut self.nodes[node];
        let is_nobodys = |name| answer.field(name).is_some_and(|id| id as u32 == u32::MAX);
        state.nobodys |= is_nobodys("uid") || is_nobodys("gid");
        state.size = answer.field("size").map(|size| size as u64).or(below);
        state.set_freshness(if answer.field("attr_valid") == Some(0) { Fresh::No } else { Fresh::Yes });
    }

    pub(super) fn truncate(&mut self, actor: Actor, call: &Call) -> Ruled {
        let len = self.number(actor, call, "len", 0)?;
        self.unless(!(0..1 << 22).contains(&len), Doubt::Everything)?;
        let node = if call.name == "ftruncate" {
            let open = self.fd(actor, call, "fd")?;
            match self.opens[open].clone() {
                Open::Fuse(file) => {
                    self.refuse(file.flags & O_ACCMODE == O_RDONLY, "POSIX", EINVAL)?;
                    file.node
                }
                Open::Lower(file) => {
                    self.unless(
                        self.lowers[file.file].odd || file.flags & O_ACCMODE == O_RDONLY,
                        Doubt::Everything,
                    )?;
                    if let Some(bytes) = &mut self.lowers[file.file].bytes {
                        bytes.resize(len as usize, 0);
                    }
                    self.changed_below(file.file, None);
                    return Ok(Given::ok(&["POSIX"]));
                }
            }
        } else {
            if let Place::Lower(..) = self.place(actor, call.text("path")) {
                return Err(UNSURE);
            }
            self.mounted_inode(actor, call)?
        };
        self.may_be_refused(actor, node)?;
        // One with a capability loses it, which asks for more.
        let told = self.is_told_about(self.nodes[node].daemon, Opcode::GETXATTR);
        self.unless(told, Doubt::Everything)?;
        self.truncated(node, len as u64)?;
        Ok(Given::ok(&["FWD-08"]))
    }

    /// Whose inode it is, and who asks, may keep the kernel from asking the daemon at all.
    fn may_be_refused(&mut self, actor: Actor, node: usize) -> Result<(), Stop> {
        let is_odd = self.nodes[node].bad || self.nodes[node].nobodys;
        self.unless(is_odd || self.person(actor).ordinary, Doubt::Everything)
    }

    /// Was the daemon told what to do when it is asked for the attributes of that file?
    fn is_told_of_attributes(&self, number: u8, path: &str) -> bool {
        self.daemons[&number].rules.iter().any(|rule| rule.is_about(Opcode::GETATTR, path))
    }

    /// SETATTR of the size.
    pub(super) fn truncated(&mut self, node: usize, len: u64) -> Result<(), Stop> {
        let (number, path) = self.place_of(node);
        self.take_lock(node, false)?;
        let answer = self.request(number, Opcode::SETATTR, &path)?;
        if let Some(errno) = answer.errno {
            self.unless(errno == EINTR, Doubt::Everything)?;
            return Err(Stop::Refused(errno, None, "OPEN-36"));
        }
        if answer.done {
            if let Some(file) = self.known_lower_of(node) {
                self.unless(self.lowers[file].odd, Doubt::Everything)?;
                if let Some(bytes) = &mut self.lowers[file].bytes {
                    bytes.resize(len as usize, 0);
                }
                self.changed_below(file, Some(node));
            }
        } else {
            self.nodes[node].cache = Cache::Unknown;
            self.unless(answer.field("size").is_none() || answer.kind() != S_IFREG, Doubt::Everything)?;
        }
        self.take_attributes(node, &answer)
    }

    /// What a daemon is asked for and answers in its own right, without a word about data: chmod, chown, utimes.
    pub(super) fn set_attributes(&mut self, actor: Actor, call: &Call) -> Ruled {
        let node = if call.name == "fchmod" {
            let open = self.fd(actor, call, "fd")?;
            self.fuse(open)?.node
        } else {
            if let Place::Lower(root, path) = self.place(actor, call.text("path")) {
                let file = self.roots.get(&root).and_then(|root| root.names.get(&path).copied());
                let special = call.name == "chmod" && call.int("mode", 0) & 0o6000 != 0;
                if let Some(file) = file {
                    self.lowers[file].odd |= special;
                }
                self.unless(self.person(actor).ordinary || file.is_none(), Doubt::Outcome)?;
                return Ok(Given::ok(&["POSIX"]));
            }
            self.mounted_inode(actor, call)?
        };
        let special = call.name.ends_with("chmod") && call.int("mode", 0) & 0o6000 != 0;
        let (number, path) = self.place_of(node);
        self.may_be_refused(actor, node)?;
        // Before it takes privileges away, the kernel may ask for the mode (`fuse_setattr`).
        let asked = self.is_told_of_attributes(number, &path);
        self.unless(asked, Doubt::Everything)?;
        self.take_lock(node, false)?;
        let answer = self.request(number, Opcode::SETATTR, &path)?;
        if let Some(errno) = answer.errno {
            self.unless(errno == EINTR, Doubt::Everything)?;
            return Err(Stop::Refused(errno, None, "FWD-09"));
        }
        if let Some(file) = self.lower_of(node) {
            self.lowers[file].odd |= special || call.name == "chown";
        }
        self.unless(!answer.done, Doubt::Everything)?;
        self.take_attributes(node, &answer)?;
        Ok(Given::ok(&["FWD-09"]))
    }

    pub(super) fn seek(&mut self, actor: Actor, call: &Call) -> Ruled {
        let open = self.fd(actor, call, "fd")?;
        let file = self.fuse(open)?;
        let (number, path) = self.place_of(file.node);
        let offset = self.number(actor, call, "offset", 0)?;
        let whence = call.int("whence", 0) as u64;
        self.unless(file.reply & (NONSEEKABLE | STREAM) != 0, Doubt::Everything)?;
        let (target, rule) = match whence {
            SEEK_SET => (Some(offset), "FWD-05"),
            SEEK_CUR => (file.position.map(|at| i128::from(at) + offset), "FWD-05"),
            SEEK_END => {
                self.take_lock(file.node, false)?;
                self.attributes(file.node, 0, STATX_SIZE)?;
                (self.nodes[file.node].size.map(|size| i128::from(size) + offset), "FWD-06")
            }
            _ => {
                if self.lacks(number, Opcode::LSEEK) {
                    self.move_to(open, None);
                    return Err(Stop::Unsure(Doubt::Outcome));
                }
                let answer = self.request(number, Opcode::LSEEK, &path)?;
                match answer.errno {
                    Some(ENOSYS) => {
                        self.daemon(number).connection.without.push(Opcode::LSEEK);
                        self.move_to(open, None);
                        return Err(Stop::Unsure(Doubt::Outcome));
                    }
                    Some(errno) => return Err(Stop::Refused(errno, None, "FWD-07")),
                    None => (answer.field("offset"), "FWD-07"),
                }
            }
        };
        let Some(target) = target else {
            self.move_to(open, None);
            return Err(Stop::Unsure(Doubt::Outcome));
        };
        self.refuse(!(0..=i128::from(i64::MAX)).contains(&target), "POSIX", EINVAL)?;
        self.move_to(open, Some(target as u64));
        Ok(Given::int(target as u64, &[rule]))
    }

    pub(super) fn sync(&mut self, actor: Actor, call: &Call) -> Ruled {
        let open = self.fd(actor, call, "fd")?;
        let file = self.fuse(open)?;
        let (number, path) = self.place_of(file.node);
        self.unless(self.nodes[file.node].bad, Doubt::Everything)?;
        if file.way == Way::Cached {
            self.log(number, Opcode::WRITE, &path, 0, u8::MAX);
        }
        let answer = self.optional(number, Opcode::FSYNC, &path)?;
        match answer.errno {
            Some(errno) => Err(Stop::Refused(errno, None, "FWD-01")),
            None => Ok(Given::ok(&["FWD-01"])),
        }
    }

    pub(super) fn allocate(&mut self, actor: Actor, call: &Call) -> Ruled {
        let open = self.fd(actor, call, "fd")?;
        let file = self.fuse(open)?;
        let (number, path) = self.place_of(file.node);
        let mode = call.int("mode", 0) as u64;
        let (offset, len) = (self.number(actor, call, "offset", 0)?, self.number(actor, call, "len", 0)?);
        let zero_range = if self.has("zero_range") { 0 } else { FALLOC_FL_ZERO_RANGE };
        let other = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE | zero_range;
        self.refuse(offset < 0 || len <= 0, "POSIX", EINVAL)?;
        // Which modes go together is looked at first, and the file's own mode before what it can do.
        self.unless(!mode.is_power_of_two() && mode & other != 0, Doubt::Outcome)?;
        self.refuse(mode & other != 0 && file.flags & O_ACCMODE == O_RDONLY, "POSIX", EBADF)?;
        // What lies beyond all files is refused before that.
        self.unless(offset + len > i128::from(i64::MAX) && mode & other != 0, Doubt::Outcome)?;
        self.refuse(mode & other != 0, "FWD-04", EOPNOTSUPP)?;
        let known = [0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE].contains(&mode);
        let punches = mode & FALLOC_FL_PUNCH_HOLE != 0;
        let is_alone = mode & FALLOC_FL_KEEP_SIZE == 0 || mode & FALLOC_FL_ZERO_RANGE != 0;
        self.unless(punches && is_alone, Doubt::Outcome)?;
        let fits = (0..1 << 22).contains(&offset) && (1..1 << 22).contains(&len);
        self.unless(
            file.flags & O_ACCMODE == O_RDONLY || !fits || self.nodes[file.node].bad,
            Doubt::Everything,
        )?;
        self.take_lock(file.node, false)?;
        let answer = self.optional(number, Opcode::FALLOCATE, &path)?;
        if let Some(errno) = answer.errno {
            return Err(Stop::Refused(errno, None, "FWD-04"));
        }
        self.unless(self.lacks(number, Opcode::FALLOCATE), Doubt::Outcome)?;
        if self.flag(number, WRITEBACK_CACHE) {
            // Kernels up to 6.12 change times by themselves, and tell them when they like.
            self.unless(self.is_told_about(number, Opcode::SETATTR), Doubt::Everything)?;
            self.doubt(Doubt::Traffic);
        }
        let end = (offset + len) as usize;
        let lower = self.lower_of(file.node).filter(|_| answer.done);
        let is_ramfs = lower.and_then(|lower| self.root_of(lower)).is_some_and(|root| root.ramfs);
        self.unless(answer.done && (!known || is_ramfs), Doubt::Everything)?;
        if let Some(lower) = lower.filter(|lower| self.lowers[*lower].odd) {
            // What was stored behind its end may be seen from here on.
            self.lowers[lower].bytes = None;
        }
        if let Some(bytes) = lower.and_then(|lower| self.lowers[lower].bytes.as_mut()) {
            if mode == 0 {
                bytes.resize(bytes.len().max(end), 0);
            } else if mode & FALLOC_FL_PUNCH_HOLE != 0 {
                let end = end.min(bytes.len());
                bytes.get_mut(offset as usize..end).unwrap_or_default().fill(0);
            }
        }
        if let Some(lower) = lower {
            self.changed_below(lower, Some(file.node));
        }
        let node = &mut self.nodes[file.node];
        if mode & FALLOC_FL_KEEP_SIZE == 0 {
            node.size = node.size.map(|size| size.max(end as u64));
        }
        if !answer.done || mode != 0 {
            node.cache = if node.cache == Cache::Empty { Cache::Empty } else { Cache::Unknown };
        }
        self.touched(file.node);
        if self.flag(number, WRITEBACK_CACHE) {
            self.nodes[file.node].set_freshness(Fresh::Unknown);
        }
        Ok(Given::ok(&["FWD-04"]))
    }

    pub(super) fn set_flags(&mut self, actor: Actor, call: &Call) -> Ruled {
        let open = self.fd(actor, call, "fd")?;
        let changeable = O_APPEND | O_DIRECT;
        let flags = call.int("flags", 0) as u64;
        if let Open::Fuse(file) = &mut self.opens[open] {
            // Only writing by O_APPEND is followed; a refusal of O_DIRECT is not known.
            file.flags = (file.flags & !changeable) | (flags & changeable);
            let allows = if flags & O_DIRECT == 0 { vec![Outcome::Ok] } else { vec![] };
            return Ok(Given { ruling: Ruling { allows, rules: vec!["POSIX"] }, made: None });
        }
        Err(UNSURE)
    }

    /// Names come and go by the daemon.
    pub(super) fn names(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (opcode, first, second) = match call.name.as_str() {
            "unlink" => (Opcode::UNLINK, "path", None),
            "rename" => (Opcode::RENAME, "from", Some("to")),
            _ => (Opcode::LINK, "from", Some("to")),
        };
        let (number, from) = self.mounted(actor, call.text(first))?;
        let to = match second {
            Some(second) => Some(self.mounted(actor, call.text(second))?),
            None => None,
        };
        self.unless(to.as_ref().is_some_and(|(other, _)| *other != number), Doubt::Everything)?;
        let found = self.lookup(number, &from)?;
        let node = self.required(found, "POSIX", ENOENT)?;
        if let Some((_, to)) = &to {
            let target = self.lookup(number, to)?;
            self.unless(target.is_some(), Doubt::Everything)?;
        }
        let about = match (&to, opcode) {
            (Some((_, to)), Opcode::LINK) => to.clone(),
            _ => from.clone(),
        };
        let answer = self.request(number, opcode, &about)?;
        if let Some(errno) = answer.errno {
            // The kernel takes what it knows of the names for old then.
            self.unless(matches!(errno, EINTR | ENOENT), Doubt::Everything)?;
            return Err(Stop::Refused(errno, None, "FWD-19"));
        }
        let root = self.root_now(&lower_name(number));
        let file = root.names.get(&from).copied();
        self.unless(!answer.plain() || root.foreign.is_some() || file.is_none(), Doubt::Everything)?;
        let file = file.ok_or(UNSURE)?;
        let names = &mut self.root(&lower_name(number)).names;
        match (opcode, to) {
            (Opcode::LINK, Some((_, to))) => {
                // Two names of one inode are more than the model has.
                names.insert(to, file);
                self.foggy = true;
                self.nodes[node].set_freshness(Fresh::Unknown);
            }
            (Opcode::RENAME, Some((_, to))) => {
                names.remove(&from);
                names.insert(to.clone(), file);
                self.nodes[node].path = to;
                self.nodes[node].fresh = Fresh::Unknown;
            }
            _ => {
                names.remove(&from);
                // Without a name the loopback has nothing to answer from.
                self.nodes[node].named = false;
                self.nodes[node].path = super::traffic::ANY_PATH.into();
                self.nodes[node].set_freshness(Fresh::Unknown);
                self.foggy = true;
            }
        }
        Ok(Given::ok(&["FWD-19"]))
    }
}
