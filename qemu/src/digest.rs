//! What tells contents apart: their SHA-256, in hexadecimal. It protects against accidents, it proves no origin.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

/// Of all that `reader` gives.
pub(crate) fn of_reader(mut reader: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hexadecimal(hash))
}

/// Of several parts. Each counts with its length, so that moving a byte from one to the next makes a difference.
pub(crate) fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hexadecimal(hash)
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha_256() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_reader(&b"abc"[..]).expect("memory reads"), abc);
    }

    #[test]
    fn parts_are_told_apart() {
        let list = |parts: &[&'static str]| of_parts(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(list(&["ab", "c"]), list(&["ab", "c"]));
        assert_ne!(list(&["ab", "c"]), list(&["a", "bc"]));
        assert_ne!(list(&["abc"]), list(&["abc", ""]));
    }
}
