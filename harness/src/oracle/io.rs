//! Reading and writing, by the three ways a FUSE file can be served, and on lower files.

use super::daemon::Phase;
use super::numbers::*;
use super::ruling::{Doubt, Given, Ruled, Stop, UNSURE};
use super::world::*;
use crate::abi::Opcode;
use crate::program::{Actor, Call, Data, Outcome};

/// Contents longer than this are not followed.
const MOST: u64 = 1 << 22;

/// What no file of a FUSE mount has.
const NO_FUSE_FILE: u64 = RWF_NOWAIT | RWF_ATOMIC | RWF_DONTCACHE;

/// What a read or write is about.
struct Transfer {
    open: usize,
    /// Absent: the file's own position, which moves.
    at: Option<u64>,
    asynchronous: bool,
    rwf: u64,
}

impl World {
    fn transfer(&mut self, actor: Actor, call: &Call) -> Result<Transfer, Stop> {
        // A negative place is looked at before the descriptor.
        let at = match call.arg("offset") {
            None => None,
            Some(_) => {
                let offset = self.number(actor, call, "offset", 0)?;
                self.unless(!(0..=i128::from(MOST)).contains(&offset), Doubt::Everything)?;
                Some(offset as u64)
            }
        };
        let open = self.fd(actor, call, "fd")?;
        if let Open::Fuse(file) = &self.opens[open]
            && call.name.starts_with("uring")
        {
            // It asks whether the file is ready before it begins, and waits for a daemon that says no.
            let number = self.nodes[file.node].daemon;
            self.unless(self.is_told_about(number, Opcode::POLL), Doubt::Everything)?;
        }
        if let Open::Fuse(file) = &self.opens[open] {
            // A stream has no position, not even for those who name none.
            let odd = STREAM | if at.is_some() { NONSEEKABLE } else { 0 };
            self.unless(file.reply & odd != 0, Doubt::Everything)?;
        }
        let asynchronous = call.name.starts_with("aio") || call.name.starts_with("uring");
        Ok(Transfer { open, at, asynchronous, rwf: call.int("flags", 0) as u64 })
    }

    pub(super) fn read(&mut self, actor: Actor, call: &Call) -> Ruled {
        let transfer = self.transfer(actor, call)?;
        let len = self.number(actor, call, "len", 0)? as u64;
        let (file, flags, position) = self.about(transfer.open);
        self.refuse(flags & O_ACCMODE == O_WRONLY || flags & O_PATH != 0, "RW-07", EBADF)?;
        let unknown = if file.is_some() && len > 0 { transfer.rwf & NO_FUSE_FILE } else { 0 };
        let start = transfer.at.or(position).ok_or(UNSURE)?;
        self.unless(start.saturating_add(len) > i64::MAX as u64, Doubt::Outcome)?;
        self.refuse(unknown != 0, "RW-14", EOPNOTSUPP)?;
        self.unless(transfer.rwf & !(RWF_HIPRI | unknown) != 0, Doubt::Everything)?;
        let (bytes, rules) = match &file {
            None => (self.slice_of(transfer.open, start, len), ["POSIX"]),
            Some(file) => {
                self.is_usable(file, len)?;
                let by_ring = call.name == "uring_read";
                self.unless(
                    by_ring && self.lacks(self.nodes[file.node].daemon, Opcode::POLL),
                    Doubt::Traffic,
                )?;
                let read = self.read_mounted(file, start, len, by_ring);
                if transfer.at.is_none() && matches!(read, Err(Stop::Unsure(_))) {
                    self.move_to(transfer.open, None);
                }
                read?
            }
        };
        if transfer.at.is_none() {
            let moved = bytes.as_ref().map(|bytes| start + bytes.len() as u64);
            self.move_to(transfer.open, moved);
        }
        match bytes {
            Some(bytes) => Ok(Given::one(Outcome::Data(Data(bytes)), &rules)),
            None => Err(Stop::Unsure(Doubt::Outcome)),
        }
    }

    /// A bad inode is neither read nor written. Whether anybody looks, where nothing is asked for, depends on the call.
    fn is_usable(&mut self, file: &FuseFile, len: u64) -> Result<(), Stop> {
        let bad = self.nodes[file.node].bad;
        self.unless(bad && len == 0, Doubt::Outcome)?;
        self.refuse(bad, file.rule_for_bad(), EIO)
    }

