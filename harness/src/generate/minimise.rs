//! The least program that still does what a program did: steps are left out first, many at once and then one by one, and what
//! is left is made simpler.
//!
//! Whether a program still does it is for somebody else to say, who may also say that it is enough. Every program he is asked
//! about can be performed, is simpler than the last one that did it, and is asked about once. Nothing is chosen at random.

use std::collections::BTreeSet;

use super::repair::repair;
use super::to_bytes;
use crate::program::{Call, Data, Need, Program, Reply, Step, Times, Value, Verb, signature};

/// Make it smaller as long as `again` says that the smaller one still does it. `None` ends the search.
pub(super) fn minimise(program: &Program, again: &mut dyn FnMut(&Program) -> Option<bool>) -> Program {
    let mut search = Search { best: repair(program.clone()), asked: BTreeSet::new(), again, is_over: false };
    loop {
        let before = search.best.clone();
        search.leave_out();
        search.simplify();
        if search.is_over || search.best == before {
            return search.best;
        }
    }
}

struct Search<'a> {
    /// The simplest program so far that does it.
    best: Program,
    /// Programs as bytes.
    asked: BTreeSet<Vec<u8>>,
    again: &'a mut dyn FnMut(&Program) -> Option<bool>,
    is_over: bool,
}

impl Search<'_> {
    /// Leave out steps: half of them, a quarter, ... one. The last ones first, as what comes after is seldom needed.
    fn leave_out(&mut self) {
        let mut size = self.best.steps.len() / 2;
        while size > 0 && !self.is_over {
            let mut end = self.best.steps.len();
            while end > 0 && !self.is_over {
                let begin = end.saturating_sub(size);
                let mut steps = self.best.steps.clone();
                steps.drain(begin..end.min(steps.len()));
                self.attempt(steps);
                end = begin.min(self.best.steps.len());
            }
            size /= 2;
        }
    }

    /// Make each step simpler, the first one first, as others follow from it.
    fn simplify(&mut self) {
        let mut at = 0;
        while at < self.best.steps.len() && !self.is_over {
            let simpler = simpler(&self.best.steps, at);
            let is_simpler = |steps| self.attempt(steps);
            // One that is simpler may become simpler still.
            if !simpler.into_iter().any(is_simpler) {
                at += 1;
            }
        }
    }

    /// Ask about these steps. Says whether they are the best ones now.
    fn attempt(&mut self, steps: Vec<Step>) -> bool {
        let program = repair(Program { steps, ..self.best.clone() });
        if self.is_over || cost(&program) >= cost(&self.best) || !self.asked.insert(to_bytes(&program)) {
            return false;
        }
        match (self.again)(&program) {
            Some(true) => self.best = program,
            Some(false) => return false,
            None => self.is_over = true,
        }
        !self.is_over
    }
}

/// How far from simple it is: steps count most.
fn cost(program: &Program) -> (usize, usize, u64) {
    let parts = program.steps.iter().map(|step| values(step).len()).sum();
    let weight = program.steps.iter().map(weight).sum();
    (program.steps.len(), parts, weight)
}

fn weight(step: &Step) -> u64 {
    let of_verb = match &step.verb {
        // Held requests and calls in progress are harder to read than others.
        Verb::Start { .. } | Verb::On { reply: Reply::Hold(_), .. } => 2,
        Verb::On { reply: Reply::Claim(_), .. } | Verb::On { times: Times::Always, .. } => 1,
        _ => 0,
    };
    let of_values = values(step).into_iter().map(|(_, value)| match value {
        Value::Int(number) => {
            let bits = 128 - number.unsigned_abs().leading_zeros();
            u64::from(bits) + u64::from(number.count_ones().min(64)) + u64::from(*number < 0)
        }
        Value::Data(data) => {
            let different: BTreeSet<u8> = data.0.iter().copied().collect();
            (data.0.len() + different.len()) as u64
        }
        Value::Name(_, offset) => offset.unsigned_abs().min(1 << 20),
        _ => 0,
    });
    of_values.sum::<u64>() + of_verb + u64::from(step.actor.number)
}

