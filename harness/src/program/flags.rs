//! Names of numbers: open flags, FOPEN bits, errnos, signals. The text form uses names, the program holds numbers.
//!
//! Values are x86-64's, which is also what the guest runs.

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::abi::Opcode;

/// A family of named bits or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlagSet {
    /// How it is called in error messages.
    pub name: &'static str,
    /// Name and value. In a set of bits, values of several bits come before their parts.
    pub names: &'static [(&'static str, u64)],
    /// Whether values are or-ed together; otherwise each stands alone.
    pub bits: bool,
}

macro_rules! libc_set {
    ($(#[$doc:meta])* $set:ident, $text:literal, $bits:literal, [$($name:ident),+ $(,)?]) => {
        $(#[$doc])*
        pub const $set: FlagSet = FlagSet { name: $text, bits: $bits, names: &[$((stringify!($name), nix::libc::$name as u64)),+] };
    };
}

libc_set!(/// `open(2)`.
    OPEN, "open flag", true, [
    O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_NOCTTY, O_TRUNC, O_APPEND, O_NONBLOCK, O_SYNC, O_DSYNC, O_DIRECT,
    O_TMPFILE, O_DIRECTORY, O_NOFOLLOW, O_NOATIME, O_CLOEXEC, O_PATH, O_RDONLY]);
libc_set!(/// `mmap(2)` protection.
    PROT, "protection", true, [PROT_READ, PROT_WRITE, PROT_EXEC, PROT_NONE]);
libc_set!(/// `mmap(2)` flags.
    MAP, "map flag", true, [MAP_SHARED_VALIDATE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_POPULATE]);
libc_set!(/// `msync(2)`.
    MSYNC, "msync flag", true, [MS_ASYNC, MS_SYNC, MS_INVALIDATE]);
libc_set!(/// `madvise(2)`.
    MADVICE, "madvise advice", false, [MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED, MADV_REMOVE]);
libc_set!(/// `posix_fadvise(2)`.
    FADVICE, "fadvise advice", false, [
    POSIX_FADV_NORMAL, POSIX_FADV_RANDOM, POSIX_FADV_SEQUENTIAL, POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED, POSIX_FADV_NOREUSE]);
libc_set!(/// `lseek(2)`.
    WHENCE, "whence", false, [SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE]);
libc_set!(/// `fallocate(2)`.
    FALLOC, "fallocate mode", true, [
    FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_INSERT_RANGE]);
libc_set!(/// `splice(2)`.
    SPLICE, "splice flag", true, [SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE, SPLICE_F_GIFT]);
libc_set!(/// `preadv2(2)` and `pwritev2(2)`.
    RWF, "RWF flag", true, [RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND]);
libc_set!(/// `statx(2)` flags.
    STATX_AT, "statx flag", true, [AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC, AT_SYMLINK_NOFOLLOW]);
libc_set!(/// `statx(2)` mask.
    STATX_MASK, "statx mask", true, [
    STATX_BASIC_STATS, STATX_TYPE, STATX_MODE, STATX_NLINK, STATX_UID, STATX_GID, STATX_ATIME, STATX_MTIME,
    STATX_CTIME, STATX_INO, STATX_SIZE, STATX_BLOCKS, STATX_BTIME]);
libc_set!(/// `poll(2)`.
    POLL, "poll event", true, [POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL, POLLRDNORM, POLLWRNORM]);
libc_set!(/// `flock(2)`.
    FLOCK, "flock operation", true, [LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN]);
libc_set!(/// Record lock types of `fcntl(2)`, also lease types.
    LOCK, "lock type", false, [F_RDLCK, F_WRLCK, F_UNLCK]);
libc_set!(/// Seals of a memfd.
    SEAL, "seal", true, [F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE]);
libc_set!(/// `memfd_create(2)`.
    MEMFD, "memfd flag", true, [MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB]);
/// Flags of pipe2(2).
pub const PIPE: FlagSet = FlagSet {
    name: "pipe flag",
    bits: true,
    names: &[
        ("O_DIRECT", nix::libc::O_DIRECT as u64),
        ("O_NONBLOCK", nix::libc::O_NONBLOCK as u64),
        // The kernel has taken over a flag that means nothing here (`include/uapi/linux/watch_queue.h`).
        ("O_NOTIFICATION_PIPE", nix::libc::O_EXCL as u64),
    ],
};

/// FOPEN bits of an open reply (`include/uapi/linux/fuse.h`).
pub const FOPEN: FlagSet = FlagSet {
    name: "FOPEN flag",
    bits: true,
    names: &[
        ("DIRECT_IO", 1 << 0),
        ("KEEP_CACHE", 1 << 1),
        ("NONSEEKABLE", 1 << 2),
        ("CACHE_DIR", 1 << 3),
        ("STREAM", 1 << 4),
        ("NOFLUSH", 1 << 5),
        ("PARALLEL_DIRECT_WRITES", 1 << 6),
        ("PASSTHROUGH", 1 << 7),
        ("IO_URING_ZERO_COPY", 1 << 8),
    ],
};

/// INIT flags, first word.
pub const INIT: FlagSet = FlagSet {
    name: "INIT flag",
    bits: true,
    names: &[
        ("ASYNC_READ", 1 << 0),
        ("POSIX_LOCKS", 1 << 1),
        ("FILE_OPS", 1 << 2),
        ("ATOMIC_O_TRUNC", 1 << 3),
        ("EXPORT_SUPPORT", 1 << 4),
        ("BIG_WRITES", 1 << 5),
        ("DONT_MASK", 1 << 6),
        ("SPLICE_WRITE", 1 << 7),
        ("SPLICE_MOVE", 1 << 8),
        ("SPLICE_READ", 1 << 9),
        ("FLOCK_LOCKS", 1 << 10),
        ("HAS_IOCTL_DIR", 1 << 11),
        ("AUTO_INVAL_DATA", 1 << 12),
        ("DO_READDIRPLUS", 1 << 13),
        ("READDIRPLUS_AUTO", 1 << 14),
        ("ASYNC_DIO", 1 << 15),
        ("WRITEBACK_CACHE", 1 << 16),
        ("NO_OPEN_SUPPORT", 1 << 17),
        ("PARALLEL_DIROPS", 1 << 18),
        ("HANDLE_KILLPRIV", 1 << 19),
        ("POSIX_ACL", 1 << 20),
        ("ABORT_ERROR", 1 << 21),
        ("MAX_PAGES", 1 << 22),
        ("CACHE_SYMLINKS", 1 << 23),
        ("NO_OPENDIR_SUPPORT", 1 << 24),
        ("EXPLICIT_INVAL_DATA", 1 << 25),
        ("MAP_ALIGNMENT", 1 << 26),
        ("SUBMOUNTS", 1 << 27),
        ("HANDLE_KILLPRIV_V2", 1 << 28),
        ("SETXATTR_EXT", 1 << 29),
        ("INIT_EXT", 1 << 30),
    ],
};

/// INIT flags, second word (bit 32 of the protocol is bit 0 here).
pub const INIT2: FlagSet = FlagSet {
    name: "INIT flag of the second word",
    bits: true,
    names: &[
        ("SECURITY_CTX", 1 << 0),
        ("HAS_INODE_DAX", 1 << 1),
        ("CREATE_SUPP_GROUP", 1 << 2),
        ("HAS_EXPIRE_ONLY", 1 << 3),
        ("DIRECT_IO_ALLOW_MMAP", 1 << 4),
        ("PASSTHROUGH", 1 << 5),
        ("NO_EXPORT_SUPPORT", 1 << 6),
        ("HAS_RESEND", 1 << 7),
        ("ALLOW_IDMAP", 1 << 8),
        ("OVER_IO_URING", 1 << 9),
        ("REQUEST_TIMEOUT", 1 << 10),
        ("HAS_IO_URING_BUFPOOL", 1 << 11),
    ],
};

/// `valid` of SETATTR.
pub const FATTR: FlagSet = FlagSet {
    name: "SETATTR bit",
    bits: true,
    names: &[
        ("MODE", 1 << 0),
        ("UID", 1 << 1),
        ("GID", 1 << 2),
        ("SIZE", 1 << 3),
        ("ATIME", 1 << 4),
        ("MTIME", 1 << 5),
        ("FH", 1 << 6),
        ("ATIME_NOW", 1 << 7),
        ("MTIME_NOW", 1 << 8),
        ("LOCKOWNER", 1 << 9),
        ("CTIME", 1 << 10),
        ("KILL_SUIDGID", 1 << 11),
    ],
};

/// Codes of unsolicited messages.
pub const NOTIFY: FlagSet = FlagSet {
    name: "notification code",
    bits: false,
    names: &[
        ("NOTIFY_POLL", 1),
        ("NOTIFY_INVAL_INODE", 2),
        ("NOTIFY_INVAL_ENTRY", 3),
        ("NOTIFY_STORE", 4),
        ("NOTIFY_RETRIEVE", 5),
        ("NOTIFY_DELETE", 6),
        ("NOTIFY_RESEND", 7),
        ("NOTIFY_INC_EPOCH", 8),
        ("NOTIFY_PRUNE", 9),
    ],
};

/// Device ioctls by name, for calls that take any number.
pub const DEV_IOC: FlagSet = FlagSet {
    name: "device ioctl",
    bits: false,
    names: &[
        ("CLONE", 0x8004_e500),
        ("BACKING_OPEN", 0x4010_e501),
        ("BACKING_CLOSE", 0x4004_e502),
        ("SYNC_INIT", 0x0000_e503),
    ],
};

/// Capabilities (`linux/capability.h`) that cases drop.
pub const CAP: FlagSet = FlagSet {
    name: "process capability",
    bits: false,
    names: &[
        ("CAP_CHOWN", 0),
        ("CAP_DAC_OVERRIDE", 1),
        ("CAP_DAC_READ_SEARCH", 2),
        ("CAP_FOWNER", 3),
        ("CAP_FSETID", 4),
        ("CAP_SYS_ADMIN", 21),
        ("CAP_SYS_RESOURCE", 24),
    ],
};

/// Octal file modes: no names, printed in octal.
pub const MODE: FlagSet = FlagSet { name: "mode", bits: true, names: &[] };

/// Inode attribute flags (`FS_IOC_SETFLAGS`).
pub const INODE_ATTR: FlagSet = FlagSet {
    name: "inode attribute",
    bits: true,
    names: &[("FS_IMMUTABLE_FL", 0x10), ("FS_APPEND_FL", 0x20)],
};

impl FlagSet {
    /// The number that a text such as `O_RDWR|O_CREAT|0x40` stands for; `Err` is the part that is not known.
    pub fn parse<'a>(&self, text: &'a str) -> Result<u64, &'a str> {
        let mut value = 0;
        for part in text.split('|') {
            value |= match self.names.iter().find(|(name, _)| *name == part) {
                Some((_, bits)) => *bits,
                None => parse_number(part).ok_or(part)? as u64,
            };
        }
        Ok(value)
    }

    /// The canonical text of a number: names joined by `|`, what has no name in hexadecimal.
    pub fn print(&self, value: u64) -> String {
        if *self == MODE {
            return if value == 0 { "0".into() } else { format!("0{value:o}") };
        }
        if let Some((name, _)) = self.names.iter().find(|(_, bits)| *bits == value) {
            return (*name).to_string();
        }
        if !self.bits {
            return value.to_string();
        }
        let mut left = value;
        let mut parts = Vec::new();
        for (name, bits) in self.names {
            if *bits != 0 && left & bits == *bits {
                parts.push((*name).to_string());
                left &= !bits;
            }
        }
        if left != 0 || parts.is_empty() {
            parts.push(if left == 0 { "0".into() } else { format!("{left:#x}") });
        }
        parts.join("|")
    }

    /// The set that a field of a record (`stat`, `poll`) is shown with, if any.
    pub fn of_field(name: &str) -> Option<FlagSet> {
        match name {
            "mode" => Some(MODE),
            "revents" => Some(POLL),
            _ => None,
        }
    }

    /// The set that a field of a request or reply of this opcode is shown with, if any.
    pub fn of_wire_field(opcode: Opcode, name: &str) -> Option<FlagSet> {
        match (opcode, name) {
            (_, "open_flags") => Some(FOPEN),
            (_, "flags2" | "offers2" | "lacks2") => Some(INIT2),
            (Opcode::INIT, "flags" | "offers" | "lacks") => Some(INIT),
            (
                Opcode::OPEN
                | Opcode::OPENDIR
                | Opcode::CREATE
                | Opcode::TMPFILE
                | Opcode::RELEASE
                | Opcode::RELEASEDIR
                | Opcode::READ
                | Opcode::READDIR
                | Opcode::READDIRPLUS
                | Opcode::WRITE,
                "flags",
            ) => Some(OPEN),
            (Opcode::SETATTR, "valid") => Some(FATTR),
            (Opcode::FALLOCATE, "mode") => Some(FALLOC),
            (Opcode::LSEEK, "whence") => Some(WHENCE),
            (Opcode::POLL, "revents" | "events") => Some(POLL),
            (_, "mode" | "umask") => Some(MODE),
            _ => None,
        }
    }
}

