//! Folders of several campaigns as one: what any of them has is in it afterwards, once.
//!
//! Joined again, nothing changes, and in another order the same comes of it: an input has the name of what is in it, and figures
//! have that of their writer, of whom the most counts. Nothing is removed, and what is there is written over only by what says
//! more.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::coverage::{self, Passed};
use super::diary::write_page;
use super::finding::{COUNTS, Finding, counts, entries, hash, put, put_all};
use super::history;
use super::replay::LEAST;
use super::{Error, Folder, FolderError};

/// What came to a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Inputs that it did not have.
    pub inputs: usize,
    /// Findings that it did not have.
    pub findings: usize,
}

/// What a finding's folder gets when it is run again; the last file says that the others are there.
const EXAMINED: [&str; 5] = ["case.original", "report.txt", "case", LEAST, "rate"];

/// Put into the folder what others have.
///
/// # Errors
/// A folder is none of a campaign's, or cannot be read or written. What was put there until then is whole.
pub fn merge(into: &mut Folder, from: &[PathBuf]) -> Result<Merged, Error> {
    let mut merged = Merged::default();
    for from in from {
        if !from.join("findings").is_dir() {
            let none =
                io::Error::new(io::ErrorKind::NotFound, "it is no campaign's folder, which has findings/");
            return Err(FolderError::at(from, none).into());
        }
        let at = |source| FolderError::at(from, source);
        merged.findings += findings(into.path(), from).map_err(at)?;
        for folder in ["corpus", "artifacts"] {
            merged.inputs += inputs(&into.path().join(folder), &from.join(folder)).map_err(at)?;
        }
        histories(&into.path().join(history::FOLDER), &from.join(history::FOLDER)).map_err(at)?;
        places(&into.path().join(coverage::FOLDER), &from.join(coverage::FOLDER))?;
    }
    write_page(into);
    into.written()?;
    Ok(merged)
}

fn folders(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    Ok(entries(folder)?.into_iter().filter(|(_, path)| path.is_dir()).collect())
}

/// Inputs of all targets, each with its name, unless another one has it.
fn inputs(into: &Path, from: &Path) -> io::Result<usize> {
    let mut new = 0;
    for (target, folder) in folders(from)? {
        for (name, path) in entries(&folder)? {
            let (input, mut there) = (fs::read(path)?, into.join(&target).join(&name));
            match fs::read(&there) {
                Ok(known) if known == input => continue,
                Ok(_) => there = there.with_file_name(hash(&input)),
                Err(_) => {}
            }
            if !there.exists() {
                put(&there, &input)?;
                new += 1;
            }
        }
    }
    Ok(new)
}

fn findings(into: &Path, from: &Path) -> io::Result<usize> {
    let mut new = 0;
    for (name, path) in folders(&from.join("findings"))? {
        let there = into.join("findings").join(name);
        if there.is_dir() {
            more_of(&there, &path)?;
        } else {
            let mut files = Vec::new();
            for (name, path) in entries(&path)?.into_iter().filter(|(_, path)| path.is_file()) {
                files.push((name, fs::read(path)?));
            }
            put_all(&there, &files)?;
            new += 1;
        }
        let known = counts(&there);
        for (writer, count) in counts(&path) {
            if known.get(&writer).is_none_or(|known| *known < count) {
                put(&there.join(COUNTS).join(writer), count.to_string().as_bytes())?;
            }
        }
    }
    Ok(new)
}

/// What came of running a finding again, if only the other one was, on the same kernel.
fn more_of(there: &Path, path: &Path) -> io::Result<()> {
    let (known, other) = (Finding::read(there), Finding::read(path));
    if known.rate.input.is_some() || other.rate.input.is_none() || known.kernel != other.kernel {
        return Ok(());
    }
    for file in EXAMINED {
        match fs::read(path.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            bytes => put(&there.join(file), &bytes?)?,
        }
    }
    Ok(())
}

