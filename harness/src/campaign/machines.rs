//! A campaign on a live kernel: machines that run a target, and the figures of all of them.
//!
//! A worker restores a machine, asks for the inputs of its turn, hands them over, and listens until the turn is over or the machine
//! is lost; then it restores another one. Inputs that are new and whatever is found lie in the folder before anything else
//! happens, so the next turn of any worker begins with them. One more worker runs what was found again, while the others go on and
//! for a while after them. It chooses no inputs, which libFuzzer does in the guest, and judges none.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use qemu::cache::Cache;
use qemu::console::Splat;
use qemu::progress::Progress;

use super::coverage::Coverage;
use super::diary::Diary;
use super::folder::Turn;
use super::replay::{AFTERWARDS, Examined, Task, replay_all};
use super::{Error, Event, Figures, Finding, Folder, Plan, Target, identity, instrumented, profile, target};
use crate::program::Profile;
use crate::protocol::{Fuzzing, Order, Report};
use crate::run::{Lost, Session, Subject, SubjectError};
use crate::script::Case;

/// What one worker says.
enum Word {
    /// A turn begins: the inputs go there.
    Begins(mpsc::Sender<Turn>),
    Goes(Box<Fuzzing>),
    /// These inputs of the turn were run, and those with `true` brought nothing.
    Sifted(u64, Vec<(String, bool)>),
    /// It is lost, with all it had counted: why, and the end of its console.
    Lost(Box<Wreck>),
    /// Its turn is over.
    Over,
    Trouble(SubjectError),
    /// Its worker has no more to say.
    Ends,
    /// What came of running the finding of that name again.
    Replayed(String, Box<Examined>),
}

/// What is left of a machine.
pub(crate) struct Wreck {
    /// Why it was given up.
    pub(crate) why: String,
    pub(crate) console: String,
    pub(crate) splats: Vec<Splat>,
    /// What it was running.
    pub(crate) input: Vec<u8>,
}

/// A machine is used for so long. Then a fresh one goes on, with another seed: nothing grows for a whole night, and a target that
/// keeps to one stage gets to the others.
const TURN: Duration = Duration::from_secs(600);
/// A machine that tells nothing for so long is lost.
const SILENCE: Duration = Duration::from_secs(60);
/// So often in a row a machine may not be had, ...
const MOST_FAILURES: u32 = 5;
/// ... and so long it takes until it is tried again.
const RESPITE: Duration = Duration::from_secs(2);
/// The most bytes of inputs in one message.
const MOST: usize = 4 << 20;
/// Between two looks at the clock.
const LOOK: Duration = Duration::from_secs(1);

/// A campaign that can begin: its target is built, and its kernel boots.
pub struct Campaign<'a> {
    plan: &'a Plan,
    subject: Subject,
    profile: Profile,
    coverage: Coverage,
    /// The target's program, where it runs.
    program: PathBuf,
}

/// How long it goes on.
#[derive(Clone, Copy)]
struct Clock<'a> {
    until: Instant,
    stop: &'a AtomicBool,
}

impl Clock<'_> {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until && !self.stop.load(Ordering::SeqCst)
    }
}

