//! What every generated program is, by the thousand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fastrand::Rng;
use rstest::rstest;

use super::repair::program;
use super::*;
use crate::abi::Opcode;
use crate::program::flags;
use crate::program::{Actor, Reply, Times, Value};
use crate::script::{self, Source};

fn programs(count: u64) -> impl Iterator<Item = Program> {
    (0..count).map(|seed| random(&mut Rng::with_seed(seed)))
}

fn check(program: &Program) {
    if let Err(why) = is_acceptable(program) {
        panic!("{why}\n{}", script::print(program));
    }
    can_be_driven(program);
    assert!(body(program).len() <= MOST_STEPS);
    assert!(to_bytes(program).len() <= MOST_BYTES);
}

/// Whoever makes the calls one by one never waits: told again, as simply as can be.
fn can_be_driven(program: &Program) {
    let mut held = BTreeSet::new();
    let mut running: BTreeMap<String, Actor> = BTreeMap::new();
    let mut killed = BTreeSet::new();
    for step in &program.steps {
        let tell = || format!("{}\n{}", script::print_step(step), script::print(program));
        let is_app = step.actor.side == Side::App;
        let is_free = !running.values().any(|actor| *actor == step.actor);
        let is_call = matches!(step.verb, Verb::Call(_) | Verb::Start { .. });
        assert!(!is_call || !killed.contains(&step.actor), "{}", tell());
        if let Verb::Call(call) = &step.verb {
            match (call.name.as_str(), call.text("signal")) {
                // As good as a held request, whatever comes next.
                ("pause", _) => assert!(held.insert(String::new()), "{}", tell()),
                ("serve", _) => assert!(held.remove(""), "{}", tell()),
                ("signal", "SIGKILL") => killed.extend(Actor::named(call.text("actor"))),
                _ => {}
            }
        }
        match &step.verb {
            Verb::Call(_) => assert!(!is_app || (is_free && held.is_empty()), "{}", tell()),
            Verb::Start { name, .. } => {
                assert!(is_app && is_free, "{}", tell());
                assert!(running.insert(name.clone(), step.actor).is_none(), "{}", tell());
            }
            Verb::Await { name } => {
                assert!(held.is_empty(), "{}", tell());
                assert_eq!(running.remove(name), Some(step.actor), "{}", tell());
            }
            Verb::On { reply: Reply::Hold(name), .. } => assert!(held.insert(name.clone()), "{}", tell()),
            Verb::On { reply, .. } => assert!(!matches!(reply, Reply::Drop | Reply::Die), "{}", tell()),
            Verb::Answer { held: name, .. } => assert!(held.remove(name), "{}", tell()),
            Verb::Blocks { .. } | Verb::Saw(_) => panic!("{}", tell()),
        }
    }
    assert!(held.is_empty() && running.is_empty(), "{}", script::print(program));
}

fn reads_back(program: &Program) {
    let printed = script::print(program);
    let source = Source { path: "generated.case".into(), text: printed.clone() };
    let cases = script::parse(&source, &BTreeMap::new());
    let cases = cases.unwrap_or_else(|error| panic!("{:?}\n{printed}", miette::Report::new(error)));
    assert!(cases.len() == 1 && cases[0].program == *program, "{printed}");
}

/// A file is registered, an open is answered with PASSTHROUGH and an id, and what it gave is used.
fn passes_through(program: &Program) -> bool {
    let steps = body(program);
    let called = |step: &Step, name: &str| match &step.verb {
        Verb::Call(call) | Verb::Start { call, .. } => call.name == name,
        _ => false,
    };
    let replies = |step: &Step| match &step.verb {
        Verb::On { reply: Reply::Fields(fields), .. } | Verb::Answer { reply: Reply::Fields(fields), .. } => {
            let bit = i128::from(menu::bit(flags::FOPEN, "PASSTHROUGH"));
            let is_passed = |(name, value): &(String, Value)| match value {
                Value::Int(flags) => name == "open_flags" && flags & bit != 0,
                _ => false,
            };
            let is_named =
                |(name, value): &(String, Value)| name == "backing_id" && matches!(value, Value::Name(..));
            fields.iter().any(is_passed) && fields.iter().any(is_named)
        }
        _ => false,
    };
    let Some(registered) = steps.iter().position(|step| called(step, "backing_open")) else { return false };
    let Some(replied) = steps.iter().position(replies) else { return false };
    let uses = |step: &Step| match &step.verb {
        Verb::Call(call) | Verb::Start { call, .. } => {
            step.actor.side == Side::App
                && call.args.iter().any(|(param, value)| {
                    matches!(param.as_str(), "fd" | "in" | "out") && matches!(value, Value::Name(..))
                })
        }
        _ => false,
    };
    let opened = steps.iter().any(|step| step.actor.side == Side::App && called(step, "open"));
    registered < replied && opened && steps[replied..].iter().any(uses)
}

