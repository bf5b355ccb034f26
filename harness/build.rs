//! Makes a new case file count as a change: the tests over `cases/` are listed when they are compiled.

fn main() {
    println!("cargo::rerun-if-changed=../cases");
}
