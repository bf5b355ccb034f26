//! The device, as few verbs: the daemon runs on the real one or, in tests, on a fake.
//!
//! Nothing here knows what a message means.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Barrier;

use nix::fcntl::OFlag;
use nix::libc;
use zerocopy::IntoBytes;

use crate::abi::fuse_backing_map;

/// `FUSE_DEV_IOC_*` (`include/uapi/linux/fuse.h`).
const CLONE: libc::c_ulong = 0x8004_e500;
const BACKING_OPEN: libc::c_ulong = 0x4010_e501;
const BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

/// How a message gets into the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Via {
    /// write(2).
    #[default]
    Write,
    /// writev(2), header and payload apart.
    Writev,
    /// splice(2) from a pipe that holds this many bytes.
    Splice {
        /// How much of the message (or zeros behind it) is in the pipe.
        pipe_has: usize,
    },
    /// splice(2) with SPLICE_F_MOVE from a pipe that has header and payload in buffers of their own: the kernel may take
    /// whole pages of payload instead of copying them.
    Move,
}

/// One open `/dev/fuse`.
pub(crate) trait Device {
    /// The next request, without waiting: `WouldBlock` if there is none.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Give a message to the kernel.
    fn write(&mut self, message: &[u8], via: Via) -> io::Result<usize>;
    /// Register an open file; gives its id.
    fn backing_open(&mut self, map: fuse_backing_map) -> io::Result<i32>;
    /// Give an id back.
    fn backing_close(&mut self, id: u32) -> io::Result<()>;
    /// Another device on the same connection.
    fn another(&self) -> io::Result<Self>
    where
        Self: Sized;
    /// What to wait on, where there is something.
    fn waitable(&self) -> Option<BorrowedFd<'_>>;
}

/// The kernel's.
#[derive(Debug)]
pub(crate) struct DevFuse(File);

impl DevFuse {
    pub(crate) fn open() -> io::Result<DevFuse> {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/fuse").map(DevFuse)
    }

    pub(crate) fn raw(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// What to wait on.
    pub(crate) fn as_file(&self) -> &File {
        &self.0
    }

    /// splice(2) out of a pipe.
    fn splice(&self, pipe: &impl AsRawFd, len: usize, flags: u32) -> io::Result<usize> {
        let null = std::ptr::null_mut();
        // SAFETY: without offsets there are no pointers.
        let moved = unsafe { libc::splice(pipe.as_raw_fd(), null, self.0.as_raw_fd(), null, len, flags) };
        if moved == -1 { Err(io::Error::last_os_error()) } else { Ok(moved as usize) }
    }

    /// Register an open file so often by each of so many threads at once, and give each different id back once. Says
    /// how many there were to give back.
    pub(crate) fn backing_open_many(
        &mut self,
        map: fuse_backing_map,
        threads: usize,
        each: usize,
    ) -> io::Result<usize> {
        let (device, start) = (self.raw(), Barrier::new(threads));
        let register = || {
            start.wait();
            (0..each).map(|_| backing_open(device, map)).collect::<io::Result<Vec<i32>>>()
        };
        let registered: io::Result<Vec<Vec<i32>>> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(register)).collect();
            running
                .into_iter()
                .map(|thread| thread.join().map_err(|_| io::Error::other("a thread panicked"))?)
                .collect()
        });
        let ids: BTreeSet<i32> = registered?.into_iter().flatten().collect();
        ids.iter().try_for_each(|id| self.backing_close(*id as u32))?;
        Ok(ids.len())
    }

    /// ioctl(2) with an argument that is only an address.
    pub(crate) fn ioctl(&self, number: u64, address: usize) -> io::Result<i32> {
        // SAFETY: the kernel copies from the address and reports EFAULT where it cannot; it writes to none of ours.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), number, address) })
    }
}

impl Device for DevFuse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    fn write(&mut self, message: &[u8], via: Via) -> io::Result<usize> {
        match via {
            Via::Write => self.0.write(message),
            Via::Writev => {
                let (header, payload) = message.split_at(message.len().min(16));
                self.0.write_vectored(&[io::IoSlice::new(header), io::IoSlice::new(payload)])
            }
            Via::Splice { pipe_has } => {
                let (end, mut start) = io::pipe()?;
                // SAFETY: F_SETPIPE_SZ takes an integer.
                check(unsafe { libc::fcntl(start.as_raw_fd(), libc::F_SETPIPE_SZ, pipe_has.max(1) as i32) })?;
                let mut content = message.to_vec();
                content.resize(pipe_has, 0);
                start.write_all(&content)?;
                self.splice(&end, message.len(), libc::SPLICE_F_NONBLOCK)
            }
            Via::Move => {
                // In packet mode each write gets pages of its own.
                let (end, start) =
                    nix::unistd::pipe2(OFlag::O_DIRECT | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
                // SAFETY: F_SETPIPE_SZ takes an integer.
                check(unsafe { libc::fcntl(start.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) })?;
                let mut start = File::from(start);
                let (header, payload) = message.split_at(message.len().min(16));
                start.write_all(header)?;
                start.write_all(payload)?;
                self.splice(&end, message.len(), libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE)
            }
        }
    }

    fn backing_open(&mut self, map: fuse_backing_map) -> io::Result<i32> {
        backing_open(self.raw(), map)
    }

    fn backing_close(&mut self, id: u32) -> io::Result<()> {
        // SAFETY: the kernel reads four bytes, which live across the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), BACKING_CLOSE, &raw const id) }).map(|_| ())
    }

    fn another(&self) -> io::Result<DevFuse> {
        let new = DevFuse::open()?;
        let old = self.0.as_raw_fd() as u32;
        // SAFETY: the kernel reads four bytes, which live across the call.
        check(unsafe { libc::ioctl(new.0.as_raw_fd(), CLONE, &raw const old) })?;
        Ok(new)
    }

    fn waitable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

/// Register an open file through a device that may be somebody else's.
pub(crate) fn backing_open(device: i32, map: fuse_backing_map) -> io::Result<i32> {
    // SAFETY: the kernel reads 16 bytes, which live across the call.
    check(unsafe { libc::ioctl(device, BACKING_OPEN, map.as_bytes().as_ptr()) })
}

fn check(number: i32) -> io::Result<i32> {
    if number == -1 { Err(io::Error::last_os_error()) } else { Ok(number) }
}
