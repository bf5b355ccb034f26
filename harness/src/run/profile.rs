//! What a kernel is able to do, found out by running a small program for each capability: it has the capability if
//! the program passes. The programs are cases below `cases/lib/probe/`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use qemu::cache::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::judge::{By, Manner, judge};
use super::outcome::{CaseResult, Verdict};
use super::session::{Lost, Session, Subject, SubjectError};
use crate::program::{CAPABILITIES, INNER_ERRNO, Profile, Transport};
use crate::protocol::{How, Pace};
use crate::script::{Case, Library, ScriptError, Source, parse};

/// The probes that a library has: that of a capability is its file `probe/<capability>`.
///
/// # Errors
/// The first mistake in one of them.
pub fn probes(library: &dyn Library) -> Result<Vec<Case>, ScriptError> {
    let mut probes = Vec::new();
    for capability in CAPABILITIES {
        let name = capability.name;
        if library.find(&format!("probe/{name}")).is_some() {
            let text = format!("# The kernel has the capability {name}.\nrules PROBE-00\nuse probe/{name}\n");
            probes.extend(parse(&Source { path: format!("{name}.case"), text }, library)?);
        }
    }
    Ok(probes)
}

/// What is kept of a kernel's profile.
#[derive(Serialize, Deserialize)]
struct Known {
    /// Changes with the kernel, this program and the probes.
    key: String,
    profile: Profile,
}

impl Known {
    fn read(file: &Path) -> Option<Known> {
        Known::parse(&fs::read(file).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Known> {
        serde_json::from_slice(text).ok()
    }
}

/// The profile in the text of a saved one, and the text that is saved for it.
pub(crate) fn again(text: &[u8]) -> Option<(Profile, Vec<u8>)> {
    let known = Known::parse(text)?;
    let text = serde_json::to_vec_pretty(&known).ok()?;
    Some((known.profile, text))
}

fn file(cache: &Cache, kernel: &str) -> PathBuf {
    cache.root().join("profiles").join(format!("{}.json", kernel.replace('/', "-")))
}

/// What the latest run found that a kernel of this name and release can do; none if no run has probed it.
pub fn remembered(cache: &Cache, name: &str, release: &str) -> Option<Profile> {
    let known = Known::read(&file(cache, name))?;
    (known.profile.release == release).then_some(known.profile)
}

/// Probe the kernel, or remember what an earlier run of the same program found on it.
pub(crate) fn profile(
    subject: &Subject,
    session: &mut Session,
    probes: &[Case],
    cache: &Cache,
) -> Result<Profile, Lost> {
    let Some(machine) = subject.digest() else { return Ok(probe(subject, session, probes)?.0) };
    let file = file(cache, &subject.name);
    let key = key(machine, probes);
    if let Some(known) = Known::read(&file).filter(|known| known.key == key) {
        return Ok(known.profile);
    }
    let (profile, lost) = probe(subject, session, probes)?;
    if lost > 0 {
        // Perhaps it was not the kernel's doing.
        return Ok(profile);
    }
    // A profile that cannot be kept is probed again next time.
    let _ = keep(&file, &Known { key, profile: profile.clone() });
    Ok(profile)
}

/// Probes have no races.
const MANNER: Manner = Manner {
    how: How { transport: Transport::Plain, pace: Pace::Fast, failing: None, shake: None, lawless: false },
    seed: 0,
    by: By::Case,
};

/// After so many lost machines there is nothing to find out.
const MOST_LOST: usize = 16;

/// What it is able to do, and how many machines that has cost.
fn probe(subject: &Subject, session: &mut Session, probes: &[Case]) -> Result<(Profile, usize), Lost> {
    let mut lost = 0;
    let mut profile = Profile { release: session.release.clone(), ..Profile::default() };
    for capability in CAPABILITIES {
        let there = match probes.iter().find(|probe| probe.path == capability.name) {
            Some(probe) => match twice(subject, session, probe, &profile, &mut lost)?.verdict {
                Verdict::Passed => true,
                // It can do it, and leaks or complains while it does: that is for cases to find.
                Verdict::Failed(failure) => failure.step.is_none(),
                // So can one that takes the machine along.
                Verdict::Lost { .. } => true,
                _ => false,
            },
            // What no program can find out the agent tells, or it is no matter of the kernel.
            None => capability.name == INNER_ERRNO && session.inner_errno,
        };
        if there {
            profile.has.insert(capability.name.to_string());
        }
    }
    Ok((profile, lost))
}

/// A machine that is lost may be lost by accident: a second one tells.
fn twice(
    subject: &Subject,
    session: &mut Session,
    probe: &Case,
    profile: &Profile,
    lost: &mut usize,
) -> Result<CaseResult, Lost> {
    let mut result = judge(session, probe, profile, MANNER);
    for again in [true, false] {
        let Verdict::Lost { why, console, .. } = &result.verdict else { break };
        let (why, console) = (why.clone(), console.clone());
        *lost += 1;
        if *lost > MOST_LOST {
            return Err(Lost { why, console });
        }
        let gone = |error: SubjectError| Lost { why: error.to_string(), console };
        *session = subject.session().map_err(gone)?;
        if again {
            result = judge(session, probe, profile, MANNER);
        }
    }
    Ok(result)
}

/// Whole or not at all: runs may happen side by side.
fn keep(file: &Path, known: &Known) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut new, known)?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}

fn key(machine: &str, probes: &[Case]) -> String {
    let mut hash = Sha256::new();
    hash.update(machine);
    for probe in probes {
        hash.update(crate::script::print(&probe.program));
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