impl<'a> Campaign<'a> {
    /// Fetch, build and boot what is needed.
    ///
    /// # Errors
    /// What could not be had.
    pub fn prepare(
        plan: &'a Plan,
        program: &Path,
        probes: &[Case],
        cache: &Cache,
        folder: &mut Folder,
        progress: &mut dyn Progress,
    ) -> Result<Campaign<'a>, Error> {
        let built = target::build(plan.target.name, progress)?;
        let coverage = match instrumented(&plan.kernel, cache, progress)? {
            Some((kernel, origins)) => Coverage::open(folder, &kernel, &origins)?,
            None => Coverage::default(),
        };
        if coverage.places().is_empty() {
            progress.say(&format!("{} tells no coverage (no KCOV): inputs are chosen blindly", plan.kernel));
        }
        let guest = PathBuf::from(format!("/usr/bin/fuseproof-{}", plan.target.name));
        let files = [(built.clone(), guest.display().to_string())];
        let subject = Subject::prepare_to_fuzz(&plan.kernel, program, &files, cache, progress)?;
        let profile = profile(&subject, &plan.kernel, probes, cache)?;
        plan.target.is_possible(&plan.kernel, &profile)?;
        folder.on(identity(plan, &subject, &profile));
        let program = if subject.is_host() { built } else { guest };
        Ok(Campaign { plan, subject, profile, coverage, program })
    }

    /// Fuzz until the time is over, or `stop` is set.
    ///
    /// # Errors
    /// What could not be had any more. What was found until then lies in the folder.
    pub fn run(
        self,
        folder: &mut Folder,
        stop: &AtomicBool,
        hear: &mut dyn FnMut(Event<'_>),
    ) -> Result<Figures, Error> {
        let Campaign { plan, subject, profile, coverage, program } = self;
        let diary = Diary::new(folder, plan.target.name, &plan.kernel.to_string(), plan.time);
        let clock = Clock { until: diary.until(), stop };
        let (tasks, to_replay) = mpsc::channel();
        for (name, input) in folder.open_ones() {
            let _ = tasks.send(Task { name, input });
        }
        std::thread::scope(|scope| {
            let (words, heard) = mpsc::channel();
            for job in 0..plan.jobs {
                let (program, profile, places) =
                    (program.clone(), profile.clone(), coverage.places().to_vec());
                let order = move |turn: u32| {
                    let seed = plan.seed_of(turn.wrapping_mul(plan.jobs as u32).wrapping_add(job as u32));
                    let (program, profile, places) = (program.clone(), profile.clone(), places.clone());
                    (seed, Order::Fuzz { program, profile, places, seed })
                };
                let (subject, words) = (&subject, words.clone());
                scope.spawn(move || {
                    work(subject, job, plan.target, &order, clock, &words);
                    let _ = words.send((job, Word::Ends));
                });
            }
            let (subject, profile, jobs) = (&subject, &profile, plan.jobs);
            scope.spawn(move || {
                let say = |name, examined| {
                    let word = match examined {
                        Ok(examined) => Word::Replayed(name, Box::new(examined)),
                        Err(error) => Word::Trouble(error),
                    };
                    words.send((jobs, word)).is_ok()
                };
                let afterwards = Clock { until: clock.until + AFTERWARDS, ..clock };
                replay_all(subject, profile, plan.target, &to_replay, &|| afterwards.goes_on(), &say);
            });
            let watch = Watch {
                coverage,
                folder,
                diary,
                now: vec![Fuzzing::default(); jobs],
                ended: Figures::default(),
                tasks: Some(tasks),
                at_work: jobs,
            };
            watch.through(heard, hear)
        })
    }
}

/// What goes on while machines run.
struct Watch<'a> {
    coverage: Coverage,
    folder: &'a mut Folder,
    diary: Diary,
    /// What machines of now have counted, ...
    now: Vec<Fuzzing>,
    /// ... and those before them.
    ended: Figures,
    tasks: Option<mpsc::Sender<Task>>,
    at_work: usize,
}

