//! From a trace's bytes to what daemon and kernel said to each other: requests with the files they are about, replies
//! with the requests they answer, on one line each, as in the transcripts of cases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::trace::{Cut, Event, Lower, Stamped};
use crate::abi::{Incoming, Opcode, fuse_entry_out, fuse_out_header};
use crate::program::Transport;
use crate::program::flags::{FOPEN, FlagSet, OPEN, errno_name, signal_name};
use crate::protocol::Traffic;
use crate::transcript;
use zerocopy::FromBytes;

/// All that a trace tells.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// The folder that was shown.
    pub source: String,
    /// What happened, in order.
    pub deeds: Vec<Deed>,
}

/// Something that happened, understood.
#[derive(Clone, Debug)]
pub struct Deed {
    /// Microseconds since the recording began.
    pub micros: u64,
    /// The thread.
    pub task: i32,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// A step of the workload began.
    Step(String),
    /// A request was read.
    Asked(Asked),
    /// A reply was written.
    Told(Told),
    /// An id was asked for.
    BackingOpen {
        /// The connection.
        connection: usize,
        /// What was to be registered.
        file: Option<Lower>,
        /// `flags` and `padding` of the argument.
        rest: (u32, u64),
        /// The file system user of the thread.
        fsuid: u32,
        /// The id, or an errno below zero.
        result: i32,
        /// Refused by the recorder.
        injected: bool,
    },
    /// An id was closed, or was not.
    BackingClose {
        /// The connection.
        connection: usize,
        /// The id.
        id: Option<u32>,
        /// 0, or an errno below zero; `None` if the call did not return.
        result: Option<i64>,
    },
    /// The connection is at its end for the daemon, or cannot be read.
    NoRequest {
        /// The connection.
        connection: usize,
        /// Why.
        errno: i32,
    },
    /// What needs no understanding.
    Other(Event),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The connection.
    pub connection: usize,
    /// The file it is about, relative to the mount's root; `?` if nobody knows.
    pub path: String,
    /// The request.
    pub message: Incoming,
}

/// A reply or a notification.
#[derive(Clone, Debug)]
pub struct Told {
    /// The connection.
    pub connection: usize,
    /// Its header; `None` if there are too few bytes for one.
    pub header: Option<fuse_out_header>,
    /// How long the whole message is.
    pub len: u64,
    /// What follows the header, or its beginning.
    pub body: Vec<u8>,
    /// Which deed is the request that it answers: the latest of that unique.
    pub to: Option<usize>,
    /// That request had its reply before.
    pub again: bool,
    /// What write(2) gave; `None` if it did not return.
    pub result: Option<i64>,
}

impl Told {
    /// The errno that it carries, 0 for success.
    pub fn error(&self) -> i32 {
        self.header.map_or(0, |header| header.error.wrapping_neg())
    }

    /// A field of its body, as a reply to that opcode; `None` if it is an error, or too short.
    pub fn field(&self, opcode: Opcode, name: &str) -> Option<i128> {
        let (field, in_header) = opcode.reply_field(name)?;
        (self.error() == 0 && !in_header).then(|| field.get(&self.body)).flatten()
    }

    /// Did the kernel take it?
    pub fn was_taken(&self) -> bool {
        self.result.is_none_or(|result| result >= 0)
    }
}

/// Understand a trace.
pub fn decode(events: &[Stamped]) -> Story {
    let mut decoder = Decoder::default();
    for stamped in events {
        decoder.add(stamped);
    }
    decoder.story
}

#[derive(Default)]
struct Decoder {
    story: Story,
    /// The connection of each device.
    connections: BTreeMap<u32, usize>,
    /// Connections that have had their INIT.
    begun: BTreeSet<usize>,
    /// Files of each connection.
    files: Vec<Files>,
    /// The latest request of each unique, and whether it was answered.
    requests: BTreeMap<(usize, u64), (usize, bool)>,
    /// Deeds whose result is not known yet.
    calls: BTreeMap<u32, usize>,
}

/// Paths by node id.
struct Files(BTreeMap<u64, String>);

impl Files {
    fn new() -> Files {
        Files(BTreeMap::from([(1, String::new())]))
    }

    fn path(&self, node: u64) -> &str {
        self.0.get(&node).map_or("?", String::as_str)
    }

    fn child(&self, node: u64, name: &str) -> String {
        match self.path(node) {
            "" => name.to_string(),
            folder => format!("{folder}/{name}"),
        }
    }

    fn renamed(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        for path in self.0.values_mut().filter(|path| *path == from || path.starts_with(&below)) {
            *path = format!("{to}{}", &path[from.len()..]);
        }
    }
}