/// A decimal, `0x` hexadecimal or `0`-led octal number, with an optional minus sign.
pub fn parse_number(text: &str) -> Option<i128> {
    let (digits, sign) = text.strip_prefix('-').map_or((text, 1), |rest| (rest, -1));
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        i128::from(u64::from_str_radix(hex, 16).ok()?)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from(u64::from_str_radix(digits, 8).ok()?)
    } else if digits.starts_with(|c: char| c.is_ascii_digit()) {
        i128::from(digits.parse::<u64>().ok()?)
    } else {
        return None;
    };
    Some(sign * value)
}

/// `EIO` for 5; the bare number for what has no name.
pub fn errno_name(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => format!("errno {errno}"),
        known => format!("{known:?}"),
    }
}

/// 5 for `EIO`; `ENOTSUP` and `EWOULDBLOCK` are taken for their usual names.
pub fn errno_number(name: &str) -> Option<i32> {
    let name = match name {
        "EWOULDBLOCK" => "EAGAIN",
        "ENOTSUP" => "EOPNOTSUPP",
        other => other,
    };
    (1..=133).find(|number| errno_name(*number) == name)
}

/// `SIGBUS` for 7.
pub fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |known| known.as_str().to_string())
}

/// 7 for `SIGBUS`.
pub fn signal_number(name: &str) -> Option<i32> {
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(OPEN, "O_RDONLY", 0)]
    #[case(OPEN, "O_RDWR|O_CREAT", 0o102)]
    #[case(OPEN, "O_WRONLY|0x80000000", 0x8000_0001)]
    #[case(FOPEN, "DIRECT_IO|PASSTHROUGH", 0x81)]
    #[case(FOPEN, "0", 0)]
    #[case(MODE, "04755", 0o4755)]
    #[case(WHENCE, "SEEK_HOLE", 4)]
    fn prints_and_parses_back(#[case] set: FlagSet, #[case] text: &str, #[case] value: u64) {
        assert_eq!(set.parse(text), Ok(value));
        assert_eq!(set.print(value), text);
    }

    #[test]
    fn names_the_part_it_does_not_know() {
        assert_eq!(OPEN.parse("O_RDWR|O_NONSENSE"), Err("O_NONSENSE"));
    }

    #[test]
    fn errnos_have_names_both_ways() {
        assert_eq!(errno_number("EOPNOTSUPP"), Some(95));
        assert_eq!(errno_name(40), "ELOOP");
        assert_eq!(errno_number("ENONSENSE"), None);
        assert_eq!(signal_number("SIGBUS"), Some(7));
    }
}
