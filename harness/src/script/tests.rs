//! The language as a whole: what parses prints and parses back; what does not is explained.

use std::collections::BTreeMap;

use miette::{GraphicalReportHandler, GraphicalTheme};

use super::*;

const MOUNT: &str = r#"# A FUSE mount with passthrough at depth 1 over a tmpfs that holds a file "a" with "hello".
needs  passthrough
danger "mounts"
host   lower tmpfs
host   file "a" "hello"
daemon on INIT: reply flags=INIT_EXT|MAX_PAGES flags2=PASSTHROUGH max_stack_depth=1
daemon mount
"#;

/// Every construct once.
const TOUR: &str = r#"# An open reply that asks for "passthrough" fails, and the daemon still gets RELEASE.
rules  OPEN-03 OPEN-05 S1-02
needs  ext4 !io_uring          # capabilities
not    clone "it closes the device"
not    io_uring "it closes the device"
danger "leaves a task in D state"
stress 20 "the scheduler decides"
axis   flag = KEEP_CACHE NONSEEKABLE 0x100
use    mount/passthrough

daemon on OPEN "a": reply open_flags=PASSTHROUGH|$flag backing_id=0
app    open "a" O_RDONLY                        -> EIO [!passthrough: fd f "bit 7 of open_flags is unknown and ignored"]
daemon saw OPEN "a" flags=O_RDONLY, RELEASE "a"
[!passthrough] app read f 5                     -> "hello"       # a step only where the condition holds
[overlay, !ext4] app close f
daemon saw nothing
daemon saw no READ, WRITE
daemon saw some GETATTR "a"
daemon open "a" O_PATH -> fd l
daemon backing_open l flags=1 -> EINVAL
daemon backing_open l -> id b=1
daemon backing_open -1 -> id c
daemon always READ: reply data="DAEMON" cut=1 via=splice
daemon on READ: reply pipes=l+l*2+-1 pad=1
daemon on LOOKUP "x": error ENOENT
daemon on LOOKUP: error 511
daemon on OPEN "a": hold h
daemon answer h: reply len=20 cut=4 open_flags=PASSTHROUGH backing_id=b
daemon2 on OPEN "a": reply open_flags=PASSTHROUGH backing_id=b
daemon on READ: drop
daemon on READ: die
app    start r: read f 5
app    blocks r
[ext4] app await r -> "hello"
[!ext4] app await r -> "DAEMO"
app    fork app2
app2   pread f 4096 0 -> "x"*4096 or errno 511
app    mmap f 4096 PROT_READ|PROT_WRITE MAP_SHARED -> map m
app    load m+5 3 -> "abc" or SIGBUS
app    pipe -> pipe p
app    splice f p.w 5 flags=SPLICE_F_MORE off_in=3 -> 5
daemon send unique=h+1 error=-ENOSYS payload="xyz" -> EINVAL
app    fstat f -> size=5 mode=0100644
daemon take app f -> fd g
app    lseek f -1 SEEK_HOLE -> ENXIO
"#;

fn source(text: &str) -> Source {
    Source { path: "group/sample.case".into(), text: text.into() }
}

fn library() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("mount/passthrough", MOUNT)])
}

fn render(error: &ScriptError) -> String {
    let mut text = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(110)
        .render_report(&mut text, error)
        .unwrap();
    text
}

#[test]
fn the_tour_prints_canonically_and_parses_back() {
    let cases = parse(&source(TOUR), &library()).unwrap_or_else(|error| panic!("{}", render(&error)));
    let names: Vec<String> = cases.iter().map(Case::name).collect();
    assert_eq!(
        names,
        ["group/sample[flag=KEEP_CACHE]", "group/sample[flag=NONSEEKABLE]", "group/sample[flag=0x100]"]
    );
    for case in &cases {
        let text = print(&case.program);
        let again =
            parse(&source(&text), &BTreeMap::new()).unwrap_or_else(|error| panic!("{}", render(&error)));
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].program, case.program);
        assert_eq!(print(&again[0].program), text);
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("tour", print(&cases[0].program)) });
}

