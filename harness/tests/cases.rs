//! Every case file is a program that prints and parses back, and the manual knows the whole language. No kernel here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use harness::program::{CAPABILITIES, Side, Yields, signatures};
use harness::script::{Case, Folder, Library, Source, format, parse, print, usage};
use rstest::rstest;

fn cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cases")
}

fn parsed(path: &str, text: String, library: &dyn Library) -> Vec<Case> {
    let path = path.to_string();
    parse(&Source { path, text }, library).unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)))
}

/// Each case of the text must survive being printed. Returns how many there are.
fn round_trip(path: &str, text: String) -> usize {
    let cases = parsed(path, text, &Folder(cases_dir()));
    for case in &cases {
        let again = parsed(path, print(&case.program), &BTreeMap::new());
        assert_eq!(again.len(), 1, "a printed program has no axes");
        assert_eq!(again[0].program, case.program);
    }
    cases.len()
}

#[rstest]
fn parses_and_prints_back(#[files("../cases/**/*.case")] file: PathBuf) {
    let dir = cases_dir().canonicalize().unwrap();
    let file = file.canonicalize().unwrap();
    let name = file.strip_prefix(&dir).unwrap().with_extension("");
    let text = match name.strip_prefix("lib") {
        Ok(name) => format!("# A library file alone.\nrules LIB-0\nuse {}\n", name.display()),
        Err(_) => std::fs::read_to_string(&file).unwrap(),
    };
    assert!(round_trip(&name.to_string_lossy(), text) > 0);
}

#[rstest]
fn is_laid_out_as_fmt_does(#[files("../cases/**/*.case")] file: PathBuf) {
    let text = std::fs::read_to_string(&file).unwrap();
    let path = file.display().to_string();
    let formatted = format(&Source { path, text: text.clone() }).unwrap();
    assert!(formatted == text, "`fuseproof fmt {}` lays it out", file.display());
}

fn manual() -> String {
    std::fs::read_to_string(cases_dir().join("README.md")).unwrap()
}

#[test]
fn every_case_in_the_manual_parses() {
    let manual = manual();
    let blocks: Vec<&str> =
        manual.split("```case\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 5, "{} blocks", blocks.len());
    for block in blocks {
        round_trip("README", block.to_string());
    }
}

#[rstest]
#[case::headers(&["rules", "needs", "not", "danger", "stress", "axis", "use"])]
#[case::verbs(&["start", "blocks", "await", "on", "always", "answer", "saw"])]
#[case::answers(&["reply", "error", "hold", "drop", "die"])]
#[case::conditions_of_a_step(&["failing"])]
#[case::logs(&["saw nothing", "saw no", "saw some"])]
fn the_manual_has_every_word(#[case] words: &[&str]) {
    let manual = manual();
    for word in words {
        let shown = [format!("`{word}"), format!("`... {word}"), format!("`daemon {word}")];
        assert!(shown.iter().any(|shown| manual.contains(shown)), "cases/README.md lacks `{word}`");
    }
}

/// The manual's tables are the vocabulary's own words. To mend one, copy what this prints.
#[rstest]
#[case::calls(call_table())]
#[case::capabilities(capability_table())]
fn the_manual_has_the_whole_vocabulary(#[case] table: String) {
    assert!(manual().contains(&table), "cases/README.md lacks this table:\n{table}");
}

fn call_table() -> String {
    let mut table = String::from("| call | by | gives | what it is |\n|---|---|---|---|\n");
    for signature in signatures() {
        let sides = match signature.sides {
            [Side::App] => "app",
            [Side::Daemon] => "daemon",
            [Side::Host] => "host",
            [Side::App, Side::Daemon] => "app, daemon",
            [Side::App, Side::Daemon, Side::Host] => "all",
            other => panic!("{other:?} has no word in the table"),
        };
        let gives = match signature.yields {
            Yields::Nothing => "",
            Yields::Number => "number",
            Yields::Data => "bytes",
            Yields::Fields => "fields",
            Yields::Named(kind) => kind,
        };
        let usage = usage(signature);
        writeln!(table, "| `{usage}` | {sides} | {gives} | {} |", signature.doc).unwrap();
    }
    table
}

fn capability_table() -> String {
    let mut table = String::from("| capability | where it is absent |\n|---|---|\n");
    for capability in CAPABILITIES {
        writeln!(table, "| `{}` | {} |", capability.name, capability.absence).unwrap();
    }
    table
}
