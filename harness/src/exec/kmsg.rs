//! The kernel's log, while a case runs: splats, and the inner reasons that only debug messages tell.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

/// The debug messages that name an errno the application never sees (`fs/fuse/{passthrough,backing,iomode}.c`).
const QUERIES: &str = "file fs/fuse/passthrough.c +p; file fs/fuse/backing.c +p; file fs/fuse/iomode.c +p";
/// Where dynamic debug is switched, with and without debugfs.
const CONTROLS: [&str; 2] = ["/proc/dynamic_debug/control", "/sys/kernel/debug/dynamic_debug/control"];
/// The most a record can have (`LOG_LINE_MAX` and its prefix).
const RECORD: usize = 8192;

/// Reads what the kernel logs from now on.
#[derive(Debug)]
pub(crate) struct KernelLog(Option<File>);

impl KernelLog {
    pub(crate) fn follow() -> KernelLog {
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/kmsg");
        KernelLog(file.ok().and_then(|mut file| file.seek(SeekFrom::End(0)).ok().map(|_| file)))
    }

    /// The messages since the last call.
    pub(crate) fn take(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(file) = &mut self.0 else { return lines };
        let mut record = vec![0; RECORD];
        loop {
            match file.read(&mut record) {
                Ok(count) => {
                    // "priority,sequence,time,flags;message\n key=value\n"
                    let text = String::from_utf8_lossy(&record[..count]);
                    let message = text.split_once(';').map_or("", |(_, rest)| rest);
                    lines.push(message.lines().next().unwrap_or_default().to_string());
                }
                // EPIPE: records were overwritten before they were read; the next read goes on behind the gap.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return lines,
            }
        }
    }
}

/// Switch the debug messages on; says whether this kernel can.
pub(crate) fn switch_on_inner_errnos() -> bool {
    CONTROLS.iter().any(|control| {
        let known = fs::read_to_string(control).is_ok_and(|text| text.contains("fs/fuse/"));
        let switched = OpenOptions::new()
            .write(true)
            .open(control)
            .and_then(|mut file| file.write_all(QUERIES.as_bytes()));
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
}
