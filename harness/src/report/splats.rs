//! What kernels complained of, compactly: each report in a few lines, and each finding once with all its cases.

use std::collections::BTreeMap;

use qemu::console::Splat;

use super::on_one_line;
use crate::run::KernelResult;

/// How many functions of a stack are shown.
const FRAMES: usize = 8;
/// How many cases of a finding are shown.
const CASES: usize = 20;

/// `kasan in some_function: its title`.
fn head(splat: &Splat) -> String {
    let place = splat.function.as_ref().map_or_else(String::new, |function| format!(" in {function}"));
    on_one_line(&format!("{}{place}: {}", splat.kind, splat.title))
}

/// A report in full: what it is, and each stack in a line, the innermost function first.
pub(super) fn lines(splat: &Splat) -> Vec<String> {
    let stacks = [("stack", &splat.stack), ("allocated", &splat.allocated), ("freed", &splat.freed)];
    let told = stacks.into_iter().filter(|(_, names)| !names.is_empty()).map(|(what, names)| {
        let shown: Vec<&str> = names.iter().take(FRAMES).map(String::as_str).collect();
        let more = if names.len() > FRAMES { " < ..." } else { "" };
        on_one_line(&format!("  {what:<9} {}{more}", shown.join(" < ")))
    });
    std::iter::once(head(splat)).chain(told).collect()
}

/// Each finding on a kernel once, in the order in which it first came, with the cases it came in.
pub(super) fn findings(kernel: &KernelResult) -> Vec<String> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut found: Vec<(&Splat, Vec<&str>)> = Vec::new();
    for case in &kernel.cases {
        for splat in &case.splats {
            let place = *places.entry(splat.key()).or_insert_with(|| {
                found.push((splat, Vec::new()));
                found.len() - 1
            });
            found[place].1.push(&case.path);
        }
    }
    let mut told = Vec::new();
    for (splat, cases) in found {
        told.push(head(splat));
        told.extend(cases.iter().take(CASES).map(|case| format!("  {case}")));
        if let Some(more @ 1..) = cases.len().checked_sub(CASES) {
            told.push(format!("  and {more} more"));
        }
    }
    told
}
