//! A program on the mount of somebody else's daemon: it is started where ours would mount, and cannot be told what to do.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::super::stage::options_of;
use super::{Conductor, Did, mount_name};
use crate::daemon::{self, End, LAST, Under};
use crate::program::{Actor, Call, Observed, Side, Step, Verb};
use crate::protocol::Ending;
use crate::script;

impl Conductor<'_> {
    /// What a step means where the daemon is somebody else's; `None` if it means what it always means.
    pub(super) fn foreign(&mut self, step: &Step) -> Option<Did> {
        let launch = self.launch?;
        if let Some(under) = self.under.as_mut().filter(|_| step.actor.side != Side::Daemon) {
            under.step(&script::print_step(step));
        }
        match (&step.verb, step.actor.side) {
            (Verb::Call(call), Side::Host) if call.name == "abort" => {
                // Without its connection a daemon has nothing to stay for.
                self.under.as_mut().into_iter().for_each(Under::may_go);
                None
            }
            (Verb::Call(call), Side::Host) if is_about_daemon(call) => {
                let signal = if call.name == "kill" { "SIGKILL" } else { call.text("signal") };
                Some(Did::Observed(self.send_signal(signal)))
            }
            (_, Side::App | Side::Host) => None,
            (Verb::Call(call), Side::Daemon) if call.name == "mount" && self.under.is_none() => {
                let base = &self.stage.base;
                let (source, mount, trace) =
                    (base.join("lower"), base.join("mnt"), base.join("images/trace"));
                Some(match daemon::start(launch, &source, &mount, &trace) {
                    Ok(under) => {
                        self.under = Some(under);
                        self.for_whom()
                    }
                    Err(why) => Did::Wrong(why),
                })
            }
            // What ours would be told to answer is this one's own business.
            (Verb::On { .. }, Side::Daemon) => Some(Did::Nothing),
            _ => Some(Did::Wrong("the daemon is somebody else's and cannot be told what to do".into())),
        }
    }

    /// A workload that acts as several users says something only where several may use the mount.
    fn for_whom(&self) -> Did {
        let options = options_of(&self.stage.base.join("mnt")).unwrap_or_default();
        if self.acts_as_others && !options.split(',').any(|option| option == "allow_other") {
            let why = "the workload acts as several users, and the mount is for one: give the daemon its option allow_other";
            return Did::Wrong(why.into());
        }
        Did::Observed(Observed::Int(0))
    }

    /// Whom an application works for: who runs the daemon, as nobody else may look at a user's mount.
    pub(super) fn user_of(&self, actor: Actor) -> Option<(u32, u32)> {
        self.launch.filter(|_| actor.side == Side::App)?.user
    }

    fn send_signal(&mut self, signal: &str) -> Observed {
        match (&mut self.under, signal.parse::<Signal>()) {
            (Some(under), Ok(signal)) => {
                if signal == Signal::SIGKILL {
                    under.is_to_be_killed();
                }
                match under.signal(signal) {
                    Ok(()) => Observed::Int(0),
                    Err(errno) => Observed::Errno(errno as i32),
                }
            }
            _ => Observed::Impossible("no daemon was started, or no such signal".into()),
        }
    }

    /// The mount is about to go: what counts for the daemon is what it did until now.
    pub(super) fn mount_goes(&mut self, mounted: bool, ending: &mut Ending) {
        let Some(under) = &mut self.under else { return };
        under.step(LAST);
        let terminated = self.launch.is_some_and(|launch| launch.terminated);
        if terminated && mounted && !under.is_over(Duration::ZERO) {
            let stage = &self.stage;
            let is_mounted = || stage.mounts().iter().any(|at| at.ends_with(mount_name(1)));
            let end = under.terminate(is_mounted);
            ending.daemon = Some(end);
            if end != End::Deaf {
                self.trace = see_off(&mut self.under, Some(end), ending);
            }
            return;
        }
        let over = mounted && under.is_over(Duration::ZERO);
        if over || !mounted {
            let early = over && !under.is_free_to_go();
            self.trace = see_off(&mut self.under, early.then_some(End::Early), ending);
        }
    }
}

/// See the daemon off; gives what was recorded. How it ended may be known already.
pub(super) fn see_off(under: &mut Option<Under>, known: Option<End>, ending: &mut Ending) -> Vec<u8> {
    let Some(under) = under.take() else { return Vec::new() };
    let killed = under.was_killed();
    let (end, trace) = under.end();
    ending.daemon = (!killed).then(|| known.unwrap_or(end));
    trace
}

fn is_about_daemon(call: &Call) -> bool {
    matches!(call.name.as_str(), "kill" | "signal") && call.text("actor").starts_with("daemon")
}
