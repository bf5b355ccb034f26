//! What anybody may write, what a guest may tell and what may lie in the cache, given to all that reads it: for the fuzz targets
//! `script`, `wire` and `link`, which panic where a promise is broken.
//!
//! It starts nothing and keeps nothing. Whether what is told is true is not asked here.

use std::collections::BTreeMap;

use crate::abi::{Opcode, fuse_in_header};
use crate::bench;
use crate::daemon::{self, trace};
use crate::generate;
use crate::oracle;
use crate::program::{Data, Observed, Profile, Program, Transport};
use crate::protocol::{
    Answer, Ending, Fuzzing, How, Odd, OddKind, Order, Pace, Report, StepRecord, Traffic, decode, encode,
};
use crate::report;
use crate::run::profile_again;
use crate::script::{self, Source, parse};
use crate::transcript;

/// A program with something of everything, for records to be about.
const CASE: &str = "# A title.
rules  FUZZ-01
host   lower tmpfs
host   file \"a\" \"hello\"
daemon on INIT: reply flags=INIT_EXT flags2=PASSTHROUGH max_stack_depth=1
daemon mount
daemon open \"a\" O_RDWR -> fd lower
daemon backing_open lower -> id b
daemon on OPEN \"a\": reply open_flags=PASSTHROUGH backing_id=b
app    open \"a\" O_RDWR -> fd f
app    read f 5 -> \"hello\"
daemon on GETATTR: hold h
app    start r: fstat f
daemon answer h: reply size=5
app    await r -> size=5
daemon saw some OPEN \"a\" flags=O_RDWR
daemon backing_close b -> ok or ENOENT
host   umount flags=lazy -> ok
";

/// A case.
///
/// # Panics
/// What parses does not print, or is another one then.
pub fn written(text: &str) {
    let library = BTreeMap::new();
    let source = Source { path: "fuzz.case".into(), text: text.into() };
    for one in parse(&source, &library).unwrap_or_default() {
        let source = Source { path: "fuzz.case".into(), text: script::print(&one.program) };
        let again = parse(&source, &library).expect("what was printed parses");
        assert!(again.len() == 1 && again[0].program == one.program, "{}", source.text);
    }
}

/// A message of the agent's.
///
/// # Panics
/// It does not give the same message again, or what it tells cannot be judged or shown.
pub fn told(bytes: &[u8]) {
    let Ok(report) = decode::<Report>(bytes) else { return };
    again(&report);
    match report {
        Report::Steps(steps) => judged(&steps, &Ending::default()),
        Report::End(ending) => judged(&[], &ending),
        Report::Leaks(leaks) => {
            leaks.iter().for_each(|leak| assert!(leak.splat.key().len() <= bytes.len() + 64))
        }
        Report::Fuzzing(Fuzzing { units, odd, .. }) => {
            units.iter().chain(odd.iter().map(|odd| &odd.bytes)).for_each(|input| found(input));
        }
        Report::Again(odd) => odd.iter().for_each(|odd| found(&odd.bytes)),
        Report::Trace(bytes) => traced(&bytes),
        Report::Bench(told) => {
            let column = bench::Column { name: "cached".into(), serving: Some(bench::CACHED) };
            let work = bench::Work::Links { count: 1 };
            let job = bench::Job::new(bench::Lower::Tmpfs, work, &[column], 1, 0);
            // Refused or taken in: never more than there is room for.
            let _ = bench::Heard::of(&job).hear(told);
        }
        Report::Hello { .. } | Report::Trouble(_) | Report::Bare(_) => {}
    }
}

/// A recording of somebody's daemon, with or without its first line, or the events of one with nothing between them.
///
/// # Panics
/// What is read of it cannot be shown or judged.
pub fn traced(bytes: &[u8]) {
    story_of(&trace::parse_as_far(bytes).0);
    story_of(&trace::parse_as_far(&[trace::FIRST_LINE, bytes].concat()).0);
    let mut events = Vec::new();
    let mut rest = bytes;
    while let Ok((event, behind)) = postcard::take_from_bytes(rest) {
        events.push(event);
        rest = behind;
    }
    story_of(&events);
}

fn story_of(events: &[trace::Stamped]) {
    let story = daemon::decode::decode(events);
    (0..story.deeds.len()).for_each(|index| assert!(!story.line(index).is_empty()));
    let _ = story.blind();
    let judgement = daemon::judge::judge(&story);
    assert!(judgement.broken().all(|(_, standing)| !standing.breaks.is_empty()));
}

/// A message of the host's, which a guest reads.
///
/// # Panics
/// It does not give the same message again.
pub fn ordered(bytes: &[u8]) {
    if let Ok(order) = decode::<Order>(bytes) {
        again(&order);
    }
}

