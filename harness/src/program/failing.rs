//! A step whose allocations fail, one after the other, and what that means for the steps behind it.

use std::collections::BTreeSet;

use super::{Actor, Observed, Profile, Program, Reply, Saw, Step, Value, Verb};

/// The most allocations that a failing step may make.
pub const MOST_POINTS: u32 = 500;

impl Program {
    /// The step whose allocations fail, if there is one: there is at most one.
    pub fn failing(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.failing)
    }
}

/// What a failing step would have given, had it not failed. A step that names it has nothing to work on and is left out, and
/// what that step would have given is missing, too.
#[derive(Clone, Debug, Default)]
pub struct Missing(BTreeSet<(Owner, String)>);

/// Whose a name is; `None` for a number that everybody may use.
type Owner = Option<Actor>;

impl Missing {
    /// Is anything?
    pub fn is_something(&self) -> bool {
        !self.0.is_empty()
    }

    /// Is this step to be left out?
    pub fn leaves_out(&mut self, step: &Step, profile: &Profile) -> bool {
        let lacks = |name: &str| {
            let name = name.split('.').next().unwrap_or_default();
            [Some(step.actor), None].into_iter().any(|owner| self.0.contains(&(owner, name.to_string())))
        };
        let left_out = used(&step.verb).into_iter().any(lacks);
        match given(step, profile) {
            Some(name) if left_out => _ = self.0.insert(name),
            Some(name) => _ = self.0.remove(&name),
            None => {}
        }
        left_out
    }

    /// The failing step is over, and this is what came of it.
    pub fn after(&mut self, step: &Step, profile: &Profile, observed: Option<&Observed>) {
        if !matches!(observed, Some(Observed::Int(_) | Observed::Data(_) | Observed::Fields(_))) {
            self.0.extend(given(step, profile));
        }
    }
}

/// What a step names.
fn used(verb: &Verb) -> Vec<&str> {
    fn names(fields: &[(String, Value)]) -> impl Iterator<Item = &str> {
        fields.iter().filter_map(|(_, value)| match value {
            Value::Name(name, _) => Some(name.as_str()),
            _ => None,
        })
    }
    fn of_reply(reply: &Reply) -> Vec<&str> {
        match reply {
            Reply::Fields(fields) | Reply::Claim(fields) => names(fields).collect(),
            _ => Vec::new(),
        }
    }
    match verb {
        Verb::Call(call) | Verb::Start { call, .. } => names(&call.args).collect(),
        Verb::Blocks { name } | Verb::Await { name } => vec![name],
        Verb::On { reply, .. } => of_reply(reply),
        Verb::Answer { held, reply } => of_reply(reply).into_iter().chain([held.as_str()]).collect(),
        Verb::Saw(Saw::Exactly(list) | Saw::Some(list)) => {
            list.iter().flat_map(|seen| names(&seen.fields)).collect()
        }
        Verb::Saw(Saw::No(_)) => Vec::new(),
    }
}

/// What a step gives a name to, and whose that is.
fn given(step: &Step, profile: &Profile) -> Option<(Owner, String)> {
    match &step.verb {
        Verb::Start { name, .. } => Some((Some(step.actor), name.clone())),
        Verb::On { reply: Reply::Hold(name), .. } => Some((None, name.clone())),
        _ => {
            let (kind, name) = step.expect.as_ref()?.on(profile).binds()?;
            Some(((kind != "id").then_some(step.actor), name.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::script;

    fn happens(text: &str, observed: &Observed) -> Vec<usize> {
        let text = format!("# A.\nrules A-01\nneeds fault_injection\n{text}");
        let source = script::Source { path: "a/b.case".into(), text };
        let case = script::parse(&source, &BTreeMap::<&str, &str>::new()).unwrap().remove(0);
        let (mut missing, profile) = (Missing::default(), Profile::default());
        let mut there = Vec::new();
        for (index, step) in case.program.steps.iter().enumerate() {
            if !missing.leaves_out(step, &profile) {
                there.push(index);
            }
            if step.failing {
                missing.after(step, &profile, Some(observed));
            }
        }
        there
    }

    #[test]
    fn steps_without_what_they_name_are_left_out_and_so_on() {
        let text = "app failing open \"a\" O_RDWR -> fd f or ENOMEM\napp2 open \"a\" O_RDWR -> fd f\n\
            app mmap f 4096 PROT_READ MAP_SHARED -> map m\napp load m 1 -> \"h\"\napp start r: read f 5\n\
            app await r -> \"hello\"\napp2 read f 5 -> \"hello\"\napp open \"a\" O_RDWR -> fd f\napp close f\n";
        assert_eq!(happens(text, &Observed::Errno(12)), [0, 1, 6, 7, 8]);
        assert_eq!(happens(text, &Observed::Int(3)), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn an_id_is_missed_by_everybody() {
        let text = "daemon open \"a\" O_RDWR -> fd lower\ndaemon failing backing_open lower -> id b or ENOMEM\n\
            daemon2 on OPEN: reply backing_id=b\ndaemon backing_close b\ndaemon backing_open lower -> id b\n\
            daemon2 on OPEN: reply backing_id=b\n";
        assert_eq!(happens(text, &Observed::Errno(12)), [0, 1, 4, 5]);
    }
}
