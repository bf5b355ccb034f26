//! Subjects and sessions: an agent in a restored machine, or one in private namespaces on the running kernel.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use qemu::cache::Cache;
use qemu::console::{Leak, Splat};
use qemu::kernel::{self, Kernel, KernelSpec};
use qemu::link::{Link, LinkError};
use qemu::machine::{self, Machine, Setup, Template};
use qemu::progress::Progress;

use super::relay::{Relay, RelayError};
use crate::exec;
use crate::program::{Profile, Program, Transport};
use crate::protocol::{How, Order, Report, decode, encode};
use crate::relay::DEVICES;

/// How long the agent may say nothing: longer than a case may take there, or a step of a workload, which is told when it is over.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long a fresh agent may take to say hello.
const HELLO: Duration = Duration::from_secs(20);
/// What cases of this suite need of a kernel that has it as modules.
const MODULES: [&str; 9] =
    ["virtio_pci", "virtio_console", "fuse", "virtiofs", "cuse", "overlay", "loop", "ext4", "quota_v2"];
/// Memory of a guest: cases are small, and what is saved and restored should be.
const MEMORY_MIB: u32 = 256;
/// Words for every guest's kernel: io_uring as a transport and the search for leaks may be off by default; memory that
/// nobody wrote must not look clean; the rest costs time under emulation and no case is about it.
const KERNEL_WORDS: &str = "fuse.enable_uring=1 kmemleak=on init_on_alloc=0 randomize_kstack_offset=off nokaslr lsm=capability psi=0 audit=0";

/// A word that the kernel does not know and hands on to PID 1's environment: be a shell.
pub(super) const SHELL_WORD: &str = "fuseproof_shell";

/// A kernel that cases can run on.
#[derive(Debug)]
pub struct Subject {
    /// The name it was asked for by.
    pub name: String,
    /// What is the agent there.
    pub(super) program: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// What it is saved as, what stands for that in the cache, and the SHA-256 of the image.
    Machine {
        template: Box<Template>,
        key: String,
        image: String,
    },
    Host,
    /// Why.
    Unavailable(String),
}

/// Why a kernel cannot be a subject. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// It cannot be had.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// No machine of it can be had.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// The agent did not come up.
    #[error("kernel {name}: the agent did not come up: {why}")]
    NoAgent {
        /// The kernel.
        name: String,
        /// What happened.
        why: String,
    },
    /// It gets no device of the transport that was asked for.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// It could be asked for leaks, and now it cannot.
    #[error("kernel {name}: what its last cases leaked is not known ({why}): run them again")]
    NoLeaks {
        /// The kernel.
        name: String,
        /// What happened.
        why: String,
    },
    /// Mounting on the running kernel needs root.
    #[error(
        "--kernel host mounts file systems and needs root: run the same command with sudo, or leave --kernel host out"
    )]
    NotRoot,
    /// It could not be had when it was prepared.
    #[error("{0}")]
    Unavailable(String),
    /// This program cannot be started again as an agent.
    #[error("cannot start {program} as the agent: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl SubjectError {
    /// Is it the kernel's doing, as far as one can tell, that it does not boot or does not answer?
    pub fn is_the_kernels(&self) -> bool {
        matches!(
            self,
            SubjectError::NoAgent { .. }
                | SubjectError::Unavailable(_)
                | SubjectError::Machine(machine::Error::Boot { .. })
        )
    }
}

