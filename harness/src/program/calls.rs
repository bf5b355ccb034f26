//! The vocabulary: every call an actor can make, its parameters and what it yields.
//!
//! One table for everybody: the parser checks against it, the printer prints by it, the executor looks arguments up
//! by its names, the manual is tested against it.

mod daemon;
mod host;

use std::sync::LazyLock;

use super::call::{Kind, Need, Param, Signature, VIA, Yields};
use super::{Side, flags};

/// The call of that name.
pub fn signature(name: &str) -> Option<&'static Signature> {
    static BY_NAME: LazyLock<Vec<&Signature>> = LazyLock::new(|| {
        let mut all: Vec<&Signature> = signatures().collect();
        all.sort_by_key(|signature| signature.name);
        all
    });
    let at = BY_NAME.binary_search_by_key(&name, |signature| signature.name).ok()?;
    Some(BY_NAME[at])
}

const APP: &[Side] = &[Side::App];
const DAEMON: &[Side] = &[Side::Daemon];
const HOST: &[Side] = &[Side::Host];
const ALL: &[Side] = &[Side::App, Side::Daemon, Side::Host];
const PROCESS: &[Side] = &[Side::App, Side::Daemon];

const fn p(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, need: Need::Required }
}
const fn t(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, need: Need::Trailing }
}
const fn k(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, need: Need::Keyword }
}
const fn call(
    name: &'static str,
    sides: &'static [Side],
    params: &'static [Param],
    yields: Yields,
    doc: &'static str,
) -> Signature {
    Signature { name, sides, params, yields, doc }
}

use Kind::{Actor, Aio, Data as Bytes, Fd, Fds, Flags, Map, Name, Number as Num, Path, Word};
use Yields::{Data as GivesData, Fields, Named, Nothing, Number};

/// Every call there is, grouped by who mostly makes it.
pub fn signatures() -> impl Iterator<Item = &'static Signature> {
    CALLS.iter().chain(daemon::CALLS).chain(host::CALLS)
}

