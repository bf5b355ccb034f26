//! Which open file is the device, and which of several it is.

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;

use nix::libc;
use nix::unistd::Pid;

use super::super::trace::Lower;

/// What a descriptor of a thread's is, without asking whoever serves its file: that may be the daemon, which stands still
/// meanwhile.
fn look(task: Pid, fd: i32) -> Option<libc::statx> {
    let path = CString::new(format!("/proc/{task}/fd/{fd}")).ok()?;
    let mut found = MaybeUninit::zeroed();
    let (flags, mask) = (libc::AT_STATX_DONT_SYNC, libc::STATX_BASIC_STATS);
    // SAFETY: a C string, and room for what the kernel fills in.
    let done = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, found.as_mut_ptr()) };
    // SAFETY: it is plain numbers, zeroed before.
    (done == 0).then(|| unsafe { found.assume_init() })
}

/// Is it `/dev/fuse`, by whatever name? Major 10, minor 229 (`include/linux/miscdevice.h`: FUSE_MINOR).
fn is_device(found: &libc::statx) -> bool {
    let kind = u32::from(found.stx_mode) & libc::S_IFMT;
    kind == libc::S_IFCHR && (found.stx_rdev_major, found.stx_rdev_minor) == (10, 229)
}

/// The devices seen so far, each by all the descriptors that were seen to be it.
#[derive(Default)]
pub(super) struct Devices(Vec<Vec<(i32, i32)>>);

impl Devices {
    /// A process has the descriptors of the one that made it.
    pub(super) fn forked(&mut self, parent: i32, child: i32) {
        for holders in &mut self.0 {
            let theirs: Vec<i32> =
                holders.iter().filter(|holder| holder.0 == parent).map(|holder| holder.1).collect();
            holders.extend(theirs.into_iter().map(|fd| (child, fd)));
        }
    }

    /// The number of the device that is the descriptor of that thread, which belongs to that process; `None` if it is
    /// no device.
    pub(super) fn number(&mut self, task: Pid, process: i32, fd: i32) -> Option<u32> {
        let holder = (process, fd);
        if !look(task, fd).is_some_and(|found| is_device(&found)) {
            // It may have been one.
            self.0.iter_mut().for_each(|holders| holders.retain(|known| *known != holder));
            return None;
        }
        if let Some(known) = self.0.iter().position(|holders| holders.contains(&holder)) {
            return Some(known as u32);
        }
        let same = |holders: &Vec<(i32, i32)>| holders.iter().any(|known| is_same(*known, holder));
        let number = self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push(Vec::new());
            self.0.len() - 1
        });
        self.0[number].push(holder);
        Some(number as u32)
    }
}

/// Do these descriptors stand for one open file? Where the kernel has no kcmp, one number in parent and child does.
fn is_same(one: (i32, i32), other: (i32, i32)) -> bool {
    const KCMP_FILE: i32 = 0;
    // SAFETY: plain system call on numbers.
    match unsafe { libc::syscall(libc::SYS_kcmp, one.0, other.0, KCMP_FILE, one.1 as u64, other.1 as u64) } {
        -1 => nix::errno::Errno::last() == nix::errno::Errno::ENOSYS && one.1 == other.1,
        order => order == 0,
    }
}

/// What a descriptor of the thread's is; `None` if it is nothing.
pub(super) fn lower(task: Pid, fd: i32) -> Option<Lower> {
    let at = format!("/proc/{task}/fd/{fd}");
    let found = look(task, fd)?;
    let path = fs::read_link(&at).ok()?.to_string_lossy().into_owned();
    let flags = line(&format!("/proc/{task}/fdinfo/{fd}"), "flags:", 0);
    let flags = flags.and_then(|flags| u32::from_str_radix(&flags, 8).ok()).unwrap_or(0);
    let dev = libc::makedev(found.stx_dev_major, found.stx_dev_minor);
    Some(Lower { path, dev, ino: found.stx_ino, mode: found.stx_mode.into(), flags })
}

/// The process that a thread belongs to.
pub(super) fn process(task: Pid) -> i32 {
    number(task, "Tgid:", 0).unwrap_or(task.as_raw() as u32) as i32
}

/// The file system user of a thread.
pub(super) fn fsuid(task: Pid) -> u32 {
    number(task, "Uid:", 3).unwrap_or(0)
}

fn number(task: Pid, name: &str, column: usize) -> Option<u32> {
    line(&format!("/proc/{task}/status"), name, column)?.parse().ok()
}

/// One word of the line that begins with that name.
fn line(path: &str, name: &str, column: usize) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(column).map(str::to_string)
}
