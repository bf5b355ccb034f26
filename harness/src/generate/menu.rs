//! What an arena can perform: which calls, on which numbers, which requests a rule may be about.
//!
//! Only tables, and look-ups in them. What depends on the steps before is in `world` and `repair`.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use crate::abi::Opcode;
use crate::program::flags::{self, FlagSet};
use crate::program::{Side, Signature, signature};

/// Calls of applications, and how often each is made compared with others.
pub(super) const APP: &[(&str, u32)] = &[
    ("open", 10),
    ("creat", 1),
    ("stat", 2),
    ("statx", 2),
    ("times", 1),
    ("truncate", 3),
    ("unlink", 2),
    ("rename", 2),
    ("link", 1),
    ("symlink", 1),
    ("readlink", 1),
    ("mkdir", 1),
    ("rmdir", 1),
    ("chmod", 1),
    ("chown", 1),
    ("utimens", 1),
    ("access", 1),
    ("readdir", 1),
    ("getxattr", 1),
    ("setxattr", 1),
    ("removexattr", 1),
    ("close", 5),
    ("dup", 2),
    ("read", 8),
    ("pread", 6),
    ("readv", 2),
    ("preadv2", 3),
    ("write", 8),
    ("pwrite", 6),
    ("writev", 2),
    ("pwritev2", 3),
    ("lseek", 2),
    ("ftruncate", 4),
    ("fallocate", 3),
    ("fsync", 2),
    ("fdatasync", 1),
    ("syncfs", 1),
    ("fstat", 3),
    ("fchmod", 1),
    ("setfl", 2),
    ("setlk", 1),
    ("fadvise", 2),
    ("readahead", 1),
    ("poll", 1),
    ("mmap", 6),
    ("load", 4),
    ("store", 4),
    ("msync", 2),
    ("mprotect", 1),
    ("madvise", 2),
    ("munmap", 2),
    ("splice", 5),
    ("tee", 1),
    ("sendfile", 3),
    ("copy_file_range", 3),
    ("pipe", 3),
    ("setpipe_sz", 1),
    ("memfd", 1),
    ("aio_read", 2),
    ("aio_write", 2),
    ("uring_read", 1),
    ("uring_write", 1),
];

/// Calls of the daemon.
pub(super) const DAEMON: &[(&str, u32)] = &[
    ("open", 6),
    ("close", 4),
    ("dup", 1),
    ("memfd", 1),
    ("pipe", 1),
    ("socket", 1),
    ("eventfd", 1),
    ("backing_open", 10),
    ("backing_close", 8),
    ("send", 8),
    ("clone_device", 1),
    ("pause", 2),
    ("serve", 2),
];

/// Calls of the host.
pub(super) const HOST: &[(&str, u32)] = &[("stat", 2), ("cat", 6), ("abort", 1), ("signal", 3)];

/// The signal that ends whoever has a call in progress; others only interrupt it.
pub(super) const SIGKILL: &str = "SIGKILL";

/// Lower file systems: one whose files can be opened with O_DIRECT, and one whose files cannot.
pub(super) const LOWER: [&str; 2] = ["tmpfs", "ramfs"];

/// Calls that set the stage.
pub(super) const STAGE: [&str; 3] = ["lower", "file", "mount"];

/// Calls that are never merely begun: whoever makes started calls has no mappings, and cannot name two ends of a pipe.
const WHOLE: [&str; 8] = ["mmap", "load", "store", "msync", "mprotect", "madvise", "munmap", "pipe"];

/// Keywords that an arena looks at.
const KEYWORDS: [(&str, &[&str]); 5] = [
    ("splice", &["off_in", "off_out", "flags"]),
    ("sendfile", &["offset"]),
    ("copy_file_range", &["off_in", "off_out"]),
    ("backing_open", &["flags", "padding"]),
    ("send", &["unique", "error", "len", "payload", "size", "via"]),
];

/// Paths beside those of the prologue's files.
pub(super) const PATHS: [&str; 4] = ["new", "d", "d/e", "l"];

/// Requests that rules are about. All are answered, and none ends the mount.
pub(super) const OPCODES: &[Opcode] = &[
    Opcode::OPEN,
    Opcode::READ,
    Opcode::WRITE,
    Opcode::LOOKUP,
    Opcode::GETATTR,
    Opcode::SETATTR,
    Opcode::RELEASE,
    Opcode::FLUSH,
    Opcode::CREATE,
    Opcode::FSYNC,
    Opcode::FALLOCATE,
    Opcode::LSEEK,
    Opcode::COPY_FILE_RANGE,
    Opcode::COPY_FILE_RANGE_64,
    Opcode::STATX,
    Opcode::GETXATTR,
    Opcode::SETXATTR,
    Opcode::LISTXATTR,
    Opcode::REMOVEXATTR,
    Opcode::READLINK,
    Opcode::SYMLINK,
    Opcode::MKDIR,
    Opcode::UNLINK,
    Opcode::RMDIR,
    Opcode::RENAME,
    Opcode::RENAME2,
    Opcode::LINK,
    Opcode::STATFS,
    Opcode::OPENDIR,
    Opcode::READDIR,
    Opcode::READDIRPLUS,
    Opcode::RELEASEDIR,
    Opcode::FSYNCDIR,
    Opcode::TMPFILE,
    Opcode::ACCESS,
    Opcode::GETLK,
    Opcode::SETLK,
    Opcode::POLL,
    Opcode::SYNCFS,
];

