//! Opcodes.

use serde::{Deserialize, Serialize};

use super::{
    Field, fuse_access_in, fuse_attr_out, fuse_copy_file_range_in, fuse_copy_file_range_out, fuse_create_in,
    fuse_entry_out, fuse_fallocate_in, fuse_flush_in, fuse_forget_in, fuse_fsync_in, fuse_getattr_in,
    fuse_getxattr_in, fuse_getxattr_out, fuse_in_header, fuse_init_in, fuse_init_out, fuse_interrupt_in,
    fuse_ioctl_in, fuse_ioctl_out, fuse_link_in, fuse_lk_in, fuse_lk_out, fuse_lseek_in, fuse_lseek_out,
    fuse_mkdir_in, fuse_mknod_in, fuse_notify_retrieve_in, fuse_open_in, fuse_open_out, fuse_out_header,
    fuse_poll_in, fuse_poll_out, fuse_read_in, fuse_release_in, fuse_rename_in, fuse_rename2_in,
    fuse_setattr_in, fuse_setxattr_in, fuse_statfs_out, fuse_statx_in, fuse_statx_out, fuse_write_in,
    fuse_write_out,
};

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, in [$($input:ident)?], out [$($output:ident),*];)+) => {
        /// A request's opcode, under its kernel name without `FUSE_`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(into = "u32", from = "u32")]
        pub struct Opcode(pub u32);

        impl Opcode {
            $($(#[$doc])* #[doc = concat!("`FUSE_", stringify!($name), "`")] pub const $name: Opcode = Opcode($number);)+
            /// Every opcode the kernel sends.
            pub const ALL: &[Opcode] = &[$(Opcode($number)),+];

            /// The kernel's name without `FUSE_`, if the opcode is known.
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)+ _ => None }
            }

            /// Fields of the fixed part behind the request's header; empty where there is none.
            pub fn request_fields(self) -> &'static [Field] {
                match self.0 { $($number => [$($input::FIELDS,)? &[] as &[Field]][0],)+ _ => &[] }
            }

            /// The fixed parts of a reply, in order; empty where there is none.
            pub fn reply_parts(self) -> &'static [(&'static [Field], usize)] {
                match self.0 { $($number => &[$(($output::FIELDS, size_of::<$output>())),*],)+ _ => &[] }
            }
        }
    };
}

opcodes! {
    LOOKUP = 1, in [], out [fuse_entry_out];
    FORGET = 2, in [fuse_forget_in], out [];
    GETATTR = 3, in [fuse_getattr_in], out [fuse_attr_out];
    SETATTR = 4, in [fuse_setattr_in], out [fuse_attr_out];
    READLINK = 5, in [], out [];
    SYMLINK = 6, in [], out [fuse_entry_out];
    MKNOD = 8, in [fuse_mknod_in], out [fuse_entry_out];
    MKDIR = 9, in [fuse_mkdir_in], out [fuse_entry_out];
    UNLINK = 10, in [], out [];
    RMDIR = 11, in [], out [];
    RENAME = 12, in [fuse_rename_in], out [];
    LINK = 13, in [fuse_link_in], out [fuse_entry_out];
    OPEN = 14, in [fuse_open_in], out [fuse_open_out];
    READ = 15, in [fuse_read_in], out [];
    WRITE = 16, in [fuse_write_in], out [fuse_write_out];
    STATFS = 17, in [], out [fuse_statfs_out];
    RELEASE = 18, in [fuse_release_in], out [];
    FSYNC = 20, in [fuse_fsync_in], out [];
    SETXATTR = 21, in [fuse_setxattr_in], out [];
    GETXATTR = 22, in [fuse_getxattr_in], out [fuse_getxattr_out];
    LISTXATTR = 23, in [fuse_getxattr_in], out [fuse_getxattr_out];
    REMOVEXATTR = 24, in [], out [];
    FLUSH = 25, in [fuse_flush_in], out [];
    INIT = 26, in [fuse_init_in], out [fuse_init_out];
    OPENDIR = 27, in [fuse_open_in], out [fuse_open_out];
    READDIR = 28, in [fuse_read_in], out [];
    RELEASEDIR = 29, in [fuse_release_in], out [];
    FSYNCDIR = 30, in [fuse_fsync_in], out [];
    GETLK = 31, in [fuse_lk_in], out [fuse_lk_out];
    SETLK = 32, in [fuse_lk_in], out [];
    SETLKW = 33, in [fuse_lk_in], out [];
    ACCESS = 34, in [fuse_access_in], out [];
    CREATE = 35, in [fuse_create_in], out [fuse_entry_out, fuse_open_out];
    INTERRUPT = 36, in [fuse_interrupt_in], out [];
    BMAP = 37, in [], out [];
    DESTROY = 38, in [], out [];
    IOCTL = 39, in [fuse_ioctl_in], out [fuse_ioctl_out];
    POLL = 40, in [fuse_poll_in], out [fuse_poll_out];
    NOTIFY_REPLY = 41, in [fuse_notify_retrieve_in], out [];
    BATCH_FORGET = 42, in [], out [];
    FALLOCATE = 43, in [fuse_fallocate_in], out [];
    READDIRPLUS = 44, in [fuse_read_in], out [];
    RENAME2 = 45, in [fuse_rename2_in], out [];
    LSEEK = 46, in [fuse_lseek_in], out [fuse_lseek_out];
    COPY_FILE_RANGE = 47, in [fuse_copy_file_range_in], out [fuse_write_out];
    SYNCFS = 50, in [], out [];
    TMPFILE = 51, in [fuse_create_in], out [fuse_entry_out, fuse_open_out];
    STATX = 52, in [fuse_statx_in], out [fuse_statx_out];
    COPY_FILE_RANGE_64 = 53, in [fuse_copy_file_range_in], out [fuse_copy_file_range_out];
}

