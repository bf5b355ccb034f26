//! Daemons that others wrote, on trial: what is known of each is found again, on the running kernel and in a guest.
//!
//! They are obtained when the tests run. What cannot be had here is left out, and said.

#[expect(dead_code, reason = "some of it is for tests of other failures")]
mod desk;
mod fuser_loopback;
mod obtained;
#[expect(dead_code, reason = "some of it is for tests that need nothing fetched")]
mod ring;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use harness::report::{State, Tried};
use libtest_mimic::{Arguments, Completion, Failed};
use qemu::cache::Cache;

use desk::Desk;
use obtained::Obtained;
use ring::cases_dir;

/// A kernel whose machine has nothing but what is packed.
const GUEST: &str = "6.12";

/// With this word, the test is a daemon.
const FUSER: &str = "fuser-loopback";

/// What is known of a daemon: all of it was checked by hand, and what is broken is told in `cases/daemon/found/`.
struct Known {
    name: &'static str,
    obtain: fn(&Cache) -> Obtained,
    /// What stands before the daemon's command.
    options: &'static [&'static str],
    /// Behind the program.
    words: &'static [&'static str],
    uses: &'static str,
    breaks: &'static [&'static str],
    /// What it breaks in some trials and not in others: a race decides.
    sometimes: &'static [&'static str],
    /// Also in a guest?
    in_guest: bool,
}

const USED: &str = "uses passthrough";
const ASKED: &str = "asks for passthrough and never uses it";
const NONE: &str = "does not ask for passthrough";

/// libfuse's example, without options; its variants say in what they differ. All of them have several threads.
const HP: Known = Known {
    name: "passthrough_hp",
    obtain: obtained::passthrough_hp,
    options: &[],
    words: &["--foreground", "{source}", "{mount}"],
    uses: USED,
    breaks: &[],
    sometimes: &["DMN-50"],
    in_guest: false,
};

const KNOWN: [Known; 11] = [
    Known { in_guest: true, ..HP },
    Known {
        name: "passthrough_hp-clones",
        words: &["--foreground", "--clone-fd", "--num-threads=4", "{source}", "{mount}"],
        ..HP
    },
    Known { name: "passthrough_hp-in-the-background", words: &["{source}", "{mount}"], ..HP },
    Known {
        name: "passthrough_hp-nopassthrough",
        words: &["--foreground", "--nopassthrough", "{source}", "{mount}"],
        uses: ASKED,
        breaks: &["DMN-04"],
        ..HP
    },
    Known {
        name: "passthrough_hp-direct-io",
        words: &["--foreground", "--direct-io", "{source}", "{mount}"],
        breaks: &["DMN-14"],
        ..HP
    },
    Known {
        name: "passthrough_hp-refused-once",
        options: &["--refuse", "ENOMEM@2"],
        breaks: &["DMN-09", "DMN-15"],
        ..HP
    },
    Known { name: "passthrough_hp-of-a-user", options: &["--user", "1000:1000"], uses: ASKED, ..HP },
    Known {
        name: "go-fuse-loopback",
        obtain: obtained::go_fuse_loopback,
        options: &[],
        words: &["-allow-other", "{mount}", "{source}"],
        uses: USED,
        breaks: &[],
        sometimes: &[],
        in_guest: true,
    },
    Known {
        name: "fuser-loopback",
        obtain: |_| Ok(std::env::current_exe().map_err(|error| error.to_string())),
        options: &[],
        words: &[FUSER, "{source}", "{mount}"],
        uses: USED,
        breaks: &[],
        sometimes: &[],
        in_guest: true,
    },
    Known {
        name: "rclone",
        obtain: obtained::rclone,
        options: &[],
        words: &["mount2", "--allow-other", "--cache-dir", "{mount}.cache", "{source}", "{mount}"],
        uses: ASKED,
        breaks: &[],
        sometimes: &[],
        in_guest: true,
    },
    Known {
        name: "bindfs",
        obtain: |_| obtained::bindfs(),
        options: &[],
        words: &["-f", "{source}", "{mount}"],
        uses: NONE,
        breaks: &[],
        sometimes: &[],
        in_guest: true,
    },
];

