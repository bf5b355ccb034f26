//! Which cases run on which kernels, in parallel, and who hears of it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use qemu::cache::Cache;

use super::deviations::Deviations;
use super::event::{Event, PlannedCase, PlannedKernel, Run};
use super::judge::{By, Manner, judge};
use super::leaks::Back;
use super::outcome::{CaseResult, Verdict};
use super::profile::profile;
use super::session::{Session, Subject, SubjectError};
use crate::program::{Profile, Program, Transport, Verb, capability};
use crate::protocol::{How, Pace};
use crate::rules::Rules;
use crate::script::{self, Case};

/// Which cases are meant.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Parts of names; a case is meant if one fits. None: all cases.
    pub names: Vec<String>,
    /// Rule IDs, or their beginnings up to a dash; a case is meant if it rests on one. None: all cases.
    pub rules: Vec<String>,
}

impl Selection {
    /// Is this case meant?
    pub fn includes(&self, case: &Case) -> bool {
        let name = case.name();
        let by_name = self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()));
        let fits = |rule: &String, wanted: &String| {
            rule == wanted || rule.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('-'))
        };
        let by_rule = self.rules.is_empty()
            || case.program.rules.iter().any(|rule| self.rules.iter().any(|wanted| fits(rule, wanted)));
        by_name && by_rule
    }
}

/// Cases and kernels.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Kernels, in the order they were asked for.
    pub subjects: &'a [Subject],
    /// What carries requests and replies: each kernel is judged over each of them.
    pub transports: &'a [Transport],
    /// Cases, sorted by name.
    pub cases: &'a [Case],
    /// The cases below `cases/lib/probe/`.
    pub probes: &'a [Case],
    /// Which failures are expected.
    pub deviations: &'a Deviations,
    /// The law, for whoever shows it beside the results.
    pub rules: &'a Rules,
    /// Where the delays of races come from.
    pub seed: u64,
    /// How many sessions may be alive at once.
    pub jobs: usize,
}

/// A kernel that could not be asked about all cases.
struct Trouble {
    /// Its place among the subjects.
    subject: usize,
    /// Over the one transport, by its place in the list, that its machines are not made for; over all, if none.
    run: Option<usize>,
    error: SubjectError,
}

impl Trouble {
    fn is_about(&self, run: usize, subject: usize) -> bool {
        subject == self.subject && self.run.is_none_or(|only| only == run)
    }
}

/// What a worker works with.
struct Current {
    /// A kernel over a transport, by its place.
    run: usize,
    session: Session,
    /// Results whose leaks are not known yet.
    back: Back,
}

/// What a worker has to say; the first number is the place of a kernel, or of a kernel over a transport, in its list.
enum Word {
    Profile(usize, Profile),
    Session(usize, Option<Duration>),
    Case(usize, usize, CaseResult),
    Trouble(Trouble),
}

