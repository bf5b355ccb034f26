//! Lines of the language's own words and of any text: what parses must print and parse back to itself.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use harness::script::{Source, parse, print, vocabulary};

#[derive(Arbitrary, Debug)]
enum Word<'a> {
    Known(u16),
    Any(&'a str),
}

libfuzzer_sys::fuzz_target!(|lines: Vec<Vec<Word<'_>>>| {
    let known = vocabulary();
    let mut text = String::from("# A title.\nrules  FUZZ-01\n");
    for line in &lines {
        for word in line {
            text.push(' ');
            text.push_str(match word {
                Word::Known(index) => known[usize::from(*index) % known.len()],
                Word::Any(word) => word,
            });
        }
        text.push('\n');
    }
    let case = |text: &str| Source { path: "fuzz.case".into(), text: text.into() };
    for one in parse(&case(&text), &BTreeMap::new()).unwrap_or_default() {
        let printed = print(&one.program);
        let again = parse(&case(&printed), &BTreeMap::new()).expect("what was printed parses");
        assert!(again.len() == 1 && again[0].program == one.program, "{printed}");
    }
});
