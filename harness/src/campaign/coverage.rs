//! What campaigns have passed of a kernel: the union over workers, machines and runs, in the campaign's folder.
//!
//! ```text
//! coverage/<kernel>-<digest>/   passed/<writer>.json  origins.gz  page.html
//! ```
//!
//! One folder a kernel image, with all that a page takes: the kernel need not be there any more. Places are addresses, which
//! mean the same as long as the image is the same. What a guest says it passed counts only if there is such a place.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use qemu::kernel::{Kernel, Origins};
use serde::{Deserialize, Serialize};

use super::folder::Folder;

/// Below a campaign's folder.
pub(super) const FOLDER: &str = "coverage";
pub(super) const PASSED: &str = "passed";
pub(super) const ORIGINS: &str = "origins.gz";

/// Which places were passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passed {
    /// What the kernel was named by.
    pub kernel: String,
    /// Its release.
    pub release: String,
    /// The SHA-256 of its image.
    pub digest: String,
    /// By all campaigns before the last one.
    pub before: BTreeSet<u64>,
    /// By the last one.
    pub last: BTreeSet<u64>,
}

/// Why what was passed is not known.
#[derive(Debug, thiserror::Error)]
pub enum CoverageError {
    /// A file cannot be read.
    #[error(
        "cannot read {path} ({source}): mend it, or move it away, and the next campaign writes it again from its corpus"
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// There is nothing to be read.
    #[error(
        "no campaign in {folder} has covered {what}: `fuseproof fuzz` does, on a kernel with KCOV such as kasan-7.2{others}"
    )]
    None {
        /// The campaign's folder.
        folder: PathBuf,
        /// What was asked for.
        what: String,
        /// The kernels that there is something of.
        others: String,
    },
}

impl Passed {
    /// All that was ever passed.
    pub fn all(&self) -> BTreeSet<u64> {
        self.before.union(&self.last).copied().collect()
    }

    /// The folder of its kernel, below the campaign's.
    fn folder(kernel: &str, digest: &str) -> PathBuf {
        Path::new(FOLDER).join(format!("{}-{}", super::plain(kernel), &digest[..digest.len().min(8)]))
    }
}

/// What a campaign passes while it runs.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// The instrumented places, in the order in which the guest numbers them.
    places: Vec<u64>,
    passed: Passed,
    /// What others have passed.
    others: BTreeSet<u64>,
    /// As many as there are in the union.
    count: usize,
    has_begun: bool,
}

impl Coverage {
    /// What is known of the kernel, to be added to. What a page takes of it is written down.
    pub(super) fn open(
        folder: &mut Folder,
        kernel: &Kernel,
        origins: &Origins,
    ) -> Result<Coverage, super::Error> {
        let named = (kernel.name.clone(), kernel.release.clone(), kernel.digest.clone());
        let (kernel, release, digest) = named;
        let place = Passed::folder(&kernel, &digest);
        let mut coverage = Coverage {
            places: origins.places.iter().map(|origin| origin.address).collect(),
            passed: Passed { kernel, release, digest, ..Passed::default() },
            ..Coverage::default()
        };
        for (writer, passed) in read_all(&folder.path().join(&place).join(PASSED))? {
            if writer == folder.writer() {
                coverage.passed = passed;
            } else {
                coverage.others.extend(passed.all());
            }
        }
        let path = place.join(ORIGINS);
        if !folder.path().join(&path).exists() {
            folder.write(&path, &origins.pack())
        }
        coverage.count = coverage.union();
        Ok(coverage)
    }

    /// The places, to be numbered from 0 on.
    pub(super) fn places(&self) -> &[u64] {
        &self.places
    }

