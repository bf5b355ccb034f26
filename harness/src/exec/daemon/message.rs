//! Building what goes into the device: a header, a payload, and every way to get them wrong on purpose.

use zerocopy::{FromBytes, IntoBytes};

use super::super::device::Via;
use super::loopback::Answered;
use crate::abi::{FUSE_OUT_SPLICES, Opcode, fuse_init_out, fuse_out_header};

/// A message that is ready to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// As the script says; as the transport does where it says nothing.
    pub(super) via: Option<Via>,
}

/// A value for a field of a reply, resolved.
#[derive(Clone, Debug)]
pub(super) enum FieldValue {
    Number(i128),
    Bytes(Vec<u8>),
    Fds(Vec<u32>),
    Word(String),
}

/// An answer without payload; an errno of 0 is success.
pub(super) fn bare(unique: u64, errno: i32) -> Message {
    let header = fuse_out_header { len: 16, error: -errno, unique };
    Message { bytes: header.as_bytes().to_vec(), via: None }
}

/// The loopback's own answer.
pub(super) fn own(unique: u64, answered: &Answered) -> Message {
    match answered {
        Ok(payload) => {
            let header = fuse_out_header { len: 16 + payload.len() as u32, error: 0, unique };
            let mut message = bare(unique, 0);
            message.bytes = header.as_bytes().to_vec();
            message.bytes.extend_from_slice(payload);
            message
        }
        Err(errno) => bare(unique, *errno),
    }
}

/// The loopback's answer with a script's fields put over it.
///
/// Where the loopback would have failed, the fields are put over zeros: the script asks for success.
pub(super) fn overridden(
    opcode: Opcode,
    unique: u64,
    base: Answered,
    fields: &[(String, FieldValue)],
) -> Message {
    let fixed: usize = opcode.reply_parts().iter().map(|(_, size)| size).sum();
    let mut payload = base.unwrap_or_else(|_| vec![0; fixed]);
    let mut header = fuse_out_header { len: 0, error: 0, unique };
    let mut len = None;
    let mut pipe_has = None;
    let mut via = None;
    let (mut cut, mut pad) = (0, 0);
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("data", FieldValue::Bytes(data)) => {
                // IOCTL has a variable part behind a fixed one; everything else with data is data alone.
                payload.truncate(if opcode == Opcode::IOCTL { fixed } else { 0 });
                payload.extend_from_slice(data);
            }
            ("pipes", FieldValue::Fds(fds)) => {
                header.error = FUSE_OUT_SPLICES;
                payload = fds.as_bytes().to_vec();
            }
            ("cut", FieldValue::Number(count)) => cut = *count as usize,
            ("pad", FieldValue::Number(count)) => pad = (*count).clamp(0, 1 << 20) as usize,
            ("pipe_has", FieldValue::Number(count)) => pipe_has = Some((*count).clamp(0, 1 << 20) as usize),
            ("len", FieldValue::Number(value)) => len = Some(*value as u32),
            ("error", FieldValue::Number(value)) => header.error = *value as i32,
            ("unique", FieldValue::Number(value)) => header.unique = *value as u64,
            ("via", FieldValue::Word(word)) => via = Some(via_of(word)),
            (name, FieldValue::Number(value)) => {
                if let Some((field, false)) = opcode.reply_field(name) {
                    let end = field.offset + field.size;
                    payload.resize(payload.len().max(end), 0);
                    field.put(&mut payload, *value);
                }
            }
            _ => {}
        }
    }
    payload.truncate(payload.len().saturating_sub(cut));
    payload.resize(payload.len() + pad, 0);
    header.len = len.unwrap_or(16 + payload.len() as u32);
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    if let Some(Via::Splice { pipe_has: has }) = &mut via {
        *has = pipe_has.unwrap_or(bytes.len());
    }
    Message { bytes, via }
}

/// Have an answer to INIT ask for io_uring, and otherwise say what it says. Gives the room that payloads may need then;
/// `None` for an answer that cannot ask.
pub(super) fn ask_for_ring(message: &mut Message) -> Option<usize> {
    const INIT_EXT: u32 = 1 << 30;
    const OVER_IO_URING: u32 = 1 << 9;
    let (header, payload) = message.bytes.split_at_mut_checked(size_of::<fuse_out_header>())?;
    let header = fuse_out_header::ref_from_bytes(header).ok()?;
    let answer = fuse_init_out::mut_from_bytes(payload).ok()?;
    if header.error != 0 {
        return None;
    }
    if answer.flags & INIT_EXT == 0 {
        // So far the kernel would not have looked at it.
        answer.flags2 = 0;
    }
    answer.flags |= INIT_EXT;
    answer.flags2 |= OVER_IO_URING;
    Some(payload_room(answer))
}

/// The longest payload on a connection with that answer to INIT.
fn payload_room(answer: &fuse_init_out) -> usize {
    const LEAST: usize = 8192;
    const PAGES: u16 = 32;
    LEAST.max(answer.max_write as usize).max(usize::from(answer.max_pages.max(PAGES)) * 4096)
}

/// The way a word names; how much is in a pipe is filled in by whoever knows the message.
pub(crate) fn via_of(word: &str) -> Via {
    match word {
        "writev" => Via::Writev,
        "splice" => Via::Splice { pipe_has: 0 },
        "move" => Via::Move,
        _ => Via::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(name: &str, value: i128) -> (String, FieldValue) {
        (name.into(), FieldValue::Number(value))
    }

    #[test]
    fn fields_go_where_the_kernel_reads_them() {
        let fields = [number("open_flags", 0x80), number("backing_id", -1)];
        let message = overridden(Opcode::OPEN, 6, Ok(vec![0; 16]), &fields);
        assert_eq!(message.bytes.len(), 32);
        assert_eq!(message.bytes[..16], [32, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message.bytes[24..32], [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn the_second_part_of_a_create_reply_is_behind_the_entry() {
        let message = overridden(Opcode::CREATE, 6, Ok(vec![0; 144]), &[number("backing_id", 7)]);
        assert_eq!(message.bytes.len(), 160);
        assert_eq!(message.bytes[16 + 128 + 12], 7);
    }

    #[test]
    fn a_list_of_pipes_takes_the_place_of_data() {
        let pipes = |name: &str| (name.to_string(), FieldValue::Fds(vec![5, u32::MAX]));
        let message = overridden(Opcode::READ, 6, Ok(b"hello".to_vec()), &[pipes("pipes"), number("pad", 1)]);
        assert_eq!(message.bytes[..16], [25, 0, 0, 0, 0, 0, 0, 0x40, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message.bytes[16..], [5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]);
        let message = overridden(Opcode::READ, 6, Ok(vec![]), &[pipes("pipes"), number("error", 1)]);
        assert_eq!(message.bytes[4..8], [1, 0, 0, 0]);
    }

    #[test]
    fn lengths_can_lie() {
        let fields = [number("cut", 4), number("len", 99)];
        let message = overridden(Opcode::OPEN, 6, Ok(vec![0; 16]), &fields);
        assert_eq!(message.bytes.len(), 28);
        assert_eq!(message.bytes[0], 99);
    }
}
