//! The canonical text of a program: no `use`, no axes, one blank between words.

use std::fmt::Write;

use super::value::wire_kind;
use crate::abi::Opcode;
use crate::program::flags;
use crate::program::{
    Call, Data, Expect, Kind, Need, Param, Program, Reply, Saw, Seen, Signature, Step, Times, Value, Verb,
    signature,
};

/// The program as a case file; it parses back to an equal program.
pub fn print(program: &Program) -> String {
    let mut text = format!("# {}\n", program.title);
    for (word, value) in [
        ("rules", program.rules.join(" ")),
        ("needs", join(&program.needs, " ")),
        ("danger", program.danger.as_deref().map(quote).unwrap_or_default()),
        (
            "stress",
            program.stress.as_ref().map(|s| format!("{} {}", s.rounds, quote(&s.reason))).unwrap_or_default(),
        ),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, "{} {value}", first_word(word));
        }
    }
    for exclusion in &program.not {
        let _ = writeln!(text, "not    {} {}", exclusion.transport, quote(&exclusion.reason));
    }
    text.push('\n');
    for step in &program.steps {
        let _ = writeln!(text, "{}", print_step(step));
    }
    text
}

/// A line's first word, as wide as `daemon`: what follows stands below each other.
pub(super) fn first_word(word: &str) -> String {
    format!("{word:<6}")
}

/// One step on one line.
pub fn print_step(step: &Step) -> String {
    let mut text = String::new();
    if step.when.is_empty() {
        let _ = write!(text, "{} ", first_word(&step.actor.to_string()));
    } else {
        let _ = write!(text, "[{}] {} ", join(&step.when, ", "), step.actor);
    }
    if step.failing {
        text.push_str("failing ");
    }
    match &step.verb {
        Verb::Call(call) => text.push_str(&print_call(call)),
        Verb::Start { name, call } => {
            let _ = write!(text, "start {name}: {}", print_call(call));
        }
        Verb::Blocks { name } => {
            let _ = write!(text, "blocks {name}");
        }
        Verb::Await { name } => {
            let _ = write!(text, "await {name}");
        }
        Verb::On { times, opcode, path, reply } => {
            let times = match times {
                Times::Once => "on",
                Times::Always => "always",
            };
            let _ = write!(text, "{times} {opcode}{}: {}", print_path(path), print_reply(reply, *opcode));
        }
        Verb::Answer { held, reply } => {
            // Which request was held, the step does not say: fields that mean the same everywhere have their names.
            let _ = write!(text, "answer {held}: {}", print_reply(reply, Opcode(0)));
        }
        Verb::Saw(saw) => {
            let _ = write!(text, "saw {}", print_saw(saw));
        }
    }
    if let Some(Expect { law, variants }) = &step.expect {
        let _ = write!(text, " -> {law}");
        for variant in variants {
            let _ = write!(
                text,
                " [{}: {} {}]",
                join(&variant.when, ", "),
                variant.outcome,
                quote(&variant.reason)
            );
        }
    }
    text
}

/// How a call is written: `mmap fd len prot flags [offset]`.
pub fn usage(signature: &Signature) -> String {
    let mut text = signature.name.to_string();
    for Param { name, need, .. } in signature.params {
        let _ = match need {
            Need::Required => write!(text, " {name}"),
            Need::Trailing => write!(text, " [{name}]"),
            Need::Keyword => write!(text, " [{name}=]"),
        };
    }
    text
}

fn print_call(call: &Call) -> String {
    let params = signature(&call.name).map_or(&[] as &[Param], |signature| signature.params);
    let mut text = call.name.clone();
    // Only without a unique is a message a notification.
    let notifies = call.arg("unique").is_none();
    for (name, value) in &call.args {
        let param = params.iter().find(|param| param.name == name);
        let shown = if notifies && name == "error" { NOTIFY } else { name };
        text.push(' ');
        if param.is_some_and(|param| param.need == Need::Keyword) {
            let _ = write!(text, "{name}=");
        }
        text.push_str(&print_value(value, shown, param.map(|param| param.kind)));
    }
    text
}

fn print_reply(reply: &Reply, opcode: Opcode) -> String {
    match reply {
        Reply::Fields(fields) => {
            format!("reply{}", print_fields(fields, opcode))
        }
        Reply::Claim(fields) => format!("claim{}", print_fields(fields, opcode)),
        Reply::Error(errno) => {
            let name = flags::errno_name(*errno);
            format!("error {}", name.strip_prefix("errno ").unwrap_or(&name))
        }
        Reply::Hold(name) => format!("hold {name}"),
        Reply::Drop => "drop".into(),
        Reply::Die => "die".into(),
    }
}

fn print_saw(saw: &Saw) -> String {
    match saw {
        Saw::Exactly(seen) if seen.is_empty() => "nothing".into(),
        Saw::Exactly(seen) => print_seen(seen),
        Saw::Some(seen) => format!("some {}", print_seen(seen)),
        Saw::No(opcodes) => format!("no {}", join(opcodes, ", ")),
    }
}

/// Requests as `saw` lists them.
pub fn print_seen(seen: &[Seen]) -> String {
    let seen: Vec<String> = seen
        .iter()
        .map(|seen| {
            let fields = print_fields(&seen.fields, seen.opcode);
            format!("{}{}{fields}", seen.opcode, print_path(&seen.path))
        })
        .collect();
    seen.join(", ")
}

fn print_fields(fields: &[(String, Value)], opcode: Opcode) -> String {
    fields
        .iter()
        .map(|(name, value)| format!(" {name}={}", print_value(value, name, Some(wire_kind(opcode, name)))))
        .collect()
}

fn print_path(path: &Option<String>) -> String {
    path.as_ref().map_or(String::new(), |path| format!(" {}", bytes(path)))
}

/// Stands for the name of an `error` that is a notification's code.
const NOTIFY: &str = "notify";

fn print_value(value: &Value, name: &str, kind: Option<Kind>) -> String {
    match (value, kind) {
        (Value::Int(number), Some(Kind::Flags(set))) => match u64::try_from(*number) {
            Ok(bits) => set.print(bits),
            Err(_) => number.to_string(),
        },
        // A message's error is a notification's code or a negative errno; one without a name stays a number.
        (Value::Int(number @ 1..=9), _) if name == NOTIFY => flags::NOTIFY.print(*number as u64),
        (Value::Int(number), _) if matches!(name, "error" | "answered") => {
            let errno = i32::try_from(-number).map(flags::errno_name).unwrap_or_default();
            if errno.starts_with('E') { format!("-{errno}") } else { number.to_string() }
        }
        (Value::Int(number), _) => number.to_string(),
        (Value::Name(name, 0), _) => name.clone(),
        (Value::Name(name, offset), _) => format!("{name}{offset:+}"),
        (Value::Fds(fds), _) => print_fds(fds),
        (Value::Data(data), _) => data.to_string(),
        (Value::Path(path), _) => bytes(path),
        (Value::Word(word), _) => word.clone(),
    }
}

/// Equal neighbours are folded.
fn print_fds(fds: &[Value]) -> String {
    let runs = fds.chunk_by(|one, other| one == other).map(|run| {
        let fd = print_value(&run[0], "", None);
        if run.len() == 1 { fd } else { format!("{fd}*{}", run.len()) }
    });
    runs.collect::<Vec<_>>().join("+")
}

fn bytes(text: &str) -> String {
    Data(text.as_bytes().to_vec()).to_string()
}

/// Prose stays readable: other than bytes, it is never folded, and letters of any language stay themselves.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn join<T: ToString>(items: &[T], between: &str) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(between)
}
