//! Does what a daemon received agree with what a case says it saw?

use super::request;
use crate::abi::Opcode;
use crate::program::{Saw, Seen, Transport, Value};
use crate::protocol::{Answer, Traffic};
use crate::script;

impl Saw {
    /// Could the traffic so far already be all that is expected? If not, more has to be waited for.
    pub fn is_complete(&self, traffic: &[Traffic]) -> bool {
        match self {
            Saw::Exactly(list) => relevant(list, traffic).count() >= list.len(),
            Saw::Some(_) => self.disagreement(traffic).is_none(),
            Saw::No(_) => true,
        }
    }

    /// What is wrong, if something is.
    pub fn disagreement(&self, traffic: &[Traffic]) -> Option<String> {
        match self {
            Saw::Exactly(list) => {
                let got: Vec<_> = relevant(list, traffic).collect();
                let agrees =
                    got.len() == list.len() && list.iter().zip(&got).all(|(seen, got)| seen.matches(got));
                (!agrees).then(|| format!("expected {}, got {}", listed(list), described(&got)))
            }
            Saw::Some(list) => {
                let mut rest = traffic.iter();
                let missing = list.iter().find(|seen| !rest.any(|got| seen.matches(got)));
                missing.map(|seen| {
                    format!(
                        "expected {} among them, got {}",
                        listed(std::slice::from_ref(seen)),
                        described(&traffic.iter().collect::<Vec<_>>())
                    )
                })
            }
            Saw::No(opcodes) => {
                let got: Vec<_> = traffic.iter().filter(|got| opcodes.contains(&got.opcode)).collect();
                (!got.is_empty()).then(|| format!("expected none of these, got {}", described(&got)))
            }
        }
    }
}

/// The traffic that an exact list is about: housekeeping counts only if the list names it.
fn relevant<'a>(list: &'a [Seen], traffic: &'a [Traffic]) -> impl Iterator<Item = &'a Traffic> {
    let named = |opcode: Opcode| list.iter().any(|seen| seen.opcode == opcode);
    let of_root = list.iter().any(|seen| seen.opcode == Opcode::GETATTR && seen.path.as_deref() == Some(""));
    // Over virtio-fs the kernel looks at permissions itself, always, and asks for the root's.
    let is_check = |got: &Traffic| {
        got.over == Transport::Virtiofs && got.opcode == Opcode::GETATTR && got.path.is_empty()
    };
    traffic.iter().filter(move |got| {
        (!got.opcode.is_housekeeping() || named(got.opcode)) && (of_root || !is_check(got))
    })
}

impl Seen {
    fn matches(&self, got: &Traffic) -> bool {
        self.opcode == got.opcode
            && self.path.as_ref().is_none_or(|path| *path == got.path)
            && self.fields.iter().all(|(name, wanted)| match wanted {
                // Kernels offer more and more: only these flags are meant.
                Value::Int(wanted) if name.starts_with("offers") => {
                    field(got, &name.replace("offers", "flags"))
                        .is_some_and(|flags| flags & wanted == *wanted)
                }
                Value::Int(unwanted) if name.starts_with("lacks") => {
                    field(got, &name.replace("lacks", "flags")).is_some_and(|flags| flags & unwanted == 0)
                }
                Value::Word(way) => (way == "io_uring") == (got.over == Transport::IoUring),
                Value::Int(wanted) => field(got, name) == Some(*wanted),
                Value::Data(wanted) => got.data.as_ref() == Some(wanted),
                _ => false,
            })
    }
}

/// A field of the request, 0 if the log leaves it out, or `answered`: what write(2) of the answer led to, nothing if there
/// was no answer yet.
fn field(got: &Traffic, name: &str) -> Option<i128> {
    if name == "answered" {
        return match got.answer {
            Answer::Reply { errno, .. } | Answer::Error { errno, .. } => Some(-i128::from(errno)),
            _ => None,
        };
    }
    Some(got.fields.iter().find(|(field, _)| field == name).map_or(0, |(_, value)| *value))
}

fn listed(list: &[Seen]) -> String {
    if list.is_empty() {
        return "nothing".into();
    }
    script::print_seen(list)
}

