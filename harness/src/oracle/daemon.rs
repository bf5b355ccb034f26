//! The daemon's side: what it was told to do, what it is asked, what it answers, and what INIT made of the
//! connection. The loopback's answers are worked out where they are used; here is only which answer it is.

use std::collections::{BTreeMap, BTreeSet};

use super::numbers::*;
use super::ruling::{Doubt, Stop, UNSURE};
use super::traffic::Sent;
use super::world::{Thing, World};
use crate::abi::Opcode;
use crate::program::{Actor, Reply, Side, Times, Value};

/// A daemon and its connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Daemon {
    pub(super) connection: Connection,
    pub(super) ids: Ids,
    pub(super) rules: Vec<Rule>,
    pub(super) held: BTreeMap<String, Held>,
    /// What it must and may have received since the last exact look.
    pub(super) log: Vec<Sent>,
    /// A request that nobody waits for is on its way: what comes of its answer may come at any time.
    pub(super) unsteady: bool,
    /// Pages that were made dirty by a mapping are written when the kernel likes, and take the rule that a WRITE finds then.
    pub(super) writes_back: bool,
    /// Ids given to inodes so far; `None` once that is not known any more.
    pub(super) next_node: Option<u64>,
}

/// What a daemon was told to do.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) times: Times,
    pub(super) opcode: Opcode,
    pub(super) path: Option<String>,
    pub(super) reply: Reply,
}

impl Rule {
    pub(super) fn is_about(&self, opcode: Opcode, path: &str) -> bool {
        self.opcode == opcode && self.path.as_ref().is_none_or(|wanted| wanted == path)
    }
}

/// A request that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) opcode: Opcode,
    /// Nobody waits for it any more.
    pub(super) over: bool,
}

/// Backing ids: allocated upwards, a closed one is not given again.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    pub(super) last: i32,
    /// Those that are open, with the world's backing behind each.
    pub(super) live: BTreeMap<i32, usize>,
    /// A registration outside of the model may have taken a number.
    pub(super) unsure: bool,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// No device, or one that was never mounted.
    #[default]
    Detached,
    /// INIT is not answered.
    Waiting,
    On,
    /// INIT failed.
    Refused,
    /// Aborted, its daemon gone, or unmounted.
    Ended,
    Unsure,
}

/// A FUSE connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    pub(super) mounted: bool,
    /// Unmounted lazily: it goes on until its last file and mapping.
    pub(super) lazy: bool,
    /// Read-only, by a remount.
    pub(super) read_only: bool,
    /// It ended through fusectl.
    pub(super) aborted: bool,
    /// Device files open: the first, and a clone.
    pub(super) devices: [bool; 2],
    pub(super) uses_clone: bool,
    pub(super) options: bool,
    pub(super) default_permissions: bool,
    /// The protocol's; below 9 replies have other sizes, which are not followed.
    pub(super) minor: u64,
    /// Both words of what was negotiated.
    pub(super) flags: u64,
    pub(super) passthrough: bool,
    pub(super) depth: u32,
    pub(super) max_write: u64,
    /// An answer about a name came, and it ended before the call that asked was over.
    pub(super) unsure_names: bool,
    /// Names that the kernel knows not to be there.
    pub(super) absent: BTreeSet<String>,
    /// Names that were not found when they were asked for, or not for long: the kernel may remember that, and asks all the same.
    pub(super) missed: BTreeSet<String>,
    /// An answer has made the root something else than a folder.
    pub(super) root_is_bad: bool,
    /// Opcodes that were answered ENOSYS, and are not sent any more.
    pub(super) without: Vec<Opcode>,
}

/// What came of a request, where the daemon did not fail it.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// The loopback carried it out.
    pub(super) done: bool,
    pub(super) fields: BTreeMap<String, i128>,
    pub(super) data: Option<Vec<u8>>,
    /// Or it answered with this.
    pub(super) errno: Option<i32>,
}

impl Answer {
    pub(super) fn plain(&self) -> bool {
        self.done && self.fields.is_empty() && self.data.is_none() && self.errno.is_none()
    }

    pub(super) fn field(&self, name: &str) -> Option<i128> {
        self.fields.get(name).copied()
    }

    /// The kind of file that it tells: a regular one, as the loopback has no others, unless it says more.
    pub(super) fn kind(&self) -> i128 {
        self.field("mode").map_or(S_IFREG, |mode| mode & S_IFMT)
    }

