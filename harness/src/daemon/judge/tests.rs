//! What the judge says of stories made up for it, where a daemon that makes the mistake would be hard to have.

use zerocopy::IntoBytes;

use super::super::decode::decode;
use super::super::trace::{Cut, Event, Lower, Stamped};
use super::{Judgement, judge};
use crate::abi::{
    Opcode, fuse_entry_out, fuse_in_header, fuse_init_in, fuse_init_out, fuse_open_in, fuse_open_out,
    fuse_out_header, fuse_release_in,
};

const INIT_EXT: u32 = 1 << 30;
const PASSTHROUGH_2: u32 = 1 << 5;
const PASSTHROUGH: u32 = 1 << 7;
const EINVAL: i64 = 22;
const ENODEV: i32 = 19;

/// A trace that grows.
#[derive(Default)]
struct Tale {
    events: Vec<Stamped>,
    calls: u32,
    unique: u64,
}

impl Tale {
    /// One whose connection has agreed to passthrough, with a file "a" that is node 2.
    fn begun() -> Tale {
        let mut tale = Tale::default();
        tale.init(0);
        tale.ask(0, Opcode::LOOKUP, 1, b"a\0");
        let entry = fuse_entry_out { nodeid: 2, ..fuse_entry_out::default() };
        tale.answer(0, entry.as_bytes());
        tale
    }

    fn init(&mut self, device: u32) {
        let offer = fuse_init_in { flags: INIT_EXT, flags2: PASSTHROUGH_2, ..fuse_init_in::default() };
        self.ask(device, Opcode::INIT, 0, offer.as_bytes());
        let answer = fuse_init_out {
            flags: INIT_EXT,
            flags2: PASSTHROUGH_2,
            max_stack_depth: 1,
            ..fuse_init_out::default()
        };
        self.answer(device, answer.as_bytes());
    }

    fn add(&mut self, event: Event) {
        let micros = self.events.len() as u64;
        self.events.push(Stamped { micros, task: 1, event });
    }

    fn ask(&mut self, device: u32, opcode: Opcode, nodeid: u64, body: &[u8]) {
        self.unique += 2;
        let len = (size_of::<fuse_in_header>() + body.len()) as u32;
        let unique = self.unique;
        let header = fuse_in_header { len, opcode: opcode.0, unique, nodeid, ..fuse_in_header::default() };
        let head = [header.as_bytes(), body].concat();
        self.add(Event::Request { device, message: Cut { len: len.into(), head } });
    }

    fn answer(&mut self, device: u32, body: &[u8]) {
        self.send(device, fuse_out_header { error: 0, unique: self.unique, len: 0 }, body, 0);
    }

    /// Write a message; the kernel says `errno`, or takes it for 0.
    fn send(&mut self, device: u32, header: fuse_out_header, body: &[u8], errno: i64) {
        let len = (size_of::<fuse_out_header>() + body.len()) as u32;
        let head = [fuse_out_header { len, ..header }.as_bytes(), body].concat();
        self.calls += 1;
        let call = self.calls;
        self.add(Event::Reply { call, device, message: Cut { len: len.into(), head } });
        let result = if errno == 0 { len.into() } else { -errno };
        self.add(Event::Returned { call, result });
    }

    fn register(&mut self, path: &str, id: i32) {
        self.register_on(0, path, id);
    }

    fn register_on(&mut self, device: u32, path: &str, id: i32) {
        let file = Lower { path: path.into(), dev: 1, ino: 1, mode: 0o100_644, flags: 2 };
        self.add(Event::BackingOpen {
            device,
            file: Some(file),
            rest: (0, 0),
            fsuid: 0,
            result: id,
            injected: false,
        });
    }

    fn close(&mut self, id: u32) {
        self.calls += 1;
        let call = self.calls;
        self.add(Event::BackingClose { call, device: 0, id: Some(id) });
        self.add(Event::Returned { call, result: 0 });
    }

    fn opens(&mut self, fh: u64, id: i32) {
        self.ask(0, Opcode::OPEN, 2, fuse_open_in::default().as_bytes());
        self.answer_open(fh, id);
    }

    fn answer_open(&mut self, fh: u64, id: i32) {
        let out = fuse_open_out { fh, open_flags: PASSTHROUGH, backing_id: id };
        self.answer(0, out.as_bytes());
    }

    fn releases(&mut self, fh: u64) {
        self.ask(0, Opcode::RELEASE, 2, fuse_release_in { fh, ..fuse_release_in::default() }.as_bytes());
        self.answer(0, &[]);
    }

    fn judged(&self) -> Judgement {
        judge(&decode(&self.events))
    }

    /// The rules that are broken, and nothing else is.
    #[track_caller]
    fn breaks(&self, rules: &[&str]) {
        let judgement = self.judged();
        let broken: Vec<&str> = judgement.broken().map(|(rule, _)| rule).collect();
        assert_eq!(broken, rules, "{:?}", judgement.broken().collect::<Vec<_>>());
    }
}

