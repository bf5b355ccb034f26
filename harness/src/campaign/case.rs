//! A finding as a case: it says what is right, so that it fails where it was found and passes where nothing is wrong.
//!
//! What a step must lead to is what the oracle allows, where that is one thing, otherwise what it led to. Steps that could not
//! be performed, and those behind the wrong one, are left out, but for what is owed. A function of a program and what came of
//! it; it runs nothing.

use std::collections::BTreeMap;

use crate::exec::fuzz::performed;
use crate::oracle::{self, Ruling};
use crate::program::{
    Condition, Expect, INNER_ERRNO, Observed, Outcome, Profile, Program, Reply, Step, Verb,
};
use crate::protocol::StepRecord;
use crate::script::{self, Case, Source};

/// The most letters of what a finding says that stand in a title.
const MOST: usize = 160;
/// The most rules that a case names which is about none of them.
const MOST_RULES: usize = 6;

/// The case of that name. `records` are what came of the program's steps, as far as they were reached; `loss` is why the machine
/// was lost, if it was.
pub(super) fn case(
    name: &str,
    program: &Program,
    records: &[StepRecord],
    profile: &Profile,
    loss: Option<&str>,
) -> Case {
    let mut profile = profile.clone();
    // What is inside an EIO counts for nothing here: the arena does not look.
    profile.has.remove(INNER_ERRNO);
    let path = format!("found/{name}");
    let parsed = |program: &Program| {
        let source = Source { path: format!("{path}.case"), text: script::print(program) };
        script::parse(&source, &BTreeMap::<&str, &str>::new()).ok()?.pop()
    };
    let lawful = Writer::new(program, records, &profile).lawful(loss);
    let plain = || Case { path: path.clone(), variant: None, program: program.clone() };
    parsed(&lawful).or_else(|| parsed(program)).unwrap_or_else(plain)
}

/// The program with nothing expected of it but names: for a look at what comes of its steps.
pub(super) fn lawless(program: &Program) -> Program {
    const MOST_ERRNO: i32 = 133;
    const MOST_SIGNAL: i32 = 31;
    let mut program = program.clone();
    for expect in program.steps.iter_mut().filter_map(|step| step.expect.as_mut()) {
        let failures = (1..=MOST_ERRNO).map(Outcome::Errno).chain((1..=MOST_SIGNAL).map(Outcome::Signal));
        expect.law = Outcome::Any(std::iter::once(expect.law.clone()).chain(failures).collect());
    }
    program
}

struct Writer<'a> {
    /// What was performed.
    done: Program,
    /// As far as is known.
    seen: Vec<StepRecord>,
    profile: &'a Profile,
}

