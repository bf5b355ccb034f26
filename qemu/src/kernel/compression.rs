//! The compressed forms that kernels and modules come in, told apart by their first bytes. It
//! reads; it never compresses.

use std::io::{self, BufRead, Read};

use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;

/// What zstd may ask for as its window. Kernels are compressed with `--ultra -22`, whose window of
/// 128 MiB is above the library's default bound.
const ZSTD_WINDOW: u64 = 128 << 20;

/// What LZMA may ask for as its dictionary; `xz -9` asks for 64 MiB.
const LZMA_MEMORY: u64 = 160 << 20;

/// A reader of the plain bytes, or `None` if the compression is none that is known here.
pub(super) fn decoder<'a>(data: &'a [u8]) -> io::Result<Option<Box<dyn Read + 'a>>> {
    Ok(Some(match data {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::GzDecoder::new(data)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(lzma(data, Stream::new_stream_decoder(LZMA_MEMORY, 0)?))
        }
        [0x5d, 0, 0, ..] => Box::new(lzma(data, Stream::new_lzma_decoder(LZMA_MEMORY)?)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(
            ruzstd::decoding::StreamingDecoder::new_with_max_window_size(data, ZSTD_WINDOW)
                .map_err(io::Error::other)?,
        ),
        // The legacy frame, which is the one the kernel's build makes.
        [0x02, 0x21, 0x4c, 0x18, ..] => Box::new(lz4_flex::frame::FrameDecoder::new(data)),
        _ => return Ok(None),
    }))
}

fn lzma<R: BufRead>(data: R, stream: Stream) -> XzDecoder<R> {
    XzDecoder::new_stream(data, stream)
}
