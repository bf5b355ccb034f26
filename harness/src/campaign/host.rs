//! A campaign of a target that needs no kernel: libFuzzer as a process of this computer, watched from here.
//!
//! ```text
//! corpus/<target>/      what libFuzzer keeps, under its own names
//! artifacts/<target>/   an input that ended a target, until it is a finding
//! ```
//!
//! It chooses no inputs and judges none: a target that panics, hangs or takes too much memory has found something, and is started
//! again. Targets are hostile: what they say, take and last is bounded.

mod sieve;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use qemu::progress::Progress;

use super::diary::Diary;
use super::finding::{What, put};
use super::folder::{Folder, FolderError};
use super::target::{self, TargetError};
use super::{Error, Event, Figures, Partition};

/// Targets that need no kernel.
pub const HOST_TARGETS: &[&str] = &["script", "wire", "link"];

/// What is to be done.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// The target's name.
    pub target: String,
    /// How long.
    pub time: Duration,
    /// How many processes at once; they share the corpus.
    pub jobs: usize,
    /// The seed of all choices.
    pub seed: u32,
    /// Which part of the work this is: parts with the same seed choose differently.
    pub partition: Partition,
    /// First inputs.
    pub seeds: Vec<Vec<u8>>,
    /// Words that inputs may have.
    pub words: Vec<&'static str>,
}

/// Stands for a kernel's name.
const HERE: &str = "none";
/// The longest input.
const MOST_INPUT: usize = 64 << 10;
/// An input that takes so long is a hang.
const MOST_SECONDS: u64 = 20;
/// Memory beyond that is a finding.
const MOST_MIB: usize = 1024;
/// Addresses beyond that are refused, however fast they are asked for.
const MOST_ADDRESSES: u64 = 8 << 30;
/// How much of what a target says is kept: its last words.
const KEPT: usize = 16 << 10;
/// A target may end so long after its time.
const GRACE: Duration = Duration::from_secs(MOST_SECONDS + 10);
/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(500);

/// What one process says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pulse {
    execs: u64,
    places: usize,
}

enum Word {
    Goes(Pulse),
    /// It ended, with its last words.
    Ended(ExitStatus, String),
    Trouble(io::Error),
}

/// A campaign that can begin: its target is built.
pub struct HostCampaign<'a> {
    plan: &'a HostPlan,
    program: PathBuf,
}

impl<'a> HostCampaign<'a> {
    /// Build the target.
    ///
    /// # Errors
    /// It does not build.
    pub fn prepare(plan: &'a HostPlan, progress: &mut dyn Progress) -> Result<HostCampaign<'a>, Error> {
        let (program, is_instrumented) = target::build_here(&plan.target, progress)?;
        if !is_instrumented {
            progress.say("this toolchain instruments nothing: inputs are chosen blindly");
        }
        Ok(HostCampaign { plan, program })
    }

    /// Fuzz on this computer until the time is over, or `stop` is set.
    ///
    /// # Errors
    /// The target does not run, or the folder cannot be used. What was found until then lies there.
    pub fn run(
        self,
        folder: &mut Folder,
        stop: &AtomicBool,
        hear: &mut dyn FnMut(Event<'_>),
    ) -> Result<Figures, Error> {
        let HostCampaign { plan, program } = self;
        let ground = Ground::lay(plan, program, folder.path())?;
        // What a campaign left that was ended between its target's end and its own next word.
        ground.collect(folder, "an earlier campaign was ended before it could tell more", hear)?;
        let diary = Diary::new(folder, &plan.target, HERE, plan.time);
        let until = diary.until();
        ground.sift(until, stop).map_err(|source| FolderError::at(folder.path(), source))?;
        let running: Vec<Mutex<Option<Child>>> = (0..plan.jobs).map(|_| Mutex::new(None)).collect();
        let (words, heard) = mpsc::channel();
        std::thread::scope(|scope| {
            // A process is begun, and begun again, by sending its thread a seed.
            let begun = running.iter().enumerate().map(|(job, running)| {
                let (begun, due) = mpsc::channel();
                let (ground, words) = (&ground, words.clone());
                scope.spawn(move || {
                    for seed in due {
                        let _ = words.send((job, ground.run(job, seed, until, running, &words)));
                    }
                });
                begun
            });
            let mut watch = Watch {
                plan,
                ground: &ground,
                begun: begun.collect(),
                running: &running,
                until,
                stop,
                folder,
                diary,
                over: Figures::default(),
                now: vec![Pulse::default(); plan.jobs],
            };
            let ended = watch.through(&heard, hear);
            running.iter().for_each(end);
            let figures = watch.figures();
            let figures = watch.diary.end(figures, watch.folder, hear);
            ended.map(|()| figures)
        })
    }
}

/// What goes on while processes run.
struct Watch<'a> {
    plan: &'a HostPlan,
    ground: &'a Ground,
    begun: Vec<mpsc::Sender<u32>>,
    running: &'a [Mutex<Option<Child>>],
    until: Instant,
    stop: &'a AtomicBool,
    folder: &'a mut Folder,
    diary: Diary,
    /// What processes have counted that are over, ...
    over: Figures,
    /// ... and those of now.
    now: Vec<Pulse>,
}

impl Watch<'_> {
    fn through(
        &mut self,
        heard: &mpsc::Receiver<(usize, Word)>,
        hear: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let (target, mut left) = (&self.plan.target, self.now.len());
        (0..left).for_each(|job| self.begin(job));
        while left > 0 {
            let is_stopped = self.stop.load(Ordering::SeqCst);
            match heard.recv_timeout(LOOK) {
                Ok((job, Word::Goes(pulse))) => self.now[job] = pulse,
                Ok((job, Word::Ended(status, said))) => {
                    let last = std::mem::take(&mut self.now[job]);
                    self.over.execs += last_count(&said).unwrap_or(last.execs);
                    self.over.places = self.over.places.max(last.places);
                    let found = self.ground.collect(self.folder, &said, hear)?;
                    if status.success() || is_stopped || Instant::now() >= self.until {
                        left -= 1;
                    } else if found == 0 && !self.ground.told_only(self.folder, &said, hear) {
                        return Err(ended(target, &said));
                    } else {
                        self.over.restores += 1;
                        self.begin(job);
                    }
                }
                Ok((_, Word::Trouble(source))) => return Err(ended(target, &source.to_string())),
                Err(_) if Instant::now() > self.until + GRACE => {
                    return Err(ended(target, "it does not end"));
                }
                Err(_) if is_stopped => self.running.iter().for_each(end),
                Err(_) => {}
            }
            self.diary.tell(self.figures(), self.folder, hear);
        }
        Ok(())
    }

