//! A folder through a night: full disks, campaigns that were ended, and several at once.

use nix::mount::{MsFlags, mount, umount};

use super::*;
use crate::campaign::{Rate, TARGETS};
use crate::protocol::OddKind;

fn open(path: &Path) -> Folder {
    Folder::open(path, Some(TARGETS[0]), Known::default(), Partition::WHOLE).expect("a folder")
}

fn odd(key: &str) -> Odd {
    Odd {
        bytes: Vec::new(),
        kind: OddKind::Oracle,
        function: "read".into(),
        key: key.into(),
        why: format!("it is {key}"),
        records: Vec::new(),
        rest: Vec::new(),
    }
}

/// A small file system of its own; gone with this value.
struct Small(tempfile::TempDir);

impl Small {
    /// None without the right to mount, which is said.
    fn new() -> Option<Small> {
        let folder = tempfile::tempdir().expect("a folder");
        match mount(Some("small"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1M")) {
            Ok(()) => Some(Small(folder)),
            Err(error) => {
                eprintln!("left out: mounting needs root ({error})");
                None
            }
        }
    }

    /// Leave no room.
    fn fill(&self) {
        let _ = fs::write(self.0.path().join("filler"), vec![0; 2 << 20]);
    }

    fn make_room(&self) {
        fs::remove_file(self.0.path().join("filler")).expect("it was there");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount(self.0.path()).expect("nothing holds it");
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    let Some(small) = Small::new() else { return };
    let path = small.0.path().join("fuzzing");
    let mut folder = open(&path);
    folder.keep(b"before");
    small.fill();
    // More than fits into what a page has left.
    let inputs: Vec<Vec<u8>> = (0..20).map(|number| vec![number; 8 << 10]).collect();
    inputs.iter().for_each(|input| folder.keep(input));
    let name = folder.odd(&odd("one")).expect("new").name.clone();
    assert!(folder.odd(&odd("one")).is_none(), "it is known although it is in no folder");
    let rate = Rate { input: Some("9 of 10".parse().unwrap()), ..Rate::default() };
    assert_eq!(folder.examined(&name, &Examined::left_as_it_was(rate.clone())).rate, rate);
    let unwritten = folder.unwritten();
    assert_eq!((unwritten.findings, unwritten.files), ([name.clone()].into(), inputs.len()));
    assert!(unwritten.why.contains("space"), "{}", unwritten.why);
    assert!(folder.text_of(&name, "report.txt").expect("in memory").contains("it is one"));
    folder.refresh().expect("it can be read");
    assert_eq!(folder.len(), 21, "what waits is not forgotten");
    assert!(fs::read_dir(path.join("findings")).unwrap().next().is_none(), "no half of it lies there");
    small.make_room();
    folder.write_again();
    assert!(folder.unwritten().is_nothing());
    drop(folder);
    let folder = open(&path);
    assert_eq!((folder.len(), folder.findings().len()), (21, 1));
    let finding = &folder.findings()[&name];
    assert_eq!((finding.times, &finding.rate), (2, &rate));
    // Held open, it would hold the file system.
    drop(folder);
}

/// What a program leaves that was ended at any moment.
fn leave_behind(path: &Path) {
    for name in [".new-a", "corpus/sequence/.new-b", "coverage/k-1/passed/.new-c"] {
        let path = path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "half").unwrap();
    }
    fs::create_dir_all(path.join("findings/.new-d/counts")).unwrap();
    fs::write(path.join("findings/.new-d/case"), "half").unwrap();
    // As after the end of the whole computer.
    fs::write(path.join("corpus/sequence").join(hash(b"whole")), "who").unwrap();
}

fn left(path: &Path) -> usize {
    let entries = fs::read_dir(path).unwrap().flatten();
    let below = |entry: &fs::DirEntry| if entry.path().is_dir() { left(&entry.path()) } else { 0 };
    let is_new = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(NEW);
    entries.map(|entry| usize::from(is_new(&entry)) + below(&entry)).sum()
}

#[test]
fn what_was_being_made_is_cleared_up_and_what_was_cut_is_skipped() {
    let temp = tempfile::tempdir().unwrap();
    let mut folder = open(temp.path());
    folder.keep(b"one");
    folder.odd(&odd("one"));
    drop(folder);
    leave_behind(temp.path());
    // Of somebody's own: no name of ours.
    fs::write(temp.path().join("corpus/sequence/by-hand"), "other").unwrap();
    fs::write(temp.path().join(".hidden"), "not ours").unwrap();
    let mut folder = open(temp.path());
    assert_eq!((left(temp.path()), folder.len(), folder.findings().len()), (0, 2, 1));
    assert!(temp.path().join(".hidden").exists());
    // It is written again when it comes again.
    folder.keep(b"whole");
    assert_eq!(fs::read(temp.path().join("corpus/sequence").join(hash(b"whole"))).unwrap(), b"whole");
}

#[test]
fn nobody_clears_up_while_others_write() {
    let temp = tempfile::tempdir().unwrap();
    let first = open(temp.path());
    leave_behind(temp.path());
    let second = open(temp.path());
    assert_eq!(left(temp.path()), 4);
    assert_eq!(first.writer(), second.writer(), "the id is made once");
    drop((first, second));
    open(temp.path());
    assert_eq!(left(temp.path()), 0);
}

#[test]
fn several_at_once_have_what_others_add_and_count_for_themselves() {
    let temp = tempfile::tempdir().unwrap();
    let mut parts = [1, 2].map(|number| {
        let Ok(crate::campaign::Asked::Part(part)) = format!("{number}/2").parse() else { panic!("a part") };
        Folder::open(temp.path(), Some(TARGETS[0]), Known::default(), part).unwrap()
    });
    for (number, part) in (0u8..).zip(&mut parts) {
        part.keep(b"both");
        part.keep(&[number]);
        assert!(part.odd(&odd("one")).is_some(), "new to each");
        part.odd(&odd("one"));
    }
    for part in &mut parts {
        part.refresh().unwrap();
        assert_eq!(part.len(), 3);
    }
    fs::remove_file(temp.path().join("corpus/sequence").join(hash(b"both"))).unwrap();
    parts[0].refresh().unwrap();
    assert_eq!(parts[0].len(), 2, "what others have dropped is gone");
    let all = findings(temp.path(), &Known::default()).unwrap();
    assert_eq!((all.len(), all[0].times), (1, 4));
}

#[test]
fn what_brings_nothing_twice_is_dropped_by_one_of_several() {
    let temp = tempfile::tempdir().unwrap();
    let (mut folder, mut other) = (open(temp.path()), open(temp.path()));
    for input in [b"a", b"b", b"c"] {
        folder.keep(input);
    }
    other.refresh().unwrap();
    let [a, b, c] = [b"a", b"b", b"c"].map(|input| hash(input));
    let ran = |dull: &[&String]| [&a, &b, &c].map(|name| (name.clone(), dull.contains(&name))).to_vec();
    // Once may be chance, and so may twice with a time between.
    folder.sift(0, &ran(&[&b]));
    folder.sift(0, &ran(&[]));
    folder.sift(0, &ran(&[&b]));
    assert_eq!(folder.len(), 3);
    other.sift(0, &ran(&[&b]));
    other.sift(0, &ran(&[&b]));
    assert_eq!((other.len(), folder.turn().generation), (3, 0), "another one drops");
    folder.sift(0, &ran(&[&b]));
    assert_eq!((folder.len(), folder.turn().generation), (2, 1));
    assert!(!temp.path().join("corpus/sequence").join(&b).exists());
    // A turn that began before that may have found c needless because of b.
    folder.sift(0, &ran(&[&c]));
    folder.sift(0, &ran(&[&c]));
    assert_eq!(folder.len(), 2);
    folder.sift(1, &ran(&[&c]));
    assert_eq!(folder.turn().inputs, [(a, b"a".to_vec())]);
    other.refresh().unwrap();
    assert_eq!(other.len(), 1);
}
