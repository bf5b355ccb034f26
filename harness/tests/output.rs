//! What becomes of results that nobody takes, or that find no room. No kernel here.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use rstest::rstest;

fn run(arguments: &[&str], stdout: Stdio) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fuseproof"))
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdout(stdout)
        .output()
        .expect("the program starts")
}

#[rstest]
#[case::rules(&["rules"])]
#[case::explain(&["explain", "OPEN-05"])]
#[case::list(&["run", "--list"])]
#[case::kernels(&["kernels", "list"])]
fn a_reader_that_goes_away_has_seen_enough(#[case] arguments: &[&str]) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = run(arguments, OwnedFd::from(writer).into());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[rstest]
#[case::rules(&["rules"])]
#[case::list(&["run", "--list"])]
fn a_full_disk_is_trouble(#[case] arguments: &[&str]) {
    let full = File::options().write(true).open("/dev/full").expect("every Linux has it");
    let output = run(arguments, full.into());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot write to standard output") && said.contains("No space left"), "{said}");
}
