//! How much data an acceptable program holds: what is too long is cut, the same way wherever it comes from.

use super::MOST_DATA;
use crate::program::Data;

/// The most bytes of one piece of data, packed: so that the whole program stays below [`super::MOST_BYTES`].
const MOST_PACKED: usize = 256;
/// The most bytes of a name that is no path.
const MOST_TEXT: usize = 64;
/// Fewer equal bytes than that are written out.
const RUN: usize = 4;
/// What a packed piece takes beside its bytes.
const PIECE: usize = 4;

/// As much of the data as an acceptable program may hold.
pub(super) fn bounded(data: &Data) -> Data {
    let data = data.0.get(..MOST_DATA).unwrap_or(&data.0);
    let mut room = MOST_PACKED;
    let mut end = 0;
    for (times, piece) in pieces(data) {
        let Some(left) = room.checked_sub(piece.len() + PIECE) else {
            // Of what is written out, a part may still fit.
            end += if times == 1 { room.saturating_sub(PIECE) } else { 0 };
            break;
        };
        room = left;
        end += piece.len() * times as usize;
    }
    Data(data.get(..end).unwrap_or(data).to_vec())
}

/// A name that is no path, which has to be one: `default` in place of nothing.
pub(super) fn text(data: &Data, default: &str) -> Data {
    let text = data.0.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = text.get(..MOST_TEXT).unwrap_or(text);
    Data(if text.is_empty() { default.as_bytes() } else { text }.to_vec())
}

/// What the data is made of: runs of one byte, and what lies between.
pub(super) fn pieces(data: &[u8]) -> Vec<(u32, &[u8])> {
    let mut pieces = Vec::new();
    let (mut plain, mut at) = (0, 0);
    for run in data.chunk_by(|one, other| one == other) {
        if run.len() >= RUN {
            if plain < at {
                pieces.push((1, &data[plain..at]));
            }
            pieces.push((run.len() as u32, &run[..1]));
            plain = at + run.len();
        }
        at += run.len();
    }
    if plain < at {
        pieces.push((1, &data[plain..at]));
    }
    pieces
}
