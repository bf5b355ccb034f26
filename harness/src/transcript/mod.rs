//! What was observed, as text that is the same on every run: the one place where it is normalised.
//!
//! Names stand for node ids, descriptors and addresses; times, process ids and uniques are not shown at all. Law is
//! not repeated here: a transcript says what happened.

mod saw;

use std::fmt::Write;

use crate::abi::Opcode;
use crate::program::flags::{self, FlagSet};
use crate::program::{Expect, Observed, Profile, Program, Saw, Step, Transport, Verb};
use crate::protocol::{Answer, Ending, StepRecord, Traffic};
use crate::script;

/// The whole transcript of a run.
pub fn transcript(program: &Program, steps: &[StepRecord], ending: &Ending) -> String {
    let mut text = String::new();
    let mut detached = false;
    for record in steps {
        let awaited = || program.steps.iter().skip(record.index).any(|step| awaits_release(&step.verb));
        text.push_str(&step(program, &without_dropped(record, detached && !awaited())));
        detached |= program.steps.get(record.index).is_some_and(detaches);
    }
    let last =
        without_dropped(&StepRecord { traffic: ending.traffic.clone(), ..StepRecord::default() }, detached);
    if !last.traffic.is_empty() {
        text.push_str("end\n");
        push_traffic(&mut text, &last.traffic);
    }
    text
}

/// A transcript for somebody to look through: of many requests in a row it has the first ones, and says how many more there
/// were.
pub fn abridged(transcript: &str) -> String {
    const MOST: usize = 20;
    let lines: Vec<&str> = transcript.lines().collect();
    let mut text = String::new();
    let is_request = |line: &str| line.starts_with("    ");
    for run in lines.chunk_by(|one, next| is_request(one) && is_request(next)) {
        let shown = if run.len() > MOST + 1 { MOST } else { run.len() };
        run.iter().take(shown).for_each(|line| _ = writeln!(text, "{line}"));
        if shown < run.len() {
            let _ = writeln!(text, "    ... and {} more", run.len() - shown);
        }
    }
    text
}

/// What is the same in every round of a race: each step with what it may lead to on this kernel.
pub fn race(program: &Program, profile: &Profile) -> String {
    let rounds = program.stress.as_ref().map_or(1, |stress| stress.rounds);
    let mut text = format!("{rounds} rounds, each one of these:\n");
    for step in program.steps.iter().filter(|step| profile.meets(&step.when)) {
        let expect = step
            .expect
            .as_ref()
            .map(|expect| Expect { law: expect.on(profile).clone(), variants: Vec::new() });
        let step = Step { when: Vec::new(), expect, ..step.clone() };
        let _ = writeln!(text, "{}", script::print_step(&step));
    }
    text
}

/// The last close of a file on a detached mount also ends the mount, and the kernel drops a RELEASE that the daemon has
/// not read by then: whether it comes is a race of the kernel's own, so it is not shown, unless
/// the case waits for it.
fn without_dropped(record: &StepRecord, detached: bool) -> StepRecord {
    let mut record = record.clone();
    record.traffic.retain(|got| !(detached && got.opcode == Opcode::RELEASE));
    record
}

fn awaits_release(verb: &Verb) -> bool {
    match verb {
        Verb::Saw(Saw::Exactly(list) | Saw::Some(list)) => {
            list.iter().any(|seen| seen.opcode == Opcode::RELEASE)
        }
        _ => false,
    }
}

fn detaches(step: &Step) -> bool {
    matches!(&step.verb, Verb::Call(call) if call.name == "umount" && call.text("flags") == "lazy")
}

/// One step: what was done, what came of it, what the daemons received meanwhile.
pub fn step(program: &Program, record: &StepRecord) -> String {
    let Some(step) = program.steps.get(record.index) else {
        return String::new();
    };
    let mut done = step.clone();
    done.when.clear();
    done.expect = None;
    let mut text = script::print_step(&done);
    if let Some(observed) = &record.observed {
        let law = step.expect.as_ref().map(|expect| &expect.law);
        let named = step.expect.iter().flat_map(|expect| {
            std::iter::once(&expect.law).chain(expect.variants.iter().map(|variant| &variant.outcome))
        });
        let name = named.filter_map(|outcome| outcome.binds()).next();
        let shown = match (observed, name) {
            // Descriptors and addresses are the process's business; ids are the kernel's, and are the point.
            (Observed::Int(number), Some(("id", name))) => format!("id {name}={number}"),
            (Observed::Int(_), Some((kind, name))) => format!("{kind} {name}"),
            (Observed::Int(0), None) if !matches!(law, Some(crate::program::Outcome::Int(_))) => "ok".into(),
            (Observed::Fields(fields), None) if fields.is_empty() => "ok".into(),
            _ => observed.to_string(),
        };
        let _ = write!(text, " -> {shown}");
    }
    if let Some(inner) = record.inner {
        let _ = write!(text, " ({} inside)", flags::errno_name(inner));
    }
    text.push('\n');
    push_traffic(&mut text, &record.traffic);
    text
}

