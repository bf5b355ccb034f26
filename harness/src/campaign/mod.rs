//! A fuzz campaign: machines that run a target, the folder that survives them, and the figures.
//!
//! A worker restores a machine, hands it the corpus, and listens until the machine is lost; then it restores another one. Inputs
//! that are new and whatever is found lie in the folder before anything else happens. One more worker runs what was found again,
//! while the others go on and for a while after them. It chooses no inputs, which libFuzzer does in the guest, and judges
//! none.

mod bench;
mod case;
mod coverage;
mod finding;
mod folder;
mod host;
mod known;
mod replay;
mod target;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use qemu::cache::Cache;
use qemu::console::Splat;
use qemu::kernel::{self, Kernel, KernelSpec, Origins};
use qemu::progress::Progress;

use self::coverage::Coverage;
pub use self::coverage::{CoverageError, Passed, covered};
pub use self::finding::{Count, Finding, Identity, Rate};
pub use self::folder::{Folder, FolderError, findings};
pub use self::host::{HOST_TARGETS, HostPlan, run_here};
pub use self::known::{Known, KnownError};
use self::replay::{AFTERWARDS, Examined, Task, replay, replay_all};
pub use self::target::{TARGETS, Target, TargetError};
use crate::program::{Profile, Transport};
use crate::protocol::{Fuzzing, Order};
use crate::run::{Session, Subject, SubjectError};
use crate::script::Case;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kernel.
    pub kernel: KernelSpec,
    /// What is fuzzed.
    pub target: Target,
    /// How long.
    pub time: Duration,
    /// How many machines at once.
    pub jobs: usize,
    /// The seed of all choices.
    pub seed: u32,
}

/// Why there is no campaign, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel, a machine, the agent.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What was covered before.
    #[error(transparent)]
    Coverage(#[from] CoverageError),
    /// The kernel is not able to do what the target is about.
    #[error(
        "{kernel} has no {need}, without which there is no target {target}: take another kernel, as 7.2 or kasan-7.2"
    )]
    Lacks {
        /// The kernel.
        kernel: String,
        /// The target.
        target: &'static str,
        /// The capability.
        need: &'static str,
    },
}

/// Figures of a campaign, all workers together.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Inputs that were run.
    pub execs: u64,
    /// Steps of programs among them.
    pub steps: u64,
    /// Programs in which an open was taken for passthrough.
    pub opens: u64,
    /// Those in which data went through such a file.
    pub data: u64,
    /// Instrumented places that were passed by any worker, in this campaign or an earlier one on that kernel.
    pub places: usize,
    /// Inputs in the corpus.
    pub corpus: usize,
    /// Different findings that are not known.
    pub findings: usize,
    /// Those that are.
    pub known: usize,
    /// Machines that were lost and restored.
    pub restores: u64,
    /// Since it began.
    pub seconds: f64,
}

