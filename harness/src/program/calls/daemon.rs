//! What a daemon does with its device.

use super::{
    Bytes, DAEMON, Fd, Fields, Flags, GivesData, Map, Named, Nothing, Num, Number, PROCESS, Path, Signature,
    VIA, Word, call, flags, k, p,
};

/// The daemon's calls.
pub(super) const CALLS: &[Signature] = &[
    // The daemon's side of the device.
    call(
        "mount",
        DAEMON,
        &[
            k("options", Bytes),
            k("without", Word(&["fd", "rootmode", "user_id", "group_id"])),
            k("kind", Word(&["fuseblk"])),
            k("on", Path),
            k("over", Word(&["io_uring"])),
        ],
        Nothing,
        "open /dev/fuse if need be, mount(2) (a fuseblk on a loop device; `on` an empty file instead of the folder), serve, over FUSE's io_uring if told so; with an INIT reply that is ready, wait for INIT",
    ),
    call("device", DAEMON, &[], Named("fd"), "the device once more, as a file for other calls and actors"),
    call("pause", DAEMON, &[], Nothing, "read the device no more, ..."),
    call("serve", DAEMON, &[], Nothing, "... until here"),
    call(
        "take_request",
        DAEMON,
        &[p("len", Num)],
        Number,
        "read(2) the device once, with a buffer of this length, and serve what comes as ever",
    ),
    call("open_device", DAEMON, &[], Nothing, "open /dev/fuse without mounting"),
    call(
        "backing_open",
        PROCESS,
        &[p("fd", Fd), k("flags", Num), k("padding", Num), k("device", Fd)],
        Named("id"),
        "FUSE_DEV_IOC_BACKING_OPEN, in the v12 dialect FUSE_DEV_IOC_PASSTHROUGH_OPEN with its length for `flags` and its pointer for `padding`; an app's is on a `device` that it took",
    ),
    call(
        "backing_open_many",
        DAEMON,
        &[p("fd", Fd), p("threads", Num), p("each", Num)],
        Number,
        "BACKING_OPEN by several threads at once, then BACKING_CLOSE of each different id: how many could be closed",
    ),
    call(
        "backing_close",
        DAEMON,
        &[p("id", Num)],
        Nothing,
        "FUSE_DEV_IOC_BACKING_CLOSE, in the v12 dialect FUSE_DEV_IOC_PASSTHROUGH_CLOSE",
    ),
    call(
        "clone_device",
        DAEMON,
        &[],
        Nothing,
        "open /dev/fuse again and FUSE_DEV_IOC_CLONE; requests are read from both, ioctls go to the first",
    ),
    call(
        "close_device",
        DAEMON,
        &[k("which", Word(&["first", "clone", "all"]))],
        Nothing,
        "close the device (default: all)",
    ),
    call("use_clone", DAEMON, &[], Nothing, "ioctls go to the clone from here on"),
    call(
        "device_ioctl",
        DAEMON,
        &[p("number", Flags(flags::DEV_IOC)), p("argument", Word(&["null", "unmapped"]))],
        Nothing,
        "ioctl(2) on the device with a bad pointer",
    ),
    call(
        "send",
        DAEMON,
        &[
            k("unique", Num),
            k("error", Num),
            k("len", Num),
            k("payload", Bytes),
            k("first", Num),
            k("size", Num),
            k("via", Word(VIA)),
            k("pipe_has", Num),
            k("map", Map),
        ],
        Number,
        "write a message to the device: header fields, payload, a number in place of its first eight bytes, how many bytes (`size`) are given to the call, and out of which mapping",
    ),
    call("read_device", DAEMON, &[p("len", Num)], GivesData, "read(2) of the device, without waiting"),
    call("poll_device", DAEMON, &[], Fields, "poll(2) of the device without waiting: revents"),
    // Single commands of FUSE over io_uring.
    call(
        "ring_register",
        DAEMON,
        &[
            k("queue", Num),
            k("headers", Num),
            k("payload", Num),
            k("buffer", Num),
            k("submission", Word(&["short"])),
        ],
        Nothing,
        "register an entry in this queue, or one in each processor's: how long its headers and its payload are said to be, which registered buffer it names; by a submission of 64 bytes",
    ),
    call(
        "ring_commit",
        DAEMON,
        &[p("id", Num), k("queue", Num)],
        Nothing,
        "commit whatever has this id in the queue (default: 0), as it lies there",
    ),
    call(
        "ring_add_queue",
        DAEMON,
        &[k("queue", Num), k("flags", Num)],
        Nothing,
        "FUSE_IO_URING_CMD_ADD_QUEUE (default: queue 0)",
    ),
    call(
        "ring_add_pool",
        DAEMON,
        &[k("queue", Num), k("len", Num), k("flags", Num), k("reserved", Num), k("buffer", Num)],
        Nothing,
        "FUSE_IO_URING_CMD_ADD_BUFPOOL (default: queue 0), of memory or of a registered buffer",
    ),
    call(
        "ring_unmap",
        DAEMON,
        &[p("id", Num), p("part", Word(&["headers", "payload"]))],
        Nothing,
        "while the held request is answered, this part of its entry's memory cannot be accessed",
    ),
];
