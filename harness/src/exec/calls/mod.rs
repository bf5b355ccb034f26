//! The calls that any actor makes: on files, memory, descriptors and its own process.
//!
//! Straight to the system calls, so that every argument of a script reaches the kernel as it was written, valid or
//! not. What a call led to is data; nothing here judges it.

mod asynchronous;
mod between;
mod files;
pub(super) mod many;
mod memory;
mod paths;
mod places;
mod process;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use nix::libc;

use super::fault;
use crate::program::{Call, Data, Observed, Value};

/// What an actor holds: its open files and mappings under the script's names, and where paths start.
#[derive(Debug)]
pub(crate) struct Holdings {
    /// The case's folder, which holds `mnt`, `lower`, ...
    pub(crate) base: PathBuf,
    /// The root that a path without a prefix starts from: `mnt`, `lower2`.
    pub(crate) root: String,
    /// Descriptors, backing ids, uniques of held requests.
    pub(crate) numbers: BTreeMap<String, i64>,
    maps: BTreeMap<String, Mapping>,
    /// Has a call changed the process itself? Then it is good for no other case.
    pub(crate) spoiled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    address: usize,
    len: usize,
}

/// The most bytes one read or mapping may ask for.
const MOST: i128 = 64 << 20;

/// Make what calls do to this process an outcome, where the kernel would end it by a signal.
pub(crate) fn handle_signals() -> nix::Result<()> {
    memory::catch_faults()?;
    process::heed_signals()
}

/// Why a call could not be made, as opposed to failed.
type Impossible = String;
/// Success gives an observation, or the name of what could not be done.
pub(crate) type Outcome = Result<Observed, Impossible>;

impl Holdings {
    pub(crate) fn new(base: PathBuf, root: String) -> Holdings {
        Holdings { base, root, numbers: BTreeMap::new(), maps: BTreeMap::new(), spoiled: false }
    }

    /// Let go of everything, as the end of the process would: first mappings, then descriptors, from the lowest on.
    /// Says whether the process is as good as new.
    pub(crate) fn let_go(&mut self) -> bool {
        self.unmap_all();
        self.numbers.clear();
        // SAFETY: what a script opened belongs to no object of ours; descriptor 3 is the pipe to the conductor.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0) };
        closed == 0 && !self.spoiled
    }

    /// Make the call. What it yields is called `bind` from here on.
    pub(crate) fn perform(&mut self, call: &Call, bind: Option<&str>) -> Observed {
        let done = self
            .file_call(call)
            .or_else(|| self.path_call(call))
            .or_else(|| self.memory_call(call, bind))
            .or_else(|| self.between_call(call, bind))
            .or_else(|| self.asynchronous_call(call))
            .or_else(|| self.place_call(call))
            .or_else(|| self.many_call(call))
            .or_else(|| self.process_call(call));
        match done {
            None => Observed::Impossible(format!("`{}` is not for this actor", call.name)),
            Some(Err(why)) => Observed::Impossible(why),
            Some(Ok(Observed::Int(number)))
                if bind.is_some_and(|_| call.name != "mmap" && call.name != "pipe") =>
            {
                self.numbers.insert(bind.unwrap_or_default().to_string(), number);
                Observed::Int(number)
            }
            Some(Ok(observed)) => observed,
        }
    }

    /// The number an argument stands for; `default` where it was left out.
    pub(crate) fn number(&self, call: &Call, name: &str, default: i64) -> Result<i64, Impossible> {
        match call.arg(name) {
            None => Ok(default),
            // Numbers are passed on by their bits: 0xffffffffffffffff is as good as -1.
            Some(Value::Int(value)) => Ok(*value as i64),
            Some(Value::Name(name, offset)) => match self.numbers.get(name) {
                Some(number) => Ok(number.wrapping_add(*offset)),
                None => Err(format!("there is no `{name}` here")),
            },
            Some(_) => Err(format!("`{name}` is no number")),
        }
    }

    fn fd(&self, call: &Call, name: &str) -> Result<i32, Impossible> {
        self.number(call, name, -1).map(|number| number as i32)
    }

    fn len(&self, call: &Call) -> Result<usize, Impossible> {
        let len = self.number(call, "len", 0)?;
        if (0..=MOST).contains(&i128::from(len)) {
            Ok(len as usize)
        } else {
            Err(format!("a length of {len}"))
        }
    }

    /// The absolute path that a script's path stands for.
    pub(crate) fn path(&self, text: &str) -> PathBuf {
        if text.starts_with('/') {
            return PathBuf::from(text);
        }
        match text.split_once(':') {
            Some((root, rest)) => self.base.join(root).join(rest),
            None => self.base.join(&self.root).join(text),
        }
    }

    fn c_path(&self, call: &Call, name: &str) -> Result<CString, Impossible> {
        c_string(self.path(call.text(name)).into_os_string().into_encoded_bytes())
    }
}

fn c_string(bytes: impl Into<Vec<u8>>) -> Result<CString, Impossible> {
    CString::new(bytes).map_err(|_| "a NUL byte in a name".to_string())
}

/// The result of a system call: a number, or an errno.
fn result(number: i64) -> Observed {
    if number == -1 { Observed::Errno(last_errno()) } else { Observed::Int(number) }
}

/// The same of what the library called.
pub(crate) fn observed(result: io::Result<i64>) -> Observed {
    result.map_or_else(|error| failed(&error), Observed::Int)
}

/// What was read, as an outcome.
pub(crate) fn content(read: io::Result<Vec<u8>>) -> Observed {
    read.map_or_else(|error| failed(&error), |bytes| Observed::Data(Data(bytes)))
}

/// A failure, as an outcome: one that no system call gave an errno is none of the kernel's.
pub(crate) fn failed(error: &io::Error) -> Observed {
    error.raw_os_error().map_or_else(|| Observed::Impossible(error.to_string()), Observed::Errno)
}

pub(crate) fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The result of a call that filled `buffer`.
fn filled(number: i64, mut buffer: Vec<u8>) -> Observed {
    if number == -1 {
        return Observed::Errno(last_errno());
    }
    buffer.truncate(number as usize);
    Observed::Data(Data(buffer))
}

/// A buffer aligned for O_DIRECT: the buffer, and where its aligned part starts.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    const TO: usize = 4096;

    fn new(len: usize) -> Aligned {
        let mut buffer = vec![0; len + Self::TO];
        fault::make_present(&mut buffer);
        let start = buffer.as_ptr().align_offset(Self::TO);
        Aligned(buffer, start)
    }

    fn holding(data: &[u8]) -> Aligned {
        let mut aligned = Aligned::new(data.len());
        let start = aligned.1;
        aligned.0[start..start + data.len()].copy_from_slice(data);
        aligned
    }

    fn pointer(&mut self) -> *mut u8 {
        self.0[self.1..].as_mut_ptr()
    }

    fn into_vec(mut self) -> Vec<u8> {
        self.0.drain(..self.1);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_errno_is_no_failure_of_the_kernels() {
        assert_eq!(observed(Ok(7)), Observed::Int(7));
        assert_eq!(observed(Err(io::Error::from_raw_os_error(libc::EIO))), Observed::Errno(libc::EIO));
        assert_eq!(content(Err(io::Error::other("it is lost"))), Observed::Impossible("it is lost".into()));
    }
}
