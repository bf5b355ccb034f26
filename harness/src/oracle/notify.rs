//! Messages that the daemon sends unasked.

use super::daemon::Phase;
use super::numbers::*;
use super::ruling::{Doubt, Given, Ruled, Stop, UNSURE};
use super::world::*;
use crate::abi::Opcode;

/// The longest name a notification may carry, unless more pages were negotiated.
const LONGEST: u64 = 1024;

fn word(payload: &[u8], at: usize) -> u64 {
    let bytes: [u8; 8] = payload.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    u64::from_le_bytes(bytes)
}

impl World {
    pub(super) fn notify(&mut self, number: u8, code: i128, payload: &[u8], total: i128) -> Ruled {
        let connection = self.connection(number);
        self.refuse(
            connection.phase == Phase::Waiting && self.has("notify_needs_init"),
            "NOTIFY-01",
            EINVAL,
        )?;
        let ended = connection.phase == Phase::Ended;
        self.refuse(ended && self.has("notify_needs_connection"), "NOTIFY-02", EINVAL)?;
        self.unless(total != 16 + payload.len() as i128, Doubt::Everything)?;
        let len = payload.len() as u64;
        let sent = |rule| Ok(Given::int(total as u64, &[rule]));
        match code {
            1 => {
                self.refuse(len != 8, "NOTIFY-06", EINVAL)?;
                sent("NOTIFY-07")
            }
            2 => {
                self.refuse(len != 24, "NOTIFY-09", EINVAL)?;
                let node = self.inode(number, word(payload, 0), "NOTIFY-10")?;
                if let Some(node) = node {
                    let state = &mut self.nodes[node];
                    state.set_freshness(Fresh::No);
                    if word(payload, 8) as i64 >= 0 && state.cache != Cache::Empty {
                        let all = word(payload, 8) == 0 && word(payload, 16) as i64 <= 0;
                        state.cache = if all { Cache::Empty } else { Cache::Unknown };
                    }
                }
                sent("NOTIFY-05")
            }
            3 => self.invalidate_entry(number, payload, 0, total),
            6 => self.invalidate_entry(number, payload, 8, total),
            4 => {
                let size = word(payload, 16) & 0xffff_ffff;
                self.refuse(len < 24 || len - 24 != size, "NOTIFY-25", EINVAL)?;
                self.unless(word(payload, 8) > 1 << 22 || size == 0, Doubt::Everything)?;
                match self.inode(number, word(payload, 0), "NOTIFY-27")? {
                    None => self.refuse(self.has("notify_type_check"), "NOTIFY-28", EINVAL)?,
                    Some(node) => {
                        let end = word(payload, 8) + size;
                        let state = &mut self.nodes[node];
                        state.cache = Cache::Unknown;
                        state.size = state.size.map(|old| if size > 0 { old.max(end) } else { old });
                        // Whether that made the attributes stale is not followed.
                        state.fresh = if state.fresh == Fresh::Yes { Fresh::Unknown } else { state.fresh };
                    }
                }
                sent("NOTIFY-31")
            }
            5 => {
                self.refuse(len != 32, "NOTIFY-33", EINVAL)?;
                let beyond = word(payload, 16) >= i64::MAX as u64;
                self.refuse(beyond && self.has("notify_store_limit"), "NOTIFY-34", EINVAL)?;
                let node = self.inode(number, word(payload, 8), "NOTIFY-34")?;
                self.refuse(node.is_none() && self.has("notify_type_check"), "NOTIFY-34", EINVAL)?;
                self.unless(connection.phase != Phase::On, Doubt::Everything)?;
                let path = node.map_or(String::new(), |node| self.nodes[node].path.clone());
                self.log(number, Opcode::NOTIFY_REPLY, &path, 1, 1);
                sent("NOTIFY-35")
            }
            7 => {
                self.refuse(!self.has("notify_resend"), "NOTIFY-40", EINVAL)?;
                let held = &self.daemon(number).held;
                let pending: Vec<String> =
                    held.iter().filter(|(_, held)| !held.over).map(|(name, _)| name.clone()).collect();
                // What comes twice has one number: which it is under which name is not followed.
                let again = self.daemon(number).unsteady && !pending.is_empty();
                self.daemon(number).unsteady = !pending.is_empty();
                self.unless(again, Doubt::Everything)?;
                if let [name] = pending.as_slice() {
                    // NOTIFY-41: it comes again, and is nobody's under its old unique.
                    self.daemon(number).held.values_mut().for_each(|held| held.over = true);
                    self.resent.push((number, name.clone()));
                } else if !pending.is_empty() {
                    // In which order several come is not followed.
                    return Err(UNSURE);
                }
                sent("NOTIFY-40")
            }
            8 | 9 => Err(UNSURE),
            _ => {
                self.refuse(true, "NOTIFY-04", EINVAL)?;
                sent("NOTIFY-04")
            }
        }
    }