/// Arguments of a call, fields of a reply.
fn values(step: &Step) -> Vec<&(String, Value)> {
    match &step.verb {
        Verb::Call(call) | Verb::Start { call, .. } => call.args.iter().collect(),
        Verb::On { reply: Reply::Fields(fields) | Reply::Claim(fields), .. }
        | Verb::Answer { reply: Reply::Fields(fields) | Reply::Claim(fields), .. } => fields.iter().collect(),
        _ => Vec::new(),
    }
}

/// The steps with the one at that place made simpler, in each way that there is, the boldest first.
fn simpler(steps: &[Step], at: usize) -> Vec<Vec<Step>> {
    let Some(step) = steps.get(at) else { return Vec::new() };
    let mut ways = Vec::new();
    let with = |step: Step| {
        let mut steps = steps.to_vec();
        steps[at] = step;
        steps
    };
    if let Verb::Start { name, call } = &step.verb {
        let is_its_end =
            |other: &Step| matches!(&other.verb, Verb::Await { name: awaited } if awaited == name);
        if let Some(end) = steps.iter().skip(at).position(is_its_end) {
            let mut steps = steps.to_vec();
            let expect = steps.remove(at + end).expect;
            steps[at] = Step { verb: Verb::Call(call.clone()), expect, ..step.clone() };
            ways.push(steps);
        }
    }
    if let Verb::On { times, opcode, path, reply: Reply::Hold(name) } = &step.verb {
        let is_its_answer = |other: &Step| matches!(&other.verb, Verb::Answer { held, .. } if held == name);
        if let Some(end) = steps.iter().skip(at).position(is_its_answer) {
            let mut steps = steps.to_vec();
            if let Verb::Answer { reply, .. } = steps.remove(at + end).verb {
                let (times, opcode, path) = (*times, *opcode, path.clone());
                steps[at].verb = Verb::On { times, opcode, path, reply };
                ways.push(steps);
            }
        }
    }
    if step.actor.number > 1 {
        // What another one has open, the first one has not: all of them at once may do where one does not.
        let mut all = steps.to_vec();
        let is_same = |other: &&mut Step| other.actor == step.actor;
        all.iter_mut().filter(is_same).for_each(|step| step.actor.number = 1);
        ways.push(all);
        let mut first = step.clone();
        first.actor.number = 1;
        ways.push(with(first));
    }
    ways.extend(verbs(&step.verb).into_iter().map(|verb| with(Step { verb, ..step.clone() })));
    ways
}

fn verbs(verb: &Verb) -> Vec<Verb> {
    match verb {
        Verb::Call(call) => calls(call).into_iter().map(Verb::Call).collect(),
        Verb::Start { name, call } => {
            let start = |call| Verb::Start { name: name.clone(), call };
            calls(call).into_iter().map(start).collect()
        }
        Verb::On { times, opcode, path, reply } => {
            let on = |times, reply| Verb::On { times, opcode: *opcode, path: path.clone(), reply };
            let once = (*times == Times::Always).then(|| on(Times::Once, reply.clone()));
            once.into_iter().chain(replies(reply).into_iter().map(|reply| on(*times, reply))).collect()
        }
        Verb::Answer { held, reply } => {
            let answer = |reply| Verb::Answer { held: held.clone(), reply };
            replies(reply).into_iter().map(answer).collect()
        }
        Verb::Blocks { .. } | Verb::Await { .. } | Verb::Saw(_) => Vec::new(),
    }
}

fn calls(call: &Call) -> Vec<Call> {
    let params = signature(&call.name).map_or(&[] as &[_], |signature| signature.params);
    let is_needed =
        |name: &str| params.iter().any(|param| param.name == name && param.need == Need::Required);
    let with = |args| Call { name: call.name.clone(), args };
    lists(&call.args, is_needed).into_iter().map(with).collect()
}

fn replies(reply: &Reply) -> Vec<Reply> {
    match reply {
        Reply::Fields(fields) => lists(fields, |_| false).into_iter().map(Reply::Fields).collect(),
        Reply::Claim(fields) => {
            let claims = lists(fields, |_| false).into_iter().map(Reply::Claim);
            [Reply::Fields(fields.clone())].into_iter().chain(claims).collect()
        }
        _ => Vec::new(),
    }
}