#[test]
fn random_programs_are_acceptable_and_have_a_text_and_bytes() {
    let mut texts = BTreeSet::new();
    for program in programs(2000) {
        check(&program);
        reads_back(&program);
        assert_eq!(from_bytes(&to_bytes(&program)), program);
        texts.insert(script::print(&program));
    }
    assert!(texts.len() > 1990, "only {} are different", texts.len());
}

#[test]
fn the_same_seed_makes_the_same() {
    for seed in 0..50 {
        let make = || {
            let mut rng = Rng::with_seed(seed);
            let (one, other) = (random(&mut rng), random(&mut rng));
            let mutated = mutate(&one, &mut rng);
            (cross(&mutated, &other, &mut rng), rng.u64(..))
        };
        assert_eq!(make(), make());
    }
}

#[test]
fn most_pass_through_and_are_no_trifles() {
    let all: Vec<Program> = programs(2000).collect();
    let passing = all.iter().filter(|program| passes_through(program)).count();
    let steps: usize = all.iter().map(|program| body(program).len()).sum();
    let prologues: BTreeSet<String> = all.iter().map(|program| format!("{:?}", prologue(program))).collect();
    let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
    for step in all.iter().flat_map(body) {
        if let Verb::Call(call) | Verb::Start { call, .. } = &step.verb {
            *calls.entry(&call.name).or_default() += 1;
        }
    }
    println!(
        "{passing} of {} pass through, {steps} steps, {} prologues\n{calls:?}",
        all.len(),
        prologues.len()
    );
    assert!(passing >= all.len() * 6 / 10);
    assert!(steps >= all.len() * 8);
    assert!(all.iter().all(|program| body(program).len() >= 4));
    assert!(prologues.len() <= 20);
    for (name, _) in menu::APP.iter().chain(menu::DAEMON).chain(menu::HOST) {
        assert!(calls.contains_key(name), "nobody makes `{name}`");
    }
}

#[test]
fn what_was_mutated_again_and_again_is_acceptable() {
    let mut rng = Rng::with_seed(1);
    let mut changed = 0;
    for mut program in programs(60) {
        for _ in 0..20 {
            let next = mutate(&program, &mut rng);
            check(&next);
            changed += usize::from(next != program);
            program = next;
        }
        reads_back(&program);
        assert_eq!(from_bytes(&to_bytes(&program)), program);
    }
    assert!(changed > 60 * 20 * 7 / 10, "only {changed} changed anything");
}

/// libFuzzer changes an input up to five times before it takes another one.
#[test]
fn changes_neither_end_passthrough_nor_grow_a_program_without_bound() {
    let mut rng = Rng::with_seed(6);
    let plain = repair(program(Vec::new()));
    let (mut all, mut passing, mut steps) = (0, 0, 0);
    for first in programs(200).chain(std::iter::repeat_n(plain, 200)) {
        let mut program = first;
        for _ in 0..20 {
            program = mutate(&program, &mut rng);
            all += 1;
            passing += usize::from(passes_through(&program));
            steps += body(&program).len();
        }
    }
    println!("{passing} of {all} pass through, {steps} steps");
    assert!(passing >= all * 6 / 10, "{passing} of {all}");
    assert!((8 * all..15 * all).contains(&steps), "{steps} in {all}");
}

#[test]
fn crosses_are_acceptable() {
    let mut rng = Rng::with_seed(2);
    let all: Vec<Program> = programs(200).collect();
    for pair in all.windows(2) {
        let crossed = cross(&pair[0], &pair[1], &mut rng);
        check(&crossed);
        reads_back(&crossed);
        assert_eq!(prologue(&crossed), prologue(&pair[0]));
    }
}

#[test]
fn any_bytes_are_a_program() {
    let mut rng = Rng::with_seed(3);
    for (index, program) in programs(300).enumerate() {
        let mut bytes = to_bytes(&program);
        for _ in 0..rng.u8(1..6) {
            let at = rng.usize(..bytes.len());
            match rng.u8(..4) {
                0 => bytes[at] = rng.u8(..),
                1 => bytes[at] ^= 1 << rng.u8(..8),
                2 => bytes.insert(at, rng.u8(..)),
                _ => drop(bytes.remove(at)),
            }
        }
        let noise: Vec<u8> = (0..index).map(|_| rng.u8(..)).collect();
        for bytes in [bytes, noise] {
            let program = from_bytes(&bytes);
            check(&program);
            reads_back(&program);
            assert_eq!(from_bytes(&to_bytes(&program)), program);
        }
    }
    check(&from_bytes(&[]));
    check(&from_bytes(&[0xff; MOST_BYTES + 1]));
    // A step's data that says of itself to be four gigabytes, a thousand times over.
    let mut lies = vec![1, 2, 0, 27, 1, 1, 2, 0xff, 7];
    for _ in 0..1023 {
        lies.extend([0xff, 0xff, 0xff, 0xff, 0x0f, 1, b'x']);
    }
    lies.push(0);
    let program = from_bytes(&lies);
    check(&program);
    assert!(script::print(&program).contains("write f1 \"x\"*65536"), "{}", script::print(&program));
}

