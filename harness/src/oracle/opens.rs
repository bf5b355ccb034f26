//! Opening and closing: names, open files, who has them, and when the daemon hears of it.

use super::daemon::{Held, Phase};
use super::numbers::*;
use super::ruling::{Doubt, Given, Ruled, Stop, UNSURE};
use super::world::*;
use crate::abi::Opcode;
use crate::program::{Actor, Call, Side, Value};

/// Where a path leads.
pub(super) enum Place {
    Fuse(u8, String),
    Lower(String, String),
    Absolute(String),
}

impl World {
    pub(super) fn place(&self, actor: Actor, text: &str) -> Place {
        if text.starts_with('/') {
            return Place::Absolute(text.into());
        }
        let own = match (actor.side, actor.number) {
            (Side::App, _) => "mnt".to_string(),
            (_, number) => lower_name(number),
        };
        let (root, path) = text.split_once(':').unwrap_or((own.as_str(), text));
        match mount_number(root) {
            Some(number) => Place::Fuse(number, path.into()),
            None => Place::Lower(root.into(), path.into()),
        }
    }

    /// The lower file system that a call's path leads to and the name there; other places are outside of the model.
    pub(super) fn place_below(&self, actor: Actor, call: &Call) -> Result<(String, String), Stop> {
        match self.place(actor, call.text("path")) {
            Place::Lower(root, path) => Ok((root, path)),
            _ => Err(UNSURE),
        }
    }

    /// The daemon of a mounted place and the name there; other places are outside of the model.
    pub(super) fn mounted(&mut self, actor: Actor, text: &str) -> Result<(u8, String), Stop> {
        match self.place(actor, text) {
            Place::Fuse(number, path) => {
                let connection = self.connection(number);
                let simple = !path.is_empty() && !path.contains('/');
                self.unless(!connection.mounted || connection.lazy || !simple, Doubt::Everything)?;
                Ok((number, path))
            }
            _ => Err(UNSURE),
        }
    }

    pub(super) fn open(&mut self, actor: Actor, call: &Call) -> Ruled {
        let flags = call.int("flags", 0) as u64;
        // Without data, for ioctl(2) only: not modelled, and neither is what is done with such a file.
        self.lost |= flags & O_ACCMODE == O_ACCMODE;
        match self.place(actor, call.text("path")) {
            Place::Fuse(..) => {
                let made = self.open_mounted(actor, call, flags);
                if let (Err(Stop::Unsure(_)), Place::Fuse(number, _)) =
                    (&made, self.place(actor, call.text("path")))
                {
                    self.unsure_modes(number);
                }
                made
            }
            Place::Lower(root, path) => self.open_below(actor, &root, &path, flags),
            Place::Absolute(path) => {
                let kind = match path.as_str() {
                    "/dev/null" => Kind::Special,
                    path if path.starts_with("/proc/self/ns/") => Kind::Unknown,
                    path if path.starts_with("/proc/") => Kind::Deep,
                    _ => Kind::Unknown,
                };
                let given = self.open_other(actor, kind, flags);
                // Whether it is there is the system's business.
                Ok(if kind == Kind::Unknown { given.untold() } else { given })
            }
        }
    }

    /// An open whose outcome is not known may have changed any mode of that mount.
    pub(super) fn unsure_modes(&mut self, number: u8) {
        for node in self.nodes.iter_mut().filter(|node| node.daemon == number) {
            node.mode.unsure = true;
        }
    }

    /// Something that is no file of a known file system.
    pub(super) fn open_other(&mut self, actor: Actor, kind: Kind, flags: u64) -> Given {
        let file = self.new_lower(kind, "");
        self.lowers[file].odd = true;
        self.new_fd(actor, Open::Lower(LowerOpen { file, flags, position: None, users: 1 }))
    }

    pub(super) fn new_lower(&mut self, kind: Kind, root: &str) -> usize {
        self.lowers.push(LowerFile {
            kind,
            root: root.into(),
            bytes: (kind == Kind::Regular && !root.is_empty()).then(Vec::new),
            odd: false,
            immutable: false,
            append_only: false,
        });
        self.lowers.len() - 1
    }

    pub(super) fn new_fd(&mut self, actor: Actor, open: Open) -> Given {
        self.opens.push(open);
        self.fds.push((actor, self.opens.len() - 1));
        Given::made(Thing::Fd(self.opens.len() - 1), &["POSIX"])
    }