/// The list without one of its members, if that may be, and then with one of them simpler.
fn lists(list: &[(String, Value)], is_needed: impl Fn(&str) -> bool) -> Vec<Vec<(String, Value)>> {
    let less = (0..list.len()).filter(|at| !is_needed(&list[*at].0)).map(|at| {
        let mut list = list.to_vec();
        list.remove(at);
        list
    });
    let simpler = (0..list.len()).flat_map(|at| {
        values_below(&list[at].1).into_iter().map(move |value| {
            let mut list = list.to_vec();
            list[at].1 = value;
            list
        })
    });
    less.chain(simpler).collect()
}

/// Simpler values in place of this one.
fn values_below(value: &Value) -> Vec<Value> {
    match value {
        Value::Int(number) => {
            let bits = (0..64).map(|bit| number & !(1 << bit)).filter(|less| *number >= 0 && less != number);
            let page = (number / 4096) * 4096;
            [0, 1, number / 2, page].into_iter().chain(bits).map(Value::Int).collect()
        }
        Value::Data(data) => {
            let bytes = &data.0;
            let lengths = [0, 1, bytes.len() / 2, bytes.len().saturating_sub(1)];
            let shorter = lengths.into_iter().map(|len| bytes[..len.min(bytes.len())].to_vec());
            let plain = vec![b'x'; bytes.len()];
            shorter.chain([plain]).map(|bytes| Value::Data(Data(bytes))).collect()
        }
        Value::Name(name, offset) if *offset != 0 => vec![Value::Name(name.clone(), 0)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{is_acceptable, random};

    /// Programs with that many calls of one sort among their steps.
    fn some(wanted: &str, least: usize) -> Vec<Program> {
        let programs = (0..4000).map(|seed| random(&mut fastrand::Rng::with_seed(seed)));
        programs.filter(|program| count(program, wanted) >= least).take(12).collect()
    }

    fn count(program: &Program, wanted: &str) -> usize {
        let is_it = |step: &&Step| matches!(&step.verb, Verb::Call(call) | Verb::Start { call, .. } if call.name == wanted);
        program.steps.iter().filter(is_it).count()
    }

    #[test]
    fn what_is_not_needed_is_left_out() {
        let programs = some("fstat", 2);
        assert!(programs.len() > 3, "{}", programs.len());
        for program in programs {
            let least = minimise(&program, &mut |program| Some(count(program, "fstat") >= 2));
            assert_eq!(is_acceptable(&least), Ok(()));
            // The stage, an open, and the two.
            assert_eq!(least.steps.len(), 6, "{}", crate::script::print(&least));
        }
    }

    #[test]
    fn what_is_left_is_simple() {
        let is_long = |program: &Program| {
            program.steps.iter().any(|step| match &step.verb {
                Verb::Call(call) if call.name == "pwrite" => call.data("data").0.len() >= 3,
                _ => false,
            })
        };
        let mut programs = some("pwrite", 1);
        programs.retain(is_long);
        assert!(!programs.is_empty());
        for program in programs {
            let least = minimise(&program, &mut |program| Some(is_long(program)));
            let Some(Verb::Call(call)) = least.steps.last().map(|step| &step.verb) else {
                panic!("{}", crate::script::print(&least))
            };
            let data = call.data("data").0;
            // One letter, whichever it was.
            assert!(data.len() == 3 && data.iter().all(|byte| *byte == data[0]), "{call:?}");
            assert_eq!(call.int("offset", 1), 0, "{call:?}");
        }
    }

    #[test]
    fn it_ends_when_told_and_is_the_same_each_time() {
        for program in some("read", 2) {
            let search = |most: usize| {
                let mut asked = Vec::new();
                let least = minimise(&program, &mut |candidate| {
                    asked.push(candidate.clone());
                    (asked.len() <= most).then(|| count(candidate, "read") > 0)
                });
                (least, asked)
            };
            let (least, asked) = search(usize::MAX);
            assert_eq!(search(usize::MAX), (least.clone(), asked.clone()));
            assert!(asked.iter().all(|program| is_acceptable(program).is_ok()));
            assert!(asked.len() < 300, "{}", asked.len());
            let (early, asked) = search(3);
            assert!(asked.len() <= 4 && count(&early, "read") > 0 && early.steps.len() >= least.steps.len());
        }
    }

    #[test]
    fn what_nothing_smaller_does_stays() {
        let program = repair(random(&mut fastrand::Rng::with_seed(5)));
        assert_eq!(minimise(&program, &mut |_| Some(false)), program);
    }
}
