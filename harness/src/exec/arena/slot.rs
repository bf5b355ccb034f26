//! One mount that stays, with its daemon and its lower files: made by a prologue, and after each program as good as new.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use zerocopy::IntoBytes;

use super::super::daemon::{Order, Word};
use super::super::device::{DevFuse, Device, Via};
use super::super::stage::{self, Stage, mount_fuse};
use super::daemon::Daemon;
use super::ours::duplicate;
use crate::abi::fuse_out_header;
use crate::program::{Call, Observed, Step, Transport, Verb};
use crate::protocol::{StepRecord, Traffic};

/// A mount that stays.
pub(super) struct Slot {
    /// The steps that made it.
    pub(super) prologue: Vec<Step>,
    /// What came of them.
    pub(super) records: Vec<StepRecord>,
    pub(super) stage: Stage,
    pub(super) device: DevFuse,
    /// How many backing ids the connection has given: the next one is one more (`fs/fuse/backing.c`, a cyclic IDR).
    pub(super) ids: i64,
    /// How many programs it had.
    pub(super) programs: usize,
    pub(super) daemon: Daemon,
    files: Vec<Kept>,
}

/// A lower file that each program finds.
#[derive(Debug)]
struct Kept {
    call: Call,
    state: State,
}

/// What tells that a file is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    len: u64,
    written: (i64, i64),
    changed: (i64, i64),
    read: (i64, i64),
}

impl State {
    /// Can other content and other times be all that is different?
    fn is_same_file(&self, other: &State) -> bool {
        let what = |state: &State| (state.inode, state.mode, state.owner, state.links);
        what(self) == what(other)
    }
}

