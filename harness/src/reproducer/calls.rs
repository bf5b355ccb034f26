//! A call as a C expression.
//!
//! It knows calls that one task makes and that return by themselves; the others are refused.

use super::{MOST_DATA, Why, Writer, bytes, literal};
use crate::program::{Actor, Call, Side, Value};

/// The most bytes of one read: as many as there is room for.
const MOST_READ: i128 = 1 << 21;
/// The most bytes of a raw message.
const MOST_MESSAGE: usize = 8192;

/// A call that gives a number: what it returns, or an errno below 0.
pub(super) struct Said {
    pub(super) expression: String,
    /// Its bytes are in the buffer then.
    pub(super) gives_data: bool,
    /// Its record is in `st` then.
    pub(super) gives_stat: bool,
}

impl Writer {
    /// The call; none for one that only sets the stage and has nothing to be checked.
    pub(super) fn call(
        &mut self,
        actor: Actor,
        call: &Call,
        is_passthrough: bool,
    ) -> Result<Option<Said>, Why> {
        let said = |expression: String| Said { expression, gives_data: false, gives_stat: false };
        let plain = |expression: String| said(format!("result({expression})"));
        let data = |expression: String| Said { gives_data: true, ..said(expression) };
        let stat = |expression: String| Said { gives_stat: true, ..plain(expression) };
        let number = |name: &str| self.given(actor, call, name, None);
        let or = |name: &str, default: &'static str| self.given(actor, call, name, Some(default));
        let path = |name: &str| place(actor.side, call.text(name));
        let fd = || number("fd");
        let len = || match call.int("len", 0) {
            len @ 0..=MOST_READ => Ok(len),
            _ => Err("a length is out of bounds"),
        };
        let written = || {
            let data = call.data("data");
            Ok::<_, Why>(format!("{}, {}", bytes(&data, MOST_DATA)?, data.0.len()))
        };
        let only = |known: &[&str]| match call.args.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some(_) => Err("an option is not told in C"),
            None => Ok(()),
        };
        Ok(Some(match call.name.as_str() {
            "lower" if call.text("kind") == "tmpfs" && call.args.len() == 1 => return Ok(None),
            "lower" => return Err("its lower file system is no tmpfs"),
            "file" => {
                only(&["path", "data"])?;
                said(format!("make_file({}, {})", path("path")?, written()?))
            }
            "cat" => data(format!("content({})", path("path")?)),
            "umount" => {
                only(&[])?;
                plain("umount(path_in(\"mnt\", \"\"))".into())
            }
            "mount" => {
                only(&[])?;
                said(format!("mount_fuse({})", u8::from(is_passthrough)))
            }
            "backing_open" => {
                only(&["fd", "flags", "padding"])?;
                said(format!("backing_open({}, {}, {})", fd()?, or("flags", "0")?, or("padding", "0")?))
            }
            "backing_close" => said(format!("backing_close({})", number("id")?)),
            "send" => {
                only(&["unique", "error", "len", "payload"])?;
                let payload = call.data("payload");
                let (text, size) = (bytes(&payload, MOST_MESSAGE)?, payload.0.len());
                let len = match call.arg("len") {
                    Some(_) => number("len")?,
                    None => (16 + size).to_string(),
                };
                said(format!(
                    "send_raw({}, {}, {len}, {text}, {size})",
                    or("unique", "0")?,
                    or("error", "0")?
                ))
            }
            "open" => {
                plain(format!("open({}, {}, {})", path("path")?, number("flags")?, or("mode", "0644")?))
            }
            "creat" => plain(format!("creat({}, {})", path("path")?, or("mode", "0644")?)),
            "stat" => stat(format!("stat({}, &st)", path("path")?)),
            "fstat" => stat(format!("fstat({}, &st)", fd()?)),
            "truncate" => plain(format!("truncate({}, {})", path("path")?, number("len")?)),
            "unlink" => plain(format!("unlink({})", path("path")?)),
            "chmod" => plain(format!("chmod({}, {})", path("path")?, number("mode")?)),
            "close" => plain(format!("close({})", fd()?)),
            "dup" => plain(format!("dup({})", fd()?)),
            "read" => data(format!("result(read({}, buffer, {}))", fd()?, len()?)),
            "pread" => data(format!("result(pread({}, buffer, {}, {}))", fd()?, len()?, number("offset")?)),
            "write" => plain(format!("write({}, {})", fd()?, written()?)),
            "pwrite" => plain(format!("pwrite({}, {}, {})", fd()?, written()?, number("offset")?)),
            "lseek" => plain(format!("lseek({}, {}, {})", fd()?, number("offset")?, number("whence")?)),
            "ftruncate" => plain(format!("ftruncate({}, {})", fd()?, number("len")?)),
            "fsync" => plain(format!("fsync({})", fd()?)),
            "fdatasync" => plain(format!("fdatasync({})", fd()?)),
            "memfd" => plain(format!("memfd_create(\"reproducer\", {})", number("flags")?)),
            "mmap" => {
                let (prot, flags) = (number("prot")?, number("flags")?);
                let (fd, offset) = (fd()?, or("offset", "0")?);
                plain(format!("(long)mmap(NULL, {}, {prot}, {flags}, {fd}, {offset})", len()?))
            }
            "load" => data(format!("loaded({}, {})", number("map")?, len()?)),
            "store" => said(format!("touch((void *){}, {})", number("map")?, written()?)),
            _ => return Err("no such call is told in C"),
        }))
    }

    fn given(&self, actor: Actor, call: &Call, name: &str, default: Option<&str>) -> Result<String, Why> {
        match (call.arg(name), default) {
            (Some(value @ (Value::Int(_) | Value::Name(..))), _) => self.number(actor.side, value),
            (None, Some(default)) => Ok(default.to_owned()),
            _ => Err("a value is no number"),
        }
    }
}

/// A path of that side's own place.
fn place(side: Side, path: &str) -> Result<String, Why> {
    let default = if side == Side::App { "mnt" } else { "lower" };
    let (place, path) = path.split_once(':').unwrap_or((default, path));
    if !["mnt", "lower"].contains(&place) {
        return Err("it is about a second mount or lower file system");
    }
    if path.contains('/') {
        return Err("its file is not in the root");
    }
    Ok(format!("path_in(\"{place}\", {})", literal(path.as_bytes())))
}