/// The agent is gone, or says what cannot be understood. Nothing is known about what it was doing.
#[derive(Clone, Debug)]
pub struct Lost {
    /// What happened.
    pub why: String,
    /// The end of its console.
    pub console: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Subject {
    /// Fetch, boot and save what is needed for the kernel that `spec` means. `program` is `fuseproof` itself, which
    /// becomes the agent there.
    ///
    /// # Errors
    /// See [`SubjectError`].
    pub fn prepare(
        spec: &KernelSpec,
        program: &Path,
        cache: &Cache,
        progress: &mut dyn Progress,
    ) -> Result<Subject, SubjectError> {
        Subject::prepare_for(spec, program, &[], cache, progress)
    }

    /// The same for programs that nobody wrote: with more files, each with its absolute path in the guest, and so that the
    /// kernel's first warning ends the machine, as what it was doing is known then.
    ///
    /// # Errors
    /// See [`SubjectError`].
    pub(crate) fn prepare_to_fuzz(
        spec: &KernelSpec,
        program: &Path,
        files: &[(PathBuf, String)],
        cache: &Cache,
        progress: &mut dyn Progress,
    ) -> Result<Subject, SubjectError> {
        Subject::prepare_with(spec, program, files, " panic_on_warn=1", cache, progress)
    }

    /// The same as [`Subject::prepare`], with more files, each with its absolute path in the guest.
    ///
    /// # Errors
    /// See [`SubjectError`].
    pub fn prepare_for(
        spec: &KernelSpec,
        program: &Path,
        files: &[(PathBuf, String)],
        cache: &Cache,
        progress: &mut dyn Progress,
    ) -> Result<Subject, SubjectError> {
        Subject::prepare_with(spec, program, files, "", cache, progress)
    }

    fn prepare_with(
        spec: &KernelSpec,
        program: &Path,
        files: &[(PathBuf, String)],
        word: &str,
        cache: &Cache,
        progress: &mut dyn Progress,
    ) -> Result<Subject, SubjectError> {
        let subject = |name, kind| Subject { name, program: program.to_path_buf(), kind };
        if let KernelSpec::Host = spec {
            return if nix::unistd::geteuid().is_root() {
                Ok(subject("host".into(), Kind::Host))
            } else {
                Err(SubjectError::NotRoot)
            };
        }
        let kernel = kernel::resolve(spec, cache, progress)?;
        let words = format!("{KERNEL_WORDS}{word}");
        // Programs lie in memory, packed and unpacked.
        let memory_mib = if files.is_empty() { MEMORY_MIB } else { 2 * MEMORY_MIB };
        let files = [&guest_files(), files].concat();
        let setup = Setup { memory_mib, cmdline_extra: &words, ..setup(&kernel, program, &files) };
        let template = Template::prepare(&setup, cache, progress)?;
        let key = template.key();
        let template = Box::new(template);
        Ok(subject(kernel.name, Kind::Machine { template, key, image: kernel.digest }))
    }

    /// How long it takes to boot the kernel anew and to save it. Nothing of it stays.
    ///
    /// # Errors
    /// See [`SubjectError`].
    pub(super) fn boot_anew(
        spec: &KernelSpec,
        program: &Path,
        cache: &Cache,
        progress: &mut dyn Progress,
    ) -> Result<Duration, SubjectError> {
        let kernel = kernel::resolve(spec, cache, progress)?;
        let nowhere = |source| SubjectError::Start { program: std::env::temp_dir(), source };
        let folder = tempfile::tempdir().map_err(nowhere)?;
        let own = Cache::at(folder.path().to_path_buf()).map_err(kernel::Error::from)?;
        let files = guest_files();
        let template = Template::prepare(&setup(&kernel, program, &files), &own, progress)?;
        Ok(template.booted().unwrap_or_default())
    }

    /// A kernel that cannot be had: for a report, it stands beside the others, and no session of it can be had.
    pub fn unavailable(spec: &KernelSpec, program: &Path, error: &SubjectError) -> Subject {
        let kind = Kind::Unavailable(error.to_string());
        Subject { name: spec.to_string(), program: program.to_path_buf(), kind }
    }

    /// Is it the running kernel, which one wants to keep?
    pub fn is_host(&self) -> bool {
        matches!(self.kind, Kind::Host)
    }

    /// The SHA-256 of its image; none for the running kernel.
    pub fn image(&self) -> Option<&str> {
        match &self.kind {
            Kind::Machine { image, .. } => Some(image),
            Kind::Host | Kind::Unavailable(_) => None,
        }
    }

    /// How long booting took, if [`Subject::prepare`] did it.
    pub fn booted(&self) -> Option<Duration> {
        match &self.kind {
            Kind::Machine { template, .. } => template.booted(),
            Kind::Host | Kind::Unavailable(_) => None,
        }
    }

    /// What stands for this kernel in the cache: changes with all that its machine is made of.
    pub(super) fn digest(&self) -> Option<&str> {
        match &self.kind {
            Kind::Machine { key, .. } => Some(key),
            Kind::Host | Kind::Unavailable(_) => None,
        }
    }

    /// A fresh agent on it.
    ///
    /// # Errors
    /// See [`SubjectError`].
    pub fn session(&self) -> Result<Session, SubjectError> {
        self.session_over(Transport::Plain)
    }

    /// The same, with what that transport needs of a machine.
    ///
    /// # Errors
    /// See [`SubjectError`].
    pub(crate) fn session_over(&self, transport: Transport) -> Result<Session, SubjectError> {
        self.session_of(transport, DEVICES)
    }

    /// The same for one daemon: under a sanitizer, the kernel takes seconds to find each device.
    ///
    /// # Errors
    /// See [`SubjectError`].
    pub(crate) fn session_to_fuzz(&self, transport: Transport) -> Result<Session, SubjectError> {
        self.session_of(transport, 1)
    }

    fn session_of(&self, transport: Transport, daemons: u8) -> Result<Session, SubjectError> {
        let mut relays = Vec::new();
        let (end, hello) = match &self.kind {
            Kind::Machine { template, .. } if transport == Transport::Virtiofs => {
                let mut machine = Box::new(template.start_shared()?);
                relays = Relay::plug_all(&mut machine, daemons)?;
                (End::Guest(machine), template.hello().to_vec())
            }
            Kind::Machine { template, .. } => {
                (End::Guest(Box::new(template.start()?)), template.hello().to_vec())
            }
            Kind::Host => {
                let mut host = Host::start(&self.program)?;
                let hello = host.link.receive(HELLO).map_err(|error| self.no_agent(&error.to_string()))?;
                (End::Host(Box::new(host)), hello)
            }
            Kind::Unavailable(why) => return Err(SubjectError::Unavailable(why.clone())),
        };
        match decode(&hello) {
            Ok(Report::Hello { release, inner_errno, finds_leaks }) => Ok(Session {
                end,
                _relays: relays,
                release,
                inner_errno,
                finds_leaks,
                began: None,
                tainted: false,
                stuck: false,
            }),
            Ok(Report::Trouble(why)) => Err(self.no_agent(&why)),
            _ => Err(self.no_agent("its first message is no hello")),
        }
    }

    fn no_agent(&self, why: &str) -> SubjectError {
        SubjectError::NoAgent { name: self.name.clone(), why: why.into() }
    }
}

/// Boot a kernel with the terminal as its console: the reference daemon's mount, and a shell.
///
/// # Errors
/// See [`SubjectError`].
pub fn interactive(
    spec: &KernelSpec,
    program: &Path,
    cache: &Cache,
    progress: &mut dyn Progress,
) -> Result<(), SubjectError> {
    let kernel = kernel::resolve(spec, cache, progress)?;
    let mut setup_files = guest_files();
    setup_files.extend(SHELL.iter().filter_map(|name| found(name)));
    let words = format!("{KERNEL_WORDS} {SHELL_WORD}=1");
    let setup = Setup { cmdline_extra: &words, ..setup(&kernel, program, &setup_files) };
    Ok(machine::boot_interactive(&setup, cache, progress)?)
}

/// What a person wants in a guest to poke around; those that the host has.
const SHELL: [&str; 24] = [
    "bash", "sh", "ls", "cat", "echo", "dd", "stat", "mount", "umount", "dmesg", "ps", "kill", "strace",
    "mkdir", "rm", "touch", "chmod", "sync", "grep", "head", "tail", "getfattr", "hexdump", "sleep",
];

fn setup<'a>(kernel: &'a Kernel, program: &'a Path, files: &'a [(PathBuf, String)]) -> Setup<'a> {
    Setup { kernel, program, files, modules: &MODULES, memory_mib: MEMORY_MIB, cmdline_extra: KERNEL_WORDS }
}

