//! Kernel log text to findings: oops, panic, warning, sanitizer and lockdep reports, hung tasks.
//!
//! Pure: text in, [`Splat`]s out, the same for a serial console and for what `/dev/kmsg` gives. It knows how kernels
//! begin and end their reports; it refuses to judge them, and it holds a bounded amount whatever a guest prints.

/// What a kernel complained of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// The kernel stopped.
    Panic,
    /// A fault or `BUG()` in kernel code.
    Oops,
    /// `WARN()` and its kin.
    Warning,
    /// The address sanitizer (KASAN, KFENCE, KMSAN).
    Kasan,
    /// The data race sanitizer.
    Kcsan,
    /// The undefined behaviour sanitizer.
    Ubsan,
    /// The lock dependency checker, RCU's included.
    Lockdep,
    /// A task that does not come back, a stalled CPU, a lockup.
    HungTask,
}

/// One report of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Splat {
    /// What sort of report.
    pub kind: Kind,
    /// The line that names the finding, without time stamp.
    pub title: String,
    /// The report, without time stamps, at most 100 lines.
    pub lines: Vec<String>,
}

const MAX_SPLATS: usize = 32;
const MAX_LINES: usize = 100;
const MAX_LINE: usize = 1024;

/// How reports begin, the particular before the general, each with the text that ends them.
const STARTS: &[(&str, Kind, &str)] = &[
    ("Kernel panic - not syncing", Kind::Panic, "---[ end Kernel panic"),
    ("BUG: KASAN:", Kind::Kasan, "======"),
    ("BUG: KFENCE:", Kind::Kasan, "======"),
    ("BUG: KMSAN:", Kind::Kasan, "======"),
    ("BUG: KCSAN:", Kind::Kcsan, "======"),
    ("UBSAN:", Kind::Ubsan, "---[ end trace"),
    ("WARNING: possible", Kind::Lockdep, "</TASK>"),
    ("WARNING: suspicious RCU usage", Kind::Lockdep, "</TASK>"),
    ("WARNING: inconsistent lock state", Kind::Lockdep, "</TASK>"),
    ("WARNING: bad unlock balance", Kind::Lockdep, "</TASK>"),
    ("WARNING: lock held when", Kind::Lockdep, "</TASK>"),
    ("WARNING: Nested lock was not taken", Kind::Lockdep, "</TASK>"),
    ("BUG: Invalid wait context", Kind::Lockdep, "</TASK>"),
    ("[ BUG: Invalid wait context", Kind::Lockdep, "</TASK>"),
    ("INFO: task ", Kind::HungTask, "</TASK>"),
    ("watchdog: BUG:", Kind::HungTask, "</TASK>"),
    ("rcu: INFO:", Kind::HungTask, "</TASK>"),
    ("WARNING:", Kind::Warning, "---[ end trace"),
    ("BUG:", Kind::Oops, "---[ end trace"),
    ("kernel BUG at", Kind::Oops, "---[ end trace"),
    ("Oops:", Kind::Oops, "---[ end trace"),
    ("general protection fault", Kind::Oops, "---[ end trace"),
    ("divide error:", Kind::Oops, "---[ end trace"),
    ("stack segment:", Kind::Oops, "---[ end trace"),
];

/// Reads a log line by line, as it comes.
#[derive(Debug, Default)]
pub struct Scanner {
    done: Vec<Splat>,
    open: Option<(Splat, &'static str)>,
}

impl Scanner {
    /// Take the next line, with or without its time stamp.
    pub fn push(&mut self, line: &str) {
        let line = bare(line);
        let start = STARTS.iter().find(|(text, _, _)| line.starts_with(text));
        match start {
            // A fault is told in several lines that would each open a report; they are one.
            Some((_, Kind::Oops, _)) if self.inside(Kind::Oops) => self.add(line),
            Some(&(_, kind, end)) => {
                self.close();
                let splat = Splat { kind, title: clip(line), lines: vec![clip(line)] };
                self.open = Some((splat, end));
            }
            None => self.add(line),
        }
    }

    /// All reports so far, in the order they began; at most 32, the first ones.
    pub fn splats(&self) -> Vec<Splat> {
        self.done.iter().chain(self.open.iter().map(|(splat, _)| splat)).take(MAX_SPLATS).cloned().collect()
    }

    fn inside(&self, kind: Kind) -> bool {
        self.open.as_ref().is_some_and(|(splat, _)| splat.kind == kind)
    }

    fn add(&mut self, line: &str) {
        let Some((splat, end)) = &mut self.open else {
            return;
        };
        splat.lines.push(clip(line));
        if line.contains(*end) || splat.lines.len() == MAX_LINES {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some((splat, _)) = self.open.take() else {
            return;
        };
        if self.done.len() < MAX_SPLATS {
            self.done.push(splat);
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
    #[case("[  242.1] INFO: task cat:77 blocked for more than 120 seconds.", Kind::HungTask)]
    #[case("[  26.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [cat:77]", Kind::HungTask)]
    #[case("[    3.1] BUG: kernel NULL pointer dereference, address: 0000000000000000", Kind::Oops)]
    #[case("[    3.1] UBSAN: shift-out-of-bounds in x.c:1:2", Kind::Ubsan)]
    fn a_first_line_names_its_kind(#[case] line: &str, #[case] kind: Kind) {
        let splats = scan(line);
        assert_eq!(splats.iter().map(|splat| splat.kind).collect::<Vec<_>>(), [kind]);
        assert!(
            line.ends_with(&splats[0].title),
            "the title {:?} is the line less its stamp",
            splats[0].title
        );
    }

    #[rstest]
    #[case("[    0.1] Linux version 6.12")]
    #[case("[    0.1] this is not a WARNING: at the start of a line")]
    #[case("[drm] BUG: somebody else's bracket")]
    #[case("")]
    #[case("[")]
    #[case("1,2;BUG")]
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
[    3.2] unrelated
[    3.3] Kernel panic - not syncing: Fatal exception
[    3.3] Kernel Offset: disabled";
        let told: Vec<_> = scan(text).into_iter().map(|splat| (splat.kind, splat.lines.len())).collect();
        assert_eq!(told, [(Kind::Oops, 4), (Kind::Panic, 2)]);
    }

    #[test]
    fn a_guest_cannot_make_it_hold_more_than_its_bound() {
        let mut scanner = Scanner::default();
        for _ in 0..1000 {
            scanner.push(&format!("WARNING: {}", "x".repeat(10 * MAX_LINE)));
            (0..2 * MAX_LINES).for_each(|_| scanner.push("more"));
        }
        let splats = scanner.splats();
        assert_eq!(splats.len(), MAX_SPLATS);
        assert!(splats.iter().all(|splat| splat.lines.len() <= MAX_LINES && splat.title.len() <= MAX_LINE));
    }
}
