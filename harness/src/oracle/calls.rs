//! Which call is which transition. After a word that is not here the oracle is lost: it has no opinion any more.

use super::numbers::*;
use super::ruling::{Doubt, Given, Ruled, Stop, UNSURE};
use super::world::*;
use crate::abi::Opcode;
use crate::program::{Actor, Call, Side, Value};

/// The calls that the model has, and the parameters that it looks at.
const MODEL: &[(&str, &[&str])] = &[
    ("open", &["path", "flags", "mode"]),
    ("creat", &["path", "mode"]),
    ("close", &["fd"]),
    ("dup", &["fd"]),
    ("take", &["actor", "fd"]),
    ("fork", &["child"]),
    ("exit", &[]),
    ("kill", &["actor"]),
    ("read", &["fd", "len"]),
    ("pread", &["fd", "len", "offset"]),
    ("readv", &["fd", "len", "pieces"]),
    ("preadv2", &["fd", "len", "offset", "flags"]),
    ("aio_read", &["fd", "len", "offset"]),
    ("uring_read", &["fd", "len", "offset"]),
    ("write", &["fd", "data"]),
    ("pwrite", &["fd", "data", "offset"]),
    ("writev", &["fd", "data", "pieces"]),
    ("pwritev2", &["fd", "data", "offset", "flags"]),
    ("aio_write", &["fd", "data", "offset"]),
    ("uring_write", &["fd", "data", "offset"]),
    ("stat", &["path"]),
    ("fstat", &["fd"]),
    ("statx", &["path", "flags", "mask"]),
    ("truncate", &["path", "len"]),
    ("ftruncate", &["fd", "len"]),
    ("chmod", &["path", "mode"]),
    ("fchmod", &["fd", "mode"]),
    ("chown", &["path", "uid", "gid"]),
    ("utimens", &["path", "seconds"]),
    ("lseek", &["fd", "offset", "whence"]),
    ("fsync", &["fd"]),
    ("fdatasync", &["fd"]),
    ("fallocate", &["fd", "mode", "offset", "len"]),
    ("setfl", &["fd", "flags"]),
    ("mkdir", &["path", "mode"]),
    ("mknod", &["path", "type", "dev"]),
    ("symlink", &["target", "path"]),
    ("unlink", &["path"]),
    ("rename", &["from", "to"]),
    ("link", &["from", "to"]),
    ("chattr", &["path", "attributes"]),
    ("mmap", &["fd", "len", "prot", "flags", "offset"]),
    ("load", &["map", "len"]),
    ("store", &["map", "data"]),
    ("msync", &["map", "flags"]),
    ("mprotect", &["map", "prot"]),
    ("munmap", &["map"]),
    ("memfd", &["flags"]),
    ("eventfd", &[]),
    ("epoll", &[]),
    ("socket", &[]),
    ("pipe", &["flags"]),
    ("setuid", &["uid"]),
    ("drop_capability", &["capability"]),
    ("umask", &["mask"]),
    ("limit_file_size", &["len"]),
    ("mount", &["options", "over"]),
    ("open_device", &[]),
    ("backing_open", &["fd", "flags", "padding"]),
    ("backing_close", &["id"]),
    ("clone_device", &[]),
    ("close_device", &["which"]),
    ("use_clone", &[]),
    ("device_ioctl", &["number", "argument"]),
    ("send", &["unique", "error", "len", "payload", "pipes", "size", "via", "pipe_has"]),
    ("read_device", &["len"]),
    ("poll_device", &[]),
    ("lower", &["kind", "at", "size", "over"]),
    ("file", &["path", "data", "mode"]),
    ("cat", &["path"]),
    ("abort", &["at"]),
    ("umount", &["at", "flags"]),
    ("remount", &["mode", "at"]),
    ("readahead", &["fd", "offset", "len"]),
    ("fadvise", &["fd", "offset", "len", "advice"]),
    ("access", &["path", "mode"]),
    ("readdir", &["path"]),
    ("readlink", &["path"]),
    ("poll", &["fd", "events"]),
    ("setlk", &["fd", "type", "offset", "len"]),
    ("flock", &["fd", "operation"]),
    ("getxattr", &["path", "name"]),
    ("setxattr", &["path", "name", "value"]),
    ("removexattr", &["path", "name"]),
    ("ioctl", &["fd", "number", "argument"]),
    ("add_seals", &["fd", "seals"]),
    ("tee", &["in", "out", "len"]),
    ("splice", &["in", "out", "len", "off_in", "off_out", "flags"]),
    ("sendfile", &["out", "in", "len", "offset"]),
    ("copy_file_range", &["in", "out", "len", "off_in", "off_out"]),
    ("rmdir", &["path"]),
    ("exec", &["path"]),
    ("madvise", &["map", "advice"]),
    ("drop_caches", &[]),
];

