//! Backing ids and open files: what was registered, what uses it, and what became of it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::decode::{Asked, Story, What};
use super::super::trace::Lower;
use super::Judgement;
use crate::abi::Opcode;
use nix::libc;

/// A backing id.
#[derive(Clone, Debug)]
pub(super) struct Id {
    pub(super) file: Option<Lower>,
    /// The deed that registered it.
    pub(super) opened: usize,
    pub(super) closed: Option<usize>,
    /// Nodes that were opened with it.
    pub(super) nodes: BTreeSet<u64>,
    /// Nodes that were opened without it, after it was registered for them.
    in_vain: BTreeSet<u64>,
    /// Whether it is closed is not asked.
    excused: bool,
}

/// An open file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// Its id, if it passes through.
    pub(super) id: Option<i32>,
    /// Does it use the page cache?
    pub(super) cached: bool,
}

/// What is known of a connection.
#[derive(Default)]
pub(super) struct Book {
    /// The latest of each number, which the kernel gives out again.
    pub(super) ids: BTreeMap<u32, Id>,
    /// When which number was given out, oldest first.
    order: Vec<(usize, u32)>,
    /// Those whose number went to another.
    old: Vec<(u32, Id)>,
    /// Node and handle of each open file. A handle may be given twice, as 0 often is.
    pub(super) opens: BTreeMap<(u64, u64), Vec<Open>>,
    /// How often the kernel knows a node.
    known: BTreeMap<u64, i128>,
    forgotten: BTreeSet<u64>,
    /// Errnos of BACKING_OPENs, and whether a later one was tried.
    refusals: Vec<Refusal>,
}

struct Refusal {
    deed: usize,
    errno: i32,
    /// What was to be opened.
    node: Option<u64>,
    /// Other nodes that were opened since then, without trying.
    without: BTreeSet<u64>,
    tried: bool,
}

/// The books of all connections.
#[derive(Default)]
pub(super) struct Books(BTreeMap<usize, Book>);

/// The argument of BACKING_OPEN.
pub(super) fn registers(bench: &mut Judgement, index: usize, file: Option<&Lower>, rest: (u32, u64)) {
    let wrong = match file {
        None => Some("the argument names no open file".to_string()),
        Some(file) if file.mode & libc::S_IFMT != libc::S_IFREG => {
            Some(format!("{:?} is no regular file", file.path))
        }
        _ if rest != (0, 0) => {
            Some(format!("flags={} padding={} in the argument: both have to be 0", rest.0, rest.1))
        }
        _ => None,
    };
    bench.met("DMN-06", index, wrong);
}

/// An id was given to a thread of that file system user: its own, or the one that it took on to serve an open.
pub(super) fn registered_by(bench: &mut Judgement, story: &Story, index: usize, fsuid: u32) {
    /// So far back an open is looked for.
    const NEAR: usize = 1000;
    let callers = story.deeds[..index].iter().rev().take(NEAR).find_map(|deed| match &deed.what {
        What::Asked(asked) if matches!(asked.message.opcode(), Opcode::OPEN | Opcode::CREATE) => {
            Some(asked.message.header.uid)
        }
        _ => None,
    });
    let wrong = (fsuid != 0 && callers == Some(fsuid)).then(|| {
        format!(
            "registered as user {fsuid}, who opens the file: whoever opens it later has it read and written as that user, too"
        )
    });
    bench.met("DMN-17", index, wrong);
}

impl Books {
    pub(super) fn of(&mut self, connection: usize) -> &mut Book {
        self.0.entry(connection).or_default()
    }

    /// A request was read.
    pub(super) fn asked(&mut self, asked: &Asked) {
        let message = &asked.message;
        let book = self.of(asked.connection);
        match message.opcode() {
            Opcode::RELEASE => {
                let key = (message.header.nodeid, message.number("fh"));
                if let Some(opens) = book.opens.get_mut(&key) {
                    opens.pop();
                    if opens.is_empty() {
                        book.opens.remove(&key);
                    }
                }
            }
            Opcode::FORGET => book.forgets(message.header.nodeid, message.field("nlookup")),
            Opcode::BATCH_FORGET => {
                // struct fuse_batch_forget_in: count, dummy; then nodeid and nlookup of each.
                let items = message.bytes.get(48..).unwrap_or_default();
                for item in items.chunks_exact(16) {
                    let word =
                        |at: usize| u64::from_le_bytes(item[at..at + 8].try_into().unwrap_or_default());
                    book.forgets(word(0), i128::from(word(8)));
                }
            }
            _ => {}
        }
    }

    pub(super) fn opened(&mut self, connection: usize, index: usize, file: Option<&Lower>, result: i32) {
        let book = self.of(connection);
        for refusal in book.refusals.iter_mut().rev().take_while(|refusal| !refusal.tried) {
            refusal.tried = true;
        }
        if result > 0 {
            let id = Id {
                file: file.cloned(),
                opened: index,
                closed: None,
                nodes: BTreeSet::new(),
                in_vain: BTreeSet::new(),
                excused: false,
            };
            book.order.push((index, result as u32));
            if let Some(before) = book.ids.insert(result as u32, id) {
                book.old.push((result as u32, before));
            }
        } else {
            let (deed, without) = (index, BTreeSet::new());
            book.refusals.push(Refusal {
                deed,
                errno: result.wrapping_neg(),
                node: None,
                without,
                tried: false,
            });
        }
    }

