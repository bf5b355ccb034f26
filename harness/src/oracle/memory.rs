//! Mappings: of the lower file, or of the kernel's own cache.

use super::numbers::*;
use super::ruling::{Doubt, Given, Ruled, Stop, UNSURE};
use super::world::*;
use crate::abi::Opcode;
use crate::program::{Actor, Call, Data, Outcome, Value};

impl World {
    pub(super) fn map(&mut self, actor: Actor, call: &Call) -> Ruled {
        let offset = self.number(actor, call, "offset", 0)? as u64;
        self.refuse(!offset.is_multiple_of(PAGE), "POSIX", EINVAL)?;
        // Nothing lies behind the largest file.
        self.unless(offset > i64::MAX as u64 / 2, Doubt::Outcome)?;
        self.unless(call.int("flags", 0) as u64 & MAP_ANONYMOUS != 0, Doubt::Outcome)?;
        let open = self.fd(actor, call, "fd")?;
        let Open::Fuse(file) = self.opens[open].clone() else {
            return Err(Stop::Unsure(Doubt::Outcome));
        };
        let (prot, flags) = (call.int("prot", 0) as u64, call.int("flags", 0) as u64);
        let shared = flags & MAP_SHARED != 0;
        let is_nothing = self.number(actor, call, "len", 0)? == 0;
        self.unless(flags & !0x8003 != 0, Doubt::Outcome)?;
        self.refuse(is_nothing || flags & (MAP_SHARED | MAP_PRIVATE) == 0, "POSIX", EINVAL)?;
        let mut access = file.flags & O_ACCMODE;
        self.refuse(access == O_WRONLY, "MMAP-03", EACCES)?;
        self.refuse(shared && prot & PROT_WRITE != 0 && access == O_RDONLY, "MMAP-03", EACCES)?;
        let (number, _) = self.place_of(file.node);
        let (of, rule) = match self.way_now(&file) {
            Way::Registered(backing) => {
                let (of, registered) = self.v12_map(backing, shared, prot)?;
                // Later protections are those of both.
                access = access.min(registered);
                (of, "T-22")
            }
            Way::Passthrough(backing, _) => {
                let lower = self.backings[backing].file;
                self.unless(
                    self.lowers[lower].append_only || self.lowers[lower].kind != Kind::Regular,
                    Doubt::Everything,
                )?;
                (Mapped::Lower(lower), "MMAP-01")
            }
            Way::Direct | Way::Cached => {
                let allowed = self.has("direct_io_allow_mmap") && self.flag(number, DIRECT_IO_ALLOW_MMAP);
                let direct = file.way == Way::Direct;
                self.refuse(direct && shared && !allowed, "MODE-08", ENODEV)?;
                let backed = self.nodes[file.node].mode.backing.is_some();
                if direct && shared && backed && self.waited {
                    return Err(Stop::Waits); // MODE-17
                }
                self.refuse(direct && backed, "MODE-05", ENODEV)?;
                if direct && shared && !file.cached_user {
                    self.join_cached(file.node)?;
                }
                if let Some(file) = self.fuse_mut(open) {
                    file.users += 1;
                    file.cached_user |= direct && shared;
                }
                (Mapped::Cache(open), "POSIX")
            }
        };
        // In the v12 dialect the mapping is the registered file's alone.
        let of_fuse = !matches!((of, self.speaks_v12()), (Mapped::Lower(_), true));
        if let Mapped::Lower(_) = of {
            if of_fuse {
                self.nodes[file.node].fresh_access = Fresh::No;
            }
        } else if self.nodes[file.node].cache != Cache::Empty && file.way == Way::Direct {
            self.nodes[file.node].cache = Cache::Unknown;
        }
        let len = self.number(actor, call, "len", 0)? as u64;
        self.maps.push(Map {
            actor,
            of,
            daemon: of_fuse.then_some(number),
            prot,
            shared,
            own_pages: false,
            offset,
            len,
            flags: access,
            gone: false,
        });
        Ok(Given::made(Thing::Map(self.maps.len() - 1), &[rule]))
    }

