//! Wire structures of protocol 7.46, little endian, as on x86-64. Sizes are asserted; older minors are prefixes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Field;

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident: $size:literal { $($field:ident: $type:ident),* $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[expect(missing_docs, reason = "fields are the kernel's, documented in fuse.h")]
        pub struct $name { $(pub $field: $type),* }

        impl $name {
            /// Every field, with its place.
            pub const FIELDS: &'static [Field] = &[$(Field {
                name: stringify!($field),
                offset: std::mem::offset_of!($name, $field),
                size: size_of::<$type>(),
                signed: $type::MIN != 0,
            }),*];
        }
        const _: () = assert!(size_of::<$name>() == $size);
    )+

    /// Each structure: its name, its fields, and what its type makes of bytes that begin with one.
    pub const STRUCTURES: &[(&str, &[Field], AgainAsBytes)] = &[$((stringify!($name), $name::FIELDS, |bytes| {
        $name::read_from_prefix(bytes).ok().map(|(read, _)| read.as_bytes().to_vec())
    })),*];
    };
}

/// Bytes read as a structure, and that as bytes again; none if there are too few.
pub type AgainAsBytes = fn(&[u8]) -> Option<Vec<u8>>;

wire! {
    /// Before every request.
    fuse_in_header: 40 { len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, total_extlen: u16, padding: u16 }
    /// Before every reply and notification.
    fuse_out_header: 16 { len: u32, error: i32, unique: u64 }
    /// INIT request.
    fuse_init_in: 64 { major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, unused0: u32, unused1: u32, unused2: u32, unused3: u32, unused4: u32, unused5: u32, unused6: u32, unused7: u32, unused8: u32, unused9: u32, unused10: u32 }
    /// INIT reply.
    fuse_init_out: 64 { major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32, request_timeout: u16, unused0: u16, unused1: u32, unused2: u32, unused3: u32, unused4: u32, unused5: u32 }
    /// The directory entry part of LOOKUP, CREATE, MKNOD ...; from `ino` on it is the attributes.
    fuse_entry_out: 128 { nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32, ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, attr_flags: u32 }
    /// GETATTR and SETATTR reply; from `ino` on it is the attributes.
    fuse_attr_out: 104 { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, attr_flags: u32 }
    /// FORGET.
    fuse_forget_in: 8 { nlookup: u64 }
    /// GETATTR.
    fuse_getattr_in: 16 { getattr_flags: u32, dummy: u32, fh: u64 }
    /// SETATTR. `attr_uid` and `attr_gid` are the kernel's `uid` and `gid`: those names stand for the caller's, in the header.
    fuse_setattr_in: 88 { valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, attr_uid: u32, attr_gid: u32, unused5: u32 }
    /// MKNOD.
    fuse_mknod_in: 16 { mode: u32, rdev: u32, umask: u32, padding: u32 }
    /// MKDIR.
    fuse_mkdir_in: 8 { mode: u32, umask: u32 }
    /// RENAME.
    fuse_rename_in: 8 { newdir: u64 }
    /// RENAME2.
    fuse_rename2_in: 16 { newdir: u64, flags: u32, padding: u32 }
    /// LINK.
    fuse_link_in: 8 { oldnodeid: u64 }
    /// OPEN and OPENDIR.
    fuse_open_in: 8 { flags: u32, in_open_flags: u32 }
    /// OPEN and OPENDIR reply, and the second part of CREATE's.
    fuse_open_out: 16 { fh: u64, open_flags: u32, backing_id: i32 }
    /// CREATE and TMPFILE.
    fuse_create_in: 16 { flags: u32, mode: u32, umask: u32, in_open_flags: u32 }
    /// READ, READDIR and READDIRPLUS.
    fuse_read_in: 40 { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// WRITE.
    fuse_write_in: 40 { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// COPY_FILE_RANGE_64 reply.
    fuse_copy_file_range_out: 8 { bytes_copied: u64 }
    /// WRITE and COPY_FILE_RANGE reply.
    fuse_write_out: 8 { size: u32, padding: u32 }
    /// STATFS reply.
    fuse_statfs_out: 80 { blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32, padding: u32, spare0: u64, spare1: u64, spare2: u64 }
    /// RELEASE and RELEASEDIR.
    fuse_release_in: 24 { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    /// FLUSH.
    fuse_flush_in: 24 { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    /// FSYNC and FSYNCDIR.
    fuse_fsync_in: 16 { fh: u64, fsync_flags: u32, padding: u32 }
    /// SETXATTR without FUSE_SETXATTR_EXT.
    fuse_setxattr_in: 8 { size: u32, flags: u32 }
    /// GETXATTR and LISTXATTR.
    fuse_getxattr_in: 8 { size: u32, padding: u32 }
    /// GETXATTR and LISTXATTR reply to a request with size 0.
    fuse_getxattr_out: 8 { size: u32, padding: u32 }
    /// GETLK, SETLK and SETLKW.
    fuse_lk_in: 48 { fh: u64, owner: u64, start: u64, end: u64, lk_type: u32, lk_pid: u32, lk_flags: u32, padding: u32 }
    /// GETLK reply.
    fuse_lk_out: 24 { start: u64, end: u64, lk_type: u32, lk_pid: u32 }
    /// ACCESS.
    fuse_access_in: 8 { mask: u32, padding: u32 }
    /// INTERRUPT.
    fuse_interrupt_in: 8 { victim: u64 }
    /// IOCTL.
    fuse_ioctl_in: 32 { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    /// IOCTL reply.
    fuse_ioctl_out: 16 { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    /// POLL.
    fuse_poll_in: 24 { fh: u64, kh: u64, flags: u32, events: u32 }
    /// POLL reply.
    fuse_poll_out: 8 { revents: u32, padding: u32 }
    /// NOTIFY_REPLY.
    fuse_notify_retrieve_in: 40 { dummy1: u64, offset: u64, size: u32, dummy2: u32, dummy3: u64, dummy4: u64 }
    /// FALLOCATE.
    fuse_fallocate_in: 32 { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    /// LSEEK.
    fuse_lseek_in: 24 { fh: u64, offset: u64, whence: u32, padding: u32 }
    /// LSEEK reply.
    fuse_lseek_out: 8 { offset: u64 }
    /// COPY_FILE_RANGE and COPY_FILE_RANGE_64. `copy_len` is the kernel's `len`: that name stands for the header's.
    fuse_copy_file_range_in: 56 { fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, copy_len: u64, flags: u64 }
    /// STATX.
    fuse_statx_in: 24 { getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32 }
    /// STATX reply; from `mask` on it is `struct fuse_statx`.
    fuse_statx_out: 288 { attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare0: u64, spare1: u64, mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare2: u16, ino: u64, size: u64, blocks: u64, attributes_mask: u64, atime: i64, atime_nsec: u32, pad0: u32, btime: i64, btime_nsec: u32, pad1: u32, ctime: i64, ctime_nsec: u32, pad2: u32, mtime: i64, mtime_nsec: u32, pad3: u32, rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, spare3: u64, spare4: u64, spare5: u64, spare6: u64, spare7: u64, spare8: u64, spare9: u64, spare10: u64, spare11: u64, spare12: u64, spare13: u64, spare14: u64, spare15: u64, spare16: u64 }
    /// What an entry of FUSE over io_uring says beside its headers.
    fuse_uring_ent_in_out: 32 { flags: u64, commit_id: u64, payload_sz: u32, padding: u32, reserved: u64 }
    /// The command in a submission of FUSE over io_uring; from `uaddr` on it is about a pool of buffers.
    fuse_uring_cmd_req: 40 { flags: u64, commit_id: u64, qid: u16, padding0: u16, padding1: u32, uaddr: u64, len: u32, reserved: u32 }
    /// Argument of FUSE_DEV_IOC_BACKING_OPEN.
    fuse_backing_map: 16 { fd: i32, flags: u32, padding: u64 }
}

/// The headers of an entry of FUSE over io_uring.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct fuse_uring_req_header {
    /// The header of the request, or of the reply.
    pub in_out: [u8; 128],
    /// The fixed part of the request.
    pub op_in: [u8; 128],
    /// What else there is to say.
    pub ring_ent_in_out: fuse_uring_ent_in_out,
}
const _: () = assert!(size_of::<fuse_uring_req_header>() == 288);