    pub(super) fn closed(
        &mut self,
        bench: &mut Judgement,
        index: usize,
        connection: usize,
        id: Option<u32>,
        result: Option<i64>,
    ) {
        let book = self.of(connection);
        // Refused for another reason, it is as if it had not been called.
        if result.is_some_and(|result| result < 0 && result != -i64::from(libc::ENOENT)) {
            return;
        }
        let wrong = match id.map(|id| (id, book.ids.get_mut(&id))) {
            None => Some("the argument of BACKING_CLOSE cannot be read".to_string()),
            Some((id, None)) => Some(format!("id {id} was never given out")),
            Some((id, Some(known))) if known.closed.is_some() => Some(format!("id {id} is closed already")),
            Some((_, Some(known))) => {
                known.closed = Some(index);
                None
            }
        };
        bench.met("DMN-21", index, wrong);
    }

    /// What is left at the end.
    pub(super) fn end(&self, bench: &mut Judgement, story: &Story) {
        for book in self.0.values() {
            book.end(bench, story);
        }
    }
}

impl Book {
    fn forgets(&mut self, node: u64, count: i128) {
        let known = self.known.entry(node).or_default();
        *known -= count;
        if *known <= 0 {
            self.known.remove(&node);
            self.forgotten.insert(node);
        }
    }

    /// A reply tells the kernel of a node once more.
    pub(super) fn learns(&mut self, node: u64) {
        *self.known.entry(node).or_default() += 1;
        self.forgotten.remove(&node);
    }

    /// The open files of a node.
    pub(super) fn opens_of(&self, node: u64) -> impl Iterator<Item = Open> {
        self.opens.range((node, 0)..=(node, u64::MAX)).flat_map(|(_, opens)| opens.iter().copied())
    }

    /// Was a BACKING_OPEN refused behind that deed?
    pub(super) fn refused_since(&self, deed: usize) -> bool {
        self.refusals.last().is_some_and(|refusal| refusal.deed > deed)
    }

    /// What was registered behind that deed is not held against anybody.
    pub(super) fn excuse(&mut self, deed: usize) {
        self.since(deed, |id| id.excused = true);
    }

    /// What was registered behind that deed.
    fn since(&mut self, deed: usize, mut each: impl FnMut(&mut Id)) {
        for (_, number) in self.order.iter().rev().take_while(|(opened, _)| *opened > deed) {
            if let Some(id) = self.ids.get_mut(number) {
                each(id);
            }
        }
    }

    /// An open that was asked for in that deed was answered without passthrough.
    pub(super) fn plainly(&mut self, node: u64, asked_at: usize) {
        self.since(asked_at, |id| {
            if id.nodes.is_empty() {
                id.in_vain.insert(node);
            }
        });
        for refusal in self.refusals.iter_mut().rev().take_while(|refusal| refusal.deed > asked_at) {
            refusal.node = refusal.node.or(Some(node));
        }
        // While others have it open without, it has to be so.
        if self.opens_of(node).next().is_some() {
            return;
        }
        for refusal in self.refusals.iter_mut().rev().take_while(|refusal| !refusal.tried) {
            if refusal.node != Some(node) {
                refusal.without.insert(node);
            }
        }
    }

    fn end(&self, bench: &mut Judgement, story: &Story) {
        let mut newest: BTreeMap<u64, usize> = BTreeMap::new();
        for id in self.ids.values() {
            for node in &id.nodes {
                let opened = newest.entry(*node).or_default();
                *opened = id.opened.max(*opened);
            }
        }
        let all = self.ids.iter().chain(self.old.iter().map(|(number, id)| (number, id)));
        for (number, id) in all {
            let path = id.file.as_ref().map_or("?", |file| story.relative(&file.path));
            let in_use =
                id.nodes.iter().any(|node| self.opens_of(*node).any(|open| open.id == Some(*number as i32)));
            let replaced =
                id.nodes.iter().any(|node| newest.get(node).is_some_and(|opened| *opened > id.opened));
            let forgotten = !id.nodes.is_empty() && id.nodes.iter().all(|node| self.forgotten.contains(node));
            // What it was registered for may not be released yet, or be opened later.
            let waits = id.nodes.is_empty()
                && (id.in_vain.is_empty()
                    || id.in_vain.iter().any(|node| self.opens_of(*node).next().is_some()));
            let wrong = if id.closed.is_some() || in_use || waits || id.excused {
                None
            } else if id.nodes.is_empty() {
                Some(format!("id {number} of {path:?} is used by no open and never closed"))
            } else if replaced {
                Some(format!(
                    "id {number} of {path:?} is not closed after its last RELEASE, and another one is registered for that file"
                ))
            } else if forgotten {
                Some(format!(
                    "id {number} of {path:?} is still there when all its files are released and the kernel has forgotten the inode"
                ))
            } else {
                None
            };
            bench.met("DMN-20", id.opened, wrong);
        }
        const ENOUGH: usize = 2;
        for refusal in &self.refusals {
            // Who may not register now may not later, either.
            let for_good = [libc::EPERM, libc::ENOTTY, libc::EOPNOTSUPP].contains(&refusal.errno);
            if !for_good && (refusal.tried || refusal.without.len() >= ENOUGH) {
                bench.met(
                    "DMN-09",
                    refusal.deed,
                    (!refusal.tried).then(|| {
                        format!(
                            "after one refusal no file is registered any more: {} files opened without a try",
                            refusal.without.len()
                        )
                    }),
                );
            }
        }
    }
}
