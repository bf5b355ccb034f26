//! The recorder: a process that traces a daemon, its threads and its children, and writes down what they do on `/dev/fuse`.
//!
//! A seccomp filter, where the kernel has it, lets every system call pass but the few that can carry messages; of these, each that is made on the
//! device stops once or twice and is looked at. The daemon's own reads and writes on the lower files and all that passes
//! through to them cost nothing. Not seen: pread64, pwrite64 and sendfile on the device, which no daemon is known to use,
//! and io_uring, of which only the setup is noticed. 32-bit programs are ended by the filter, which is told.

mod calls;
mod device;
mod filter;
mod memory;
mod output;
mod tracer;

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SigHandler, Signal, signal};

use nix::unistd::{ForkResult, Pid, fork, pipe2};

use super::launch::Launch;
use crate::exec::allow_many_files;
use output::Output;
use tracer::{Book, Tracer};

/// Fork a recorder that starts the command and writes to `trace` until all its processes have ended, or until it is
/// killed, which ends them. For a caller with one thread.
pub(super) fn start(launch: &Launch, trace: File, began: Instant) -> io::Result<Pid> {
    let command = command(launch)?;
    // SAFETY: the caller has one thread, so the child may do whatever it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = nix::sys::prctl::set_name(c"recorder");
            let trace = settle_in(trace);
            let mut book = Book::new(trace, began);
            if let Err(error) = record(launch, &command, &mut book) {
                book.blind(&format!("the recorder failed: {error}"));
            }
            // SAFETY: ends the process without running what the caller had registered for its own end.
            unsafe { libc::_exit(0) }
        }
    }
}

/// What exec takes.
fn command(launch: &Launch) -> io::Result<Vec<CString>> {
    if launch.command.is_empty() {
        return Err(io::Error::other("no command was given"));
    }
    Ok(launch.command.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<_, _>>()?)
}

/// Dies with the caller, holds nothing of it but the trace, and collects what the daemon leaves behind.
fn settle_in(trace: File) -> File {
    const TRACE: i32 = 3;
    let fd = trace.into_raw_fd();
    // SAFETY: the process was just forked and has one thread; nothing else uses these descriptors.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        if fd != TRACE {
            libc::dup3(fd, TRACE, libc::O_CLOEXEC);
        }
        libc::syscall(libc::SYS_close_range, TRACE + 1, u32::MAX, 0);
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for standard in 0..=2 {
            libc::dup2(nothing, standard);
        }
        libc::close(nothing);
        File::from_raw_fd(TRACE)
    }
}

fn record(launch: &Launch, command: &[CString], book: &mut Book) -> io::Result<()> {
    let filter = filter::can_be().then(filter::program).transpose().map_err(io::Error::other)?;
    let environment = environment()?;
    let (said, says) = pipe2(OFlag::O_CLOEXEC)?;
    let (waits, go) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has one thread, and the child makes system calls only until it is another program.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(go);
            let errno = become_daemon(launch.user, command, &environment, filter.as_ref(), &waits, &says);
            let told = format!("cannot run {}: {}\n", command[0].to_string_lossy(), errno.desc());
            let _ = nix::unistd::write(&says, told.as_bytes());
            // SAFETY: as above.
            unsafe { libc::_exit(127) }
        }
    };
    drop((waits, says));
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(child, options)?;
    let output = Output::read(said);
    nix::unistd::write(&go, b"!")?;
    drop(go);
    Tracer::new(book, &launch.faults, filter.is_some()).run()?;
    book.add(0, output.all());
    Ok(())
}

/// Ours, and where programs are, which a guest's first process is not told: daemons look for fusermount3 there.
fn environment() -> io::Result<Vec<CString>> {
    const PLACES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut all: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    if !all.iter().any(|(name, _)| name == "PATH") {
        all.push(("PATH".into(), PLACES.into()));
    }
    let line = |(name, value): (OsString, OsString)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).map_err(io::Error::other)
    };
    all.into_iter().map(line).collect()
}

/// Wait until we are traced, and run the command. Gives why not.
fn become_daemon(
    user: Option<(u32, u32)>,
    command: &[CString],
    environment: &[CString],
    filter: Option<&filter::Filter>,
    waits: &OwnedFd,
    says: &OwnedFd,
) -> Errno {
    let mut go = [0];
    match nix::unistd::read(waits, &mut go) {
        Ok(1) => {}
        Ok(_) => return Errno::ECHILD,
        Err(errno) => return errno,
    }
    let become_it = || -> nix::Result<()> {
        nix::unistd::setsid()?;
        // As many files as the machine allows: how few its shell allows is nothing to judge a daemon by.
        allow_many_files()?;
        // We ignore it, and that would go on.
        // SAFETY: no handler of ours is replaced by another.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
        // SAFETY: plain system calls on numbers.
        unsafe {
            libc::umask(0o022);
            libc::dup2(says.as_raw_fd(), 1);
            libc::dup2(says.as_raw_fd(), 2);
        }
        // While we are root: otherwise it would need no_new_privs, and with that fusermount3 does not mount.
        filter.map_or(Ok(()), filter::install)?;
        if let Some((uid, gid)) = user {
            nix::unistd::setgroups(&[])?;
            nix::unistd::setgid(gid.into())?;
            nix::unistd::setuid(uid.into())?;
        }
        nix::unistd::execvpe(&command[0], command, environment).map(|_| ())
    };
    become_it().err().unwrap_or(Errno::ENOEXEC)
}
