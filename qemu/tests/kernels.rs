//! From what a person names to a kernel at hand. What needs the network is marked as ignored, with
//! that reason: `cargo test -p qemu --test kernels -- --ignored --nocapture` runs it.

use std::time::Instant;

use qemu::cache::Cache;
use qemu::kernel::{self, Boot, KernelSpec};
use qemu::progress::Progress;

/// Shows what is said, beside the test's own output.
struct Shown;

impl Progress for Shown {
    fn say(&mut self, line: &str) {
        eprintln!("  {line}");
    }
}

#[test]
#[ignore = "needs the network: fetches every row of the catalogue that is not in the user's cache"]
fn every_row_is_fetched_once_and_found_again() {
    let cache = Cache::open().expect("cache");
    for row in kernel::catalogue() {
        let spec = KernelSpec::Catalogue(row.name.clone());
        let start = Instant::now();
        let first = kernel::resolve(&spec, &cache, &mut Shown)
            .unwrap_or_else(|error| panic!("{}: {error}", row.name));
        let fetched = start.elapsed();
        let start = Instant::now();
        let second = kernel::resolve(&spec, &cache, &mut Shown).expect("found");
        let again = start.elapsed();
        eprintln!(
            "{:9} {:28} {:?} {:?} image {} MB, fetched in {fetched:.1?}, found in {again:.1?}",
            row.name,
            first.release,
            first.boot,
            first.modules.as_ref().map(|_| "with modules"),
            first.image.metadata().expect("image").len() / 1_000_000,
        );
        assert_eq!(first, second);
        assert_eq!(kernel::is_cached(row, &cache), Some(second));
        assert_eq!(first.boot, Boot::Pvh, "Debian's kernels have a PVH entry");
    }
}
