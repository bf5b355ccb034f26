//! Kernel log text to findings: oops, panic, warning, sanitizer and lockdep reports, hung tasks, leaks.
//!
//! Pure: text in, [`Splat`]s out, the same for a serial console and for what `/dev/kmsg` gives. It knows how kernels
//! begin and end their reports; it refuses to judge them, and it holds a bounded amount whatever a guest prints.

mod frames;
mod kmemleak;
mod report;

use std::fmt;

pub use kmemleak::{Leak, leaks};
pub use report::Splat;

/// What a kernel complained of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The kernel stopped.
    Panic,
    /// A fault or `BUG()` in kernel code.
    Oops,
    /// `WARN()` and its kin.
    Warning,
    /// A reference count that went wrong.
    Refcount,
    /// The address sanitizer (KASAN, KFENCE, KMSAN).
    Kasan,
    /// The data race sanitizer.
    Kcsan,
    /// The undefined behaviour sanitizer.
    Ubsan,
    /// The lock dependency checker, RCU's included, and sleep where none is allowed.
    Lockdep,
    /// A task that does not come back, a stalled CPU, a lockup.
    HungTask,
    /// Memory that nobody points to.
    Kmemleak,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Panic => "panic",
            Kind::Oops => "oops",
            Kind::Warning => "warning",
            Kind::Refcount => "refcount",
            Kind::Kasan => "kasan",
            Kind::Kcsan => "kcsan",
            Kind::Ubsan => "ubsan",
            Kind::Lockdep => "lockdep",
            Kind::HungTask => "hung task",
            Kind::Kmemleak => "kmemleak",
        })
    }
}

const MAX_SPLATS: usize = 32;
/// Lock dependencies take most lines: a stack for each lock, and the reporter's own comes last.
const MAX_LINES: usize = 300;
const MAX_LINE: usize = 1024;
/// How many lines a warning's own words may have, before the line that says it is one.
const MAX_HEADING: usize = 8;

/// How a report begins.
struct Start {
    text: &'static str,
    /// What else is in that line.
    also: &'static str,
    kind: Kind,
    /// The text that ends the report.
    end: &'static str,
}

const fn start(text: &'static str, kind: Kind, end: &'static str) -> Start {
    Start { text, also: "", kind, end }
}

const fn start_with(text: &'static str, also: &'static str, kind: Kind, end: &'static str) -> Start {
    Start { text, also, kind, end }
}

const RULER: &str = "======";
const TRACE: &str = "---[ end trace";
const TASK: &str = "</TASK>";

/// The particular before the general.
const STARTS: &[Start] = &[
    start("Kernel panic - not syncing", Kind::Panic, "---[ end Kernel panic"),
    start("BUG: KASAN:", Kind::Kasan, RULER),
    start("BUG: KFENCE:", Kind::Kasan, RULER),
    start("BUG: KMSAN:", Kind::Kasan, RULER),
    start("BUG: KCSAN:", Kind::Kcsan, RULER),
    start("UBSAN:", Kind::Ubsan, TRACE),
    start("WARNING: possible", Kind::Lockdep, TASK),
    start("WARNING: suspicious RCU usage", Kind::Lockdep, TASK),
    start("WARNING: inconsistent lock state", Kind::Lockdep, TASK),
    start("WARNING: bad unlock balance", Kind::Lockdep, TASK),
    start("WARNING: bad contention", Kind::Lockdep, TASK),
    start("WARNING: held lock freed", Kind::Lockdep, TASK),
    start("WARNING: lock held when", Kind::Lockdep, TASK),
    start("WARNING: Nested lock was not taken", Kind::Lockdep, TASK),
    start_with("WARNING: ", "still has locks held", Kind::Lockdep, TASK),
    start_with("WARNING: ", "lock order detected", Kind::Lockdep, TASK),
    start("BUG: Invalid wait context", Kind::Lockdep, TASK),
    start("[ BUG: Invalid wait context", Kind::Lockdep, TASK),
    start("BUG: sleeping function called from invalid context", Kind::Lockdep, TASK),
    start("BUG: scheduling", Kind::Lockdep, TASK),
    start("BUG: assuming", Kind::Lockdep, TASK),
    start("BUG: spinlock", Kind::Lockdep, TASK),
    start("BUG: rwlock", Kind::Lockdep, TASK),
    start("BUG: workqueue leaked", Kind::Lockdep, TASK),
    start("INFO: trying to register non-static key", Kind::Lockdep, TASK),
    start_with("INFO: task ", "for more than", Kind::HungTask, TASK),
    start("watchdog: BUG:", Kind::HungTask, TASK),
    start("BUG: workqueue lockup", Kind::HungTask, TASK),
    start("rcu: INFO:", Kind::HungTask, TASK),
    start("WARNING:", Kind::Warning, TRACE),
    // The slab allocator's own checks.
    start_with("BUG ", "): ", Kind::Oops, TASK),
    start("BUG: Bad", Kind::Oops, TASK),
    start("BUG:", Kind::Oops, TRACE),
    start("kernel BUG at", Kind::Oops, TRACE),
    start("list_add corruption", Kind::Oops, TRACE),
    start("list_add double add", Kind::Oops, TRACE),
    start("list_del corruption", Kind::Oops, TRACE),
    start("Oops:", Kind::Oops, TRACE),
    start("general protection fault", Kind::Oops, TRACE),
    start("divide error:", Kind::Oops, TRACE),
    start("stack segment:", Kind::Oops, TRACE),
];

