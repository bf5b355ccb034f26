//! One QEMU with its three conversations: link, console, control. What boots and what is restored share this.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use serde_json::json;

use super::screen::Screen;
use super::{Image, Lost, Plug, memory_file};
use crate::accel::Accel;
use crate::args::{BOX_FD, CONSOLE_FD, INITRD_FD, KERNEL_FD, LINK_FD, QMP_FD, RAM_FD, Start, arguments};
use crate::black_box::{self, BOX_BYTES};
use crate::console::Kind;
use crate::link::{Link, LinkError};
use crate::process::Process;
use crate::qmp::{Qmp, QmpError};

/// QEMU answers its control socket in milliseconds; on a loaded machine in seconds.
const QMP_WITHIN: Duration = Duration::from_secs(20);
/// A guest that does not take a message by then is lost.
const SEND_WITHIN: Duration = Duration::from_secs(20);
/// From a closed link to QEMU's end.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Kernel stacks of a silent guest, printed over a serial line.
const STACKS_WITHIN: Duration = Duration::from_secs(2);
/// Device state is some hundred KiB; a larger one is QEMU's fault and must not become ours.
const MAX_STATE: u64 = 64 << 20;

/// Where a machine comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum From<'a> {
    /// It boots.
    Image(&'a Image),
    /// It waits for its state, and changes nothing of the memory it is given.
    State,
    /// It waits for its state, in memory that others may map.
    StateShared,
}

/// A machine that runs or waits for its state.
#[derive(Debug)]
pub(super) struct Vm {
    link: Link<UnixStream>,
    qmp: Qmp,
    screen: Screen,
    process: Process,
    black_box: File,
}

impl Vm {
    /// Start QEMU on `ram`; with an image it boots, without one it waits for [`Vm::load`].
    pub(super) fn start(
        qemu: &Path,
        accel: Accel,
        memory_mib: u32,
        ram: &File,
        from: From<'_>,
    ) -> Result<Vm, QmpError> {
        let (qmp, qmp_theirs) = UnixStream::pair()?;
        let (link, link_theirs) = UnixStream::pair()?;
        let (console, console_theirs) = UnixStream::pair()?;
        let black_box = box_file()?;
        link.set_nonblocking(true)?;
        // A guest that reads no console must not hold us up when we type into it.
        console.set_write_timeout(Some(STACKS_WITHIN))?;

        let start = match from {
            From::Image(image) => Start::Boot { append: &image.append },
            From::State => Start::Restore,
            From::StateShared => Start::RestoreShared,
        };
        let mut command = Command::new(qemu);
        command
            .args(arguments(accel, memory_mib, start))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // What QEMU has to say is read beside what the guest says.
            .stderr(OwnedFd::from(console_theirs.try_clone()?))
            // Ctrl-C is for us; we then end QEMU.
            .process_group(0);
        let mut fds = vec![
            mapping(qmp_theirs.into(), QMP_FD),
            mapping(link_theirs.into(), LINK_FD),
            mapping(console_theirs.into(), CONSOLE_FD),
            mapping(ram.try_clone()?.into(), RAM_FD),
            mapping(black_box.try_clone()?.into(), BOX_FD),
        ];
        if let From::Image(image) = from {
            fds.extend(image.mappings()?);
        }
        command.fd_mappings(fds).map_err(io::Error::other)?;

        let screen = Screen::watch(console)?;
        let process = Process::spawn(command)?;
        let link = Link::new(link, SEND_WITHIN);
        match Qmp::greet(qmp, QMP_WITHIN) {
            Ok(qmp) => Ok(Vm { link, qmp, screen, process, black_box }),
            Err(error) => {
                process.kill();
                screen.wait_for_end(END_WITHIN);
                let said = screen.text();
                let last = said.lines().rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
                Err(QmpError::Io(io::Error::other(format!("{error}; its last words: {last}"))))
            }
        }
    }

    pub(super) fn screen(&self) -> &Screen {
        &self.screen
    }

