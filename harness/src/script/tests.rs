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
needs  ext4 !fuse_uring          # capabilities
danger "leaves a task in D state"
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
daemon on LOOKUP "x": error ENOENT
daemon on LOOKUP: error 511
daemon on OPEN "a": hold h
daemon answer h: reply len=20 cut=4 open_flags=PASSTHROUGH backing_id=b
daemon on READ: drop
daemon on READ: die
app    start r: read f 5
app    blocks r
app    await r -> "hello"
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
    Source {
        path: "group/sample.case".into(),
        text: text.into(),
    }
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
        [
            "group/sample[flag=KEEP_CACHE]",
            "group/sample[flag=NONSEEKABLE]",
            "group/sample[flag=0x100]"
        ]
    );
    for case in &cases {
        let text = print(&case.program);
        let again =
            parse(&source(&text), &BTreeMap::new()).unwrap_or_else(|error| panic!("{}", render(&error)));
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].program, case.program);
        assert_eq!(print(&again[0].program), text);
    }
    insta::assert_snapshot!("tour", print(&cases[0].program));
}
