//! The lines of one report to its structure.

use super::Kind;
use super::frames::{Stack, mentioned, plain};

/// How many functions tell one finding from another.
const KEY_FRAMES: usize = 4;
/// How long a title may be.
const MAX_TITLE: usize = 300;

/// One report of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Splat {
    /// What sort of report.
    pub kind: Kind,
    /// The finding in a line: the kernel's words, with `N` for numbers and addresses that the next run would not
    /// repeat. A panic's are all there.
    pub title: String,
    /// Whose finding it is: the innermost function that does not belong to the reporter. Two of them for a data race.
    pub function: Option<String>,
    /// How it came there, the innermost function first, without the reporter's own. Both sides of a data race.
    pub stack: Vec<String>,
    /// Who allocated the memory.
    pub allocated: Vec<String>,
    /// Who freed it.
    pub freed: Vec<String>,
}

impl Splat {
    /// The same for the same finding: no address, number or line is in it.
    pub fn key(&self) -> String {
        let Some(function) = &self.function else { return format!("{}: {}", self.kind, steady(&self.title)) };
        // Which side of a race finds it is chance.
        let stack = match self.kind {
            Kind::Kcsan => &[],
            Kind::Kmemleak => self.allocated.as_slice(),
            _ => self.stack.as_slice(),
        };
        let frames: Vec<&str> = stack.iter().take(KEY_FRAMES).map(String::as_str).collect();
        format!("{} in {function}: {}", self.kind, frames.join(" "))
    }
}

/// Where a line belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Stack,
    Allocated,
    Freed,
    Other,
}

/// How parts begin, in lower case.
const PARTS: [(&str, Part); 10] = [
    ("call trace:", Part::Stack),
    ("allocated by task", Part::Allocated),
    ("allocated in ", Part::Allocated),
    ("uninit was created at", Part::Allocated),
    ("freed by task", Part::Freed),
    ("freed in ", Part::Freed),
    ("uninit was stored", Part::Other),
    ("last potentially related", Part::Other),
    ("second to last potentially", Part::Other),
    ("showing all locks held", Part::Other),
];

/// Read a report: what was said before the line that names it, and all from that line on.
pub(super) fn read(kind: Kind, heading: &[String], lines: &[String]) -> Splat {
    let first = lines.first().map_or("", String::as_str);
    let words = heading.first().map(String::as_str).or_else(|| words_behind(kind, lines));
    let kind = match words {
        Some(words) if words.starts_with("refcount_t:") => Kind::Refcount,
        _ => kind,
    };
    let [stack, allocated, freed] = stacks(kind, lines);
    let function = match kind {
        Kind::Panic => None,
        Kind::Kcsan => racers(first),
        _ => stack.first().cloned().or_else(|| mentioned(first)),
    };
    Splat { kind, title: title(kind, first, words), function, stack, allocated, freed }
}

/// A warning's own words, if they come behind the line that says where it is one. A line without a place is all there is
/// of a warning, and what comes behind it is something else.
fn words_behind(kind: Kind, lines: &[String]) -> Option<&str> {
    const OTHERS: [&str; 6] = ["Modules linked in", "CPU:", "RIP:", "Call Trace", "Call trace", "---["];
    let has_place = lines.first().is_some_and(|line| line.contains("CPU"));
    let next = lines.get(1).filter(|_| kind == Kind::Warning && has_place)?;
    let is_words = !next.is_empty() && !OTHERS.iter().any(|other| next.starts_with(other));
    is_words.then_some(next)
}

fn title(kind: Kind, first: &str, words: Option<&str>) -> String {
    let title = match (kind, words) {
        (Kind::Panic, _) => first.to_string(),
        (Kind::Refcount, Some(words)) => steady(words),
        (Kind::Warning, Some(words)) => format!("WARNING: {}", steady(words)),
        // Who it was and where it ran is chance: "WARNING: CPU: 0 PID: 1 at ...", since 7.0 "..., CPU#0: name/1".
        (Kind::Warning, None) => {
            let line = first.split(", CPU#").next().unwrap_or_default();
            steady(line).replace("CPU: N PID: N ", "")
        }
        _ => steady(first),
    };
    title.chars().take(MAX_TITLE).collect()
}

