//! Numbers of the kernel's interface that the oracle speaks of. It makes no call with them.

pub(super) use nix::libc::{
    E2BIG, EACCES, EAGAIN, EBADF, EBUSY, ECONNABORTED, ECONNREFUSED, EEXIST, EFAULT, EINTR, EINVAL, EIO,
    EISDIR, ELOOP, ENAMETOOLONG, ENODEV, ENOENT, ENOSYS, ENOTCONN, ENOTDIR, ENOTTY, EOPNOTSUPP, EPERM, EROFS,
    ETXTBSY, SIGBUS, SIGSEGV,
};

macro_rules! words {
    ($($name:ident),+ $(,)?) => { $(pub(super) const $name: u64 = nix::libc::$name as u64;)+ };
}

words!(
    O_ACCMODE,
    O_RDONLY,
    O_WRONLY,
    O_RDWR,
    O_CREAT,
    O_EXCL,
    O_TRUNC,
    O_APPEND,
    O_DIRECT,
    O_PATH,
    O_TMPFILE,
    O_DIRECTORY,
    O_SYNC,
    O_DSYNC,
    MAP_SHARED,
    MAP_PRIVATE,
    MAP_ANONYMOUS,
    MS_ASYNC,
    MS_SYNC,
    PROT_READ,
    PROT_WRITE,
    SEEK_SET,
    SEEK_CUR,
    SEEK_END,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    AT_STATX_FORCE_SYNC,
    AT_STATX_DONT_SYNC,
    STATX_ATIME,
    STATX_MTIME,
    STATX_CTIME,
    STATX_SIZE,
    STATX_BLOCKS,
    STATX_BTIME,
    RWF_APPEND,
    RWF_DSYNC,
    RWF_SYNC,
    RWF_HIPRI,
    RWF_NOWAIT,
    POLLERR,
    POLLOUT,
    POLLWRNORM,
    MFD_HUGETLB,
);

pub(super) const RWF_ATOMIC: u64 = 0x40;
pub(super) const RWF_DONTCACHE: u64 = 0x80;

/// Kinds of a file, as `mode & S_IFMT` has them.
pub(super) const S_IFMT: i128 = 0o170_000;
pub(super) const S_IFREG: i128 = 0o100_000;
pub(super) const S_IFDIR: i128 = 0o040_000;

pub(super) const DIRECT_IO: u64 = 1 << 0;
pub(super) const KEEP_CACHE: u64 = 1 << 1;
pub(super) const NONSEEKABLE: u64 = 1 << 2;
pub(super) const STREAM: u64 = 1 << 4;
pub(super) const NOFLUSH: u64 = 1 << 5;
pub(super) const PARALLEL: u64 = 1 << 6;
pub(super) const PASSTHROUGH: u64 = 1 << 7;

/// INIT flags of both words in one.
pub(super) const ATOMIC_O_TRUNC: u64 = 1 << 3;
pub(super) const AUTO_INVAL_DATA: u64 = 1 << 12;
pub(super) const WRITEBACK_CACHE: u64 = 1 << 16;
pub(super) const POSIX_ACL: u64 = 1 << 20;
pub(super) const ABORT_ERROR: u64 = 1 << 21;
pub(super) const MAX_PAGES: u64 = 1 << 22;
pub(super) const INIT_EXT: u64 = 1 << 30;
pub(super) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
pub(super) const INIT_PASSTHROUGH: u64 = 1 << 37;
/// What bit 29 means in the v12 dialect.
pub(super) const INIT_V12: u64 = 1 << 29;
pub(super) const OVER_IO_URING: u64 = 1 << 41;
pub(super) const ALLOW_IDMAP: u64 = 1 << 40;

pub(super) const CAP_SYS_ADMIN: i128 = 21;
pub(super) const PAGE: u64 = 4096;
