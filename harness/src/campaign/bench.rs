//! Machines of one kernel on which something is run again: restored before it must be a fresh one, and after one was lost.
//!
//! It says what came of a run; what that means for a finding is for others.

use std::time::Duration;

use super::case::lawless;
use super::finding::What;
use super::{Target, Wreck};
use crate::generate::Inputs;
use crate::program::{Profile, Program};
use crate::protocol::{Odd, Order, Report, StepRecord};
use crate::run::{CaseResult, Lost, Session, Subject, SubjectError, judge_with_care, observe};
use crate::script::Case;

/// Longer than the agent gives a program.
const PATIENCE: Duration = Duration::from_secs(45);
/// The kernel's words come another way than the agent's, and may be later.
const LATER: Duration = Duration::from_millis(20);

/// Machines, one at a time.
pub(super) struct Bench<'a> {
    subject: &'a Subject,
    pub(super) profile: &'a Profile,
    target: Target,
    session: Option<Session>,
}

/// What came of an input.
pub(super) enum Came {
    Nothing,
    Odd(Box<Odd>),
    Lost(Box<Wreck>),
}

impl Came {
    /// What it is, if it is something.
    pub(super) fn what(&self) -> Option<What> {
        match self {
            Came::Nothing => None,
            Came::Odd(odd) => Some(What::from(odd.as_ref())),
            Came::Lost(wreck) => Some(What::from(wreck.as_ref())),
        }
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(subject: &'a Subject, profile: &'a Profile, target: Target) -> Bench<'a> {
        Bench { subject, profile, target, session: None }
    }

    /// The next run has a machine that nothing ran on.
    pub(super) fn refresh(&mut self) {
        self.session = None;
    }

    /// Run an input as the target does, behind those before it.
    pub(super) fn input(&mut self, inputs: &[Vec<u8>]) -> Result<Came, SubjectError> {
        let Target { inputs: sort, over, .. } = self.target;
        let order = Order::Again { sort, over, inputs: inputs.to_vec(), profile: self.profile.clone() };
        // A stage for messages stays where it is.
        if sort == Inputs::Messages {
            self.refresh();
        }
        let session = self.session()?;
        let told = session.order(&order).and_then(|()| session.report(PATIENCE));
        std::thread::sleep(LATER);
        let splats = session.splats();
        let lost = match told {
            Ok(Report::Again(odd)) if splats.is_empty() => {
                return Ok(odd.map_or(Came::Nothing, |odd| Came::Odd(Box::new(odd))));
            }
            Ok(Report::Again(_)) => Lost { why: "the kernel complained".into(), console: session.console() },
            Ok(Report::End(ending)) => {
                let why = ending.stuck.unwrap_or_else(|| "the program has not ended".into());
                Lost { why, console: session.console() }
            }
            Ok(Report::Trouble(why)) => Lost { why, console: session.console() },
            Ok(_) => Lost { why: "the agent talks of something else".into(), console: session.console() },
            Err(lost) => lost,
        };
        self.refresh();
        let input = inputs.last().cloned().unwrap_or_default();
        Ok(Came::Lost(Box::new(Wreck { why: lost.why, console: lost.console, splats, input })))
    }

    /// Run a case as `fuseproof run` does.
    pub(super) fn case(&mut self, case: &Case) -> Result<CaseResult, SubjectError> {
        let (profile, over) = (self.profile, self.target.over);
        let session = self.session()?;
        let result = judge_with_care(session, case, profile, over);
        if session.tainted {
            self.refresh();
        }
        Ok(result)
    }

    /// What comes of a program's steps as the conductor performs them, up to the end of the machine.
    pub(super) fn records(&mut self, program: &Program) -> Result<Vec<StepRecord>, SubjectError> {
        let (profile, over) = (self.profile, self.target.over);
        self.refresh();
        let records = observe(self.session()?, &lawless(program), profile, over);
        self.refresh();
        Ok(records)
    }

    fn session(&mut self) -> Result<&mut Session, SubjectError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.subject.session_to_fuzz(self.target.over)?,
        };
        Ok(self.session.insert(session))
    }
}