/// Fields of the answer to INIT, and what they may be.
pub(super) const INIT: &[(&str, RangeInclusive<i128>)] = &[
    ("flags", 0..=U32),
    ("flags2", 0..=U32),
    ("max_stack_depth", 0..=U32),
    ("max_write", 4096..=1 << 20),
    ("max_pages", 0..=0xffff),
    ("max_readahead", 0..=U32),
    ("max_background", 0..=0xffff),
    ("congestion_threshold", 0..=0xffff),
    ("time_gran", 0..=U32),
];

/// The most that a read, a write or a mapping is long.
pub(super) const MOST_LEN: i128 = 1 << 20;
const U32: i128 = u32::MAX as i128;
const I64: RangeInclusive<i128> = i64::MIN as i128..=i64::MAX as i128;
/// Whatever the text form can say.
pub(super) const ANY: RangeInclusive<i128> = i64::MIN as i128..=u64::MAX as i128;

/// The call's signature, if an arena lets this side make it.
pub(super) fn performs(side: Side, name: &str) -> Option<&'static Signature> {
    let calls = match side {
        Side::App => APP,
        Side::Daemon => DAEMON,
        Side::Host => HOST,
    };
    calls.iter().any(|(known, _)| *known == name).then(|| signature(name)).flatten()
}

/// May an application begin it without waiting?
pub(super) fn can_start(name: &str) -> bool {
    !WHOLE.contains(&name)
}

/// May it wait for the file to be ready, as io_uring does on files that it can poll?
pub(super) fn polls(name: &str) -> bool {
    name.starts_with("uring_")
}

/// Is this keyword looked at?
pub(super) fn takes(call: &str, keyword: &str) -> bool {
    KEYWORDS.iter().any(|(name, words)| *name == call && words.contains(&keyword))
}

/// Every call by its name, each once: a place in this list stands for it in the byte form.
pub(super) fn calls() -> &'static [&'static str] {
    static CALLS: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let of_daemon = DAEMON.iter().map(|(name, _)| *name);
        let of_host = HOST.iter().map(|(name, _)| *name);
        let more = STAGE.into_iter().chain(of_daemon).chain(of_host);
        let is_new = |name: &&str| APP.iter().all(|(known, _)| known != name);
        APP.iter().map(|(name, _)| *name).chain(more.filter(is_new)).collect()
    });
    &CALLS
}

/// What a number may be. Where it decides how long a call takes or how much memory it needs, it is bounded.
pub(super) fn range(call: &str, param: &str) -> RangeInclusive<i128> {
    match (call, param) {
        ("truncate" | "ftruncate" | "setlk", "len") => I64,
        ("readahead" | "fadvise", "len") => 0..=i64::MAX.into(),
        ("fallocate", "len") => -1..=MOST_LEN,
        ("send", "len") => 0..=U32,
        ("send", "error") => i32::MIN.into()..=i32::MAX.into(),
        ("send", "size") => 0..=1 << 17,
        // From a file to itself it goes on by as little as there was.
        ("sendfile", "len") => 0..=4096,
        (_, "len") => 0..=MOST_LEN,
        (_, "pieces") => 1..=16,
        ("access", _) => 0..=7,
        ("chown", _) => -1..=65534,
        ("utimens", _) => 0..=i32::MAX.into(),
        ("backing_open", "flags") => 0..=U32,
        ("backing_close", _) => i32::MIN.into()..=i32::MAX.into(),
        (_, "unique" | "padding") => ANY,
        _ => I64,
    }
}

/// A file that is this long is not looked at as a whole.
pub(super) const LARGE: i128 = 2 << 20;

/// May the call, with that number, make a file larger than [`LARGE`]?
pub(super) fn enlarges(call: &str, param: &str, number: i128) -> bool {
    let (calls, params): (&[&str], &[&str]) = (
        &[
            "truncate",
            "ftruncate",
            "fallocate",
            "pwrite",
            "pwritev2",
            "aio_write",
            "uring_write",
            "lseek",
            "splice",
            "copy_file_range",
        ],
        &["len", "offset", "off_out"],
    );
    number > LARGE && calls.contains(&call) && params.contains(&param)
}

/// Does a reply to it end in bytes?
pub(super) fn has_data(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::READ
            | Opcode::READLINK
            | Opcode::READDIR
            | Opcode::READDIRPLUS
            | Opcode::GETXATTR
            | Opcode::LISTXATTR
    )
}

/// The nearest flags that an arena takes: those that have a name.
pub(super) fn flags(set: FlagSet, value: i128) -> i128 {
    let value = value as u64;
    let named = set.names.iter().fold(0, |all, (_, bits)| all | bits);
    let flags = if set == flags::MODE {
        value & 0o7777
    } else if set == flags::PIPE {
        // A pipe that waits for its other end would hold up everybody.
        value & bit(set, "O_DIRECT") | bit(set, "O_NONBLOCK")
    } else if set == flags::MEMFD {
        value & named & !bit(set, "MFD_HUGETLB")
    } else if set.bits {
        value & named
    } else {
        let is_known = set.names.iter().any(|(_, known)| *known == value);
        if is_known { value } else { set.names.first().map_or(0, |(_, first)| *first) }
    };
    flags.into()
}

/// The value of that name; 0 if there is none.
pub(super) fn bit(set: FlagSet, name: &str) -> u64 {
    set.parse(name).unwrap_or_default()
}