#[test]
fn cases_become_seeds() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../cases"));
    let cases = script::load(folder).unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for case in &cases {
        let group = groups.entry(case.path.split('/').next().unwrap_or_default()).or_default();
        group.1 += 1;
        if let Some(program) = seed(&case.program) {
            group.0 += 1;
            check(&program);
            reads_back(&program);
            assert_eq!(from_bytes(&to_bytes(&program)), program, "{}", case.name());
        }
    }
    let seeds: usize = groups.values().map(|(seeds, _)| seeds).sum();
    println!("{seeds} seeds of {} cases: {groups:?}", cases.len());
    assert!(seeds * 10 >= cases.len() * 5);
    for group in
        ["open_reply", "backing_open", "modes", "io", "mmap", "splice", "reply", "lifetime", "device"]
    {
        let (seeds, all) = groups[group];
        assert!(seeds * 2 > all, "{group}: {seeds} of {all}");
    }
}

/// What becomes of a body, as text; its prologue is the usual one.
fn repaired(body: &str) -> String {
    const STAGE: &str = "host lower tmpfs\nhost file \"a\" \"hello\"\ndaemon mount\n";
    let text = format!("# A title.\nrules FUZZ-01\n{STAGE}{body}");
    let cases = script::parse(&Source { path: "written.case".into(), text }, &BTreeMap::new());
    let program =
        repair(cases.unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error))).remove(0).program);
    check(&program);
    let lines = super::body(&program).iter().map(script::print_step);
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

