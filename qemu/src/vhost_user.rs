//! A device whose queues are served here: a vhost-user device, which QEMU shows to the guest as one of its own.
//!
//! What the guest puts into a queue comes out as [`Request`]s, and each is given back with an answer. What they mean is not known
//! here, and neither is what kind of device the guest sees. The guest is a stranger: its descriptors are bounded before memory is
//! taken for them.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::ops::Deref as _;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, OnceLock};

use vhost::vhost_user::{Listener, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT as _};
use virtio_queue::{DescriptorChain, QueueT as _};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

/// The most bytes of a request, and of the room for its answer.
const MOST: usize = 8 << 20;
/// The most requests that lie in a queue at once.
const QUEUE_SIZE: usize = 1024;
/// `VIRTIO_F_VERSION_1` and `VIRTIO_RING_F_INDIRECT_DESC`.
const FEATURES: u64 = 1 << 32 | 1 << 28;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Chain = DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>;

/// What the guest has put into a queue. It has to be given back, or the guest waits for it.
#[derive(Debug)]
pub struct Request {
    /// Which queue, from 0.
    pub queue: u16,
    /// What it says.
    pub bytes: Vec<u8>,
    /// How many bytes of an answer it has room for.
    pub room: usize,
    chain: Chain,
}

/// A device. It ends with its value, and the guest then sees one that says nothing.
pub struct Device {
    daemon: VhostUserDaemon<Arc<Backend>>,
    backend: Arc<Backend>,
    /// Ends the thread that is told of kicks. The library's own way to end it leaves a descriptor open for ever.
    end: (EventConsumer, EventNotifier),
}

impl Device {
    /// Start a device with that many queues, and give the socket that is for QEMU. `kicked` is called whenever there may be
    /// requests to take, on a thread of the device.
    ///
    /// # Errors
    /// The system has no socket, event or thread to give.
    pub fn start(
        queues: usize,
        kicked: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<(Device, UnixStream)> {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let backend = Arc::new(Backend { queues, vrings: OnceLock::new(), memory, kicked: Box::new(kicked) });
        let name = format!("queues of {}", std::process::id());
        let memory = backend.memory.clone();
        let mut daemon = VhostUserDaemon::new(name, Arc::clone(&backend), memory).map_err(refused)?;
        // The library takes a socket that listens only. This one is nowhere in the file system, and nobody can guess its name.
        let name = format!("fuseproof-{:016x}", RandomState::new().hash_one(std::process::id()));
        let address = SocketAddr::from_abstract_name(name)?;
        let mut listener = Listener::from(UnixListener::bind_addr(&address)?);
        let stream = UnixStream::connect_addr(&address)?;
        daemon.start(&mut listener).map_err(refused)?;
        let end = new_event_consumer_and_notifier(EventFlag::CLOEXEC | EventFlag::NONBLOCK)?;
        for handler in daemon.get_epoll_handlers() {
            handler.register_listener(end.0.as_raw_fd(), EventSet::IN, queues as u64 + 1)?;
        }
        Ok((Device { daemon, backend, end }, stream))
    }

    /// Take what lies in the queues, lowest queue first. What cannot be a request is given back at once.
    pub fn take(&self) -> Vec<Request> {
        let mut taken = Vec::new();
        for (queue, vring) in self.backend.vrings.get().into_iter().flatten().enumerate() {
            // No guest in its right mind has more, and one that goes on adding is not waited for.
            for _ in 0..QUEUE_SIZE {
                let chain = {
                    let mut state = vring.get_mut();
                    state.get_queue_mut().pop_descriptor_chain(self.backend.memory.memory())
                };
                let Some(chain) = chain else { break };
                match request(queue as u16, chain.clone()) {
                    Ok(request) => taken.push(request),
                    Err(_) => self.give_back(queue as u16, chain.head_index(), 0),
                }
            }
        }
        taken
    }

    /// Give a request back with this answer, and say that so many bytes were written, if not the truth. Gives how many of its
    /// bytes there was room for.
    ///
    /// # Errors
    /// The guest's memory is not where its descriptors say.
    pub fn answer(&self, request: Request, answer: &[u8], used: Option<u32>) -> io::Result<usize> {
        let Request { queue, room, chain, .. } = request;
        let (head, count) = (chain.head_index(), answer.len().min(room));
        let memory = self.backend.memory.memory();
        let written = chain
            .writer(memory.deref())
            .map_err(io::Error::other)
            .and_then(|mut writer| writer.write_all(&answer[..count]));
        let truth = if written.is_ok() { count as u32 } else { 0 };
        self.give_back(queue, head, used.unwrap_or(truth));
        written.map(|()| count)
    }

    fn give_back(&self, queue: u16, head: u16, used: u32) {
        let vring = self.backend.vrings.get().and_then(|vrings| vrings.get(usize::from(queue)));
        if let Some(vring) = vring {
            // A queue that was reset meanwhile has nothing to take back.
            let _ = vring.add_used(head, used).map(|()| vring.signal_used_queue());
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.daemon.request_shutdown();
        // Whatever it ended of: the guest is gone, or this value is.
        let _ = self.daemon.wait();
        let _ = self.end.1.notify();
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("queues", &self.backend.queues).finish_non_exhaustive()
    }
}

/// What the library says.
fn refused(error: vhost_user_backend::Error) -> io::Error {
    io::Error::other(error.to_string())
}

fn request(queue: u16, chain: Chain) -> io::Result<Request> {
    let memory = chain.memory();
    let mut reader = chain.clone().reader(memory).map_err(io::Error::other)?;
    let writer = chain.clone().writer(memory).map_err(io::Error::other)?;
    let (len, room) = (reader.available_bytes(), writer.available_bytes());
    if len.max(room) > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes)?;
    Ok(Request { queue, bytes, room, chain })
}

/// What the library calls.
struct Backend {
    queues: usize,
    /// Known from the first kick on.
    vrings: OnceLock<Vec<VringMutex<Memory>>>,
    memory: Memory,
    kicked: Box<dyn Fn() + Send + Sync>,
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        self.queues
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&self, _: bool) {}

    fn update_memory(&self, _: Memory) -> io::Result<()> {
        // It is the one we have.
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _: EventSet,
        vrings: &[VringMutex<Memory>],
        _: usize,
    ) -> io::Result<()> {
        if usize::from(event) > self.queues {
            return Err(io::Error::other("the device ends"));
        }
        self.vrings.get_or_init(|| vrings.to_vec());
        (self.kicked)();
        Ok(())
    }
}
