//! What a kernel is able to do, found out by running a small program for each capability: it has the capability if
//! the program passes. The programs are cases below `cases/lib/probe/`.

use std::fs;
use std::path::Path;

use qemu::cache::Cache;
use qemu::progress::Quiet;
use sha2::{Digest, Sha256};

use super::judge::judge;
use super::outcome::Verdict;
use super::session::{Lost, Session, Subject};
use crate::program::{CAPABILITIES, Profile};
use crate::script::{Case, Library, ScriptError, Source, parse};

/// The capability that has no probe.
const INNER_ERRNO: &str = "inner_errno";

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

/// Probe the kernel, or remember what an earlier run of the same program found on it.
pub(super) fn profile(
    subject: &Subject,
    session: &mut Session,
    probes: &[Case],
    cache: &Cache,
) -> Result<Profile, Lost> {
    let known = subject.digest().map(|digest| entry_name(digest, probes));
    if let Some(found) = known.as_ref().and_then(|name| cache.find(name)).and_then(|folder| read(&folder)) {
        return Ok(found);
    }
    let mut profile = Profile { release: session.release.clone(), ..Profile::default() };
    for capability in CAPABILITIES {
        let there = match probes.iter().find(|probe| probe.path == capability.name) {
            Some(probe) => match judge(session, probe, &profile).verdict {
                Verdict::Passed => true,
                Verdict::Lost { why, console, .. } => return Err(Lost { why, console }),
                _ => false,
            },
            // The one thing that no program can find out: the agent tells.
            None if capability.name == INNER_ERRNO => session.inner_errno,
            None => false,
        };
        if there {
            profile.has.insert(capability.name.to_string());
        }
    }
    // A failed probe may have left its session in disorder; only cases are worth a fresh one each.
    if let (Some(name), Ok(text)) = (known, serde_json::to_vec_pretty(&profile)) {
        // A profile that cannot be kept is probed again next time.
        let _ = cache.entry(&name, &mut Quiet, |folder, _| {
            fs::write(folder.join("profile.json"), &text)
                .map_err(|error| qemu::cache::Error::io(folder, error))
        });
    }
    Ok(profile)
}

fn read(folder: &Path) -> Option<Profile> {
    serde_json::from_slice(&fs::read(folder.join("profile.json")).ok()?).ok()
}

/// Changes with the kernel, this program and the probes.
fn entry_name(kernel: &str, probes: &[Case]) -> String {
    let program = std::env::current_exe().and_then(fs::read).unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(kernel);
    hash.update(&program);
    for probe in probes {
        hash.update(crate::script::print(&probe.program));
    }
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("profile-{digest}")
}