    /// A FUSE file if it is one, the flags it has now, and its position.
    fn about(&self, open: usize) -> (Option<FuseFile>, u64, Option<u64>) {
        match &self.opens[open] {
            Open::Fuse(file) => (Some(file.clone()), file.flags, file.position),
            Open::Lower(file) => (None, file.flags, file.position),
        }
    }

    pub(super) fn move_to(&mut self, open: usize, position: Option<u64>) {
        *self.opens[open].position() = position;
    }

    fn slice_of(&self, open: usize, start: u64, len: u64) -> Option<Vec<u8>> {
        let Open::Lower(file) = &self.opens[open] else { return None };
        if self.lowers[file.file].kind == Kind::Regular { self.slice(file.file, start, len) } else { None }
    }

    pub(super) fn slice(&self, file: usize, start: u64, len: u64) -> Option<Vec<u8>> {
        let bytes = self.lowers[file].bytes.as_ref()?;
        let end = start.saturating_add(len).min(bytes.len() as u64) as usize;
        Some(bytes.get(start as usize..end).unwrap_or_default().to_vec())
    }

    fn read_mounted(
        &mut self,
        file: &FuseFile,
        start: u64,
        len: u64,
        by_ring: bool,
    ) -> Result<(Option<Vec<u8>>, [&'static str; 1]), Stop> {
        if len == 0 {
            // The time of access may be stale from here on.
            let access = &mut self.nodes[file.node].fresh_access;
            *access = access.in_doubt();
            // The cache looks how long the file is, before it sees that there is nothing to do.
            let asks = self.way_now(file) == Way::Cached && self.nodes[file.node].fresh != Fresh::Yes;
            self.unless(asks, Doubt::Everything)?;
            return Ok((Some(Vec::new()), [file.rule_for_nothing()]));
        }
        let o_direct = (file.flags | file.lower_flags) & O_DIRECT != 0;
        match self.way_now(file) {
            Way::Registered(backing) => {
                let lower = self.v12_read(file, backing)?;
                Ok((self.slice(lower, start, len), ["T-19"]))
            }
            Way::Passthrough(backing, false) => {
                let lower = self.backings[backing].file;
                let ramfs = self.root_of(lower).is_some_and(|root| root.ramfs);
                let late = file.flags & O_DIRECT != 0 && file.lower_flags & O_DIRECT == 0;
                self.refuse(late && ramfs, "RW-16", EINVAL)?;
                if !self.connection(self.nodes[file.node].daemon).read_only {
                    self.nodes[file.node].fresh_access = Fresh::No;
                }
                self.unless(o_direct && !ramfs, Doubt::Outcome)?;
                Ok((self.slice(lower, start, len), ["RW-01"]))
            }
            Way::Direct | Way::Passthrough(_, true) => {
                let (number, path) = self.place_of(file.node);
                // Where INIT has a say in how much is asked for at once, a part of it may be refused.
                self.unless(len > PAGE && self.flag(number, MAX_PAGES), Doubt::Everything)?;
                let most = if len > (1 << 17) { u8::MAX } else { 1 };
                self.nodes[file.node].fresh_access = Fresh::No;
                let answer = self.requests(number, Opcode::READ, &path, 1, most)?;
                if let Some(errno) = answer.errno {
                    return Err(Stop::Refused(errno, None, "WRITE-15"));
                }
                let bytes = match answer.data {
                    Some(data) => {
                        self.refuse(data.len() as u64 > len, "WRITE-18", EIO)?;
                        // io_uring asks for the rest, to which there may be another answer.
                        let again = by_ring && !data.is_empty() && (data.len() as u64) < len;
                        self.unless(again, Doubt::Traffic)?;
                        Some(data)
                    }
                    None if answer.fields.is_empty() && answer.done => {
                        let lower = self.known_lower_of(file.node);
                        lower.and_then(|lower| self.slice(lower, start, len))
                    }
                    None => None,
                };
                Ok((bytes, [if matches!(file.way, Way::Passthrough(..)) { "RW-26" } else { "WRITE-19" }]))
            }
            Way::Cached => {
                self.unless(o_direct, Doubt::Everything)?;
                self.read_cached(file.node, start, len).map(|bytes| (bytes, ["OPEN-13"]))
            }
        }
    }

    /// Through the kernel's own cache, which asks the daemon for what it lacks.
    pub(super) fn read_cached(&mut self, node: usize, start: u64, len: u64) -> Result<Option<Vec<u8>>, Stop> {
        let (number, path) = self.place_of(node);
        let is_over = matches!(self.connection(number).phase, Phase::Detached | Phase::Ended);
        let is_beyond = self.nodes[node].size.is_some_and(|size| start.saturating_add(len) > size);
        match self.nodes[node].fresh {
            // Beyond the end that it knows it asks for the size, or always if that is agreed on (`fuse_cache_read_iter`).
            Fresh::No if is_beyond || self.flag(number, AUTO_INVAL_DATA) => {
                self.attributes(node, 0, STATX_SIZE)?
            }
            Fresh::Unknown => self.nodes[node].size = None,
            _ => {}
        }
        let state = self.nodes[node].clone();
        if is_over && state.size.is_none_or(|size| start < size) {
            // What is cached can be read without a daemon; how much that is, is not followed. The rest is ENOTCONN where the
            // page is read by itself, and EIO where it is read ahead.
            self.nodes[node].fresh_access = Fresh::Unknown;
            return Err(Stop::Unsure(Doubt::Outcome));
        }
        let Some(size) = state.size.filter(|_| state.fresh != Fresh::Unknown) else {
            self.nodes[node].cache = Cache::Unknown;
            self.nodes[node].fresh_access = Fresh::Unknown;
            // Whether it asks now or later, an answer that was laid out for that is used up.
            let told = [Opcode::GETATTR, Opcode::STATX, Opcode::READ];
            let told = told.iter().any(|opcode| self.is_told_about(number, *opcode));
            self.unless(told, Doubt::Everything)?;
            self.doubt(Doubt::Traffic);
            return Ok(None);
        };
        if start >= size {
            return Ok(Some(Vec::new()));
        }
        let least = u8::from(state.cache == Cache::Empty);
        // Also by a read that fails, or never ends.
        self.nodes[node].fresh_access = if least == 1 { Fresh::No } else { Fresh::Unknown };
        let answer = self.requests(number, Opcode::READ, &path, least, u8::MAX)?;
        let lower = self.known_lower_of(node);
        let below = lower.and_then(|lower| self.lowers[lower].bytes.clone());
        let coherent = state.cache != Cache::Unknown && answer.plain();
        match below.filter(|bytes| coherent && bytes.len() as u64 >= size) {
            Some(bytes) => {
                self.nodes[node].cache = Cache::Same;
                let end = start.saturating_add(len).min(size) as usize;
                Ok(Some(bytes[start as usize..end].to_vec()))
            }
            None => {
                self.nodes[node].cache = Cache::Unknown;
                self.nodes[node].fresh = Fresh::Unknown;
                // Less than was asked for is the end of the file.
                self.nodes[node].size = None;
                Ok(None)
            }
        }
    }

    pub(super) fn place_of(&self, node: usize) -> (u8, String) {
        (self.nodes[node].daemon, self.nodes[node].path.clone())
    }

    pub(super) fn write(&mut self, actor: Actor, call: &Call) -> Ruled {
        let transfer = self.transfer(actor, call)?;
        let data = call.data("data").0;
        let (file, flags, position) = self.about(transfer.open);
        self.refuse(flags & O_ACCMODE == O_RDONLY || flags & O_PATH != 0, "RW-07", EBADF)?;
        let unknown = if file.is_some() && !data.is_empty() { transfer.rwf & NO_FUSE_FILE } else { 0 };
        self.refuse(unknown != 0, "RW-14", EOPNOTSUPP)?;
        let start = transfer.at.or(position).ok_or(UNSURE)?;
        self.unless(data.len() as u64 + start > MOST, Doubt::Everything)?;
        let known = RWF_APPEND | RWF_DSYNC | RWF_SYNC | RWF_HIPRI;
        self.unless(transfer.rwf & !(known | unknown) != 0, Doubt::Everything)?;
        if let Some(file) = file {
            self.is_usable(&file, data.len() as u64)?;
            return self.write_mounted(actor, &transfer, &file, start, &data);
        }
        let Open::Lower(lower) = self.opens[transfer.open].clone() else { return Err(UNSURE) };
        self.unless(
            self.lowers[lower.file].kind != Kind::Regular || self.lowers[lower.file].odd,
            Doubt::Everything,
        )?;
        let end = self.put_below(lower.file, (flags & O_APPEND == 0).then_some(start), &data)?;
        self.changed_below(lower.file, None);
        if transfer.at.is_none() {
            self.move_to(transfer.open, end);
        }
        Ok(Given::int(data.len() as u64, &["POSIX"]))
    }

    /// Put bytes into a lower file, at its end if no place is given. Gives where they end, if the content is known.
    fn put_below(&mut self, file: usize, at: Option<u64>, data: &[u8]) -> Result<Option<u64>, Stop> {
        let root = self.root_now(&self.lowers[file].root);
        self.unless(root.small || root.read_only, Doubt::Everything)?;
        let Some(bytes) = &mut self.lowers[file].bytes else {
            return Ok(at.map(|at| at + data.len() as u64));
        };
        let at = at.unwrap_or(bytes.len() as u64) as usize;
        let end = at + data.len();
        if !data.is_empty() {
            bytes.resize(bytes.len().max(end), 0);
            bytes[at..end].copy_from_slice(data);
        }
        Ok(Some(end as u64))
    }

    fn write_mounted(
        &mut self,
        actor: Actor,
        transfer: &Transfer,
        file: &FuseFile,
        start: u64,
        data: &[u8],
    ) -> Ruled {
        let (number, path) = self.place_of(file.node);
        let way = self.way_now(file);
        let lower = match way {
            Way::Passthrough(backing, false) | Way::Registered(backing) => Some(self.backings[backing].file),
            _ => self.lower_of(file.node),
        };
        // Privileges that a write takes away, limits, attributes: see the rules of credentials.
        let odd = lower.is_none_or(|lower| {
            let lower = &self.lowers[lower];
            lower.odd || lower.immutable || lower.append_only
        });
        let protected =
            lower.is_some_and(|lower| self.lowers[lower].immutable || self.lowers[lower].append_only);
        self.unless(self.person(actor).limited || protected || (odd && !self.foggy), Doubt::Everything)?;
        if data.is_empty() {
            return Ok(Given::int(0, &[file.rule_for_nothing()]));
        }
        if let Way::Registered(backing) = way {
            return self.write_registered(transfer, file, backing, start, data);
        }
        let Way::Passthrough(_, false) = way else {
            return self.write_asking(transfer, file, start, data);
        };
        let lower = lower.ok_or(UNSURE)?;
        self.unless(file.lower_flags & O_DIRECT != 0, Doubt::Everything)?;
        let ramfs = self.root_of(lower).is_some_and(|root| root.ramfs);
        self.refuse(file.flags & O_DIRECT != 0 && ramfs, "RW-16", EINVAL)?;
        self.unless(file.flags & O_DIRECT != 0 && !ramfs, Doubt::Everything)?;
        self.take_lock(file.node, false)?;
        if !self.lacks(number, Opcode::GETXATTR) {
            match self.optional(number, Opcode::GETXATTR, &path) {
                // One with a capability loses it, which asks for more.
                Ok(answer) => self.unless(!answer.plain(), Doubt::Everything)?,
                // Whatever is wrong, it means that there is no capability to strip.
                Err(Stop::Refused(..)) => {}
                Err(stop) => return Err(stop),
            }
        }
        let append =
            file.flags | transfer.rwf_append() | if transfer.asynchronous { 0 } else { file.lower_flags };
        let end = self.put_below(lower, (append & O_APPEND == 0).then_some(start), data)?;
        self.changed_below(lower, None);
        let node = &mut self.nodes[file.node];
        node.size = node.size.zip(end).map(|(size, end)| size.max(end));
        self.touched(file.node);
        if transfer.at.is_none() {
            self.move_to(transfer.open, end);
        }
        let rule = if append & O_APPEND != 0 { "RW-08" } else { "RW-02" };
        Ok(Given::int(data.len() as u64, &[rule]))
    }

    /// A write that goes to the registered file itself, whose size the inode has then; its times stay.
    fn write_registered(
        &mut self,
        transfer: &Transfer,
        file: &FuseFile,
        backing: usize,
        start: u64,
        data: &[u8],
    ) -> Ruled {
        let (lower, flags) = self.v12_write(file, backing)?;
        let append = file.flags | transfer.rwf_append() | if transfer.asynchronous { 0 } else { flags };
        let end = self.put_below(lower, (append & O_APPEND == 0).then_some(start), data)?;
        self.changed_below(lower, None);
        self.nodes[file.node].size = self.len_of(lower);
        if transfer.at.is_none() {
            self.move_to(transfer.open, end);
        }
        Ok(Given::int(data.len() as u64, &["T-19"]))
    }

    /// A write that the daemon carries out.
    fn write_asking(&mut self, transfer: &Transfer, file: &FuseFile, start: u64, data: &[u8]) -> Ruled {
        let (number, path) = self.place_of(file.node);
        let size = self.nodes[file.node].size;
        self.unless(self.flag(number, WRITEBACK_CACHE), Doubt::Everything)?;
        let append = (file.flags | transfer.rwf_append()) & O_APPEND != 0;
        let at = if append { size } else { Some(start) };
        let inside = at.zip(size).is_some_and(|(at, size)| at + data.len() as u64 <= size);
        let direct = self.way_now(file) != Way::Cached;
        self.unless(!direct && file.flags & O_DIRECT != 0, Doubt::Everything)?;
        // One with a capability loses it, which asks for more.
        self.unless(!direct && self.is_told_about(number, Opcode::GETXATTR), Doubt::Everything)?;
        self.take_lock(file.node, direct && file.reply & PARALLEL != 0 && inside && !append)?;
        let most = if data.len() > 4096 { u8::MAX } else { 2 };
        let most = if direct && data.len() <= 4096 { 1 } else { most };
        let fresh = self.nodes[file.node].fresh;
        // Even a write that fails (`fuse_write_update_attr`).
        self.nodes[file.node].fresh = fresh.in_doubt();
        let answer = self.requests(number, Opcode::WRITE, &path, 1, most)?;
        if file.flags & (O_SYNC | O_DSYNC) != 0 || transfer.rwf & (RWF_SYNC | RWF_DSYNC) != 0 {
            self.unless(self.is_told_about(number, Opcode::FSYNC), Doubt::Everything)?;
            self.log(number, Opcode::FSYNC, &path, 0, 1);
        }
        if let Some(errno) = answer.errno {
            self.nodes[file.node].cache = Cache::Unknown;
            return Err(Stop::Refused(errno, None, "WRITE-15"));
        }
        self.unless(!answer.only_has(&["size"]) || !answer.done, Doubt::Everything)?;
        let wrote = answer.field("size").unwrap_or(data.len() as i128);
        let too_much = self.refuse(wrote > data.len() as i128, "WRITE-22", EIO);
        let whole = wrote == data.len() as i128;
        if !whole {
            self.nodes[file.node].cache = Cache::Unknown;
        }
        // Whether there is room for it the daemon finds out.
        let root = self.lower_of(file.node).and_then(|lower| self.root_of(lower));
        self.unless(root.is_some_and(|root| root.small), Doubt::Everything)?;
        if let Some(lower) = self.known_lower_of(file.node) {
            match at {
                Some(_) => _ = self.put_below(lower, at, data)?,
                None => self.lowers[lower].bytes = None,
            }
            self.changed_below(lower, Some(file.node));
            if !whole && !direct {
                // After less than was asked for, no more is sent.
                self.lowers[lower].bytes = None;
            }
        }
        too_much?;
        self.nodes[file.node].fresh = fresh;
        let end = at.map(|at| at + wrote as u64);
        let node = &mut self.nodes[file.node];
        node.size = size.zip(end).map(|(size, end)| size.max(end));
        self.touched(file.node);
        if transfer.at.is_none() {
            self.move_to(transfer.open, end);
        }
        // Through the cache it may be an error that less was written, which is not followed.
        self.unless(!whole && !direct, Doubt::Outcome)?;
        // io_uring may ask for the rest, as for a read.
        self.unless(!whole && transfer.asynchronous && file.flags & O_DIRECT != 0, Doubt::Everything)?;
        let rule = match file.way {
            _ if !whole => "WRITE-22",
            Way::Passthrough(..) => "RW-26",
            Way::Cached | Way::Direct | Way::Registered(_) => "OPEN-13",
        };
        Ok(Given::int(wrote as u64, &[rule]))
    }
}

impl FuseFile {
    fn rule_for_nothing(&self) -> &'static str {
        match self.way {
            Way::Passthrough(..) => "RW-05",
            Way::Registered(_) => "T-19",
            Way::Cached | Way::Direct => "POSIX",
        }
    }

    fn rule_for_bad(&self) -> &'static str {
        if matches!(self.way, Way::Passthrough(..)) { "RW-29" } else { "WRITE-23" }
    }
}

impl Transfer {
    fn rwf_append(&self) -> u64 {
        if self.rwf & RWF_APPEND != 0 { O_APPEND } else { 0 }
    }
}
