//! What a daemon serves: a device file, or the queues of a virtio-fs device.

use std::io;
use std::os::fd::BorrowedFd;

use super::super::device::{DevFuse, Device, Via};
use super::super::queues::Queues;
use crate::abi::fuse_backing_map;
use crate::program::Transport;

/// One of the two.
pub(super) enum Channel {
    File(Box<DevFuse>),
    Queues(Box<Queues>),
}

impl Channel {
    /// The file, if it is one.
    pub(super) fn file(&mut self) -> Option<&mut DevFuse> {
        match self {
            Channel::File(device) => Some(device),
            Channel::Queues(_) => None,
        }
    }

    fn either(&mut self) -> &mut dyn Device {
        match self {
            Channel::File(device) => device.as_mut(),
            Channel::Queues(queues) => queues.as_mut(),
        }
    }
}

impl From<DevFuse> for Channel {
    fn from(device: DevFuse) -> Channel {
        Channel::File(Box::new(device))
    }
}

impl Device for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Transport)> {
        self.either().read(buffer)
    }

    fn answer(&mut self, unique: u64, message: &[u8], via: Option<Via>) -> io::Result<usize> {
        self.either().answer(unique, message, via)
    }

    fn write(&mut self, message: &[u8], via: Via) -> io::Result<usize> {
        self.either().write(message, via)
    }

    fn backing_open(&mut self, map: fuse_backing_map) -> io::Result<i32> {
        self.either().backing_open(map)
    }

    fn backing_close(&mut self, id: u32) -> io::Result<()> {
        self.either().backing_close(id)
    }

    fn another(&self, over: Transport) -> io::Result<Channel> {
        match self {
            Channel::File(device) => device.another(over).map(Channel::from),
            Channel::Queues(queues) => queues.another(over).map(|queues| Channel::Queues(Box::new(queues))),
        }
    }

    fn start_ring(&mut self, room: usize) -> io::Result<()> {
        self.either().start_ring(room)
    }

    fn waitables(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Channel::File(device) => device.waitables(),
            Channel::Queues(queues) => queues.waitables(),
        }
    }
}