impl Plan<'_> {
    /// Carry it out, and tell each thing as it happens; all that was told is the result. `stop` ends it early: cases in
    /// progress are finished, no others are begun. A kernel that cannot be used takes nothing from the others.
    pub fn run(&self, cache: &Cache, stop: &AtomicBool, hear: &mut dyn FnMut(&Event)) -> Run {
        let mut run = Run::default();
        let mut tell = |event: Event| {
            run.hear(&event);
            hear(&event);
        };
        tell(self.planned());
        let runs = self.runs();
        let mut begun: Vec<Option<Instant>> = vec![None; runs.len()];
        let profiles: Vec<Mutex<Option<Profile>>> = self.subjects.iter().map(|_| Mutex::new(None)).collect();
        let all = (0..runs.len()).flat_map(|run| self.order().map(move |case| (run, case)));
        let queue = Mutex::new(all.collect::<VecDeque<_>>());
        let of = |subject| (0..runs.len()).filter(|run| runs[*run].0 == subject).collect::<Vec<_>>();
        let (words, heard) = mpsc::channel();
        std::thread::scope(|scope| {
            // Cases on the running kernel share its log and its caches: one at a time.
            let jobs = if self.subjects.iter().any(Subject::is_host) { 1 } else { self.jobs.max(1) };
            for _ in 0..jobs {
                let words = words.clone();
                let (queue, profiles, runs) = (&queue, &profiles, &runs);
                scope.spawn(move || {
                    while let Err(trouble) = self.work(queue, profiles, cache, stop, &words) {
                        let mut queue = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        queue.retain(|(run, _)| !trouble.is_about(*run, runs[*run].0));
                        let _ = words.send(Word::Trouble(trouble));
                    }
                });
            }
            drop(words);
            for word in heard {
                match word {
                    Word::Profile(subject, profile) => {
                        for kernel in of(subject) {
                            tell(Event::Profile { kernel, profile: profile.clone() });
                        }
                    }
                    Word::Session(kernel, restored) => {
                        begun[kernel].get_or_insert_with(Instant::now);
                        tell(Event::Session { kernel, restored: restored.map(|time| time.as_secs_f64()) });
                    }
                    Word::Case(kernel, case, result) => {
                        let after = begun[kernel].map_or(0.0, |begun| begun.elapsed().as_secs_f64());
                        tell(Event::Case { kernel, case, after, result });
                    }
                    Word::Trouble(trouble) => {
                        let runs = of(trouble.subject).into_iter();
                        for kernel in runs.filter(|run| trouble.is_about(*run, trouble.subject)) {
                            tell(Event::Trouble { kernel, why: trouble.error.to_string() });
                        }
                    }
                }
            }
        });
        run
    }

    fn planned(&self) -> Event {
        let kernel = |(subject, transport): (usize, Transport)| PlannedKernel {
            name: format!("{}{}", self.subjects[subject].name, transport.suffix()),
            booted: self.subjects[subject].booted().map(|time| time.as_secs_f64()),
        };
        let case = |case: &Case| PlannedCase {
            path: case.name(),
            title: case.program.title.clone(),
            rules: case.program.rules.clone(),
            text: script::print(&case.program),
        };
        let named = self.cases.iter().flat_map(|case| &case.program.rules);
        let laws = named.filter_map(|id| Some((id.clone(), self.rules.get(id)?.law.clone())));
        Event::Plan {
            kernels: self.runs().into_iter().map(kernel).collect(),
            cases: self.cases.iter().map(case).collect(),
            laws: laws.collect(),
        }
    }

    /// Each kernel, by its place in the list, over each transport.
    fn runs(&self) -> Vec<(usize, Transport)> {
        let over_each = |subject| self.transports.iter().map(move |transport| (subject, *transport));
        (0..self.subjects.len()).flat_map(over_each).collect()
    }

    /// The cases' places, in the order in which they run on a kernel: those that need a fresh machine behind them come
    /// last, as every machine begins slowly, with nothing translated yet.
    fn order(&self) -> impl Iterator<Item = usize> {
        let places = |dangerous| {
            (0..self.cases.len()).filter(move |case| self.cases[*case].program.danger.is_some() == dangerous)
        };
        places(false).chain(places(true))
    }

    fn manner(&self, transport: Transport, pace: Pace) -> Manner {
        let how = How { transport, pace, failing: None, shake: None, lawless: false };
        Manner { how, seed: self.seed, by: By::Both }
    }

    /// A worker's life: take the next case, in a session of its kernel.
    fn work(
        &self,
        queue: &Mutex<VecDeque<(usize, usize)>>,
        profiles: &[Mutex<Option<Profile>>],
        cache: &Cache,
        stop: &AtomicBool,
        words: &mpsc::Sender<Word>,
    ) -> Result<(), Trouble> {
        let runs = self.runs();
        let queue = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut current: Option<Current> = None;
        loop {
            let next = if stop.load(Ordering::SeqCst) { None } else { queue().pop_front() };
            if let Some(last) = &mut current {
                // A dangerous case may be the last of its session: the others are asked about before it.
                let is_calm = |case: usize| self.cases[case].program.danger.is_none();
                let goes_on =
                    !last.session.tainted && next.is_some_and(|(run, case)| run == last.run && is_calm(case));
                if (!goes_on || last.back.is_full())
                    && let Err(trouble) = self.release(last, words)
                {
                    next.into_iter().for_each(|next| queue().push_front(next));
                    return Err(trouble);
                }
            }
            let Some((run, case_index)) = next else { return Ok(()) };
            let ((index, transport), case) = (runs[run], &self.cases[case_index]);
            let subject = &self.subjects[index];
            let trouble = |error| {
                let only = matches!(error, SubjectError::Relay(_)).then_some(run);
                Trouble { subject: index, run: only, error }
            };
            // Ended before its successor starts, so that there is never more than one a worker.
            let usable = current.take().filter(|last| last.run == run && !last.session.tainted);
            let (mut session, mut back) = match usable {
                Some(Current { session, back, .. }) => (session, back),
                None => {
                    let session = subject.session_over(transport).map_err(trouble)?;
                    let _ = words.send(Word::Session(run, session.restored_in()));
                    (session, Back::default())
                }
            };
            let known = {
                let mut known = profiles[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if known.is_none() {
                    let found = profile(subject, &mut session, self.probes, cache).map_err(|lost| {
                        trouble(SubjectError::NoAgent { name: subject.name.clone(), why: lost.to_string() })
                    })?;
                    let _ = words.send(Word::Profile(index, found.clone()));
                    *known = Some(found);
                }
                known.clone().unwrap_or_default()
            };
            if session.tainted {
                drop(session);
                session = subject.session_over(transport).map_err(trouble)?;
            }
            let result = match skip_reason(subject, case, &known, transport) {
                Some(reason) => CaseResult::of(case, transport, Verdict::Skipped(reason)),
                None => {
                    let result = over(&mut session, case, &known, self.manner(transport, Pace::Fast));
                    // What leaves a task behind, or may have damaged memory, is followed by a fresh machine.
                    session.tainted |= case.program.danger.is_some();
                    result
                }
            };
            let result = match result.verdict {
                Verdict::Lost { .. } => {
                    drop(session);
                    self.tell(run, back.unasked(), words);
                    let manner = self.manner(transport, Pace::Careful);
                    Some(again_with_care(subject, case, &known, manner).unwrap_or(result))
                }
                _ => {
                    // Whoever hangs holds memory that only his stack knows of, and stacks are not searched.
                    let is_final = session.stuck;
                    let result =
                        if is_final { Some(result) } else { back.hold(&session, case_index, result) };
                    current = Some(Current { run, session, back });
                    result
                }
            };
            self.tell(run, result.map(|result| (case_index, result)), words);
        }
    }

    /// Tell what came of the cases that a session holds back.
    fn release(&self, last: &mut Current, words: &mpsc::Sender<Word>) -> Result<(), Trouble> {
        let (results, asked) = last.back.release(&mut last.session, self.cases);
        self.tell(last.run, results, words);
        asked.map_err(|lost| {
            let subject = self.runs()[last.run].0;
            let name = self.subjects[subject].name.clone();
            Trouble { subject, run: None, error: SubjectError::NoLeaks { name, why: lost.to_string() } }
        })
    }

    /// Tell how cases ended, in the light of the table of deviations.
    fn tell(
        &self,
        run: usize,
        results: impl IntoIterator<Item = (usize, CaseResult)>,
        words: &mpsc::Sender<Word>,
    ) {
        let subject = &self.subjects[self.runs()[run].0];
        for (number, mut result) in results {
            let (case, splats) = (&self.cases[number], &result.splats);
            // The table speaks of what cases expect.
            if !result.by_oracle {
                result.verdict = self.deviations.judge(&subject.name, case, result.verdict, splats);
            }
            let _ = words.send(Word::Case(run, number, result));
        }
    }
}

