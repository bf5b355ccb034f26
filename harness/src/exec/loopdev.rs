//! Loop devices: a file as a block device, for file systems that want one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

/// `loop(4)` ioctls.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_SET_FD: libc::c_ulong = 0x4c00;
const LOOP_SET_STATUS64: libc::c_ulong = 0x4c04;
/// Size of `struct loop_info64`, where its `lo_flags` is, and the flag.
const LOOP_INFO: usize = 232;
const LO_FLAGS: usize = 52;
const LO_FLAGS_AUTOCLEAR: u8 = 4;

/// Make `image` a device. It is one as long as somebody has it open or mounted: first the file that is given.
pub(crate) fn attach(image: &Path) -> io::Result<(PathBuf, File)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    // SAFETY: the ioctl takes no argument and gives a number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number == -1 {
        return Err(io::Error::last_os_error());
    }
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&path)?;
    let file = OpenOptions::new().read(true).write(true).open(image)?;
    // SAFETY: the ioctl takes a descriptor as a number.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD, file.as_raw_fd()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // With the last user the device is free again, however that ends: nothing of ours outlives us.
    let mut info = [0_u8; LOOP_INFO];
    info[LO_FLAGS] = LO_FLAGS_AUTOCLEAR;
    // SAFETY: the kernel reads a whole `loop_info64`, which lives across the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64, info.as_ptr()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok((path, device))
}