/// The lines of each writer that are whole and not there yet.
fn histories(into: &Path, from: &Path) -> io::Result<()> {
    for (target, folder) in folders(from)? {
        for (kernel, folder) in folders(&folder)? {
            for (file, path) in entries(&folder)? {
                let there = into.join(&target).join(&kernel).join(file);
                let text =
                    |path: &Path| Ok::<_, io::Error>(String::from_utf8_lossy(&fs::read(path)?).into_owned());
                let known = text(&there).unwrap_or_default();
                let lines: BTreeSet<&str> = known.lines().collect();
                let told = text(&path)?;
                let new =
                    told.lines().filter(|line| !lines.contains(line) && !history::moments(line).is_empty());
                let new: String = new.flat_map(|line| [line, "\n"]).collect();
                if !new.is_empty() {
                    fs::create_dir_all(there.parent().unwrap_or(into))?;
                    let cut = if known.is_empty() || known.ends_with('\n') { "" } else { "\n" };
                    let mut file = fs::OpenOptions::new().create(true).append(true).open(&there)?;
                    file.write_all(format!("{cut}{new}").as_bytes())?;
                }
            }
        }
    }
    Ok(())
}

/// What each writer has passed of each kernel.
fn places(into: &Path, from: &Path) -> Result<(), Error> {
    let at = |source| FolderError::at(into, source);
    for (kernel, folder) in folders(from).map_err(at)? {
        let there = into.join(kernel);
        let origins = (folder.join(coverage::ORIGINS), there.join(coverage::ORIGINS));
        if origins.0.exists() && !origins.1.exists() {
            fs::read(&origins.0).and_then(|bytes| put(&origins.1, &bytes)).map_err(at)?;
        }
        let known = coverage::read_all(&there.join(coverage::PASSED))?;
        for (writer, passed) in coverage::read_all(&folder.join(coverage::PASSED))? {
            let before = known.iter().find(|(name, _)| *name == writer).map(|(_, passed)| passed);
            let united = before.map_or(passed.clone(), |before| united(before, passed));
            if before != Some(&united) {
                let text = serde_json::to_vec(&united).expect("plain data");
                put(&there.join(coverage::PASSED).join(format!("{writer}.json")), &text).map_err(at)?;
            }
        }
    }
    Ok(())
}

