//! What patches make of a source, as contents of the files that they touch. They are applied to copies, so a patch that does
//! not apply leaves no trace in the tree, and only what differs is written there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use super::recipe::Recipe;
use super::tree::Tree;
use super::trouble;
use crate::digest;
use crate::kernel::Error;
use crate::progress::Progress;

/// No patch of people's is larger.
const PATCH_BOUND: u64 = 64 << 20;
/// How much of a failed hunk is told.
const TOLD: usize = 30;

/// The contents of all touched files, by their path in the source; none for a file that is not to be there.
#[derive(Debug, Default)]
pub(super) struct Changes(pub(super) BTreeMap<String, Option<Vec<u8>>>);

impl Changes {
    /// Tells these changes from others.
    pub(super) fn digest(&self) -> String {
        digest::of_parts(self.0.iter().flat_map(|(path, content)| {
            [path.as_bytes(), content.as_deref().map_or(b"absent".as_slice(), |content| content)]
        }))
    }
}

/// What the recipe's patches, the dialect's first, make of the tree. Where its flavour measures coverage, the makefiles say
/// what of; all flavours of a tree get them, as they mean nothing to the others.
pub(super) fn changes(recipe: &Recipe, tree: &Tree, progress: &mut dyn Progress) -> Result<Changes, Error> {
    let mut patches: Vec<(String, Vec<u8>)> =
        recipe.own_patches().map(|(name, text)| (name.to_owned(), text.into())).collect();
    for path in &recipe.patches {
        patches.push((path.display().to_string(), read(path)?));
    }
    let coverage: Vec<&String> = super::flavours().iter().flat_map(|flavour| &flavour.coverage).collect();
    let scratch = tempfile::tempdir().map_err(trouble(&std::env::temp_dir()))?;
    let scratch = scratch.path();
    let mut touched = BTreeSet::new();
    for (name, text) in &patches {
        let files = files(&String::from_utf8_lossy(text));
        if files.is_empty() {
            return Err(Error::NoPatch { patch: name.clone() });
        }
        for file in files {
            if !is_inside(&file) {
                return Err(Error::Patch {
                    patch: name.clone(),
                    detail: format!("it changes {file}, outside of the source"),
                });
            }
            touched.insert(file);
        }
    }
    touched.extend(coverage.iter().map(|what| makefile(what).0));
    for file in &touched {
        if let Some(content) = tree.original(file)? {
            let copy = scratch.join(file);
            fs::create_dir_all(copy.parent().unwrap_or(scratch)).map_err(trouble(&copy))?;
            fs::write(&copy, content).map_err(trouble(&copy))?;
        }
    }
    for (name, text) in &patches {
        for hunk in apply(name, text, scratch)? {
            progress.say(&format!("{name}: {hunk}; look whether it is where it belongs"));
        }
    }
    for what in coverage {
        let (file, line) = makefile(what);
        let path = scratch.join(file);
        // A source without that folder has nothing to measure there.
        if let Ok(text) = fs::read_to_string(&path) {
            fs::write(&path, text + &line).map_err(trouble(&path))?;
        }
    }
    let content = |file: String| {
        let content = fs::read(scratch.join(&file)).ok();
        (file, content)
    };
    Ok(Changes(touched.into_iter().map(content).collect()))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > PATCH_BOUND {
        return Err(Error::NoPatch { patch: path.display().to_string() });
    }
    fs::read(path).map_err(unreadable)
}

/// Apply a patch in a folder; what `patch` says of hunks whose surroundings are not quite what they say.
fn apply(name: &str, text: &[u8], folder: &Path) -> Result<Vec<String>, Error> {
    let mut patch = Command::new("patch");
    // No file of a source is called so.
    let rejects = folder.join(".rejects");
    patch.args(["-p1", "--force", "--no-backup-if-mismatch", "-r"]).arg(&rejects).arg("-d").arg(folder);
    patch.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
    let failed = |detail: String| Error::Patch { patch: name.to_owned(), detail };
    let mut child = patch.spawn().map_err(|error| failed(error.to_string()))?;
    let mut input = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // It ends early when it cannot make sense of what it reads.
        scope.spawn(move || input.take().map(|mut input| input.write_all(text)));
        child.wait_with_output()
    });
    let output = output.map_err(|error| failed(error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(fuzzy(&text(&output.stdout)));
    }
    let hunks = fs::read(&rejects).unwrap_or_default();
    let said = text(&output.stdout) + &text(&output.stderr) + &text(&hunks);
    Err(failed(said.lines().take(TOLD).collect::<Vec<_>>().join("\n")))
}

/// The lines about such hunks, each with its file.
fn fuzzy(said: &str) -> Vec<String> {
    let mut file = "";
    let mut hunks = Vec::new();
    for line in said.lines() {
        match line.strip_prefix("patching file ") {
            Some(name) => file = name,
            None if line.contains(" with fuzz ") => {
                hunks.push(format!("{file}: {}", line.trim_end_matches('.')))
            }
            None => {}
        }
    }
    hunks
}