    fn open_below(&mut self, actor: Actor, root: &str, path: &str, flags: u64) -> Ruled {
        let state = self.root_now(root);
        if state.foreign.is_some() || self.foggy {
            let file =
                self.new_lower(if state.foreign.is_some() { Kind::Regular } else { Kind::Unknown }, root);
            self.lowers[file].bytes = None;
            self.lowers[file].odd = true;
            let open = Open::Lower(LowerOpen { file, flags, position: None, users: 1 });
            // Its own daemon is asked; whether it works, that one decides.
            self.doubt(Doubt::Traffic);
            let given = self.new_fd(actor, open);
            return Ok(given.untold());
        }
        self.unless(flags & O_TMPFILE & !O_DIRECTORY != 0 || !state.mounted, Doubt::Everything)?;
        let known = state.names.get(path).copied();
        let file = match known {
            Some(file) => {
                self.refuse(flags & O_CREAT != 0 && flags & O_EXCL != 0, "POSIX", EEXIST)?;
                let special =
                    !matches!(self.lowers[file].kind, Kind::Regular | Kind::Directory | Kind::Special);
                self.unless(special, Doubt::Outcome)?;
                self.unless(flags & O_CREAT != 0 && flags & O_DIRECTORY != 0, Doubt::Outcome)?;
                let is_directory = self.lowers[file].kind == Kind::Directory;
                self.refuse(flags & O_DIRECTORY != 0 && !is_directory, "POSIX", ENOTDIR)?;
                if flags & O_TRUNC != 0 {
                    self.lowers[file].bytes = Some(Vec::new());
                    self.changed_below(file, None);
                }
                file
            }
            None if path.is_empty() => self.new_lower(Kind::Directory, root),
            None => {
                self.unless(path.contains('/'), Doubt::Everything)?;
                self.refuse(flags & O_CREAT == 0, "POSIX", ENOENT)?;
                let file = self.new_lower(Kind::Regular, root);
                self.root(root).names.insert(path.into(), file);
                file
            }
        };
        let writes = flags & O_ACCMODE != O_RDONLY && flags & O_PATH == 0;
        self.refuse(writes && state.read_only, "POSIX", EROFS)?;
        let odd = self.person(actor).ordinary || self.lowers[file].immutable || self.lowers[file].append_only;
        let odd = odd || (state.ramfs && flags & O_DIRECT != 0);
        self.unless(odd && flags & O_PATH == 0, Doubt::Outcome)?;
        // A symbolic link, a socket or a fifo: what opening one means is not looked at.
        let given = self.new_fd(actor, Open::Lower(LowerOpen { file, flags, position: Some(0), users: 1 }));
        if self.lowers[file].kind == Kind::Special && flags & O_PATH == 0 {
            return Ok(given.untold());
        }
        Ok(given)
    }

    pub(super) fn root(&mut self, name: &str) -> &mut Root {
        self.roots.entry(name.into()).or_default()
    }

    /// The same as it is now, to be looked at while the world changes.
    pub(super) fn root_now(&self, name: &str) -> Root {
        self.roots.get(name).cloned().unwrap_or_default()
    }

