//! Where the agent lives: as PID 1 of a guest, or in namespaces of its own on the running kernel.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use qemu::guest;
use qemu::link::Link;

use crate::exec::{self, Whose};

/// Stages are set below the agent's own `/run`, which nobody else sees.
const BASE: &str = "/run/fuseproof";
/// How long the host may take to read what the agent says.
const PATIENCE: Duration = Duration::from_secs(60);

/// PID 1 of a guest: never returns, as the end of PID 1 would panic the kernel.
pub fn serve_in_guest() -> ! {
    if std::env::var_os(super::session::SHELL_WORD).is_some() {
        guest_shell();
    }
    match guest::start() {
        Ok(port) => {
            exec::mount_fusectl();
            if let Err(error) = exec::agent(Link::new(port, PATIENCE), Path::new(BASE), Whose::Ours) {
                eprintln!("fuseproof: the agent ends: {error}");
            }
        }
        Err(error) => eprintln!("fuseproof: {error}"),
    }
    guest::power_off()
}

/// The agent on the running kernel: the link is standard input.
///
/// # Errors
/// A mount was refused, or the link broke.
pub fn serve_on_host() -> io::Result<()> {
    // SAFETY: whoever starts the agent puts the link there; nobody else in this process uses it.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(0) });
    exec::settle_in_namespaces(|| {
        stream.set_nonblocking(true)?;
        exec::agent(Link::new(stream, PATIENCE), Path::new(BASE), Whose::Theirs)
    })
}

/// A shell in the guest, with the reference daemon's mount at /run/fuseproof/mnt; power off when it ends.
fn guest_shell() -> ! {
    // Without the link's port there is still a shell.
    let _ = guest::start();
    exec::mount_fusectl();
    if let Err(error) = exec::shell(Path::new(BASE)) {
        eprintln!("fuseproof: no shell: {error}");
    }
    guest::power_off()
}