/// The two functions that a data race is between: `BUG: KCSAN: data-race in one / other`, sorted by the kernel.
fn racers(title: &str) -> Option<String> {
    let names = title.split_once(" in ")?.1.split(" / ");
    let names: Option<Vec<String>> = names.map(|name| plain(name.split(['+', ' ']).next()?)).collect();
    names.map(|names| names.join(" / "))
}

/// The stacks in a report: how it came there, who allocated, who freed.
fn stacks(kind: Kind, lines: &[String]) -> [Vec<String>; 3] {
    let [mut stack, mut allocated, mut freed] = [Stack::default(), Stack::default(), Stack::default()];
    // KMSAN's begins without a word.
    let is_kmsan = lines.first().is_some_and(|line| line.starts_with("BUG: KMSAN"));
    let mut part = if is_kmsan { Part::Stack } else { Part::Other };
    // Who looks for stuck tasks does so in an interrupt of them.
    let mut interrupt = false;
    for line in lines.iter().skip(1) {
        let text = line.trim().to_ascii_lowercase();
        if let Some((_, next)) = PARTS.iter().find(|(start, _)| text.starts_with(start)) {
            part = *next;
        } else if begins_stack(kind, &text) {
            part = Part::Stack;
        } else if text.is_empty() {
            part = Part::Other;
        } else if ["<irq>", "<nmi>"].contains(&text.as_str()) {
            interrupt = kind == Kind::HungTask;
        } else if ["</irq>", "</nmi>"].contains(&text.as_str()) {
            interrupt = false;
        } else if let Some(place) = line.trim().strip_prefix("RIP: ").or(line.trim().strip_prefix("pc : ")) {
            // Registers stand above the trace of who has them.
            if !interrupt && ![Part::Allocated, Part::Freed].contains(&part) {
                stack.push(place.split_once(':').map_or(place, |(_, place)| place));
            }
        } else if !interrupt {
            match part {
                Part::Stack => stack.push(line),
                Part::Allocated => allocated.push(line),
                Part::Freed => freed.push(line),
                Part::Other => {}
            }
        }
    }
    [stack, allocated, freed].map(Stack::into_names)
}

/// Is it the line above a stack that has no other mark? `text` is in lower case.
fn begins_stack(kind: Kind, text: &str) -> bool {
    match kind {
        // "write to 0xffff... of 8 bytes by task 77 on cpu 0:"
        Kind::Kcsan => text.contains(" bytes by ") && text.ends_with(':'),
        // KFENCE: "Use-after-free read at 0x... (in kfence-#7):"
        Kind::Kasan => text.contains(" at 0x") && text.ends_with(':'),
        _ => false,
    }
}

/// The text with `N` in place of every number that stands alone and of every address, and without offsets of functions.
/// What belongs to a name stays: `kmalloc-64`, `u64`.
fn steady(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        if word.is_empty() {
            if let Some(behind) = rest.strip_prefix('+').and_then(behind_offset) {
                rest = behind;
                continue;
            }
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        out.push_str(if is_chance(word) && !out.ends_with('-') { "N" } else { word });
        rest = behind;
    }
    out
}

/// What follows `0x12/0x34`.
fn behind_offset(text: &str) -> Option<&str> {
    let number = |text: &str| -> Option<usize> {
        let digits = text.strip_prefix("0x")?.bytes().take_while(u8::is_ascii_hexdigit).count();
        (digits > 0).then_some(2 + digits)
    };
    let behind = text[number(text)?..].strip_prefix('/')?;
    Some(&behind[number(behind)?..])
}

