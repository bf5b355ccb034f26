//! What a suite cannot be cheaper than: a mount that nobody uses, and messages that the device refuses, all in one process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use zerocopy::{FromBytes, IntoBytes};

use crate::abi::{fuse_in_header, fuse_init_out, fuse_out_header};
use crate::bench::Bare;

/// Room for INIT: the kernel wants as much for any request.
const BUFFER: usize = 8 << 10;
/// The protocol that is spoken: its answer to INIT is of the size of today's.
const MINOR: u32 = 31;
/// A unique that nobody has.
const NOBODY: u64 = 1 << 40;

/// Make so many mounts, and write so many messages. Gives how long one of each takes.
///
/// # Errors
/// A mount cannot be made, or the device takes what it has to refuse.
pub(in crate::exec) fn bare(base: &Path, mounts: u32, messages: u32) -> io::Result<Bare> {
    let at = base.join("bare");
    fs::create_dir_all(&at)?;
    let start = Instant::now();
    (0..mounts).try_for_each(|_| Mount::of(&at).map(drop))?;
    let mount = each(start, mounts);
    let own = Mount::of(&at)?;
    let message = fuse_out_header { len: size_of::<fuse_out_header>() as u32, error: 0, unique: NOBODY };
    let start = Instant::now();
    for _ in 0..messages {
        match (&own.device).write(message.as_bytes()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => return Err(io::Error::other(format!("the device says {other:?} to a wrong message"))),
        }
    }
    let message = each(start, messages);
    drop(own);
    fs::remove_dir(&at)?;
    Ok(Bare { mount, message })
}

fn each(start: Instant, count: u32) -> u64 {
    (start.elapsed().as_nanos() / u128::from(count.max(1))).max(1) as u64
}

/// A mount whose INIT is answered. With this value it goes.
struct Mount<'a> {
    device: File,
    at: &'a Path,
}

impl Mount<'_> {
    fn of(at: &Path) -> io::Result<Mount<'_>> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("bare"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
        let own = Mount { device, at };
        let mut buffer = vec![0; BUFFER];
        let len = (&own.device).read(&mut buffer)?;
        let (header, _) = fuse_in_header::read_from_prefix(&buffer[..len])
            .map_err(|_| io::Error::other("the first request is no INIT"))?;
        let init = fuse_init_out { major: 7, minor: MINOR, max_write: 4096, ..fuse_init_out::default() };
        let len = size_of::<fuse_out_header>() + size_of::<fuse_init_out>();
        let reply = fuse_out_header { len: len as u32, error: 0, unique: header.unique };
        (&own.device).write_all(&[reply.as_bytes(), init.as_bytes()].concat())?;
        Ok(own)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.at, MntFlags::MNT_DETACH);
    }
}