/// Before a warning or a `BUG()`.
const CUT: &str = "[ cut here ]";
/// The lines that say what was cut there.
const CUT_OUT: [&str; 2] = ["WARNING:", "kernel BUG at"];

/// Lines that make one report.
#[derive(Debug)]
struct Open {
    kind: Kind,
    /// What was said before the line that says what it is.
    heading: Vec<String>,
    /// From that line on.
    lines: Vec<String>,
    end: &'static str,
}

impl Open {
    fn read(&self) -> Splat {
        report::read(self.kind, &self.heading, &self.lines)
    }
}

/// Reads a log line by line, as it comes.
#[derive(Debug, Default)]
pub struct Scanner {
    done: Vec<Splat>,
    open: Option<Open>,
    /// What was said since a cut.
    heading: Option<Vec<String>>,
}

impl Scanner {
    /// Take the next line, with or without its time stamp.
    pub fn push(&mut self, line: &str) {
        let line = bare(line);
        if line.contains(CUT) {
            self.heading = Some(Vec::new());
            return;
        }
        let start = STARTS.iter().find(|start| line.starts_with(start.text) && line.contains(start.also));
        match start {
            // A fault is told in several lines that would each open a report; they are one.
            Some(Start { kind: Kind::Oops, .. }) if self.inside(Kind::Oops) => self.add(line),
            // A warning's own words may be those that open another report elsewhere.
            Some(start) if self.may_begin(start, line) => {
                let heading = self.heading.take().unwrap_or_default();
                self.close();
                self.open = Some(Open { kind: start.kind, heading, lines: vec![clip(line)], end: start.end });
            }
            _ => self.add(line),
        }
    }

    /// All reports so far, in the order they began; at most 32, the first ones.
    pub fn splats(&self) -> Vec<Splat> {
        let open = self.open.iter().map(Open::read);
        self.done.iter().cloned().chain(open).take(MAX_SPLATS).collect()
    }

    fn inside(&self, kind: Kind) -> bool {
        self.open.as_ref().is_some_and(|open| open.kind == kind)
    }

    fn may_begin(&self, start: &Start, line: &str) -> bool {
        let cut_out = CUT_OUT.iter().any(|text| line.starts_with(text));
        let words = !cut_out && [Kind::Oops, Kind::Warning].contains(&start.kind);
        let just_warned =
            self.open.as_ref().is_some_and(|open| open.kind == Kind::Warning && open.lines.len() == 1);
        !words || self.heading.is_none() && !just_warned
    }

    fn add(&mut self, line: &str) {
        if let Some(heading) = &mut self.heading {
            heading.push(clip(line));
            if heading.len() > MAX_HEADING {
                self.heading = None;
            }
        }
        let Some(open) = &mut self.open else { return };
        open.lines.push(clip(line));
        if line.contains(open.end) || open.lines.len() == MAX_LINES {
            self.close();
        }
    }

    fn close(&mut self) {
        self.heading = None;
        let Some(open) = self.open.take() else { return };
        if self.done.len() < MAX_SPLATS {
            self.done.push(open.read());
        }
    }
}

/// The reports in a whole text.
pub fn scan(text: &str) -> Vec<Splat> {
    let mut scanner = Scanner::default();
    text.lines().for_each(|line| scanner.push(line));
    scanner.splats()
}

/// The line without what stands before the kernel's words: `6,123,456,-;` of `/dev/kmsg`, `<4>` of `dmesg -r`,
/// `[    1.234567]` and `[    T1]` of a console.
fn bare(line: &str) -> &str {
    let mut rest = line.trim_end();
    if let Some((prefix, words)) = rest.split_once(';')
        && prefix
            .split(',')
            .take(3)
            .all(|field| !field.is_empty() && field.bytes().all(|b| b.is_ascii_digit()))
    {
        rest = words;
    }
    if let Some((level, words)) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>'))
        && level.bytes().all(|b| b.is_ascii_digit())
    {
        rest = words;
    }
    while let Some((stamp, words)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let stamp = stamp.trim_start().trim_start_matches(['T', 'C']);
        if stamp.is_empty() || !stamp.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            break;
        }
        rest = words.strip_prefix(' ').unwrap_or(words);
    }
    rest
}

