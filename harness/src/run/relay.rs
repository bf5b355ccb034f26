//! The virtio-fs device of a daemon in a guest: what the kernel puts into its queues goes to the daemon, and the answers go back.
//!
//! It judges nothing and changes nothing. Requests without room for an answer (FORGET) are given back as they are handed on.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use qemu::link::Link;
use qemu::machine::{self, Machine, Plug};
use qemu::vhost_user::{Device, Request};
use serde_json::json;
use zerocopy::FromBytes;

use crate::abi::fuse_in_header;
use crate::protocol::{decode, encode};
use crate::relay::{FromDevice, ToDevice, port, tag};

/// The queue of FORGETs, and one of everything else.
const QUEUES: usize = 2;
/// How long a guest may take to read what is for it: as long as it has not much else to do.
const PATIENCE: Duration = Duration::from_secs(40);

/// Why a machine has no virtio-fs device.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The system has no socket or thread to give.
    #[error("cannot start a virtio-fs device: {0}")]
    Start(#[from] io::Error),
    /// QEMU does not take it.
    #[error(transparent)]
    Plug(#[from] machine::Error),
}

/// A device, and the threads that serve it. It ends with its value, which has to outlive the machine.
#[derive(Debug)]
pub(super) struct Relay {
    port: UnixStream,
    threads: Vec<JoinHandle<()>>,
    state: Arc<State>,
}

impl Relay {
    /// Give the machine a device for each of so many daemons.
    pub(super) fn plug_all(machine: &mut Machine, daemons: u8) -> Result<Vec<Relay>, RelayError> {
        (1..=daemons).map(|daemon| Relay::plug(machine, daemon)).collect()
    }

    fn plug(machine: &mut Machine, daemon: u8) -> Result<Relay, RelayError> {
        let (say, said) = mpsc::channel();
        let state = Arc::new(State { inside: Mutex::default(), say });
        let kicked: Weak<State> = Arc::downgrade(&state);
        let (device, stream) = Device::start(QUEUES, move || {
            if let Some(state) = kicked.upgrade() {
                drop(state.look());
            }
        })?;
        state.inside().device = Some(device);
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut threads = Vec::new();
        let mut start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            threads.push(std::thread::Builder::new().name(format!("{name} {daemon}")).spawn(work)?);
            io::Result::Ok(())
        };
        let mut link = Link::new(ours.try_clone()?, PATIENCE);
        start(
            "to the daemon",
            Box::new(move || {
                while let Ok(message) = said.recv()
                    && let Ok(Some(bytes)) = message_bytes(message)
                    && link.send(&bytes).is_ok()
                {}
            }),
        )?;
        let (mut link, served) = (Link::new(ours.try_clone()?, PATIENCE), Arc::clone(&state));
        start(
            "from the daemon",
            Box::new(move || {
                while let Ok(bytes) = link.receive(Duration::MAX)
                    && let Ok(message) = decode(&bytes)
                {
                    served.hear(message);
                }
                let _ = served.say.send(None);
            }),
        )?;
        // The port is there before the file system, so that whoever can mount can serve.
        let name = port(daemon);
        let properties = [("name", json!(name))];
        machine
            .add_device(&theirs, &Plug { driver: "virtserialport", id: &name, properties: &properties })?;
        let tag = tag(daemon);
        let properties = [("tag", json!(tag)), ("num-request-queues", json!(QUEUES - 1))];
        machine
            .add_device(&stream, &Plug { driver: "vhost-user-fs-pci", id: &tag, properties: &properties })?;
        Ok(Relay { port: ours, threads, state })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.port.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // Here, and not by whoever is the last to look: a thread of the device's own cannot wait for its end.
        let device = self.state.inside().device.take();
        drop(device);
    }
}

/// A message for the daemon, or that there will be no more.
type Said = Option<FromDevice>;

fn message_bytes(said: Said) -> postcard::Result<Option<Vec<u8>>> {
    said.map(|message| encode(&message)).transpose()
}

#[derive(Debug)]
struct State {
    inside: Mutex<Inside>,
    say: mpsc::Sender<Said>,
}

#[derive(Debug, Default)]
struct Inside {
    device: Option<Device>,
    /// What was handed on and not yet answered, by its unique.
    waiting: BTreeMap<u64, Request>,
}

impl State {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, message: FromDevice) {
        // With nobody to hear it the machine is gone.
        let _ = self.say.send(Some(message));
    }

    /// Hand on what lies in the queues. Nobody else does meanwhile, so that requests go out in the order in which they are taken.
    fn look(&self) -> MutexGuard<'_, Inside> {
        let mut inside = self.inside();
        let Inside { device: Some(device), waiting } = &mut *inside else { return inside };
        for request in device.take() {
            let unique = fuse_in_header::read_from_prefix(&request.bytes).map(|(header, _)| header.unique);
            self.say(FromDevice::Request(request.bytes.clone()));
            let given_back = match unique {
                // Two of one unique cannot both be answered.
                Ok(unique) if request.room > 0 => waiting.insert(unique, request),
                _ => Some(request),
            };
            let _ = given_back.map(|request| device.answer(request, &[], None));
        }
        inside
    }

    fn hear(&self, message: ToDevice) {
        match message {
            ToDevice::Hello => {
                let inside = self.inside();
                self.say(FromDevice::Hello);
                inside
                    .waiting
                    .values()
                    .for_each(|request| self.say(FromDevice::Request(request.bytes.clone())));
            }
            ToDevice::Look => {
                let _inside = self.look();
                self.say(FromDevice::Looked);
            }
            ToDevice::Answer { unique, bytes, used } => {
                let mut inside = self.look();
                let request = inside.waiting.remove(&unique);
                let given = request.zip(inside.device.as_ref()).and_then(|(request, device)| {
                    device.answer(request, &bytes, used).ok().map(|count| count as u32)
                });
                self.say(FromDevice::Given(given));
            }
        }
    }
}
