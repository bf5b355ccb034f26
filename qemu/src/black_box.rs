//! A few kilobytes that the guest writes and the host can read after the guest is gone: plain memory, so that writing costs
//! nothing, in a PCI device of its own (`ivshmem-plain`), which a machine gets after it was restored.
//!
//! It holds one record, the last one written. What it means is not known here.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// How large the box is, with the record's length.
pub const BOX_BYTES: usize = 64 << 10;
const BYTES: NonZeroUsize = NonZeroUsize::new(BOX_BYTES).unwrap();
/// The most bytes of a record.
pub const MOST_RECORD: usize = BOX_BYTES - size_of::<u64>();

/// `PCI_VENDOR_ID_REDHAT_QUMRANET` and ivshmem's device.
const DEVICE: (&str, &str) = ("0x1af4", "0x1110");
const DEVICES: &str = "/sys/bus/pci/devices";
const RESCAN: &str = "/sys/bus/pci/rescan";

/// The box, to be written.
#[derive(Debug)]
pub struct BlackBox {
    memory: NonNull<c_void>,
}

impl BlackBox {
    /// The guest's.
    ///
    /// # Errors
    /// There is none, as the kernel has no PCI or no files for it, or it cannot be mapped.
    pub fn of_guest() -> io::Result<BlackBox> {
        let path = device()?.ok_or_else(|| io::Error::other("this machine has no black box"))?;
        BlackBox::on(&OpenOptions::new().read(true).write(true).open(path)?)
    }

    /// One in a file, which others may read meanwhile.
    ///
    /// # Errors
    /// What the system says of the file.
    pub fn in_file(path: &Path) -> io::Result<BlackBox> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(BOX_BYTES as u64)?;
        BlackBox::on(&file)
    }

    fn on(file: &File) -> io::Result<BlackBox> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, at an address that the kernel chooses.
        let memory = unsafe { mmap(None, BYTES, protection, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(BlackBox { memory })
    }

    /// Put a record in place of the last one; what is too long is cut.
    pub fn write(&mut self, record: &[u8]) {
        let record = &record[..record.len().min(MOST_RECORD)];
        let length = self.memory.cast::<u64>();
        // SAFETY: the box is mapped as long as this value lives, and the record fits. Nobody else writes; the length is
        // written last, so that what can be read is whole.
        unsafe {
            length.write_volatile(0);
            let to = length.add(1).cast::<u8>();
            std::ptr::copy_nonoverlapping(record.as_ptr(), to.as_ptr(), record.len());
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            length.write_volatile(record.len() as u64);
        }
    }
}

impl Drop for BlackBox {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made for it.
        let _ = unsafe { munmap(self.memory, BOX_BYTES) };
    }
}

/// The last record in a box's file; empty if none was written, or not to its end.
///
/// # Errors
/// The file cannot be read.
pub fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut length = [0; size_of::<u64>()];
    file.read_exact_at(&mut length, 0)?;
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    // Whoever wrote it may be out of its mind.
    let mut record = vec![0; length.min(MOST_RECORD)];
    file.read_exact_at(&mut record, size_of::<u64>() as u64)?;
    Ok(record)
}

/// The file by which the device's memory is mapped.
fn device() -> io::Result<Option<PathBuf>> {
    // It was plugged in without a word to the kernel.
    fs::write(RESCAN, "1")?;
    for device in fs::read_dir(DEVICES)? {
        let path = device?.path();
        let is = |name: &str, value: &str| {
            fs::read_to_string(path.join(name)).is_ok_and(|text| text.trim_end() == value)
        };
        if is("vendor", DEVICE.0) && is("device", DEVICE.1) {
            // Its memory is decoded only while it is switched on.
            fs::write(path.join("enable"), "1")?;
            return Ok(Some(path.join("resource2")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_can_be_read_and_a_mad_length_is_bounded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut written = BlackBox::in_file(file.path()).unwrap();
        assert_eq!(read(file.as_file()).unwrap(), b"");
        written.write(b"a long one");
        written.write(b"short");
        assert_eq!(read(file.as_file()).unwrap(), b"short");
        written.write(&vec![7; BOX_BYTES]);
        assert_eq!(read(file.as_file()).unwrap(), vec![7; MOST_RECORD]);
        file.as_file().write_all_at(&u64::MAX.to_le_bytes(), 0).unwrap();
        assert_eq!(read(file.as_file()).unwrap().len(), MOST_RECORD);
    }
}