#[rstest]
#[case::stays(
    "app open \"a\" O_RDWR -> fd f\napp write f \"x\" -> ok",
    "app open \"a\" O_RDWR -> fd f\napp write f \"x\" -> ok"
)]
#[case::the_weakest_outcome(
    "app stat \"a\" -> size=5\napp stat \"d\" -> ENOENT",
    "app stat \"a\" -> ok\napp stat \"d\" -> ok"
)]
#[case::a_name_for_what_fails("app open \"a\" O_RDWR -> EIO", "app open \"a\" O_RDWR -> fd f1")]
#[case::held_calls_are_begun(
    "daemon on OPEN: hold h\napp open \"a\" O_RDWR -> fd f\napp2 stat \"a\" -> ok",
    "daemon on OPEN: hold h\napp start r1: open \"a\" O_RDWR\napp2 start r2: stat \"a\"\ndaemon answer h: reply\napp await r1 -> fd f1\napp2 await r2 -> ok"
)]
#[case::who_is_held_up_goes_on_behind_the_answer(
    "daemon on LOOKUP: hold h\napp start s: stat \"a\"\napp stat \"a\" -> ok\napp await s -> ok",
    "daemon on LOOKUP: hold h\napp start s: stat \"a\"\ndaemon answer h: reply\napp await s -> ok\napp stat \"a\" -> ok"
)]
#[case::nothing_is_awaited_before_the_answer(
    "daemon on LOOKUP: hold h\napp start s: stat \"a\"\napp await s -> ok\ndaemon answer h: error EIO\ndaemon answer h: reply",
    "daemon on LOOKUP: hold h\napp start s: stat \"a\"\ndaemon answer h: error EIO\napp await s -> ok"
)]
#[case::a_hold_is_for_once("daemon always READ: hold h", "daemon on READ: hold h\ndaemon answer h: reply")]
#[case::nothing_stays_unanswered(
    "daemon on READ: drop\ndaemon on READ: die\ndaemon on READ: reply len=7 unique=same+2 error=1 cut=99",
    "daemon on READ: reply error=0 cut=64"
)]
#[case::maps_wait_for_the_answer(
    "app open \"a\" O_RDWR -> fd f\ndaemon on READ: hold h\napp mmap f 4096 PROT_READ MAP_SHARED -> map m\napp load m 5 -> ok\ndaemon answer h: reply",
    "app open \"a\" O_RDWR -> fd f\ndaemon on READ: hold h\ndaemon answer h: reply"
)]
#[case::nothing_behind_a_map_is_touched(
    "app open \"a\" O_RDWR -> fd f\napp mmap f 5 PROT_READ MAP_SHARED -> map m\napp load m+4000 100 -> ok\napp munmap m\napp load m 1 -> ok",
    "app open \"a\" O_RDWR -> fd f\napp mmap f 5 PROT_READ MAP_SHARED -> map m\napp load m+4000 96 -> ok\napp munmap m -> ok"
)]
#[case::what_is_closed_is_opened_anew(
    "app open \"a\" O_RDONLY -> fd f\napp close f\napp read f 5 -> ok",
    "app open \"a\" O_RDONLY -> fd f\napp close f -> ok\napp open \"a\" O_RDWR -> fd f1\napp read f1 5 -> ok"
)]
#[case::what_is_closed_may_be_registered(
    "daemon open \"a\" O_RDONLY -> fd f\ndaemon close f\ndaemon backing_open f -> id b",
    "daemon open \"a\" O_RDONLY -> fd f\ndaemon close f -> ok\ndaemon backing_open f -> id b"
)]
#[case::no_descriptor_but_its_own("app close 7", "app open \"a\" O_RDWR -> fd f1\napp close f1 -> ok")]
#[case::pipes_do_not_wait(
    "app pipe -> pipe p\napp splice p.r p.w 5 -> ok\napp setfl p.r O_RDONLY",
    "app pipe O_NONBLOCK -> pipe p\napp splice p.r p.w 5 flags=SPLICE_F_NONBLOCK -> ok\napp setfl p.r O_NONBLOCK -> ok"
)]
#[case::no_more_than_a_guest_can_hold(
    "app open \"a\" O_RDWR -> fd f\napp read f 99999999 -> ok\napp truncate \"a\" 99999999\nhost cat \"a\" -> ok",
    "app open \"a\" O_RDWR -> fd f\napp read f 1048576 -> ok\napp truncate \"a\" 99999999 -> ok\nhost stat \"a\" -> ok"
)]
#[case::a_notification_waits_for_nobody(
    "daemon on READ: hold h\ndaemon send error=NOTIFY_INVAL_INODE -> ok\ndaemon send error=NOTIFY_RESEND -> ok\ndaemon send unique=h+2 -> ok",
    "daemon on READ: hold h\ndaemon send error=NOTIFY_RESEND -> ok\ndaemon send unique=h+2 -> ok\ndaemon answer h: reply"
)]
#[case::who_was_killed_makes_no_more_calls(
    "app start r: stat \"a\"\nhost signal app SIGKILL\napp stat \"a\" -> ok\nhost signal app SIGUSR1\napp await r -> ok",
    "app start r: stat \"a\"\nhost signal app SIGKILL -> ok\napp await r -> ok"
)]
#[case::nobody_waits_for_a_daemon_that_pauses(
    "daemon pause\ndaemon pause\napp stat \"a\" -> ok\ndaemon send error=NOTIFY_INVAL_INODE -> ok\ndaemon serve\ndaemon serve",
    "daemon pause -> ok\napp start r1: stat \"a\"\ndaemon serve -> ok\napp await r1 -> ok"
)]
#[case::one_end_is_enough("host abort\nhost abort", "host abort -> ok")]
#[case::three_applications("app4 stat \"lower:b\" -> ok\ndaemon2 memfd 0 -> fd f", "app stat \"a\" -> ok")]
#[case::not_for_an_arena("app fork app2\nhost umount\ndaemon close_device\ndaemon saw nothing", "")]
fn what_cannot_be_performed_is_mended(#[case] body: &str, #[case] mended: &str) {
    assert_eq!(repaired(body), mended);
}

#[test]
fn a_stage_is_put_in_order() {
    let text = "# A title.\nrules OPEN-05\nneeds ext4\nhost lower ext4\nhost file \"x/y\" \"\"\ndaemon mount over=io_uring\nhost file \"b\" \"B\"
daemon on INIT: reply flags2=PASSTHROUGH|OVER_IO_URING max_write=1 minor=12\nhost file \"b\" \"C\"";
    let source = Source { path: "written.case".into(), text: text.into() };
    let program = repair(script::parse(&source, &BTreeMap::new()).unwrap().remove(0).program);
    let printed = script::print(&program);
    let steps = "host   lower tmpfs -> ok\nhost   file \"b\" \"B\" -> ok\ndaemon on INIT: reply flags2=PASSTHROUGH max_write=4096\ndaemon mount -> ok\n";
    assert!(printed.ends_with(&format!("rules  FUZZ-01\n\n{steps}")), "{printed}");
}

#[test]
fn who_is_not_acceptable_is_told_why() {
    let mut program = random(&mut Rng::with_seed(0));
    assert_eq!(is_acceptable(&program), Ok(()));
    let drop = Verb::On { times: Times::Once, opcode: Opcode::READ, path: None, reply: Reply::Drop };
    program.steps.push(repair::step(DAEMON, drop, None));
    assert_eq!(is_acceptable(&program), Err("`daemon on READ: drop` should be `nothing`".into()));
}
