//! The guest's side: what PID 1 does before it can work, and how it ends.
//!
//! It mounts what a Linux program expects, loads the modules packed for it, and opens the link's port. Each step
//! that fails says so on the console and the next one is tried; only without the port there is no going on. What travels over
//! the link is the caller's business.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use crate::args::{GUEST_MARK, PORT_NAME};
use crate::initramfs::MODULES;

/// The link's port: a character device in non-blocking mode.
pub type Port = File;

/// Why the guest cannot be of use.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No virtio port of the link's name came up.
    #[error(
        "no virtio port {name} came up within {within:?}: add virtio_pci and virtio_console to the kernel or to its modules"
    )]
    NoPort {
        /// Its name.
        name: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// The port is there and cannot be opened.
    #[error("cannot open the virtio port {path}: {source}")]
    Port {
        /// The device.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

const PORT_WITHIN: Duration = Duration::from_secs(10);
const PORTS: &str = "/sys/class/virtio-ports";

/// What is mounted: type, place, options. The order counts.
const MOUNTS: [(&str, &str, &str); 8] = [
    ("devtmpfs", "/dev", ""),
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
    ("devpts", "/dev/pts", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
];

/// Whether this process is PID 1 of a guest that we started.
pub fn is_guest_init() -> bool {
    // The kernel passes words of its command line that it does not know on to PID 1's environment; /proc is not there yet.
    std::process::id() == 1 && std::env::var_os(GUEST_MARK).is_some()
}

/// Make the guest ready and open the link's port. To be called once, by PID 1.
///
/// # Errors
/// See [`GuestError`].
pub fn start() -> Result<Port, GuestError> {
    for (kind, place, options) in MOUNTS {
        mount_one(kind, place, options);
    }
    load_modules();
    port(PORT_NAME)
}

/// Power the machine off.
pub fn power_off() -> ! {
    nix::unistd::sync();
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("guest: cannot power off: {errno}");
    // The end of PID 1 panics the kernel, which ends the machine as well.
    std::process::exit(1)
}

fn mount_one(kind: &str, place: &str, options: &str) {
    // Folders of sysfs cannot be made: they are there if the kernel has what belongs there.
    if !Path::new(place).is_dir() && fs::create_dir_all(place).is_err() {
        return;
    }
    match mount(Some(kind), place, Some(kind), MsFlags::empty(), Some(options)) {
        Ok(()) | Err(Errno::ENODEV) => {}
        Err(errno) => eprintln!("guest: cannot mount {kind} on {place}: {errno}"),
    }
}

fn load_modules() {
    let items = fs::read_dir(Path::new("/").join(MODULES)).into_iter().flatten().flatten();
    let mut files: Vec<_> = items.map(|item| item.path()).collect();
    files.sort();
    for path in files {
        let loaded = File::open(&path).and_then(|file| {
            finit_module(&file, c"", ModuleInitFlags::empty()).or_else(|errno| match errno {
                Errno::EEXIST => Ok(()),
                errno => Err(errno.into()),
            })
        });
        if let Err(error) = loaded {
            eprintln!("guest: cannot load {}: {error}", path.display());
        }
    }
}

/// Open the virtio port of that name, once it is there. Only one process may have it open.
///
/// # Errors
/// See [`GuestError`].
pub fn port(name: &str) -> Result<Port, GuestError> {
    let start = Instant::now();
    loop {
        if let Some(path) = find_port(name) {
            let file =
                OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&path);
            return file.map_err(|source| GuestError::Port { path, source });
        }
        if start.elapsed() > PORT_WITHIN {
            return Err(GuestError::NoPort { name: name.to_owned(), within: PORT_WITHIN });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn find_port(wanted: &str) -> Option<PathBuf> {
    fs::read_dir(PORTS).ok()?.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim_end() == wanted).then(|| Path::new("/dev").join(port.file_name()))
    })
}
