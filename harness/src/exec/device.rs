//! The device, as few verbs: the daemon runs on the real one or, in tests, on a fake.
//!
//! Nothing here knows what a message means. Whatever carries it, a request reads and a reply is given as the same bytes.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Barrier;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use zerocopy::IntoBytes;

use super::fault::exposed;
use super::ring::Ring;
use crate::abi::{fuse_backing_map, fuse_in_header, fuse_out_header};
use crate::program::Transport;

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
    /// The next request, without waiting, and what it came over: `WouldBlock` if there is none.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Transport)>;
    /// Answer the request that was read with this unique, whatever the message says of itself. Gives how much of it was taken.
    fn answer(&mut self, unique: u64, message: &[u8], via: Option<Via>) -> io::Result<usize>;
    /// Give a message to the kernel.
    fn write(&mut self, message: &[u8], via: Via) -> io::Result<usize>;
    /// Register an open file; gives its id.
    fn backing_open(&mut self, map: fuse_backing_map) -> io::Result<i32>;
    /// Give an id back.
    fn backing_close(&mut self, id: u32) -> io::Result<()>;
    /// Another device on the same connection, with a transport of its own.
    fn another(&self, over: Transport) -> io::Result<Self>
    where
        Self: Sized;
    /// Let requests come over io_uring, with room for payloads of this size.
    fn start_ring(&mut self, room: usize) -> io::Result<()>;
    /// What to wait on.
    fn waitables(&self) -> Vec<BorrowedFd<'_>>;
}

/// The kernel's.
pub(crate) struct DevFuse {
    file: File,
    over: Transport,
    /// What requests are spliced through.
    pipe: Option<(PipeReader, PipeWriter)>,
    ring: Option<Ring>,
}

/// As much as a process without privilege may have: each part of a request takes a page of it.
const PIPE: i32 = 1 << 20;
/// Room for any request that INIT may allow.
const LARGE_PIPE: i32 = 2 * PIPE;

impl DevFuse {
    pub(crate) fn open(over: Transport) -> io::Result<DevFuse> {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/fuse")?;
        DevFuse::of(file, over)
    }

    /// A device that was opened and handed over.
    pub(crate) fn of(file: File, over: Transport) -> io::Result<DevFuse> {
        let pipe = match over {
            Transport::Splice => Some(pipe_of(LARGE_PIPE).or_else(|_| pipe_of(PIPE))?),
            _ => None,
        };
        Ok(DevFuse { file, over, pipe, ring: None })
    }