    /// Places that a guest says were passed, by their numbers.
    pub(super) fn pass(&mut self, folder: &mut Folder, numbers: &[u16]) {
        let told = numbers.iter().filter_map(|number| self.places.get(usize::from(*number)));
        let new: BTreeSet<u64> = told.filter(|place| !self.has(**place)).copied().collect();
        if new.is_empty() {
            return;
        }
        // A campaign that passed nothing is no last one.
        if !std::mem::replace(&mut self.has_begun, true) {
            let last = std::mem::take(&mut self.passed.last);
            self.passed.before.extend(last);
        }
        self.passed.last.extend(new);
        self.count = self.union();
        let text = serde_json::to_vec(&self.passed).expect("plain data");
        let place = Passed::folder(&self.passed.kernel, &self.passed.digest).join(PASSED);
        folder.write(&place.join(format!("{}.json", folder.writer())), &text);
    }

    fn union(&self) -> usize {
        self.passed.all().union(&self.others).count()
    }

    /// Whether this campaign has passed it.
    fn has(&self, place: u64) -> bool {
        self.has_begun && self.passed.last.contains(&place)
    }

    /// How many were passed by this campaign and those before.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

/// What was passed, what the places belong to, and the folder for the page: of the kernel of that name, or of the one that was
/// fuzzed last.
///
/// # Errors
/// There is nothing, or it cannot be read.
pub fn covered(folder: &Path, kernel: Option<&str>) -> Result<(Passed, Origins, PathBuf), CoverageError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join(FOLDER)).into_iter().flatten().flatten() {
        let path = entry.path().join(PASSED);
        let time =
            |writer: &str| fs::metadata(path.join(format!("{writer}.json"))).and_then(|meta| meta.modified());
        let all = read_all(&path)?;
        let last = all.iter().filter_map(|(writer, _)| time(writer).ok()).max();
        let united = all.into_iter().map(|(_, passed)| passed).reduce(|mut all, one| {
            all.before.extend(one.before);
            all.last.extend(one.last);
            all
        });
        found.extend(united.map(|passed| (last, passed, entry.path())));
    }
    let others: BTreeSet<String> = found.iter().map(|(_, passed, _)| passed.kernel.clone()).collect();
    let wanted = found.into_iter().filter(|(_, passed, _)| kernel.is_none_or(|name| name == passed.kernel));
    let Some((_, passed, place)) = wanted.max_by_key(|(time, ..)| *time) else {
        let others = others.into_iter().collect::<Vec<_>>().join(", ");
        return Err(CoverageError::None {
            folder: folder.to_owned(),
            what: kernel.unwrap_or("a kernel").to_owned(),
            others: if others.is_empty() { others } else { format!("; there is {others}") },
        });
    };
    let path = place.join(ORIGINS);
    let origins = fs::read(&path).and_then(|packed| Origins::unpack(&packed));
    let origins = origins.map_err(|source| CoverageError::Broken { path, source })?;
    Ok((passed, origins, place))
}