fn is_modelled(call: &Call, below: bool) -> bool {
    let known = MODEL.iter().find(|(name, _)| *name == call.name);
    // On the lower file system an ioctl can mean anything.
    let known = known.filter(|(name, _)| !(below && *name == "ioctl"));
    known.is_some_and(|(_, params)| call.args.iter().all(|(param, _)| params.contains(&param.as_str())))
}

impl World {
    pub(super) fn call(&mut self, actor: Actor, call: &Call) -> Ruled {
        let below = matches!(actor.side, Side::Daemon | Side::Host);
        if !is_modelled(call, below) {
            self.lost = true;
            return Err(UNSURE);
        }
        match call.name.as_str() {
            "open" => self.open(actor, call),
            "creat" => {
                let mut open = call.clone();
                open.args.push(("flags".into(), Value::Int(i128::from(O_WRONLY | O_CREAT | O_TRUNC))));
                self.open(actor, &open)
            }
            "close" => self.close(actor, call),
            "dup" => self.dup(actor, actor, call),
            "take" => self.dup(actor, named(call.text("actor"))?, call),
            "fork" => Ok(self.fork(actor, named(call.text("child"))?)),
            "exit" => self.kill(actor),
            "kill" => self.kill(named(call.text("actor"))?),
            "read" | "pread" | "readv" | "preadv2" | "aio_read" | "uring_read" => self.read(actor, call),
            "write" | "pwrite" | "writev" | "pwritev2" | "aio_write" | "uring_write" => {
                self.write(actor, call)
            }
            "stat" | "fstat" | "statx" => self.stat(actor, call),
            "truncate" | "ftruncate" => self.truncate(actor, call),
            "chmod" | "fchmod" | "chown" | "utimens" => self.set_attributes(actor, call),
            "lseek" => self.seek(actor, call),
            "fsync" | "fdatasync" => self.sync(actor, call),
            "fallocate" => self.allocate(actor, call),
            "setfl" => self.set_flags(actor, call),
            "mkdir" | "mknod" | "symlink" if below => self.make_below(actor, call),
            "unlink" if below => self.unlink_below(actor, call),
            "unlink" | "rename" | "link" => self.names(actor, call),
            "chattr" => self.chattr(actor, call),
            "mmap" => self.map(actor, call),
            "load" => self.load(actor, call),
            "store" => self.store(actor, call),
            "msync" => self.synchronise(actor, call),
            "mprotect" => self.protect(actor, call),
            "munmap" => self.munmap(actor, call),
            "memfd" => {
                let huge = call.int("flags", 0) as u64 & MFD_HUGETLB != 0;
                Ok(self.open_other(actor, if huge { Kind::Deep } else { Kind::Regular }, O_RDWR))
            }
            "eventfd" | "epoll" | "socket" => Ok(self.open_other(actor, Kind::Special, O_RDWR)),
            "pipe" => Ok(Given::made(Thing::Foreign, &["POSIX"])),
            "setuid" | "drop_capability" | "umask" | "limit_file_size" => {
                Ok(self.person_changes(actor, call))
            }
            "mount" => self.mount(actor.number, call),
            "open_device" => {
                self.daemon(actor.number).connection.devices[0] = true;
                Ok(Given::ok(&["DEV-01"]))
            }
            "backing_open" => self.backing_open(actor, call),
            "backing_close" => self.backing_close(actor, call),
            "clone_device" => self.clone_device(actor.number),
            "close_device" => self.close_device(actor.number, call.text("which")),
            "use_clone" => {
                self.daemon(actor.number).connection.uses_clone = true;
                Ok(Given::ok(&["DEV-08"]))
            }
            "device_ioctl" => self.device_ioctl(actor, call),
            "send" => self.send(actor, call),
            "read_device" => self.read_device(actor, call),
            "poll_device" => self.poll_device(actor.number),
            "lower" => self.lower(call),
            "file" => self.file(actor, call),
            "cat" => self.cat(actor, call),
            "abort" => self.abort(call),
            "umount" => self.umount(call),
            "remount" => self.remount(call),
            // They ask the daemon, and change nothing that is followed.
            "poll" | "setlk" | "flock" | "ioctl" => Err(Stop::Unsure(Doubt::Traffic)),
            // A name is known from then on.
            "access" | "readlink" | "getxattr" | "removexattr" | "readdir" => {
                if call.name == "readdir" {
                    self.v12_folder();
                }
                if let Ok((number, path)) = self.mounted(actor, call.text("path"))
                    && let Some(node) = self.lookup(number, &path)?
                    && call.name == "removexattr"
                {
                    self.nodes[node].fresh = self.nodes[node].fresh.in_doubt();
                }
                Err(Stop::Unsure(Doubt::Traffic))
            }
            "readahead" | "fadvise" => self.read_ahead(actor, call),
            "add_seals" | "tee" => Err(Stop::Unsure(Doubt::Outcome)),
            _ => Err(UNSURE),
        }
    }