/// Is it a number, or an address?
fn is_chance(word: &str) -> bool {
    let hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
    word.bytes().all(|b| b.is_ascii_digit())
        || word.strip_prefix("0x").is_some_and(hex)
        || word.len() >= 8 && hex(word) && word.bytes().any(|b| b.is_ascii_digit())
        // "26s"
        || word.strip_suffix('s').is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::scan;
    use super::*;

    fn only(text: &str) -> Splat {
        let mut splats = scan(text);
        assert_eq!(splats.len(), 1, "{splats:#?}");
        splats.remove(0)
    }

    /// Kind, title, function, stack, allocation and free, the last three as words.
    #[rstest]
    #[case(
        include_str!("texts/kasan-use-after-free.txt"),
        Kind::Kasan,
        "BUG: KASAN: slab-use-after-free in fuse_backing_put",
        "fuse_backing_put",
        "fuse_backing_put fuse_release_common fuse_release __fput __x64_sys_close do_syscall_64 \
         entry_SYSCALL_64_after_hwframe",
        "fuse_backing_open fuse_dev_ioctl __x64_sys_ioctl",
        "fuse_backing_close fuse_dev_ioctl"
    )]
    #[case(
        include_str!("texts/kasan-out-of-bounds.txt"),
        Kind::Kasan,
        "BUG: KASAN: slab-out-of-bounds in fuse_copy_one [fuse]",
        "fuse_copy_one",
        "fuse_copy_one fuse_dev_do_write",
        "fuse_args_alloc",
        ""
    )]
    #[case(
        include_str!("texts/kfence.txt"),
        Kind::Kasan,
        "BUG: KFENCE: use-after-free read in fuse_backing_get",
        "fuse_backing_get",
        "fuse_backing_get fuse_passthrough_open",
        "fuse_backing_open",
        "fuse_backing_close"
    )]
    #[case(
        include_str!("texts/kmsan.txt"),
        Kind::Kasan,
        "BUG: KMSAN: uninit-value in fuse_dev_do_read",
        "fuse_dev_do_read",
        "fuse_dev_do_read fuse_dev_read",
        "fuse_request_alloc",
        ""
    )]
    #[case(
        include_str!("texts/slab.txt"),
        Kind::Oops,
        "BUG kmalloc-64 (Not tainted): Right Redzone overwritten",
        "fuse_backing_put",
        "fuse_backing_put",
        "fuse_backing_open",
        "fuse_backing_free"
    )]
    #[case(
        include_str!("texts/lockdep-circular.txt"),
        Kind::Lockdep,
        "WARNING: possible circular locking dependency detected",
        "fuse_file_io_open",
        "fuse_file_io_open fuse_finish_open",
        "",
        ""
    )]
    #[case(
        include_str!("texts/sleeping.txt"),
        Kind::Lockdep,
        "BUG: sleeping function called from invalid context at include/linux/sched/mm.h:N",
        "fuse_backing_open",
        "fuse_backing_open fuse_dev_ioctl",
        "",
        ""
    )]
    #[case(
        include_str!("texts/refcount.txt"),
        Kind::Refcount,
        "refcount_t: underflow; use-after-free.",
        "fuse_backing_put",
        "fuse_backing_put fuse_backing_close fuse_dev_ioctl",
        "",
        ""
    )]
    #[case(
        include_str!("texts/warning.txt"),
        Kind::Warning,
        "WARNING: at fs/fuse/iomode.c:N fuse_file_cached_io_open [fuse]",
        "fuse_file_cached_io_open",
        "fuse_file_cached_io_open fuse_file_io_open fuse_finish_open",
        "",
        ""
    )]
    #[case(
        include_str!("texts/warning-7.2.txt"),
        Kind::Warning,
        "WARNING: fs/fuse/iomode.c:N at fuse_file_cached_io_open",
        "fuse_file_cached_io_open",
        "fuse_file_cached_io_open fuse_file_io_open",
        "",
        ""
    )]
    #[case(
        include_str!("texts/hung-task.txt"),
        Kind::HungTask,
        "INFO: task app:N blocked for more than N seconds.",
        "request_wait_answer",
        "request_wait_answer __fuse_simple_request fuse_flush",
        "",
        ""
    )]
    #[case(
        include_str!("texts/rcu-stall.txt"),
        Kind::HungTask,
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "fuse_dev_queue_req",
        "fuse_dev_queue_req asm_sysvec_apic_timer_interrupt fuse_simple_request",
        "",
        ""
    )]
    #[case(
        include_str!("texts/list-corruption.txt"),
        Kind::Oops,
        "list_add corruption. next->prev should be prev (N), but was N. (next=N).",
        "fuse_request_queue_background",
        "fuse_request_queue_background fuse_simple_background",
        "",
        ""
    )]
    #[case(
        include_str!("texts/protection-fault.txt"),
        Kind::Oops,
        "Oops: general protection fault, probably for non-canonical address N: N [#N] PREEMPT SMP KASAN NOPTI",
        "fuse_passthrough_read_iter",
        "fuse_passthrough_read_iter vfs_read",
        "",
        ""
    )]
    #[case(
        include_str!("texts/kcsan.txt"),
        Kind::Kcsan,
        "BUG: KCSAN: data-race in fuse_file_io_release / fuse_inode_uncached_io_start",
        "fuse_file_io_release / fuse_inode_uncached_io_start",
        "fuse_inode_uncached_io_start fuse_file_io_open fuse_file_io_release fuse_release_common",
        "",
        ""
    )]
    fn a_report_is_read(
        #[case] text: &str,
        #[case] kind: Kind,
        #[case] title: &str,
        #[case] function: &str,
        #[case] stack: &str,
        #[case] allocated: &str,
        #[case] freed: &str,
    ) {
        let splat = only(text);
        assert_eq!((splat.kind, splat.title.as_str()), (kind, title));
        assert_eq!(splat.function.as_deref(), Some(function));
        let told = [&splat.stack, &splat.allocated, &splat.freed].map(|names| names.join(" "));
        assert_eq!(told, [stack, allocated, freed]);
    }

    /// Wherever a text is cut, and whatever byte of it is lost, it is read without harm, and never as two findings.
    #[rstest]
    fn a_text_may_be_cut_anywhere(
        #[values(
            include_str!("texts/kasan-use-after-free.txt"),
            include_str!("texts/lockdep-circular.txt"),
            include_str!("texts/list-corruption.txt"),
            include_str!("texts/kcsan.txt")
        )]
        text: &str,
    ) {
        for at in 0..text.len() {
            assert!(scan(&text[..at]).len() <= 1);
            scan(&text[at..]);
        }
    }

    #[test]
    fn the_key_is_the_same_for_the_same_finding_only() {
        let text = include_str!("texts/kasan-use-after-free.txt");
        let key = only(text).key();
        assert_eq!(
            key,
            "kasan in fuse_backing_put: fuse_backing_put fuse_release_common fuse_release __fput"
        );
        let again =
            text.replace("+0x6e/0x90", "+0x71/0xa0").replace("ffff8880", "ffff8881").replace("/77", "/99");
        assert_eq!(only(&again).key(), key);
        assert_ne!(only(&text.replace("fuse_release+", "fuse_flush+")).key(), key);
        // Which side of a race comes first is chance.
        let race = include_str!("texts/kcsan.txt");
        let (head, sides) = race.split_once("\n\n").unwrap();
        let sides: Vec<&str> = sides.split("\n\n").collect();
        let turned = format!("{head}\n\n{}\n\n{}\n\n{}", sides[1], sides[0], sides[2..].join("\n\n"));
        assert_ne!(only(&turned).stack, only(race).stack);
        assert_eq!(only(&turned).key(), only(race).key());
        // Without a function there are only words.
        assert_eq!(scan("BUG: bad thing 7 at ffff888001234568")[0].key(), "oops: BUG: bad thing N at N");
    }

    #[rstest]
    #[case("f+0x1/0x2 of kmalloc-64 and u64", "f of kmalloc-64 and u64")]
    #[case("address: 0000000000000000", "address: N")]
    #[case("CPU#0 stuck for 26s! [cat:77]", "CPU#N stuck for N! [cat:N]")]
    #[case("x.c:1:2 deadbeef 1+0x fa\u{e9}", "x.c:N:N deadbeef N+N fa\u{e9}")]
    #[case("", "")]
    fn chance_is_left_out(#[case] text: &str, #[case] left: &str) {
        assert_eq!(steady(text), left);
    }
}