/// What each writer has passed of a kernel; none if there is no such folder.
pub(super) fn read_all(folder: &Path) -> Result<Vec<(String, Passed)>, CoverageError> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if let Some(writer) = name.strip_suffix(".json").filter(|writer| !writer.starts_with('.')) {
            let broken = |source| CoverageError::Broken { path: path.clone(), source };
            let text = fs::read(&path).map_err(broken)?;
            let passed = serde_json::from_slice(&text).map_err(|error| broken(error.into()))?;
            all.push((writer.to_owned(), passed));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use qemu::kernel::{Boot, Frame, Origin};

    use super::*;
    use crate::campaign::{Known, Partition};

    fn kernel(name: &str, digest: &str) -> Kernel {
        Kernel {
            name: name.into(),
            release: "6.12.1".into(),
            image: "image".into(),
            boot: Boot::Pvh,
            modules: None,
            digest: digest.into(),
        }
    }

    fn origins() -> Origins {
        let frame = || Frame { function: "f".into(), file: "fs/a.c".into(), line: 1 };
        let origin = |address| Origin { address, frames: vec![frame()] };
        Origins { places: [0x10, 0x20, 0x30].map(origin).into(), ..Origins::default() }
    }

    struct Desk {
        temp: tempfile::TempDir,
        folder: Folder,
    }

    fn desk() -> Desk {
        let temp = tempfile::tempdir().expect("temp");
        let folder = Folder::open(temp.path(), None, Known::default(), Partition::WHOLE).expect("a folder");
        Desk { temp, folder }
    }

    impl Desk {
        fn open(&mut self, name: &str, digest: &str) -> Result<Coverage, super::super::Error> {
            Coverage::open(&mut self.folder, &kernel(name, digest), &origins())
        }

        fn covered(&self, name: Option<&str>) -> Result<(Passed, Origins, PathBuf), CoverageError> {
            covered(self.temp.path(), name)
        }
    }

    #[test]
    fn workers_machines_and_runs_are_united() {
        let mut desk = desk();
        let mut first = desk.open("kasan-6.12", "aaaaaaaabb").expect("open");
        // Two workers, and one that invents places.
        for numbers in [[0].as_slice(), &[0, 1], &[3, u16::MAX], &[]] {
            first.pass(&mut desk.folder, numbers);
        }
        assert_eq!(first.count(), 2);
        let (passed, kept, _) = desk.covered(None).expect("covered");
        assert_eq!((passed.before.len(), passed.last), (0, [0x10, 0x20].into()));
        assert_eq!(kept, origins());
        let mut second = desk.open("kasan-6.12", "aaaaaaaabb").expect("open");
        second.pass(&mut desk.folder, &[]);
        assert_eq!(second.count(), 2);
        second.pass(&mut desk.folder, &[1, 2]);
        assert_eq!(second.count(), 3);
        let (passed, ..) = desk.covered(Some("kasan-6.12")).expect("covered");
        assert_eq!((passed.before, passed.last), ([0x10, 0x20].into(), [0x20, 0x30].into()));
    }

    #[test]
    fn kernels_stay_apart() {
        let mut desk = desk();
        for (name, digest, number) in
            [("kasan-6.12", "aaaaaaaa", 0), ("kasan-6.12", "bbbbbbbb", 1), ("../out/vmlinux", "cccccccc", 2)]
        {
            let mut one = desk.open(name, digest).expect("open");
            one.pass(&mut desk.folder, &[number]);
            assert_eq!(one.count(), 1);
        }
        let (passed, ..) = desk.covered(Some("../out/vmlinux")).expect("covered");
        assert_eq!(passed.last, [0x30].into());
        assert_eq!(fs::read_dir(desk.temp.path().join(FOLDER)).expect("made").count(), 3);
        let missing = desk.covered(Some("kasan-7.2")).expect_err("none").to_string();
        assert!(
            missing.contains("covered kasan-7.2") && missing.contains("there is ../out/vmlinux, kasan-6.12")
        );
    }

    #[test]
    fn a_file_that_is_cut_is_refused_and_stays() {
        let mut desk = desk();
        desk.open("k", "aaaaaaaa").expect("open").pass(&mut desk.folder, &[0, 1]);
        let name = format!("{}.json", desk.folder.writer());
        let path = desk.temp.path().join("coverage/k-aaaaaaaa").join(PASSED).join(name);
        let whole = fs::read(&path).expect("there");
        for half in [&whole[..whole.len() / 2], b"", b"\xff\0"] {
            fs::write(&path, half).expect("written");
            for error in [
                desk.open("k", "aaaaaaaa").expect_err("refused").to_string(),
                desk.covered(None).expect_err("refused").to_string(),
            ] {
                assert!(error.contains("passed/") && error.contains("move it away"), "{error}");
            }
            assert_eq!(fs::read(&path).expect("there"), half);
        }
        fs::write(&path, &whole).expect("written");
        fs::write(desk.temp.path().join("coverage/k-aaaaaaaa").join(ORIGINS), "half").expect("written");
        assert!(desk.covered(None).expect_err("refused").to_string().contains(ORIGINS));
    }
}
