//! What a call on the device carries: looked at before it, after it, or both.

use std::collections::BTreeSet;

use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{getregs, setregs};
use nix::unistd::Pid;
use zerocopy::FromBytes;

use super::super::launch::Fault;
use super::super::trace::{Cut, Event, Lower};
use super::device::{self, Devices};
use super::filter::CALLS;
use super::memory;
use super::tracer::{Book, Go};
use crate::abi::{Opcode, fuse_backing_map, fuse_in_header, fuse_out_header};

/// What is kept of a message: its fixed part and two names.
const KEPT: usize = 1 << 10;
/// What is kept of a listing, which gives files their numbers.
const KEPT_OF_LISTING: usize = 64 << 10;

/// `include/uapi/linux/fuse.h`: FUSE_DEV_IOC_CLONE, FUSE_DEV_IOC_BACKING_OPEN, FUSE_DEV_IOC_BACKING_CLOSE.
const CLONE: u64 = 0x8004_e500;
const BACKING_OPEN: u64 = 0x4010_e501;
const BACKING_CLOSE: u64 = 0x4004_e502;

/// A call that a thread is in.
pub(super) enum Pending {
    /// Reads a request into these parts.
    Request {
        device: u32,
        parts: Vec<(u64, u64)>,
    },
    /// Moves a request into that pipe.
    Piped {
        device: u32,
        pipe: i32,
    },
    Open {
        device: u32,
        file: Option<Lower>,
        rest: (u32, u64),
        fsuid: u32,
        refused: Option<i32>,
    },
    Clone {
        device: u32,
        from: u32,
    },
    /// Was told when it began.
    Told(u32),
}

pub(super) struct Calls {
    faults: Vec<Fault>,
    devices: Devices,
    /// Calls that were told when they began.
    told: u32,
    /// BACKING_OPENs.
    opened: u32,
    /// Requests whose replies give files their numbers.
    listings: BTreeSet<u64>,
}

impl Calls {
    pub(super) fn new(faults: &[Fault]) -> Calls {
        Calls {
            faults: faults.to_vec(),
            devices: Devices::default(),
            told: 0,
            opened: 0,
            listings: BTreeSet::new(),
        }
    }

    /// Without a filter: is the call that the thread is about to make one of those that would stop?
    pub(super) fn may_carry(&self, task: Pid) -> nix::Result<bool> {
        Ok(CALLS.contains(&(getregs(task)?.orig_rax as i64)))
    }

    /// A process has made another.
    pub(super) fn forked(&mut self, parent: i32, child: i32) {
        self.devices.forked(parent, child);
    }

    /// A thread is about to make a call.
    pub(super) fn entered(
        &mut self,
        task: Pid,
        process: i32,
        book: &mut Book,
    ) -> nix::Result<(Go, Option<Pending>)> {
        let regs = getregs(task)?;
        let (fd, second, third) = (regs.rdi as i32, regs.rsi, regs.rdx);
        let call = regs.orig_rax as i64;
        if call == libc::SYS_io_uring_setup {
            book.add(task.as_raw(), Event::Ring);
            return Ok((Go::On, None));
        }
        let pending = match (self.devices.number(task, process, fd), call) {
            (Some(device), libc::SYS_read) => Some(Pending::Request { device, parts: vec![(second, third)] }),
            (Some(device), libc::SYS_readv | libc::SYS_preadv | libc::SYS_preadv2) => {
                Some(Pending::Request { device, parts: memory::parts(task, second, third) })
            }
            (Some(device), libc::SYS_write) => {
                let cut = |keep| memory::gathered(task, &[(second, third)], third, keep);
                Some(self.reply(task, device, cut, book))
            }
            (Some(device), libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2) => {
                let parts = memory::parts(task, second, third);
                let len = parts.iter().fold(0, |len: u64, (_, part)| len.saturating_add(*part));
                Some(self.reply(task, device, |keep| memory::gathered(task, &parts, len, keep), book))
            }
            (Some(device), libc::SYS_splice) => Some(Pending::Piped { device, pipe: third as i32 }),
            (Some(device), libc::SYS_ioctl) => self.ioctl(task, process, device, &regs, book)?,
            (None, libc::SYS_splice) => self.devices.number(task, process, third as i32).map(|device| {
                if let Err(error) = memory::piped(task, fd, regs.r8, true, KEPT) {
                    book.blind(&format!("a reply comes from a pipe that cannot be looked into: {error}"));
                }
                let cut = |keep| memory::piped(task, fd, regs.r8, true, keep).unwrap_or_default();
                self.reply(task, device, cut, book)
            }),
            _ => None,
        };
        Ok((if pending.is_some() { Go::ToExit } else { Go::On }, pending))
    }

