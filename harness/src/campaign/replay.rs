//! What becomes of a finding: it is run again until its rate is known, made smaller, and written as a case.
//!
//! ```text
//! the input, alone, on fresh machines -> n of m
//! smaller inputs, as long as they come to the same -> the least one
//! that one as a case, where it can be one, on fresh machines -> n of m
//! ```
//!
//! All of it is bounded in time and in runs, and decides nothing by chance. What does not come again when it is run alone is
//! said not to: it may rest on what was run before it. Who it is for is told, and may end it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::Target;
use super::bench::{Bench, Came};
use super::case::case;
use super::finding::{Count, Rate, kind_of, put, rate_file};
use crate::generate::Inputs;
use crate::program::{Profile, Program};
use crate::run::{CaseResult, Subject, SubjectError, Verdict};
use crate::script::{self, Case};
use crate::transcript::abridged;

/// A rate is made of so many runs, ...
const REPEATS: usize = 10;
/// ... or fewer, if they take longer than that.
const REPEAT_FOR: Duration = Duration::from_secs(60);
/// Nothing is made smaller for longer than that, ...
const MINIMISE_FOR: Duration = Duration::from_secs(120);
/// ... or with more runs.
const MINIMISE_RUNS: usize = 300;
/// What comes now and then is given so many chances.
const MOST_CHANCES: usize = 5;
/// When the campaign is over, what was found by then is run again for so long.
pub(super) const AFTERWARDS: Duration = Duration::from_secs(5 * 60);
/// The least input's file.
pub(super) const LEAST: &str = "input.least";
/// Above what is added to a report.
const AGAIN: &str = "\n--- run again ---\n";

/// A finding to be run again.
pub(super) struct Task {
    pub(super) name: String,
    pub(super) input: Vec<u8>,
}

/// What came of that.
pub(super) struct Examined {
    pub(super) rate: Rate,
    /// The least input for a person to read; none for what did not come again: what was found stays as it is.
    case: Option<String>,
    /// The same as it is run.
    least: Option<Vec<u8>>,
    /// For the report.
    told: String,
}

impl Examined {
    /// What did not come again.
    #[cfg(test)]
    pub(super) fn left_as_it_was(rate: Rate) -> Examined {
        Examined { rate, case: None, least: None, told: "alone: it is left as it was found.\n".into() }
    }

    /// Files for the finding's folder, where `read` reads; the rate last, as it says that all the rest is there.
    pub(super) fn files(
        &self,
        read: &dyn Fn(&str) -> io::Result<Vec<u8>>,
    ) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
        let mut files = Vec::new();
        if self.case.is_some() && read("case.original").is_err() {
            files.push(("case.original", read("case")?));
        }
        let before = read("report.txt")?;
        let before = String::from_utf8_lossy(&before);
        let before = before.split(AGAIN).next().unwrap_or_default().trim_end();
        files.push(("report.txt", format!("{before}\n{AGAIN}{}", self.told).into_bytes()));
        if let Some(case) = &self.case {
            files.push(("case", case.clone().into_bytes()));
        }
        if let Some(least) = &self.least {
            files.push((LEAST, least.clone()));
        }
        files.push(("rate", rate_file(&self.rate).into_bytes()));
        Ok(files)
    }

    /// Write them.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let read = |file: &str| fs::read(folder.join(file));
        self.files(&read)?.iter().try_for_each(|(file, bytes)| put(&folder.join(file), bytes))
    }
}

/// Take tasks until nobody has any more, or it does not go on, and say what came of them. `say` is false when nobody listens.
pub(super) fn replay_all(
    subject: &Subject,
    profile: &Profile,
    target: Target,
    tasks: &Receiver<Task>,
    goes_on: &dyn Fn() -> bool,
    say: &dyn Fn(String, Result<Examined, SubjectError>) -> bool,
) {
    while let Ok(task) = tasks.recv() {
        let Some(examined) = replay(subject, profile, target, &task, goes_on).transpose() else { return };
        if !say(task.name, examined) {
            return;
        }
    }
}

