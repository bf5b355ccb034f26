//! Mappings, and touching them: a fault is an outcome, not the end of the actor.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::super::fault::exposed;
use super::{Holdings, Mapping, Outcome, last_errno, result};
use crate::program::{Call, Data, Observed, Value};

// Copies like memcpy and returns 0; a fault inside it is sent to `fuseproof_copy_fault` by the signal handler, which
// makes it return 1. Nothing is on the stack in between but the return address.
std::arch::global_asm!(
    ".globl fuseproof_copy",
    "fuseproof_copy:",
    "mov rcx, rdx",
    "rep movsb",
    "xor eax, eax",
    "ret",
    ".globl fuseproof_copy_fault",
    "fuseproof_copy_fault:",
    "mov eax, 1",
    "ret",
);

unsafe extern "C" {
    fn fuseproof_copy(to: *mut u8, from: *const u8, len: usize) -> i32;
    fn fuseproof_copy_fault();
}

static FAULT: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_fault(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    let (start, end) = (fuseproof_copy as *const () as usize, fuseproof_copy_fault as *const () as usize);
    // SAFETY: the kernel hands a valid context to a handler with SA_SIGINFO.
    let at = unsafe { &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize] };
    if (start..end).contains(&(*at as usize)) {
        FAULT.store(signal, Ordering::SeqCst);
        *at = end as i64;
    } else {
        // Our own mistake: let it show as what it is.
        // SAFETY: signal(2) and raise(3) are safe in a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Make faults inside [`touch`] outcomes, for this process and its children.
pub(super) fn catch_faults() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigAction(on_fault), SaFlags::SA_SIGINFO, SigSet::empty());
    for signal in [Signal::SIGBUS, Signal::SIGSEGV] {
        // SAFETY: the handler touches an atomic and the saved registers only.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

fn touch(to: *mut u8, from: *const u8, len: usize) -> Result<(), Observed> {
    // SAFETY: one side is a live buffer of `len` bytes; the other is a mapping of the script's, whose faults are caught.
    match unsafe { fuseproof_copy(to, from, len) } {
        0 => Ok(()),
        _ => Err(Observed::Signal(FAULT.load(Ordering::SeqCst))),
    }
}

impl Holdings {
    /// Let go of all mappings.
    pub(crate) fn unmap_all(&mut self) {
        let mut maps: Vec<Mapping> = std::mem::take(&mut self.maps).into_values().collect();
        maps.sort_by_key(|map| map.address);
        for map in maps {
            // SAFETY: a mapping of the script's; nothing of this program lives in it.
            unsafe { libc::munmap(map.address as *mut libc::c_void, map.len) };
        }
    }

    pub(super) fn memory_call(&mut self, call: &Call, bind: Option<&str>) -> Option<Outcome> {
        Some(match call.name.as_str() {
            "mmap" => self.mmap(call, bind),
            "load" => self.load(call),
            "store" => self.store(call),
            "mapped" => self.mapped(call),
            "read_into" | "write_from" => self.untouched(call),
            "ioctl_at" => self.ioctl_at(call),
            "msync" => self.whole(call, "flags", |pointer, len, flags| {
                // SAFETY: a mapping of the script's, here and below.
                unsafe { libc::msync(pointer, len, flags) }
            }),
            "mprotect" => self.whole(call, "prot", |pointer, len, prot| {
                // SAFETY: as above; nothing of this program lives in it.
                unsafe { libc::mprotect(pointer, len, prot) }
            }),
            "madvise" => self.whole(call, "advice", |pointer, len, advice| {
                // SAFETY: as above.
                unsafe { libc::madvise(pointer, len, advice) }
            }),
            "munmap" => {
                let done = self.whole(call, "", |pointer, len, _| {
                    // SAFETY: as above; its name is forgotten below.
                    unsafe { libc::munmap(pointer, len) }
                });
                if let (Ok(Observed::Int(_)), Some(Value::Name(name, _))) = (&done, call.arg("map")) {
                    self.maps.remove(name);
                }
                done
            }
            _ => return None,
        })
    }

    fn mapping(&self, call: &Call) -> Result<(Mapping, usize), String> {
        let Some(Value::Name(name, offset)) = call.arg("map") else {
            return Err("`map` is no mapping".into());
        };
        let mapping = self.maps.get(name).ok_or_else(|| format!("there is no mapping `{name}` here"))?;
        Ok((*mapping, usize::try_from(*offset).map_err(|_| format!("{name}{offset} is before the mapping"))?))
    }

    fn whole(
        &self,
        call: &Call,
        name: &str,
        work: impl FnOnce(*mut libc::c_void, usize, i32) -> i32,
    ) -> Outcome {
        let (mapping, _) = self.mapping(call)?;
        let argument = self.number(call, name, 0)? as i32;
        let address = mapping.address as *mut libc::c_void;
        Ok(result(exposed(|| work(address, mapping.len, argument)).into()))
    }

    fn mmap(&mut self, call: &Call, bind: Option<&str>) -> Outcome {
        let (fd, len) = (self.fd(call, "fd")?, self.len(call)?);
        let (prot, flags) = (self.number(call, "prot", 0)? as i32, self.number(call, "flags", 0)? as i32);
        let offset = self.number(call, "offset", 0)?;
        // SAFETY: without MAP_FIXED, which has no name in scripts, the kernel picks unused addresses.
        let address = exposed(|| unsafe {
            libc::mmap(std::ptr::null_mut(), len, prot, flags & !libc::MAP_FIXED, fd, offset)
        });
        if address == libc::MAP_FAILED {
            return Ok(Observed::Errno(last_errno()));
        }
        let name = bind.unwrap_or_default();
        if let Some(earlier) = self.maps.insert(name.to_string(), Mapping { address: address as usize, len })
        {
            // No script can name it any more; it is still to be let go of.
            self.maps.insert(format!("{name} at {:x}", earlier.address), earlier);
        }
        Ok(Observed::Int(0))
    }

    fn load(&self, call: &Call) -> Outcome {
        let (mapping, offset) = self.mapping(call)?;
        let len = self.len(call)?;
        let mut buffer = vec![0; len];
        let place = inside(mapping, offset, len)?;
        Ok(match exposed(|| touch(buffer.as_mut_ptr(), place, len)) {
            Ok(()) => Observed::Data(Data(buffer)),
            Err(signal) => signal,
        })
    }

    /// The mapping's file as `maps` and `smaps` name it, in the words of scripts.
    fn mapped(&self, call: &Call) -> Outcome {
        let (mapping, _) = self.mapping(call)?;
        let start = format!("{:x}-", mapping.address);
        let line = |list: &str| -> Option<String> {
            let text = fs::read_to_string(format!("/proc/self/{list}")).ok()?;
            text.lines().find(|line| line.starts_with(&start)).map(str::to_string)
        };
        let shown = line("maps").ok_or("/proc/self/maps has no such mapping")?;
        if line("smaps").as_ref() != Some(&shown) {
            return Err("/proc/self/maps and smaps disagree".into());
        }
        // "start-end rwxp offset major:minor inode   path"
        let mut words = shown.split_ascii_whitespace().skip(3);
        let (Some(device), Some(inode), Some(path)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("`{shown}` names no file"));
        };
        let there = fs::metadata(path).map_err(|error| format!("{path}: {error}"))?;
        let (major, minor) = (libc::major(there.dev()), libc::minor(there.dev()));
        let agrees = device == format!("{major:02x}:{minor:02x}") && inode == there.ino().to_string();
        let below = Path::new(path)
            .strip_prefix(&self.base)
            .map_or(path.into(), |below| below.to_string_lossy().replacen('/', ":", 1));
        let text = if agrees { below } else { format!("{below}, but {device} {inode}") };
        Ok(Observed::Data(Data(text.into_bytes())))
    }

    fn store(&self, call: &Call) -> Outcome {
        let (mapping, offset) = self.mapping(call)?;
        let data = call.data("data").0;
        let place = inside(mapping, offset, data.len())?;
        Ok(match exposed(|| touch(place, data.as_ptr(), data.len())) {
            Ok(()) => Observed::Int(0),
            Err(signal) => signal,
        })
    }
}

