//! A request as it was read from the device.

use zerocopy::FromBytes;

use super::nodes::Nodes;
use crate::abi::{Opcode, fuse_in_header};
use crate::program::Data;

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    /// Which of the daemon's devices it came from; the answer must go there.
    pub(super) device: usize,
    pub(super) header: fuse_in_header,
    pub(super) bytes: Vec<u8>,
}

impl Request {
    /// `None` if the bytes are no whole request.
    pub(super) fn new(device: usize, bytes: &[u8]) -> Option<Request> {
        let (header, _) = fuse_in_header::read_from_prefix(bytes).ok()?;
        (header.len as usize == bytes.len()).then(|| Request { device, header, bytes: bytes.to_vec() })
    }

    pub(super) fn opcode(&self) -> Opcode {
        Opcode(self.header.opcode)
    }

    /// A field of the header or the body; 0 where the request has none of that name.
    pub(super) fn field(&self, name: &str) -> i128 {
        self.opcode().request_field(name).and_then(|field| field.get(&self.bytes)).unwrap_or(0)
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        self.field(name) as u64
    }

    /// What follows the fixed part.
    pub(super) fn tail(&self) -> &[u8] {
        let fixed =
            self.opcode().request_fields().iter().map(|field| field.offset + field.size).max().unwrap_or(0);
        self.bytes.get(size_of::<fuse_in_header>() + fixed..).unwrap_or_default()
    }

    /// The names that follow the fixed part, ended by NUL bytes.
    pub(super) fn names(&self) -> Vec<String> {
        let mut parts: Vec<_> = self.tail().split(|byte| *byte == 0).collect();
        parts.pop();
        parts.into_iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Does the name in the request say which file it is about?
    pub(super) fn names_a_child(&self) -> bool {
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

    /// The path it is about, relative to the mount's root.
    pub(super) fn path(&self, nodes: &Nodes) -> String {
        let own = nodes.path(self.header.nodeid).unwrap_or("?").to_string();
        match self.names().first() {
            Some(name) if self.names_a_child() => nodes.child(self.header.nodeid, name).unwrap_or(own),
            _ => own,
        }
    }

    /// All fields of header and body that are not zero.
    pub(super) fn fields(&self) -> Vec<(String, i128)> {
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

    /// Bytes behind the fixed part that are worth showing.
    pub(super) fn shown_data(&self) -> Option<Data> {
        match self.opcode() {
            Opcode::WRITE | Opcode::NOTIFY_REPLY => Some(Data(self.tail().to_vec())),
            Opcode::GETXATTR | Opcode::SETXATTR | Opcode::REMOVEXATTR => {
                self.names().first().map(|name| Data(name.clone().into_bytes()))
            }
            _ => None,
        }
    }
}
