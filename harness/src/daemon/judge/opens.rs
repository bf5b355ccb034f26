//! Replies to OPEN, CREATE and TMPFILE: flags, ids, and how the opens of one inode go together.

use super::super::decode::{Asked, Story, Told};
use super::Judgement;
use super::ids::{Book, Books, Open};
use crate::abi::Opcode;
use crate::program::flags::FOPEN;

/// `include/uapi/linux/fuse.h`.
const DIRECT_IO: u64 = 1;
const PASSTHROUGH: u64 = 1 << 7;
/// What may stand beside PASSTHROUGH (`fs/fuse/iomode.c`: FOPEN_PASSTHROUGH_MASK).
const BESIDE: u64 = DIRECT_IO | 1 << 5 | 1 << 6;

/// A request had its reply.
pub(super) fn answered(
    bench: &mut Judgement,
    books: &mut Books,
    story: &Story,
    index: usize,
    asked: &Asked,
    told: &Told,
) {
    let opcode = asked.message.opcode();
    let book = books.of(asked.connection);
    if !told.was_taken() {
        // No RELEASE comes for it, so what was registered for it is not to be closed by one.
        book.excuse(told.to.unwrap_or(index));
    }
    if told.error() != 0 || !told.was_taken() {
        return;
    }
    // A reply with an entry is about the node that it names.
    let names = opcode.reply_field("nodeid").is_some();
    let node =
        if names { told.field(opcode, "nodeid").unwrap_or(0) as u64 } else { asked.message.header.nodeid };
    if names && node != 0 {
        book.learns(node);
    }
    let opens = matches!(opcode, Opcode::OPEN | Opcode::CREATE | Opcode::TMPFILE);
    if !opens {
        return;
    }
    let said = |name| told.field(opcode, name).unwrap_or(0);
    let (flags, fh, id) = (said("open_flags") as u64, said("fh") as u64, said("backing_id") as i32);
    let about = format!("{opcode} {:?}", asked.path);
    let asked_at = told.to.unwrap_or(index);
    let open = Reply { bench, story, index, asked_at, asked, node, flags, id, about: &about };
    open.judge(book);
    if flags & PASSTHROUGH == 0 {
        book.plainly(node, asked_at);
    } else if let Some(id) = book.ids.get_mut(&(id as u32)) {
        // Whether the kernel agrees or not: with the file's RELEASE it is not needed any more.
        id.nodes.insert(node);
    }
    // One that the kernel refuses is released at once.
    let cached = flags & (DIRECT_IO | PASSTHROUGH) == 0;
    let id = (flags & PASSTHROUGH != 0).then_some(id);
    book.opens.entry((node, fh)).or_default().push(Open { id, cached });
}

struct Reply<'a> {
    bench: &'a mut Judgement,
    story: &'a Story,
    index: usize,
    /// The deed that is the request.
    asked_at: usize,
    asked: &'a Asked,
    node: u64,
    flags: u64,
    id: i32,
    about: &'a str,
}

impl Reply<'_> {
    fn met(&mut self, rule: &'static str, wrong: Option<String>) -> bool {
        let wrong = wrong.map(|why| format!("{}: {why}", self.about));
        let kept = wrong.is_none();
        self.bench.met(rule, self.index, wrong);
        kept
    }

    /// Judge it, up to what the kernel refuses it for.
    fn judge(mut self, book: &Book) {
        let others: Vec<Open> = book.opens_of(self.node).collect();
        let passing = others.iter().filter_map(|open| open.id).next_back();
        if self.flags & PASSTHROUGH == 0 {
            if book.refused_since(self.asked_at) {
                self.met("DMN-08", None);
            }
            if !others.is_empty() {
                self.met("DMN-15", passing.map(|id| {
                    format!("without PASSTHROUGH while the inode is open with id {id}: the open fails with EIO")
                }));
            }
            return;
        }
        let beside = self.flags & !PASSTHROUGH & !BESIDE;
        self.met(
            "DMN-13",
            (beside != 0)
                .then(|| format!("{} beside PASSTHROUGH: the open fails with EIO", FOPEN.print(beside))),
        );
        self.met(
            "DMN-14",
            (self.flags & DIRECT_IO != 0).then(|| {
                "DIRECT_IO beside PASSTHROUGH: reads and writes go to the daemon, not to the lower file"
                    .into()
            }),
        );
        let refused = book.refused_since(self.asked_at);
        let wrong = (self.id <= 0)
            .then(|| format!("PASSTHROUGH with backing_id={}: the open fails with EIO", self.id));
        let rule = if refused { "DMN-08" } else { "DMN-10" };
        if !self.met(rule, wrong) {
            return;
        }
        if !others.is_empty() {
            let cached = others.iter().any(|open| open.cached);
            if !self.met(
                "DMN-15",
                cached.then(|| {
                    "PASSTHROUGH while the inode is open in cached mode: the open fails with EIO".into()
                }),
            ) {
                return;
            }
        }
        let id = self.id;
        let (stale, early) = match book.ids.get(&(id as u32)) {
            None => (Some(format!("id {id} was never given out: the open fails with EIO")), None),
            Some(known) => match known.closed {
                Some(_) if known.opened > self.asked_at => (
                    None,
                    Some(format!(
                        "id {id} is closed before the reply that names it: the open fails with EIO"
                    )),
                ),
                Some(_) => (Some(format!("id {id} is closed: the open fails with EIO")), None),
                None => (None, None),
            },
        };
        let there = self.met("DMN-12", early);
        if !there || !self.met("DMN-11", stale) {
            return;
        }
        if let Some(other) = passing {
            let closed = book.ids.get(&(other as u32)).is_none_or(|known| known.closed.is_some());
            let differs = other != id;
            let why = || format!("id {id} while the inode is open with id {other}: the open fails with EIO");
            let early = (differs && closed).then(|| format!("{}; that one was closed under it", why()));
            let two = (differs && !closed).then(why);
            let kept = self.met("DMN-22", early);
            if !kept || !self.met("DMN-16", two) {
                return;
            }
        }
        // Once it was right it stays right, whatever the file is called.
        let known = book.ids.get(&(id as u32)).filter(|known| !known.nodes.contains(&self.node));
        let wrong = known.and_then(|known| known.file.as_ref()).and_then(|file| {
            let path = self.story.relative(&file.path);
            let gone = path.ends_with(" (deleted)") || self.asked.path == "?";
            let same = path == self.asked.path || path.ends_with(&format!("/{}", self.asked.path));
            (!gone && !same).then(|| format!("id {id} is {path:?}"))
        });
        self.met("DMN-07", wrong);
    }
}
