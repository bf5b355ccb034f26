//! A folder shown again through the fuser crate, whose files pass through: what a daemon on that crate looks like that keeps
//! the rules in `cases/rules/daemon.toml`.
//!
//! It needs root and leaves to the kernel what it can. It has no links, no extended attributes and no locks.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackingId, BsdFileFlags, Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, SessionACL, TimeOrNow, WriteFlags,
};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, RenameFlags as How, fallocate, open, openat, renameat2};
use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, mkdirat, mknodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, Whence, fchownat, lseek64, truncate, unlinkat};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Attributes of files that pass through change behind the kernel's back, so it is told to ask.
const TTL: Duration = Duration::ZERO;
/// The files may lie on any file system that is not stacked on another.
const MAX_STACK_DEPTH: u32 = 1;

/// An inode that the kernel knows.
struct Node {
    /// It is held by `O_PATH`, whatever becomes of its name.
    held: OwnedFd,
    /// By device and inode below.
    key: (u64, u64),
    lookups: u64,
    /// One registration serves all opens of the inode, as the kernel wants it.
    backing: Weak<BackingId>,
    /// How many opens there are for which the kernel comes here: the inode may not pass through meanwhile.
    served: usize,
}

/// An open file, or an open folder.
struct Open {
    file: File,
    node: u64,
    /// Until the last open is gone, so is not the registration.
    backing: Option<Arc<BackingId>>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<u64, Node>,
    by_key: HashMap<(u64, u64), u64>,
    opens: HashMap<u64, Open>,
    last: u64,
}

struct Loopback(Mutex<State>);

