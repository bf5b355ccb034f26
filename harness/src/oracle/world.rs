//! The state that the oracle keeps: what the kernel, the lower file systems and the daemons would hold. Plain data;
//! transitions are in the modules beside it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::daemon::Daemon;
use super::modes::Mode;
use super::ruling::{Doubt, Stop};
use super::traffic::Sent;
use crate::abi::Opcode;
use crate::program::{Actor, Call, Profile, Reply, Value};

/// Everything.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) has: BTreeSet<String>,
    /// A rule that this oracle gets wrong on purpose: what it refuses is let through.
    pub(super) flipped: Option<String>,
    /// Rules that have refused something, and with which errno.
    pub(super) refusals: BTreeSet<(&'static str, i32)>,
    pub(super) daemons: BTreeMap<u8, Daemon>,
    pub(super) roots: BTreeMap<String, Root>,
    pub(super) lowers: Vec<LowerFile>,
    pub(super) nodes: Vec<Node>,
    pub(super) opens: Vec<Open>,
    pub(super) maps: Vec<Map>,
    pub(super) backings: Vec<Backing>,
    pub(super) names: BTreeMap<(Actor, String), Thing>,
    /// One element for each descriptor: whose, and of which of `opens`.
    pub(super) fds: Vec<(Actor, usize)>,
    pub(super) people: BTreeMap<Actor, Person>,
    /// Something was done that the model has no word for: nothing is known from there on.
    pub(super) lost: bool,
    /// Names and contents may have changed behind the model's back.
    pub(super) foggy: bool,
    /// How the requests of the call in progress were answered so far; the next ones come from `replay` first.
    pub(super) served: Vec<(Opcode, Reply)>,
    pub(super) replay: VecDeque<(Opcode, Reply)>,
    /// How often a call has changed a size or a time in the kernel's own books.
    pub(super) changes: u64,
    /// The value of `changes` when the request was sent whose answer is looked at.
    pub(super) asked_at: u64,
    /// The same for the answers in `replay`.
    pub(super) replay_asked_at: u64,
    /// What the call in progress waits for, if that is a held request.
    pub(super) awaits: Option<(u8, String)>,
    /// A call in progress is outside of the model: it may have locked any inode.
    pub(super) may_wait: bool,
    /// The call in progress has waited before.
    pub(super) waited: bool,
    /// The inode that the call in progress has locked, and whether it shares it with other direct writes.
    pub(super) lock: Option<(usize, bool)>,
    /// Held requests that were answered just now, for whoever waits for them.
    pub(super) settled: Vec<(u8, String, Reply)>,
    /// Held requests that the daemon gets again, for whoever waits for them.
    pub(super) resent: Vec<(u8, String)>,
    /// Locks of calls that wait for the daemon: which call, which inode, whether shared.
    pub(super) locked: Vec<(String, usize, bool)>,
}

/// Something that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    /// One of `opens`.
    Fd(usize),
    /// One of `maps`.
    Map(usize),
    /// A backing id.
    Id(i64),
    /// Something that has nothing to do with files.
    Foreign,
    /// Something outside of the model.
    Unknown,
}

/// A process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Person {
    /// Has it lost CAP_SYS_ADMIN in the initial namespace?
    pub(super) unprivileged: bool,
    /// Is it anybody but root, or root without all capabilities?
    pub(super) ordinary: bool,
    /// Do its limits have to be reckoned with?
    pub(super) limited: bool,
}

/// A lower file system.
#[derive(Clone, Debug, Default)]
pub(super) struct Root {
    /// Is it a file system of its own, or a folder of the stage?
    pub(super) mounted: bool,
    /// Overlays and other FUSE mounts are no part of the model; their depth is.
    pub(super) foreign: Option<Option<u32>>,
    /// Which root it hides, holds up or shows, so that that one is busy.
    pub(super) over: Option<String>,
    pub(super) ramfs: bool,
    pub(super) small: bool,
    pub(super) read_only: bool,
    pub(super) names: BTreeMap<String, usize>,
}

/// What a lower name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Directory,
    Special,
    /// A regular file of a file system that counts as deepest.
    Deep,
    Unknown,
}

/// A file below.
#[derive(Clone, Debug)]
pub(super) struct LowerFile {
    pub(super) kind: Kind,
    pub(super) root: String,
    /// Its content, if known.
    pub(super) bytes: Option<Vec<u8>>,
    /// Set-id bits, attributes or seals that change what a write does.
    pub(super) odd: bool,
    pub(super) immutable: bool,
    pub(super) append_only: bool,
}

/// What is known of attributes that the kernel keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fresh {
    Yes,
    No,
    Unknown,
}

impl Fresh {
    /// The same after something that may have made them stale: those that are, still are.
    pub(super) fn in_doubt(self) -> Fresh {
        if self == Fresh::Yes { Fresh::Unknown } else { self }
    }
}

