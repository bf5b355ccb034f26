//! Calls about places: mounting a device, and watching a file. And ioctl(2) as a 32-bit program makes it.

use std::path::Path;

use nix::libc;

use super::super::stage::mount_fuse;
use super::{Holdings, Outcome, c_string, last_errno, result};
use crate::program::{Call, Observed};

/// `enum fsconfig_command` of `linux/mount.h`.
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
/// The number of ioctl(2) for 32-bit programs.
const IOCTL32: u32 = 54;

impl Holdings {
    pub(super) fn place_call(&self, call: &Call) -> Option<Outcome> {
        Some(match call.name.as_str() {
            "mount_fuse" => self.mount_fuse(call),
            "fsopen" => c_string(call.data("type").0).map(|kind| {
                // SAFETY: a C string, and a number.
                result(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 0) })
            }),
            "fsconfig" => self.fsconfig(call),
            "watch" => self.watch(call),
            "ioctl32" => self.ioctl32(call),
            _ => return None,
        })
    }

    fn mount_fuse(&self, call: &Call) -> Outcome {
        let fd = self.fd(call, "fd")?;
        let options = String::from_utf8_lossy(&call.data("options").0).into_owned();
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,{options}");
        let path = self.path(call.text("path"));
        Ok(match mount_fuse("fuse", Path::new("fuseproof"), &path, options.trim_end_matches(',')) {
            Ok(()) => Observed::Int(0),
            Err(errno) => Observed::Errno(errno as i32),
        })
    }

    fn fsconfig(&self, call: &Call) -> Outcome {
        let fd = self.fd(call, "fd")?;
        let (key, value) = (call.data("key").0, call.data("value").0);
        if key == b"create" {
            let null = std::ptr::null::<u8>();
            // SAFETY: this command has neither key nor value.
            let number = unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0) };
            return Ok(result(number));
        }
        let (key, value) = (c_string(key)?, c_string(value)?);
        let (key, value) = (key.as_ptr(), value.as_ptr());
        // SAFETY: two C strings.
        Ok(result(unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_SET_STRING, key, value, 0) }))
    }

    fn watch(&self, call: &Call) -> Outcome {
        let path = self.c_path(call, "path")?;
        // SAFETY: plain system call that makes a descriptor.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        // SAFETY: a C string, and numbers.
        if fd == -1 || unsafe { libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_ALL_EVENTS) } == -1 {
            return Ok(Observed::Errno(last_errno()));
        }
        Ok(Observed::Int(fd.into()))
    }

    fn ioctl32(&self, call: &Call) -> Outcome {
        let (fd, number) = (self.fd(call, "fd")?, self.number(call, "number", 0)? as u32);
        let argument = call.data("argument").0;
        let (len, place) = (1 << 15, std::ptr::null_mut());
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT);
        // SAFETY: new memory, where such a program could have it.
        let room = unsafe { libc::mmap(place, len, prot, flags, -1, 0) };
        if room == libc::MAP_FAILED || argument.len() > len {
            return Err("there is no room for the argument".into());
        }
        // SAFETY: the room is large enough and belongs to nobody else.
        unsafe { std::ptr::copy_nonoverlapping(argument.as_ptr(), room.cast(), argument.len()) };
        let done: i32;
        // SAFETY: the old entry of the kernel keeps all registers but the result. It takes the first argument in ebx,
        // which the compiler wants back.
        unsafe {
            std::arch::asm!(
                "xchg {fd:r}, rbx",
                "int 0x80",
                "xchg {fd:r}, rbx",
                fd = inout(reg) fd as u64 => _,
                inlateout("eax") IOCTL32 => done,
                in("ecx") number,
                in("edx") room as usize as u32,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
            libc::munmap(room, len);
        }
        Ok(if done < 0 { Observed::Errno(-done) } else { Observed::Int(done.into()) })
    }
}
