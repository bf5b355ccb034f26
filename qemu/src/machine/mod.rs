//! Machines: booted once, saved, restored for each use, and lost in known ways.
//!
//! [`Template::prepare`] boots a [`Setup`] until its program says hello, and keeps that moment in the cache;
//! [`Template::start`] brings it back as a [`Machine`], which ends with its value. Messages are bytes: what they mean is not
//! known here, and neither is what the guest's program does.

mod screen;
mod template;
mod vm;

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::args::command_line;
use crate::closure::ClosureError;
use crate::console::Splat;
use crate::initramfs::Initramfs;
use crate::install::InstallError;
use crate::kernel::{Kernel, module_bytes, modules_in_order};
use crate::{cache, digest, kernel};

pub(crate) use screen::Text;
pub use template::{Template, boot_interactive};

/// What a machine is made of.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The kernel to boot.
    pub kernel: &'a Kernel,
    /// The program that becomes PID 1; what it needs to start is packed with it.
    pub program: &'a Path,
    /// Further programs or files, each with its absolute path in the guest; packed the same way.
    pub files: &'a [(PathBuf, String)],
    /// Modules to load before PID 1 goes on, with what they depend on; those that the kernel has built in or does not
    /// have are left out.
    pub modules: &'a [&'a str],
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// Words for the end of the kernel command line.
    pub cmdline_extra: &'a str,
}

/// Why there is no machine. Messages name the path or command and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache folder.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The kernel's modules.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The guest's programs.
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// QEMU is not there.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The kernel image cannot be opened, or something as basic.
    #[error("cannot set up a machine with {path}: {source}")]
    SetUp {
        /// What was being used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU did not come up, or refused a command.
    #[error("{qemu} does not do what it should ({reason}): see that `{qemu} --version` is 7.2 or newer")]
    Qemu {
        /// The program.
        qemu: PathBuf,
        /// What it did.
        reason: String,
    },
    /// QEMU did not take the image.
    #[error(
        "{qemu} does not start {image} ({reason}): see that it is a kernel for x86-64, and QEMU 7.2 or newer"
    )]
    Start {
        /// The program.
        qemu: PathBuf,
        /// The kernel image.
        image: PathBuf,
        /// QEMU's last words.
        reason: String,
    },
    /// The kernel did not get as far as its program's hello.
    #[error("{image} did not boot to its guest program: {lost}")]
    Boot {
        /// The kernel image.
        image: PathBuf,
        /// How it was lost.
        #[source]
        lost: Lost,
    },
    /// QEMU does not plug the black box in.
    #[error("QEMU has no ivshmem-plain device ({reason}): take one that is built with it, as Debian's is")]
    BlackBox {
        /// What it said.
        reason: String,
    },
    /// QEMU does not plug a device in.
    #[error("QEMU has no {driver} device ({reason}): take one that is built with it, as Debian's is")]
    Device {
        /// Its driver.
        driver: String,
        /// What it said.
        reason: String,
    },
    /// The saved state does not come back.
    #[error("cannot restore the machine saved in {folder} ({reason}): remove that folder and try again")]
    Restore {
        /// The cache entry.
        folder: PathBuf,
        /// What QEMU or the system said.
        reason: String,
    },
}

/// A device to be plugged in.
#[derive(Debug, Clone, Copy)]
pub struct Plug<'a> {
    /// QEMU's name of its driver.
    pub driver: &'a str,
    /// Its name among the machine's, which also its socket has.
    pub id: &'a str,
    /// Its properties, in QEMU's words.
    pub properties: &'a [(&'a str, serde_json::Value)],
}

/// How a machine was lost; each with the end of its console.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Lost {
    /// It runs, and nothing came. The console ends with the kernel's stacks, if the kernel still answers.
    #[error("the guest said nothing for {after:?}: look at the kernel stacks that its console ends with")]
    Silent {
        /// How long it had.
        after: Duration,
        /// The console's end.
        console: String,
    },
    /// What it sent is no message.
    #[error(
        "the guest sent what is no message ({reason}): something other than its program wrote to the link, or its memory is damaged"
    )]
    BrokenFrame {
        /// What is wrong with it.
        reason: String,
        /// The console's end.
        console: String,
    },
    /// QEMU ended.
    #[error("the machine ended by itself ({}): look at the last lines of its console", ended(.status))]
    Exited {
        /// How, if it could be found out.
        status: Option<ExitStatus>,
        /// The console's end.
        console: String,
    },
    /// The kernel panicked.
    #[error("the guest's kernel panicked ({line}): look at its console from there on")]
    Panicked {
        /// The kernel's words.
        line: String,
        /// The console's end.
        console: String,
    },
}

