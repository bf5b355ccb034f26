//! What happens while a plan is carried out: the one stream that every report is made from, live or read back.
//!
//! A stream is a list of [`Event`]s, the [`Event::Plan`] first. [`Run`] is what they add up to. Nothing here says how
//! a thing is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::outcome::{CaseResult, KernelResult};
use crate::program::Profile;

/// One thing that happened. Kernels and cases are told by their place in the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What is to be done.
    Plan {
        /// Kernels, in the order they were asked for.
        kernels: Vec<PlannedKernel>,
        /// Cases, sorted by name.
        cases: Vec<PlannedCase>,
        /// What the rules say that the cases rest on, by ID, as far as it is known.
        laws: BTreeMap<String, String>,
    },
    /// What a kernel can do is known.
    Profile {
        /// Which kernel.
        kernel: usize,
        /// What it can do.
        profile: Profile,
    },
    /// A fresh agent is there.
    Session {
        /// On which kernel.
        kernel: usize,
        /// Seconds that restoring its machine took, if it has one.
        restored: Option<f64>,
    },
    /// A case is over.
    Case {
        /// On which kernel.
        kernel: usize,
        /// Which case.
        case: usize,
        /// Seconds since the kernel's first session.
        after: f64,
        /// What came of it.
        result: CaseResult,
    },
    /// A kernel cannot be asked about the cases that are left. Of several such things the first counts.
    Trouble {
        /// Which kernel.
        kernel: usize,
        /// Why, and what to do.
        why: String,
    },
}

/// A kernel that cases will run on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedKernel {
    /// The name it was asked for by, and what carried requests and replies there: `7.3 over io_uring`.
    pub name: String,
    /// Seconds that booting it took, if that had to be done.
    pub booted: Option<f64>,
}

/// A case that will run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedCase {
    /// Its name.
    pub path: String,
    /// Its title.
    pub title: String,
    /// The rules it rests on.
    pub rules: Vec<String>,
    /// Its text, with what it uses put in.
    pub text: String,
}

/// All that events have told.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What came of each kernel.
    pub kernels: Vec<KernelResult>,
    /// The cases that were to run.
    pub cases: Vec<PlannedCase>,
    /// What the rules say, by ID.
    pub laws: BTreeMap<String, String>,
    /// Which cases are over on each kernel, in the order of its results.
    over: Vec<Vec<usize>>,
}

impl Run {
    /// Take one more event. What is about a kernel or a case outside of the plan tells nothing.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Plan { kernels, cases, laws } => {
                let planned = |kernel: &PlannedKernel| KernelResult::planned(&kernel.name, kernel.booted);
                self.kernels = kernels.iter().map(planned).collect();
                self.cases.clone_from(cases);
                self.laws.clone_from(laws);
                self.over = vec![Vec::new(); kernels.len()];
            }
            Event::Profile { kernel, profile } => {
                if let Some(kernel) = self.kernels.get_mut(*kernel) {
                    kernel.profile = profile.clone();
                }
            }
            Event::Session { kernel, restored } => {
                if let Some(kernel) = self.kernels.get_mut(*kernel) {
                    kernel.restored = match (kernel.restored, *restored) {
                        (Some(before), Some(now)) => Some(before.max(now)),
                        (before, now) => before.or(now),
                    };
                }
            }
            Event::Case { kernel, case, after, result } => {
                let (Some(kernel), Some(over)) = (self.kernels.get_mut(*kernel), self.over.get_mut(*kernel))
                else {
                    return;
                };
                let place = over.partition_point(|before| before <= case);
                over.insert(place, *case);
                kernel.cases.insert(place, result.clone());
                kernel.seconds = kernel.seconds.max(*after);
            }
            Event::Trouble { kernel, why } => {
                if let Some(kernel) = self.kernels.get_mut(*kernel) {
                    kernel.trouble.get_or_insert_with(|| why.clone());
                }
            }
        }
    }

    /// What came of a case on a kernel, both by their place; `None` if it was not run.
    pub fn result(&self, kernel: usize, case: usize) -> Option<&CaseResult> {
        let place = self.over.get(kernel)?.binary_search(&case).ok()?;
        self.kernels.get(kernel)?.cases.get(place)
    }
}

impl<'a> FromIterator<&'a Event> for Run {
    fn from_iter<T: IntoIterator<Item = &'a Event>>(events: T) -> Run {
        let mut run = Run::default();
        events.into_iter().for_each(|event| run.hear(event));
        run
    }
}
