//! A case as a program to begin with: what an arena can perform of it, without what it expects.
//!
//! It says nothing about what the case proves: conditions are taken for met, and what is left out may have been the point.

use super::repair::{is_of_stage, repair};
use super::{DAEMON, body, menu, prologue};
use crate::abi::Opcode;
use crate::program::{Call, Program, Reply, Side, Step, Value, Verb};

/// What an arena can perform of a case; none if it cannot set the case's stage, or nothing else is left.
pub fn seed(case: &Program) -> Option<Program> {
    let stage = prologue(case);
    if stage.is_empty() || !stage.iter().all(is_ours) {
        return None;
    }
    let mut paths = Paths { files: Vec::new(), others: Vec::new() };
    let files = case.steps.iter().filter_map(made);
    paths.files.extend(files.map(str::to_string));
    let is_kept = |step: &&Step| step.when.iter().all(|condition| condition.present);
    let kept: Vec<Step> = body(case).iter().filter(is_kept).filter_map(|step| paths.seeded(step)).collect();
    let steps = [stage.to_vec(), kept].concat();
    let seed = repair(Program { steps, ..case.clone() });
    (!body(&seed).is_empty()).then_some(seed)
}

/// Does the step belong to a stage as an arena sets it?
fn is_ours(step: &Step) -> bool {
    let is_first = step.actor == DAEMON || step.actor.side == Side::Host;
    let is_known = match &step.verb {
        Verb::Call(call) => match call.name.as_str() {
            "lower" => call.args.len() == 1 && menu::LOWER.contains(&call.text("kind")),
            "file" => !call.text("path").contains(['/', ':']),
            _ => call.args.is_empty(),
        },
        Verb::On { reply, .. } => matches!(reply, Reply::Fields(_)),
        _ => false,
    };
    is_first && is_of_stage(step) && is_known && step.when.is_empty()
}

/// The file that the step makes as part of the stage.
fn made(step: &Step) -> Option<&str> {
    match &step.verb {
        Verb::Call(call) if call.name == "file" => Some(call.text("path")),
        _ => None,
    }
}

/// What the case's paths become.
struct Paths {
    files: Vec<String>,
    /// Names that the case makes up itself; each stands for one of those that an arena has, in their order.
    others: Vec<String>,
}

impl Paths {
    /// The step, if an arena can perform it.
    fn seeded(&mut self, step: &Step) -> Option<Step> {
        let mut step = step.clone();
        if step.actor.side == Side::Daemon && step.actor != DAEMON {
            return None;
        }
        match &mut step.verb {
            // Files are made before the mount, as if the case had.
            Verb::Call(call) if call.name == "file" => {
                let is_plain = !call.text("path").contains(['/', ':']);
                return is_plain.then_some(step);
            }
            Verb::Call(call) | Verb::Start { call, .. } => {
                menu::performs(step.actor.side, &call.name)?;
                self.call(call)?;
            }
            Verb::On { opcode, path, reply, .. } => {
                if *opcode == Opcode::INIT || matches!(reply, Reply::Drop | Reply::Die) {
                    return None;
                }
                if let Some(path) = path {
                    *path = self.path(path)?;
                }
            }
            Verb::Answer { .. } | Verb::Await { .. } => {}
            Verb::Blocks { .. } | Verb::Saw(_) => return None,
        }
        Some(step)
    }

    fn call(&mut self, call: &mut Call) -> Option<()> {
        for (_, value) in &mut call.args {
            if let Value::Path(path) = value {
                *path = self.path(path)?;
            }
        }
        Some(())
    }

    fn path(&mut self, path: &str) -> Option<String> {
        if path.is_empty() || path.contains(':') || path.starts_with('/') {
            return None;
        }
        if self.files.iter().any(|file| file == path) || menu::PATHS.contains(&path) {
            return Some(path.to_string());
        }
        let at = self.others.iter().position(|other| other == path).unwrap_or(self.others.len());
        let stands = *menu::PATHS.get(at)?;
        if at == self.others.len() {
            self.others.push(path.to_string());
        }
        Some(stands.to_string())
    }
}