    /// No file can be as long as it tells.
    pub(super) fn has_impossible_size(&self) -> bool {
        self.field("size").is_some_and(|size| size < 0 || size > i128::from(i64::MAX))
    }

    pub(super) fn only_has(&self, names: &[&str]) -> bool {
        self.fields.keys().all(|name| names.contains(&name.as_str()))
    }
}

const READS: [Opcode; 5] =
    [Opcode::READ, Opcode::READDIR, Opcode::READDIRPLUS, Opcode::READLINK, Opcode::NOTIFY_REPLY];

/// Requests that change a lower file, or the names of some.
const CHANGES: [Opcode; 12] = [
    Opcode::WRITE,
    Opcode::SETATTR,
    Opcode::FALLOCATE,
    Opcode::CREATE,
    Opcode::MKNOD,
    Opcode::MKDIR,
    Opcode::SYMLINK,
    Opcode::LINK,
    Opcode::UNLINK,
    Opcode::RMDIR,
    Opcode::RENAME,
    Opcode::RENAME2,
];

/// Words about a reply that are none of its fields.
const FRAME: [&str; 6] = ["cut", "pad", "error", "len", "unique", "pipe_has"];
const WAYS: [&str; 4] = ["write", "writev", "splice", "move"];

impl World {
    pub(super) fn daemon(&mut self, number: u8) -> &mut Daemon {
        self.daemons.entry(number).or_insert_with(|| Daemon { next_node: Some(2), ..Daemon::default() })
    }

    pub(super) fn connection(&self, number: u8) -> Connection {
        self.daemons.get(&number).map(|daemon| daemon.connection.clone()).unwrap_or_default()
    }

    /// Send a request that must come, and wait for its answer.
    pub(super) fn request(&mut self, number: u8, opcode: Opcode, path: &str) -> Result<Answer, Stop> {
        self.requests(number, opcode, path, 1, 1)
    }

    /// Send between `least` and `most` requests; the script's rule is taken once.
    pub(super) fn requests(
        &mut self,
        number: u8,
        opcode: Opcode,
        path: &str,
        least: u8,
        most: u8,
    ) -> Result<Answer, Stop> {
        match self.connection(number).phase {
            Phase::On => {}
            Phase::Waiting => return Err(Stop::Waits),
            Phase::Refused => {
                self.refuse(true, "INIT-14", ECONNREFUSED)?;
            }
            Phase::Detached | Phase::Ended => {
                self.refuse(true, "LIFE-02", ENOTCONN)?;
            }
            Phase::Unsure => return Err(UNSURE),
        }
        let may_be_taken = opcode == Opcode::WRITE && self.daemon(number).writes_back;
        self.unless(may_be_taken && self.is_told_about(number, opcode), Doubt::Everything)?;
        // Somebody else may have asked meanwhile for what comes before it.
        let again = self.replay.iter().position(|(replayed, _)| *replayed == opcode);
        self.asked_at = if again.is_some() { self.replay_asked_at } else { self.changes };
        let reply = match again.and_then(|at| self.replay.drain(..=at).next_back()) {
            Some((_, reply)) => reply,
            None => {
                self.log(number, opcode, path, least, most);
                self.rule_for(number, opcode, path)
            }
        };
        match &reply {
            Reply::Hold(name) => {
                let name = name.clone();
                self.daemon(number).held.insert(name.clone(), Held { opcode, over: false });
                self.awaits = Some((number, name));
                return Err(Stop::Waits);
            }
            Reply::Drop => return Err(Stop::Waits),
            Reply::Die => {
                self.end(number);
                self.daemon(number).connection.devices = [false; 2];
                self.refuse(true, "LIFE-15", ECONNABORTED)?;
                return Ok(Answer { done: true, ..Answer::default() });
            }
            _ => {}
        }
        self.served.push((opcode, reply.clone()));
        self.interpret(number, opcode, &reply)
    }

    /// A request that nobody waits for.
    pub(super) fn post(&mut self, number: u8, opcode: Opcode, path: &str) {
        let (served, replay) = (std::mem::take(&mut self.served), std::mem::take(&mut self.replay));
        // Whatever the answer is, or if there is none: nothing hangs on it.
        let awaits = self.awaits.clone();
        let _ = self.request(number, opcode, path);
        (self.served, self.replay, self.awaits) = (served, replay, awaits);
    }