/// What a process does.
const CALLS: &[Signature] = &[
    // Files, by path.
    call(
        "open",
        ALL,
        &[p("path", Path), p("flags", Flags(flags::OPEN)), t("mode", Flags(flags::MODE))],
        Named("fd"),
        "open(2)",
    ),
    call("creat", ALL, &[p("path", Path), t("mode", Flags(flags::MODE))], Named("fd"), "creat(2)"),
    call("stat", ALL, &[p("path", Path)], Fields, "stat(2): size mode nlink uid gid"),
    call(
        "statx",
        ALL,
        &[p("path", Path), p("flags", Flags(flags::STATX_AT)), p("mask", Flags(flags::STATX_MASK))],
        Fields,
        "statx(2): the fields the answer's mask has",
    ),
    call(
        "times",
        ALL,
        &[p("path", Path)],
        Fields,
        "stat(2): atime mtime ctime in seconds; 1000000000 stands for all from 2001 on",
    ),
    call("truncate", ALL, &[p("path", Path), p("len", Num)], Nothing, "truncate(2)"),
    call("unlink", ALL, &[p("path", Path)], Nothing, "unlink(2)"),
    call("rename", ALL, &[p("from", Path), p("to", Path)], Nothing, "rename(2)"),
    call("link", ALL, &[p("from", Path), p("to", Path)], Nothing, "link(2)"),
    call("symlink", ALL, &[p("target", Bytes), p("path", Path)], Nothing, "symlink(2)"),
    call("readlink", ALL, &[p("path", Path)], GivesData, "readlink(2)"),
    call("mkdir", ALL, &[p("path", Path), t("mode", Flags(flags::MODE))], Nothing, "mkdir(2)"),
    call("rmdir", ALL, &[p("path", Path)], Nothing, "rmdir(2)"),
    call(
        "mknod",
        ALL,
        &[p("path", Path), p("type", Word(&["fifo", "socket", "char", "block", "file"])), t("dev", Num)],
        Nothing,
        "mknod(2), mode 0644",
    ),
    call("chmod", ALL, &[p("path", Path), p("mode", Flags(flags::MODE))], Nothing, "chmod(2)"),
    call("chown", ALL, &[p("path", Path), p("uid", Num), p("gid", Num)], Nothing, "chown(2)"),
    call("utimens", ALL, &[p("path", Path), p("seconds", Num)], Nothing, "utimensat(2), both times"),
    call("access", ALL, &[p("path", Path), p("mode", Num)], Nothing, "access(2)"),
    call(
        "open_many",
        APP,
        &[p("path", Path), p("count", Num)],
        Number,
        "make so many files in this folder, write and read each, and keep them open: how many had their bytes",
    ),
    call(
        "read_by_many",
        APP,
        &[p("path", Path), p("threads", Num), p("each", Num)],
        Number,
        "open and read a file by several threads at once, each so often: how many reads gave what a first one did",
    ),
    call("readdir", ALL, &[p("path", Path)], GivesData, "the entries but `.` and `..`, sorted, one a line"),
    call("getxattr", ALL, &[p("path", Path), p("name", Bytes)], GivesData, "getxattr(2)"),
    call("setxattr", ALL, &[p("path", Path), p("name", Bytes), p("value", Bytes)], Nothing, "setxattr(2)"),
    call("removexattr", ALL, &[p("path", Path), p("name", Bytes)], Nothing, "removexattr(2)"),
    call(
        "chattr",
        ALL,
        &[p("path", Path), p("attributes", Flags(flags::INODE_ATTR))],
        Nothing,
        "FS_IOC_SETFLAGS: exactly these, of those that have a name; others stay",
    ),
    call("exec", ALL, &[p("path", Path)], Number, "fork and execve(2); the exit status"),
    // Files, by descriptor.
    call("close", ALL, &[p("fd", Fd)], Nothing, "close(2)"),
    call("dup", ALL, &[p("fd", Fd)], Named("fd"), "dup(2)"),
    call("read", ALL, &[p("fd", Fd), p("len", Num)], GivesData, "read(2)"),
    call("pread", ALL, &[p("fd", Fd), p("len", Num), p("offset", Num)], GivesData, "pread(2)"),
    call(
        "readv",
        ALL,
        &[p("fd", Fd), p("len", Num), p("pieces", Num)],
        GivesData,
        "readv(2) into so many equal pieces",
    ),
    call(
        "preadv2",
        ALL,
        &[p("fd", Fd), p("len", Num), p("offset", Num), p("flags", Flags(flags::RWF))],
        GivesData,
        "preadv2(2)",
    ),
    call("write", ALL, &[p("fd", Fd), p("data", Bytes)], Number, "write(2)"),
    call("pwrite", ALL, &[p("fd", Fd), p("data", Bytes), p("offset", Num)], Number, "pwrite(2)"),
    call(
        "writev",
        ALL,
        &[p("fd", Fd), p("data", Bytes), p("pieces", Num)],
        Number,
        "writev(2) from so many equal pieces",
    ),
    call(
        "pwritev2",
        ALL,
        &[p("fd", Fd), p("data", Bytes), p("offset", Num), p("flags", Flags(flags::RWF))],
        Number,
        "pwritev2(2)",
    ),
    call(
        "aio_read",
        ALL,
        &[p("fd", Fd), p("len", Num), p("offset", Num)],
        GivesData,
        "Linux AIO (io_submit) read, waited for",
    ),
    call(
        "aio_write",
        ALL,
        &[p("fd", Fd), p("data", Bytes), p("offset", Num)],
        Number,
        "Linux AIO (io_submit) write, waited for",
    ),
    call(
        "aio_submit_read",
        ALL,
        &[p("fd", Fd), p("len", Num), p("offset", Num)],
        Named("aio"),
        "Linux AIO (io_submit) read, not waited for",
    ),
    call(
        "aio_submit_poll",
        ALL,
        &[p("fd", Fd), p("events", Flags(flags::POLL))],
        Named("aio"),
        "Linux AIO poll for one of these events, not waited for",
    ),
    call("aio_reap", ALL, &[p("aio", Aio)], Number, "wait for its end: a read's count, a poll's events"),
    call(
        "uring_read",
        ALL,
        &[
            p("fd", Fd),
            p("len", Num),
            p("offset", Num),
            k("ring", Word(&["iopoll"])),
            k("memory", Word(&["registered"])),
        ],
        GivesData,
        "io_uring read, waited for; by a ring with IORING_SETUP_IOPOLL, into a registered buffer",
    ),
    call(
        "uring_write",
        ALL,
        &[
            p("fd", Fd),
            p("data", Bytes),
            p("offset", Num),
            k("ring", Word(&["iopoll"])),
            k("memory", Word(&["registered"])),
        ],
        Number,
        "io_uring write, waited for; the same",
    ),
    call(
        "lseek",
        ALL,
        &[p("fd", Fd), p("offset", Num), p("whence", Flags(flags::WHENCE))],
        Number,
        "lseek(2)",
    ),
    call("ftruncate", ALL, &[p("fd", Fd), p("len", Num)], Nothing, "ftruncate(2)"),
    call(
        "fallocate",
        ALL,
        &[p("fd", Fd), p("mode", Flags(flags::FALLOC)), p("offset", Num), p("len", Num)],
        Nothing,
        "fallocate(2)",
    ),
    call("fsync", ALL, &[p("fd", Fd)], Nothing, "fsync(2)"),
    call("syncfs", ALL, &[p("fd", Fd)], Nothing, "syncfs(2)"),
    call(
        "sync_file_range",
        ALL,
        &[p("fd", Fd), p("offset", Num), p("len", Num), p("flags", Num)],
        Nothing,
        "sync_file_range(2)",
    ),
    call("fdatasync", ALL, &[p("fd", Fd)], Nothing, "fdatasync(2)"),
    call("fstat", ALL, &[p("fd", Fd)], Fields, "fstat(2)"),
    call("fdinfo", ALL, &[p("fd", Fd)], GivesData, "fdinfo of proc(5): what only files of that kind have"),
    call("fchmod", ALL, &[p("fd", Fd), p("mode", Flags(flags::MODE))], Nothing, "fchmod(2)"),
    call("setfl", ALL, &[p("fd", Fd), p("flags", Flags(flags::OPEN))], Nothing, "fcntl(2) F_SETFL"),
    call("notify_me", ALL, &[p("fd", Fd)], Nothing, "fcntl(2) F_SETOWN and O_ASYNC; SIGIO stays pending"),
    call("notified", ALL, &[], Number, "1 if SIGIO came since the last time, or 0"),
    call("flock", ALL, &[p("fd", Fd), p("operation", Flags(flags::FLOCK))], Nothing, "flock(2)"),
    call(
        "setlk",
        ALL,
        &[p("fd", Fd), p("type", Flags(flags::LOCK)), p("offset", Num), p("len", Num)],
        Nothing,
        "fcntl(2) F_SETLK",
    ),
    call("setlease", ALL, &[p("fd", Fd), p("type", Flags(flags::LOCK))], Nothing, "fcntl(2) F_SETLEASE"),
    call(
        "fadvise",
        ALL,
        &[p("fd", Fd), p("offset", Num), p("len", Num), p("advice", Flags(flags::FADVICE))],
        Nothing,
        "posix_fadvise(2)",
    ),
    call("readahead", ALL, &[p("fd", Fd), p("offset", Num), p("len", Num)], Nothing, "readahead(2)"),
    call(
        "poll",
        ALL,
        &[p("fd", Fd), p("events", Flags(flags::POLL))],
        Fields,
        "poll(2) without waiting: revents",
    ),
    call(
        "ioctl",
        ALL,
        &[p("fd", Fd), p("number", Num), p("argument", Bytes)],
        Nothing,
        "ioctl(2) with a pointer to these bytes",
    ),
    call(
        "ioctl32",
        ALL,
        &[p("fd", Fd), p("number", Num), p("argument", Bytes)],
        Number,
        "the same as a 32-bit program makes it",
    ),
    // Memory.
    call(
        "mmap",
        ALL,
        &[
            p("fd", Fd),
            p("len", Num),
            p("prot", Flags(flags::PROT)),
            p("flags", Flags(flags::MAP)),
            t("offset", Num),
        ],
        Named("map"),
        "mmap(2)",
    ),
    call(
        "load",
        ALL,
        &[p("map", Map), p("len", Num)],
        GivesData,
        "read memory; SIGBUS and SIGSEGV are outcomes",
    ),
    call(
        "store",
        ALL,
        &[p("map", Map), p("data", Bytes)],
        Nothing,
        "write memory; SIGBUS and SIGSEGV are outcomes",
    ),
    call(
        "msync",
        ALL,
        &[p("map", Map), p("flags", Flags(flags::MSYNC))],
        Nothing,
        "msync(2) of the whole mapping",
    ),
    call(
        "mprotect",
        ALL,
        &[p("map", Map), p("prot", Flags(flags::PROT))],
        Nothing,
        "mprotect(2) of the whole mapping",
    ),
    call(
        "madvise",
        ALL,
        &[p("map", Map), p("advice", Flags(flags::MADVICE))],
        Nothing,
        "madvise(2) of the whole mapping",
    ),
    call(
        "mapped",
        ALL,
        &[p("map", Map)],
        GivesData,
        "the file that /proc/self/maps and smaps name: `mnt:a`; its device and inode must be stat(2)'s",
    ),
    call("munmap", ALL, &[p("map", Map)], Nothing, "munmap(2)"),
    call(
        "read_into",
        ALL,
        &[p("fd", Fd), p("map", Map), p("len", Num)],
        Number,
        "read(2) into memory that nothing has touched before",
    ),
    call(
        "write_from",
        ALL,
        &[p("fd", Fd), p("map", Map), p("len", Num)],
        Number,
        "write(2) out of memory that nothing has touched before",
    ),
    call(
        "ioctl_at",
        ALL,
        &[p("fd", Fd), p("number", Num), p("map", Map)],
        Nothing,
        "ioctl(2) with a pointer into a mapping",
    ),
    // Between descriptors.
    call(
        "splice",
        ALL,
        &[
            p("in", Fd),
            p("out", Fd),
            p("len", Num),
            k("off_in", Num),
            k("off_out", Num),
            k("flags", Flags(flags::SPLICE)),
        ],
        Number,
        "splice(2)",
    ),
    call("tee", ALL, &[p("in", Fd), p("out", Fd), p("len", Num)], Number, "tee(2)"),
    call(
        "sendfile",
        ALL,
        &[p("out", Fd), p("in", Fd), p("len", Num), k("offset", Num)],
        Number,
        "sendfile(2)",
    ),
    call(
        "copy_file_range",
        ALL,
        &[p("in", Fd), p("out", Fd), p("len", Num), k("off_in", Num), k("off_out", Num)],
        Number,
        "copy_file_range(2)",
    ),
    // Things that are no files of the mount.
    call(
        "pipe",
        ALL,
        &[t("flags", Flags(flags::PIPE))],
        Named("pipe"),
        "pipe2(2): `pipe p` names the ends p.r and p.w",
    ),
    call("setpipe_sz", ALL, &[p("fd", Fd), p("len", Num)], Number, "fcntl(2) F_SETPIPE_SZ; the new size"),
    call("memfd", ALL, &[p("flags", Flags(flags::MEMFD))], Named("fd"), "memfd_create(2)"),
    call("add_seals", ALL, &[p("fd", Fd), p("seals", Flags(flags::SEAL))], Nothing, "fcntl(2) F_ADD_SEALS"),
    call("eventfd", ALL, &[], Named("fd"), "eventfd(2)"),
    call("epoll", ALL, &[], Named("fd"), "epoll_create1(2)"),
    call("watch", ALL, &[p("path", Path)], Named("fd"), "inotify(7): gives every event of this file"),
    call("socket", ALL, &[], Named("fd"), "socket(2), AF_UNIX"),
    call(
        "take",
        ALL,
        &[p("actor", Actor), p("fd", Name)],
        Named("fd"),
        "another actor's open file, as SCM_RIGHTS would hand it over",
    ),
    // The process itself.
    call("setuid", PROCESS, &[p("uid", Num)], Nothing, "setgroups(2) to none, setresgid(2), setresuid(2)"),
    call(
        "drop_capability",
        PROCESS,
        &[p("capability", Flags(flags::CAP))],
        Nothing,
        "take it out of the permitted and effective sets",
    ),
    call("umask", PROCESS, &[p("mask", Flags(flags::MODE))], Nothing, "umask(2)"),
    call("limit_open_files", PROCESS, &[p("count", Num)], Nothing, "RLIMIT_NOFILE"),
    call(
        "unshare_user",
        PROCESS,
        &[],
        Nothing,
        "unshare(2) of the user and mount namespaces; user and group 0 outside are 0 inside, all others are nobody",
    ),
    call(
        "mount_fuse",
        PROCESS,
        &[p("fd", Fd), p("path", Path), k("options", Bytes)],
        Nothing,
        "mount(2) of this device there, with a folder of user 0 as the root unless `options` say otherwise",
    ),
    call("fsopen", PROCESS, &[p("type", Bytes)], Named("fd"), "fsopen(2)"),
    call(
        "fsconfig",
        PROCESS,
        &[p("fd", Fd), p("key", Bytes), t("value", Bytes)],
        Nothing,
        "fsconfig(2): set this to a text; `create` makes the file system",
    ),
    call("limit_file_size", APP, &[p("len", Num)], Nothing, "RLIMIT_FSIZE, SIGXFSZ ignored"),
    call(
        "fork",
        APP,
        &[p("child", Actor)],
        Nothing,
        "fork(2): the child is that actor, with the same files and mappings",
    ),
    call("peek", APP, &[p("actor", Actor)], Nothing, "read another process's memory, as ps(1) does"),
    call("join", APP, &[p("actor", Actor)], Nothing, "setns(2): its user and mount namespaces"),
    call("exit", PROCESS, &[], Nothing, "end the process; open files are closed by the kernel"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_parameters_in_order() {
        for (index, one) in signatures().enumerate() {
            assert!(signatures().take(index).all(|other| other.name != one.name), "{} twice", one.name);
            let order: Vec<u8> = one.params.iter().map(|param| param.need as u8).collect();
            assert!(order.is_sorted(), "{}: required, then trailing, then keyword", one.name);
        }
    }
}
