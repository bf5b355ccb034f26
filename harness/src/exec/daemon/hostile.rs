//! What may come off the device and out of the kernel's log, given to all that reads it: for the fuzz target `wire`, which
//! panics where a promise is broken.
//!
//! It opens no device. What is asked of bytes here is that they are read without harm, and that what was understood gives the
//! same bytes again.

use zerocopy::IntoBytes;

use super::super::{kmsg, ring};
use super::message::{FieldValue, Message, ask_for_ring, overridden, own};
use super::nodes::Nodes;
use super::request::Request;
use crate::abi::{Opcode, STRUCTURES, fuse_out_header};
use crate::program::Transport;
use crate::protocol::Traffic;

/// What an answer may have beside all that the loopback and a script give it.
const MOST_MORE: usize = 2 << 20;

/// Any structure of the protocol.
///
/// # Panics
/// It does not give the same bytes again.
pub fn structure(bytes: &[u8]) {
    for (name, fields, read) in STRUCTURES {
        let Some(again) = read(bytes) else { continue };
        assert!(bytes.starts_with(&again), "{name}");
        let mut by_field = vec![0; again.len()];
        for field in *fields {
            field.put(&mut by_field, field.get(bytes).expect("the structure is whole"));
        }
        assert_eq!(by_field, again, "{name}, field by field");
    }
}

/// A request, as read from the device or as it lies in an entry of FUSE over io_uring.
///
/// # Panics
/// It is no longer what it was.
pub fn request(bytes: &[u8]) {
    let nodes = Nodes::new();
    for whole in [Some(bytes.to_vec()), ring::request_in(bytes, bytes.len())].into_iter().flatten() {
        let Some(request) = Request::new(0, &whole) else { continue };
        assert!(whole.starts_with(request.header.as_bytes()) && request.bytes == whole);
        let (fields, names) = (request.fields(), request.names());
        assert!(fields.iter().all(|(name, _)| request.opcode().request_field(name).is_some()));
        assert!(names.len() <= request.tail().len());
        let path = request.path(&nodes);
        assert!(path.len() <= 3 * whole.len() + 1, "{path}");
        let traffic = Traffic::new(1, path, &request, Transport::Plain);
        let shown = traffic.data.map_or(0, |data| data.0.len());
        assert!(shown <= 3 * whole.len(), "{shown} bytes of data");
    }
}

/// One field of an answer.
#[derive(Clone, Debug)]
pub enum Field {
    /// One that the opcode's answers have, or a word of the script's own, by its place among all of them.
    Number(u8, i64),
    /// Bytes in the place of the variable part.
    Data(Vec<u8>),
    /// Descriptors in its place.
    Pipes(Vec<u32>),
}

/// An answer's payload: read field by field, and with a script's fields put over it.
///
/// # Panics
/// Putting back what was read changes it, or the message is longer than what it is made of.
pub fn answer(opcode: u32, unique: u64, payload: &[u8], fields: &[Field]) {
    let opcode = Opcode(opcode % 64);
    let base = || Ok(payload.to_vec());
    let parts = opcode.reply_parts().iter();
    let names: Vec<&str> = parts.flat_map(|(fields, _)| fields.iter().map(|field| field.name)).collect();
    let values = names.iter().filter_map(|name| {
        let (field, _) = opcode.reply_field(name)?;
        Some((name.to_string(), FieldValue::Number(field.get(payload)?)))
    });
    let again = overridden(opcode, unique, base(), &values.collect::<Vec<_>>());
    assert_eq!(again, own(unique, &base()), "{opcode}: what was read gives the same again");

    const WORDS: [&str; 6] = ["cut", "pad", "pipe_has", "len", "error", "unique"];
    let words: Vec<&str> = names.into_iter().chain(WORDS).collect();
    let script = fields.iter().map(|field| match field {
        Field::Number(place, number) => {
            (words[usize::from(*place) % words.len()], FieldValue::Number((*number).into()))
        }
        Field::Data(data) => ("data", FieldValue::Bytes(data.clone())),
        Field::Pipes(fds) => ("pipes", FieldValue::Fds(fds.clone())),
    });
    let script: Vec<_> = script.map(|(name, value)| (name.to_owned(), value)).collect();
    let given: usize = fields
        .iter()
        .map(|field| match field {
            Field::Number(..) => 0,
            Field::Data(data) => data.len(),
            Field::Pipes(fds) => 4 * fds.len(),
        })
        .sum();
    let mut message = overridden(opcode, unique, base(), &script);
    assert!(message.bytes.len() <= payload.len() + given + MOST_MORE, "{} bytes", message.bytes.len());
    asked(&mut message);
    asked(&mut Message { bytes: payload.to_vec(), via: None });
}

/// Asking for io_uring leaves an answer as long as it was, and touches no header.
fn asked(message: &mut Message) {
    let before = message.bytes.clone();
    let room = ask_for_ring(message);
    assert_eq!(message.bytes.len(), before.len());
    let header = size_of::<fuse_out_header>().min(before.len());
    assert_eq!(message.bytes[..header], before[..header]);
    assert!(room.is_some() || message.bytes == before, "an answer that cannot ask stays as it was");
}

/// Records of the kernel's log.
///
/// # Panics
/// A message is longer than its record.
pub fn logged(text: &str) {
    let lines: Vec<String> = text.split('\0').map(|record| kmsg::level_and_message(record).1).collect();
    assert!(lines.iter().map(String::len).sum::<usize>() <= text.len());
    kmsg::inner_errno(&lines);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_bytes_do_no_harm() {
        for len in [0, 15, 16, 40, 288, 4096] {
            for byte in [0, 1, 0x7f, 0xff] {
                structure(&vec![byte; len]);
                request(&vec![byte; len]);
                let fields = [Field::Number(byte, -1), Field::Data(vec![byte; len]), Field::Pipes(vec![7])];
                for opcode in 0..64 {
                    answer(opcode, u64::MAX, &vec![byte; len], &fields);
                }
            }
        }
        logged("15,1,2,-;failed to open file in requested io mode (open_flags=0x80, err=-99999999999)\0;\0");
    }

    /// A request as the kernel sends it is taken for one, from the device and from a ring.
    #[test]
    fn what_is_whole_is_read() {
        let header = crate::abi::fuse_in_header { len: 48, opcode: 14, ..Default::default() };
        let open = [header.as_bytes(), &[0; 8]].concat();
        assert!(Request::new(0, &open).is_some());
        let mut entry = vec![0; 4096];
        entry[..40].copy_from_slice(header.as_bytes());
        assert_eq!(ring::request_in(&entry, 48), Some(open));
    }
}