#[test]
fn an_honest_open_breaks_nothing() {
    let mut tale = Tale::begun();
    tale.register("a", 1);
    tale.opens(7, 1);
    tale.opens(8, 1);
    tale.releases(7);
    tale.releases(8);
    tale.close(1);
    tale.breaks(&[]);
    assert!(tale.judged().has_met("DMN-16") && tale.judged().has_met("DMN-20"));
}

#[test]
fn an_id_whose_release_was_dropped_at_the_unmount_is_no_leak() {
    let mut tale = Tale::begun();
    tale.register("a", 1);
    tale.opens(7, 1);
    tale.add(Event::NoRequest { device: 0, errno: ENODEV });
    tale.breaks(&[]);
}

#[test]
fn an_id_that_nobody_uses_any_more_and_another_replaces_is_one() {
    let mut tale = Tale::begun();
    tale.register("a", 1);
    tale.opens(7, 1);
    tale.releases(7);
    tale.register("a", 2);
    tale.opens(8, 2);
    tale.breaks(&["DMN-20"]);
}

#[test]
fn an_id_registered_in_vain_may_stay_as_long_as_its_file_is_open() {
    let opened = |released: bool| {
        let mut tale = Tale::begun();
        tale.ask(0, Opcode::OPEN, 2, fuse_open_in::default().as_bytes());
        tale.register("a", 1);
        tale.answer(0, fuse_open_out { fh: 7, ..fuse_open_out::default() }.as_bytes());
        if released {
            tale.releases(7);
        }
        tale
    };
    opened(false).breaks(&[]);
    opened(true).breaks(&["DMN-20"]);
}

#[test]
fn a_number_that_is_given_again_is_another_id() {
    let mut tale = Tale::begun();
    for fh in 7..9 {
        tale.register("a", 1);
        tale.opens(fh, 1);
        tale.releases(fh);
        tale.close(1);
    }
    tale.breaks(&[]);
}

#[test]
fn what_was_right_when_it_was_registered_stays_right_under_another_name() {
    let mut tale = Tale::begun();
    tale.register("a", 1);
    tale.opens(7, 1);
    let body = [&1_u64.to_le_bytes()[..], b"a\0b\0"].concat();
    tale.ask(0, Opcode::RENAME, 1, &body);
    tale.answer(0, &[]);
    tale.opens(8, 1);
    tale.breaks(&[]);
}

#[test]
fn the_file_of_another_name_is_the_wrong_one() {
    let mut tale = Tale::begun();
    tale.register("b", 1);
    tale.opens(7, 1);
    tale.breaks(&["DMN-07"]);
}

#[test]
fn an_id_of_another_connection_is_nobodys_here() {
    let mut tale = Tale::begun();
    tale.init(1);
    tale.register_on(1, "a", 1);
    tale.unique += 10;
    tale.opens(7, 1);
    let judgement = tale.judged();
    assert!(judgement.breaks("DMN-11"), "{judgement:?}");
}

#[test]
fn a_clone_is_the_same_connection_whichever_of_them_reads_init() {
    let mut tale = Tale::default();
    tale.add(Event::Cloned { from: 0, device: 1 });
    tale.init(1);
    tale.register("a", 1);
    tale.close(1);
    tale.breaks(&[]);
}

#[test]
fn a_message_that_is_refused_unseen_is_no_answer() {
    let mut tale = Tale::begun();
    tale.ask(0, Opcode::FLUSH, 2, &[0; 24]);
    let header = fuse_out_header { error: 5, unique: tale.unique, len: 0 };
    tale.send(0, header, &[], EINVAL);
    tale.answer(0, &[]);
    tale.breaks(&["DMN-43"]);
}

#[test]
fn any_numbers_can_be_told() {
    let mut tale = Tale::begun();
    tale.ask(0, Opcode::GETATTR, 2, &[0; 16]);
    let header = fuse_out_header { error: i32::MIN, unique: tale.unique, len: 0 };
    tale.send(0, header, &[], i64::from(i32::MAX) + 1);
    tale.register("a", i32::MIN);
    tale.add(Event::Returned { call: 1, result: i64::MIN });
    let story = decode(&tale.events);
    assert!((0..story.deeds.len()).all(|index| !story.line(index).is_empty()));
    judge(&story);
}

#[test]
fn a_second_answer_is_found_and_one_to_nobody_too() {
    let mut tale = Tale::begun();
    tale.ask(0, Opcode::FLUSH, 2, &[0; 24]);
    tale.answer(0, &[]);
    tale.answer(0, &[]);
    tale.breaks(&["DMN-42"]);
    tale.unique += 100;
    tale.answer(0, &[]);
    tale.breaks(&["DMN-41", "DMN-42"]);
}

#[test]
fn what_waits_for_seconds_is_not_answered_and_what_came_last_is_excused() {
    let mut tale = Tale::begun();
    tale.ask(0, Opcode::FLUSH, 2, &[0; 24]);
    tale.add(Event::NoRequest { device: 0, errno: ENODEV });
    tale.breaks(&[]);
    tale.events.last_mut().expect("it has events").micros = 10_000_000;
    tale.breaks(&["DMN-45"]);
}
