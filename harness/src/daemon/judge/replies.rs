//! Replies as such: whole, once, to who asked.

use super::super::decode::{Story, Told, What, unanswered};
use super::super::trace::Event;
use super::Judgement;
use crate::abi::{Opcode, fuse_out_header};
use crate::program::flags::errno_name;
use nix::libc;

/// One reply.
pub(super) fn judge(bench: &mut Judgement, story: &Story, index: usize, told: &Told) {
    const HEADER: u64 = size_of::<fuse_out_header>() as u64;
    let Some(header) = told.header else {
        let why = format!("a message of {} bytes has no header", told.len);
        return bench.met("DMN-40", index, Some(why));
    };
    if header.unique == 0 {
        // A notification: whether the kernel takes it depends on what is cached.
        return;
    }
    let Some(asked) = told.to.and_then(|to| story.asked(to)) else {
        let why = format!("a reply to unique {}, which no request on this connection had", header.unique);
        return bench.met("DMN-41", index, Some(why));
    };
    let opcode = asked.message.opcode();
    let about = format!("{opcode} {:?}", asked.path);
    if matches!(opcode, Opcode::FORGET | Opcode::BATCH_FORGET) {
        return bench.met("DMN-44", index, Some(format!("a reply to {opcode}, which has none")));
    }
    bench.met("DMN-41", index, None);
    bench.met("DMN-42", index, told.again.then(|| format!("{about} had its reply before")));
    if told.again {
        return;
    }
    // `fs/fuse/dev.c`, fuse_dev_do_write().
    let in_range = (-511..=0).contains(&header.error);
    bench.met(
        "DMN-43",
        index,
        (!in_range).then(|| format!("{about}: error {} is out of range", header.error)),
    );
    let payload = told.len.saturating_sub(HEADER);
    let fixed: usize = opcode.reply_parts().iter().map(|(_, size)| size).sum();
    let wrong = if told.len != u64::from(header.len) {
        Some(format!("{about}: the header says {} bytes, {} are written", header.len, told.len))
    } else if header.error != 0 && payload != 0 {
        Some(format!("{about}: {payload} bytes behind {}", errno_name(header.error.wrapping_neg())))
    } else if header.error == 0 && told.result == Some(-i64::from(libc::EINVAL)) {
        Some(format!("{about}: {payload} bytes of payload, {fixed} are expected"))
    } else {
        None
    };
    bench.met("DMN-40", index, wrong.filter(|_| in_range));
}

/// What was never answered, although there was time. What was still on its way at the end of the connection has no answer.
pub(super) fn end(bench: &mut Judgement, story: &Story) {
    let is_gone = |what: &What| matches!(what, What::NoRequest { errno: libc::ENODEV, .. });
    let is_end = |what: &What| matches!(what, What::Other(Event::Ended { .. }));
    let gone = story.deeds.iter().position(|deed| is_gone(&deed.what));
    let end = gone.or_else(|| story.deeds.iter().rposition(|deed| is_end(&deed.what)));
    let end = end.unwrap_or(story.deeds.len());
    for index in unanswered(story).into_iter().filter(|index| *index < end) {
        let Some(asked) = story.asked(index) else { continue };
        let until = story.deeds.get(end).map_or(0, |deed| deed.micros);
        let had_time = until.saturating_sub(story.deeds[index].micros) > LONG;
        if had_time && !matches!(asked.message.opcode(), Opcode::SETLKW | Opcode::POLL | Opcode::DESTROY) {
            let why = format!("{} {:?} is never answered", asked.message.opcode(), asked.path);
            bench.met("DMN-45", index, Some(why));
        }
    }
    if story.deeds.iter().any(|deed| matches!(deed.what, What::Told(_))) {
        bench.met("DMN-45", 0, None);
    }
}

/// Microseconds that are enough for any answer.
const LONG: u64 = 2_000_000;

/// The step with which a workload's conductor takes the mount down.
pub(crate) const LAST: &str = "the mount is taken down";
