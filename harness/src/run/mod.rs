//! The host side: which cases on which kernels, where each runs, and what came of it.
//!
//! A kernel is a [`Subject`]; a [`Session`] is one running agent on it. Sessions are cheap (a machine is restored,
//! not booted), so a session that a case has tainted is thrown away and the next case gets a fresh one. Nothing here
//! judges a step: that is done next to the kernel, by the case's own law. Where the kernel finds leaks, which takes it
//! seconds, the results of a session are held back until it was asked.

mod bench;
mod deviations;
mod event;
mod judge;
mod leaks;
mod outcome;
mod own;
mod plan;
mod points;
mod profile;
mod relay;
mod serve;
mod session;

pub use deviations::{Deviation, Deviations, DeviationsError};
pub use event::{Event, PlannedCase, PlannedKernel, Run};
pub(crate) use judge::{Watched, judge_with_care, observe, watch};
pub use outcome::{CaseResult, Failure, KernelResult, Verdict};
pub use own::OwnPlan;
pub use plan::{Plan, Selection};
pub(crate) use profile::{again as profile_again, profile as profile_of};
pub use profile::{probes, remembered};
pub use relay::RelayError;
pub use serve::{serve_in_guest, serve_on_host};
pub use session::{Lost, Session, Subject, SubjectError, interactive};