    fn reply(&mut self, task: Pid, device: u32, cut: impl Fn(usize) -> Cut, book: &mut Book) -> Pending {
        let mut message = cut(KEPT);
        if let Ok((header, _)) = fuse_out_header::read_from_prefix(&message.head)
            && self.listings.remove(&header.unique)
        {
            message = cut(KEPT_OF_LISTING);
        }
        let call = self.tell();
        book.add(task.as_raw(), Event::Reply { call, device, message });
        Pending::Told(call)
    }

    fn tell(&mut self) -> u32 {
        self.told += 1;
        self.told
    }

    fn ioctl(
        &mut self,
        task: Pid,
        process: i32,
        device: u32,
        regs: &user_regs_struct,
        book: &mut Book,
    ) -> nix::Result<Option<Pending>> {
        let number = || {
            let bytes = memory::bytes(task, regs.rdx, 4);
            bytes.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))
        };
        Ok(match regs.rsi & 0xffff_ffff {
            BACKING_OPEN => {
                let argument = memory::bytes(task, regs.rdx, size_of::<fuse_backing_map>());
                let map = fuse_backing_map::read_from_bytes(&argument).ok();
                let file = map.and_then(|map| device::lower(task, map.fd));
                let rest = map.map_or((0, 0), |map| (map.flags, map.padding));
                let fault = self.faults.iter().find(|fault| fault.which.is(self.opened));
                self.opened += 1;
                let refused = fault.map(|fault| fault.errno);
                if refused.is_some() {
                    // No such call: it is not made, and what it gives is put in place when it is over.
                    setregs(task, user_regs_struct { orig_rax: u64::MAX, ..*regs })?;
                }
                Some(Pending::Open { device, file, rest, fsuid: device::fsuid(task), refused })
            }
            BACKING_CLOSE => {
                let call = self.tell();
                book.add(task.as_raw(), Event::BackingClose { call, device, id: number() });
                Some(Pending::Told(call))
            }
            CLONE => {
                let from = number().and_then(|fd| self.devices.number(task, process, fd as i32));
                from.map(|from| Pending::Clone { device, from })
            }
            _ => None,
        })
    }

    /// The call is over.
    pub(super) fn left(&mut self, task: Pid, pending: Pending, book: &mut Book) -> nix::Result<()> {
        let regs = getregs(task)?;
        let result = regs.rax as i64;
        let event = match pending {
            Pending::Request { device, .. } | Pending::Piped { device, .. } if result <= 0 => {
                no_request(device, result)
            }
            Pending::Request { device, parts } => {
                Some(self.request(device, memory::gathered(task, &parts, result as u64, KEPT)))
            }
            Pending::Piped { device, pipe } => {
                let message = memory::piped(task, pipe, result as u64, false, KEPT);
                Some(match message {
                    Ok(message) => self.request(device, message),
                    Err(error) => Event::Blind(format!(
                        "a request went into a pipe that cannot be looked into: {error}"
                    )),
                })
            }
            Pending::Open { device, file, rest, fsuid, refused } => {
                let result = refused.map_or(result, |errno| i64::from(-errno));
                if refused.is_some() {
                    setregs(task, user_regs_struct { rax: result as u64, ..regs })?;
                }
                let injected = refused.is_some();
                Some(Event::BackingOpen { device, file, rest, fsuid, result: result as i32, injected })
            }
            Pending::Clone { device, from } => (result == 0).then_some(Event::Cloned { from, device }),
            Pending::Told(call) => Some(Event::Returned { call, result }),
        };
        if let Some(event) = event {
            book.add(task.as_raw(), event);
        }
        Ok(())
    }

    fn request(&mut self, device: u32, message: Cut) -> Event {
        if let Ok((header, _)) = fuse_in_header::read_from_prefix(&message.head)
            && Opcode(header.opcode) == Opcode::READDIRPLUS
        {
            self.listings.insert(header.unique);
        }
        Event::Request { device, message }
    }
}

/// A read that brought nothing; that it would have to wait, or was interrupted, is not worth telling.
fn no_request(device: u32, result: i64) -> Option<Event> {
    /// `include/linux/errno.h`: errnos from here on never leave the kernel, they ask for a restart.
    const RESTARTS: i64 = 512;
    let errno = -result;
    let idle = [0, libc::EAGAIN, libc::EINTR, libc::ENOENT].map(i64::from).contains(&errno);
    (!idle && errno < RESTARTS).then_some(Event::NoRequest { device, errno: errno as i32 })
}