/// Programs that the agent calls, where this machine has them. Without one, the capability that needs it is absent.
fn guest_files() -> Vec<(PathBuf, String)> {
    found("mkfs.ext4").into_iter().collect()
}

fn found(name: &str) -> Option<(PathBuf, String)> {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].into_iter();
    let path = folders.map(|folder| Path::new(folder).join(name)).find(|path| path.exists())?;
    Some((path, format!("/usr/bin/{name}")))
}

/// A running agent.
#[derive(Debug)]
pub struct Session {
    end: End,
    /// What serves its devices: dropped after the machine that has them.
    _relays: Vec<Relay>,
    /// `uname -r` there.
    pub release: String,
    /// Whether the kernel there tells the errno behind an EIO.
    pub inner_errno: bool,
    /// Whether the kernel there finds leaks.
    pub(super) finds_leaks: bool,
    /// When the latest case began, in the kernel's own count, if it finds leaks.
    pub(super) began: Option<u64>,
    /// A case left something behind: no other case may run in this session.
    pub tainted: bool,
    /// Of the latest case something hangs in the kernel.
    pub(super) stuck: bool,
}

#[derive(Debug)]
enum End {
    Guest(Box<Machine>),
    Host(Box<Host>),
}

impl Session {
    /// Have a program run there.
    ///
    /// # Errors
    /// The agent is lost.
    pub fn run(&mut self, program: &Program, profile: &Profile, how: How) -> Result<(), Lost> {
        self.order(&Order::Run { program: Box::new(program.clone()), profile: profile.clone(), how })
    }