impl<'a> Writer<'a> {
    fn new(program: &Program, records: &[StepRecord], profile: &'a Profile) -> Writer<'a> {
        let known = |index| records.iter().find(|record| record.index == index).cloned();
        let all = (0..program.steps.len())
            .map(|index| known(index).unwrap_or(StepRecord { index, ..StepRecord::default() }));
        let (done, seen) = performed(program, &all.collect::<Vec<_>>());
        Writer { done, seen, profile }
    }

    fn lawful(self, loss: Option<&str>) -> Program {
        let real: Vec<StepRecord> =
            self.seen.iter().take_while(|record| self.is_known(record)).cloned().collect();
        let judged = oracle::against_kernel_with_care(&self.done, self.profile, &real);
        let wrong = judged.contradiction.as_ref();
        let end = wrong.map_or(self.done.steps.len(), |wrong| wrong.index + 1);
        // What a kernel shows that does all of it right.
        let mut path = self.seen.clone();
        let mut steps: Vec<Step> = Vec::new();
        for (index, step) in self.done.steps.iter().enumerate() {
            let is_wrong = wrong.is_some_and(|wrong| wrong.index == index);
            if index >= end && !owes(&self.done.steps[..end], step) {
                continue;
            }
            let mut step = step.clone();
            if step.expect.is_some() {
                let ruling = self.ruling(&path[..index], index);
                let observed = path[index].observed.clone().filter(|_| !is_wrong && index < end);
                let law = law(&step, ruling.as_ref(), observed.as_ref());
                path[index].observed = observed.or_else(|| representative(&law));
                step.expect = Some(Expect { law, variants: Vec::new() });
            }
            steps.push(step);
        }
        let ruled = match wrong.and_then(|wrong| wrong.ruling.as_ref()) {
            Some(ruling) => ruling.rules.clone(),
            None => judged.rules.keys().copied().collect(),
        };
        // Not all that the oracle goes by is of this project's law.
        let ruled = ruled.into_iter().filter(|rule| script::is_rule(rule)).take(MOST_RULES);
        let rules: Vec<String> = ruled.map(str::to_string).collect();
        let title = match (wrong, loss) {
            (_, Some(_)) => "The kernel survives this program, and complains of nothing.".to_string(),
            (Some(wrong), None) => {
                let step = Step { expect: None, ..self.done.steps[wrong.index].clone() };
                format!("`{}` leads to {}.", short(&script::print_step(&step)), short(&wrong.allows))
            }
            (None, None) => "Nothing stays behind this program, and none of its calls hangs.".to_string(),
        };
        let registers =
            |step: &Step| matches!(&step.verb, Verb::Call(call) if call.name.starts_with("backing_"));
        let passthrough = Condition { capability: "passthrough".into(), present: true };
        let needs = steps.iter().any(registers).then_some(passthrough);
        Program {
            title,
            rules: if rules.is_empty() { self.done.rules.clone() } else { rules },
            needs: needs.into_iter().collect(),
            danger: loss.map(|loss| short(loss.lines().next().unwrap_or_default())),
            steps,
            ..self.done
        }
    }

    fn is_known(&self, record: &StepRecord) -> bool {
        let step = self.done.steps.get(record.index);
        record.observed.is_some() || step.is_some_and(|step| step.expect.is_none())
    }

    /// What the oracle allows of a step, if it has an opinion: what no call leads to shows it.
    fn ruling(&self, path: &[StepRecord], index: usize) -> Option<Ruling> {
        let asked = StepRecord { index, observed: Some(Observed::Hung), ..StepRecord::default() };
        let records: Vec<StepRecord> = path.iter().cloned().chain([asked]).collect();
        let judged = oracle::against_kernel_with_care(&self.done, self.profile, &records);
        judged.contradiction.filter(|wrong| wrong.index == index)?.ruling
    }
}

/// Does that step answer or await what one of these has begun?
fn owes(before: &[Step], step: &Step) -> bool {
    let is_begun = |first: &Step| match (&first.verb, &step.verb) {
        (Verb::Start { name, .. }, Verb::Await { name: awaited }) => {
            name == awaited && first.actor == step.actor
        }
        (Verb::On { reply: Reply::Hold(name), .. }, Verb::Answer { held, .. }) => name == held,
        _ => false,
    };
    let is_over = |earlier: &Step| earlier.actor == step.actor && earlier.verb == step.verb;
    let begun = before.iter().rposition(is_begun);
    begun.is_some_and(|begun| !before[begun..].iter().any(is_over))
}

/// What the step must lead to.
fn law(step: &Step, ruling: Option<&Ruling>, observed: Option<&Observed>) -> Outcome {
    let generated = step.expect.as_ref().map_or(Outcome::Ok, |expect| expect.law.clone());
    let named = |outcome: &Outcome| match outcome {
        Outcome::Errno(errno) | Outcome::Inside(errno, _) => Outcome::Errno(*errno),
        // What was made has the program's own name.
        Outcome::Ok | Outcome::Int(_) | Outcome::Bind { .. } if generated.binds().is_some() => {
            generated.clone()
        }
        other => other.clone(),
    };
    match (ruling.map(|ruling| ruling.allows.as_slice()), observed) {
        (Some([one]), _) => named(one),
        (Some([]) | None, None) => generated.clone(),
        (Some(several), None) => Outcome::Any(several.iter().map(named).collect()),
        (_, Some(Observed::Errno(errno))) => Outcome::Errno(*errno),
        (_, Some(Observed::Signal(signal))) => Outcome::Signal(*signal),
        (_, Some(_)) => generated.clone(),
    }
}

/// Something that this law allows.
fn representative(law: &Outcome) -> Option<Observed> {
    Some(match law {
        Outcome::Ok => Observed::Int(0),
        Outcome::Int(number) => Observed::Int(*number),
        Outcome::Bind { value, .. } => Observed::Int(value.unwrap_or(0)),
        Outcome::Data(data) => Observed::Data(data.clone()),
        Outcome::Errno(errno) | Outcome::Inside(errno, _) => Observed::Errno(*errno),
        Outcome::Fields(fields) => Observed::Fields(fields.clone()),
        Outcome::Signal(signal) => Observed::Signal(*signal),
        Outcome::Any(outcomes) => return outcomes.first().and_then(representative),
    })
}

/// The text on one line, and no longer than a title may be.
fn short(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let one_line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &one_line[..end]),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Data;

