//! What the README says is what the program does: commands, options, exit codes, cases. The failure it shows is compared
//! in the tests of failures, as it takes a machine.

use std::path::Path;
use std::process::{Command, Output};

use harness::script::{Folder, Source, parse};

const README: &str = include_str!("../../README.md");

fn fuseproof(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fuseproof")).args(words).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The fenced blocks of that language.
fn blocks(language: &str) -> Vec<&'static str> {
    let open = format!("```{language}\n");
    README.split(open.as_str()).skip(1).map(|rest| rest.split("```").next().expect("a block")).collect()
}

#[test]
fn the_exit_codes_are_those_of_the_help() {
    let help = text(&fuseproof(&["--help"]).stdout);
    let rows: Vec<(&str, &str)> = README
        .lines()
        .filter_map(|line| {
            let (code, meaning) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
            code.parse::<u8>().is_ok().then_some((code, meaning))
        })
        .collect();
    assert_eq!(rows.len(), 4);
    for (code, meaning) in rows {
        assert!(help.contains(&format!("{code} {meaning}")), "{code} {meaning} is not in {help}");
    }
}

/// Every command line in a block, and every option in it, is known to the program.
#[test]
fn every_command_exists() {
    let mut seen = 0;
    for line in blocks("sh").iter().flat_map(|block| block.lines()) {
        let Some(rest) = line.strip_prefix("cargo run --release -- ") else { continue };
        let words = rest.split('#').next().unwrap_or_default().split_whitespace();
        // What follows is somebody else's command.
        let words: Vec<&str> = words.take_while(|word| *word != "--").collect();
        let help = fuseproof(&[words[0], "--help"]);
        assert!(help.status.success(), "{line}");
        let help = text(&help.stdout);
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!("{option} ")), "{option} of {line} is not in {help}");
        }
        seen += 1;
    }
    assert!(seen >= 5, "{seen} commands");
}

#[test]
fn every_name_of_a_kernel_is_listed() {
    let list = String::from_utf8(fuseproof(&["kernels", "list"]).stdout).expect("a text");
    let known: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let named = README.split("--kernel ").skip(1).filter_map(|rest| rest.split_whitespace().next());
    for name in named.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())) {
        assert!(known.contains(&name), "{name} is none of {known:?}");
    }
    assert!(known.contains(&"host"));
}

#[test]
fn the_case_parses() {
    let library = Folder(Path::new(env!("CARGO_MANIFEST_DIR")).join("../cases"));
    let [case] = blocks("case")[..] else { panic!("one case") };
    let source = Source { path: "README.case".into(), text: case.into() };
    parse(&source, &library).unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
}

/// Doctor tells of each thing whether it is there, and how to get it.
#[test]
fn doctor_has_a_remedy_for_what_is_missing() {
    let all = Command::new(env!("CARGO_BIN_EXE_fuseproof")).arg("doctor").env("PATH", "/nowhere").output();
    let all = all.expect("the program starts");
    let said = String::from_utf8(all.stdout).expect("a text");
    assert_eq!(all.status.code(), Some(3), "{said}");
    let missing: Vec<&str> = said.lines().filter(|line| line.starts_with("missing ")).collect();
    assert!(missing.iter().any(|line| line.contains("QEMU")), "{said}");
    assert!(
        missing.iter().all(|line| line.split(": ").nth(1).is_some_and(|remedy| !remedy.is_empty())),
        "{said}"
    );
    let words = ["ok ", "missing ", "optional "];
    assert!(said.lines().all(|line| words.iter().any(|word| line.starts_with(word))), "{said}");
}
