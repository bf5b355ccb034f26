//! What is odd about a program that was run, and what makes two odd things the same.
//!
//! A function of the program and what came of it. What the kernel itself complains of is not for here: the host reads that.

use std::collections::BTreeSet;

use super::super::arena::Ran;
use crate::generate;
use crate::oracle::{self, Contradiction};
use crate::program::{Observed, Outcome, Profile, Program, Reply, Transport, Verb};
use crate::protocol::{Odd, OddKind, StepRecord};
use crate::script;

/// What is wrong: its kind, the function or call that it is about, a key, and a sentence.
pub(super) type Wrong = (OddKind, String, String, String);

/// What is not as it should be, if something is not. The oracle does not know io_uring.
pub(super) fn odd(program: &Program, profile: &Profile, over: Transport, ran: Ran) -> Option<Odd> {
    let judged = || (over == Transport::Plain).then(|| forbidden(program, profile, &ran.records)).flatten();
    let (kind, function, key, why) = left(&ran).or_else(judged)?;
    let (bytes, Ran { records, rest, .. }) = (generate::to_bytes(program), ran);
    Some(Odd { bytes, kind, function, key, why, records, rest })
}

/// What did not come back, ended, or stayed.
pub(super) fn left(ran: &Ran) -> Option<Wrong> {
    Some(match (&ran.stuck, &ran.ended, &ran.leak) {
        (Some(stuck), ..) => (OddKind::Hang, innermost(stuck), words(stuck), stuck.clone()),
        (_, Some(why), _) => (OddKind::Ended, String::new(), words(why), format!("the daemon ended: {why}")),
        (.., Some(leak)) => {
            (OddKind::Behind, String::new(), words(leak), format!("something is left behind: {leak}"))
        }
        _ => return None,
    })
}

/// What the oracle forbids.
fn forbidden(program: &Program, profile: &Profile, records: &[StepRecord]) -> Option<Wrong> {
    let (done, performed) = performed(program, records);
    let wrong = oracle::against_kernel_with_care(&done, profile, &performed).contradiction?;
    let observed = performed.iter().find(|record| record.index == wrong.index)?.observed.as_ref();
    let function = call(&done, wrong.index);
    let step = done.steps.get(wrong.index).map_or_else(String::new, script::print_step);
    let told = observed.map_or_else(String::new, |observed| format!(", observed {observed}"));
    let why = format!("step {}, {step}: the oracle allows {}{told}", wrong.index + 1, wrong.allows);
    Some((OddKind::Oracle, function, key(&wrong, observed), why))
}

/// The program without the steps that could not be performed, as what they need was never made, and without rules for requests
/// that did not come.
pub(crate) fn performed(program: &Program, records: &[StepRecord]) -> (Program, Vec<StepRecord>) {
    let was = |record: &StepRecord| !matches!(record.observed, Some(Observed::Impossible(_)));
    let verb = |record: &StepRecord| program.steps.get(record.index).map(|step| &step.verb);
    let never = records.iter().filter(|record| !was(record)).filter_map(|record| match verb(record) {
        Some(Verb::Answer { held, .. }) => Some(held.clone()),
        _ => None,
    });
    let never: BTreeSet<String> = never.collect();
    let is_due = |record: &StepRecord| match verb(record) {
        Some(Verb::On { reply: Reply::Hold(name), .. }) => !never.contains(name),
        _ => was(record),
    };
    let mut records: Vec<StepRecord> = records.iter().filter(|record| is_due(record)).cloned().collect();
    let steps = records.iter().filter_map(|record| program.steps.get(record.index)).cloned().collect();
    for (index, record) in records.iter_mut().enumerate() {
        record.index = index;
    }
    (Program { steps, ..program.clone() }, records)
}

/// The call whose outcome that step has.
fn call(program: &Program, index: usize) -> String {
    match program.steps.get(index).map(|step| &step.verb) {
        Some(Verb::Call(call) | Verb::Start { call, .. }) => call.name.clone(),
        Some(Verb::Await { name }) => {
            let started = program.steps.iter().take(index).rev().find_map(|step| match &step.verb {
                Verb::Start { name: started, call } if started == name => Some(call.name.clone()),
                _ => None,
            });
            started.unwrap_or_default()
        }
        Some(Verb::Answer { .. }) => "answer".into(),
        _ => String::new(),
    }
}

/// Which rules are broken, and how; numbers and bytes differ from one program to the next.
fn key(wrong: &Contradiction, observed: Option<&Observed>) -> String {
    let (rules, allowed) = match &wrong.ruling {
        Some(ruling) => {
            let sorts: BTreeSet<String> = ruling.allows.iter().map(sort_allowed).collect();
            (ruling.rules.join(" "), sorts.into_iter().collect::<Vec<_>>().join(" "))
        }
        None => (String::new(), words(&wrong.allows)),
    };
    format!("{rules}: {allowed}, not {}", observed.map_or_else(String::new, sort_observed))
}

fn sort_allowed(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok | Outcome::Int(_) | Outcome::Data(_) | Outcome::Bind { .. } => "success".into(),
        Outcome::Fields(fields) => names(fields),
        other => other.to_string(),
    }
}

fn sort_observed(observed: &Observed) -> String {
    match observed {
        Observed::Int(_) | Observed::Data(_) | Observed::Fields(_) => "success".into(),
        other => words(&other.to_string()),
    }
}

fn names(fields: &[(String, i128)]) -> String {
    fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
}

/// The words of a text, without numbers and names of one letter.
fn words(text: &str) -> String {
    text.split(|letter: char| !letter.is_ascii_alphabetic() && letter != '_' && letter != '-')
        .filter(|word| word.len() > 1)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The function on top of a stack as proc(5) shows it.
fn innermost(text: &str) -> String {
    let frame = text.split("[<0>] ").nth(1).unwrap_or_default();
    frame.split('+').next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Ruling;

    fn wrong(allowed: Outcome) -> Contradiction {
        let ruling = Ruling { allows: vec![allowed], rules: vec!["RW-02"] };
        Contradiction { index: 0, allows: ruling.to_string(), ruling: Some(ruling) }
    }

    #[test]
    fn what_differs_in_numbers_is_the_same() {
        let of = |allowed, observed| key(&wrong(Outcome::Int(allowed)), Some(&Observed::Int(observed)));
        assert_eq!(of(5, 4), of(4096, 0));
        assert_ne!(of(5, 4), key(&wrong(Outcome::Int(5)), Some(&Observed::Errno(5))));
        assert_ne!(of(5, 4), key(&wrong(Outcome::Errno(5)), Some(&Observed::Int(4))));
    }

    #[test]
    fn a_hang_is_where_it_hangs() {
        let stuck = "app hangs:\n[<0>] fuse_file_cached_io_open+0x6b/0xd0\n[<0>] fuse_finish_open+0x1/0x2\n";
        assert_eq!(innermost(stuck), "fuse_file_cached_io_open");
        assert_eq!(innermost("app hangs"), "");
    }
}