/// What parses gives a message that parses to the same.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(message: &T) {
    let once = encode(message).expect("plain data");
    let twice = encode(&decode::<T>(&once).expect("what was encoded is a message")).expect("plain data");
    assert!(once == twice, "a message does not give the same message again");
}

/// Records as a machine out of its mind tells them.
fn judged(steps: &[StepRecord], ending: &Ending) {
    thread_local! { static PROGRAM: Program = program(); }
    PROGRAM.with(|program| {
        let all = crate::program::CAPABILITIES.iter().map(|capability| capability.name.to_owned());
        let profile = Profile { release: String::new(), has: all.collect() };
        let shown = transcript::transcript(program, steps, ending);
        assert!(!report::on_one_line(&shown).contains(char::is_control), "nothing talks to a terminal");
        for judge in [oracle::against_kernel, oracle::against_kernel_with_care] {
            let judged = judge(program, &profile, steps);
            assert!(judged.steps <= program.steps.len());
        }
        let logged = steps.iter().flat_map(|record| &record.kernel).chain(&ending.kernel);
        qemu::console::scan(&logged.cloned().collect::<Vec<_>>().join("\n"));
    });
}

fn program() -> Program {
    let source = Source { path: "fuzz.case".into(), text: CASE.into() };
    let cases = parse(&source, &BTreeMap::new()).expect("the case parses");
    cases.into_iter().next().expect("one case").program
}

/// An input that a guest has kept, or was running when it was lost: it becomes a case.
///
/// # Panics
/// It is no acceptable program, or the case does not give it again.
pub fn found(input: &[u8]) {
    let program = generate::from_bytes(input);
    assert_eq!(generate::is_acceptable(&program), Ok(()));
    let text = script::print(&program);
    let source = Source { path: "found.case".into(), text };
    let again = parse(&source, &BTreeMap::new()).expect("what was printed parses");
    assert!(again.len() == 1 && again[0].program == program, "{}", source.text);
    assert!(generate::from_bytes(&generate::to_bytes(&program)) == program, "{}", source.text);
}

/// A saved profile.
///
/// # Panics
/// What is saved for it is another one.
pub fn saved_profile(text: &[u8]) {
    let Some((profile, saved)) = profile_again(text) else { return };
    let (again, saved_again) = profile_again(&saved).expect("what was saved is a profile");
    assert!(again == profile && saved_again == saved);
}

/// First inputs of a target; of `script` they are the programs as cases.
pub fn seeds(target: &str, programs: &[Program]) -> Vec<Vec<u8>> {
    let of_kind =
        |kind: u8, inputs: Vec<Vec<u8>>| inputs.into_iter().map(move |bytes| [vec![kind], bytes].concat());
    let inputs =
        || programs.iter().filter_map(generate::seed).map(|seed| generate::to_bytes(&seed)).collect();
    match target {
        "script" => programs.iter().map(|program| script::print(program).into_bytes()).collect(),
        "wire" => of_kind(0, vec![vec![0xff; 288]])
            .chain(of_kind(1, Opcode::ALL.iter().map(|opcode| request(*opcode)).collect()))
            .chain(of_kind(2, vec![LOGGED.into()]))
            .chain(of_kind(3, vec![vec![14; 64]]))
            .collect(),
        "link" => of_kind(0, qemu::hostile::TEXTS.iter().map(|text| text.as_bytes().to_vec()).collect())
            .chain(of_kind(1, vec![vec![0x10, 0, 0, 0, 0, 0, 0, 0, 7]]))
            .chain(of_kind(2, vec![b"fpL1".to_vec()]))
            .chain(of_kind(3, reports().iter().filter_map(|report| encode(report).ok()).collect()))
            .chain(of_kind(
                4,
                programs.iter().take(MOST_ORDERS).filter_map(|program| encode(&run(program)).ok()).collect(),
            ))
            .chain(of_kind(5, inputs()))
            .chain(of_kind(6, vec![PROFILE.into()]))
            .collect(),
        _ => Vec::new(),
    }
}

const LOGGED: &str = "15,1021,5140900,-;fuse: failed to open file in requested io mode (open_flags=0x80, err=-26).\n SUBSYSTEM=fuse\n\0";
const PROFILE: &str = "{\"key\":\"0\",\"profile\":{\"release\":\"6.12\",\"has\":[\"passthrough\"]}}";
/// Orders among the first inputs: they are long and much alike.
const MOST_ORDERS: usize = 50;