    fn figures(&self) -> Figures {
        let mut figures = Figures {
            execs: self.over.execs + self.now.iter().map(|one| one.execs).sum::<u64>(),
            places: self.now.iter().map(|one| one.places).fold(self.over.places, usize::max),
            corpus: self.ground.corpus_len(),
            ..self.over.clone()
        };
        figures.count_findings(self.folder);
        figures
    }

    /// Have a process begin, with a seed of its own.
    fn begin(&self, job: usize) {
        let process = (self.over.restores as u32).wrapping_mul(1009).wrapping_add(job as u32);
        let seed = self.plan.seed.wrapping_add(self.plan.partition.spread(process));
        // Its thread lives as long as this.
        let _ = self.begun[job].send(seed.max(1));
    }
}

fn ended(name: &str, said: &str) -> Error {
    TargetError::Run { name: name.into(), said: printable(said) }.into()
}

/// End a process, if it runs.
fn end(running: &Mutex<Option<Child>>) {
    if let Some(child) = &mut *running.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = child.kill();
    }
}

/// Where a target runs.
struct Ground {
    target: String,
    program: PathBuf,
    corpus: PathBuf,
    artifacts: PathBuf,
    /// The words that inputs may have, if there are any: libFuzzer takes no empty list.
    words: Option<PathBuf>,
}

impl Ground {
    fn lay(plan: &HostPlan, program: PathBuf, folder: &Path) -> Result<Ground, FolderError> {
        let corpus = folder.join("corpus").join(&plan.target);
        let artifacts = folder.join("artifacts").join(&plan.target);
        let words = folder.join("artifacts").join(format!("{}.dict", plan.target));
        let lay = || {
            fs::create_dir_all(&corpus)?;
            fs::create_dir_all(&artifacts)?;
            for seed in plan.seeds.iter().filter(|seed| seed.len() <= MOST_INPUT) {
                let path = corpus.join(format!("seed-{}", super::finding::hash(seed)));
                if !path.exists() {
                    put(&path, seed)?;
                }
            }
            let lines = plan.words.iter().map(|word| format!("\"{}\"\n", escaped(word)));
            fs::write(&words, lines.collect::<String>())
        };
        lay().map_err(|source| FolderError::at(folder, source))?;
        let words = Some(words).filter(|_| !plan.words.is_empty());
        Ok(Ground { target: plan.target.clone(), program, corpus, artifacts, words })
    }