/// What the kernel's own page cache of an inode holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cache {
    Empty,
    /// Nothing that the daemon would answer otherwise now.
    Same,
    Unknown,
}

/// An inode of a FUSE mount.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) daemon: u8,
    /// Where the loopback finds it below.
    pub(super) path: String,
    /// Does the kernel know the name for the next hour?
    pub(super) named: bool,
    pub(super) bad: bool,
    /// Its owner is nobody that the kernel knows: who may change it is not followed.
    pub(super) nobodys: bool,
    pub(super) mode: Mode,
    pub(super) size: Option<u64>,
    /// Are size and times valid (what a write spoils), and the access time (what a read spoils)?
    pub(super) fresh: Fresh,
    pub(super) fresh_access: Fresh,
    /// The value of `changes` at its last one.
    pub(super) changed_at: u64,
    pub(super) cache: Cache,
    pub(super) id: Option<u64>,
}

impl Node {
    /// Does that daemon's loopback find it there?
    pub(super) fn is_at(&self, daemon: u8, path: &str) -> bool {
        self.daemon == daemon && self.path == path
    }

    /// All of its attributes are that fresh.
    pub(super) fn set_freshness(&mut self, fresh: Fresh) {
        (self.fresh, self.fresh_access) = (fresh, fresh);
    }
}

/// An open file description.
#[derive(Clone, Debug)]
pub(super) enum Open {
    Fuse(FuseFile),
    Lower(LowerOpen),
}

impl Open {
    /// How many have it open.
    pub(super) fn users(&mut self) -> &mut u32 {
        match self {
            Open::Fuse(file) => &mut file.users,
            Open::Lower(file) => &mut file.users,
        }
    }

    /// Where it goes on, if that is known.
    pub(super) fn position(&mut self) -> &mut Option<u64> {
        match self {
            Open::Fuse(file) => &mut file.position,
            Open::Lower(file) => &mut file.position,
        }
    }
}

/// How a FUSE file is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Cached,
    Direct,
    /// Through one of `backings`; with `true`, only mappings are.
    Passthrough(usize, bool),
    /// In the v12 dialect, by one of `backings`, as long as that is not closed.
    Registered(usize),
}

#[derive(Clone, Debug)]
pub(super) struct FuseFile {
    pub(super) node: usize,
    pub(super) way: Way,
    pub(super) flags: u64,
    /// Flags that the lower file was opened with.
    pub(super) lower_flags: u64,
    pub(super) reply: u64,
    pub(super) position: Option<u64>,
    /// Descriptors, and mappings of the kernel's own cache.
    pub(super) users: u32,
    /// Counts as a cached user of the inode.
    pub(super) cached_user: bool,
}

#[derive(Clone, Debug)]
pub(super) struct LowerOpen {
    pub(super) file: usize,
    pub(super) flags: u64,
    pub(super) position: Option<u64>,
    pub(super) users: u32,
}

/// A registered file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backing {
    pub(super) file: usize,
    /// The open file that was registered, one of `opens`.
    pub(super) open: usize,
    /// The v12 dialect takes it away from open files, too.
    pub(super) closed: bool,
}

/// A mapping.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub(super) actor: Actor,
    /// The FUSE file whose cache is mapped, or the lower file.
    pub(super) of: Mapped,
    /// The FUSE mount that it keeps busy.
    pub(super) daemon: Option<u8>,
    pub(super) prot: u64,
    pub(super) shared: bool,
    /// Was a private page made?
    pub(super) own_pages: bool,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) flags: u64,
    pub(super) gone: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Mapped {
    Cache(usize),
    Lower(usize),
}

impl World {
    pub(super) fn new(profile: &Profile, flipped: Option<&str>) -> World {
        World { has: profile.has.clone(), flipped: flipped.map(str::to_string), ..World::default() }
    }

    pub(super) fn has(&self, capability: &str) -> bool {
        self.has.contains(capability)
    }

    /// The one door of every refusal.
    pub(super) fn refuse(&mut self, when: bool, rule: &'static str, errno: i32) -> Result<(), Stop> {
        if !when || self.flipped.as_deref() == Some(rule) {
            return Ok(());
        }
        self.refusals.insert((rule, errno));
        Err(Stop::Refused(errno, None, rule))
    }

    /// What has to be there, or the call is refused. Only a flipped rule goes on without, and knows nothing then.
    pub(super) fn required<T>(
        &mut self,
        found: Option<T>,
        rule: &'static str,
        errno: i32,
    ) -> Result<T, Stop> {
        self.refuse(found.is_none(), rule, errno)?;
        found.ok_or(Stop::Unsure(Doubt::Everything))
    }

    pub(super) fn unless(&self, unsure: bool, doubt: Doubt) -> Result<(), Stop> {
        if unsure { Err(Stop::Unsure(doubt)) } else { Ok(()) }
    }

