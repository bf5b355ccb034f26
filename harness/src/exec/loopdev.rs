//! Loop devices: a file as a block device, for file systems that want one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

/// `loop(4)` ioctls.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
/// Size of `struct loop_config`, which begins with the file; where its `info.lo_flags` is, and the flag.
const LOOP_CONFIG: usize = 304;
const LO_FLAGS: usize = 8 + 52;
const LO_FLAGS_AUTOCLEAR: u8 = 4;
/// How often somebody else may have been faster to take the device that was free.
const TRIES: usize = 50;

/// Make `image` a device. It is one as long as somebody has it open or mounted: first the file that is given.
///
/// With the last user it is free again, however that ends: nothing of ours outlives us.
pub(crate) fn attach(image: &Path) -> io::Result<(PathBuf, File)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    let file = OpenOptions::new().read(true).write(true).open(image)?;
    let mut tries = (0..TRIES).map(|_| take_free(&control, &file));
    let is_taken =
        |tried: &io::Result<_>| matches!(tried, Err(error) if error.raw_os_error() == Some(libc::EBUSY));
    tries.find(|tried| !is_taken(tried)).unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::EBUSY)))
}

/// `EBUSY` if somebody else has taken it meanwhile.
fn take_free(control: &File, image: &File) -> io::Result<(PathBuf, File)> {
    // SAFETY: the ioctl takes no argument and gives a number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number == -1 {
        return Err(io::Error::last_os_error());
    }
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&path)?;
    let mut config = [0_u8; LOOP_CONFIG];
    config[..4].copy_from_slice(&image.as_raw_fd().to_le_bytes());
    config[LO_FLAGS] = LO_FLAGS_AUTOCLEAR;
    // SAFETY: the kernel reads a whole `loop_config`, which lives across the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, config.as_ptr()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok((path, device))
}