impl Opcode {
    /// The opcode of that name (`OPEN`).
    pub fn parse(name: &str) -> Option<Opcode> {
        Opcode::ALL.iter().copied().find(|opcode| opcode.name() == Some(name))
    }

    /// Requests that come and go with caches and memory pressure, and are no part of what most cases are about:
    /// an exact list of what the daemon saw leaves them out unless it names them.
    pub fn is_housekeeping(self) -> bool {
        matches!(
            self,
            Opcode::LOOKUP
                | Opcode::GETATTR
                | Opcode::STATX
                | Opcode::GETXATTR
                | Opcode::ACCESS
                | Opcode::STATFS
                | Opcode::FORGET
                | Opcode::BATCH_FORGET
                | Opcode::INTERRUPT
                | Opcode::INIT
                | Opcode::POLL
        )
    }

    /// Is there no reply to it?
    pub fn has_no_reply(self) -> bool {
        matches!(self, Opcode::FORGET | Opcode::BATCH_FORGET | Opcode::INTERRUPT | Opcode::NOTIFY_REPLY)
    }

    /// The field of a request of this opcode: the header's, or the body's. None but `padding` has a name in both.
    pub fn request_field(self, name: &str) -> Option<Field> {
        let header = size_of::<fuse_in_header>();
        let body = self.request_fields().iter().find(|field| field.name == name);
        body.map(|field| Field { offset: field.offset + header, ..*field })
            .or_else(|| fuse_in_header::FIELDS.iter().find(|field| field.name == name).copied())
    }

    /// The field of a reply to this opcode: the body's (offset counted behind the header) or, with `true`, the
    /// header's. Of two parts with one name the first is meant.
    pub fn reply_field(self, name: &str) -> Option<(Field, bool)> {
        let mut base = 0;
        for (fields, size) in self.reply_parts() {
            if let Some(field) = fields.iter().find(|field| field.name == name) {
                return Some((Field { offset: field.offset + base, ..*field }, false));
            }
            base += size;
        }
        fuse_out_header::FIELDS.iter().find(|field| field.name == name).map(|field| (*field, true))
    }
}

impl From<Opcode> for u32 {
    fn from(opcode: Opcode) -> u32 {
        opcode.0
    }
}

impl From<u32> for Opcode {
    fn from(number: u32) -> Opcode {
        Opcode(number)
    }
}

impl std::fmt::Display for Opcode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "opcode {}", self.0),
        }
    }
}

impl std::fmt::Debug for Opcode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_of_a_body_hides_one_of_the_header() {
        for opcode in Opcode::ALL {
            for field in opcode.request_fields().iter().filter(|field| field.name != "padding") {
                let hides = fuse_in_header::FIELDS.iter().any(|header| header.name == field.name);
                assert!(!hides, "{opcode} has two fields called {}", field.name);
            }
        }
    }
}