/// The files that a patch names, with the first part of each name taken off, as `patch -p1` does. What git writes above a
/// file that is only moved has the whole names.
fn files(text: &str) -> Vec<String> {
    const MOVES: [&str; 4] = ["rename from ", "rename to ", "copy from ", "copy to "];
    let mut files = Vec::new();
    let mut lines = text.lines().peekable();
    let mut is_head = false;
    while let Some(line) = lines.next() {
        is_head = line.starts_with("diff --git ") || (is_head && !line.starts_with("--- "));
        files.extend(
            MOVES.iter().find_map(|word| line.strip_prefix(word)).filter(|_| is_head).map(str::to_owned),
        );
        let Some(old) = line.strip_prefix("--- ") else { continue };
        let Some(new) = lines.peek().and_then(|next| next.strip_prefix("+++ ")) else { continue };
        for name in [old, new] {
            let name = name.split('\t').next().unwrap_or_default().trim_end();
            if let Some((_, rest)) = name.split_once('/').filter(|_| name != "/dev/null") {
                files.push(rest.to_owned());
            }
        }
    }
    files
}

fn is_inside(file: &str) -> bool {
    !file.is_empty() && Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

/// The makefile that decides about the coverage of a folder or an object, and the line for it.
fn makefile(what: &str) -> (String, String) {
    let path = PathBuf::from(what);
    if what.ends_with('/') {
        return (format!("{what}Makefile"), "KCOV_INSTRUMENT := y\n".into());
    }
    let folder = path.parent().map_or_else(String::new, |folder| format!("{}/", folder.display()));
    let object = path.file_name().unwrap_or_default().to_string_lossy();
    (format!("{folder}Makefile"), format!("KCOV_INSTRUMENT_{object} := y\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_patch() {
        let text = "Words.\n\n--- a/fs/x.c\t2026-01-01\n+++ b/fs/x.c\n@@ -1 +1 @@\n-a\n--- not a name\n+b\n\
            --- /dev/null\n+++ b/fs/new.c\n@@ -0,0 +1 @@\n+c\n";
        assert_eq!(files(text), ["fs/x.c", "fs/x.c", "fs/new.c"]);
        assert_eq!(files("no patch"), [""; 0]);
        let moved = "copy to /dev/fuse\n\ndiff --git a/x.c b/y.c\nsimilarity index 100%\nrename from x.c\nrename to y.c\n";
        assert_eq!(files(moved), ["x.c", "y.c"]);
    }

    #[test]
    fn nothing_outside_of_the_source_is_touched() {
        assert!(is_inside("fs/fuse/dev.c"));
        assert!(
            !is_inside("../x") && !is_inside("fs/../../x") && !is_inside("/etc/passwd") && !is_inside("")
        );
    }

    #[test]
    fn a_patch_that_does_not_apply_shows_its_hunk() {
        let folder = tempfile::tempdir().expect("temp");
        fs::write(folder.path().join("x.c"), "int a;\nint b;\n").expect("written");
        let good = "--- a/x.c\n+++ b/x.c\n@@ -1,2 +1,2 @@\n-int a;\n+int c;\n int b;\n";
        let bad = good.replace("int a", "int z");
        let error = apply("bad.patch", bad.as_bytes(), folder.path()).expect_err("refused").to_string();
        assert!(
            error.contains("bad.patch") && error.contains("-int z;") && error.contains("Hunk #1 FAILED"),
            "{error}"
        );
        assert_eq!(apply("good.patch", good.as_bytes(), folder.path()).expect("applies"), [""; 0]);
        assert_eq!(fs::read_to_string(folder.path().join("x.c")).expect("read"), "int c;\nint b;\n");
    }

    #[test]
    fn a_file_may_be_moved_and_what_does_not_quite_fit_is_told() {
        let folder = tempfile::tempdir().expect("temp");
        let lines: String = (1..=9).map(|n| format!("{n}\n")).collect();
        fs::write(folder.path().join("x.c"), lines).expect("written");
        let moved = "diff --git a/x.c b/y.c\nsimilarity index 100%\nrename from x.c\nrename to y.c\n";
        assert_eq!(apply("moved.patch", moved.as_bytes(), folder.path()).expect("applies"), [""; 0]);
        assert!(!folder.path().join("x.c").exists());
        let fuzzy = "--- a/y.c\n+++ b/y.c\n@@ -2,7 +2,7 @@\n zwei\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n";
        let told = apply("fuzzy.patch", fuzzy.as_bytes(), folder.path()).expect("applies");
        assert_eq!(told, ["y.c: Hunk #1 succeeded at 2 with fuzz 1"]);
    }

    #[test]
    fn coverage_is_asked_for_in_makefiles() {
        assert_eq!(makefile("fs/fuse/"), ("fs/fuse/Makefile".into(), "KCOV_INSTRUMENT := y\n".into()));
        assert_eq!(makefile("fs/a.o"), ("fs/Makefile".into(), "KCOV_INSTRUMENT_a.o := y\n".into()));
    }
}