    /// What leaked there since the last time.
    ///
    /// # Errors
    /// The agent is lost, or the kernel has stopped looking for leaks.
    pub(super) fn leaks(&mut self) -> Result<Vec<Leak>, Lost> {
        self.order(&Order::Leaks)?;
        match self.report(PATIENCE)? {
            Report::Leaks(leaks) => Ok(leaks),
            Report::Trouble(why) => Err(lost(why)),
            _ => Err(lost("the agent talks of something else when asked for leaks".into())),
        }
    }

    /// Tell the agent what to do.
    ///
    /// # Errors
    /// The agent is lost.
    pub(crate) fn order(&mut self, order: &Order) -> Result<(), Lost> {
        let bytes = encode(order).map_err(|error| lost(error.to_string()))?;
        match &mut self.end {
            End::Guest(machine) => machine.send(&bytes).map_err(|error| from_machine(&error)),
            End::Host(host) => host.link.send(&bytes).map_err(|error| lost(error.to_string())),
        }
    }

    /// What it says next, if it says something in time.
    ///
    /// # Errors
    /// The agent is lost: it said nothing, or nothing that can be understood.
    pub fn report(&mut self, within: Duration) -> Result<Report, Lost> {
        let within = within.min(PATIENCE);
        let bytes = match &mut self.end {
            End::Guest(machine) => machine.receive(within).map_err(|error| from_machine(&error))?,
            End::Host(host) => host.link.receive(within).map_err(|error| from_link(&error))?,
        };
        decode(&bytes).map_err(|error| Lost {
            why: format!(
                "the agent sent a message that is none of its own ({error}): its memory may be damaged"
            ),
            console: self.console(),
        })
    }

    /// Have what is written to the black box there outlive it; on the running kernel nothing would.
    ///
    /// # Errors
    /// QEMU has no black box.
    pub(crate) fn add_black_box(&mut self) -> Result<(), SubjectError> {
        match &mut self.end {
            End::Guest(machine) => Ok(machine.add_black_box()?),
            End::Host(_) => Ok(()),
        }
    }

    /// The last record in the black box.
    pub(crate) fn black_box(&self) -> Vec<u8> {
        match &self.end {
            End::Guest(machine) => machine.black_box(),
            End::Host(_) => Vec::new(),
        }
    }

    /// What the kernel complained of on the console.
    pub fn splats(&self) -> Vec<Splat> {
        match &self.end {
            End::Guest(machine) => machine.splats(),
            End::Host(_) => Vec::new(),
        }
    }

    /// How long it took to be there, for a machine.
    pub fn restored_in(&self) -> Option<Duration> {
        match &self.end {
            End::Guest(machine) => Some(machine.restored_in()),
            End::Host(_) => None,
        }
    }

    /// The end of its console.
    pub(crate) fn console(&self) -> String {
        match &self.end {
            End::Guest(machine) => machine.console(),
            End::Host(_) => String::new(),
        }
    }
}

fn lost(why: String) -> Lost {
    Lost { why, console: String::new() }
}

fn from_machine(error: &machine::Lost) -> Lost {
    Lost { why: error.to_string(), console: error.console().to_string() }
}

fn from_link(error: &LinkError) -> Lost {
    lost(format!("the agent on the running kernel is gone: {error}"))
}

/// An agent on the running kernel. It dies with this value, and its namespaces with it.
#[derive(Debug)]
struct Host {
    child: Child,
    link: Link<UnixStream>,
}

impl Host {
    fn start(program: &Path) -> Result<Host, SubjectError> {
        let start = || {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let mut command = Command::new(program);
            command.arg(crate::cli::AGENT).stdin(Stdio::from(OwnedFd::from(theirs)));
            exec::into_namespaces(&mut command);
            Ok(Host { child: command.spawn()?, link: Link::new(ours, PATIENCE) })
        };
        start().map_err(|source| SubjectError::Start { program: program.to_path_buf(), source })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