    pub(super) fn send(&mut self, message: &[u8]) -> Result<(), Lost> {
        self.link.send(message).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => self.silent(SEND_WITHIN),
            io::ErrorKind::InvalidInput => {
                Lost::BrokenFrame { reason: error.to_string(), console: self.screen.text() }
            }
            _ => self.ended(),
        })
    }

    pub(super) fn receive(&mut self, within: Duration) -> Result<Vec<u8>, Lost> {
        self.link.receive(within).map_err(|error| match error {
            LinkError::Silent(after) => self.silent(after),
            LinkError::Broken(reason) => Lost::BrokenFrame { reason, console: self.screen.text() },
            LinkError::Closed | LinkError::Io(_) => self.ended(),
        })
    }

    /// Stop the machine and return its device state; its memory is in the file it was started on.
    pub(super) fn save(&mut self) -> Result<Vec<u8>, QmpError> {
        self.qmp.execute("stop", json!({}))?;
        self.leave_memory_where_it_is()?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(QMP_WITHIN))?;
        self.qmp.hand_over(theirs.as_fd(), "state")?;
        drop(theirs);
        self.qmp.execute("migrate", json!({ "uri": "fd:state" }))?;
        let mut state = Vec::new();
        ours.take(MAX_STATE).read_to_end(&mut state)?;
        self.wait_for("query-migrate", &["completed"])?;
        Ok(state)
    }

    /// Load a saved device state and let the machine run on.
    pub(super) fn load(&mut self, state: &[u8]) -> Result<(), QmpError> {
        self.leave_memory_where_it_is()?;
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(QMP_WITHIN))?;
        self.qmp.hand_over(theirs.as_fd(), "state")?;
        drop(theirs);
        self.qmp.execute("migrate-incoming", json!({ "uri": "fd:state" }))?;
        ours.write_all(state)?;
        self.wait_for("query-status", &["paused", "running"])?;
        self.qmp.execute("cont", json!({})).map(drop)
    }

    /// Plug the black box in: a machine is saved without one, as QEMU cannot restore the place of its memory.
    pub(super) fn add_black_box(&mut self) -> Result<(), QmpError> {
        let path = format!("/proc/self/fd/{BOX_FD}");
        let memory = json!({
            "qom-type": "memory-backend-file", "id": "box", "mem-path": path, "size": BOX_BYTES, "share": true
        });
        self.qmp.execute("object-add", memory)?;
        self.qmp.execute("device_add", json!({ "driver": "ivshmem-plain", "memdev": "box" })).map(drop)
    }

    /// Plug in a device that speaks over `stream` by way of a character device.
    pub(super) fn add_device(&mut self, stream: &UnixStream, plug: &Plug<'_>) -> Result<(), QmpError> {
        let Plug { driver, id, properties } = plug;
        self.qmp.hand_over(stream.as_fd(), id)?;
        let address = json!({ "type": "fd", "data": { "str": id } });
        let socket = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        self.qmp.execute("chardev-add", json!({ "id": id, "backend": socket }))?;
        let mut device = json!({ "driver": driver, "chardev": id });
        for (name, value) in *properties {
            device[*name] = value.clone();
        }
        self.qmp.execute("device_add", device).map(drop)
    }

    /// The last record in the black box.
    pub(super) fn black_box(&self) -> Vec<u8> {
        black_box::read(&self.black_box).unwrap_or_default()
    }

    /// End QEMU now.
    pub(super) fn kill(&self) {
        self.process.kill();
    }

    /// Memory that is a file is not sent through the state: it is saved by being there and restored by being mapped.
    fn leave_memory_where_it_is(&mut self) -> Result<(), QmpError> {
        let capability = json!([{ "capability": "x-ignore-shared", "state": true }]);
        self.qmp.execute("migrate-set-capabilities", json!({ "capabilities": capability })).map(drop)
    }

    fn wait_for(&mut self, query: &str, wanted: &[&str]) -> Result<(), QmpError> {
        let deadline = Instant::now() + QMP_WITHIN;
        loop {
            let reply = self.qmp.execute(query, json!({}))?;
            let status = reply["status"].as_str().unwrap_or_default();
            if wanted.contains(&status) {
                return Ok(());
            }
            if status == "failed" || Instant::now() > deadline {
                let reason = format!("{status:?} where {wanted:?} was expected");
                return Err(QmpError::Refused { command: query.to_owned(), reason });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn silent(&mut self, after: Duration) -> Lost {
        self.ask_for_stacks();
        let console = self.screen.text();
        match self.panic_line() {
            Some(line) => Lost::Panicked { line, console },
            None => Lost::Silent { after, console },
        }
    }

    fn ended(&mut self) -> Lost {
        // A QEMU that closed the link and lives on is ended, and its status says by whom.
        let status = self.process.wait(END_WITHIN).or_else(|| self.process.kill());
        self.screen.wait_for_end(END_WITHIN);
        let console = self.screen.text();
        match self.panic_line() {
            Some(line) => Lost::Panicked { line, console },
            None => Lost::Exited { status, console },
        }
    }

    fn panic_line(&self) -> Option<String> {
        self.screen.splats().into_iter().find(|splat| splat.kind == Kind::Panic).map(|splat| splat.title)
    }

    /// Have the kernel print the stacks of blocked tasks and of what runs (SysRq by a break on the serial line). A kernel
    /// that is beyond answering prints nothing, which the console shows as well.
    fn ask_for_stacks(&mut self) {
        // 8: all messages reach the console, w: blocked tasks, l: what the CPUs run.
        for key in [b"8", b"w", b"l"] {
            let broken = self.qmp.execute("chardev-send-break", json!({ "id": "console" }));
            if broken.is_err() || self.screen.send(key).is_err() {
                return;
            }
            // The key travels another way than the next break and must come before it.
            self.screen.wait_for_quiet(STACKS_WITHIN / 4);
        }
        self.screen.wait_for_quiet(STACKS_WITHIN);
    }
}

/// Boot with the terminal as the guest's console, until the guest ends.
pub(super) fn run_interactive(
    qemu: &Path,
    accel: Accel,
    memory_mib: u32,
    ram: &File,
    image: &Image,
) -> io::Result<()> {
    // The other ends stay open and unread: nobody commands this guest but who sits at the terminal.
    let (_qmp, qmp_theirs) = UnixStream::pair()?;
    let (_link, link_theirs) = UnixStream::pair()?;
    let mut command = Command::new(qemu);
    command.args(arguments(accel, memory_mib, Start::Interactive { append: &image.append }));
    let mut fds = vec![
        mapping(qmp_theirs.into(), QMP_FD),
        mapping(link_theirs.into(), LINK_FD),
        mapping(ram.try_clone()?.into(), RAM_FD),
    ];
    fds.extend(image.mappings()?);
    command.fd_mappings(fds).map_err(io::Error::other)?;
    Process::spawn(command)?.wait(Duration::MAX);
    Ok(())
}

impl Image {
    fn mappings(&self) -> io::Result<[FdMapping; 2]> {
        Ok([
            mapping(self.kernel.try_clone()?.into(), KERNEL_FD),
            mapping(self.initramfs.try_clone()?.into(), INITRD_FD),
        ])
    }
}

/// Memory of its own for the black box.
fn box_file() -> io::Result<File> {
    let file = memory_file()?;
    file.set_len(BOX_BYTES as u64)?;
    Ok(file)
}

fn mapping(parent_fd: OwnedFd, child_fd: i32) -> FdMapping {
    FdMapping { parent_fd, child_fd }
}