impl Holdings {
    /// The kernel's own access faults, if any does.
    fn untouched(&self, call: &Call) -> Outcome {
        let (mapping, offset) = self.mapping(call)?;
        let (fd, len) = (self.fd(call, "fd")?, self.len(call)?);
        let place = inside(mapping, offset, len)?.cast();
        Ok(result(match call.name.as_str() {
            // SAFETY: within a mapping of the script's; nothing of this program lives in it. Here and below.
            "read_into" => exposed(|| unsafe { libc::read(fd, place, len) }),
            // SAFETY: as above.
            _ => exposed(|| unsafe { libc::write(fd, place, len) }),
        } as i64))
    }

    fn ioctl_at(&self, call: &Call) -> Outcome {
        let (mapping, offset) = self.mapping(call)?;
        let (fd, number) = (self.fd(call, "fd")?, self.number(call, "number", 0)?);
        let place = inside(mapping, offset, 0)?;
        // SAFETY: as above; behind the mapping's end is none of this program's memory that the kernel would write to.
        Ok(result(exposed(|| unsafe { libc::ioctl(fd, number as libc::c_ulong, place) }).into()))
    }

    /// Put bytes into the mapping that `map` names, for a call that is to take them from there.
    pub(crate) fn lay_into_map(&self, call: &Call, bytes: &[u8]) -> Result<&[u8], String> {
        let (mapping, offset) = self.mapping(call)?;
        let place = inside(mapping, offset, bytes.len())?;
        touch(place, bytes.as_ptr(), bytes.len())
            .map_err(|signal| format!("the mapping faults: {signal}"))?;
        // SAFETY: the bytes were just written there, and mappings outlive the call: only a script's munmap ends one.
        Ok(unsafe { std::slice::from_raw_parts(place, bytes.len()) })
    }
}

fn inside(mapping: Mapping, offset: usize, len: usize) -> Result<*mut u8, String> {
    match offset.checked_add(len) {
        Some(end) if end <= mapping.len => Ok((mapping.address + offset) as *mut u8),
        _ => Err(format!("{len} bytes at {offset} are not inside a mapping of {} bytes", mapping.len)),
    }
}
