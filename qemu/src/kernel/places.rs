//! Where a kernel image is instrumented for coverage: the places that KCOV reports, known without running anything.
//!
//! It reads the image as it boots. What a place belongs to is for whoever has the sources.

use std::fs;
use std::path::Path;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind};

use super::Error;
use crate::cache;

/// What the compiler calls at each place (`kernel/kcov.c`).
const TRACE: &str = "__sanitizer_cov_trace_pc";

/// The instrumented places of an ELF kernel, in the order of their addresses; none if it was built without. Such a kernel
/// runs where it was linked to: the builds here have no KASLR.
///
/// # Errors
/// The image cannot be read, or is no ELF file.
pub fn places(image: &Path) -> Result<Vec<u64>, Error> {
    let bytes = fs::read(image).map_err(|source| cache::Error::io(image, source))?;
    let not_elf = |_| Error::NotAKernel { path: image.to_owned() };
    let elf = object::File::parse(&*bytes).map_err(not_elf)?;
    let Some(trace) = elf.symbols().find(|symbol| symbol.name() == Ok(TRACE)) else { return Ok(Vec::new()) };
    let mut places = Vec::new();
    for section in elf.sections().filter(|section| section.kind() == SectionKind::Text) {
        places.extend(calls(section.data().map_err(not_elf)?, section.address(), trace.address()));
    }
    places.sort_unstable();
    Ok(places)
}

/// The addresses behind all calls of `target` in code that lies at `at`.
fn calls(code: &[u8], at: u64, target: u64) -> impl Iterator<Item = u64> {
    const CALL: u8 = 0xe8;
    code.windows(5).zip(at + 5..).filter_map(move |(bytes, behind)| {
        let [CALL, a, b, c, d] = *bytes else { return None };
        let distance = i32::from_le_bytes([a, b, c, d]);
        (behind.wrapping_add_signed(distance.into()) == target).then_some(behind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_function_are_told_from_others() {
        let at = 0xffff_ffff_8100_0000;
        // nop; call at + 0x20; call at + 0x21; call at + 0x20; a cut one.
        let code = [
            [0x90].as_slice(),
            &[0xe8, 0x1a, 0, 0, 0],
            &[0xe8, 0x16, 0, 0, 0],
            &[0xe8, 0x10, 0, 0, 0],
            &[0xe8, 0x0b, 0],
        ];
        assert_eq!(calls(&code.concat(), at, at + 0x20).collect::<Vec<_>>(), [at + 6, at + 16]);
        // Backwards, too.
        assert_eq!(calls(&[0xe8, 0xf6, 0xff, 0xff, 0xff], at, at - 5).collect::<Vec<_>>(), [at + 5]);
    }
}
