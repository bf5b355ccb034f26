//! What sets the stage and pulls it down.

use super::{
    Actor, Bytes, Flags, GivesData, HOST, Nothing, Num, Number, Path, Signature, Word, call, flags, k, p, t,
};

/// The host's calls.
pub(super) const CALLS: &[Signature] = &[
    // The stage.
    call(
        "lower",
        HOST,
        &[
            p("kind", Word(&["tmpfs", "ramfs", "ext4", "overlay", "mnt", "mnt2", "mnt3"])),
            k("at", Word(&["lower", "lower2", "lower3"])),
            k("size", Num),
            k("quota", Num),
            k("over", Word(&["lower", "lower2", "lower3", "mnt", "mnt2", "mnt3"])),
        ],
        Nothing,
        "mount a lower file system; of an ext4, `quota` is what user 1000 may have; mntN binds another FUSE mount; an overlay is over an empty folder or `over`, and has its upper layer in `upper:`, `upper2:` ...",
    ),
    call(
        "file",
        HOST,
        &[p("path", Path), p("data", Bytes), t("mode", Flags(flags::MODE))],
        Nothing,
        "create a file with this content",
    ),
    call("cat", HOST, &[p("path", Path)], GivesData, "the whole content of a file"),
    call(
        "abort",
        HOST,
        &[k("at", Word(&["mnt", "mnt2", "mnt3"]))],
        Nothing,
        "write to the connection's fusectl `abort`",
    ),
    call(
        "umount",
        HOST,
        &[
            k("at", Word(&["mnt", "mnt2", "mnt3", "lower", "lower2", "lower3"])),
            k("flags", Word(&["lazy", "force"])),
        ],
        Nothing,
        "umount2(2), of mnt unless said otherwise",
    ),
    call(
        "remount",
        HOST,
        &[p("mode", Word(&["ro", "rw"])), k("at", Word(&["mnt", "lower", "lower2"]))],
        Nothing,
        "remount the lower file system read-only or back",
    ),
    call(
        "control",
        HOST,
        &[p("file", Bytes), k("at", Word(&["mnt", "mnt2", "mnt3"]))],
        GivesData,
        "read this file of the connection in fusectl",
    ),
    call(
        "signal",
        HOST,
        &[p("actor", Actor), p("signal", Word(&["SIGUSR1", "SIGKILL"]))],
        Nothing,
        "kill(2), and no waiting; SIGUSR1 is handled, and ends a call that can be interrupted",
    ),
    call("kill", HOST, &[p("actor", Actor)], Nothing, "SIGKILL, and wait for its end"),
    call(
        "logged",
        HOST,
        &[p("start", Bytes), k("when", Word(&["boot"]))],
        Number,
        "how many messages above debug level that start so the kernel logged since the case began, or (`when=boot`) before all cases",
    ),
    call(
        "mount_options",
        HOST,
        &[k("at", Word(&["mnt", "mnt2", "mnt3"]))],
        GivesData,
        "what /proc/self/mountinfo shows of the file system's own options",
    ),
    call("drop_caches", HOST, &[], Nothing, "echo 3 into drop_caches"),
];