fn clip(line: &str) -> String {
    line.chars().take(MAX_LINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("[    1.234567] Kernel panic - not syncing: sysrq triggered crash", Kind::Panic)]
    #[case("[    1.234567][    T1] BUG: KASAN: slab-use-after-free in fuse_read+0x1/0x2", Kind::Kasan)]
    #[case("3,1234,5678901,-;BUG: KCSAN: data-race in a / b", Kind::Kcsan)]
    #[case("<4>[    2.000000] WARNING: CPU: 0 PID: 1 at fs/fuse/file.c:1 fuse+0x1/0x2", Kind::Warning)]
    #[case("[    9.0] WARNING: possible circular locking dependency detected", Kind::Lockdep)]
    #[case("WARNING: suspicious RCU usage", Kind::Lockdep)]
    #[case("WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected", Kind::Lockdep)]
    #[case("WARNING: cat/77 still has locks held!", Kind::Lockdep)]
    #[case("BUG: sleeping function called from invalid context at mm/slab.h:1", Kind::Lockdep)]
    #[case("BUG: scheduling while atomic: cat/77/0x00000002", Kind::Lockdep)]
    #[case("BUG kmalloc-64 (Not tainted): Right Redzone overwritten", Kind::Oops)]
    #[case("[  242.1] INFO: task cat:77 blocked for more than 120 seconds.", Kind::HungTask)]
    #[case("[  26.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [cat:77]", Kind::HungTask)]
    #[case("[    3.1] BUG: kernel NULL pointer dereference, address: 0000000000000000", Kind::Oops)]
    #[case("[    3.1] list_del corruption, ffff888001234568->next is NULL", Kind::Oops)]
    #[case("[    3.1] UBSAN: shift-out-of-bounds in x.c:1:2", Kind::Ubsan)]
    fn a_first_line_names_its_kind(#[case] line: &str, #[case] kind: Kind) {
        assert_eq!(scan(line).iter().map(|splat| splat.kind).collect::<Vec<_>>(), [kind]);
    }

    #[rstest]
    #[case("[    0.1] Linux version 6.12")]
    #[case("[    0.1] this is not a WARNING: at the start of a line")]
    #[case("[drm] BUG: somebody else's bracket")]
    #[case("INFO: task cat:77 is blocked on a mutex likely owned by task dog:78.")]
    #[case("")]
    #[case("[")]
    #[case("1,2;BUG")]
    #[case("------------[ cut here ]------------")]
    fn other_lines_are_none(#[case] line: &str) {
        assert_eq!(scan(line), []);
    }

    #[test]
    fn an_oops_is_one_report_and_the_panic_after_it_another() {
        let text = "\
[    3.1] BUG: kernel NULL pointer dereference, address: 0
[    3.1] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI
[    3.1] RIP: 0010:f+0x1/0x2
[    3.2] ---[ end trace 0000000000000000 ]---
[    3.2] RIP: 0010:g+0x1/0x2
[    3.3] Kernel panic - not syncing: Fatal exception
[    3.3] Kernel Offset: disabled";
        let told: Vec<_> = scan(text).into_iter().map(|splat| (splat.kind, splat.stack)).collect();
        assert_eq!(told, [(Kind::Oops, vec!["f".to_string()]), (Kind::Panic, vec![])]);
    }

    /// The words come before the line that says it is a warning, or behind it.
    #[test]
    fn a_warnings_own_words_open_no_other_report() {
        for text in [
            "------------[ cut here ]------------\nBUG: Dentry 000000001 still in use\n\
             WARNING: CPU: 0 PID: 1 at fs/dcache.c:1 umount_check+0x1/0x2\nRIP: 0010:umount_check+0x1/0x2",
            "WARNING: CPU: 0 PID: 1 at fs/dcache.c:1 umount_check+0x1/0x2\nBUG: Dentry 000000001 still in use\n\
             RIP: 0010:umount_check+0x1/0x2",
        ] {
            let splats = scan(text);
            let told: Vec<_> = splats.iter().map(|splat| (splat.kind, splat.title.as_str())).collect();
            assert_eq!(told, [(Kind::Warning, "WARNING: BUG: Dentry N still in use")]);
        }
    }

    #[test]
    fn what_comes_behind_a_warning_without_a_place_is_not_of_it() {
        let found = scan("WARNING: made up\nclocksource: Switched to clocksource tsc\n");
        assert_eq!(found.iter().map(|splat| splat.title.as_str()).collect::<Vec<_>>(), ["WARNING: made up"]);
    }

    #[test]
    fn a_guest_cannot_make_it_hold_more_than_its_bound() {
        let mut scanner = Scanner::default();
        for _ in 0..100 {
            scanner.push("---[ cut here ]---");
            (0..2 * MAX_HEADING).for_each(|_| scanner.push("words"));
            scanner.push(&format!("WARNING: {}", "x".repeat(10 * MAX_LINE)));
            scanner.push("Call Trace:");
            (0..2 * MAX_LINES).for_each(|n| scanner.push(&format!(" f{n}_{}+0x1/0x2", "f".repeat(100))));
        }
        assert!(scanner.open.is_none() && scanner.heading.is_none());
        let splats = scanner.splats();
        assert_eq!(splats.len(), MAX_SPLATS);
        for splat in splats {
            let size = splat.title.len() + splat.stack.iter().map(String::len).sum::<usize>();
            assert!((1..8 << 10).contains(&size), "{size}");
        }
    }
}