    /// The inode of that number, or the root for `None`.
    fn inode(&mut self, number: u8, id: u64, rule: &'static str) -> Result<Option<usize>, Stop> {
        let connection = self.connection(number);
        self.refuse(!connection.mounted, "NOTIFY-03", ENOENT)?;
        if id == 1 {
            return Ok(None);
        }
        let node = self.nodes.iter().position(|node| node.daemon == number && node.id == Some(id));
        // Without a name or a file the kernel forgets it, sooner or later.
        let is_named = |node: usize| self.nodes[node].named || self.is_open(node);
        self.unless(node.is_some_and(|node| !is_named(node)), Doubt::Everything)?;
        self.unless(self.foggy && node.is_none(), Doubt::Everything)?;
        self.refuse(node.is_none(), rule, ENOENT)?;
        Ok(node)
    }

    /// INVAL_ENTRY, or DELETE with the child's number in 8 more bytes.
    fn invalidate_entry(&mut self, number: u8, payload: &[u8], more: u64, total: i128) -> Ruled {
        let len = payload.len() as u64;
        let (short, total_rule) =
            if more == 0 { ("NOTIFY-15", "NOTIFY-17") } else { ("NOTIFY-21", "NOTIFY-21") };
        self.refuse(len < 16 + more, short, EINVAL)?;
        let name_len = word(payload, 8 + more as usize) & 0xffff_ffff;
        self.unless(self.flag(number, MAX_PAGES), Doubt::Everything)?;
        // Flags: a name may be made to be asked for again, and stay.
        let flags = if more == 0 { word(payload, 8) >> 32 } else { 0 };
        self.unless(flags != 0 && self.has("notify_expire"), Doubt::Everything)?;
        self.refuse(name_len > LONGEST, "NOTIFY-16", ENAMETOOLONG)?;
        self.refuse(len != 16 + more + name_len + 1, total_rule, EINVAL)?;
        let parent = self.inode(number, word(payload, 0), "NOTIFY-19")?;
        self.refuse(parent.is_some(), "NOTIFY-19", ENOTDIR)?;
        let start = (16 + more) as usize;
        let name = String::from_utf8_lossy(&payload[start..start + name_len as usize]).into_owned();
        let absent = self.daemon(number).connection.absent.remove(&name);
        self.unless(absent, Doubt::Everything)?;
        let node = self.named_node(number, &name);
        let missed = self.connection(number).missed.contains(&name);
        // A name whose time is over is there for as long as a file holds it.
        let is_held = |at: usize| self.nodes[at].is_at(number, &name) && self.is_open(at);
        let missed = missed || (0..self.nodes.len()).any(is_held);
        self.unless(node.is_none() && (missed || self.foggy), Doubt::Everything)?;
        let node = self.required(node, "NOTIFY-19", ENOENT)?;
        self.nodes[node].named = false;
        let child = if more == 0 { 0 } else { word(payload, 8) };
        self.refuse(child != 0 && self.nodes[node].id != Some(child), "NOTIFY-22", ENOENT)?;
        if child != 0 {
            self.nodes[node].fresh = Fresh::Unknown;
            self.doubt(Doubt::Traffic);
        }
        Ok(Given::int(total as u64, &["NOTIFY-05"]))
    }
}