    /// The number an argument stands for.
    pub(super) fn number(&self, actor: Actor, call: &Call, name: &str, default: i128) -> Result<i128, Stop> {
        match call.arg(name) {
            None => Ok(default),
            Some(Value::Int(value)) => Ok(*value),
            Some(Value::Name(name, offset)) => match self.named(actor, name) {
                Some(Thing::Id(id)) => Ok(i128::from(*id) + i128::from(*offset)),
                _ => Err(Stop::Unsure(Doubt::Everything)),
            },
            Some(_) => Err(Stop::Unsure(Doubt::Everything)),
        }
    }

    /// What a name stands for; backing ids may be another actor's.
    pub(super) fn named(&self, actor: Actor, name: &str) -> Option<&Thing> {
        self.names.get(&(actor, name.to_string())).or_else(|| {
            let mut ids =
                self.names.iter().filter(|((_, n), thing)| n == name && matches!(thing, Thing::Id(_)));
            ids.next().map(|(_, thing)| thing)
        })
    }

    /// The inode whose name the kernel knows.
    pub(super) fn named_node(&self, number: u8, path: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.is_at(number, path) && node.named)
    }

    pub(super) fn person(&self, actor: Actor) -> Person {
        self.people.get(&actor).copied().unwrap_or_default()
    }

    /// Does an open file hold the inode?
    pub(super) fn is_open(&self, node: usize) -> bool {
        self.opens.iter().any(|open| matches!(open, Open::Fuse(file) if file.users > 0 && file.node == node))
    }

    /// Does an open file or a mapping hold the mount?
    pub(super) fn mount_is_busy(&self, number: u8) -> bool {
        let open = self.opens.iter().any(|open| match open {
            Open::Fuse(file) => file.users > 0 && self.nodes[file.node].daemon == number,
            Open::Lower(_) => false,
        });
        open || self.maps.iter().any(|map| !map.gone && map.daemon == Some(number))
    }

    /// A step outside of the model happened.
    pub(super) fn doubt(&mut self, doubt: Doubt) {
        if doubt == Doubt::Outcome {
            return;
        }
        for daemon in self.daemons.values_mut() {
            daemon.log.push(Sent::Anything);
        }
        if doubt == Doubt::Everything {
            self.foggy = true;
            for file in &mut self.lowers {
                file.bytes = None;
                file.odd = true;
            }
            for node in &mut self.nodes {
                node.size = None;
                node.set_freshness(Fresh::Unknown);
                node.cache = Cache::Unknown;
            }
            for open in &mut self.opens {
                *open.position() = None;
            }
        }
    }

    /// A call has changed size and times of an inode: what the kernel knew of them is not valid any more, and neither
    /// is an answer that was asked for before.
    pub(super) fn touched(&mut self, node: usize) {
        self.changes += 1;
        let node = &mut self.nodes[node];
        (node.fresh, node.changed_at) = (Fresh::No, self.changes);
    }

    /// The lower file that the loopback serves an inode from.
    pub(super) fn lower_of(&self, node: usize) -> Option<usize> {
        let node = &self.nodes[node];
        let root = self.roots.get(&lower_name(node.daemon))?;
        if root.foreign.is_some() { None } else { root.names.get(&node.path).copied() }
    }

    /// The same, as long as names and contents there are known.
    pub(super) fn known_lower_of(&self, node: usize) -> Option<usize> {
        if self.foggy { None } else { self.lower_of(node) }
    }

    /// The lower file system of a lower file, if that has one.
    pub(super) fn root_of(&self, file: usize) -> Option<&Root> {
        self.roots.get(&self.lowers[file].root)
    }

    /// How long a lower file is, if its content is known.
    pub(super) fn len_of(&self, file: usize) -> Option<u64> {
        self.lowers[file].bytes.as_ref().map(|bytes| bytes.len() as u64)
    }

    /// The content of a lower file has changed, by whoever else than the daemon for that inode.
    pub(super) fn changed_below(&mut self, file: usize, by: Option<usize>) {
        let served: Vec<usize> = (0..self.nodes.len())
            .filter(|node| Some(*node) != by && self.lower_of(*node) == Some(file))
            .collect();
        for node in served {
            if self.nodes[node].cache == Cache::Same {
                self.nodes[node].cache = Cache::Unknown;
            }
        }
    }
}

/// The daemon behind a mount's name; 0, which there is not, if the name is no daemon's.
pub(super) fn mount_number(at: &str) -> Option<u8> {
    let number = at.strip_prefix("mnt")?;
    Some(if number.is_empty() { 1 } else { number.parse().unwrap_or(0) })
}

/// Where a daemon's loopback looks.
pub(super) fn lower_name(daemon: u8) -> String {
    if daemon == 1 { "lower".into() } else { format!("lower{daemon}") }
}
