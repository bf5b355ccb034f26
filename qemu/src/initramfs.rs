//! The guest's first file system: a newc archive with PID 1, the programs it needs with their dynamic closure, and kernel
//! modules ready to load.
//!
//! The same inputs give the same bytes (no times, no inode numbers of the host), as the digest of the archive is
//! part of a saved state's key. It refuses to run anything and to write to disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::closure::{ClosureError, closure};

/// Where PID 1 finds the modules, named so that their order is the order to load them in.
pub(crate) const MODULES: &str = "modules";

/// With it the guest's loader finds the libraries where the host's did, also outside the default folders.
const LD_SO_CACHE: &str = "/etc/ld.so.cache";

/// Mount points, and what `tmpfs` covers later.
const FOLDERS: [&str; 6] = ["dev", "proc", "sys", "tmp", "run", "root"];

/// An archive in the making.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Initramfs {
    /// Put the program `host` at `guest`, an absolute path, and all it needs to start where its loader looks for it.
    pub(crate) fn add_program(&mut self, host: &Path, guest: &str) -> Result<(), ClosureError> {
        let needed = closure(host)?;
        if !needed.is_empty() && Path::new(LD_SO_CACHE).exists() {
            self.add_file(Path::new(LD_SO_CACHE), LD_SO_CACHE)?;
        }
        for library in needed {
            self.add_file(&library, &library.to_string_lossy())?;
        }
        self.add_file(host, guest)
    }

    /// Put a kernel module behind those that are there.
    pub(crate) fn add_module(&mut self, name: &str, bytes: Vec<u8>) {
        let place = format!("{MODULES}/");
        let number = self.files.keys().filter(|path| path.starts_with(&place)).count();
        self.files.insert(format!("{place}{number:02}-{name}.ko"), (0o644, bytes));
    }

    fn add_file(&mut self, host: &Path, guest: &str) -> Result<(), ClosureError> {
        let bytes =
            fs::read(host).map_err(|source| ClosureError::Unreadable { path: host.to_owned(), source })?;
        self.files.insert(guest.trim_start_matches('/').to_owned(), (0o755, bytes));
        Ok(())
    }

    /// The archive.
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        let mut folders: Vec<PathBuf> = FOLDERS.map(PathBuf::from).to_vec();
        for path in self.files.keys() {
            folders.extend(Path::new(path).ancestors().skip(1).map(Path::to_owned));
        }
        folders.retain(|folder| folder.components().next().is_some());
        folders.sort();
        folders.dedup();

        let mut archive = Vec::new();
        for folder in folders {
            let entry = Builder::new(&folder.to_string_lossy())
                .mode(0o755)
                .set_mode_file_type(ModeFileType::Directory);
            archive = entry.nlink(2).write(archive, 0).finish()?;
        }
        // The kernel opens it for PID 1's standard streams before anything can be mounted.
        let console = Builder::new("dev/console").mode(0o600).set_mode_file_type(ModeFileType::Char);
        archive = console.nlink(1).rdev_major(5).rdev_minor(1).write(archive, 0).finish()?;
        for (path, (mode, bytes)) in self.files {
            let size =
                u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
            let entry = Builder::new(&path).mode(mode).set_mode_file_type(ModeFileType::Regular).nlink(1);
            let mut writer = entry.write(archive, size);
            io::Write::write_all(&mut writer, &bytes)?;
            archive = writer.finish()?;
        }
        trailer(archive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(archive: &[u8]) -> String {
        let mut lines = Vec::new();
        let mut rest = archive;
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                return lines.join("\n");
            }
            lines.push(format!("{:o} {} {}", entry.mode(), entry.name(), entry.file_size()));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn an_archive_has_folders_before_what_is_in_them_and_modules_in_order() {
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(&script, "#!x").unwrap();
        let mut image = Initramfs::default();
        image.add_module("virtio", b"12".to_vec());
        image.add_module("fuse", b"345".to_vec());
        image.add_program(script.path(), "/init").unwrap();
        image.add_program(script.path(), "/usr/bin/tool").unwrap();
        insta::assert_snapshot!(listing(&image.finish().unwrap()), @r"
        40755 dev 0
        40755 modules 0
        40755 proc 0
        40755 root 0
        40755 run 0
        40755 sys 0
        40755 tmp 0
        40755 usr 0
        40755 usr/bin 0
        20600 dev/console 0
        100755 init 3
        100644 modules/00-virtio.ko 2
        100644 modules/01-fuse.ko 3
        100755 usr/bin/tool 3
        ");
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes_and_carry_the_closure() {
        let build = || {
            let mut image = Initramfs::default();
            image.add_program(&std::env::current_exe().unwrap(), "/init").unwrap();
            image.finish().unwrap()
        };
        let archive = build();
        assert!(archive == build());
        let listing = listing(&archive);
        assert!(
            listing.contains(" init ") && listing.contains("libc.so") && listing.contains("ld-linux"),
            "{listing}"
        );
    }
}
