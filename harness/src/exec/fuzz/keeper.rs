//! The agent's side of a fuzz run: it starts the target, watches it, and tells the host what came of it, once a second.
//!
//! It trusts the target with nothing but its folder. A target that ends by itself, or goes nowhere, is told of and not started
//! again: what the machine is worth by then is for the host to say.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::kmsg::Stacks;
use super::super::shared::Shared;
use super::sieve::SEED;
use super::{Brief, COUNTERS, DULL, Figures, folder};
use crate::generate::MOST_BYTES;
use crate::program::Profile;
use crate::protocol::{Fuzzing, Odd, decode, encode};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A target that has run no input for so long goes nowhere.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of new inputs in one message.
const MOST: usize = 1 << 20;
/// How much of what a target says at its end is told.
const LAST_WORDS: usize = 4 << 10;

/// What a target needs to start.
pub(crate) struct Start {
    pub(crate) program: PathBuf,
    pub(crate) profile: Profile,
    pub(crate) places: Vec<u64>,
    pub(crate) seeds: Vec<Vec<u8>>,
    pub(crate) seed: u32,
}

/// Run a target until it ends or `tell` fails.
///
/// # Errors
/// The folder cannot be made, the target cannot be started, or nobody listens.
pub(crate) fn keep(start: Start, mut tell: impl FnMut(Fuzzing) -> io::Result<()>) -> io::Result<()> {
    // Nobody listens to what the kernel says for debugging, and to print it takes longer than to open a file. But it is code, too:
    // it runs for the first inputs.
    let mut shown = Stacks::shown();
    let brief = Brief { profile: start.profile, places: start.places, seed: start.seed };
    let (corpus, findings) = (folder().join("corpus"), lay_down(&brief, &start.seeds)?);
    let figures: Shared<Figures> = Shared::open(&folder().join("figures"))?;
    let mut target = run(&start.program, &corpus, start.seed)?;
    let (mut told, mut passed) = (names(&corpus)?, [0; COUNTERS / 64]);
    let mut seen = told.clone();
    let (mut last, mut since) = (0, Instant::now());
    loop {
        std::thread::sleep(LOOK);
        let ended = target.0.try_wait()?;
        let get = |figure: &std::sync::atomic::AtomicU64| figure.load(Ordering::Relaxed);
        let figures = figures.get();
        let execs = get(&figures.execs);
        if execs != last {
            (last, since) = (execs, Instant::now());
        }
        if execs >= start.seeds.len() as u64 {
            drop(shown.take());
        }
        let end = match ended {
            Some(status) => Some(format!("the target ended ({}): {}", how(status), last_words())),
            None if since.elapsed() > PATIENCE => {
                Some(format!("the target has run nothing for {PATIENCE:?}:\n{}", stacks()))
            }
            None => None,
        };
        let (mut units, mut bytes) = (Vec::new(), 0);
        let now = names(&corpus)?;
        // What was not there at the last look may still be in the writing.
        let is_whole = |name: &&String| end.is_some() || seen.contains(*name);
        for name in now.difference(&told).filter(is_whole).cloned().collect::<Vec<_>>() {
            if bytes > MOST {
                break;
            }
            let unit = fs::read(corpus.join(&name))?;
            bytes += unit.len();
            units.push(unit);
            told.insert(name);
        }
        seen = now;
        let mut odd = Vec::new();
        for name in names(&findings)? {
            let path = findings.join(name);
            odd.extend(decode::<Odd>(&fs::read(&path)?));
            fs::remove_file(path)?;
        }
        let is_over = end.is_some();
        tell(Fuzzing {
            execs,
            steps: get(&figures.steps),
            opens: get(&figures.opens),
            data: get(&figures.data),
            places: new_places(figures, &mut passed),
            units,
            odd,
            dull: dull()?,
            end,
        })?;
        if is_over {
            return Ok(());
        }
    }
}

/// Lay down what a target looks for. Gives the folder of what it will find.
pub(super) fn lay_down(brief: &Brief, seeds: &[Vec<u8>]) -> io::Result<PathBuf> {
    let _ = fs::remove_dir_all(folder());
    let (corpus, findings) = (folder().join("corpus"), folder().join("findings"));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&findings)?;
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(corpus.join(format!("{SEED}{number}")), seed)?;
    }
    fs::write(folder().join("brief"), encode(brief).map_err(io::Error::other)?)?;
    Ok(findings)
}

/// The numbers of first inputs that brought nothing, once it is known.
fn dull() -> io::Result<Option<Vec<u32>>> {
    let path = folder().join(DULL);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    fs::remove_file(path)?;
    Ok(decode(&bytes).ok())
}

/// The numbers of places that are not among those that were `told`, where they are then.
fn new_places(figures: &Figures, told: &mut [u64]) -> Vec<u16> {
    let mut numbers = Vec::new();
    for (word, (places, told)) in figures.places.iter().zip(told).enumerate() {
        let places = places.load(Ordering::Relaxed);
        let new = places & !std::mem::replace(told, places);
        numbers.extend((0..64).filter(|bit| new & (1 << bit) != 0).map(|bit| (word * 64 + bit) as u16));
    }
    numbers
}

/// A target's process. It ends with this value.
struct Target(Child);

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &Path, corpus: &Path, seed: u32) -> io::Result<Target> {
    let log = fs::File::create(log())?;
    let mut command = Command::new(program);
    command
        .arg(corpus)
        .arg(format!("-seed={seed}"))
        // Whatever bounds time and memory is outside of it; its signals are the program's own outcomes.
        .args(["-rss_limit_mb=0", "-malloc_limit_mb=0", "-timeout=1000000", "-detect_leaks=0"])
        .args(["-handle_segv=0", "-handle_bus=0", "-handle_usr1=0", "-handle_usr2=0", "-handle_xfsz=0"])
        // Inputs are changed by us, so nothing is learned from comparisons.
        .args(["-use_cmp=0", "-use_memmem=0", "-len_control=0", "-reload=0", "-print_pcs=0", "-verbosity=0"])
        .arg(format!("-max_len={MOST_BYTES}"))
        .arg(format!("-artifact_prefix={}/", folder().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    Ok(Target(command.spawn()?))
}

fn log() -> PathBuf {
    folder().join("log")
}

fn last_words() -> String {
    let said = fs::read(log()).unwrap_or_default();
    String::from_utf8_lossy(&said[said.len().saturating_sub(LAST_WORDS)..]).into_owned()
}

fn how(status: std::process::ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "somehow".into(),
    }
}

/// Where every process that is not the kernel's own sleeps.
fn stacks() -> String {
    let mut text = String::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        if read("maps").is_empty() {
            continue;
        }
        text.push_str(&format!(
            "{} {}:\n{}",
            process.file_name().display(),
            read("comm").trim(),
            read("stack")
        ));
    }
    text
}

pub(super) fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
