//! A message to the device as a script's `send` spells it: field by field, or wrong on purpose. It sends nothing.

use zerocopy::IntoBytes;

use super::super::calls::Holdings;
use super::super::device::Via;
use super::engine::descriptors;
use super::message::via_of;
use crate::abi::{FUSE_OUT_SPLICES, fuse_out_header};
use crate::program::{Call, Value};

/// The bytes that the call writes, and how. Where they lie in memory is not looked at.
///
/// # Errors
/// An argument is a name of nothing.
pub(crate) fn spelled(holdings: &Holdings, call: &Call) -> Result<(Vec<u8>, Via), String> {
    let number = |name, default| holdings.number(call, name, default);
    let (mut payload, mut error) = (call.data("payload").0, 0);
    if let Some(Value::Fds(fds)) = call.arg("pipes") {
        let fds = descriptors(fds, &|name| holdings.numbers.get(name).copied());
        (payload, error) = (fds.as_bytes().to_vec(), FUSE_OUT_SPLICES);
    }
    if call.arg("first").is_some() {
        let first = (number("first", 0)? as u64).to_le_bytes();
        payload.splice(..first.len().min(payload.len()), first);
    }
    let whole = 16 + payload.len() as i64;
    let header = fuse_out_header {
        len: number("len", whole)? as u32,
        error: number("error", error.into())? as i32,
        unique: number("unique", 0)? as u64,
    };
    let size = number("size", whole)?.clamp(0, 1 << 21) as usize;
    let pipe_has = number("pipe_has", size as i64)?.clamp(0, 1 << 20) as usize;
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    bytes.resize(size, 0);
    let via = match via_of(call.text("via")) {
        Via::Splice { .. } => Via::Splice { pipe_has },
        other => other,
    };
    Ok((bytes, via))
}