impl Slot {
    /// Make it.
    ///
    /// # Errors
    /// The prologue is no prologue, or the kernel refuses a part of it.
    pub(super) fn new(base: &Path, prologue: &[Step], daemon: Daemon, over: Transport) -> io::Result<Slot> {
        let mut stage = Stage::set(base)?;
        let mount = prologue.last().and_then(|step| match &step.verb {
            Verb::Call(call) => Transport::parse(call.text("over")),
            _ => None,
        });
        let over = mount.filter(|_| over == Transport::Plain).unwrap_or(over);
        let device = duplicate(DevFuse::open(Transport::Plain)?.as_file())?.into();
        let device = DevFuse::of(device, Transport::Plain)?;
        daemon.give(&device, &base.join("lower"), over)?;
        let mut files = Vec::new();
        let mut slot_records = Vec::new();
        for (index, step) in prologue.iter().enumerate() {
            let observed = match &step.verb {
                Verb::On { times, opcode, path, reply } => {
                    let (times, opcode) = (*times, *opcode);
                    daemon.order(&Order::Rule { times, opcode, path: path.clone(), reply: reply.clone() })?;
                    None
                }
                Verb::Call(call) if call.name == "mount" => {
                    let options =
                        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.raw());
                    mount_fuse("fuse", Path::new("fuseproof"), &base.join("mnt"), &options)?;
                    if over != Transport::IoUring {
                        blocking(&device)?;
                    }
                    daemon.ring()?;
                    Some(Observed::Int(0))
                }
                Verb::Call(call) => {
                    if call.name == "file" {
                        files.push(call.clone());
                    }
                    stage.perform(call)
                }
                _ => return Err(io::Error::other("this step is none of a prologue")),
            };
            slot_records.push(StepRecord { index, observed, ..StepRecord::default() });
        }
        let mut slot = Slot {
            prologue: prologue.to_vec(),
            records: slot_records,
            stage,
            device,
            ids: 0,
            programs: 0,
            daemon,
            files: Vec::new(),
        };
        if let Some(last) = slot.records.len().checked_sub(1) {
            slot.records[last].traffic = slot.served();
        }
        slot.files = files
            .into_iter()
            .map(|call| Ok(Kept { state: state(&slot.lower(&call))?, call }))
            .collect::<io::Result<_>>()?;
        slot.date_folder()?;
        Ok(slot)
    }

    /// The requests that the daemon served since the last time.
    pub(super) fn served(&self) -> Vec<Traffic> {
        self.daemon
            .words()
            .filter_map(|word| match word {
                Word::Served(traffic) => Some(traffic),
                _ => None,
            })
            .collect()
    }

    /// Have the kernel forget these names of the root, and what it knows of the root itself.
    pub(super) fn forget(&mut self, names: &BTreeSet<String>) -> io::Result<()> {
        for name in names {
            let mut message = header(16 + 16 + name.len() + 1, 3);
            message.extend(1_u64.to_le_bytes());
            message.extend((name.len() as u64).to_le_bytes());
            message.extend(name.as_bytes());
            message.push(0);
            match self.device.write(&message, Via::Write) {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                _ => {}
            }
        }
        let mut message = header(16 + 24, 2);
        message.extend(1_u64.to_le_bytes());
        message.extend([0; 16]);
        self.device.write(&message, Via::Write).map(drop)
    }

    /// Put the lower files back as the prologue made them; `all` makes them anew, whatever they look like.
    pub(super) fn restore(&mut self, all: bool) -> io::Result<()> {
        if self.has_other_names()? {
            let expected: BTreeSet<&str> = self.files.iter().map(|kept| kept.call.text("path")).collect();
            for entry in fs::read_dir(self.stage.base.join("lower"))? {
                let entry = entry?;
                if !entry.file_name().to_str().is_some_and(|name| expected.contains(name)) {
                    remove(&entry.path())?;
                }
            }
        }
        for at in 0..self.files.len() {
            let kept = &self.files[at];
            let path = self.lower(&kept.call);
            let now = state(&path).ok();
            if !all && now == Some(kept.state) {
                continue;
            }
            let is_itself = now.is_some_and(|now| now.is_same_file(&kept.state)) && !all;
            if is_itself {
                rewrite(&path, &kept.call.data("data").0)?;
            } else {
                if path.symlink_metadata().is_ok() {
                    remove(&path)?;
                }
                let call = kept.call.clone();
                if self.stage.perform(&call) != Some(Observed::Int(0)) {
                    return Err(io::Error::other("a lower file cannot be made again"));
                }
            }
            self.files[at].state = state(&path)?;
        }
        self.date_folder()
    }

    /// Take it down. Says what was held that should have been free, and gives the daemon back, if that is still good for
    /// something.
    pub(super) fn end(mut self) -> (Option<String>, Option<Daemon>) {
        drop(self.device);
        let mounts = ["lower", "mnt"].map(|name| self.stage.base.join(name));
        let mut has_left = false;
        let leak =
            self.stage.strike(mounts.into(), |_| has_left = self.daemon.order_now(&Order::Leave).is_ok());
        let is_good = has_left && leak.is_none();
        (leak, is_good.then_some(self.daemon))
    }

    fn lower(&self, call: &Call) -> std::path::PathBuf {
        self.stage.base.join("lower").join(call.text("path"))
    }

    /// Did names in the lower folder come or go since it was dated back? The clock is too coarse to compare with one that was
    /// read.
    fn has_other_names(&self) -> io::Result<bool> {
        stage::is_dated(&fs::metadata(self.stage.base.join("lower"))?).map(|is_dated| !is_dated)
    }

    fn date_folder(&self) -> io::Result<()> {
        if self.has_other_names()? {
            stage::date(&File::open(self.stage.base.join("lower"))?)?;
        }
        Ok(())
    }
}

fn header(len: usize, code: i32) -> Vec<u8> {
    fuse_out_header { len: len as u32, error: code, unique: 0 }.as_bytes().to_vec()
}

/// Reads of the device wait from here on.
fn blocking(device: &DevFuse) -> io::Result<()> {
    fcntl(device.as_file(), FcntlArg::F_SETFL(OFlag::O_RDWR))?;
    Ok(())
}

/// Give a file its first content and times.
fn rewrite(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).truncate(true).open(path)?;
    file.write_all(data)?;
    stage::date(&file)
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn state(path: &Path) -> io::Result<State> {
    let found = path.symlink_metadata()?;
    Ok(State {
        inode: found.ino(),
        mode: found.mode(),
        owner: (found.uid(), found.gid()),
        links: found.nlink(),
        len: found.len(),
        written: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
        read: (found.atime(), found.atime_nsec()),
    })
}
