//! Which of the first inputs of a run bring nothing that those before them have not brought: libFuzzer leaves them out, too, but
//! does not say so.
//!
//! It takes the inputs in the order in which libFuzzer runs them, the short ones first, and sees coverage as libFuzzer does: a
//! place that is passed once is something else than the same place passed ten times. What it says goes for one run: with a kernel
//! the next one may pass other places.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::generate::MOST_BYTES;

/// What a first input's file is called, before its number.
pub(super) const SEED: &str = "seed-";

/// First inputs that were not run yet, and what the others have passed.
#[derive(Debug)]
pub(super) struct Sieve {
    /// By their numbers.
    waiting: BTreeMap<Vec<u8>, u32>,
    /// For each place, which of libFuzzer's eight classes of counts it had.
    passed: Vec<u8>,
    dull: Vec<u32>,
}

impl Sieve {
    /// For the inputs of that folder.
    pub(super) fn of(folder: &Path, places: usize) -> io::Result<Sieve> {
        let mut waiting = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(number) = name.strip_prefix(SEED).and_then(|number| number.parse().ok()) {
                waiting.insert(fs::read(entry.path())?, number);
            }
        }
        waiting.retain(|input, _| input.len() <= MOST_BYTES);
        Ok(Sieve { waiting, passed: vec![0; places], dull: Vec::new() })
    }

    /// An input was run. After the last one, gives the numbers of those that brought nothing.
    pub(super) fn take(&mut self, input: &[u8], counters: &[u8]) -> Option<Vec<u32>> {
        let number = self.waiting.remove(input)?;
        let mut brings = false;
        for (passed, counter) in self.passed.iter_mut().zip(counters) {
            let class = class(*counter);
            brings |= class & !*passed != 0;
            *passed |= class;
        }
        if !brings {
            self.dull.push(number);
        }
        self.waiting.is_empty().then(|| std::mem::take(&mut self.dull))
    }
}

/// libFuzzer's class of a count, as a bit; none for what was not passed.
fn class(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_brings_nothing_is_told_when_all_were_run() {
        let folder = tempfile::tempdir().unwrap();
        for (number, input) in ["a", "bb", "ccc", "dddd"].iter().enumerate() {
            fs::write(folder.path().join(format!("{SEED}{number}")), input).unwrap();
        }
        fs::write(folder.path().join("found"), "later").unwrap();
        fs::write(folder.path().join("seed-9"), vec![0; MOST_BYTES + 1]).unwrap();
        let mut sieve = Sieve::of(folder.path(), 3).unwrap();
        // The empty input comes first, and is nobody's.
        assert_eq!(sieve.take(b"", &[1, 1, 1]), None);
        assert_eq!(sieve.take(b"a", &[1, 0, 0]), None);
        assert_eq!(sieve.take(b"bb", &[1, 0, 0]), None);
        assert_eq!(sieve.take(b"ccc", &[5, 1, 0]), None);
        assert_eq!(sieve.take(b"bb", &[1, 1, 1]), None, "once is enough");
        assert_eq!(sieve.take(b"dddd", &[7, 1, 0]), Some(vec![1, 3]));
        assert_eq!(sieve.take(b"dddd", &[7, 1, 9]), None);
    }

    #[test]
    fn every_count_has_one_class() {
        assert_eq!(class(0), 0);
        assert!((1..=u8::MAX).all(|count| class(count).count_ones() == 1));
        assert!((1..u8::MAX).all(|count| class(count) <= class(count + 1)));
    }
}
