//! A shell for poking around, beside a reference daemon that serves a mount.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::libc;

use super::actor::{Ask, Process, Say};
use super::limits;
use super::stage::Stage;
use crate::program::{Actor, Call, Data, Observed, Reply, Side, Times, Value};

/// Mount a loopback with passthrough negotiated, and run a shell in its parent folder until it ends.
///
/// # Errors
/// The stage cannot be set, the daemon cannot mount, or there is no shell.
pub fn shell(base: &Path) -> io::Result<()> {
    let mut stage = Stage::set(base)?;
    std::fs::write(base.join("lower/a"), "hello")?;
    let mut daemon = Process::start(Actor { side: Side::Daemon, number: 1 }, base.to_path_buf(), None)?;
    let fields = [("flags", 1_i128 << 30), ("flags2", 1 << 5), ("max_stack_depth", 1)];
    let rule = Ask::Rule {
        times: Times::Once,
        opcode: crate::abi::Opcode::INIT,
        path: None,
        reply: Reply::Fields(
            fields.iter().map(|(name, value)| ((*name).to_string(), Value::Int(*value))).collect(),
        ),
        text: String::new(),
    };
    let mount = Call { name: "mount".into(), args: vec![("options".into(), Value::Data(Data::default()))] };
    for ask in [rule, Ask::Do { call: mount, bind: None }] {
        match daemon.ask(&ask, limits::CALL) {
            Some(Say::Done(Observed::Int(_), _)) => {}
            other => return Err(io::Error::other(format!("the reference daemon cannot mount: {other:?}"))),
        }
    }
    println!("mnt is served by the reference daemon from lower; the kernel's log is in dmesg; C-a x leaves");
    let mut bash = Command::new("/usr/bin/bash");
    bash.current_dir(base).env("PATH", "/usr/bin").env("PS1", "fuseproof# ").env("TERM", "vt100");
    with_terminal(&mut bash)?.status()?;
    stage.strike(stage.mounts(), |_| _ = daemon.kill(limits::SETTLE));
    Ok(())
}

/// PID 1's console can be nobody's controlling terminal; the serial line behind it can, and then Ctrl-C works.
fn with_terminal(command: &mut Command) -> io::Result<&mut Command> {
    let terminal =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/ttyS0")?;
    command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
    let take = || {
        nix::unistd::setsid()?;
        // SAFETY: plain system call on numbers.
        match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 1) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure makes system calls only, and allocates nothing.
    Ok(unsafe { command.pre_exec(take) })
}
