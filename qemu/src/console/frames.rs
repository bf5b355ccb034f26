//! A line of a stack trace to a function's name, and which functions are the reporter's own.

/// How many functions of a stack are kept.
const MAX_FRAMES: usize = 32;
/// How long a name may be.
const MAX_NAME: usize = 120;

/// Functions between the subject and the report: those that report, check, lock, sleep, allocate and free. Only in
/// front of a stack: further down, they are somebody's way there.
const REPORTERS: &[&str] = &[
    "___slab_alloc",
    "__asan_memcpy",
    "__asan_memmove",
    "__asan_memset",
    "__cond_resched",
    "__die",
    "__die_body",
    "__dump_stack",
    "__folio_lock",
    "__lock_acquire",
    "__lock_release",
    "__might_fault",
    "__might_resched",
    "__might_sleep",
    "__report_bug",
    "__schedule",
    "__schedule_bug",
    "__wait_for_common",
    "__wait_on_bit",
    "__warn",
    "__warn_printk",
    "alloc_debug_processing",
    "bad_area_nosemaphore",
    "bit_wait",
    "bit_wait_io",
    "check_bytes_and_report",
    "check_deadlock",
    "check_irq_usage",
    "check_noncircular",
    "check_object",
    "check_prev_add",
    "check_prevs_add",
    "check_slab_allocation",
    "check_wait_context",
    "debug_check_no_locks_freed",
    "debug_print_object",
    "die",
    "die_addr",
    "do_error_trap",
    "do_raw_spin_lock",
    "do_raw_spin_unlock",
    "do_trap",
    "do_user_addr_fault",
    "end_report",
    "folio_wait_bit",
    "folio_wait_bit_common",
    "free_debug_processing",
    "free_to_partial_list",
    "handle_bug",
    "instrument_atomic_read_write",
    "io_schedule",
    "lock_acquire",
    "lock_release",
    "mark_held_locks",
    "mark_lock",
    "mark_lock_irq",
    "mark_usage",
    "memcpy",
    "memmove",
    "memset",
    "native_queued_spin_lock_slowpath",
    "object_err",
    "oops_end",
    "out_of_line_wait_on_bit",
    "page_fault_oops",
    "pv_native_safe_halt",
    "queued_spin_lock_slowpath",
    "refcount_warn_saturate",
    "schedule",
    "schedule_preempt_disabled",
    "schedule_timeout",
    "show_stack",
    "slab_err",
    "slab_fix",
    "slab_free",
    "slab_pad_check",
    "slab_post_alloc_hook",
    "spin_bug",
    "stack_trace_save",
    "start_report",
    "trace_hardirqs_on",
    "valid_slab",
    "validate_chain",
    "vfree",
    "wait_for_completion",
    "wait_for_completion_killable",
    "warn_slowpath_fmt",
];

/// The same by how their names begin.
const FAMILIES: &[&str] = &[
    "__alloc_pages",
    "__alloc_percpu",
    "__alloc_frozen_pages",
    "__asan_",
    "__down_",
    "__kasan_",
    "__kcsan_",
    "__kfence_",
    "__kfree",
    "__kmalloc",
    "__kmem_cache_",
    "__kvmalloc",
    "__list_add",
    "__list_del",
    "__msan_",
    "__mutex_",
    "__rwsem_",
    "__slab_",
    "__tsan_",
    "__ubsan_",
    "_raw_",
    "alloc_pages",
    "asm_exc_",
    "asm_sysvec_",
    "down_read",
    "down_write",
    "dump_stack",
    "exc_",
    "kasan_",
    "kcsan_",
    "kfence_",
    "kfree",
    "kmalloc",
    "kmem_cache_alloc",
    "kmem_cache_free",
    "kmemdup",
    "kmemleak_",
    "kmsan_",
    "krealloc",
    "kstrdup",
    "kvfree",
    "kvmalloc",
    "lockdep_",
    "mutex_lock",
    "mutex_unlock",
    "nmi_",
    "pcpu_alloc",
    "poison_",
    "print_",
    "rcu_dump_",
    "report_",
    "rwsem_",
    "set_track",
    "stack_depot_",
    "ubsan_",
    "up_read",
    "up_write",
];