    /// The mapping that an argument names, and the place in it.
    fn mapping(&mut self, actor: Actor, call: &Call) -> Result<(usize, u64), Stop> {
        match call.arg("map") {
            Some(Value::Name(name, offset)) => match self.names.get(&(actor, name.clone())) {
                Some(Thing::Map(map)) if !self.maps[*map].gone => Ok((*map, *offset as u64)),
                _ => Err(UNSURE),
            },
            _ => Err(UNSURE),
        }
    }

    pub(super) fn load(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (index, offset) = self.mapping(actor, call)?;
        let map = self.maps[index].clone();
        let len = self.number(actor, call, "len", 0)? as u64;
        if len == 0 {
            return Ok(Given::one(Outcome::Data(Data(Vec::new())), &["POSIX"]));
        }
        self.unless(
            map.prot & PROT_READ == 0 || map.own_pages || offset + len > map.len.next_multiple_of(PAGE),
            Doubt::Everything,
        )?;
        let start = map.offset + offset;
        match map.of {
            Mapped::Lower(file) => {
                let size = self.len_of(file);
                let size = size.ok_or(Stop::Unsure(Doubt::Outcome))?;
                self.signal(start + len > size.next_multiple_of(PAGE), SIGBUS, "MMAP-13")?;
                // Somebody may have stored behind the end.
                self.unless(self.lowers[file].odd && start + len > size, Doubt::Outcome)?;
                let mut bytes = self.slice(file, start, len).unwrap_or_default();
                bytes.resize(len as usize, 0);
                Ok(Given::one(Outcome::Data(Data(bytes)), &[self.rule_for_shared_pages()]))
            }
            Mapped::Cache(open) => {
                let node = self.fuse(open)?.node;
                self.unless(self.nodes[node].bad, Doubt::Everything)?;
                let size = self.nodes[node].size.ok_or(UNSURE)?;
                self.unless(start + len > size.next_multiple_of(PAGE), Doubt::Everything)?;
                // A fault asks for pages and for no attributes, which a read may do.
                let is_told = self.is_told_about(self.nodes[node].daemon, Opcode::GETATTR);
                self.unless(is_told && self.nodes[node].fresh != Fresh::Yes, Doubt::Everything)?;
                let bytes = self.read_cached(node, start, len).map_err(of_a_fault)?;
                let mut bytes = bytes.ok_or(Stop::Unsure(Doubt::Outcome))?;
                // Behind the end of the file a page is 0, unless somebody stored there.
                bytes.resize(len as usize, 0);
                Ok(Given::one(Outcome::Data(Data(bytes)), &["POSIX"]))
            }
        }
    }