impl State {
    fn held(&self, node: INodeNo) -> io::Result<&OwnedFd> {
        self.nodes
            .get(&node.0)
            .map(|node| &node.held)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    /// Where the kernel shows what is held, to be opened or named once more.
    fn path(&self, node: INodeNo) -> io::Result<PathBuf> {
        Ok(format!("/proc/self/fd/{}", self.held(node)?.as_raw_fd()).into())
    }

    fn file(&self, handle: FileHandle) -> io::Result<&File> {
        let open = self.opens.get(&handle.0);
        open.map(|open| &open.file).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn fresh(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Count a lookup of what goes by that name, and tell its attributes.
    fn look_up(&mut self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let held = openat(self.held(parent)?, name, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
        let stat = fstat(&held)?;
        let key = (stat.st_dev, stat.st_ino);
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                let id = self.fresh();
                self.by_key.insert(key, id);
                let node = Node { held, key, lookups: 0, backing: Weak::new(), served: 0 };
                self.nodes.insert(id, node);
                id
            }
        };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups += 1;
        }
        Ok(attributes(id, &stat))
    }

    fn attributes(&self, node: INodeNo) -> io::Result<FileAttr> {
        Ok(attributes(node.0, &fstat(self.held(node)?)?))
    }

    fn forget(&mut self, id: u64, lookups: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups == 0 && id != INodeNo::ROOT.0 {
            let key = node.key;
            self.by_key.remove(&key);
            self.nodes.remove(&id);
        }
    }

    /// Open a file. It passes through if it can be registered and the inode is not served from here; one registration
    /// is shared by all who have it open.
    fn open(
        &mut self,
        node: INodeNo,
        flags: i32,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> io::Result<(FileHandle, Option<Arc<BackingId>>)> {
        // The kernel has followed links and made what was missing, and says where each byte goes.
        let done = OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_DIRECT;
        let flags = OFlag::from_bits_truncate(flags) - done;
        let file = File::from(open(&self.path(node)?, flags | OFlag::O_CLOEXEC, Mode::empty())?);
        let id = self.fresh();
        let Some(inode) = self.nodes.get_mut(&node.0) else { return Err(io::ErrorKind::NotFound.into()) };
        let backing = match inode.backing.upgrade() {
            Some(backing) => Some(backing),
            None if inode.served > 0 => None,
            None => register(&file).ok().map(Arc::new),
        };
        match &backing {
            Some(backing) => inode.backing = Arc::downgrade(backing),
            None => inode.served += 1,
        }
        self.opens.insert(id, Open { file, node: node.0, backing: backing.clone() });
        Ok((FileHandle(id), backing))
    }

    fn release(&mut self, handle: FileHandle) {
        let Some(open) = self.opens.remove(&handle.0) else { return };
        if open.backing.is_none()
            && let Some(node) = self.nodes.get_mut(&open.node)
        {
            node.served = node.served.saturating_sub(1);
        }
    }
}

impl Loopback {
    /// Nothing that is done with the state can panic halfway.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Something new, whose owner is who asked for it.
    fn made(&self, request: &Request, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let mut state = self.state();
        let (uid, gid) = (Uid::from_raw(request.uid()), Gid::from_raw(request.gid()));
        fchownat(state.held(parent)?, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        state.look_up(parent, name)
    }

    fn change(
        &self,
        node: INodeNo,
        mode: Option<u32>,
        owner: (Option<u32>, Option<u32>),
        size: Option<u64>,
        times: (Option<TimeOrNow>, Option<TimeOrNow>),
        handle: Option<FileHandle>,
    ) -> io::Result<FileAttr> {
        let state = self.state();
        let path = state.path(node)?;
        if let Some(mode) = mode {
            let here = nix::fcntl::AT_FDCWD;
            fchmodat(
                here,
                &path,
                Mode::from_bits_truncate(mode),
                nix::sys::stat::FchmodatFlags::FollowSymlink,
            )?;
        }
        if let (uid, gid) = owner
            && (uid.is_some() || gid.is_some())
        {
            nix::unistd::chown(&path, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
        }
        match (size, handle) {
            (Some(size), Some(handle)) => state.file(handle)?.set_len(size)?,
            (Some(size), None) => truncate(&path, size.try_into().map_err(io::Error::other)?)?,
            (None, _) => {}
        }
        if times.0.is_some() || times.1.is_some() {
            let (accessed, modified) = (time_spec(times.0), time_spec(times.1));
            let here = nix::fcntl::AT_FDCWD;
            utimensat(here, &path, &accessed, &modified, UtimensatFlags::FollowSymlink)?;
        }
        state.attributes(node)
    }
}

impl Filesystem for Loopback {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A kernel without passthrough does not offer it; registering fails there, and files are served from here.
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() {
            config
                .set_max_stack_depth(MAX_STACK_DEPTH)
                .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.state().look_up(parent, name));
    }

    fn forget(&self, _: &Request, node: INodeNo, lookups: u64) {
        self.state().forget(node.0, lookups);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attr(reply, self.state().attributes(node));
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        attr(reply, self.change(node, mode, (uid, gid), size, (atime, mtime), handle));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let (kind, bits) = (SFlag::from_bits_truncate(mode), Mode::from_bits_truncate(mode));
        let make = || Ok(mknodat(self.state().held(parent)?, name, kind, bits, device.into())?);
        entry(reply, make().and_then(|()| self.made(request, parent, name)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let make = || Ok(mkdirat(self.state().held(parent)?, name, Mode::from_bits_truncate(mode))?);
        entry(reply, make().and_then(|()| self.made(request, parent, name)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let state = self.state();
        done(
            reply,
            state.held(parent).and_then(|held| Ok(unlinkat(held, name, UnlinkatFlags::NoRemoveDir)?)),
        );
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let state = self.state();
        done(reply, state.held(parent).and_then(|held| Ok(unlinkat(held, name, UnlinkatFlags::RemoveDir)?)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let state = self.state();
        let how = How::from_bits_truncate(flags.bits());
        let rename = || Ok(renameat2(state.held(parent)?, name, state.held(to)?, new, how)?);
        done(reply, rename());
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.state().open(node, flags.0, |file| reply.open_backing(file)) {
            Ok((handle, Some(id))) => reply.opened_passthrough(handle, FopenFlags::empty(), &id),
            Ok((handle, None)) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let make = || {
            let how = OFlag::O_CREAT | OFlag::O_NOFOLLOW | (OFlag::from_bits_truncate(flags) & OFlag::O_EXCL);
            let mode = Mode::from_bits_truncate(mode);
            openat(self.state().held(parent)?, name, how | OFlag::O_WRONLY, mode)?;
            let made = self.made(request, parent, name)?;
            let opened = self.state().open(made.ino, flags, |file| reply.open_backing(file))?;
            Ok((made, opened))
        };
        match make() {
            Ok((made, (handle, Some(id)))) => {
                reply.created_passthrough(&TTL, &made, Generation(0), handle, FopenFlags::empty(), &id);
            }
            Ok((made, (handle, None))) => {
                reply.created(&TTL, &made, Generation(0), handle, FopenFlags::empty());
            }
            Err(error) => reply.error(io::Error::into(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        match self.state().file(handle).and_then(|file| file.read_at(&mut bytes, offset)) {
            Ok(have) => reply.data(&bytes[..have]),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().file(handle).and_then(|file| file.write_at(data, offset)) {
            Ok(count) => reply.written(count as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.state().release(handle);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let state = self.state();
        let sync = |file: &File| if datasync { file.sync_data() } else { file.sync_all() };
        done(reply, state.file(handle).and_then(sync));
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let read = || -> io::Result<Vec<_>> {
            let mut folder = Dir::open(&self.state().path(node)?, OFlag::O_RDONLY, Mode::empty())?;
            Ok(folder.iter().flatten().map(|entry| (entry.ino(), entry.file_name().to_owned())).collect())
        };
        match read() {
            Ok(entries) => {
                for (index, (inode, name)) in entries.iter().enumerate().skip(offset as usize) {
                    let name = OsStr::new(name.to_str().unwrap_or_default());
                    // The kernel looks each of them up that somebody asks for.
                    if reply.add(INodeNo(*inode), index as u64 + 1, FileType::RegularFile, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn statfs(&self, _: &Request, node: INodeNo, reply: ReplyStatfs) {
        match self.state().held(node).and_then(|held| Ok(fstatvfs(held)?)) {
            Ok(told) => reply.statfs(
                told.blocks(),
                told.blocks_free(),
                told.blocks_available(),
                told.files(),
                told.files_free(),
                told.block_size() as u32,
                told.name_max() as u32,
                told.fragment_size() as u32,
            ),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let state = self.state();
        let mode = FallocateFlags::from_bits_retain(mode);
        let allocate = |file: &File| Ok(fallocate(file, mode, offset as i64, length as i64)?);
        done(reply, state.file(handle).and_then(allocate));
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = if whence == libc::SEEK_DATA { Whence::SeekData } else { Whence::SeekHole };
        match self.state().file(handle).and_then(|file| Ok(lseek64(file, offset, whence)?)) {
            Ok(place) => reply.offset(place),
            Err(error) => reply.error(error.into()),
        }
    }
}

fn entry(reply: ReplyEntry, result: io::Result<FileAttr>) {
    match result {
        Ok(found) => reply.entry(&TTL, &found, Generation(0)),
        Err(error) => reply.error(error.into()),
    }
}

fn attr(reply: ReplyAttr, result: io::Result<FileAttr>) {
    match result {
        Ok(found) => reply.attr(&TTL, &found),
        Err(error) => reply.error(error.into()),
    }
}

fn done(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

fn attributes(node: u64, stat: &FileStat) -> FileAttr {
    let time =
        |seconds: i64, nanoseconds: i64| UNIX_EPOCH + Duration::new(seconds as u64, nanoseconds as u32);
    let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => FileType::Directory,
        SFlag::S_IFLNK => FileType::Symlink,
        SFlag::S_IFIFO => FileType::NamedPipe,
        SFlag::S_IFSOCK => FileType::Socket,
        SFlag::S_IFCHR => FileType::CharDevice,
        SFlag::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    };
    FileAttr {
        ino: INodeNo(node),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind,
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

fn time_spec(time: Option<TimeOrNow>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(TimeOrNow::Now) => TimeSpec::UTIME_NOW,
        Some(TimeOrNow::SpecificTime(time)) => {
            TimeSpec::from_duration(time.duration_since(UNIX_EPOCH).unwrap_or_default())
        }
    }
}

/// Show `source` at `mount` until it is unmounted, or SIGTERM comes.
pub(crate) fn serve(source: &Path, mount: &Path) -> io::Result<()> {
    // Modes are the kernel's to make, by the mask of who asks.
    nix::sys::stat::umask(Mode::empty());
    let held = open(source, OFlag::O_PATH, Mode::empty())?;
    let stat = fstat(&held)?;
    let key = (stat.st_dev, stat.st_ino);
    let root = INodeNo::ROOT.0;
    let mut state = State { last: root, ..State::default() };
    state.by_key.insert(key, root);
    state.nodes.insert(root, Node { held, key, lookups: 1, backing: Weak::new(), served: 0 });
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("loopback".into()), MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mounted = mount.to_path_buf();
    // The session ends with the mount.
    std::thread::spawn(move || signals.forever().next().map(|_| umount2(&mounted, MntFlags::MNT_DETACH)));
    fuser::mount(Loopback(Mutex::new(state)), mount, &config)
}
