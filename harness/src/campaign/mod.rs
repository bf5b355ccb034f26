//! A fuzz campaign: what it is to do, what came of it, and the folder that survives it.
//!
//! On a live kernel machines run a target ([`Campaign`]); targets that need no kernel are processes of this computer
//! ([`HostCampaign`]).
//! Both keep what they find in a [`Folder`], and say how they are getting on as [`Event`]s, which whoever calls shows to people.

mod backlog;
mod bench;
mod case;
mod coverage;
mod diary;
mod finding;
mod folder;
mod history;
mod host;
mod known;
mod machines;
mod merge;
mod partition;
mod replay;
mod target;

use std::path::Path;
use std::time::Duration;

use qemu::cache::Cache;
use qemu::kernel::{self, Kernel, KernelSpec, Origins};
use qemu::progress::Progress;

pub use self::backlog::Unwritten;
pub use self::coverage::{CoverageError, Passed, covered};
pub use self::finding::{Count, Finding, Identity, Rate};
pub use self::folder::{Folder, FolderError, findings};
pub use self::history::{History, Memory, Moment};
pub use self::host::{HOST_TARGETS, HostCampaign, HostPlan};
pub use self::known::{Known, KnownError};
pub use self::machines::Campaign;
pub(crate) use self::machines::Wreck;
pub use self::merge::{Merged, merge};
pub use self::partition::{Asked, Partition, PartitionError};
use self::replay::{LEAST, Task, count, replay};
pub use self::target::{TARGETS, Target, TargetError};
use crate::program::Profile;
use crate::run::{Lost, Subject, SubjectError, profile_of};
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
    /// Which part of the work this is: parts with the same seed choose differently.
    pub partition: Partition,
}

impl Plan {
    /// The seed of a machine, by how many there were before it.
    fn seed_of(&self, machine: u32) -> u32 {
        self.seed.wrapping_add(self.partition.spread(machine))
    }
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
    /// So many a second of late.
    pub rate: f64,
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
    /// Memory in use of late.
    pub memory: Memory,
    /// How long it has been fuzzing.
    pub seconds: f64,
    /// How long it will.
    pub left: Duration,
}

impl Figures {
    fn count_findings(&mut self, folder: &Folder) {
        let findings = folder.findings().values();
        self.known = findings.filter(|finding| finding.known.is_some()).count();
        self.findings = folder.findings().len() - self.known;
    }
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
    /// Something cannot be written any more, or all of it is.
    Room(&'a Unwritten),
}

/// A finding to be run again outside of a campaign, on whatever kernel.
pub struct Replay<'a> {
    finding: &'a Path,
    task: Task,
    target: Target,
    subject: Subject,
    profile: Profile,
}

impl<'a> Replay<'a> {
    /// Have all that it needs.
    ///
    /// # Errors
    /// The kernel, a machine, the folder.
    pub fn prepare(
        finding: &'a Path,
        target: Target,
        kernel: &KernelSpec,
        program: &Path,
        probes: &[Case],
        cache: &Cache,
        progress: &mut dyn Progress,
    ) -> Result<Replay<'a>, Error> {
        let name = finding.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let input =
            std::fs::read(finding.join("input")).map_err(|source| FolderError::at(finding, source))?;
        let subject = Subject::prepare_to_fuzz(kernel, program, &[], cache, progress)?;
        let profile = profile(&subject, kernel, probes, cache)?;
        target.is_possible(kernel, &profile)?;
        Ok(Replay { finding, task: Task { name, input }, target, subject, profile })
    }

    /// Do what a campaign does with what it found, and write into the folder what came of it. Gives how often it came.
    ///
    /// # Errors
    /// The kernel, a machine, the folder.
    pub fn complete(&self) -> Result<Rate, Error> {
        let examined = replay(&self.subject, &self.profile, self.target, &self.task, &|| true)?;
        if let Some(examined) = &examined {
            examined.write(self.finding).map_err(|source| FolderError::at(self.finding, source))?;
        }
        Ok(examined.map(|examined| examined.rate).unwrap_or_default())
    }

    /// How often its least input comes to the same, each time on a fresh machine.
    ///
    /// # Errors
    /// The kernel, a machine.
    pub fn count(&self) -> Result<Count, Error> {
        let least = std::fs::read(self.finding.join(LEAST)).ok();
        let task = Task { name: self.task.name.clone(), input: least.unwrap_or(self.task.input.clone()) };
        Ok(count(&self.subject, &self.profile, self.target, &task)?)
    }
}

/// What the kernel can do.
fn profile(
    subject: &Subject,
    kernel: &KernelSpec,
    probes: &[Case],
    cache: &Cache,
) -> Result<Profile, SubjectError> {
    let mut session = subject.session()?;
    let no_agent = |lost: Lost| SubjectError::NoAgent { name: kernel.to_string(), why: lost.why };
    profile_of(subject, &mut session, probes, cache).map_err(no_agent)
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

/// A kernel's name as a word in a path.
fn plain(kernel: &str) -> String {
    let name = kernel.replace(|c: char| !c.is_ascii_alphanumeric() && !"-_.+".contains(c), "-");
    name.trim_matches(['-', '.']).to_owned()
}
