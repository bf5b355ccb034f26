//! Any text: parse it as a case; what parses must print and parse back to itself.
#![no_main]

use std::collections::BTreeMap;

use harness::script::{Source, parse, print};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let case = |text: &str| Source { path: "fuzz.case".into(), text: text.into() };
    let Ok(cases) = parse(&case(text), &BTreeMap::new()) else {
        return;
    };
    for one in cases {
        let printed = print(&one.program);
        let again = parse(&case(&printed), &BTreeMap::new()).expect("what was printed parses");
        assert_eq!(again.len(), 1, "{printed}");
        assert_eq!(again[0].program, one.program, "{printed}");
    }
});
