//! The daemon's process: serves its devices and does what the conductor asks, one thing at a time.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::actor::{Ask, Say, suffer};
use super::super::calls::{Holdings, content, failed, handle_signals, last_errno, observed};
use super::super::conductor::mount_name;
use super::super::device::{DevFuse, Device};
use super::super::pipe::{Pipe, ready};
use super::super::queues::Queues;
use super::super::ring::{self, Part, ROOM, Shape};
use super::super::stage::mount_fuse;
use super::super::{fault, limits, loopdev};
use super::channel::Channel;
use super::engine::{Engine, Rule};
use super::send::spelled;
use crate::program::{Call, Observed, Transport};
use crate::protocol::Traffic;

/// Serve until the conductor goes away or a rule says `die`.
pub(crate) fn serve(number: u8, base: PathBuf, root: String, mut pipe: Pipe) {
    if handle_signals().is_err() {
        return;
    }
    let mut daemon = Daemon::new(number, &base, &root);
    loop {
        let mut waits = vec![PollFd::new(pipe.stream().as_fd(), PollFlags::POLLIN)];
        let devices = daemon.engine.devices.iter().flatten().flat_map(Device::waitables);
        let devices = devices.filter(|_| !daemon.engine.paused);
        waits.extend(devices.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = if pipe.holds_message() { PollTimeout::ZERO } else { PollTimeout::NONE };
        if let Err(nix::errno::Errno::EINTR) = poll(&mut waits, timeout) {
            continue;
        }
        let asked = pipe.holds_message() || waits[0].revents().is_some_and(|events| !events.is_empty());
        // A device without a connection is always "ready" with an error; do not spin on it.
        let only_errors = !asked
            && !waits[1..].iter().any(|wait| wait.revents().is_some_and(|e| e.contains(PollFlags::POLLIN)));
        drop(waits);
        daemon.pump();
        if daemon.engine.dead {
            let _ = pipe.send(&Say::Log(daemon.engine.take_log()));
            return;
        }
        if only_errors && !pipe.ready(Duration::from_secs(3600)) {
            return;
        }
        if asked || only_errors {
            let Ok(ask) = pipe.receive::<Ask>() else { return };
            if matches!(ask, Ask::Begin { .. }) && pipe.send(&Say::Begun).is_err() {
                return;
            }
            let ends = matches!(&ask, Ask::Do { call, .. } if call.name == "exit");
            let say = if let Ask::Reset = ask {
                let Daemon { engine, first, mut holdings, .. } = daemon;
                let had_ring = engine.had_ring;
                drop((engine, first));
                if had_ring || !holdings.let_go() {
                    return;
                }
                daemon = Daemon::new(number, &base, &root);
                Say::Fresh
            } else {
                daemon.obey(ask)
            };
            if pipe.send(&say).is_err() || ends {
                return;
            }
        }
    }
}

struct Daemon {
    engine: Engine<Channel>,
    holdings: Holdings,
    /// Under a clone that serves its requests: the device that was mounted, open and not read.
    first: Option<Channel>,
    /// Which device ioctls go to.
    ioctl_on: usize,
    number: u8,
}

impl Daemon {
    fn new(number: u8, base: &Path, root: &str) -> Daemon {
        Daemon {
            engine: Engine::new(number, base.join(root)),
            holdings: Holdings::new(base.to_path_buf(), root.to_string()),
            first: None,
            ioctl_on: 0,
            number,
        }
    }

    fn pump(&mut self) -> usize {
        let numbers = &self.holdings.numbers;
        self.engine.pump(&|name| numbers.get(name).copied())
    }

    fn obey(&mut self, ask: Ask) -> Say {
        let observed = match ask {
            Ask::Failing(nth, ask) => {
                if let Ask::Answer { held, .. } = &*ask {
                    // What comes before it is not to fail.
                    self.wait_until_held(held);
                }
                suffer(nth, || self.done(*ask))
            }
            Ask::Struck => return Say::Struck(fault::struck()),
            Ask::Log => return Say::Log(self.log()),
            Ask::LeftOver => return Say::LeftOver(self.engine.left_over()),
            Ask::Number(name) => return Say::Number(self.holdings.numbers.get(&name).copied()),
            other => self.done(other),
        };
        Say::Done(observed, self.log())
    }

    /// What came of it, where that is an outcome.
    fn done(&mut self, ask: Ask) -> Observed {
        match ask {
            Ask::Do { call, bind } | Ask::Begin { call, bind } => self.perform(&call, bind.as_deref()),
            Ask::Rule { times, opcode, path, reply, text } => {
                self.engine.add_rule(Rule { times, opcode, path, reply, text });
                Observed::Int(0)
            }
            Ask::GiveUp => {
                self.engine.give_up();
                Observed::Int(0)
            }
            Ask::Over(transport) => {
                self.engine.transport = transport;
                Observed::Int(0)
            }
            Ask::Answer { held, reply } => {
                self.wait_until_held(&held);
                let numbers = &self.holdings.numbers;
                match self.engine.answer_held(&held, &reply, &|name| numbers.get(name).copied()) {
                    None => Observed::Impossible(format!("no request came that could be held as `{held}`")),
                    Some(0) => Observed::Int(0),
                    Some(errno) => Observed::Errno(errno),
                }
            }
            _ => Observed::Impossible("not in the middle of something".into()),
        }
    }

    /// What was received since the last time, now that everything pending is served.
    fn log(&mut self) -> Vec<Traffic> {
        self.pump();
        self.engine.take_log()
    }

    /// Serve until such a request is held, or until it is clear that none ever will be.
    fn wait_until_held(&mut self, name: &str) {
        let until = Instant::now() + limits::SETTLE;
        while !self.engine.is_held(name) && Instant::now() < until {
            if self.pump() == 0 && !self.watch(Duration::from_millis(5)) {
                return;
            }
        }
    }

    /// Wait for something to come over the first device, at most so long. Says whether there is one.
    fn watch(&self, within: Duration) -> bool {
        let first = self.engine.devices.iter().flatten().next().map(Device::waitables);
        first.and_then(|fds| Some(ready(fds.first()?, within))).is_some()
    }

    fn perform(&mut self, call: &Call, bind: Option<&str>) -> Observed {
        let uniques = self.engine.uniques.iter().map(|(name, unique)| (name.clone(), *unique));
        self.holdings.numbers.extend(uniques);
        let number = |daemon: &Daemon, name: &str, default: i64| daemon.holdings.number(call, name, default);
        let done = match call.name.as_str() {
            "open_device" => Ok(self.open_device()),
            "mount" => Ok(self.mount(call)),
            "device" => self.name_device(bind),
            word @ ("pause" | "serve") => {
                self.engine.paused = word == "pause";
                Ok(Observed::Int(0))
            }
            "take_request" => number(self, "len", 0).map(|len| {
                let (numbers, engine) = (&self.holdings.numbers, &mut self.engine);
                let len = len.clamp(0, 1 << 20) as usize;
                observed(engine.take(self.ioctl_on, len, &|name| numbers.get(name).copied()))
            }),
            "clone_device" => self.clone_device(),
            "use_clone" => {
                self.ioctl_on = self.engine.devices.len().saturating_sub(1);
                Ok(Observed::Int(0))
            }
            "close_device" => Ok(self.close_device(call.text("which"))),
            "backing_open" if call.arg("device").is_none() => {
                self.holdings.backing_map(call).and_then(|map| {
                    let opened = self.channel()?.backing_open(map).map(i64::from);
                    if let (Ok(id), Some(name)) = (&opened, bind) {
                        self.holdings.numbers.insert(name.to_string(), *id);
                    }
                    Ok(observed(opened))
                })
            }
            "backing_open_many" => self.holdings.backing_map(call).and_then(|map| {
                let (threads, each) = (number(self, "threads", 1)?, number(self, "each", 1)?);
                let (threads, each) = (threads.clamp(1, 8) as usize, each.clamp(0, 10_000) as usize);
                Ok(observed(self.device()?.backing_open_many(map, threads, each).map(|count| count as i64)))
            }),
            "backing_close" => number(self, "id", 0)
                .and_then(|id| Ok(observed(self.channel()?.backing_close(id as u32).map(|()| 0)))),
            "device_ioctl" => number(self, "number", 0).and_then(|number| {
                // The first page is never mapped, and neither is the last below the kernel's half.
                let address = if call.text("argument") == "null" { 0 } else { 0x7fff_ffff_e000 };
                Ok(observed(self.device()?.ioctl(number as u64, address).map(i64::from)))
            }),
            "send" => self.send(call),
            "read_device" => number(self, "len", 0).and_then(|len| {
                let mut buffer = vec![0; len.clamp(0, 1 << 21) as usize];
                let read = self.device()?.read_plainly(&mut buffer);
                Ok(content(read.map(|count| {
                    buffer.truncate(count);
                    buffer
                })))
            }),
            "poll_device" => self.poll_device(),
            "exit" => Ok(Observed::Int(0)),
            word if word.starts_with("ring_") => self.ring_call(call),
            _ => Ok(self.holdings.perform(call, bind)),
        };
        done.unwrap_or_else(Observed::Impossible)
    }

    fn channel(&mut self) -> Result<&mut Channel, String> {
        let channel = self.engine.devices.get_mut(self.ioctl_on).and_then(Option::as_mut);
        channel.ok_or_else(|| "this daemon has no open device".to_string())
    }

    fn device(&mut self) -> Result<&mut DevFuse, String> {
        self.channel()?.file().ok_or_else(|| "virtio-fs has no device file".to_string())
    }

    fn name_device(&mut self, bind: Option<&str>) -> Result<Observed, String> {
        // SAFETY: plain system call on a number.
        let fd = unsafe { nix::libc::dup(self.device()?.raw()) };
        if fd == -1 {
            return Ok(Observed::Errno(last_errno()));
        }
        if let Some(name) = bind {
            self.holdings.numbers.insert(name.to_string(), fd.into());
        }
        Ok(Observed::Int(fd.into()))
    }

    fn open_device(&mut self) -> Observed {
        // Whether a clone serves is shown by the clone.
        let over = Some(self.engine.transport).filter(|transport| *transport != Transport::Clone);
        let device = DevFuse::open(over.unwrap_or_default());
        self.with_device(device)
    }

    /// One device more, if it could be had.
    fn with_device(&mut self, device: io::Result<DevFuse>) -> Observed {
        observed(device.map(|device| {
            self.engine.devices.push(Some(device.into()));
            0
        }))
    }

    fn mount(&mut self, call: &Call) -> Observed {
        if let Some(over) = Transport::parse(call.text("over")) {
            self.engine.transport = over;
        }
        if self.engine.transport == Transport::Virtiofs {
            return self.mount_queues(call);
        }
        if self.engine.devices.is_empty() {
            match self.open_device() {
                Observed::Int(_) => {}
                failed => return failed,
            }
        }
        let Ok(fd) = self.device().map(|device| device.raw()) else {
            return Observed::Impossible("the device is closed".into());
        };
        let target = self.target(call);
        let required = [
            ("fd", fd.to_string()),
            ("rootmode", "40000".into()),
            ("user_id", "0".into()),
            ("group_id", "0".into()),
        ];
        let given = required.iter().filter(|(name, _)| *name != call.text("without"));
        let mut options: String = given.map(|(name, value)| format!("{name}={value},")).collect();
        options.push_str("allow_other");
        let extra = String::from_utf8_lossy(&call.data("options").0).into_owned();
        if !extra.is_empty() {
            options = format!("{options},{extra}");
        }
        let (kind, source, _device) = match call.text("kind") {
            "" => ("fuse", PathBuf::from("fuseproof"), None),
            kind => match self.block_device() {
                Ok((path, device)) => (kind, path, Some(device)),
                Err(error) => return failed(&error),
            },
        };
        if let Err(errno) = mount_fuse(kind, &source, &target, &options) {
            return Observed::Errno(errno as i32);
        }
        if self.engine.transport == Transport::Clone
            && let Err(error) = self.serve_on_a_clone()
        {
            return failed(&error);
        }
        self.serve_init();
        Observed::Int(0)
    }

    /// Where a mount goes.
    fn target(&self, call: &Call) -> PathBuf {
        match call.text("on") {
            "" => self.mount_point(),
            path => self.holdings.path(path),
        }
    }

    fn mount_queues(&mut self, call: &Call) -> Observed {
        let given = |name| String::from_utf8_lossy(&call.data(name).0).into_owned();
        // Who mounts again serves again: only one can.
        self.engine.devices.clear();
        let mounted = Queues::open(self.number).and_then(|queues| {
            queues.mount().at(&self.target(call), &given("tag"), &given("options"))?;
            self.engine.devices.push(Some(Channel::Queues(Box::new(queues))));
            Ok(())
        });
        match mounted {
            Ok(()) => {
                self.serve_init();
                Observed::Int(0)
            }
            Err(error) => failed(&error),
        }
    }

    /// Serve the mount's first request, unless the daemon is told not to.
    fn serve_init(&mut self) {
        if self.engine.paused {
            return;
        }
        // INIT is on its way; with its answer the connection is what the script made of it.
        let until = Instant::now() + limits::SETTLE;
        while self.pump() == 0 && Instant::now() < until {
            if !self.watch(Duration::from_millis(100)) {
                break;
            }
        }
    }

    /// A small one, for a fuseblk mount: nothing looks at what is on it.
    fn block_device(&self) -> io::Result<(PathBuf, File)> {
        let image = self.holdings.base.join(format!("images/{}", mount_name(self.number)));
        File::create_new(&image)?.set_len(1 << 20)?;
        loopdev::attach(&image)
    }

    /// From here on the first device is a clone of what it was.
    fn serve_on_a_clone(&mut self) -> io::Result<()> {
        if let Some(Some(channel)) = self.engine.devices.first_mut() {
            let clone = channel.another(Transport::Clone)?;
            self.first = Some(std::mem::replace(channel, clone));
        }
        Ok(())
    }

    fn clone_device(&mut self) -> Result<Observed, String> {
        let over = self.engine.transport;
        let device = self.device()?.another(over);
        Ok(self.with_device(device))
    }

    fn close_device(&mut self, which: &str) -> Observed {
        self.first = None;
        let last = self.engine.devices.len().saturating_sub(1);
        for (index, device) in self.engine.devices.iter_mut().enumerate() {
            let meant = match which {
                "first" => index == 0,
                "clone" => index == last && index > 0,
                _ => true,
            };
            if meant {
                *device = None;
            }
        }
        if self.engine.had_ring && self.engine.devices.iter().all(Option::is_none) {
            return ring::outlive(&self.mount_point());
        }
        Observed::Int(0)
    }

    fn mount_point(&self) -> PathBuf {
        self.holdings.base.join(mount_name(self.number))
    }

    fn send(&mut self, call: &Call) -> Result<Observed, String> {
        let (bytes, via) = spelled(&self.holdings, call)?;
        let message = match call.arg("map") {
            Some(_) => self.holdings.lay_into_map(call, &bytes)?,
            None => &bytes,
        };
        Ok(observed(self.engine.send(self.ioctl_on, message, via).map(|count| count as i64)))
    }

    /// One command of FUSE over io_uring, right or wrong.
    fn ring_call(&mut self, call: &Call) -> Result<Observed, String> {
        let number = |name, default| self.holdings.number(call, name, default);
        let given = |name| call.arg(name).map(|_| number(name, 0)).transpose();
        let right = Shape::right(0, ROOM);
        let queue = given("queue")?.map(|queue| queue as u16);
        let (headers, payload) =
            (number("headers", right.headers as i64)?, number("payload", right.payload as i64)?);
        let (headers, payload) = (headers.clamp(0, 4096) as usize, payload.clamp(0, ROOM as i64) as usize);
        let buffer = given("buffer")?.map(|index| index as u16);
        let (flags, id) = (number("flags", 0)? as u64, number("id", 0)? as u64);
        let (len, reserved) = (number("len", ROOM as i64)?, number("reserved", 0)? as u32);
        // The kernel writes to an entry's memory as long as the process lives.
        self.engine.had_ring = true;
        let ring = match self.device()?.ring() {
            Ok(ring) => ring,
            Err(error) => return Ok(observed(Err(error))),
        };
        let done = match call.name.as_str() {
            "ring_register" if call.arg("submission").is_some() => ring.register_shortly(),
            "ring_register" => {
                let queues = match queue {
                    Some(queue) => Ok(queue..=queue),
                    None => ring::possible_processors().map(|count| 0..=count as u16 - 1),
                };
                queues.and_then(|mut queues| {
                    queues.try_for_each(|queue| ring.register(Shape { queue, headers, payload, buffer }))
                })
            }
            "ring_commit" => ring.commit(queue.unwrap_or(0), id),
            "ring_add_queue" => ring.add_queue(queue.unwrap_or(0), flags),
            "ring_add_pool" => {
                let len = len.clamp(0, ROOM as i64) as usize;
                ring.add_pool(queue.unwrap_or(0), flags, len, reserved, buffer)
            }
            _ => {
                let part = if call.text("part") == "headers" { Part::Headers } else { Part::Payload };
                if !ring.hide(id, part) {
                    return Err("this request lies in no entry of the ring".into());
                }
                Ok(())
            }
        };
        Ok(observed(done.map(|()| 0)))
    }

    fn poll_device(&mut self) -> Result<Observed, String> {
        let mut fds = [nix::libc::pollfd { fd: self.device()?.raw(), events: !0, revents: 0 }];
        // SAFETY: one entry, which lives across the call.
        let number = unsafe { nix::libc::poll(fds.as_mut_ptr(), 1, 0) };
        Ok(match number {
            -1 => Observed::Errno(last_errno()),
            _ => Observed::Fields(vec![("revents".into(), i128::from(fds[0].revents))]),
        })
    }
}
