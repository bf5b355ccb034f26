//! A request's bytes, taken apart.

use zerocopy::FromBytes;

use super::{Opcode, fuse_in_header};

/// A request as it was read from the device: whole, or its beginning.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Its header.
    pub header: fuse_in_header,
    /// Its bytes, those of the header among them.
    pub bytes: Vec<u8>,
}

impl Incoming {
    /// The request that begins with these bytes; `None` if they end within its header.
    pub fn new(bytes: &[u8]) -> Option<Incoming> {
        let (header, _) = fuse_in_header::read_from_prefix(bytes).ok()?;
        Some(Incoming { header, bytes: bytes.to_vec() })
    }

    /// Are these all its bytes?
    pub fn is_whole(&self) -> bool {
        self.header.len as usize == self.bytes.len()
    }

    /// What it asks for.
    pub fn opcode(&self) -> Opcode {
        Opcode(self.header.opcode)
    }

    /// A field of the header or the body; 0 where the request has none of that name.
    pub fn field(&self, name: &str) -> i128 {
        self.opcode().request_field(name).and_then(|field| field.get(&self.bytes)).unwrap_or(0)
    }

    /// The same as an unsigned number.
    pub fn number(&self, name: &str) -> u64 {
        self.field(name) as u64
    }

    /// What follows the fixed part.
    pub fn tail(&self) -> &[u8] {
        let fixed =
            self.opcode().request_fields().iter().map(|field| field.offset + field.size).max().unwrap_or(0);
        self.bytes.get(size_of::<fuse_in_header>() + fixed..).unwrap_or_default()
    }

    /// The names that follow the fixed part, ended by NUL bytes.
    pub fn names(&self) -> Vec<String> {
        let mut parts: Vec<_> = self.tail().split(|byte| *byte == 0).collect();
        parts.pop();
        parts.into_iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Does the name in the request say which file it is about?
    pub fn names_a_child(&self) -> bool {
        matches!(
            self.opcode(),
            Opcode::LOOKUP
                | Opcode::SYMLINK
                | Opcode::MKNOD
                | Opcode::MKDIR
                | Opcode::UNLINK
                | Opcode::RMDIR
                | Opcode::RENAME
                | Opcode::RENAME2
                | Opcode::LINK
                | Opcode::CREATE
        )
    }

    /// All fields of header and body that are not zero.
    pub fn fields(&self) -> Vec<(String, i128)> {
        let fields = self.opcode().request_fields().iter().chain(fuse_in_header::FIELDS);
        let values = fields.map(|field| (field.name.to_string(), self.clean(field.name)));
        values.filter(|(_, value)| *value != 0).collect()
    }

    /// A field as cases compare it: without O_LARGEFILE, which every 64-bit process has.
    fn clean(&self, name: &str) -> i128 {
        const O_LARGEFILE: i128 = 0o100_000;
        let value = self.field(name);
        let opens = matches!(
            self.opcode(),
            Opcode::OPEN
                | Opcode::OPENDIR
                | Opcode::CREATE
                | Opcode::RELEASE
                | Opcode::RELEASEDIR
                | Opcode::READ
                | Opcode::WRITE
                | Opcode::READDIR
                | Opcode::TMPFILE
        );
        if opens && name == "flags" { value & !O_LARGEFILE } else { value }
    }
}