    const STAGE: &str = "# A generated program.\nrules FUZZ-01\nhost lower tmpfs -> ok\nhost file \"a\" \"hello\" -> ok\n\
                         daemon mount -> ok\n";

    fn program(steps: &str) -> Program {
        let source = Source { path: "a.case".into(), text: format!("{STAGE}{steps}") };
        script::parse(&source, &BTreeMap::<&str, &str>::new()).unwrap().remove(0).program
    }

    /// The stage stands; then these.
    fn seen(program: &Program, rest: &[Option<Observed>]) -> Vec<StepRecord> {
        let stage = [Some(Observed::Int(0)), Some(Observed::Int(0)), Some(Observed::Int(0))];
        let all = stage.iter().chain(rest).cloned().enumerate();
        assert!(rest.len() + stage.len() <= program.steps.len());
        all.map(|(index, observed)| StepRecord { index, observed, ..StepRecord::default() }).collect()
    }

    fn lines(case: &Case) -> Vec<String> {
        case.program.steps.iter().skip(3).map(script::print_step).collect()
    }

    fn data(text: &str) -> Option<Observed> {
        Some(Observed::Data(Data(text.into())))
    }

    #[test]
    fn what_the_oracle_allows_is_what_the_case_asks_for() {
        let program = program(
            "app open \"b\" O_RDONLY -> fd g\napp open \"a\" O_RDONLY -> fd f\napp read g 5 -> ok\n\
             app read f 5 -> ok\napp close f\n",
        );
        let impossible = Some(Observed::Impossible("no such file".into()));
        let rest = [
            Some(Observed::Errno(2)),
            Some(Observed::Int(0)),
            impossible,
            data("hellx"),
            Some(Observed::Int(0)),
        ];
        let case = case("oracle-read-1", &program, &seen(&program, &rest), &Profile::default(), None);
        let expected = [
            "app    open \"b\" O_RDONLY -> ENOENT",
            "app    open \"a\" O_RDONLY -> fd f",
            "app    read f 5 -> \"hello\"",
        ];
        assert_eq!(lines(&case), expected);
        assert_eq!(case.program.title, "`app read f 5` leads to \"hello\" (OPEN-13).");
        assert_eq!(
            (case.program.rules.join(" ").as_str(), case.path.as_str()),
            ("OPEN-13", "found/oracle-read-1")
        );
        assert!(oracle::against_case(&case.program, &Profile::default()).contradiction.is_none());
    }

    #[test]
    fn a_case_goes_on_where_the_machine_was_lost() {
        let program = program("app open \"a\" O_RDONLY -> fd f\napp read f 5 -> ok\napp close f\n");
        let case = case(
            "oops-f-1",
            &program,
            &seen(&program, &[Some(Observed::Int(0))]),
            &Profile::default(),
            Some("BUG: a\nb"),
        );
        assert_eq!(lines(&case)[1..], ["app    read f 5 -> \"hello\"", "app    close f -> ok"]);
        assert_eq!(case.program.danger.as_deref(), Some("BUG: a"));
        assert!(case.program.title.contains("survives"));
        assert!(!case.program.rules.is_empty() && case.program.rules.iter().all(|rule| rule != "FUZZ-01"));
    }

    #[test]
    fn what_is_owed_stays() {
        let program = program(
            "app open \"a\" O_RDONLY -> fd f\ndaemon on FLUSH: hold h\napp2 start r: open \"a\" O_RDONLY\n\
             app read f 5 -> ok\ndaemon answer h: reply\napp2 await r -> fd g\napp close f\n",
        );
        let rest = [Some(Observed::Int(0)), None, None, data("hellx")];
        let case = case("oracle-read-1", &program, &seen(&program, &rest), &Profile::default(), None);
        let kept = lines(&case);
        assert_eq!(kept.last().map(String::as_str), Some("app2   await r -> fd g"), "{kept:?}");
        assert!(kept.iter().any(|line| line.contains("answer h")), "{kept:?}");
    }

    #[test]
    fn with_nothing_expected_names_stay() {
        let program = lawless(&program("app open \"a\" O_RDONLY -> fd f\n"));
        let law = &program.steps[3].expect.as_ref().unwrap().law;
        let allows = |observed| law.allows(&observed, crate::program::Inner::Untold);
        assert_eq!(law.binds(), Some(("fd", "f")));
        assert!(allows(Observed::Errno(5)) && allows(Observed::Int(3)) && allows(Observed::Signal(7)));
    }
}