fn described(traffic: &[&Traffic]) -> String {
    if traffic.is_empty() {
        return "nothing".into();
    }
    traffic.iter().map(|got| request(got)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(opcode: Opcode, path: &str) -> Traffic {
        let fields = vec![("flags".to_string(), 2)];
        let answer = Answer::Reply { fields: Vec::new(), errno: 0 };
        Traffic { daemon: 1, opcode, path: path.into(), fields, data: None, over: Transport::Plain, answer }
    }

    fn seen(opcode: Opcode, path: &str) -> Seen {
        Seen { opcode, path: Some(path.into()), fields: Vec::new() }
    }

    #[test]
    fn housekeeping_counts_only_when_named() {
        let traffic = [got(Opcode::LOOKUP, "a"), got(Opcode::OPEN, "a")];
        assert_eq!(Saw::Exactly(vec![seen(Opcode::OPEN, "a")]).disagreement(&traffic), None);
        assert!(
            Saw::Exactly(vec![seen(Opcode::OPEN, "a"), seen(Opcode::LOOKUP, "a")])
                .disagreement(&traffic)
                .is_some()
        );
    }

    #[test]
    fn one_too_many_one_too_few_and_another_file_disagree() {
        let traffic = [got(Opcode::OPEN, "a"), got(Opcode::READ, "a")];
        assert!(Saw::Exactly(vec![seen(Opcode::OPEN, "a")]).disagreement(&traffic).is_some());
        assert!(
            Saw::Exactly(vec![seen(Opcode::OPEN, "a"), seen(Opcode::READ, "b")])
                .disagreement(&traffic)
                .is_some()
        );
        assert!(Saw::Exactly(vec![]).disagreement(&traffic).is_some());
        assert!(Saw::No(vec![Opcode::READ]).disagreement(&traffic).is_some());
        assert!(!Saw::Exactly(vec![seen(Opcode::OPEN, "a")]).is_complete(&[]));
    }

    #[test]
    fn offers_are_some_of_the_flags() {
        let mut init = got(Opcode::INIT, "");
        init.fields = vec![("flags".into(), 0b110), ("flags2".into(), 0b1)];
        for (name, wanted, offered) in [
            ("offers", 0b10, true),
            ("offers", 0b11, false),
            ("offers2", 1, true),
            ("offers2", 2, false),
            ("lacks", 1, true),
            ("lacks", 0b11, false),
            ("lacks2", 2, true),
        ] {
            let mut wants = seen(Opcode::INIT, "");
            wants.fields = vec![(name.into(), Value::Int(wanted))];
            let complaint = Saw::Exactly(vec![wants]).disagreement(std::slice::from_ref(&init));
            assert_eq!(complaint.is_none(), offered, "{name}={wanted}");
        }
    }

    #[test]
    fn a_request_came_by_the_device_or_by_io_uring() {
        for (over, way) in [(Transport::Splice, "device"), (Transport::IoUring, "io_uring")] {
            let got = [Traffic { over, ..got(Opcode::OPEN, "a") }];
            for wanted in ["device", "io_uring"] {
                let mut open = seen(Opcode::OPEN, "a");
                open.fields = vec![("by".into(), Value::Word(wanted.into()))];
                assert_eq!(Saw::Exactly(vec![open]).disagreement(&got).is_none(), wanted == way);
            }
        }
    }

    #[test]
    fn fields_must_have_their_values() {
        let mut open = seen(Opcode::OPEN, "a");
        open.fields = vec![("flags".into(), Value::Int(2)), ("answered".into(), Value::Int(0))];
        assert_eq!(Saw::Exactly(vec![open.clone()]).disagreement(&[got(Opcode::OPEN, "a")]), None);
        let held = Traffic { answer: Answer::Held("h".into()), ..got(Opcode::OPEN, "a") };
        assert!(Saw::Exactly(vec![open.clone()]).disagreement(&[held]).is_some());
        open.fields[0].1 = Value::Int(0);
        assert!(Saw::Exactly(vec![open]).disagreement(&[got(Opcode::OPEN, "a")]).is_some());
    }
}