/// A request of that opcode with a body of zeros, and a name.
fn request(opcode: Opcode) -> Vec<u8> {
    let fixed = opcode.request_fields().iter().map(|field| field.offset + field.size).max().unwrap_or(0);
    let tail = b"a\0";
    let len = (size_of::<fuse_in_header>() + fixed + tail.len()) as u32;
    let header = fuse_in_header { len, opcode: opcode.0, unique: 2, nodeid: 1, ..Default::default() };
    [zerocopy::IntoBytes::as_bytes(&header), &vec![0; fixed], tail].concat()
}

fn run(program: &Program) -> Order {
    let how =
        How { transport: Transport::Plain, pace: Pace::Fast, failing: None, shake: None, lawless: false };
    Order::Run { program: Box::new(program.clone()), profile: Profile::default(), how }
}

/// One of each kind.
fn reports() -> Vec<Report> {
    let traffic = |opcode, answer| Traffic {
        daemon: 1,
        opcode,
        path: "a".into(),
        fields: vec![("flags".into(), 2)],
        data: Some(Data(b"hello".to_vec())),
        over: Transport::Plain,
        answer,
    };
    let observed = [
        Observed::Int(5),
        Observed::Data(Data(b"hello".to_vec())),
        Observed::Errno(5),
        Observed::Fields(vec![("size".into(), 5)]),
        Observed::Signal(7),
        Observed::Hung,
        Observed::Impossible("no".into()),
    ];
    let answers = [
        Answer::None,
        Answer::Reply { fields: vec![("backing_id".into(), 1)], errno: 0 },
        Answer::Error { error: 2, errno: 0 },
        Answer::Held("h".into()),
        Answer::Dropped,
        Answer::Died,
    ];
    let records =
        observed.into_iter().zip(answers).enumerate().map(|(index, (observed, answer))| StepRecord {
            index,
            observed: Some(observed),
            inner: Some(16),
            wrong: None,
            struck: Some(true),
            traffic: vec![traffic(Opcode::OPEN, answer)],
            kernel: vec!["fuse: init".into()],
        });
    let odd = Odd {
        bytes: vec![1, 2, 3],
        kind: OddKind::Oracle,
        function: "read".into(),
        key: "RW-01: success, not EIO".into(),
        why: "the oracle allows 5".into(),
        records: Vec::new(),
        rest: Vec::new(),
    };
    vec![
        Report::Hello { release: "6.12".into(), inner_errno: true, finds_leaks: false },
        Report::Steps(records.collect()),
        Report::End(Ending {
            left_over: vec!["on OPEN".into()],
            leak: Some("a file".into()),
            ..Ending::default()
        }),
        Report::Leaks(qemu::console::leaks(
            "unreferenced object 0x1 (size 8):\n  comm \"a\", pid 1, jiffies 5\n",
        )),
        Report::Fuzzing(Fuzzing { execs: 1, units: vec![vec![0]], odd: vec![odd], ..Fuzzing::default() }),
        Report::Bench(bench::Told::Sample { column: 1, nanos: 5 }),
        Report::Bare(bench::Bare { mount: 5, message: 1 }),
        Report::Trouble("why".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_inputs_do_no_harm_and_are_understood() {
        let programs = [program()];
        for bytes in seeds("script", &programs) {
            let text = String::from_utf8(bytes).expect("a text");
            written(&text);
            let source = Source { path: "a.case".into(), text };
            assert_eq!(parse(&source, &BTreeMap::new()).map_or(0, |cases| cases.len()), 1);
        }
        let mut kinds = [0; 7];
        for input in seeds("link", &programs) {
            let (kind, bytes) = (input[0], &input[1..]);
            kinds[usize::from(kind)] += 1;
            match kind {
                0 => qemu::hostile::printed(bytes),
                1 => qemu::hostile::left_behind(bytes),
                2 => qemu::hostile::sent(&[], bytes),
                3 => {
                    assert!(decode::<Report>(bytes).is_ok());
                    told(bytes);
                }
                4 => {
                    assert!(decode::<Order>(bytes).is_ok());
                    ordered(bytes);
                }
                5 => found(bytes),
                _ => {
                    assert!(profile_again(bytes).is_some());
                    saved_profile(bytes);
                }
            }
        }
        assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
        assert!(seeds("wire", &programs).len() > Opcode::ALL.len());
    }

    #[test]
    #[should_panic(expected = "does not give the same message again")]
    fn a_message_that_changes_is_noticed() {
        struct Counts(std::cell::Cell<u8>);
        impl serde::Serialize for Counts {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_u8(self.0.get())
            }
        }
        impl<'de> serde::Deserialize<'de> for Counts {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Counts, D::Error> {
                u8::deserialize(from).map(|number| Counts((number + 1).into()))
            }
        }
        again(&Counts(1.into()));
    }
}