    pub(super) fn log(&mut self, number: u8, opcode: Opcode, path: &str, least: u8, most: u8) {
        if !opcode.is_housekeeping() {
            let path = path.to_string();
            // Whoever is held up has not asked yet.
            let least = if self.may_wait { 0 } else { least };
            self.daemon(number).log.push(Sent::Some { opcode, path, least, most });
        }
    }

    fn rule_for(&mut self, number: u8, opcode: Opcode, path: &str) -> Reply {
        let matches = |rule: &Rule| rule.is_about(opcode, path);
        let rules = &mut self.daemon(number).rules;
        if let Some(index) = rules.iter().position(|rule| rule.times == Times::Once && matches(rule)) {
            return rules.remove(index).reply;
        }
        let always = rules.iter().rev().find(|rule| matches(rule));
        always.map_or(Reply::Fields(Vec::new()), |rule| rule.reply.clone())
    }

    /// Was the daemon told what to do with such a request, of whichever file?
    pub(super) fn is_told_about(&self, number: u8, opcode: Opcode) -> bool {
        self.daemons.get(&number).is_some_and(|daemon| daemon.rules.iter().any(|rule| rule.opcode == opcode))
    }

    /// What the kernel makes of an answer, as far as all opcodes have it in common.
    pub(super) fn interpret(&mut self, number: u8, opcode: Opcode, reply: &Reply) -> Result<Answer, Stop> {
        let (fields, done) = match reply {
            Reply::Error(errno) => {
                self.unless(!(1..=511).contains(errno), Doubt::Everything)?;
                return Ok(Answer { errno: Some(*errno), ..Answer::default() });
            }
            Reply::Fields(fields) => (fields, true),
            Reply::Claim(fields) => (fields, false),
            Reply::Hold(_) | Reply::Drop | Reply::Die => return Err(UNSURE),
        };
        let mut answer = Answer { done, ..Answer::default() };
        for (name, value) in fields {
            match value {
                Value::Data(data) if name == "data" => answer.data = Some(data.0.clone()),
                Value::Word(way) if name == "via" => {
                    self.unless(!WAYS.contains(&way.as_str()), Doubt::Everything)?;
                }
                value => {
                    let known = FRAME.contains(&name.as_str())
                        || opcode
                            .reply_parts()
                            .iter()
                            .any(|(fields, _)| fields.iter().any(|field| field.name == name));
                    self.unless(!known, Doubt::Everything)?;
                    let given = self.reply_number(number, value)?;
                    // Which of them the kernel takes for large ones is not followed.
                    let is_signed = matches!(name.as_str(), "backing_id" | "error");
                    self.unless(given < 0 && !is_signed, Doubt::Everything)?;
                    answer.fields.insert(name.clone(), given);
                }
            }
        }
        if opcode == Opcode::INIT {
            return Ok(answer);
        }
        self.unless(self.connection(number).minor < 9, Doubt::Everything)?;
        if answer.fields.remove("error").is_some_and(|error| error != 0) {
            return Err(UNSURE);
        }
        if ["len", "unique", "pipe_has"].iter().any(|name| answer.fields.contains_key(*name)) {
            // A splice of no more than its length is an ordinary reply.
            self.unless(answer.field("pipe_has").is_none_or(|has| has < 160), Doubt::Everything)?;
            answer.fields.remove("pipe_has");
            self.unless(answer.fields.contains_key("len"), Doubt::Everything)?;
            self.unless(answer.fields.contains_key("unique"), Doubt::Everything)?;
        }
        // Of a reply without a payload there is nothing to cut off.
        let is_empty = opcode.reply_parts().is_empty() && !READS.contains(&opcode);
        let cut = answer.fields.remove("cut").filter(|_| !is_empty).unwrap_or(0);
        let resized = cut | answer.fields.remove("pad").unwrap_or(0);
        if resized != 0 {
            self.unless(READS.contains(&opcode) || opcode == Opcode::IOCTL, Doubt::Everything)?;
            if done && CHANGES.contains(&opcode) {
                // The kernel takes no answer to what the daemon has carried out.
                self.lowers.iter_mut().for_each(|lower| lower.bytes = None);
                self.foggy = true;
            }
            self.refuse(true, "WRITE-17", EIO)?;
        }
        Ok(answer)
    }

