//! Kernel images as bytes: the bzImage's setup header, the ELF kernel inside it, and whether that
//! one can be entered through PVH. It touches no file and starts nothing.
//!
//! An uncompressed ELF kernel boots a good second faster without hardware virtualisation, since
//! the guest need not unpack itself under emulation.

use std::io::Read as _;

use object::elf::{EM_X86_64, FileHeader64, NoteType, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, ReadRef};

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the note that carries the PVH entry point (Linux,
/// include/xen/interface/elfnote.h).
const PHYS32_ENTRY: NoteType = NoteType(18);

/// No kernel unpacks to more than this many bytes; debug information is not in a bzImage.
const VMLINUX_BOUND: u32 = 512 << 20;

/// The kernel's banner, which begins with this, is in every image's read-only data.
const BANNER: &[u8] = b"Linux version ";

/// Whether these are the first bytes (512 and more) of a bzImage.
pub(super) fn is_bzimage(head: &[u8]) -> bool {
    head.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && head.get(0x202..0x206) == Some(b"HdrS")
}

/// The release that a bzImage's setup header states.
pub(super) fn bzimage_release(image: &[u8]) -> Option<String> {
    let offset = 0x200 + usize::from(u16::from_le_bytes(bytes(image, 0x20e)?));
    first_word(image.get(offset..)?)
}

/// The ELF kernel inside a bzImage, or the reason why the bzImage itself has to be booted.
pub(super) fn bootable(image: &[u8]) -> Result<Vec<u8>, String> {
    let kernel = unpack(image)?;
    match elf(&*kernel) {
        Some(Elf { pvh: true, .. }) => Ok(kernel),
        Some(_) => Err("it was built without CONFIG_PVH".to_owned()),
        None => Err("its payload is no ELF kernel".to_owned()),
    }
}

/// What the payload unpacks to.
fn unpack(image: &[u8]) -> Result<Vec<u8>, String> {
    let payload = payload(image).ok_or("its setup header describes no payload")?;
    // The build appends the plain size to the payload; gzip ends with it anyway. A decoder that
    // stops there never takes what follows for data.
    let size = payload.len().checked_sub(4).and_then(|at| bytes(payload, at)).map(u32::from_le_bytes);
    let size = size.filter(|size| *size <= VMLINUX_BOUND).ok_or("its payload states no sensible size")?;
    let decoder = super::compression::decoder(payload).map_err(|error| error.to_string())?;
    let decoder = decoder.ok_or("its payload's compression is not known here")?;
    let mut kernel = Vec::with_capacity(size as usize);
    decoder.take(size.into()).read_to_end(&mut kernel).map_err(|error| error.to_string())?;
    if kernel.len() != size as usize {
        return Err(format!("its payload ends after {} of {size} bytes", kernel.len()));
    }
    Ok(kernel)
}

/// The setup header's `payload_offset` and `payload_length` (Linux, Documentation/arch/x86/boot.rst).
fn payload(image: &[u8]) -> Option<&[u8]> {
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let field = |at| bytes(image, at).map(|bytes| u32::from_le_bytes(bytes) as usize);
    let start = (sectors + 1) * 512 + field(0x248)?;
    image.get(start..start.checked_add(field(0x24c)?)?)
}

/// What an ELF kernel says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Elf {
    /// Its release, as in `uname -r`.
    pub(super) release: String,
    /// Whether it can be entered through PVH.
    pub(super) pvh: bool,
}

/// Looks at an ELF file; `None` if it is no x86-64 Linux kernel.
pub(super) fn elf<'data, R: ReadRef<'data>>(data: R) -> Option<Elf> {
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    if header.e_machine(endian) != EM_X86_64 {
        return None;
    }
    let mut pvh = false;
    let mut release = None;
    for segment in header.program_headers(endian, data).ok()? {
        if let Ok(Some(mut notes)) = segment.notes(endian, data) {
            while let Ok(Some(note)) = notes.next() {
                pvh |= note.name() == b"Xen" && note.n_type(endian) == PHYS32_ENTRY;
            }
        }
        if release.is_none() && segment.p_type(endian) == PT_LOAD {
            release = segment.data(endian, data).ok().and_then(banner_release);
        }
    }
    Some(Elf { release: release?, pvh })
}

/// The release in the banner. Format strings begin like the banner but go on with `%s`.
fn banner_release(data: &[u8]) -> Option<String> {
    data.windows(BANNER.len() + 1)
        .enumerate()
        .find(|(_, window)| window.starts_with(BANNER) && window[BANNER.len()].is_ascii_digit())
        .and_then(|(at, _)| first_word(&data[at + BANNER.len()..]))
}

/// The text up to the first blank; a release is at most 64 bytes (`__NEW_UTS_LEN`).
fn first_word(data: &[u8]) -> Option<String> {
    let word = &data[..data.iter().take(65).position(|byte| matches!(byte, b' ' | b'\n' | 0))?];
    let sane = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+-~".contains(byte);
    // The release becomes a folder's name.
    let sound = word.first()?.is_ascii_digit() && word.iter().all(sane);
    sound.then(|| String::from_utf8_lossy(word).into_owned())
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}