    fn rule_for_shared_pages(&self) -> &'static str {
        if self.speaks_v12() { "T-22" } else { "MMAP-04" }
    }

    fn signal(&mut self, when: bool, signal: i32, rule: &'static str) -> Result<(), Stop> {
        match self.refuse(when, rule, 0) {
            Err(_) => Err(Stop::Signal(signal, rule)),
            Ok(()) => Ok(()),
        }
    }

    pub(super) fn store(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (index, offset) = self.mapping(actor, call)?;
        let map = self.maps[index].clone();
        let data = call.data("data").0;
        let len = data.len() as u64;
        if len == 0 {
            return Ok(Given::ok(&["POSIX"]));
        }
        self.unless(offset + len > map.len.next_multiple_of(PAGE), Doubt::Everything)?;
        self.signal(map.prot & PROT_WRITE == 0, SIGSEGV, "MMAP-03")?;
        let start = map.offset + offset;
        match map.of {
            Mapped::Lower(file) => {
                let size = self.len_of(file);
                let size = size.ok_or(UNSURE)?;
                let is_beyond = start + len > size.next_multiple_of(PAGE);
                if is_beyond {
                    // Pages before the one that is not there have got their part.
                    self.lowers[file].bytes = None;
                    self.lowers[file].odd = true;
                    self.maps[index].own_pages = true;
                    self.changed_below(file, None);
                }
                self.signal(is_beyond, SIGBUS, "MMAP-13")?;
                if map.shared {
                    let end = (start + len).min(size);
                    if let Some(bytes) = self.lowers[file].bytes.as_mut().filter(|_| start < end) {
                        bytes[start as usize..end as usize].copy_from_slice(&data[..(end - start) as usize]);
                    }
                    // What lies behind the end in the last page is seen by whoever maps it or makes the file longer.
                    if start + len > size {
                        self.lowers[file].odd = true;
                        self.maps[index].own_pages = true;
                    }
                    self.changed_below(file, None);
                } else {
                    self.maps[index].own_pages = true;
                }
                Ok(Given::ok(&[self.rule_for_shared_pages()]))
            }
            Mapped::Cache(open) => {
                let node = self.fuse(open)?.node;
                let (number, path) = self.place_of(node);
                self.unless(self.nodes[node].bad, Doubt::Everything)?;
                let size = self.nodes[node].size.ok_or(UNSURE)?;
                self.unless(start + len > size.next_multiple_of(PAGE), Doubt::Everything)?;
                self.nodes[node].fresh_access = self.nodes[node].fresh_access.in_doubt();
                let answer = self.requests(number, Opcode::READ, &path, 0, u8::MAX).map_err(of_a_fault)?;
                // Less than was asked for is where the file ends.
                let below = self.lower_of(node).and_then(|lower| self.len_of(lower));
                let is_shorter = below.is_none_or(|below| below < size);
                self.unless(answer.data.is_some() || is_shorter, Doubt::Everything)?;
                if map.shared {
                    // When the page is written back is the kernel's to choose.
                    self.daemon(number).writes_back = true;
                    self.nodes[node].cache = Cache::Unknown;
                    self.nodes[node].fresh = self.nodes[node].fresh.in_doubt();
                    self.doubt(Doubt::Traffic);
                    if let Some(file) = self.lower_of(node) {
                        self.lowers[file].bytes = None;
                    }
                } else {
                    self.maps[index].own_pages = true;
                }
                Ok(Given::ok(&["POSIX"]))
            }
        }
    }

    pub(super) fn protect(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (index, _) = self.mapping(actor, call)?;
        let map = self.maps[index].clone();
        let prot = call.int("prot", 0) as u64;
        self.refuse(map.shared && prot & PROT_WRITE != 0 && map.flags == O_RDONLY, "MMAP-03", EACCES)?;
        self.maps[index].prot = prot;
        Ok(Given::ok(&["MMAP-10"]))
    }

    pub(super) fn synchronise(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (index, _) = self.mapping(actor, call)?;
        let both = (MS_ASYNC | MS_SYNC) as i128;
        self.refuse(call.int("flags", 0) & both == both, "POSIX", EINVAL)?;
        match self.maps[index].of {
            // To the lower file only; that one's own file system may be asked.
            Mapped::Lower(file) if self.root_of(file).is_some_and(|root| root.foreign.is_none()) => {
                Ok(Given::ok(&["MMAP-12"]))
            }
            _ => Err(Stop::Unsure(Doubt::Traffic)),
        }
    }

    pub(super) fn munmap(&mut self, actor: Actor, call: &Call) -> Ruled {
        let (index, _) = self.mapping(actor, call)?;
        self.unmap(index);
        Ok(Given::ok(&["POSIX"]))
    }

    pub(super) fn unmap(&mut self, index: usize) {
        if std::mem::replace(&mut self.maps[index].gone, true) {
            return;
        }
        if let Mapped::Cache(open) = self.maps[index].of {
            self.put(open);
        }
        if let Some(number) = self.maps[index].daemon {
            self.end_if_idle(number);
        }
    }
}

/// A page that cannot be read is a signal for whoever touches it; which one may be there already is not followed.
fn of_a_fault(stop: Stop) -> Stop {
    if let Stop::Refused(..) = stop { UNSURE } else { stop }
}
