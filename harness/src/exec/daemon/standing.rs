//! The daemon of mounts that stay: it serves one program after the other, and one mount after the other. What it is told, and what it has to tell, lies
//! in memory that it shares with whoever runs the programs.
//!
//! When a call of a program returns, it has told what it received: whoever runs programs has to leave it the processor
//! first.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::{Deserialize, Serialize};

use super::super::device::{DevFuse, Device};
use super::super::mailbox::Mailbox;
use super::engine::{Engine, Rule};
use crate::abi::Opcode;
use crate::program::{Reply, Times, Transport};
use crate::protocol::Traffic;

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// A new mount: its device comes with the bell.
    Serve {
        /// The files it shows.
        lower: PathBuf,
        /// What carries requests and answers.
        over: Transport,
    },
    /// The mount is over: let go of its device.
    Leave,
    /// A new program: forget files, rules and held requests.
    Fresh,
    /// A rule for requests to come.
    Rule { times: Times, opcode: Opcode, path: Option<String>, reply: Reply },
    /// Leave the device alone, or read it again.
    Pause(bool),
    /// Deal with a held request.
    Answer { held: String, reply: Reply },
}

/// What it tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// A request, and what became of it.
    Served(Traffic),
    /// What came of [`Order::Answer`], as an errno, 0 for success; `None` if nothing is held by that name.
    Answered(Option<i32>),
    /// Its first word: from here on it serves.
    Begins,
    /// Its last word: why it ends.
    Ends(String),
}

/// Serve the device that comes with the bell, until nobody is left who could ring that. The device has to be one that reads
/// wait for, unless requests come over io_uring, too.
///
/// An order is looked at before the next request is served. The bell has one looked at now: that is heard while a request is
/// held, and while there is no connection. So has a signal, which is heard always.
///
/// # Errors
/// The bell broke, or the words found no room.
pub(crate) fn stand(bell: &UnixStream, orders: &Mailbox, words: &Mailbox) -> io::Result<()> {
    let mut engine: Engine<DevFuse> = Engine::new(1, PathBuf::new());
    words.put(&Word::Begins)?;
    let mut is_connected = false;
    loop {
        // A ring is waited on, a device is read.
        let is_read = engine.transport != Transport::IoUring;
        let is_ready = if is_connected && is_read && engine.holds_nothing() && !engine.paused {
            true
        } else {
            let device = engine.devices.iter().flatten().flat_map(Device::waitables);
            let waits =
                std::iter::once(bell.as_fd()).chain(device.filter(|_| is_connected && !engine.paused));
            let mut waits: Vec<PollFd<'_>> = waits.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match poll(&mut waits, PollTimeout::NONE) {
                Err(Errno::EINTR) => {
                    obey(&mut engine, orders, words)?;
                    continue;
                }
                polled => _ = polled?,
            }
            let mut is_ready = waits.iter().map(|wait| wait.any() == Some(true));
            let (is_rung, has_request) = (is_ready.next() == Some(true), is_ready.any(|is_ready| is_ready));
            if is_rung {
                let Some(device) = heard(bell)? else { return Ok(()) };
                obey(&mut engine, orders, words)?;
                // It is mounted when the bell rings next.
                is_connected = device.is_none() && !engine.devices.is_empty();
                if let Some(device) = device {
                    engine.devices.push(Some(DevFuse::of(device.into(), engine.transport)?));
                }
            }
            has_request
        };
        if !is_ready {
            continue;
        }
        // A ring may bring several at once, and says so once.
        loop {
            match engine.receive(0) {
                Ok((request, over)) => {
                    obey(&mut engine, orders, words)?;
                    engine.handle(request, over, &|_| None);
                    for traffic in engine.take_log() {
                        words.put(&Word::Served(traffic))?;
                    }
                }
                // The request was given up while it was read, or there is none (any more).
                Err(error) if is_passing(&error) => {
                    obey(&mut engine, orders, words)?;
                    break;
                }
                // Not mounted yet, or over.
                Err(_) => {
                    is_connected = false;
                    break;
                }
            }
            if is_read || engine.paused {
                break;
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::EAGAIN))
}

/// The bell rang: `None` if it never will again, and else the device that came with it, if one did.
fn heard(bell: &UnixStream) -> io::Result<Option<Option<OwnedFd>>> {
    let (mut byte, mut room) = ([0], nix::cmsg_space!([i32; 1]));
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(bell.as_raw_fd(), &mut bytes, Some(&mut room), MsgFlags::empty())?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let device = message.cmsgs()?.find_map(|message| match message {
        // SAFETY: it came with this message, so nobody else owns it.
        ControlMessageOwned::ScmRights(fds) => fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }),
        _ => None,
    });
    Ok(Some(device))
}

/// Do what was ordered meanwhile.
fn obey(engine: &mut Engine<DevFuse>, orders: &Mailbox, words: &Mailbox) -> io::Result<()> {
    while let Some(order) = orders.take() {
        match order {
            Order::Serve { lower, over } => engine.serve(lower, over),
            Order::Leave => engine.devices.clear(),
            Order::Fresh => engine.forget(),
            Order::Pause(is_paused) => engine.paused = is_paused,
            Order::Rule { times, opcode, path, reply } => {
                engine.add_rule(Rule { times, opcode, path, reply, text: String::new() });
            }
            Order::Answer { held, reply } => {
                let answered = engine.answer_held(&held, &reply, &|_| None);
                // What came too early for its request must not hold up a call that nobody started.
                engine.disarm(&held);
                words.put(&Word::Answered(answered))?;
            }
        }
    }
    Ok(())
}