fn main() {
    let words: Vec<_> = std::env::args().collect();
    if let [_, word, source, mount] = &words[..]
        && word == FUSER
    {
        if let Err(error) = fuser_loopback::serve(Path::new(source), Path::new(mount)) {
            eprintln!("cannot serve {mount}: {error}");
            std::process::exit(1);
        }
        return;
    }
    let arguments = Arguments::from_args();
    let missing_root = (!nix::unistd::geteuid().is_root()).then(|| "mounting needs root".to_string());
    let cache = Arc::new(Cache::open().unwrap_or_else(|error| panic!("{error}")));
    let missing_guest = if arguments.list { None } else { ring::no_machine(GUEST, &cache) };
    let reports = Arc::new(Mutex::new(Vec::new()));
    let mut trials = Vec::new();
    for known in &KNOWN {
        for (kernel, missing) in [("host", &missing_root), (GUEST, &missing_guest)] {
            if kernel == GUEST && !known.in_guest {
                continue;
            }
            let (cache, reports) = (Arc::clone(&cache), Arc::clone(&reports));
            let name = format!("{}-on-{kernel}", known.name);
            trials.push(ring::ignorable_trial(&name, missing.clone(), move || {
                let tried = match (known.obtain)(&cache)? {
                    Ok(program) => is_as_known(known, &program, kernel)?,
                    Err(why) => return Ok(Completion::ignored_with(why)),
                };
                reports.lock().map_err(|_| "another trial failed")?.push(tried);
                Ok(Completion::Completed)
            }));
        }
    }
    ring::run(&arguments, trials, move || {
        side_by_side(&reports.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default())
    })
}

fn is_as_known(known: &Known, program: &Path, kernel: &str) -> Result<Tried, Failed> {
    let desk = Desk::new();
    let cases = cases_dir().to_string_lossy();
    let json = desk.path("report.json");
    let report = format!("json={}", json.display());
    // It may be another user who has to get at it.
    let is_ours = program == std::env::current_exe()?;
    let name = if is_ours {
        "fuser_loopback".into()
    } else {
        program.file_name().unwrap_or_default().to_string_lossy()
    };
    let copy = desk.path(&name);
    std::fs::copy(program, &copy)?;
    let program = copy.to_string_lossy();
    let options = ["daemon", "--kernel", kernel, "--cases", &*cases, "--report", &report];
    let command = [&options, known.options, &["--", &*program], known.words].concat();
    let run = desk.run(&command);
    let found = format!("{}\n{}", run.out, run.err);
    let Ok(report) = std::fs::read_to_string(json) else { return Err(Failed::from(found)) };
    let mut tried = harness::report::read_trials(&report).map_err(|error| error.to_string())?;
    let tried = tried.pop().ok_or("an empty report")?;
    let broken = tried.rules.iter().filter(|row| row.state == State::Broken);
    let broken: BTreeSet<_> = broken.map(|row| row.rule.as_str()).collect();
    let always: BTreeSet<_> = broken.iter().copied().filter(|rule| !known.sometimes.contains(rule)).collect();
    if tried.uses != known.uses || always != BTreeSet::from_iter(known.breaks.iter().copied()) {
        return Err(Failed::from(format!("{}, {broken:?}\n{found}", tried.uses)));
    }
    run.ends(i32::from(!broken.is_empty()));
    Ok(tried)
}

/// All of them on a page, for whoever ran the tests.
fn side_by_side(tried: &[Tried]) -> String {
    let page = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("daemons.html");
    match harness::report::trials_html(tried).map(|text| std::fs::write(&page, text)) {
        Ok(Ok(())) if !tried.is_empty() => format!("all of them side by side: {}\n", page.display()),
        _ => String::new(),
    }
}