impl Decoder {
    fn add(&mut self, stamped: &Stamped) {
        let what = match &stamped.event {
            Event::Starts { source, .. } => {
                self.story.source.clone_from(source);
                What::Other(stamped.event.clone())
            }
            Event::Step(step) => What::Step(step.clone()),
            Event::Request { device, message } => match Incoming::new(&message.head) {
                Some(message) => self.asked(*device, message),
                None => What::Other(stamped.event.clone()),
            },
            Event::Reply { call, device, message } => {
                self.calls.insert(*call, self.story.deeds.len());
                let told = self.told(*device, message);
                What::Told(told)
            }
            Event::BackingOpen { device, file, rest, fsuid, result, injected } => What::BackingOpen {
                connection: self.connection(*device),
                file: file.clone(),
                rest: *rest,
                fsuid: *fsuid,
                result: *result,
                injected: *injected,
            },
            Event::BackingClose { call, device, id } => {
                self.calls.insert(*call, self.story.deeds.len());
                What::BackingClose { connection: self.connection(*device), id: *id, result: None }
            }
            Event::Returned { call, result } => return self.returned(*call, *result),
            Event::Cloned { from, device } => {
                let connection = self.connection(*from);
                self.connections.insert(*device, connection);
                What::Other(stamped.event.clone())
            }
            Event::NoRequest { device, errno } => {
                What::NoRequest { connection: self.connection(*device), errno: *errno }
            }
            other => What::Other(other.clone()),
        };
        self.story.deeds.push(Deed { micros: stamped.micros, task: stamped.task, what });
    }

    fn connection(&mut self, device: u32) -> usize {
        let fresh = self.files.len();
        let connection = *self.connections.entry(device).or_insert(fresh);
        if connection == fresh {
            self.files.push(Files::new());
        }
        connection
    }

    fn asked(&mut self, device: u32, message: Incoming) -> What {
        let mut connection = self.connection(device);
        if message.opcode() == Opcode::INIT && !self.begun.insert(connection) {
            // The descriptor stands for another device by now: another mount begins.
            self.connections.remove(&device);
            connection = self.connection(device);
            self.begun.insert(connection);
        }
        let files = &self.files[connection];
        let node = message.header.nodeid;
        let path = match message.names().first() {
            Some(name) if message.names_a_child() => files.child(node, name),
            _ => files.path(node).to_string(),
        };
        self.requests.insert((connection, message.header.unique), (self.story.deeds.len(), false));
        What::Asked(Asked { connection, path, message })
    }

    fn told(&mut self, device: u32, message: &Cut) -> Told {
        let connection = self.connection(device);
        let header = fuse_out_header::read_from_prefix(&message.head).ok().map(|(header, _)| header);
        let body = message.head.get(size_of::<fuse_out_header>()..).unwrap_or_default().to_vec();
        let mut told =
            Told { connection, header, len: message.len, body, to: None, again: false, result: None };
        let unique = header.map_or(0, |header| header.unique);
        if unique != 0
            && let Some((asked, answered)) = self.requests.get_mut(&(connection, unique))
        {
            told.to = Some(*asked);
            told.again = std::mem::replace(answered, true);
            if let What::Asked(asked) = &self.story.deeds[*asked].what {
                learn(&mut self.files[connection], asked, &told);
            }
        }
        told
    }

    fn returned(&mut self, call: u32, came_of_it: i64) {
        let Some(index) = self.calls.remove(&call) else { return };
        if let What::Told(told) = &self.story.deeds[index].what
            && came_of_it < 0
            && !(-511..=0).contains(&told.header.map_or(0, |header| header.error))
            && let Some(asked) =
                told.header.and_then(|header| self.requests.get_mut(&(told.connection, header.unique)))
        {
            // Such a message is refused before anybody looks whose it is: the request still waits.
            asked.1 = told.again;
        }
        match &mut self.story.deeds[index].what {
            What::Told(Told { result, .. }) | What::BackingClose { result, .. } => *result = Some(came_of_it),
            _ => {}
        }
    }
}

/// What a reply says of files' numbers and names.
fn learn(files: &mut Files, asked: &Asked, told: &Told) {
    let request = &asked.message;
    if told.error() != 0 {
        return;
    }
    match request.opcode() {
        Opcode::RENAME | Opcode::RENAME2 => {
            if let Some(to) = request.names().get(1) {
                let to = files.child(request.number("newdir"), to);
                files.renamed(&asked.path, &to);
            }
        }
        Opcode::READDIRPLUS => {
            for (node, name) in listed(&told.body) {
                let path = files.child(request.header.nodeid, &name);
                files.0.insert(node, path);
            }
        }
        opcode => {
            let node = told.field(opcode, "nodeid").unwrap_or(0) as u64;
            if node != 0 {
                let name = if opcode == Opcode::TMPFILE { "?" } else { &asked.path };
                files.0.insert(node, name.to_string());
            }
        }
    }
}