impl Watch<'_> {
    /// Nobody is heard any more when this returns, which ends whoever is still at work.
    fn through(
        mut self,
        heard: mpsc::Receiver<(usize, Word)>,
        hear: &mut dyn FnMut(Event<'_>),
    ) -> Result<Figures, Error> {
        let ended = loop {
            match heard.recv_timeout(LOOK) {
                Ok((_, Word::Trouble(error))) => break Err(error.into()),
                Ok((job, word)) => self.heed(job, word, hear),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            }
            self.diary.tell(all(&self.ended, &self.now, &self.coverage, self.folder), self.folder, hear);
        };
        let figures = all(&self.ended, &self.now, &self.coverage, self.folder);
        let figures = self.diary.end(figures, self.folder, hear);
        ended.map(|()| figures)
    }

    fn heed(&mut self, job: usize, word: Word, hear: &mut dyn FnMut(Event<'_>)) {
        match word {
            Word::Begins(inputs) => {
                // What cannot be read now is for the next turn.
                let _ = self.folder.refresh();
                let _ = inputs.send(self.folder.turn());
            }
            Word::Sifted(generation, ran) => self.folder.sift(generation, &ran),
            Word::Goes(told) => {
                self.coverage.pass(self.folder, &told.places);
                told.units.iter().for_each(|unit| self.folder.keep(unit));
                for odd in &told.odd {
                    if let Some(found) = self.folder.odd(odd) {
                        have_replayed(&self.tasks, found, &odd.bytes);
                        hear(Event::Found(found));
                    }
                }
                self.now[job] =
                    Fuzzing { units: Vec::new(), odd: Vec::new(), places: Vec::new(), dull: None, ..*told };
            }
            Word::Lost(wreck) => {
                add(&mut self.ended, &std::mem::take(&mut self.now[job]));
                self.ended.restores += 1;
                if let Some(found) = self.folder.lost(&wreck) {
                    have_replayed(&self.tasks, found, &wreck.input);
                    hear(Event::Found(found));
                }
            }
            Word::Over => add(&mut self.ended, &std::mem::take(&mut self.now[job])),
            Word::Ends => {
                self.at_work -= 1;
                if self.at_work == 0 {
                    self.tasks = None;
                    self.diary.rest();
                }
            }
            Word::Replayed(name, examined) => {
                hear(Event::Replayed(self.folder.examined(&name, &examined)));
            }
            Word::Trouble(_) => {}
        }
    }
}

fn have_replayed(tasks: &Option<mpsc::Sender<Task>>, finding: &Finding, input: &[u8]) {
    if let Some(tasks) = tasks.as_ref().filter(|_| finding.known.is_none()) {
        let _ = tasks.send(Task { name: finding.name.clone(), input: input.to_vec() });
    }
}

/// What was counted on machines that are lost, and on those of now.
fn all(ended: &Figures, now: &[Fuzzing], coverage: &Coverage, folder: &Folder) -> Figures {
    let mut all = ended.clone();
    now.iter().for_each(|one| add(&mut all, one));
    all.places = coverage.count();
    all.corpus = folder.len();
    all.count_findings(folder);
    all
}

fn add(all: &mut Figures, one: &Fuzzing) {
    all.execs += one.execs;
    all.steps += one.steps;
    all.opens += one.opens;
    all.data += one.data;
}

/// One worker: machine after machine.
fn work(
    subject: &Subject,
    job: usize,
    target: Target,
    order: &dyn Fn(u32) -> (u32, Order),
    clock: Clock<'_>,
    words: &mpsc::Sender<(usize, Word)>,
) {
    let say = |word| words.send((job, word)).is_ok();
    let mut failed = 0;
    for turn in 0.. {
        if !clock.goes_on() {
            return;
        }
        let (seed, order) = order(turn);
        let session = subject
            .session_to_fuzz(target.over)
            .and_then(|mut session| session.add_black_box().map(|()| session));
        let mut session = match session {
            Ok(session) => session,
            // A night is not given up because the computer was short of something for a moment.
            Err(_) if failed < MOST_FAILURES && Instant::now() + RESPITE < clock.until => {
                failed += 1;
                std::thread::sleep(RESPITE);
                continue;
            }
            Err(error) => {
                say(Word::Trouble(error));
                return;
            }
        };
        failed = 0;
        let (inputs, come) = mpsc::channel();
        say(Word::Begins(inputs));
        let Ok(mut turn) = come.recv() else { return };
        turn.inputs.retain(|(_, input)| target.inputs.is_for(input, seed));
        let until = Clock { until: clock.until.min(Instant::now() + TURN), ..clock };
        let lost = match listen(&mut session, &order, turn, until, &say) {
            None if say(Word::Over) => continue,
            None => return,
            Some(lost) => lost,
        };
        let (splats, input) = (session.splats(), session.black_box());
        let wreck = Wreck { why: lost.why, console: lost.console, splats, input };
        if !say(Word::Lost(Box::new(wreck))) {
            return;
        }
    }
}

/// Have a machine fuzz until the time is over or it is lost.
fn listen(
    session: &mut Session,
    order: &Order,
    turn: Turn,
    clock: Clock<'_>,
    say: &dyn Fn(Word) -> bool,
) -> Option<Lost> {
    let (names, inputs): (Vec<String>, Vec<Vec<u8>>) = turn.inputs.into_iter().unzip();
    let begin = |session: &mut Session| {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for unit in inputs {
            if bytes > MOST {
                session.order(&Order::Seeds(std::mem::take(&mut chunk)))?;
                bytes = 0;
            }
            bytes += unit.len();
            chunk.push(unit);
        }
        session.order(&Order::Seeds(chunk))?;
        session.order(order)
    };
    if let Err(lost) = begin(session) {
        return Some(lost);
    }
    while clock.goes_on() {
        match session.report(SILENCE) {
            Ok(Report::Fuzzing(told)) => {
                let end = told.end.clone();
                if let Some(dull) = &told.dull {
                    let is_dull = |number: usize| dull.contains(&(number as u32));
                    let ran = names.iter().enumerate().map(|(number, name)| (name.clone(), is_dull(number)));
                    say(Word::Sifted(turn.generation, ran.collect()));
                }
                if !say(Word::Goes(Box::new(told))) {
                    return None;
                }
                if let Some(why) = end {
                    return Some(Lost { why, console: session.console() });
                }
            }
            Ok(_) => {}
            Err(lost) => return Some(lost),
        }
    }
    None
}