/// Steps that are wrong, behind a few that are right; each a different mistake.
const WRONG_STEPS: &[&str] = &[
    "ap open \"a\" O_RDONLY -> ok",
    "app0 close f",
    "host2 abort",
    "app opne \"a\" O_RDONLY -> ok",
    "app mount",
    "app on READ: drop",
    "app open",
    "app open a O_RDONLY -> ok",
    "app open \"a\" O_RDONLY|O_TRUNK -> ok",
    "app open \"a\" O_RDONLY 0644 5 -> ok",
    "app lseek f 0 SEEK_SET|SEEK_END -> 0",
    "app mknod \"a\" pipe",
    "app splice f f 5 offset=3 -> 5",
    "app splice f f 5 flags=SPLICE_F_MOVE flags=0 -> 5",
    "app read f -> ok",
    "app read g 5 -> ok",
    "app read l 5 -> ok",
    "app read f five -> ok",
    "daemon send unique=h pipes=l*0 -> 20",
    "daemon send unique=h pipes=l+p.r -> 20",
    "daemon send unique=h pipes=l*4097 -> 20",
    "app read f 5",
    "app read f 5 -> fd g",
    "app read f 5 -> EOI",
    "app load m 5 -> SIGBUZ",
    "app load f 5 -> ok",
    "app load m+five 5 -> ok",
    "app read f+1 5 -> ok",
    "app read p 5 -> ok",
    "app close f -> 0",
    "app close f -> ok ok",
    "app close f -> whatever",
    "app close f -> EIO [pasthrough: ok \"why\"]",
    "app close f -> EIO [passthrough: ok]",
    "app close f -> EIO [passthrough ok \"why\"]",
    "app close f [passthrough: ok \"why\"]",
    "app dup f -> fd F",
    "app fstat f -> size=5 size=6",
    "app fstat f -> size=five",
    "app write f \"open -> 4",
    "app write f \"\\q\" -> 4",
    "app write f \"a\"*99999999 -> 4",
    "app open \"\\xff\" O_RDONLY -> ok",
    "app start r: read f 5 -> ok",
    "app start r: read f 5",
    "app start r: read f 5\napp start r: read f 5\napp await r -> ok",
    "app start r: read f 5\napp await r -> ok\napp await r -> ok",
    "app2 start r: read f 5",
    "app blocks s",
    "app await s -> ok",
    "app fork app10",
    "daemon take app g -> fd l",
    "daemon on OPNE: drop",
    "daemon on OPEN drop",
    "daemon on OPEN: reply backing=1",
    "daemon on OPEN: reply open_flags=PASSTROUGH",
    "daemon on OPEN: reply data=hello",
    "daemon on OPEN: reply backing_id=b",
    "daemon on OPEN: error ENONSENSE",
    "daemon on OPEN: refuse",
    "daemon answer r: drop",
    "daemon answer h: hold h",
    "daemon answer h: reply nodeid=1",
    "daemon saw OPEN fh=1",
    "daemon saw OPEN, nothing",
    "[passthrough app close f",
    "[!] app close f",
    "needs passthrough",
    "app close $fd",
    "host failing umount",
    "app failing start r: read f 1",
    "daemon failing saw nothing",
];

/// Whole files that are wrong.
const WRONG_FILES: &[&str] = &[
    "",
    "# No full stop\nrules A-1\nhost abort\n",
    "# No rule.\nhost abort\n",
    "# No step.\nrules A-1\n",
    "# A rule that is none.\nrules a1\nhost abort\n",
    "# An unknown header.\nrule A-1\nhost abort\n",
    "# An unknown capability.\nrules A-1\nneeds io-uring\nhost abort\n",
    "# An unknown transport.\nrules A-1\nnot iouring \"it closes the device\"\nhost abort\n",
    "# A transport without a reason.\nrules A-1\nnot io_uring\nhost abort\n",
    "# A header twice.\nrules A-1\nrules A-2\nhost abort\n",
    "# Too few rounds.\nrules A-1\nstress 1 \"a race\"\nhost abort\n",
    "# Rounds without a reason.\nrules A-1\nstress 20\nhost abort\n",
    "# A danger without quotes.\nrules A-1\ndanger hangs\nhost abort\n",
    "# A library file that is not there.\nrules A-1\nuse mount/passtrough\nhost abort\n",
    "# A library file that uses itself.\nrules A-1\nuse itself\nhost abort\n",
    "# A library file with rules.\nrules A-1\nuse ruled\nhost abort\n",
    "# A library file with axes.\nrules A-1\nuse axed\nhost abort\n",
    "# An axis twice.\nrules A-1\naxis a = 1 2\naxis a = 1 2\nhost umount at=$a\n",
    "# An axis without equals.\nrules A-1\naxis a 1 2\nhost umount at=$a\n",
    "# An axis with one value.\nrules A-1\naxis a = 1\nhost umount at=$a\n",
    "# An axis that nobody uses.\nrules A-1\naxis a = 1 2\nhost abort\n",
    "# An axis with a bad value.\nrules A-1\naxis place = mnt mnt9\nhost abort at=$place\n",
    "# Axes with too many values.\nrules A-1\naxis a = 0 1 2 3 4 5 6 7\naxis b = 0 1 2 3 4 5 6 7\naxis c = 0 1 2 3 4\nhost file \"a\" \"\" $a$b$c\n",
    "# More bytes than one program may hold.\nrules A-1\naxis a = 0 1 2 3 4 5 6 7 8\nhost file \"a\" \"x\"*8000000 $a\n",
    "# A failing step on any kernel.\nrules A-1\napp failing creat \"a\" -> ENOMEM\n",
    "# Two failing steps.\nrules A-1\nneeds fault_injection\napp failing rmdir \"a\"\napp failing rmdir \"b\"\n",
    "# A failing step in a race.\nrules A-1\nneeds fault_injection\nstress 2 \"a race\"\napp failing rmdir \"a\"\n",
    "# An axis that is not there.\nrules A-1\naxis place = mnt mnt2\nhost abort at=$place\nhost umount at=$plaice\n",
];

