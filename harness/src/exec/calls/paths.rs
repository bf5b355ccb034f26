//! Calls on a path.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::libc;

use super::super::fault::exposed;
use super::super::stage::connection;
use super::{Holdings, Outcome, c_string, failed, filled, last_errno, result};
use crate::program::{Call, Data, Observed, flags};

/// The kernel's numbers on x86-64.
const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
const FS_IOC_SETFLAGS: libc::c_ulong = 0x4008_6602;

/// What every time from 2001 on is shown as: those of our day are not to be told apart.
const TODAY: i128 = 1_000_000_000;

impl Holdings {
    pub(super) fn path_call(&mut self, call: &Call) -> Option<Outcome> {
        Some(match call.name.as_str() {
            "open" => self.with_path(call, &["flags", "mode"], |path, n| {
                // SAFETY: `path` is a C string, here and in all arms below.
                unsafe { libc::open(path, n[0] as i32, n[1] as u32) }.into()
            }),
            "creat" => self.with_path(call, &["mode"], |path, n| {
                // SAFETY: as above.
                unsafe { libc::creat(path, n[0] as u32) }.into()
            }),
            "truncate" => self.with_path(call, &["len"], |path, n| {
                // SAFETY: as above.
                unsafe { libc::truncate(path, n[0]) }.into()
            }),
            "unlink" => self.with_path(call, &[], |path, _| {
                // SAFETY: as above.
                unsafe { libc::unlink(path) }.into()
            }),
            "mkdir" => self.with_path(call, &["mode"], |path, n| {
                // SAFETY: as above.
                unsafe { libc::mkdir(path, if n[0] == 0 { 0o755 } else { n[0] as u32 }) }.into()
            }),
            "rmdir" => self.with_path(call, &[], |path, _| {
                // SAFETY: as above.
                unsafe { libc::rmdir(path) }.into()
            }),
            "chmod" => self.with_path(call, &["mode"], |path, n| {
                // SAFETY: as above.
                unsafe { libc::chmod(path, n[0] as u32) }.into()
            }),
            "chown" => self.with_path(call, &["uid", "gid"], |path, n| {
                // SAFETY: as above.
                unsafe { libc::lchown(path, n[0] as u32, n[1] as u32) }.into()
            }),
            "access" => self.with_path(call, &["mode"], |path, n| {
                // SAFETY: as above.
                unsafe { libc::access(path, n[0] as i32) }.into()
            }),
            "utimens" => self.with_path(call, &["seconds"], |path, n| {
                let times = [libc::timespec { tv_sec: n[0], tv_nsec: 0 }; 2];
                // SAFETY: as above; the two times live across the call.
                unsafe { libc::utimensat(libc::AT_FDCWD, path, times.as_ptr(), 0) }.into()
            }),
            "mknod" => self.mknod(call),
            "rename" => self.two_paths(call, |from, to| {
                // SAFETY: both are C strings.
                unsafe { libc::rename(from, to) }
            }),
            "link" => self.two_paths(call, |from, to| {
                // SAFETY: both are C strings.
                unsafe { libc::link(from, to) }
            }),
            "symlink" => c_string(call.data("target").0).and_then(|target| {
                self.with_path(call, &[], |path, _| {
                    // SAFETY: both are C strings.
                    unsafe { libc::symlink(target.as_ptr(), path) }.into()
                })
            }),
            "readlink" => self.c_path(call, "path").map(|path| {
                let mut buffer = vec![0; 4096];
                // SAFETY: `path` is a C string and the buffer has 4096 bytes.
                let number = unsafe { libc::readlink(path.as_ptr(), buffer.as_mut_ptr().cast(), 4096) };
                filled(number as i64, buffer)
            }),
            "stat" | "times" => self.stat(call),
            "fstat" => self.fstat(call),
            "fdinfo" => self.fdinfo(call),
            "statx" => self.statx(call),
            "readdir" => Ok(self.readdir(call)),
            "getxattr" | "setxattr" | "removexattr" => self.xattr(call),
            "chattr" => self.chattr(call),
            _ => return None,
        })
    }

    fn with_path(
        &self,
        call: &Call,
        names: &[&str],
        work: impl FnOnce(*const libc::c_char, &[i64]) -> i64,
    ) -> Outcome {
        let path = self.c_path(call, "path")?;
        let numbers = names.iter().map(|name| self.number(call, name, 0)).collect::<Result<Vec<_>, _>>()?;
        Ok(result(exposed(|| work(path.as_ptr(), &numbers))))
    }

    fn two_paths(
        &self,
        call: &Call,
        work: impl FnOnce(*const libc::c_char, *const libc::c_char) -> i32,
    ) -> Outcome {
        let (from, to) = (self.c_path(call, "from")?, self.c_path(call, "to")?);
        Ok(result(exposed(|| work(from.as_ptr(), to.as_ptr())).into()))
    }

    fn mknod(&self, call: &Call) -> Outcome {
        let kind = match call.text("type") {
            "fifo" => libc::S_IFIFO,
            "socket" => libc::S_IFSOCK,
            "char" => libc::S_IFCHR,
            "block" => libc::S_IFBLK,
            _ => libc::S_IFREG,
        };
        self.with_path(call, &["dev"], |path, n| {
            // SAFETY: `path` is a C string.
            unsafe { libc::mknod(path, kind | 0o644, n[0] as u64) }.into()
        })
    }