    /// The inode that a name of a mount stands for, if there is one.
    pub(super) fn lookup(&mut self, number: u8, path: &str) -> Result<Option<usize>, Stop> {
        self.refuse(self.connection(number).root_is_bad, "WRITE-23", EIO)?;
        if let Some(known) = self.named_node(number, path) {
            // The name of a bad inode is asked for again, which finds that inode for as long as something holds it.
            if self.nodes[known].bad {
                let answer = self.request(number, Opcode::LOOKUP, path)?;
                self.unless(!answer.plain() || !self.is_open(known), Doubt::Everything)?;
            }
            return Ok(Some(known));
        }
        if self.connection(number).absent.contains(path) {
            return Ok(None);
        }
        // The same name is waited for, and without PARALLEL_DIROPS any other: what its answer makes of this call is not followed.
        let is_asked = |held: &Held| held.opcode == Opcode::LOOKUP && !held.over;
        let others = self.daemon(number).held.values().any(is_asked);
        self.unless(others || self.connection(number).unsure_names, Doubt::Everything)?;
        // A name that was there before is asked for once more when it is found to be wrong.
        let was_there = self.nodes.iter().any(|node| node.is_at(number, path));
        let answer = self.request(number, Opcode::LOOKUP, path);
        let is_cut = matches!(answer, Err(Stop::Refused(.., "WRITE-17")));
        self.unless(was_there && is_cut, Doubt::Everything)?;
        let answer = answer?;
        let root = self.root_now(&lower_name(number));
        let is_another = answer.errno.is_some() || answer.field("nodeid").is_some();
        self.unless(was_there && is_another, Doubt::Everything)?;
        if let Some(errno) = answer.errno {
            if errno != ENOENT {
                return Err(Stop::Refused(errno, None, "WRITE-15"));
            }
            self.daemon(number).connection.missed.insert(path.into());
            return Ok(None);
        }
        let file = root.names.get(path).copied();
        let valid = answer.field("entry_valid").is_none_or(|valid| valid > 0);
        match answer.field("nodeid") {
            Some(0) => {
                // The daemon has given it another one before.
                self.daemon(number).next_node = None;
                if valid {
                    self.daemon(number).connection.absent.insert(path.into());
                }
                return Ok(None);
            }
            Some(1) => {
                if answer.field("mode").is_none() {
                    self.daemon(number).connection.phase = Phase::Unsure;
                    return Err(UNSURE);
                }
                let spoils = answer.kind() != S_IFDIR;
                let refused = self.refuse(true, "WRITE-23", EIO);
                self.daemon(number).connection.root_is_bad |= spoils && refused.is_err();
                refused?;
            }
            Some(_) => return Err(UNSURE),
            None => {}
        }
        self.unless(root.foreign.is_some() || self.foggy || !answer.done, Doubt::Everything)?;
        let Some(file) = file else {
            self.unless(!answer.plain(), Doubt::Everything)?;
            self.daemon(number).connection.missed.insert(path.into());
            return Ok(None);
        };
        self.unless(self.lowers[file].kind != Kind::Regular, Doubt::Everything)?;
        let spoiled = matches!(answer.kind(), 0 | S_IFMT) || answer.has_impossible_size();
        self.unless(was_there && spoiled, Doubt::Everything)?;
        self.refuse(spoiled, "WRITE-23", EIO)?;
        self.unless(answer.kind() != S_IFREG, Doubt::Everything)?;
        self.unless(
            !answer.only_has(&["size", "mode", "entry_valid", "attr_valid", "uid", "gid"]),
            Doubt::Everything,
        )?;
        let node = self.node(number, path);
        self.unless(self.nodes[node].bad && !self.is_open(node), Doubt::Everything)?;
        self.nodes[node].named = valid;
        if !valid {
            self.daemon(number).connection.missed.insert(path.into());
        }
        if self.nodes[node].changed_at <= self.asked_at {
            self.keep_attributes(node, &answer);
        }
        Ok(Some(node))
    }

    /// The inode that a call names by a path of a mount; others are outside of the model.
    pub(super) fn mounted_inode(&mut self, actor: Actor, call: &Call) -> Result<usize, Stop> {
        let (number, path) = self.mounted(actor, call.text("path"))?;
        let found = self.lookup(number, &path)?;
        self.required(found, "POSIX", ENOENT)
    }

    /// The inode of a name that the loopback was just asked for: the one it had, or a new one.
    pub(super) fn node(&mut self, number: u8, path: &str) -> usize {
        if let Some(node) = self.nodes.iter().position(|node| node.is_at(number, path)) {
            return node;
        }
        let daemon = self.daemon(number);
        let id = daemon.next_node;
        daemon.next_node = id.map(|id| id + 1);
        self.nodes.push(Node {
            daemon: number,
            path: path.into(),
            named: true,
            bad: false,
            nobodys: false,
            mode: super::modes::Mode::default(),
            size: None,
            fresh: Fresh::Yes,
            fresh_access: Fresh::Yes,
            changed_at: 0,
            cache: Cache::Empty,
            id,
        });
        self.nodes.len() - 1
    }

