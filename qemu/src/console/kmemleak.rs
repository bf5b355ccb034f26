//! What `/sys/kernel/debug/kmemleak` says: memory that was allocated and that nobody points to any more.

use super::frames::Stack;
use super::report::Splat;
use super::{Kind, clip};

/// How many records are read.
const MAX_LEAKS: usize = 64;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Leak {
    /// When it was allocated, in the kernel's own count.
    pub jiffies: u64,
    /// The same as every other report.
    pub splat: Splat,
}

/// The records in the file's text.
pub fn leaks(text: &str) -> Vec<Leak> {
    let mut leaks = Vec::new();
    for record in text.split("unreferenced object").skip(1).take(MAX_LEAKS) {
        leaks.extend(leak(record));
    }
    leaks
}

fn leak(record: &str) -> Option<Leak> {
    let mut lines = record.lines();
    let size = lines.next()?.split_once("(size ")?.1.split_once(')')?.0.parse::<u64>().ok()?;
    let mut lines = lines.skip_while(|line| !line.trim_start().starts_with("comm "));
    // The name of the task is its own choice and may hold any of these words: the last one counts.
    let jiffies = lines.next()?.rsplit_once("jiffies ")?.1;
    let digits = jiffies.split(|c: char| !c.is_ascii_digit()).next()?;
    let mut stack = Stack::default();
    lines.for_each(|line| stack.push(&clip(line)));
    let allocated = stack.into_names();
    let function = allocated.first().cloned();
    let title =
        format!("unreferenced object (size {size}), allocated in {}", function.as_deref().unwrap_or("?"));
    let splat =
        Splat { kind: Kind::Kmemleak, title, function, stack: Vec::new(), allocated, freed: Vec::new() };
    Some(Leak { jiffies: digits.parse().ok()?, splat })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_old_and_new_kernels_are_read() {
        let told: Vec<_> = leaks(include_str!("texts/kmemleak.txt"))
            .into_iter()
            .map(|leak| (leak.jiffies, leak.splat.title, leak.splat.allocated.join(" ")))
            .collect();
        let expected = [
            (
                4_294_895_123,
                "unreferenced object (size 96), allocated in fuse_backing_open",
                "fuse_backing_open fuse_dev_ioctl __x64_sys_ioctl do_syscall_64 entry_SYSCALL_64_after_hwframe",
            ),
            (
                4_294_895_200,
                "unreferenced object (size 32), allocated in fuse_uring_register",
                "fuse_uring_register fuse_uring_cmd io_uring_cmd",
            ),
            (
                4_294_900_001,
                "unreferenced object (size 128), allocated in fuse_fill_super",
                "fuse_fill_super get_tree_nodev",
            ),
        ];
        assert_eq!(told, expected.map(|(jiffies, title, stack)| (jiffies, title.into(), stack.into())));
    }

    #[test]
    fn what_is_no_record_is_none_and_a_flood_is_cut() {
        for text in
            ["", "unreferenced object", "unreferenced object 0x1 (size x):\n  comm \"a\", jiffies 1\n"]
        {
            assert_eq!(leaks(text), []);
        }
        let record = "unreferenced object 0x1 (size 8):\n  comm \"jiffies 7\", pid 1, jiffies 5\n";
        let many = leaks(&record.repeat(10 * MAX_LEAKS));
        assert_eq!((many.len(), many[0].jiffies), (MAX_LEAKS, 5));
    }
}