/// What stands behind a request that came over that transport; nothing over the plain one.
pub fn mark(over: Transport) -> String {
    if over == Transport::Plain { String::new() } else { format!(" by {over}") }
}

fn push_traffic(text: &mut String, traffic: &[Traffic]) {
    for got in traffic {
        let daemon = if got.daemon == 1 { String::new() } else { got.daemon.to_string() };
        let mark = mark(got.over);
        let _ = writeln!(text, "    {daemon}> {}{}{mark}", request(got), answer(got));
    }
}

/// Fields of requests that say nothing about behaviour, or change from run to run.
const UNSHOWN: &[&str] = &[
    "len",
    "opcode",
    "unique",
    "nodeid",
    "pid",
    "total_extlen",
    "padding",
    "lock_owner",
    "owner",
    "lk_pid",
    "dummy",
    "dummy1",
    "dummy2",
    "dummy3",
    "dummy4",
    "unused",
    "unused4",
    "unused5",
    "reserved",
    "atime",
    "mtime",
    "ctime",
    "atimensec",
    "mtimensec",
    "ctimensec",
    "kh",
    "newdir",
    "oldnodeid",
    "nodeid_out",
    "victim",
    "arg",
];

/// A request on one line.
pub fn request(got: &Traffic) -> String {
    let mut text = got.opcode.to_string();
    // Some requests are about no file.
    if !matches!(got.opcode, Opcode::INIT | Opcode::INTERRUPT | Opcode::BATCH_FORGET | Opcode::DESTROY) {
        let _ = write!(text, " {:?}", got.path);
    }
    // INIT offers what the kernel can do; that is the profile's business.
    if got.opcode != Opcode::INIT {
        // How much room a listing asks for is the C library's choice.
        let lists = matches!(got.opcode, Opcode::READDIR | Opcode::READDIRPLUS);
        let unshown = |name: &str| UNSHOWN.contains(&name) || (lists && name == "size");
        let shown = got.fields.iter().filter(|(name, _)| !unshown(name));
        push_fields(&mut text, got, shown);
    }
    if let Some(data) = &got.data {
        let _ = write!(text, " {data}");
    }
    text
}

/// What the daemon did with it, as the rest of that line.
fn answer(got: &Traffic) -> String {
    let mut text = String::from(" = ");
    let written = match &got.answer {
        Answer::None => return String::new(),
        Answer::Reply { fields, errno } => {
            text.push_str("ok");
            push_fields(&mut text, got, fields);
            *errno
        }
        Answer::Error { error, errno } => {
            text.push_str(&flags::errno_name(*error));
            *errno
        }
        Answer::Held(name) => {
            let _ = write!(text, "held as {name}");
            0
        }
        Answer::Dropped => {
            text.push_str("dropped");
            0
        }
        Answer::Died => {
            text.push_str("died");
            0
        }
    };
    if written == Answer::IN_PART {
        text.push_str(", taken in part");
    } else if written != 0 {
        let _ = write!(text, ", refused with {}", flags::errno_name(written));
    }
    text
}

fn push_fields<'a>(text: &mut String, got: &Traffic, fields: impl IntoIterator<Item = &'a (String, i128)>) {
    for (name, value) in fields {
        let _ = write!(text, " {name}=");
        match FlagSet::of_wire_field(got.opcode, name) {
            Some(set) => text.push_str(&set.print(*value as u64)),
            None => {
                let _ = write!(text, "{value}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::abridged;

    #[test]
    fn many_requests_in_a_row_are_abridged() {
        let of =
            |requests: usize| format!("app    read f\n{}app    close f\n", "    > READ\n".repeat(requests));
        assert_eq!(abridged(&of(21)), of(21));
        let long = abridged(&of(1000));
        assert_eq!(long.lines().count(), 23);
        assert!(long.contains("\n    ... and 980 more\napp    close f\n"), "{long}");
    }
}