/// The entries of READDIRPLUS's reply that give a file a number.
fn listed(mut body: &[u8]) -> Vec<(u64, String)> {
    const ENTRY: usize = size_of::<fuse_entry_out>();
    // struct fuse_dirent: ino, off, namelen, type, name.
    const DIRENT: usize = 24;
    let mut found = Vec::new();
    while let Some(fixed) = body.get(..ENTRY + DIRENT) {
        let node = u64::from_le_bytes(fixed[..8].try_into().unwrap_or_default());
        let len = u32::from_le_bytes(fixed[ENTRY + 16..ENTRY + 20].try_into().unwrap_or_default()) as usize;
        let Some(name) = body.get(ENTRY + DIRENT..).and_then(|rest| rest.get(..len)) else { break };
        let name = String::from_utf8_lossy(name).into_owned();
        if node != 0 && name != "." && name != ".." {
            found.push((node, name));
        }
        body = body.get((ENTRY + DIRENT + len).next_multiple_of(8)..).unwrap_or_default();
    }
    found
}

impl Story {
    /// The request that a deed is.
    pub fn asked(&self, index: usize) -> Option<&Asked> {
        match &self.deeds.get(index)?.what {
            What::Asked(asked) => Some(asked),
            _ => None,
        }
    }

    /// Can it be told what went over the device? If not, why.
    pub fn blind(&self) -> Option<String> {
        /// What a system call of 32 bits ends in under the recorder's filter.
        const SIGSYS: i32 = 31;
        const FUSE_INIT_EXT: u64 = 1 << 30;
        const FUSE_OVER_IO_URING: u64 = 1 << (41 - 32);
        let asked_for_ring = self.deeds.iter().any(|deed| match &deed.what {
            What::Told(told) => told.to.and_then(|to| self.asked(to)).is_some_and(|asked| {
                let flags = |name| told.field(Opcode::INIT, name).unwrap_or(0) as u64;
                asked.message.opcode() == Opcode::INIT
                    && flags("flags") & FUSE_INIT_EXT != 0
                    && flags("flags2") & FUSE_OVER_IO_URING != 0
            }),
            _ => false,
        });
        if asked_for_ring {
            return Some(
                "the daemon asks for FUSE over io_uring, which moves messages without system calls: start it without"
                    .into(),
            );
        }
        let mut ring = false;
        for deed in &self.deeds {
            match &deed.what {
                What::Other(Event::Blind(why)) => return Some(why.clone()),
                What::Other(Event::Ring) => ring = true,
                What::Other(Event::Ended { signal: Some(SIGSYS), .. }) => {
                    return Some(
                        "a program of the daemon's was ended by SIGSYS: one of 32 bits cannot be recorded"
                            .into(),
                    );
                }
                _ => {}
            }
        }
        let is_seen = |asked: &Asked| asked.message.opcode() != Opcode::INIT;
        let none = !self.deeds.iter().any(|deed| matches!(&deed.what, What::Asked(asked) if is_seen(asked)));
        (none && ring)
            .then(|| "the daemon uses io_uring on its device, which cannot be seen: start it without".into())
    }

    /// A deed on one line.
    pub fn line(&self, index: usize) -> String {
        let Some(deed) = self.deeds.get(index) else { return String::new() };
        format!("{:>10.3} ms  {}", deed.micros as f64 / 1000.0, self.text(&deed.what))
    }

    fn text(&self, what: &What) -> String {
        match what {
            What::Step(step) => format!("-- {step}"),
            What::Asked(asked) => {
                let over = Transport::Plain;
                let got = Traffic::new(1, asked.path.clone(), &asked.message, over);
                format!("> {}", transcript::request(&got))
            }
            What::Told(told) => self.reply(told),
            What::BackingOpen { file, fsuid, result, injected, .. } => {
                let file = file.as_ref().map_or_else(
                    || "what is no open file".into(),
                    |file| {
                        format!("{:?} {}", self.relative(&file.path), OPEN.print(u64::from(file.flags & 0o3)))
                    },
                );
                let by = if *injected { ", injected" } else { "" };
                let who = if *fsuid == 0 { String::new() } else { format!(" as user {fsuid}") };
                match result {
                    id @ 0.. => format!("  BACKING_OPEN {file}{who} -> id {id}"),
                    errno => {
                        format!("  BACKING_OPEN {file}{who} -> {}{by}", errno_name(errno.wrapping_neg()))
                    }
                }
            }
            What::BackingClose { id, result, .. } => {
                let id = id.map_or_else(|| "?".into(), |id| id.to_string());
                format!("  BACKING_CLOSE id {id} -> {}", came(*result))
            }
            What::NoRequest { errno, .. } => format!("  read -> {}", errno_name(*errno)),
            What::Other(event) => other(event),
        }
    }