    fn open_mounted(&mut self, actor: Actor, call: &Call, flags: u64) -> Ruled {
        let (number, path) = self.mounted(actor, call.text("path"))?;
        if flags & O_DIRECTORY != 0 {
            self.v12_folder();
        }
        let (connection, odd) = (self.connection(number), O_PATH | O_DIRECTORY | O_TMPFILE);
        let checked = connection.default_permissions && self.person(actor).ordinary;
        self.unless(checked || connection.read_only || flags & odd != 0, Doubt::Everything)?;
        let found = self.lookup(number, &path)?;
        let Some(node) = found else {
            self.refuse(flags & O_CREAT == 0, "POSIX", ENOENT)?;
            if !matches!(self.connection(number).phase, Phase::Detached | Phase::Ended) {
                self.daemon(number).connection.absent.remove(&path);
            }
            return self.create(actor, number, &path, flags);
        };
        self.refuse(flags & O_CREAT != 0 && flags & O_EXCL != 0, "POSIX", EEXIST)?;
        self.refuse(self.nodes[node].bad, "OPEN-40", EIO)?;
        self.unless(self.nodes[node].nobodys, Doubt::Everything)?;
        let mut reply = KEEP_CACHE;
        let mut id = 0;
        if !self.lacks(number, Opcode::OPEN) {
            let answer = self.request(number, Opcode::OPEN, &path)?;
            match answer.errno {
                Some(ENOSYS) => self.daemon(number).connection.without.push(Opcode::OPEN),
                Some(errno) => return Err(Stop::Refused(errno, None, "WRITE-15")),
                None => {
                    reply = answer.field("open_flags").unwrap_or(0) as u64;
                    id = answer.field("backing_id").unwrap_or(0);
                }
            }
        }
        let given = self.opened(actor, node, flags, reply, id)?;
        if flags & O_TRUNC != 0 {
            if self.flag(number, ATOMIC_O_TRUNC) {
                let state = &mut self.nodes[node];
                (state.size, state.fresh) = (Some(0), Fresh::No);
                state.cache = Cache::Empty;
            } else if let Err(stop) = self.truncated(node, 0) {
                let Some(Thing::Fd(open)) = given.made else { return Err(stop) };
                if stop != Stop::Waits {
                    self.release(actor, open);
                }
                return Err(stop);
            }
        }
        Ok(given)
    }

    /// The reply to an open or create was well formed: let it in, or refuse it.
    fn opened(&mut self, actor: Actor, node: usize, flags: u64, reply: u64, id: i128) -> Ruled {
        let (number, path) = self.place_of(node);
        let silent = self.lacks(number, Opcode::OPEN);
        // Where ENOSYS is not final, what it means for modes is not modelled.
        self.unless(silent && !self.has("enosys_open_is_final"), Doubt::Everything)?;
        let way = match self.admit(node, flags, reply, id) {
            Ok(way) => way,
            Err(Stop::Refused(inner, _, rule)) => {
                // OPEN-05: RELEASE is sent and waited for, unless OPEN-06.
                if !silent {
                    self.request(number, Opcode::RELEASE, &path)?;
                }
                return Err(Stop::Refused(EIO, Some(inner), rule));
            }
            Err(stop) => return Err(stop),
        };
        if reply & KEEP_CACHE == 0 {
            let mapped = self.maps.iter().any(|map| {
                matches!(map.of, Mapped::Cache(open) if !map.gone && self.fuse_node(open) == Some(node))
            });
            self.nodes[node].cache = if mapped { Cache::Unknown } else { Cache::Empty };
        }
        let file = FuseFile {
            node,
            way,
            flags,
            lower_flags: flags,
            reply,
            position: Some(0),
            users: 1,
            cached_user: way == Way::Cached,
        };
        let mut given = self.new_fd(actor, Open::Fuse(file));
        given.ruling.rules = match way {
            Way::Passthrough(..) => vec!["OPEN-01"],
            Way::Registered(_) if self.has("v12_rework") => vec!["T-31"],
            Way::Registered(_) => vec!["T-13"],
            Way::Direct | Way::Cached if self.speaks_v12() => self.v12_ordinary(number, id),
            Way::Direct | Way::Cached if reply & PASSTHROUGH != 0 => vec!["OPEN-02"],
            Way::Direct | Way::Cached => vec!["OPEN-13"],
        };
        Ok(given)
    }

    fn fuse_node(&self, open: usize) -> Option<usize> {
        match &self.opens[open] {
            Open::Fuse(file) => Some(file.node),
            Open::Lower(_) => None,
        }
    }