impl Lost {
    /// The end of the console, at most 256 KiB.
    pub fn console(&self) -> &str {
        match self {
            Lost::Silent { console, .. }
            | Lost::BrokenFrame { console, .. }
            | Lost::Exited { console, .. }
            | Lost::Panicked { console, .. } => console,
        }
    }
}

fn ended(status: &Option<ExitStatus>) -> String {
    status.map_or_else(|| "it cannot be killed".to_owned(), |status| status.to_string())
}

/// A restored machine; its QEMU ends with this value.
#[derive(Debug)]
pub struct Machine {
    vm: vm::Vm,
    restored_in: Duration,
}

impl Machine {
    /// Send a message to the guest's program.
    ///
    /// # Errors
    /// How the machine was lost; it is of no more use then.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Lost> {
        self.vm.send(message)
    }

    /// The next message of the guest's program.
    ///
    /// # Errors
    /// How the machine was lost; it is of no more use then.
    pub fn receive(&mut self, within: Duration) -> Result<Vec<u8>, Lost> {
        self.vm.receive(within)
    }

    /// The end of what the guest printed, at most 256 KiB, since it was restored.
    pub fn console(&self) -> String {
        self.vm.screen().text()
    }

    /// Give it a black box, which the guest's [`BlackBox`](crate::black_box::BlackBox) finds from here on.
    ///
    /// # Errors
    /// QEMU has none to give.
    pub fn add_black_box(&mut self) -> Result<(), Error> {
        self.vm.add_black_box().map_err(|error| Error::BlackBox { reason: error.to_string() })
    }

    /// Plug in a device whose other end is behind `stream`; the guest finds it some time after.
    ///
    /// # Errors
    /// QEMU has no such device.
    pub fn add_device(&mut self, stream: &UnixStream, plug: &Plug<'_>) -> Result<(), Error> {
        let refused = |error: crate::qmp::QmpError| Error::Device {
            driver: plug.driver.to_owned(),
            reason: error.to_string(),
        };
        self.vm.add_device(stream, plug).map_err(refused)
    }

    /// The last record that the guest has put into the black box, also after its end.
    pub fn black_box(&self) -> Vec<u8> {
        self.vm.black_box()
    }

    /// What the kernel complained of since the machine was restored.
    pub fn splats(&self) -> Vec<Splat> {
        self.vm.screen().splats()
    }

    /// How long it took from nothing to a running guest.
    pub fn restored_in(&self) -> Duration {
        self.restored_in
    }
}

/// What is booted: open files, so that QEMU's arguments need no path.
#[derive(Debug)]
struct Image {
    kernel: File,
    initramfs: File,
    append: String,
    digest: String,
}

impl Image {
    fn of(setup: &Setup<'_>) -> Result<Image, Error> {
        let mut archive = Initramfs::default();
        for path in modules_in_order(setup.kernel, setup.modules)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.split('.').next().unwrap_or_default();
            archive.add_module(name, module_bytes(&path)?);
        }
        archive.add_program(setup.program, "/init")?;
        for (host, guest) in setup.files {
            archive.add_program(host, guest)?;
        }
        let set_up = |source| Error::SetUp { path: setup.program.to_owned(), source };
        let bytes = archive.finish().map_err(set_up)?;
        let append = command_line(setup.cmdline_extra);
        let digest = digest::of_parts([setup.kernel.digest.as_bytes(), &bytes, append.as_bytes()]);
        let mut initramfs = memory_file().map_err(set_up)?;
        initramfs.write_all(&bytes).and_then(|()| initramfs.rewind()).map_err(set_up)?;
        let image = &setup.kernel.image;
        let kernel = File::open(image).map_err(|source| Error::SetUp { path: image.clone(), source })?;
        Ok(Image { kernel, initramfs, append, digest })
    }
}

/// A file that is nowhere and goes with its last user.
pub(crate) fn memory_file() -> io::Result<File> {
    Ok(File::from(memfd_create(c"fuseproof", MFdFlags::MFD_CLOEXEC)?))
}