    pub(crate) fn raw(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// read(2), whatever else the transport would do.
    pub(crate) fn read_plainly(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }

    /// The next request that comes by the device itself.
    fn read_device(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Transport)> {
        match (&mut self.pipe, self.over) {
            (Some((end, start)), _) => {
                let count = splice(&self.file, start, buffer.len(), 0)?;
                end.read_exact(&mut buffer[..count])?;
                Ok((count, self.over))
            }
            (None, Transport::Writev) => {
                let (header, rest) = buffer.split_at_mut(buffer.len().min(size_of::<fuse_in_header>()));
                let mut parts = [io::IoSliceMut::new(header), io::IoSliceMut::new(rest)];
                Ok((self.file.read_vectored(&mut parts)?, self.over))
            }
            // What the kernel does not send over io_uring.
            (None, Transport::IoUring) => Ok((self.file.read(buffer)?, Transport::Plain)),
            (None, _) => Ok((self.file.read(buffer)?, self.over)),
        }
    }

    fn take_from_ring(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.ring.as_mut().map_or(Ok(None), |ring| ring.take(buffer))
    }

    /// Its ring; one without entries if there was none.
    pub(crate) fn ring(&mut self) -> io::Result<&mut Ring> {
        match &mut self.ring {
            Some(ring) => Ok(ring),
            none => Ok(none.insert(Ring::new(&self.file)?)),
        }
    }

    /// What to wait on.
    pub(crate) fn as_file(&self) -> &File {
        &self.file
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
        check(exposed(|| unsafe { libc::ioctl(self.raw(), number, address) }))
    }
}

impl Device for DevFuse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Transport)> {
        if let Some(count) = self.take_from_ring(buffer)? {
            return Ok((count, Transport::IoUring));
        }
        match self.read_device(buffer) {
            // The kernel fills entries on our way out of a system call, such as the one just made.
            Err(error) => match self.take_from_ring(buffer)? {
                Some(count) => Ok((count, Transport::IoUring)),
                None => Err(error),
            },
            read => read,
        }
    }

    fn answer(&mut self, unique: u64, message: &[u8], via: Option<Via>) -> io::Result<usize> {
        let by_ring = match (&mut self.ring, via) {
            (Some(ring), None) => ring.answer(unique, message).map(|given| given.map(|()| message.len())),
            _ => None,
        };
        by_ring.unwrap_or_else(|| {
            let own = match self.over {
                Transport::Writev => Via::Writev,
                Transport::Splice => Via::Splice { pipe_has: message.len() },
                Transport::Plain | Transport::Clone | Transport::IoUring | Transport::Virtiofs => Via::Write,
            };
            self.write(message, via.unwrap_or(own))
        })
    }

    fn write(&mut self, message: &[u8], via: Via) -> io::Result<usize> {
        match via {
            Via::Write => exposed(|| self.file.write(message)),
            Via::Writev => {
                let (header, payload) = parts(message);
                let parts = [io::IoSlice::new(header), io::IoSlice::new(payload)];
                exposed(|| self.file.write_vectored(&parts))
            }
            Via::Splice { pipe_has } => {
                let (end, mut start) = pipe_of(pipe_has.max(1) as i32)?;
                let mut content = message.to_vec();
                content.resize(pipe_has, 0);
                start.write_all(&content)?;
                exposed(|| splice(&end, &self.file, message.len(), libc::SPLICE_F_NONBLOCK))
            }
            Via::Move => {
                // In packet mode each write gets pages of its own.
                let (end, start) =
                    nix::unistd::pipe2(OFlag::O_DIRECT | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
                fcntl(&start, FcntlArg::F_SETPIPE_SZ(PIPE))?;
                let mut start = File::from(start);
                let (header, payload) = parts(message);
                start.write_all(header)?;
                start.write_all(payload)?;
                let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
                exposed(|| splice(&end, &self.file, message.len(), flags))
            }
        }
    }

    fn backing_open(&mut self, map: fuse_backing_map) -> io::Result<i32> {
        backing_open(self.raw(), map)
    }

    fn backing_close(&mut self, id: u32) -> io::Result<()> {
        backing_close(self.raw(), id)
    }

    fn another(&self, over: Transport) -> io::Result<DevFuse> {
        let new = DevFuse::open(over)?;
        let old = self.raw() as u32;
        // SAFETY: the kernel reads four bytes, which live across the call.
        check(unsafe { libc::ioctl(new.raw(), CLONE, &raw const old) })?;
        Ok(new)
    }

    fn start_ring(&mut self, room: usize) -> io::Result<()> {
        let mut ring = Ring::new(&self.file)?;
        match ring.fill(room) {
            // The kernel made nothing of the answer that asked for it: requests come by the device, if at all.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTCONN)) => {}
            filled => {
                filled?;
                self.ring = Some(ring);
            }
        }
        Ok(())
    }

    fn waitables(&self) -> Vec<BorrowedFd<'_>> {
        let ring = self.ring.as_ref().map(Ring::waitable);
        std::iter::once(self.file.as_fd()).chain(ring).collect()
    }
}

/// A message to the kernel as its header and its payload.
fn parts(message: &[u8]) -> (&[u8], &[u8]) {
    message.split_at(message.len().min(size_of::<fuse_out_header>()))
}

/// A pipe with room for that many bytes.
fn pipe_of(size: i32) -> io::Result<(PipeReader, PipeWriter)> {
    let (end, start) = io::pipe()?;
    fcntl(&start, FcntlArg::F_SETPIPE_SZ(size))?;
    Ok((end, start))
}

fn splice(from: &impl AsRawFd, to: &impl AsRawFd, len: usize, flags: u32) -> io::Result<usize> {
    let null = std::ptr::null_mut();
    // SAFETY: without offsets there are no pointers.
    let moved = unsafe { libc::splice(from.as_raw_fd(), null, to.as_raw_fd(), null, len, flags) };
    if moved == -1 { Err(io::Error::last_os_error()) } else { Ok(moved as usize) }
}

/// Register an open file through a device that may be somebody else's.
pub(crate) fn backing_open(device: i32, map: fuse_backing_map) -> io::Result<i32> {
    // SAFETY: the kernel reads 16 bytes, which live across the call.
    check(exposed(|| unsafe { libc::ioctl(device, BACKING_OPEN, map.as_bytes().as_ptr()) }))
}

/// Give an id back, the same way.
pub(crate) fn backing_close(device: i32, id: u32) -> io::Result<()> {
    // SAFETY: the kernel reads four bytes, which live across the call.
    check(exposed(|| unsafe { libc::ioctl(device, BACKING_CLOSE, &raw const id) })).map(|_| ())
}

fn check(number: i32) -> io::Result<i32> {
    if number == -1 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_buffer_is_too_small_to_try_with() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), [7; 64]).expect("bytes in it");
        for (name, over) in Transport::ALL {
            for len in [0, 1, 39, 40, 41, 64] {
                let file = File::open(file.path()).expect("the file");
                let pipe = (over == Transport::Splice).then(|| pipe_of(4096).expect("a pipe"));
                let mut device = DevFuse { file, over, pipe, ring: None };
                let mut buffer = vec![0; len];
                assert_eq!(device.read(&mut buffer).expect("it is read").0, len, "over {name}");
                assert_eq!(buffer, vec![7; len], "over {name}");
            }
        }
    }
}