/// Something of note.
#[derive(Debug)]
pub enum Event<'a> {
    /// The figures of now, about once a second.
    Figures(&'a Figures),
    /// Something was found for the first time.
    Found(&'a Finding),
    /// It was run again, and its rate is known.
    Replayed(&'a Finding),
}

/// What one worker says.
enum Word {
    Goes(Box<Fuzzing>),
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
/// The most bytes of inputs in one message.
const MOST: usize = 4 << 20;

/// Fuzz until the time is over.
///
/// # Errors
/// What could not be had. What was found until then lies in the folder.
pub fn run(
    plan: &Plan,
    program: &Path,
    probes: &[Case],
    cache: &Cache,
    folder: &mut Folder,
    progress: &mut dyn Progress,
    hear: &mut dyn FnMut(Event<'_>),
) -> Result<Figures, Error> {
    let target = target::build(plan.target.name, progress)?;
    let mut coverage = match instrumented(&plan.kernel, cache, progress)? {
        Some((kernel, origins)) => Coverage::open(folder, &kernel, &origins)?,
        None => Coverage::default(),
    };
    if coverage.places().is_empty() {
        progress.say(&format!("{} tells no coverage (no KCOV): inputs are chosen blindly", plan.kernel));
    }
    let guest = PathBuf::from(format!("/usr/bin/fuseproof-{}", plan.target.name));
    let files = [(target.clone(), guest.display().to_string())];
    let subject = Subject::prepare_to_fuzz(&plan.kernel, program, &files, cache, progress)?;
    let at = if subject.is_host() { target } else { guest };
    let (begin, mut figures) = (Instant::now(), Figures::default());
    let mut session = subject.session()?;
    let no_agent =
        |lost: crate::run::Lost| SubjectError::NoAgent { name: plan.kernel.to_string(), why: lost.why };
    let profile = crate::run::profile_of(&subject, &mut session, probes, cache).map_err(no_agent)?;
    drop(session);
    if let Some(need) = plan.target.over.need().filter(|need| !profile.has.contains(*need)) {
        return Err(Error::Lacks { kernel: plan.kernel.to_string(), target: plan.target.name, need });
    }
    folder.on(identity(plan, &subject, &profile));
    let (words, heard) = mpsc::channel();
    let (tasks, to_replay) = mpsc::channel();
    for (name, input) in folder.open_ones().into_iter().filter(|_| plan.target.is_replayed) {
        let _ = tasks.send(Task { name, over: plan.target.over, input });
    }
    std::thread::scope(|scope| {
        let until = begin + plan.time;
        let seeds = folder.inputs();
        for job in 0..plan.jobs {
            let (at, profile, places) = (at.clone(), profile.clone(), coverage.places().to_vec());
            let order = move |turn: u32| {
                let seed =
                    plan.seed.wrapping_add(turn.wrapping_mul(plan.jobs as u32)).wrapping_add(job as u32);
                let (profile, places) = (profile.clone(), places.clone());
                (seed, Order::Fuzz { program: at.clone(), profile, places, seed })
            };
            let (subject, words, seeds) = (&subject, words.clone(), seeds.clone());
            scope.spawn(move || {
                work(subject, job, plan.target, &order, seeds, until, &words);
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
            replay_all(subject, profile, &to_replay, until + AFTERWARDS, &say);
        });
        let mut now: Vec<Fuzzing> = vec![Fuzzing::default(); plan.jobs];
        let (mut tasks, mut at_work) = (Some(tasks).filter(|_| plan.target.is_replayed), plan.jobs);
        let task = |tasks: &Option<mpsc::Sender<Task>>, finding: &Finding, input: &[u8]| {
            if let Some(tasks) = tasks.as_ref().filter(|_| finding.known.is_none()) {
                let (name, over) = (finding.name.clone(), plan.target.over);
                let _ = tasks.send(Task { name, over, input: input.to_vec() });
            }
        };
        while let Ok((job, word)) = heard.recv() {
            match word {
                Word::Goes(told) => {
                    coverage.pass(folder, &told.places)?;
                    for unit in &told.units {
                        folder.keep(unit)?;
                    }
                    for odd in &told.odd {
                        if let Some(found) = folder.odd(odd)? {
                            task(&tasks, found, &odd.bytes);
                            hear(Event::Found(found));
                        }
                    }
                    now[job] = Fuzzing { units: Vec::new(), odd: Vec::new(), places: Vec::new(), ..*told };
                }
                Word::Lost(wreck) => {
                    add(&mut figures, &std::mem::take(&mut now[job]));
                    figures.restores += 1;
                    if let Some(found) = folder.lost(&wreck)? {
                        task(&tasks, found, &wreck.input);
                        hear(Event::Found(found));
                    }
                }
                Word::Over => add(&mut figures, &std::mem::take(&mut now[job])),
                Word::Trouble(error) => return Err(error.into()),
                Word::Ends => {
                    at_work -= 1;
                    if at_work == 0 {
                        tasks = None;
                    }
                }
                Word::Replayed(name, examined) => hear(Event::Replayed(folder.examined(&name, &examined)?)),
            }
            figures.places = coverage.count();
            hear(Event::Figures(&all(&figures, &now, folder, begin)));
        }
        Ok(all(&figures, &now, folder, begin))
    })
}

/// Run a finding again that was not, and write into its folder what came of it. Gives how often it came.
///
/// # Errors
/// The kernel, a machine, the folder.
pub fn complete(
    finding: &Path,
    kernel: &KernelSpec,
    program: &Path,
    probes: &[Case],
    cache: &Cache,
    progress: &mut dyn Progress,
) -> Result<Rate, Error> {
    let failed = |source| FolderError::at(finding, source);
    let name = finding.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let input = std::fs::read(finding.join("input")).map_err(failed)?;
    let subject = Subject::prepare_to_fuzz(kernel, program, &[], cache, progress)?;
    let mut session = subject.session()?;
    let no_agent = |lost: crate::run::Lost| SubjectError::NoAgent { name: kernel.to_string(), why: lost.why };
    let profile = crate::run::profile_of(&subject, &mut session, probes, cache).map_err(no_agent)?;
    drop(session);
    let target = Target::named(&Finding::read(finding).kernel.target);
    let over = target.map_or(Transport::Plain, |target| target.over);
    let examined = replay(&subject, &profile, &Task { name, over, input }, &|| true)?;
    if let Some(examined) = &examined {
        examined.write(finding).map_err(failed)?;
    }
    Ok(examined.map(|examined| examined.rate).unwrap_or_default())
}

/// What was counted on machines that are lost, and on those of now.
fn all(lost: &Figures, now: &[Fuzzing], folder: &Folder, begin: Instant) -> Figures {
    let mut all = lost.clone();
    now.iter().for_each(|one| add(&mut all, one));
    all.corpus = folder.len();
    all.known = folder.findings().values().filter(|finding| finding.known.is_some()).count();
    all.findings = folder.findings().len() - all.known;
    all.seconds = begin.elapsed().as_secs_f64();
    all
}

fn add(all: &mut Figures, one: &Fuzzing) {
    all.execs += one.execs;
    all.steps += one.steps;
    all.opens += one.opens;
    all.data += one.data;
}

/// What tells whoever runs a finding again where it was found.
fn identity(plan: &Plan, subject: &Subject, profile: &Profile) -> Identity {
    let name = match &plan.kernel {
        KernelSpec::Path(path) => {
            std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
        }
        other => other.to_string(),
    };
    Identity {
        name,
        release: profile.release.clone(),
        image: subject.image().unwrap_or_default().to_owned(),
        target: plan.target.name.to_owned(),
        has: profile.has.iter().cloned().collect(),
    }
}

/// The kernel and its instrumented places, if it has any that are known.
fn instrumented(
    spec: &KernelSpec,
    cache: &Cache,
    progress: &mut dyn Progress,
) -> Result<Option<(Kernel, Origins)>, SubjectError> {
    if let KernelSpec::Host = spec {
        return Ok(None);
    }
    let kernel = kernel::resolve(spec, cache, progress)?;
    // An image that unpacks itself in the guest tells nothing.
    match kernel::places(&kernel.image) {
        Ok(places) if !places.is_empty() => {
            let origins = kernel::origins(&kernel.image)?;
            Ok(Some((kernel, origins)))
        }
        _ => Ok(None),
    }
}

/// One worker: machine after machine.
fn work(
    subject: &Subject,
    job: usize,
    target: Target,
    order: &dyn Fn(u32) -> (u32, Order),
    mut corpus: Vec<Vec<u8>>,
    until: Instant,
    words: &mpsc::Sender<(usize, Word)>,
) {
    let say = |word| words.send((job, word)).is_ok();
    for turn in 0.. {
        if Instant::now() >= until {
            return;
        }
        let (seed, order) = order(turn);
        let session = subject.session().and_then(|mut session| session.add_black_box().map(|()| session));
        let mut session = match session {
            Ok(session) => session,
            Err(error) => {
                say(Word::Trouble(error));
                return;
            }
        };
        let is_for = |input: &[u8]| (target.is_for)(input, seed);
        let turn_ends = until.min(Instant::now() + TURN);
        let lost = match listen(&mut session, &order, &mut corpus, &is_for, turn_ends, &say) {
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
    corpus: &mut Vec<Vec<u8>>,
    is_for: &dyn Fn(&[u8]) -> bool,
    until: Instant,
    say: &dyn Fn(Word) -> bool,
) -> Option<crate::run::Lost> {
    let begin = |session: &mut Session| {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for unit in corpus.iter().filter(|unit| is_for(unit)) {
            if bytes > MOST {
                session.order(&Order::Seeds(std::mem::take(&mut chunk)))?;
                bytes = 0;
            }
            bytes += unit.len();
            chunk.push(unit.clone());
        }
        session.order(&Order::Seeds(chunk))?;
        session.order(order)
    };
    if let Err(lost) = begin(session) {
        return Some(lost);
    }
    while Instant::now() < until {
        match session.report(SILENCE) {
            Ok(crate::protocol::Report::Fuzzing(told)) => {
                corpus.extend(told.units.iter().cloned());
                let end = told.end.clone();
                if !say(Word::Goes(Box::new(told))) {
                    return None;
                }
                if let Some(why) = end {
                    return Some(crate::run::Lost { why, console: session.console() });
                }
            }
            Ok(_) => {}
            Err(lost) => return Some(lost),
        }
    }
    None
}
