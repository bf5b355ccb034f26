//! The mutants and their index agree: each patch has its line, says what its line says, and names rules that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use harness::rules;

const HEADER: &str = "name\twhere\twhat is wrong\thow it shows\tneeds\trules";
const NEEDS: [&str; 6] = ["plain", "kasan", "lockdep", "kmemleak", "virtiofs", "none"];

fn folder(source: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu/mutants").join(source)
}

/// What is wrong with a line of an index, if something is.
fn offence(line: &str, patches: &Path, laws: &rules::Rules) -> Option<String> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [name, place, wrong, _, needs, named] = columns[..] else {
        return Some(format!("{} columns: {line}", columns.len()));
    };
    let Ok(patch) = fs::read_to_string(patches.join(format!("{name}.patch"))) else {
        return Some(format!("there is no {name}.patch"));
    };
    let file = place.split(':').next().unwrap_or_default();
    let unknown: Vec<&str> = named.split_whitespace().filter(|rule| laws.get(rule).is_none()).collect();
    let harmless = name.starts_with("harmless-");
    if patch.lines().next() != Some(wrong) {
        Some(format!("{name}: the patch begins with other words"))
    } else if !patch.contains(&format!("\n+++ b/{file}\n")) {
        Some(format!("{name}: the patch does not change {file}"))
    } else if !NEEDS.contains(&needs) || harmless != (needs == "none") || harmless != named.is_empty() {
        Some(format!("{name}: {needs:?} and {named:?} do not fit"))
    } else if !unknown.is_empty() {
        Some(format!("{name}: there are no rules {unknown:?}"))
    } else {
        None
    }
}

#[rstest::rstest]
#[case("6.12", 40)]
#[case("7.2", 20)]
fn the_index_and_the_patches_agree(#[case] source: &str, #[case] least: usize) {
    let folder = folder(source);
    let laws = rules::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../cases")).expect("the law");
    let index = fs::read_to_string(folder.join("INDEX.tsv")).expect("an index");
    let mut lines = index.lines();
    assert_eq!(lines.next(), Some(HEADER));
    let lines: Vec<&str> = lines.collect();
    let offences: Vec<String> = lines.iter().filter_map(|line| offence(line, &folder, &laws)).collect();
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
    let named: BTreeSet<String> =
        lines.iter().filter_map(|line| line.split('\t').next()).map(|name| format!("{name}.patch")).collect();
    let items = fs::read_dir(&folder).expect("a folder").flatten();
    let files = items.map(|item| item.file_name().to_string_lossy().into_owned());
    let patches: BTreeSet<String> = files.filter(|name| name.ends_with(".patch")).collect();
    assert_eq!(named, patches);
    assert!(named.iter().is_sorted() && lines.len() == named.len(), "sorted, each once");
    let harmless = named.iter().filter(|name| name.starts_with("harmless-")).count();
    assert!(harmless >= 3 && named.len() - harmless >= least, "{} and {harmless}", named.len());
}

#[rstest::rstest]
#[case::columns("x\ty", "2 columns")]
#[case::patch("no-such\tfs/fuse/dev.c:f\tA.\tb\tplain\tDEV-01", "there is no no-such.patch")]
#[case::words("backing-id-reused\tfs/fuse/passthrough.c:f\tOther words.\tb\tplain\tBOPEN-20", "other words")]
fn an_offence_is_found(#[case] line: &str, #[case] told: &str) {
    let found = offence(line, &folder("6.12"), &rules::Rules::default()).expect("an offence");
    assert!(found.contains(told), "{found}");
}