    fn create(&mut self, actor: Actor, number: u8, path: &str, flags: u64) -> Ruled {
        let answer = self.request(number, Opcode::CREATE, path)?;
        if let Some(errno) = answer.errno {
            self.unless(errno == ENOSYS, Doubt::Everything)?;
            return Err(Stop::Refused(errno, None, "WRITE-15"));
        }
        let lower = lower_name(number);
        let root = self.root_now(&lower);
        self.unless(
            !answer.done || root.foreign.is_some() || !root.mounted || root.read_only,
            Doubt::Everything,
        )?;
        if !root.names.contains_key(path) {
            let file = self.new_lower(Kind::Regular, &lower);
            self.root(&lower).names.insert(path.into(), file);
        }
        self.unless(answer.field("nodeid").is_some_and(|id| id > 1), Doubt::Everything)?;
        let node = self.node(number, path);
        self.nodes[node].named = false;
        let cannot_be =
            answer.kind() != S_IFREG || answer.has_impossible_size() || answer.field("nodeid").is_some();
        self.refuse(cannot_be, "OPEN-17", EIO)?;
        self.nodes[node].named = answer.field("entry_valid").is_none_or(|valid| valid > 0);
        self.keep_attributes(node, &answer);
        let reply = answer.field("open_flags").unwrap_or(0) as u64;
        self.opened(actor, node, flags, reply, answer.field("backing_id").unwrap_or(0))
    }

    /// The open file that an argument names.
    pub(super) fn fd(&mut self, actor: Actor, call: &Call, name: &str) -> Result<usize, Stop> {
        match call.arg(name) {
            Some(Value::Name(fd, 0)) => match self.names.get(&(actor, fd.clone())) {
                Some(Thing::Fd(open)) if self.fds.contains(&(actor, *open)) => Ok(*open),
                Some(Thing::Fd(_)) => {
                    self.refuse(true, "POSIX", EBADF)?;
                    Err(UNSURE)
                }
                Some(Thing::Foreign) => Err(Stop::Unsure(Doubt::Outcome)),
                _ => Err(UNSURE),
            },
            Some(Value::Int(number)) if !(0..1000).contains(number) => {
                self.refuse(true, "POSIX", EBADF)?;
                Err(UNSURE)
            }
            _ => Err(UNSURE),
        }
    }

    /// A FUSE file, apart from its place.
    pub(super) fn fuse(&mut self, open: usize) -> Result<FuseFile, Stop> {
        match &self.opens[open] {
            Open::Fuse(file) => Ok(file.clone()),
            Open::Lower(_) => Err(UNSURE),
        }
    }

    pub(super) fn fuse_mut(&mut self, open: usize) -> Option<&mut FuseFile> {
        match &mut self.opens[open] {
            Open::Fuse(file) => Some(file),
            Open::Lower(_) => None,
        }
    }

    pub(super) fn close(&mut self, actor: Actor, call: &Call) -> Ruled {
        let open = self.fd(actor, call, "fd")?;
        let is_foreign = |file: &LowerOpen| self.lowers[file.file].kind == Kind::Unknown;
        let foreign = matches!(&self.opens[open], Open::Lower(file) if is_foreign(file));
        let flushed = self.flush(open)?;
        let waits = self.may_wait_for_release(open);
        self.release(actor, open);
        waits?;
        let closed = Given::ok(&["FWD-02"]);
        flushed.map_or(Ok(if foreign { closed.untold() } else { closed }), Err)
    }

    /// FLUSH, as each close of a descriptor sends it; gives why close(2) complains, if it does.
    fn flush(&mut self, open: usize) -> Result<Option<Stop>, Stop> {
        let Open::Fuse(file) = self.opens[open].clone() else { return Ok(None) };
        let node = self.nodes[file.node].clone();
        if node.bad {
            return Ok(self.refuse(true, "WRITE-23", EIO).err());
        }
        let heeds = !self.flag(node.daemon, WRITEBACK_CACHE);
        if (file.reply & NOFLUSH != 0 && heeds) || self.connection(node.daemon).read_only {
            return Ok(None);
        }
        if !heeds {
            // How many blocks the file has is asked for from then on (`fuse_flush`).
            let fresh = &mut self.nodes[file.node].fresh;
            *fresh = fresh.in_doubt();
        }
        match self.optional(node.daemon, Opcode::FLUSH, &node.path) {
            Ok(answer) => Ok(answer.errno.map(|errno| Stop::Refused(errno, None, "FWD-02"))),
            Err(stop @ Stop::Refused(..)) => Ok(Some(stop)),
            Err(stop) => Err(stop),
        }
    }