const WRONG_LIBRARY: [(&str, &str); 3] = [
    ("itself", "# A file that uses itself.\nuse itself\n"),
    ("ruled", "# A library file with rules.\nrules A-1\n"),
    ("axed", "# A library file with axes.\naxis a = 1 2\n"),
];

const RIGHT: &str = r#"# A case that goes wrong at its end.
rules  A-1
app    open "a" O_RDWR -> fd f
app    mmap f 5 PROT_READ MAP_SHARED -> map m
app    pipe -> pipe p
daemon open "a" O_RDONLY -> fd l
daemon on OPEN: hold h
"#;

/// The explanations are for people, and read as a whole: one snapshot holds them all.
#[test]
fn every_mistake_is_explained() {
    let steps = WRONG_STEPS.iter().map(|step| format!("{RIGHT}{step}\n"));
    let files = WRONG_FILES.iter().map(|file| (*file).to_string());
    let mut text = String::new();
    for wrong in steps.chain(files) {
        match parse(&source(&wrong), &BTreeMap::from(WRONG_LIBRARY)) {
            Ok(_) => panic!("this parses:\n{wrong}"),
            Err(error) => text.push_str(&render(&error)),
        }
        text.push('\n');
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("mistakes", text) });
}

#[test]
fn a_mistake_in_a_library_file_is_shown_there() {
    let library = BTreeMap::from([("bad", "# A bad library file.\nhost abrot\n")]);
    let text = "# A case with a bad library file.\nrules A-1\nuse bad\nhost abort\n";
    let shown = render(&parse(&source(text), &library).unwrap_err());
    assert!(shown.contains("lib/bad.case:2:6"), "{shown}");
}

#[test]
fn a_step_knows_the_file_and_line_it_was_written_on() {
    let cases = parse(&source(TOUR), &library()).unwrap();
    let places: Vec<String> =
        cases[0].program.steps[..5].iter().map(|step| format!("{}:{}", step.at.file, step.at.line)).collect();
    let lib = "lib/mount/passthrough.case";
    let expected = [4, 5, 6, 7].map(|line| format!("{lib}:{line}"));
    assert_eq!(places[..4], expected);
    assert_eq!(places[4], "group/sample.case:11");
}

/// Whatever is cut off, the parser answers and does not panic.
#[test]
fn a_truncated_file_is_refused_or_a_program() {
    let mut programs = 0;
    for end in (0..TOUR.len()).filter(|end| TOUR.is_char_boundary(*end)) {
        programs += usize::from(parse(&source(&TOUR[..end]), &library()).is_ok());
    }
    assert!(programs > 20, "{programs} of the prefixes end with a line");
}

#[test]
fn a_folder_is_loaded_in_order_and_its_mistakes_collected() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("lib/mount/passthrough.case", MOUNT);
    write("b/two.case", TOUR);
    write("a/one.case", RIGHT);
    write("a/notes.md", "no case");
    let names: Vec<String> = load(dir.path()).unwrap().iter().map(Case::name).collect();
    assert_eq!(names[0], "a/one");
    assert_eq!(names[1], "b/two[flag=KEEP_CACHE]");
    assert_eq!(names.len(), 4);

    write("a/wrong.case", "no title");
    write("c/wrong.case", "# No rule.\nhost abort\n");
    match load(dir.path()) {
        Err(LoadError::Wrong(errors)) => assert_eq!(errors.len(), 2),
        other => panic!("{other:?}"),
    }
    assert!(matches!(load(&dir.path().join("none")), Err(LoadError::Unreadable { .. })));
}
