//! The kernel's log, while a case runs: splats, and the inner reasons that only debug messages tell.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use nix::libc;

/// Where the debug messages are that name an errno the application never sees. Whatever path the compiler was given stands
/// before them.
const SOURCES: [&str; 3] = ["*fs/fuse/passthrough.c", "*fs/fuse/backing.c", "*fs/fuse/iomode.c"];
/// Where dynamic debug is switched, with and without debugfs.
const CONTROLS: [&str; 2] = ["/proc/dynamic_debug/control", "/sys/kernel/debug/dynamic_debug/control"];
/// The most a record can have (`LOG_LINE_MAX` and its prefix).
const RECORD: usize = 8192;
/// The level of debug messages.
const DEBUG: u32 = 7;

/// Reads what the kernel logs from now on.
#[derive(Debug)]
pub(crate) struct KernelLog {
    file: Option<File>,
    /// Messages that nobody has taken yet.
    new: Vec<String>,
    /// All messages above debug level.
    loud: Vec<String>,
}

impl KernelLog {
    pub(crate) fn follow() -> KernelLog {
        let end = |mut file: File| file.seek(SeekFrom::End(0)).ok().map(|_| file);
        KernelLog { file: open().and_then(end), new: Vec::new(), loud: Vec::new() }
    }

    /// The messages since the last call.
    pub(crate) fn take(&mut self) -> Vec<String> {
        self.read();
        std::mem::take(&mut self.new)
    }

    /// Has the kernel complained since the last call? What it said is not kept.
    pub(crate) fn complains(&mut self) -> bool {
        let new = self.file.iter_mut().flat_map(records).filter(|(level, _)| *level != Some(DEBUG));
        let lines: Vec<String> = new.map(|(_, message)| message).collect();
        !lines.is_empty() && !qemu::console::scan(&lines.join("\n")).is_empty()
    }

    /// How many messages above debug level begin so.
    pub(crate) fn logged(&mut self, start: &[u8]) -> usize {
        self.read();
        count(&self.loud, start)
    }

    fn read(&mut self) {
        for (level, message) in self.file.iter_mut().flat_map(records) {
            if level != Some(DEBUG) {
                self.loud.push(message.clone());
            }
            self.new.push(message);
        }
    }
}

/// What was logged above debug level before the first case: the cases' own debug messages soon push it out.
static BOOT: OnceLock<Vec<String>> = OnceLock::new();

/// Keep what was logged so far.
pub(crate) fn remember_boot() {
    BOOT.get_or_init(|| {
        let records = open().map_or_else(Vec::new, |mut file| records(&mut file));
        records.into_iter().filter(|(level, _)| *level != Some(DEBUG)).map(|(_, message)| message).collect()
    });
}

/// How many of the messages above debug level before the first case begin so.
pub(crate) fn logged_at_boot(start: &[u8]) -> usize {
    BOOT.get().map_or(0, |lines| count(lines, start))
}

fn count(lines: &[String], start: &[u8]) -> usize {
    lines.iter().filter(|line| line.as_bytes().starts_with(start)).count()
}

fn open() -> Option<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/kmsg").ok()
}

/// What can be read now: levels and messages.
fn records(file: &mut File) -> Vec<(Option<u32>, String)> {
    let mut records = Vec::new();
    let mut record = vec![0; RECORD];
    loop {
        match file.read(&mut record) {
            Ok(count) => records.push(level_and_message(&String::from_utf8_lossy(&record[..count]))),
            // EPIPE: records were overwritten before they were read; the next read goes on behind the gap.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return records,
        }
    }
}

/// "priority,sequence,time,flags;message\n key=value\n"; the lowest three bits of the priority are the level.
pub(crate) fn level_and_message(record: &str) -> (Option<u32>, String) {
    let (prefix, rest) = record.split_once(';').unwrap_or((record, ""));
    let priority = prefix.split(',').next().and_then(|number| number.parse::<u32>().ok());
    (priority.map(|priority| priority & 7), rest.lines().next().unwrap_or_default().to_string())
}

/// Switch the debug messages on or off; says whether this kernel can.
pub(crate) fn switch_inner_errnos(on: bool) -> bool {
    switch_messages(if on { "=p" } else { "=_" })
}

/// Debug messages show the stacks that they come from, for as long as this lives. Then they are off.
#[derive(Debug)]
pub(crate) struct Stacks {
    levels: String,
}

/// Levels of messages: which ones the console shows, and which one those have that do not say.
const LEVELS: &str = "/proc/sys/kernel/printk";

impl Stacks {
    /// `None` if this kernel has no debug messages; some have them without stacks.
    pub(crate) fn shown() -> Option<Stacks> {
        let levels = fs::read_to_string(LEVELS).ok()?;
        let shown = levels.split_whitespace().next()?;
        // Lines of a stack do not say. On a console they would take longer than all the rest.
        fs::write(LEVELS, format!("{shown} {DEBUG}")).ok()?;
        let stacks = Stacks { levels };
        (switch_messages("=pd") || switch_inner_errnos(true)).then_some(stacks)
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        switch_inner_errnos(false);
        let _ = fs::write(LEVELS, &self.levels);
    }
}

fn switch_messages(change: &str) -> bool {
    let queries = SOURCES.map(|source| format!("file {source} {change}")).join("; ");
    CONTROLS.iter().any(|control| {
        let known = fs::read_to_string(control).is_ok_and(|text| text.contains("fs/fuse/"));
        let switched = OpenOptions::new()
            .write(true)
            .open(control)
            .and_then(|mut file| file.write_all(queries.as_bytes()));
        known && switched.is_ok()
    })
}

/// The errno in the first debug message that tells why an open reply was refused.
pub(crate) fn inner_errno(lines: &[String]) -> Option<i32> {
    // iomode.c, fuse_file_io_open: "failed to open file in requested io mode (open_flags=0x80, err=-22)."
    let number = lines.iter().find_map(|line| line.split_once("requested io mode")?.1.split_once("err=-"))?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_errno_behind_an_eio() {
        let lines = [
            "fuse: fuse_backing_open: backing_id=1, err=0".to_string(),
            "fuse: failed to open file in requested io mode (open_flags=0x80, err=-26).".to_string(),
        ];
        assert_eq!(inner_errno(&lines), Some(26));
        assert_eq!(inner_errno(&lines[..1]), None);
    }

    #[test]
    fn a_message_has_a_level() {
        let record = "15,1021,5140900,-;fuse: backing_id=1\n SUBSYSTEM=fuse\n";
        assert_eq!(level_and_message(record), (Some(DEBUG), "fuse: backing_id=1".to_string()));
        assert_eq!(level_and_message("6,1,0,-;fuse: init").0, Some(6));
    }
}