    fn reply_number(&self, number: u8, value: &Value) -> Result<i128, Stop> {
        match value {
            Value::Int(number) => Ok(*number),
            Value::Name(name, offset) => {
                let actor = Actor { side: Side::Daemon, number };
                match self.named(actor, name) {
                    Some(Thing::Id(id)) => Ok(i128::from(*id) + i128::from(*offset)),
                    // A registration that failed has bound no name, which then stands for 0.
                    None if name != "same" => Ok(i128::from(*offset)),
                    _ => Err(UNSURE),
                }
            }
            _ => Err(UNSURE),
        }
    }

    /// The connection is over; what is on its way fails.
    pub(super) fn end(&mut self, number: u8) {
        let daemon = self.daemon(number);
        daemon.connection.phase = Phase::Ended;
        for held in daemon.held.values_mut() {
            held.over = true;
        }
    }

    /// INIT was answered.
    pub(super) fn negotiate(&mut self, number: u8, answer: &Answer) {
        let kernel_has_it = self.has("passthrough");
        let knows_idmap = self.has("allow_idmap");
        let speaks_v12 = self.speaks_v12();
        let connection = &mut self.daemon(number).connection;
        let field = |name: &str, default: u64| answer.field(name).map_or(default, |value| value as u64);
        let (cut, pad) = (field("cut", 0).min(64), field("pad", 0));
        let len = 64 - cut;
        // Bytes that did not come are 0.
        let cut_off = |offset: u64, size: u64, value: u64| {
            let have = len.saturating_sub(offset).min(size);
            if have >= 8 { value } else { value & ((1 << (8 * have)) - 1) }
        };
        let major = cut_off(0, 4, field("major", 7));
        let minor = cut_off(4, 4, field("minor", 31));
        let failed = answer.errno.is_some() || field("error", 0) != 0 || pad > 0 || major != 7;
        if failed {
            connection.phase = Phase::Refused;
            return;
        }
        connection.phase = Phase::On;
        let mut flags = cut_off(12, 4, field("flags", 0));
        if flags & INIT_EXT != 0 {
            flags |= cut_off(32, 4, field("flags2", 0)) << 32;
        }
        if minor < 6 {
            flags = 0;
        }
        connection.minor = minor;
        connection.flags = flags;
        connection.max_write =
            if minor < 5 { PAGE } else { cut_off(20, 4, field("max_write", 1 << 17)).max(PAGE) };
        let depth = cut_off(36, 4, field("max_stack_depth", 0)) as u32;
        let asked = flags & INIT_PASSTHROUGH != 0 && (1..=2).contains(&depth);
        connection.passthrough = kernel_has_it && asked && flags & WRITEBACK_CACHE == 0;
        connection.depth = if connection.passthrough { depth } else { 0 };
        if speaks_v12 && flags & INIT_V12 != 0 {
            (connection.passthrough, connection.depth) = (true, super::v12::DEEPEST);
        }
        let idmap = knows_idmap && flags & ALLOW_IDMAP != 0;
        let by_ring = flags & OVER_IO_URING != 0;
        if idmap && flags & POSIX_ACL == 0 && !connection.default_permissions {
            connection.phase = Phase::Refused; // INIT-15: passthrough stays on.
        }
        // Without entries requests wait, and the model has no rings.
        self.lost |= by_ring && self.has("over_io_uring");
    }

    pub(super) fn flag(&self, number: u8, flag: u64) -> bool {
        self.daemons.get(&number).is_some_and(|daemon| daemon.connection.flags & flag != 0)
    }

    /// Was this opcode answered ENOSYS for good?
    pub(super) fn lacks(&self, number: u8, opcode: Opcode) -> bool {
        self.daemons.get(&number).is_some_and(|daemon| daemon.connection.without.contains(&opcode))
    }

    /// ENOSYS to this opcode means success from here on, unasked.
    pub(super) fn optional(&mut self, number: u8, opcode: Opcode, path: &str) -> Result<Answer, Stop> {
        if self.lacks(number, opcode) {
            return Ok(Answer::default());
        }
        let answer = self.request(number, opcode, path)?;
        if answer.errno == Some(ENOSYS) {
            self.daemon(number).connection.without.push(opcode);
            return Ok(Answer::default());
        }
        Ok(answer)
    }
}