/// The later of two states of one writer, or both if neither is.
fn united(one: &Passed, other: Passed) -> Passed {
    let is_later = |one: &Passed, other: &Passed| {
        one.before.is_superset(&other.before) && one.all().is_superset(&other.all())
    };
    match (is_later(one, &other), is_later(&other, one)) {
        (true, _) => one.clone(),
        (_, true) => other,
        _ => Passed {
            before: one.before.union(&other.before).copied().collect(),
            last: one.last.union(&other.last).copied().collect(),
            ..other
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::campaign::finding::NEW;
    use crate::campaign::history::{Lines, Moment};
    use crate::campaign::{Known, Partition};

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            put(&folder.join(file), text.as_bytes()).unwrap();
        }
    }

    /// All files of a folder but its page, its locks and its id.
    fn all(folder: &Path) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (name, path) in entries(folder).unwrap() {
            if path.is_dir() {
                found.extend(all(&path).into_iter().map(|(below, text)| (format!("{name}/{below}"), text)));
            } else if !["lock", "id", "report.html"].contains(&name.as_str()) {
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
        found
    }

    fn merged(into: &Path, from: &[&Path]) -> Merged {
        let mut folder = Folder::open(into, None, Known::default(), Partition::WHOLE).unwrap();
        merge(&mut folder, &from.iter().map(|from| from.to_path_buf()).collect::<Vec<_>>()).unwrap()
    }

    const PASSED: &str = r#"{"kernel":"k","release":"r","digest":"d","before":[1],"last":[2]}"#;
    const RATE: &str = "input = \"9 of 10\"\n";

    /// Two folders that have something in common.
    fn two() -> [tempfile::TempDir; 2] {
        let two = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, other] = [two[0].path(), two[1].path()];
        let a = hash(b"a");
        let both = [
            (format!("corpus/sequence/{a}"), "a"),
            ("findings/oracle-x/case".into(), "case"),
            ("findings/oracle-x/input".into(), "input"),
            ("findings/oracle-x/report.txt".into(), "why"),
            ("findings/oracle-x/counts/first".into(), "3"),
        ];
        for (file, text) in &both {
            write(one, &[(file, text)]);
            write(other, &[(file, text)]);
        }
        write(one, &[("corpus/wire/seed-1", "one's"), ("findings/oracle-y/case", "only one's")]);
        write(one, &[("coverage/k-d/passed/first.json", PASSED), ("coverage/k-d/origins.gz", "text")]);
        write(other, &[("corpus/wire/seed-1", "other's"), ("corpus/wire/.new-1", "half")]);
        write(other, &[("coverage/k-d/passed/second.json", &PASSED.replace("[2]", "[3]"))]);
        write(
            other,
            &[("coverage/k-d/passed/first.json", &PASSED.replace("[1]", "[]").replace("[2]", "[1]"))],
        );
        write(other, &[("findings/oracle-x/counts/first", "2"), ("findings/oracle-x/counts/second", "7")]);
        write(other, &[("findings/oracle-x/rate", RATE), ("findings/oracle-x/case", "least")]);
        write(other, &[("findings/oracle-x/case.original", "case"), ("findings/.new-1/case", "half")]);
        for (path, seconds) in [(one, [10.0, 20.0]), (other, [20.0, 30.0])] {
            let mut lines = Lines::new(path.join(history::file("sequence", "k", "first")));
            for seconds in seconds {
                lines.add(&Moment { begun: 1, seconds, ..Moment::default() });
            }
        }
        two
    }

    #[test]
    fn all_is_there_once_in_any_order_and_however_often() {
        let two = two();
        let [one, other] = [two[0].path(), two[1].path()];
        let into = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [there, back] = [into[0].path(), into[1].path()];
        assert_eq!(merged(there, &[one, other]), Merged { inputs: 3, findings: 2 });
        let first = all(there);
        assert_eq!(first["findings/oracle-x/counts/first"], "3");
        assert_eq!(
            (first["findings/oracle-x/rate"].as_str(), first["findings/oracle-x/case"].as_str()),
            (RATE, "least")
        );
        assert_eq!(Finding::read(&there.join("findings/oracle-x")).times, 10);
        assert_eq!(first["coverage/k-d/passed/first.json"], PASSED);
        let lines = &first["history/sequence/k/first.jsonl"];
        assert_eq!((lines.lines().count(), history::moments(lines).len()), (3, 3));
        let others = [format!("corpus/wire/{}", hash(b"other's")), "corpus/wire/seed-1".into()];
        assert_eq!(others.map(|file| first[&file].clone()), ["other's", "one's"]);
        assert!(!first.keys().any(|name| name.contains(NEW)), "{first:?}");
        assert!(there.join("report.html").exists());
        // Nothing comes twice.
        assert_eq!(merged(there, &[other, one, there]), Merged::default());
        assert_eq!(all(there), first);
        merged(back, &[other]);
        merged(back, &[one]);
        let names = |all: &BTreeMap<String, String>| {
            all.keys().filter(|name| !name.contains("wire")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&all(back)), names(&first));
        assert_eq!(Finding::read(&back.join("findings/oracle-x")).times, 10);
    }

    #[test]
    fn what_is_no_campaigns_folder_is_refused() {
        let (into, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut folder = Folder::open(into.path(), None, Known::default(), Partition::WHOLE).unwrap();
        let error = merge(&mut folder, &[from.path().join("nothing")]).unwrap_err().to_string();
        assert!(error.contains("nothing") && error.contains("no campaign's folder"), "{error}");
    }
}
