//! What a script can ask for that virtio-fs has not: its daemon has no device file, and its mount no connection in fusectl.

use crate::program::{Call, OVER_VIRTIOFS, Profile, Program, Reply, Side, Step, Verb};

const NO_FILE: &str = "there is no device file to act on";
const NO_IDS: &str = "backing ids are registered by an ioctl of a device file, and there is none";
const NO_OPTIONS: &str = "it takes no mount options";
const NO_CONTROL: &str = "its connections are not in fusectl, and cannot be aborted";
const NO_NAMESPACE: &str = "it cannot be mounted in a user namespace";
const NO_END: &str = "its connection does not end with its daemon, and nobody else would answer";
const BY_PLACE: &str = "an answer belongs to a request by its place in the queue, however it is given";

/// Why this program cannot be run, or not without what makes it what it is.
pub(super) fn obstacle(program: &Program, profile: &Profile) -> Option<&'static str> {
    // What is about virtio-fs knows what it does.
    let knows = program.needs.iter().any(|need| need.present && need.capability == OVER_VIRTIOFS);
    if knows {
        return None;
    }
    let one_run = program.failing().is_none() && program.stress.is_none();
    let no_ids = (asks_for_ids(program, profile) && !one_run).then_some(NO_IDS);
    no_ids.or_else(|| steps(program, profile).find_map(in_step))
}

/// Does it register files, or close ids?
pub(super) fn asks_for_ids(program: &Program, profile: &Profile) -> bool {
    steps(program, profile).any(|step| match &step.verb {
        Verb::Call(call) | Verb::Start { call, .. } => {
            step.actor.side == Side::Daemon
                && matches!(call.name.as_str(), "backing_open" | "backing_close" | "backing_open_many")
        }
        _ => false,
    })
}

fn steps<'a>(program: &'a Program, profile: &'a Profile) -> impl Iterator<Item = &'a Step> {
    program.steps.iter().filter(|step| profile.meets(&step.when))
}

fn in_step(step: &Step) -> Option<&'static str> {
    match &step.verb {
        Verb::Call(call) | Verb::Start { call, .. } => in_call(step.actor.side, call),
        Verb::On { reply, .. } | Verb::Answer { reply, .. } => in_reply(reply),
        Verb::Blocks { .. } | Verb::Await { .. } | Verb::Saw(_) => None,
    }
}

fn in_call(side: Side, call: &Call) -> Option<&'static str> {
    let given = |name| call.arg(name).is_some();
    match (side, call.name.as_str()) {
        (
            Side::Daemon,
            "open_device" | "device" | "backing_open_many" | "clone_device" | "use_clone" | "close_device"
            | "device_ioctl" | "send" | "read_device" | "take_request" | "poll_device",
        ) => Some(NO_FILE),
        (Side::Daemon, name) if name.starts_with("ring_") => Some(NO_FILE),
        (Side::Daemon, "mount") if ["kind", "without", "over", "options"].into_iter().any(given) => {
            Some(NO_OPTIONS)
        }
        (Side::Daemon, "exit") => Some(NO_END),
        (Side::Daemon, "unshare_user") => Some(NO_NAMESPACE),
        (_, "kill") if call.text("actor").starts_with("daemon") => Some(NO_END),
        (Side::Host, "abort" | "control") => Some(NO_CONTROL),
        (Side::Host, "umount") if call.text("flags") == "force" => Some(NO_CONTROL),
        _ => None,
    }
}

fn in_reply(reply: &Reply) -> Option<&'static str> {
    match reply {
        Reply::Die => Some(NO_END),
        Reply::Fields(fields) | Reply::Claim(fields)
            if fields.iter().any(|(name, _)| matches!(name.as_str(), "via" | "unique" | "len" | "pipes")) =>
        {
            Some(BY_PLACE)
        }
        _ => None,
    }
}
