//! The daemon's end of a virtio-fs device: requests come from its queues and answers go there, by way of a virtio port.
//!
//! There is no device file, so nothing that is done to one can be done here: no ioctl, no notification, no abort.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::mount::{MsFlags, mount};
use qemu::guest::Port;
use qemu::link::{Link, LinkError};
use zerocopy::FromBytes;

use super::device::{Device, Via};
use super::limits;
use super::stage::keep_dirty_pages;
use crate::abi::{Opcode, fuse_backing_map, fuse_in_header};
use crate::program::Transport;
use crate::protocol::{decode, encode};
use crate::relay::{DEVICES, FromDevice, ToDevice, port, tag};

/// Where the devices show that the kernel has found.
const FOUND: &str = "/sys/bus/virtio/drivers/virtiofs";
const RESCAN: &str = "/sys/bus/pci/rescan";

/// A device's queues.
pub(crate) struct Queues {
    link: Link<Port>,
    number: u8,
    /// Requests that came while something else was waited for.
    come: VecDeque<Vec<u8>>,
    unanswered: BTreeSet<u64>,
    /// Nothing more lies in the queues.
    looked: bool,
}

impl Queues {
    /// Serve the device of that daemon.
    pub(crate) fn open(number: u8) -> io::Result<Queues> {
        let port = qemu::guest::port(&port(number)).map_err(io::Error::other)?;
        let link = Link::new(port, limits::CALL);
        let mut queues =
            Queues { link, number, come: VecDeque::new(), unanswered: BTreeSet::new(), looked: false };
        queues.say(&ToDevice::Hello)?;
        // What was on its way to the one before is not for us: it comes again.
        while !matches!(queues.hear()?, FromDevice::Hello) {}
        Ok(queues)
    }

    /// What mounts it, also when somebody else serves it by then.
    pub(crate) fn mount(&self) -> Mount {
        Mount { tag: tag(self.number), devices: DEVICES }
    }

    /// The same where a machine has no other devices.
    pub(crate) fn only_mount(&self) -> Mount {
        Mount { devices: 1, ..self.mount() }
    }

    /// Answer a request; `used` is what the device says it has written, if not the truth.
    pub(crate) fn tell(&mut self, unique: u64, bytes: Vec<u8>, used: Option<u32>) -> io::Result<usize> {
        let unknown = || io::Error::from_raw_os_error(libc::ENOENT);
        if !self.unanswered.remove(&unique) {
            return Err(unknown());
        }
        self.say(&ToDevice::Answer { unique, bytes, used })?;
        match self.hear_back()? {
            FromDevice::Given(Some(count)) => Ok(count as usize),
            _ => Err(unknown()),
        }
    }

    fn say(&mut self, message: &ToDevice) -> io::Result<()> {
        self.link.send(&encode(message).map_err(io::Error::other)?)
    }

    fn hear(&mut self) -> io::Result<FromDevice> {
        let bytes = self.link.receive(limits::CALL).map_err(io::Error::other)?;
        decode(&bytes).map_err(io::Error::other)
    }

    /// A request that nobody has asked for, if one is there.
    fn overheard(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.link.receive(Duration::ZERO) {
            Ok(bytes) => match decode(&bytes).map_err(io::Error::other)? {
                FromDevice::Request(request) => Ok(Some(request)),
                _ => Err(io::ErrorKind::InvalidData.into()),
            },
            Err(LinkError::Silent(_)) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// The next thing it says that is no request.
    fn hear_back(&mut self) -> io::Result<FromDevice> {
        loop {
            match self.hear()? {
                FromDevice::Request(request) => self.come.push_back(request),
                other => return Ok(other),
            }
        }
    }
}

/// A device, as it is mounted.
pub(crate) struct Mount {
    tag: String,
    /// How many there are in the machine.
    devices: u8,
}

impl Mount {
    /// Mount it there, or what has another tag.
    pub(crate) fn at(&self, at: &Path, other: &str, options: &str) -> io::Result<()> {
        are_there(self.devices)?;
        let tag = if other.is_empty() { self.tag.as_str() } else { other };
        let options = Some(options).filter(|options| !options.is_empty());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some(tag), at, Some("virtiofs"), flags, options)?;
        keep_dirty_pages(at);
        Ok(())
    }
}

/// Wait until the kernel has found all devices: they are plugged in after it has started.
fn are_there(devices: u8) -> io::Result<()> {
    let found = || {
        let entries = fs::read_dir(FOUND).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("virtio")).count()
    };
    let until = Instant::now() + limits::CALL;
    while found() < usize::from(devices) {
        if Instant::now() > until {
            return Err(io::Error::other("the kernel does not find its virtio-fs devices"));
        }
        // A kernel that is told of none looks when it is asked to.
        let _ = fs::write(RESCAN, "1");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Device for Queues {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Transport)> {
        loop {
            if let Some(request) = self.come.pop_front() {
                self.looked = false;
                let (header, _) = fuse_in_header::read_from_prefix(&request)
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                let room = buffer.get_mut(..request.len()).ok_or(io::ErrorKind::InvalidInput)?;
                room.copy_from_slice(&request);
                if !Opcode(header.opcode).has_no_reply() {
                    self.unanswered.insert(header.unique);
                }
                return Ok((request.len(), Transport::Virtiofs));
            }
            // What was read from the port and not handed out would not wake anybody.
            if let Some(request) = self.overheard()? {
                self.come.push_back(request);
                continue;
            }
            if std::mem::replace(&mut self.looked, true) {
                self.looked = false;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.say(&ToDevice::Look)?;
            self.hear_back()?;
        }
    }

    fn answer(&mut self, unique: u64, message: &[u8], _: Option<Via>) -> io::Result<usize> {
        self.tell(unique, message.to_vec(), None)
    }

    fn write(&mut self, _: &[u8], _: Via) -> io::Result<usize> {
        Err(none())
    }

    fn backing_open(&mut self, _: fuse_backing_map) -> io::Result<i32> {
        Err(none())
    }

    fn backing_close(&mut self, _: u32) -> io::Result<()> {
        Err(none())
    }

    fn another(&self, _: Transport) -> io::Result<Queues> {
        Err(none())
    }

    fn start_ring(&mut self, _: usize) -> io::Result<()> {
        Err(none())
    }

    fn waitables(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.link.waitable()]
    }
}

/// What asks a device file for something gets this, as there is none.
fn none() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOTTY)
}