fn is_reporter(name: &str) -> bool {
    REPORTERS.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// A stack, the innermost function first.
#[derive(Debug, Default)]
pub(super) struct Stack(Vec<String>);

impl Stack {
    /// Take the next function of the trace, if the line has one.
    pub(super) fn push(&mut self, line: &str) {
        let Some(name) = frame(line) else { return };
        // A trace may begin with the function that the registers name.
        let again = self.0.last().is_some_and(|last| *last == name);
        // As long as there is none but reporters, they give way.
        if self.0.first().is_some_and(|first| is_reporter(first)) {
            self.0.clear();
        }
        if !again && self.0.len() < MAX_FRAMES {
            self.0.push(name);
        }
    }

    /// The functions, from the first one that is the subject's on.
    pub(super) fn into_names(self) -> Vec<String> {
        self.0
    }
}

/// The function in a line of a trace, ` name+0x12/0x34 [module]`; none in one that the unwinder doubts (`? name+...`).
fn frame(line: &str) -> Option<String> {
    let line = line.trim_start();
    // Up to 6.1 kmemleak says the address, too: `[<00000000c8a29ee5>] name+0x12/0x34`.
    let line = match line.strip_prefix("[<").and_then(|rest| rest.split_once(">] ")) {
        Some((_, rest)) => rest,
        None => line,
    };
    named(line.split(' ').next()?)
}

/// The first function with an offset in a text.
pub(super) fn mentioned(text: &str) -> Option<String> {
    text.split([' ', ':', ',', '(', ')']).find_map(named)
}

/// The name in `name+0x12/0x34`, without what the compiler hung on (`name.isra.0`).
fn named(word: &str) -> Option<String> {
    let (name, offset) = word.split_once("+0x")?;
    let is_offset = |offset: &str| !offset.is_empty() && offset.bytes().all(|b| b.is_ascii_hexdigit());
    offset.split_once("/0x").filter(|(at, size)| is_offset(at) && is_offset(size))?;
    plain(name)
}

/// A function's name without what the compiler hung on; none if it cannot be one.
pub(super) fn plain(name: &str) -> Option<String> {
    let name = name.split('.').next()?;
    let fits = !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    fits.then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(" fuse_read+0x1/0x2", Some("fuse_read"))]
    #[case("    [<00000000c8a29ee5>] fuse_read+0x1/0x2 [fuse]", Some("fuse_read"))]
    #[case(" fuse_read.isra.0+0x1f/0x2a0 [fuse 0123abcd]", Some("fuse_read"))]
    #[case(" ? fuse_read+0x1/0x2", None)]
    #[case(" 0xffffffff81234567", None)]
    #[case(" <TASK>", None)]
    #[case("RAX: ffff888001234568 RBX: 0000000000000000", None)]
    #[case(" fuse_read+0x1", None)]
    #[case(" fuse_read+0x/0x", None)]
    #[case(" \u{1b}[2J+0x1/0x2", None)]
    #[case("+0x1/0x2", None)]
    fn a_frame_is_a_name(#[case] line: &str, #[case] name: Option<&str>) {
        assert_eq!(frame(line).as_deref(), name);
    }

    #[test]
    fn a_stack_begins_with_the_subject() {
        let read = |names: &[&str]| {
            let mut stack = Stack::default();
            names.iter().for_each(|name| stack.push(&format!(" {name}+0x1/0x2")));
            stack.into_names()
        };
        assert_eq!(read(&["dump_stack_lvl", "print_report", "f", "kfree", "g"]), ["f", "kfree", "g"]);
        // What is nobody's is still told.
        assert_eq!(read(&["dump_stack_lvl", "kfree"]), ["kfree"]);
        assert_eq!(read(&["f", "f", "g"]), ["f", "g"]);
    }
}