    fn stat(&self, call: &Call) -> Outcome {
        let path = self.c_path(call, "path")?;
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: a C string, and room for one `stat`.
        let number = unsafe { libc::stat(path.as_ptr(), stat.as_mut_ptr()) };
        // SAFETY: all-zero bytes are a valid `stat`, and the kernel writes whole ones.
        let stat = unsafe { stat.assume_init() };
        if call.name == "times" && number == 0 {
            let times = [("atime", stat.st_atime), ("mtime", stat.st_mtime), ("ctime", stat.st_ctime)];
            let shown = times.map(|(name, time)| (name.to_string(), i128::from(time).min(TODAY)));
            return Ok(Observed::Fields(shown.into()));
        }
        Ok(stat_fields(number, &stat))
    }

    fn fstat(&self, call: &Call) -> Outcome {
        let fd = self.fd(call, "fd")?;
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: room for one `stat`.
        let number = unsafe { libc::fstat(fd, stat.as_mut_ptr()) };
        // SAFETY: all-zero bytes are a valid `stat`, and the kernel writes whole ones.
        Ok(stat_fields(number, &unsafe { stat.assume_init() }))
    }

    fn fdinfo(&self, call: &Call) -> Outcome {
        let path = format!("/proc/self/fdinfo/{}", self.fd(call, "fd")?);
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let mounted = |number: &str| {
            let number = number.trim().parse().ok();
            let is_it =
                |name: &&str| number.is_some() && connection(&self.base.join(name)).ok().flatten() == number;
            ["mnt", "mnt2", "mnt3"].into_iter().find(is_it).unwrap_or("of no mount")
        };
        let lines = text.lines().filter_map(|line| match line.split_once(':')? {
            ("pos" | "flags" | "mnt_id" | "ino", _) => None,
            ("fuse_connection", number) => Some(format!("fuse_connection: {}", mounted(number))),
            _ => Some(line.to_string()),
        });
        let lines: Vec<String> = lines.collect();
        Ok(Observed::Data(Data(lines.join("\n").into_bytes())))
    }

    fn statx(&self, call: &Call) -> Outcome {
        let path = self.c_path(call, "path")?;
        let flags = self.number(call, "flags", 0)? as i32;
        let mask = self.number(call, "mask", 0)? as u32;
        let mut statx = MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: a C string, and room for one `statx`.
        let number = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, statx.as_mut_ptr()) };
        if number == -1 {
            return Ok(result(-1));
        }
        // SAFETY: all-zero bytes are a valid `statx`, and the kernel writes whole ones.
        let statx = unsafe { statx.assume_init() };
        let all = [
            (libc::STATX_SIZE, "size", i128::from(statx.stx_size)),
            (libc::STATX_MODE, "mode", i128::from(statx.stx_mode)),
            (libc::STATX_NLINK, "nlink", i128::from(statx.stx_nlink)),
            (libc::STATX_UID, "uid", i128::from(statx.stx_uid)),
            (libc::STATX_GID, "gid", i128::from(statx.stx_gid)),
            (libc::STATX_ATIME, "atime", i128::from(statx.stx_atime.tv_sec).min(TODAY)),
            (libc::STATX_MTIME, "mtime", i128::from(statx.stx_mtime.tv_sec).min(TODAY)),
            (libc::STATX_CTIME, "ctime", i128::from(statx.stx_ctime.tv_sec).min(TODAY)),
        ];
        let wanted = all.into_iter().filter(|(bit, ..)| statx.stx_mask & mask & bit != 0);
        Ok(Observed::Fields(wanted.map(|(_, name, value)| (name.to_string(), value)).collect()))
    }

    fn readdir(&self, call: &Call) -> Observed {
        let listed = fs::read_dir(self.path(call.text("path"))).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>()
        });
        match listed {
            Err(error) => failed(&error),
            Ok(mut names) => {
                names.sort();
                let mut text = Vec::new();
                for name in names {
                    text.extend_from_slice(name.as_bytes());
                    text.push(b'\n');
                }
                Observed::Data(Data(text))
            }
        }
    }

    fn xattr(&self, call: &Call) -> Outcome {
        let path = self.c_path(call, "path")?;
        let name = c_string(call.data("name").0)?;
        let value = call.data("value").0;
        Ok(match call.name.as_str() {
            "getxattr" => {
                let mut buffer = vec![0; 4096];
                // SAFETY: C strings, and a buffer of 4096 bytes.
                let number =
                    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), 4096) };
                filled(number as i64, buffer)
            }
            "setxattr" => {
                // SAFETY: C strings, and the value's own length.
                let number = unsafe {
                    libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
                };
                result(number.into())
            }
            // SAFETY: C strings.
            _ => result(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }.into()),
        })
    }

    fn chattr(&self, call: &Call) -> Outcome {
        let path = self.c_path(call, "path")?;
        let attributes = self.number(call, "attributes", 0)?;
        // SAFETY: a C string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC) };
        if fd == -1 {
            return Ok(Observed::Errno(last_errno()));
        }
        // SAFETY: just opened, and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // Others stay, as with chattr(1): without its extents flag a file of ext4 would be converted, or refused.
        let named = flags::INODE_ATTR.names.iter().fold(0, |all, (_, bits)| all | bits) as i64;
        let mut now = 0_i64;
        // SAFETY: the ioctl writes an int through the pointer; a long is larger.
        unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFLAGS, &raw mut now) };
        let attributes = now & !named | attributes;
        // SAFETY: the ioctl reads an int through the pointer; a long is larger.
        Ok(result(unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_SETFLAGS, &raw const attributes) }.into()))
    }
}

fn stat_fields(number: i32, stat: &libc::stat) -> Observed {
    if number == -1 {
        return Observed::Errno(last_errno());
    }
    let fields = [
        ("size", i128::from(stat.st_size)),
        ("mode", i128::from(stat.st_mode)),
        ("nlink", i128::from(stat.st_nlink)),
        ("uid", i128::from(stat.st_uid)),
        ("gid", i128::from(stat.st_gid)),
    ];
    Observed::Fields(fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
}