    fn corpus_len(&self) -> usize {
        fs::read_dir(&self.corpus).map_or(0, Iterator::count)
    }

    /// One process from its beginning to its end.
    fn run(
        &self,
        job: usize,
        seed: u32,
        until: Instant,
        running: &Mutex<Option<Child>>,
        words: &mpsc::Sender<(usize, Word)>,
    ) -> Word {
        let place = || running.lock().unwrap_or_else(PoisonError::into_inner);
        let go = || {
            let mut child = self.command(seed, until).spawn()?;
            let said = child.stderr.take();
            *place() = Some(child);
            let said = said.map_or_else(String::new, |said| {
                listen(said, |pulse| drop(words.send((job, Word::Goes(pulse)))))
            });
            // It has closed its mouth, so it ends at once.
            let status = place().take().ok_or_else(|| io::Error::other("it is gone"))?.wait()?;
            Ok(Word::Ended(status, said))
        };
        go().unwrap_or_else(Word::Trouble)
    }

    fn command(&self, seed: u32, until: Instant) -> Command {
        let left = until.saturating_duration_since(Instant::now()).as_secs().max(1);
        let mut command = self.bare(&self.artifacts);
        command
            .arg(&self.corpus)
            .args([format!("-seed={seed}"), format!("-max_total_time={left}")])
            .args(["-print_final_stats=1", "-report_slow_units=1000000"])
            .stderr(Stdio::piped());
        if let Some(words) = &self.words {
            command.arg(format!("-dict={}", words.display()));
        }
        command
    }