/// Run a finding of a target again. `None` if there was no time for it.
pub(super) fn replay(
    subject: &Subject,
    profile: &Profile,
    target: Target,
    task: &Task,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<Examined>, SubjectError> {
    let mut bench = Bench::new(subject, profile, target);
    let sort = target.inputs;
    let mut again = Again { name: &task.name, bench: &mut bench, goes_on, trouble: None };
    let (alone, came) = again.alone(&task.input);
    let made = came.map(|came| {
        let (least, runs) = again.least(sort, &task.input, alone);
        let case = sort.program(&least).map(|program| again.written(&program, &least, came));
        let as_case = case.as_ref().map(|case| again.as_case(case));
        (least, case, as_case, runs)
    });
    if let Some(error) = again.trouble {
        return Err(error);
    }
    if !goes_on() {
        return Ok(None);
    }
    let mut rate = Rate { input: Some(alone), ..Rate::default() };
    let Some((least, case, as_case, runs)) = made else {
        let told =
            format!("{alone} alone: it may rest on what was run before it, and is left as it was found.\n");
        return Ok(Some(Examined { rate, case: None, least: None, told }));
    };
    let left = sort.len(&least);
    rate.steps = Some(Count { part: left, all: sort.len(&task.input) });
    let mut told = format!("{alone} alone, as the target runs it, each time on a fresh machine.\n");
    if let Some((count, _)) = &as_case {
        rate.case = Some(*count);
        let _ = writeln!(told, "{count} as a case, likewise.");
    }
    let _ = writeln!(
        told,
        "{left} of {} steps are left, after {runs} runs of smaller inputs.",
        sort.len(&task.input)
    );
    if let Some((_, Some(last))) = as_case {
        let (word, why) = (last.verdict.word(), last.verdict.reason().unwrap_or_default());
        let _ = write!(told, "\nThe case, {word}: {why}\n\n{}", abridged(&last.transcript));
    }
    let case = case.map_or_else(|| sort.print(&least), |case| script::print(&case.program));
    Ok(Some(Examined { rate, case: Some(case), least: Some(least), told }))
}

/// How often the input alone comes to the same.
pub(super) fn count(
    subject: &Subject,
    profile: &Profile,
    target: Target,
    task: &Task,
) -> Result<Count, SubjectError> {
    let mut bench = Bench::new(subject, profile, target);
    let mut again = Again { name: &task.name, bench: &mut bench, goes_on: &|| true, trouble: None };
    let (count, _) = again.alone(&task.input);
    again.trouble.map_or(Ok(count), Err)
}

/// One finding under way. What goes wrong with a machine ends it, and is told at the end.
struct Again<'a, 'b> {
    name: &'a str,
    bench: &'a mut Bench<'b>,
    goes_on: &'a dyn Fn() -> bool,
    trouble: Option<SubjectError>,
}

impl Again<'_, '_> {
    /// How often the input comes to the same on a machine of its own, and what came the last time that it did.
    fn alone(&mut self, input: &[u8]) -> (Count, Option<Came>) {
        let mut came = None;
        let count = self.repeat(|again| {
            let now = again.bench.input(&[input.to_vec()])?;
            let is_it = again.is_it(&now);
            came = if is_it { Some(now) } else { came.take() };
            Ok(is_it)
        });
        (count, came)
    }

    /// The least input that still comes to the same, and how many runs that took.
    fn least(&mut self, sort: Inputs, input: &[u8], alone: Count) -> (Vec<u8>, usize) {
        let begin = Instant::now();
        let chances = alone.all.div_ceil(alone.part.max(1)).min(MOST_CHANCES);
        let mut runs = 0;
        self.bench.refresh();
        let least = sort.minimise(input, &mut |input| {
            for _ in 0..chances {
                let is_over = runs >= MINIMISE_RUNS || begin.elapsed() > MINIMISE_FOR;
                if is_over || self.trouble.is_some() || !(self.goes_on)() {
                    return None;
                }
                runs += 1;
                match self.bench.input(&[input.to_vec()]) {
                    Ok(came) if self.is_it(&came) => return Some(true),
                    Ok(Came::Nothing) => {}
                    // What else was found may have left something on this machine.
                    Ok(_) => self.bench.refresh(),
                    Err(error) => self.trouble = Some(error),
                }
            }
            Some(false)
        });
        (least, runs)
    }

    /// The program of that input as a case. `came` is what came of the one that it was made of.
    fn written(&mut self, least: &Program, input: &[u8], mut came: Came) -> Case {
        for _ in 0..MOST_CHANCES {
            self.bench.refresh();
            match self.bench.input(&[input.to_vec()]) {
                Ok(now) if self.is_it(&now) => {
                    came = now;
                    break;
                }
                Ok(_) => {}
                Err(error) => {
                    self.trouble = Some(error);
                    break;
                }
            }
        }
        let profile = self.bench.profile;
        match came {
            Came::Odd(odd) if odd.bytes == input && !odd.records.is_empty() => {
                case(self.name, least, &odd.records, profile, None)
            }
            Came::Lost(wreck) => {
                let why = wreck.splats.first().map_or(wreck.why, |splat| splat.title.clone());
                let records = self.bench.records(least).unwrap_or_else(|error| {
                    self.trouble = Some(error);
                    Vec::new()
                });
                case(self.name, least, &records, profile, Some(&why))
            }
            _ => {
                let records = self.bench.records(least).unwrap_or_default();
                case(self.name, least, &records, profile, None)
            }
        }
    }

    /// How often the case fails as it should, and what came of it the last time.
    fn as_case(&mut self, case: &Case) -> (Count, Option<CaseResult>) {
        let mut last = None;
        let count = self.repeat(|again| {
            let result = again.bench.case(case)?;
            let is_it = fails_alike(again.name, &result);
            last = Some(result);
            Ok(is_it)
        });
        (count, last)
    }

    /// How often it is so, each time on a fresh machine.
    fn repeat(&mut self, mut is_so: impl FnMut(&mut Self) -> Result<bool, SubjectError>) -> Count {
        let begin = Instant::now();
        let mut count = Count { part: 0, all: 0 };
        while count.all < REPEATS
            && self.trouble.is_none()
            && (self.goes_on)()
            && begin.elapsed() < REPEAT_FOR
        {
            self.bench.refresh();
            match is_so(self) {
                Ok(is_so) => count = Count { part: count.part + usize::from(is_so), all: count.all + 1 },
                Err(error) => self.trouble = Some(error),
            }
        }
        count
    }

    fn is_it(&self, came: &Came) -> bool {
        came.what().is_some_and(|what| what.is(self.name))
    }
}

/// Does the case fail as the finding of that name would have it?
fn fails_alike(name: &str, result: &CaseResult) -> bool {
    match (&result.verdict, kind_of(name)) {
        (Verdict::Failed(failure), "oracle") => failure.step.is_some(),
        (Verdict::Failed(failure), "behind") => failure.why.contains("left behind"),
        (Verdict::Failed(_) | Verdict::Lost { .. }, "lost" | "hang" | "ended") => true,
        // A case unmounts where the target keeps the mount: what is broken may show in another function.
        (Verdict::Failed(_) | Verdict::Lost { .. }, _) => !result.splats.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::Finding;
    use crate::generate;
    use crate::program::Transport;

    #[test]
    fn what_came_of_it_is_added_once_and_the_original_stays() {
        let folder = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        put("case", "original");
        put("report.txt", "why\n\ntranscript\n");
        let program = generate::from_bytes(&[]);
        for part in [1, 2] {
            let rate = Rate { input: Some(Count { part, all: 10 }), ..Rate::default() };
            let case = Some(script::print(&program));
            Examined { rate, case, least: None, told: format!("{part} of 10\n") }
                .write(folder.path())
                .unwrap();
        }
        assert_eq!(read("case.original"), "original");
        assert_eq!(read("case"), script::print(&program));
        assert_eq!(read("report.txt"), "why\n\ntranscript\n\n--- run again ---\n2 of 10\n");
        let finding = Finding::read(folder.path());
        assert_eq!((finding.why.as_str(), finding.rate.input), ("why", Some(Count { part: 2, all: 10 })));
    }

    #[test]
    fn a_case_fails_alike_or_otherwise() {
        let result = |why: &str, step: Option<&str>, log: &str| {
            let failure = crate::run::Failure {
                file: String::new(),
                line: 1,
                step: step.map(str::to_string),
                why: why.into(),
                transcript: String::new(),
                kernel: Vec::new(),
            };
            CaseResult {
                path: String::new(),
                title: String::new(),
                rules: Vec::new(),
                transport: Transport::Plain,
                verdict: Verdict::Failed(Box::new(failure)),
                millis: 0,
                transcript: String::new(),
                splats: qemu::console::scan(log),
                by_oracle: false,
                points: None,
            }
        };
        assert!(fails_alike("oracle-read-1", &result("x", Some("app read f 5"), "")));
        assert!(!fails_alike("oracle-read-1", &result("something is left behind: x", None, "")));
        assert!(fails_alike("behind-1", &result("something is left behind: x", None, "")));
        let complaint = result("c", None, "BUG: KASAN: null-ptr-deref in f+0x1/0x2\n");
        assert!(fails_alike("kasan-g-1", &complaint));
        assert!(!fails_alike("kasan-g-1", &result("c", None, "")) && !fails_alike("oracle-f-1", &complaint));
        let passed = CaseResult { verdict: Verdict::Passed, ..complaint };
        assert!(!fails_alike("kasan-f-1", &passed) && !fails_alike("lost-1", &passed));
    }
}
