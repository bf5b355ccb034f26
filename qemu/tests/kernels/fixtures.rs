//! Small stand-ins for kernels, modules and packages. They are as much of the real formats as is
//! read, and none of them would boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::write::{Object, StandardSegment};
use object::{Architecture, BinaryFormat, Endianness, SectionKind};

/// The release that all fixtures state.
pub(crate) const RELEASE: &str = "6.99.1-test-amd64";

/// Whether a fixture has the note with the PVH entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pvh {
    /// It has.
    Yes,
    /// It has not.
    No,
}

/// An x86-64 ELF file with one loaded segment that holds a kernel's banner, and one with notes.
pub(crate) fn vmlinux(pvh: Pvh) -> Vec<u8> {
    let banner = format!("Linux version %s\0Linux version {RELEASE} (someone@example) #1 SMP\n\0");
    let mut notes = Vec::new();
    for kind in [1, if pvh == Pvh::Yes { 18 } else { 6 }] {
        for word in [4u32, 8, kind] {
            notes.extend(word.to_le_bytes());
        }
        notes.extend(b"Xen\0");
        notes.extend(0x100_0000u64.to_le_bytes());
    }
    let start = 64 + 2 * 56;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend([0x100_0000u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend([0u16, 0, 64, 56, 2, 64, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    // Flags are two half words of their own: the header is 64 bytes.
    elf.resize(64, 0);
    for (kind, offset, size) in [(1u32, start, banner.len()), (4, start + banner.len(), notes.len())] {
        elf.extend([kind, 4].iter().flat_map(|word| word.to_le_bytes()));
        let words = [offset, 0x100_0000, 0x100_0000, size, size, 4].map(|word| word as u64);
        elf.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    elf.extend(banner.as_bytes());
    elf.extend(notes);
    elf
}

/// A bzImage with this payload, to which the plain size is appended as the kernel's build does.
pub(crate) fn bzimage(payload: &[u8], plain_size: usize) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    image[0x1f1] = 1;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    let banner = format!("{RELEASE} (someone@example) #1 SMP");
    image[0x300..0x300 + banner.len()].copy_from_slice(banner.as_bytes());
    // The payload begins some way into the protected-mode code, which begins at 0x400.
    image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
    image.extend([0x90; 16]);
    image.extend(payload);
    image.extend((plain_size as u32).to_le_bytes());
    image.extend([0x90; 32]);
    image
}

/// A bzImage whose payload is the gzipped [`vmlinux`].
pub(crate) fn gzip_bzimage(pvh: Pvh) -> Vec<u8> {
    let kernel = vmlinux(pvh);
    bzimage(&gzip(&kernel), kernel.len())
}

pub(crate) fn gzip(plain: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

pub(crate) fn xz(plain: &[u8]) -> Vec<u8> {
    liblzma::encode_all(plain, 6).expect("memory")
}

pub(crate) fn zstd(plain: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)
}

/// One block of the legacy frame, which no library writes any more.
pub(crate) fn lz4_legacy(plain: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(plain);
    let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
    frame.extend((block.len() as u32).to_le_bytes());
    frame.extend(block);
    frame
}

/// A module that says what it depends on.
pub(crate) fn module(depends: &str) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let segment = object.segment_name(StandardSegment::Data).to_vec();
    let section = object.add_section(segment, b".modinfo".to_vec(), SectionKind::ReadOnlyData);
    object.append_section_data(section, format!("license=GPL\0depends={depends}\0").as_bytes(), 1);
    object.write().expect("an object")
}

/// Builds a Debian package of these files (path and content) in `folder`.
pub(crate) fn package(folder: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    let root = folder.join("root");
    let control = "Package: linux-image-test\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example>\nDescription: d\n";
    let control = ("DEBIAN/control".to_owned(), control.as_bytes().to_vec());
    for (path, content) in files.iter().chain([&control]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, content).expect("written");
    }
    let package = folder.join("test.deb");
    let status =
        Command::new("dpkg-deb").arg("--build").arg(&root).arg(&package).output().expect("dpkg-deb runs");
    assert!(status.status.success(), "{status:?}");
    package
}