    /// A path of the lower file system as it is below the source.
    pub fn relative<'a>(&self, path: &'a str) -> &'a str {
        let below = path.strip_prefix(&self.source).filter(|_| !self.source.is_empty());
        below.map_or(path, |below| below.trim_start_matches('/'))
    }

    fn reply(&self, told: &Told) -> String {
        let Some(header) = &told.header else {
            return format!("< {} bytes, too few for a header{}", told.len, refused(told));
        };
        let asked = told.to.and_then(|to| self.asked(to));
        let mut text = match asked {
            Some(asked) => format!("< {} {:?}", asked.message.opcode(), asked.path),
            None if header.unique == 0 => return format!("< notification {}{}", header.error, refused(told)),
            None => format!("< to unique {}, which no request has", header.unique),
        };
        if header.error != 0 {
            let _ = write!(text, " = {}", errno_name(header.error.wrapping_neg()));
        } else {
            text.push_str(" = ok");
            let opcode = asked.map_or(Opcode(0), |asked| asked.message.opcode());
            let shown: &[&str] = match opcode {
                Opcode::INIT => &["major", "minor", "flags", "flags2", "max_stack_depth"],
                Opcode::OPEN | Opcode::OPENDIR => &["fh", "open_flags", "backing_id"],
                Opcode::CREATE | Opcode::TMPFILE => &["nodeid", "size", "fh", "open_flags", "backing_id"],
                Opcode::LOOKUP | Opcode::MKNOD | Opcode::MKDIR => &["nodeid", "size"],
                Opcode::GETATTR | Opcode::SETATTR => &["attr_valid", "size"],
                Opcode::WRITE => &["size"],
                _ => &[],
            };
            for name in shown {
                if let Some(value) = told.field(opcode, name).filter(|value| *value != 0) {
                    let set =
                        FlagSet::of_wire_field(opcode, name).or((*name == "open_flags").then_some(FOPEN));
                    let value = set.map_or_else(|| value.to_string(), |set| set.print(value as u64));
                    let _ = write!(text, " {name}={value}");
                }
            }
        }
        if told.again {
            text.push_str(", once more");
        }
        text + &refused(told)
    }
}

fn refused(told: &Told) -> String {
    match told.result {
        Some(result) if result < 0 => format!(", refused with {}", errno_name(result.wrapping_neg() as i32)),
        _ => String::new(),
    }
}

fn came(result: Option<i64>) -> String {
    match result {
        None => "did not return".into(),
        Some(result) if result < 0 => errno_name(result.wrapping_neg() as i32),
        Some(_) => "ok".into(),
    }
}

fn other(event: &Event) -> String {
    match event {
        Event::Starts { command, .. } => format!("  runs {}", command.join(" ")),
        Event::Cloned { from, device } => format!("  device {device} is a clone of {from}"),
        Event::Ring => "  sets up an io_uring".into(),
        Event::Began { child, process } => {
            format!("  begins {} {child}", if *process { "process" } else { "thread" })
        }
        Event::Runs(program) => format!("  is {program} now"),
        Event::Ended { code: Some(code), .. } => format!("  ends with exit code {code}"),
        Event::Ended { signal: Some(signal), .. } => format!("  is ended by {}", signal_name(*signal)),
        Event::Said { len, .. } => format!("  wrote {len} bytes to standard output and error"),
        Event::Blind(why) => format!("  not recorded from here on: {why}"),
        other => format!("  {other:?}"),
    }
}

/// The uniques of a connection's requests that had no reply, with their deeds.
pub fn unanswered(story: &Story) -> Vec<usize> {
    let answered: BTreeSet<usize> = story
        .deeds
        .iter()
        .filter_map(|deed| match &deed.what {
            What::Told(told) => told.to,
            _ => None,
        })
        .collect();
    let asked = story.deeds.iter().enumerate().filter(|(index, deed)| match &deed.what {
        What::Asked(asked) => !asked.message.opcode().has_no_reply() && !answered.contains(index),
        _ => false,
    });
    asked.map(|(index, _)| index).collect()
}
