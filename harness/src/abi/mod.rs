//! The wire format of FUSE: opcodes, structures, sizes.
//!
//! Structures and constants keep the kernel's names (`include/uapi/linux/fuse.h`). Beside each structure stands its
//! table of fields, so that scripts can name any of them. Nothing here does I/O.

mod message;
mod opcode;
mod structs;

pub use message::Incoming;
pub use opcode::Opcode;
pub use structs::*;

/// In the place of a reply's error: what follows the header are descriptors of pipes. Only the vz-splice dialect knows it.
pub const FUSE_OUT_SPLICES: i32 = 0x4000_0000;

/// One field of a wire structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The kernel's name.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes: 2, 4 or 8.
    pub size: usize,
    /// Whether the number is signed.
    pub signed: bool,
}

impl Field {
    /// Put a value into a structure's bytes; what does not fit is cut off, as a cast would.
    pub fn put(&self, bytes: &mut [u8], value: i128) {
        bytes[self.offset..self.offset + self.size].copy_from_slice(&value.to_le_bytes()[..self.size]);
    }

    /// The value that a structure's bytes hold; `None` if they end before it.
    pub fn get(&self, bytes: &[u8]) -> Option<i128> {
        let part = bytes.get(self.offset..self.offset + self.size)?;
        let mut wide = [0; 8];
        wide[..self.size].copy_from_slice(part);
        let value = u64::from_le_bytes(wide);
        let unused = 64 - 8 * self.size;
        Some(if self.signed { i128::from((value << unused) as i64 >> unused) } else { i128::from(value) })
    }
}
