//! What the daemon answers where the script says nothing: the lower directory's truth.
//!
//! Lower files are opened for one request and closed again. Attributes and names are valid for an hour, so that
//! whatever traffic a case sees has a cause in the case.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::libc;
use zerocopy::IntoBytes;

use super::nodes::Nodes;
use super::request::Request;
use crate::abi::*;

/// Seconds that attributes and names stay valid.
const VALID: u64 = 3600;
/// The newest protocol this daemon speaks.
const MINOR: u32 = 46;
/// The most bytes of a WRITE.
const MAX_WRITE: u32 = 1 << 17;

/// A payload, or an errno.
pub(super) type Answered = Result<Vec<u8>, i32>;

/// The lower directory.
#[derive(Debug)]
pub(super) struct Loopback {
    pub(super) root: PathBuf,
    pub(super) nodes: Nodes,
}

impl Loopback {
    /// Do what the request asks on the lower directory.
    pub(super) fn answer(&mut self, request: &Request) -> Answered {
        let done = match request.opcode() {
            Opcode::INIT => Ok(init(request)),
            Opcode::LOOKUP => self.entry(&request.path(&self.nodes)),
            Opcode::GETATTR => self.attributes(request.header.nodeid),
            Opcode::SETATTR => self.setattr(request),
            Opcode::READLINK => {
                fs::read_link(self.lower(request)?).map(|path| path.as_os_str().as_bytes().to_vec())
            }
            Opcode::SYMLINK => self.symlink(request),
            Opcode::MKNOD => self.mknod(request),
            Opcode::MKDIR => self.mkdir(request),
            Opcode::UNLINK => self.remove(request, |path| fs::remove_file(path)),
            Opcode::RMDIR => self.remove(request, |path| fs::remove_dir(path)),
            Opcode::RENAME | Opcode::RENAME2 => self.rename(request),
            Opcode::LINK => self.link(request),
            Opcode::OPEN | Opcode::OPENDIR => Ok(self.open_out()),
            Opcode::CREATE => self.create(request),
            Opcode::READ => self.read(request),
            Opcode::WRITE => self.write(request),
            Opcode::READDIR => self.readdir(request),
            Opcode::STATFS => self.statfs(request),
            Opcode::GETXATTR | Opcode::LISTXATTR | Opcode::SETXATTR | Opcode::REMOVEXATTR => {
                return self.xattr(request);
            }
            Opcode::FSYNC | Opcode::FSYNCDIR => {
                File::open(self.lower(request)?).and_then(|file| file.sync_all()).map(|()| vec![])
            }
            Opcode::FALLOCATE => self.fallocate(request),
            Opcode::LSEEK => self.lseek(request),
            Opcode::FLUSH | Opcode::RELEASE | Opcode::RELEASEDIR | Opcode::ACCESS | Opcode::DESTROY => {
                Ok(vec![])
            }
            Opcode::IOCTL => return Err(libc::ENOTTY),
            _ => return Err(libc::ENOSYS),
        };
        done.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// What an answer would look like if the request had been carried out; it is not.
    pub(super) fn claim(&mut self, request: &Request) -> Answered {
        match request.opcode() {
            Opcode::SETATTR => self
                .attributes(request.header.nodeid)
                .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)),
            Opcode::WRITE => {
                let out = fuse_write_out { size: request.number("size") as u32, padding: 0 };
                Ok(out.as_bytes().to_vec())
            }
            opcode => Ok(vec![0; opcode.reply_parts().iter().map(|(_, size)| size).sum()]),
        }
    }

    fn lower(&self, request: &Request) -> Result<PathBuf, i32> {
        self.nodes.path(request.header.nodeid).map(|path| self.root.join(path)).ok_or(libc::ESTALE)
    }

    fn lower_of(&self, request: &Request) -> io::Result<PathBuf> {
        self.lower(request).map_err(io::Error::from_raw_os_error)
    }

    fn entry(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let metadata = fs::symlink_metadata(self.root.join(path))?;
        let nodeid = self.nodes.id(path);
        let attributes = attr_out(nodeid, &metadata);
        let mut bytes =
            fuse_entry_out { nodeid, entry_valid: VALID, attr_valid: VALID, ..fuse_entry_out::default() }
                .as_bytes()
                .to_vec();
        // Both structures end with the attributes.
        bytes[40..].copy_from_slice(&attributes.as_bytes()[16..]);
        Ok(bytes)
    }

    fn attributes(&self, nodeid: u64) -> io::Result<Vec<u8>> {
        let path = self.nodes.path(nodeid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?;
        let metadata = fs::symlink_metadata(self.root.join(path))?;
        Ok(attr_out(nodeid, &metadata).as_bytes().to_vec())
    }

    fn open_out(&mut self) -> Vec<u8> {
        fuse_open_out { fh: self.nodes.new_handle(), ..fuse_open_out::default() }.as_bytes().to_vec()
    }

    fn setattr(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        const MODE: u64 = 1;
        const UID: u64 = 2;
        const GID: u64 = 4;
        const SIZE: u64 = 8;
        const TIMES: u64 = 0x10 | 0x20 | 0x80 | 0x100;
        let path = self.lower_of(request)?;
        let valid = request.number("valid");
        let name = c_path(&path)?;
        if valid & MODE != 0 {
            // SAFETY: a C string, here and below.
            check(unsafe { libc::chmod(name.as_ptr(), request.number("mode") as u32 & 0o7777) })?;
        }
        if valid & (UID | GID) != 0 {
            let owner = |bit, field| {
                if valid & bit != 0 { request.number(field) as u32 } else { u32::MAX }
            };
            // SAFETY: as above.
            check(unsafe { libc::lchown(name.as_ptr(), owner(UID, "attr_uid"), owner(GID, "attr_gid")) })?;
        }
        if valid & SIZE != 0 {
            OpenOptions::new().write(true).open(&path)?.set_len(request.number("size"))?;
        }
        if valid & TIMES != 0 {
            let time = |set: u64, now: u64, seconds: &str, nanos: &str| libc::timespec {
                tv_sec: request.field(seconds) as i64,
                tv_nsec: match valid {
                    valid if valid & now != 0 => libc::UTIME_NOW,
                    valid if valid & set != 0 => request.field(nanos) as i64,
                    _ => libc::UTIME_OMIT,
                },
            };
            let times = [time(0x10, 0x80, "atime", "atimensec"), time(0x20, 0x100, "mtime", "mtimensec")];
            // SAFETY: as above; the times live across the call.
            check(unsafe {
                libc::utimensat(libc::AT_FDCWD, name.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
            })?;
        }
        self.attributes(request.header.nodeid)
    }

    fn symlink(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let path = request.path(&self.nodes);
        symlink(request.names().get(1).map_or("", String::as_str), self.root.join(&path))?;
        self.entry(&path)
    }

    fn mknod(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let path = request.path(&self.nodes);
        let name = c_path(&self.root.join(&path))?;
        // SAFETY: a C string.
        check(unsafe { libc::mknod(name.as_ptr(), request.number("mode") as u32, request.number("rdev")) })?;
        self.entry(&path)
    }

    fn mkdir(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let path = request.path(&self.nodes);
        let name = c_path(&self.root.join(&path))?;
        // SAFETY: a C string.
        check(unsafe { libc::mkdir(name.as_ptr(), request.number("mode") as u32) })?;
        self.entry(&path)
    }

    fn remove(
        &mut self,
        request: &Request,
        work: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<Vec<u8>> {
        let path = request.path(&self.nodes);
        work(&self.root.join(&path))?;
        self.nodes.gone(&path);
        Ok(vec![])
    }

    fn rename(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let from = request.path(&self.nodes);
        let names = request.names();
        let to = self.nodes.child(request.number("newdir"), names.get(1).map_or("", String::as_str));
        let to = to.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?;
        let (old, new) = (c_path(&self.root.join(&from))?, c_path(&self.root.join(&to))?);
        let flags = request.number("flags") as u32;
        // SAFETY: C strings.
        check(unsafe { libc::renameat2(libc::AT_FDCWD, old.as_ptr(), libc::AT_FDCWD, new.as_ptr(), flags) })?;
        self.nodes.renamed(&from, &to);
        Ok(vec![])
    }

    fn link(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let path = request.path(&self.nodes);
        let old = request.number("oldnodeid");
        let from = self.nodes.path(old).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?;
        fs::hard_link(self.root.join(from), self.root.join(&path))?;
        self.nodes.linked(old, &path);
        self.entry(&path)
    }

    fn create(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let path = request.path(&self.nodes);
        let exclusive = request.number("flags") & libc::O_EXCL as u64 != 0;
        let mut options = OpenOptions::new();
        options.write(true).mode(request.number("mode") as u32 & 0o7777);
        if exclusive {
            options.create_new(true)
        } else {
            options.create(true)
        };
        options.open(self.root.join(&path))?;
        let mut bytes = self.entry(&path)?;
        bytes.extend(self.open_out());
        Ok(bytes)
    }

    fn read(&self, request: &Request) -> io::Result<Vec<u8>> {
        let file = File::open(self.lower_of(request)?)?;
        let mut buffer = vec![0; request.number("size") as usize];
        let mut have = 0;
        loop {
            match file.read_at(&mut buffer[have..], request.number("offset") + have as u64)? {
                0 => break,
                count => have += count,
            }
        }
        buffer.truncate(have);
        Ok(buffer)
    }

    fn write(&self, request: &Request) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new().write(true).open(self.lower_of(request)?)?;
        file.write_all_at(request.tail(), request.number("offset"))?;
        Ok(fuse_write_out { size: request.number("size") as u32, padding: 0 }.as_bytes().to_vec())
    }

    fn readdir(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let mut names = fs::read_dir(self.lower_of(request)?)?
            .map(|entry| entry.map(|entry| entry.file_name().into_encoded_bytes()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        let mut bytes = Vec::new();
        for (index, name) in names.iter().enumerate().skip(request.number("offset") as usize) {
            let padded = (24 + name.len()).next_multiple_of(8);
            if bytes.len() + padded > request.number("size") as usize {
                break;
            }
            let start = bytes.len();
            // struct fuse_dirent: ino, off, namelen, type, name. An inode number of 0 would hide the entry.
            bytes.extend_from_slice(&1_u64.to_le_bytes());
            bytes.extend_from_slice(&(index as u64 + 1).to_le_bytes());
            bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&u32::from(libc::DT_UNKNOWN).to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.resize(start + padded, 0);
        }
        Ok(bytes)
    }

    fn statfs(&self, request: &Request) -> io::Result<Vec<u8>> {
        let found = nix::sys::statvfs::statvfs(&self.lower_of(request)?)?;
        let out = fuse_statfs_out {
            blocks: found.blocks(),
            bfree: found.blocks_free(),
            bavail: found.blocks_available(),
            files: found.files(),
            ffree: found.files_free(),
            bsize: found.block_size() as u32,
            namelen: found.name_max() as u32,
            frsize: found.fragment_size() as u32,
            ..fuse_statfs_out::default()
        };
        Ok(out.as_bytes().to_vec())
    }

    fn xattr(&self, request: &Request) -> Answered {
        let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let path = c_path(&self.lower(request)?).map_err(errno)?;
        let names = request.names();
        let name = CString::new(names.first().map_or("", String::as_str)).map_err(|_| libc::EINVAL)?;
        let size = request.number("size") as usize;
        let mut buffer = vec![0_u8; if request.opcode() == Opcode::SETXATTR { 0 } else { size }];
        let into = buffer.as_mut_ptr();
        let got = match request.opcode() {
            // SAFETY: C strings, and buffers of `size` bytes, here and below.
            Opcode::GETXATTR => unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), into.cast(), size) },
            // SAFETY: as above.
            Opcode::LISTXATTR => unsafe { libc::llistxattr(path.as_ptr(), into.cast(), size) },
            Opcode::SETXATTR => {
                let value = &request.tail()[(name.as_bytes().len() + 1).min(request.tail().len())..];
                let flags = request.number("flags") as i32;
                // SAFETY: as above; the value has its own length.
                unsafe {
                    libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
                        as isize
                }
            }
            // SAFETY: as above.
            _ => unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) as isize },
        };
        if got == -1 {
            return Err(errno(io::Error::last_os_error()));
        }
        Ok(match request.opcode() {
            Opcode::GETXATTR | Opcode::LISTXATTR if size == 0 => {
                fuse_getxattr_out { size: got as u32, padding: 0 }.as_bytes().to_vec()
            }
            Opcode::GETXATTR | Opcode::LISTXATTR => {
                buffer.truncate(got as usize);
                buffer
            }
            _ => vec![],
        })
    }

    fn fallocate(&self, request: &Request) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new().write(true).open(self.lower_of(request)?)?;
        let (offset, len) = (request.number("offset") as i64, request.number("length") as i64);
        // SAFETY: plain system call on numbers.
        check(unsafe { libc::fallocate(file.as_raw_fd(), request.number("mode") as i32, offset, len) })?;
        Ok(vec![])
    }

    fn lseek(&self, request: &Request) -> io::Result<Vec<u8>> {
        let file = File::open(self.lower_of(request)?)?;
        let (offset, whence) = (request.number("offset") as i64, request.number("whence") as i32);
        // SAFETY: plain system call on numbers.
        match unsafe { libc::lseek(file.as_raw_fd(), offset, whence) } {
            -1 => Err(io::Error::last_os_error()),
            offset => Ok(fuse_lseek_out { offset: offset as u64 }.as_bytes().to_vec()),
        }
    }
}

/// INIT's answer: no feature that a script did not ask for, but the 64-byte reply of every protocol since 7.23.
fn init(request: &Request) -> Vec<u8> {
    let out = fuse_init_out {
        major: 7,
        minor: (request.number("minor") as u32).min(MINOR),
        max_readahead: request.number("max_readahead") as u32,
        max_write: MAX_WRITE,
        time_gran: 1,
        ..fuse_init_out::default()
    };
    out.as_bytes().to_vec()
}

pub(crate) fn attr_out(nodeid: u64, metadata: &fs::Metadata) -> fuse_attr_out {
    fuse_attr_out {
        attr_valid: VALID,
        ino: nodeid,
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: metadata.atime() as u64,
        mtime: metadata.mtime() as u64,
        ctime: metadata.ctime() as u64,
        atimensec: metadata.atime_nsec() as u32,
        mtimensec: metadata.mtime_nsec() as u32,
        ctimensec: metadata.ctime_nsec() as u32,
        mode: metadata.mode(),
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: metadata.rdev() as u32,
        blksize: metadata.blksize() as u32,
        ..fuse_attr_out::default()
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn check(number: i32) -> io::Result<()> {
    if number == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