    fn person_changes(&mut self, actor: Actor, call: &Call) -> Given {
        let mut person = self.person(actor);
        match call.name.as_str() {
            "setuid" => {
                let anybody = call.int("uid", 0) != 0;
                person.unprivileged |= anybody;
                person.ordinary |= anybody;
            }
            "drop_capability" if call.int("capability", 0) == CAP_SYS_ADMIN => person.unprivileged = true,
            "drop_capability" => person.ordinary = true,
            "limit_file_size" => person.limited = true,
            _ => {}
        }
        self.people.insert(actor, person);
        Given::ok(&["POSIX"])
    }

    /// The kernel's own cache is filled, by as much as it likes.
    fn read_ahead(&mut self, actor: Actor, call: &Call) -> Ruled {
        let open = self.fd(actor, call, "fd")?;
        if let Open::Fuse(file) = self.opens[open].clone() {
            self.nodes[file.node].cache = Cache::Unknown;
            self.nodes[file.node].fresh_access = Fresh::Unknown;
            let number = self.nodes[file.node].daemon;
            if self.is_told_about(number, Opcode::READ) {
                self.daemon(number).unsteady = true;
                self.unsure_modes(number);
                return Err(UNSURE);
            }
        }
        self.doubt(Doubt::Traffic);
        Ok(Given::ok(&[]).untold())
    }
}

/// The actor that a word stands for, which is not for the oracle to know if there is none.
fn named(word: &str) -> Result<Actor, Stop> {
    Actor::named(word).ok_or(UNSURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::signature;

    #[test]
    fn the_model_has_only_words_of_the_language() {
        for (name, params) in MODEL {
            let known = signature(name).unwrap_or_else(|| panic!("there is no call {name}"));
            for param in *params {
                assert!(known.params.iter().any(|known| known.name == *param), "{name} has no {param}");
            }
        }
    }
}