    /// The actor has one descriptor less of it.
    pub(super) fn release(&mut self, actor: Actor, open: usize) {
        if let Some(fd) = self.fds.iter().position(|fd| *fd == (actor, open)) {
            self.fds.remove(fd);
        }
        self.put(open);
    }

    /// An open file has one user less; with the last one it goes, and the daemon hears of it.
    pub(super) fn put(&mut self, open: usize) {
        let users = self.opens[open].users();
        *users = users.saturating_sub(1);
        match self.opens[open].clone() {
            Open::Lower(file) => self.let_go(file.file),
            Open::Fuse(file) if file.users == 0 => {
                self.leave_mode(file.node, file.way, file.cached_user);
                let (number, path) = self.place_of(file.node);
                // A request in flight may keep the file for a while.
                if self.daemon(number).unsteady {
                    self.unsure_modes(number);
                    self.log(number, Opcode::RELEASE, &path, 0, 1);
                } else if !self.lacks(number, Opcode::OPEN) {
                    self.post(number, Opcode::RELEASE, &path);
                }
                self.end_if_idle(number);
            }
            Open::Fuse(_) => {}
        }
    }

    /// Somebody has a lower file open no more. If another daemon serves it, that one may hear of it.
    pub(super) fn let_go(&mut self, file: usize) {
        if self.root_of(file).is_some_and(|root| root.foreign.is_some()) {
            self.doubt(Doubt::Traffic);
        }
    }

    /// A lazily unmounted connection ends with its last file and mapping.
    pub(super) fn end_if_idle(&mut self, number: u8) {
        let connection = self.connection(number);
        if connection.lazy && connection.phase != Phase::Ended && !self.mount_is_busy(number) {
            self.end(number);
        }
    }

    pub(super) fn dup(&mut self, actor: Actor, from: Actor, call: &Call) -> Ruled {
        let name = match call.arg("fd") {
            Some(Value::Name(name, _)) => name.clone(),
            _ => return Err(Stop::Unsure(Doubt::Outcome)),
        };
        let Some(Thing::Fd(open)) = self.names.get(&(from, name)).cloned() else {
            return Err(Stop::Unsure(Doubt::Outcome));
        };
        self.unless(!self.fds.contains(&(from, open)), Doubt::Outcome)?;
        self.hand_to(actor, open);
        Ok(Given::made(Thing::Fd(open), &["POSIX"]))
    }

    /// The actor has one descriptor more of it.
    fn hand_to(&mut self, actor: Actor, open: usize) {
        *self.opens[open].users() += 1;
        self.fds.push((actor, open));
    }

    /// A child has what its parent has.
    pub(super) fn fork(&mut self, actor: Actor, child: Actor) -> Given {
        let fds: Vec<usize> =
            self.fds.iter().filter(|(whose, _)| *whose == actor).map(|(_, open)| *open).collect();
        for open in fds {
            self.hand_to(child, open);
        }
        let names: Vec<_> = self.names.iter().filter(|((whose, _), _)| *whose == actor).collect();
        let names: Vec<_> =
            names.into_iter().map(|((_, name), thing)| (name.clone(), thing.clone())).collect();
        for (name, thing) in names {
            let thing = match thing {
                Thing::Map(map) => {
                    let mut copy = self.maps[map].clone();
                    copy.actor = child;
                    // Stores before the fork are in both, later ones are not told apart.
                    if let Mapped::Cache(open) = copy.of {
                        *self.opens[open].users() += 1;
                    }
                    self.maps.push(copy);
                    Thing::Map(self.maps.len() - 1)
                }
                other => other,
            };
            self.names.insert((child, name), thing);
        }
        let person = self.person(actor);
        self.people.insert(child, person);
        Given::ok(&["POSIX"])
    }

    /// A process ends: first its mappings go, then its descriptors from the lowest on.
    pub(super) fn ends(&mut self, actor: Actor) {
        for map in 0..self.maps.len() {
            if self.maps[map].actor == actor {
                self.unmap(map);
            }
        }
        while let Some((_, open)) = self.fds.iter().find(|(whose, _)| *whose == actor).copied() {
            let _ = self.flush(open);
            self.release(actor, open);
        }
        self.names.retain(|(whose, _), _| *whose != actor);
    }
}