/// Run the case over the transport; where that gives no backing ids, without them: its own law then says nothing, and
/// the oracle judges alone.
fn over(session: &mut Session, case: &Case, profile: &Profile, manner: Manner) -> CaseResult {
    let transport = manner.how.transport;
    let profile = transport.seen_over(profile);
    if !transport.lacks_ids(&case.program, &profile) {
        return judge(session, case, &profile, manner);
    }
    let case = Case { program: without_ids(&case.program), ..case.clone() };
    let manner = Manner { how: How { lawless: true, ..manner.how }, by: By::Oracle, ..manner };
    CaseResult { by_oracle: true, ..judge(session, &case, &profile, manner) }
}

/// What is left of a program whose ids cannot be had: what it does, and nothing of what comes of it.
fn without_ids(program: &Program) -> Program {
    let mut program = program.clone();
    program.steps.retain(|step| !matches!(step.verb, Verb::Saw(_) | Verb::Blocks { .. }));
    program
}

/// A case that lost its machine once more, on a fresh one and with each step told at once: the last one that was over
/// shows where it happens. `None` if it does not happen again, or there is no fresh one: the first loss stands.
fn again_with_care(subject: &Subject, case: &Case, profile: &Profile, manner: Manner) -> Option<CaseResult> {
    if subject.is_host() {
        return None;
    }
    let result = over(&mut subject.session_over(manner.how.transport).ok()?, case, profile, manner);
    let again = match result.verdict {
        Verdict::Lost { .. } => true,
        // With an allocation failing, what the kernel said as it went down is the case's failure.
        Verdict::Failed(_) => case.program.failing().is_some(),
        _ => false,
    };
    again.then_some(result)
}

fn skip_reason(subject: &Subject, case: &Case, profile: &Profile, transport: Transport) -> Option<String> {
    let missing = transport.need().filter(|need| !profile.has.contains(*need));
    if let Some(missing) = missing.and_then(capability) {
        return Some(missing.absence.to_string());
    }
    if transport == Transport::Virtiofs && subject.is_host() {
        return Some("a virtio-fs device of ours needs a machine that we start".into());
    }
    let profile = &*transport.seen_over(profile);
    if let Some(condition) = profile.unmet(&case.program.needs) {
        return Some(condition.reason());
    }
    if let Some(reason) = transport.obstacle(&case.program, profile) {
        return Some(format!("not over {transport}: {reason}"));
    }
    if let Some(not) = case.program.not.iter().find(|not| not.transport == transport) {
        return Some(format!("not over {transport}: {}", not.reason));
    }
    match &case.program.danger {
        Some(danger) if subject.is_host() => Some(format!("not on a machine one wants to keep: {danger}")),
        _ => None,
    }
}