    /// A target within its bounds, which puts inputs that end it into that folder.
    fn bare(&self, artifacts: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args([format!("-timeout={MOST_SECONDS}"), format!("-rss_limit_mb={MOST_MIB}")])
            .arg(format!("-max_len={MOST_INPUT}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-detect_leaks=0")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let bound = || {
            // It ends with its thread here, whatever ends this program.
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(setrlimit(Resource::RLIMIT_AS, MOST_ADDRESSES, MOST_ADDRESSES)?)
        };
        // SAFETY: the closure makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(bound) };
        command
    }

    /// Make findings of the inputs that ended a target. Gives how many lay there.
    fn collect(
        &self,
        folder: &mut Folder,
        said: &str,
        hear: &mut dyn FnMut(Event<'_>),
    ) -> Result<usize, FolderError> {
        let trouble = |source| FolderError::at(&self.artifacts, source);
        let mut count = 0;
        for entry in fs::read_dir(&self.artifacts).map_err(trouble)? {
            let path = entry.map_err(trouble)?.path();
            let input = fs::read(&path).map_err(trouble)?;
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let story = Story::of(&name, said);
            let why = format!("{}: {}", self.target, story.why);
            let report = format!(
                "{why}\n\nagain: cargo run --release -p fuzz --bin {} -- INPUT\n\n{}",
                self.target,
                printable(said)
            );
            let mut files = vec![("report.txt", report.as_bytes()), ("input", &input)];
            if self.target == "script" {
                files.push(("case", &input));
            }
            let what = What { kind: story.kind.into(), function: self.target.clone(), key: story.key };
            if let Some(found) = folder.found(&what, &why, &files) {
                hear(Event::Found(found));
            }
            self.forget(&input).and_then(|()| fs::remove_file(&path)).map_err(trouble)?;
            count += 1;
        }
        Ok(count)
    }

    /// Make a finding of a target's last words, where there was no room for the input: they have a short one in base64. Tells
    /// whether there are such words.
    fn told_only(&self, folder: &mut Folder, said: &str, hear: &mut dyn FnMut(Event<'_>)) -> bool {
        let is_told = said.contains("ERROR: libFuzzer");
        if is_told {
            let story = Story::of("", said);
            let why = format!("{}: {}", self.target, story.why);
            let report = format!("{why}\n\nThere was no room for the input.\n\n{}", printable(said));
            let what = What { kind: story.kind.into(), function: self.target.clone(), key: story.key };
            let files = [("report.txt", report.as_bytes()), ("input", b"".as_slice())];
            if let Some(found) = folder.found(&what, &why, &files) {
                hear(Event::Found(found));
            }
        }
        is_told
    }

    /// An input that ends the target would end every one that starts with it.
    fn forget(&self, input: &[u8]) -> io::Result<()> {
        for entry in fs::read_dir(&self.corpus)? {
            let entry = entry?;
            if entry.metadata()?.len() == input.len() as u64 && fs::read(entry.path())? == input {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// What a target's end was.
struct Story {
    kind: &'static str,
    /// The same for the same finding.
    key: String,
    why: String,
}

impl Story {
    /// By the name that libFuzzer gave to the input, and the target's last words.
    fn of(artifact: &str, said: &str) -> Story {
        let refused = said.contains("memory allocation of ");
        let kind = match artifact.split('-').next() {
            Some("timeout") => "hang",
            Some("oom") => "memory",
            _ if refused => "memory",
            _ => "crash",
        };
        let panic = said.rsplit_once("panicked at ").map(|(_, rest)| rest.lines());
        let (place, words) = panic.map_or((None, None), |mut lines| (lines.next(), lines.next()));
        let (place, words) = (place.unwrap_or_default().trim_end_matches(':'), words.unwrap_or_default());
        let why = match kind {
            "hang" => format!("an input takes longer than {MOST_SECONDS} s"),
            "memory" => format!("an input takes more than {MOST_MIB} MiB"),
            _ if place.is_empty() => "it ended without a word".into(),
            _ => format!("panicked at {place}: {words}"),
        };
        let why: String = printable(&why).replace('\n', " ").chars().take(300).collect();
        let key = if kind == "crash" { format!("crash {place}") } else { format!("{kind} {artifact}") };
        Story { kind, key, why }
    }
}

/// Read until nothing more comes. Gives the last words.
fn listen(mut from: impl Read, mut hear: impl FnMut(Pulse)) -> String {
    let (mut last, mut chunk) = (VecDeque::new(), [0; 4096]);
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        last.extend(&chunk[..count]);
        last.drain(..last.len().saturating_sub(KEPT));
        if let Some(pulse) = pulse(&String::from_utf8_lossy(last.make_contiguous())) {
            hear(pulse);
        }
    }
    String::from_utf8_lossy(last.make_contiguous()).into_owned()
}

/// `#8192 pulse  cov: 312 ft: 1200 corp: 50/9Kb lim: 80 exec/s: 4096 rss: 38Mb`: the last whole line of that kind.
fn pulse(said: &str) -> Option<Pulse> {
    let lines = said.rsplit_once('\n')?.0.rsplit('\n');
    lines.into_iter().find_map(|line| {
        let mut words = line.strip_prefix('#')?.split_whitespace();
        let execs = words.next()?.trim_end_matches(':').parse().ok()?;
        let places = words.skip_while(|word| *word != "cov:").nth(1).and_then(|number| number.parse().ok());
        Some(Pulse { execs, places: places.unwrap_or(0) })
    })
}

/// How many inputs a target says at its end that it has run.
fn last_count(said: &str) -> Option<u64> {
    said.rsplit_once("number_of_executed_units:")?.1.split_whitespace().next()?.parse().ok()
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// As libFuzzer reads a word in quotes.
fn escaped(word: &str) -> String {
    let byte = |byte: u8| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    word.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_line_of_figures_counts() {
        let said = "INFO: Seed: 1\n#2\tINITED cov: 3 ft: 3 corp: 1/1b exec/s: 0 rss: 30Mb\n#64\tNEW    cov: 12 ft: 9\nwords\n#12";
        assert_eq!(pulse(said), Some(Pulse { execs: 64, places: 12 }));
        assert_eq!(pulse("#8: cov\n"), Some(Pulse { execs: 8, places: 0 }));
        assert_eq!(pulse("#x\n"), None);
        assert_eq!(last_count("stat::number_of_executed_units: 4096\nstat::x: 1\n"), Some(4096));
    }

    #[test]
    fn a_flood_of_words_is_cut_to_its_end() {
        let said = listen([b'x'; 10 * KEPT].as_slice(), |_| {});
        assert_eq!(said.len(), KEPT);
    }

    #[test]
    fn an_end_is_told_by_its_place() {
        let said = "#3 NEW\n\nthread '<unnamed>' (7) panicked at a.rs:1:2:\nindex \u{1b}[2J out of bounds\nnote: x\n";
        let story = Story::of("crash-12", said);
        assert_eq!((story.kind, story.key.as_str()), ("crash", "crash a.rs:1:2"));
        assert_eq!(story.why, "panicked at a.rs:1:2: index \u{fffd}[2J out of bounds");
        assert_eq!(Story::of("timeout-12", said).kind, "hang");
        assert_eq!(Story::of("oom-12", "").kind, "memory");
        assert_eq!(Story::of("crash-12", "memory allocation of 9 bytes failed").kind, "memory");
    }

    #[test]
    fn a_word_is_written_as_libfuzzer_reads_it() {
        assert_eq!(escaped("\"a\\\u{e9}"), "\\\"a\\\\\\xc3\\xa9");
    }
}
