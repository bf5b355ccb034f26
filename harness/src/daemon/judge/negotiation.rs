//! INIT: what the daemon asks for, and whether that can be had.

use std::collections::BTreeSet;

use super::super::decode::{Asked, Told};
use super::Judgement;
use crate::abi::Opcode;
use crate::program::flags;

/// `include/uapi/linux/fuse.h`, the second word of flags above the first.
const INIT_EXT: u64 = 1 << 30;
const WRITEBACK_CACHE: u64 = 1 << 16;
const PASSTHROUGH: u64 = 1 << 37;
/// `fs/fuse/inode.c`, process_init_reply(): up to FILESYSTEM_MAX_STACK_DEPTH.
const DEPTHS: std::ops::RangeInclusive<i128> = 1..=2;

/// The connections that asked for passthrough, in vain or not.
#[derive(Default)]
pub(super) struct Negotiations(BTreeSet<usize>);

impl Negotiations {
    /// A request had its reply.
    pub(super) fn answered(&mut self, bench: &mut Judgement, index: usize, asked: &Asked, told: &Told) {
        if asked.message.opcode() != Opcode::INIT || told.error() != 0 {
            return;
        }
        let both = |low: i128, high: i128| low as u64 | (high as u64) << 32;
        let offered = both(asked.message.field("flags"), asked.message.field("flags2"));
        let said = |name| told.field(Opcode::INIT, name).unwrap_or(0);
        let wanted = both(said("flags"), said("flags2"));
        let foreign = wanted & !offered;
        bench.met(
            "DMN-01",
            index,
            (foreign != 0).then(|| {
                let (low, high) =
                    (flags::INIT.print(foreign & 0xffff_ffff), flags::INIT2.print(foreign >> 32));
                format!(
                    "asks for what the kernel does not offer: {}",
                    [low, high].into_iter().filter(|part| part != "0").collect::<Vec<_>>().join(", ")
                )
            }),
        );
        if wanted & PASSTHROUGH == 0 {
            return;
        }
        let depth = said("max_stack_depth");
        let extended = wanted & INIT_EXT != 0;
        let writes_back = wanted & WRITEBACK_CACHE != 0;
        bench.met(
            "DMN-02",
            index,
            (!extended).then(|| "PASSTHROUGH without INIT_EXT: the second word of flags is not read".into()),
        );
        bench.met(
            "DMN-03",
            index,
            (!DEPTHS.contains(&depth))
                .then(|| format!("PASSTHROUGH with max_stack_depth={depth}: expected 1 or 2")),
        );
        bench.met(
            "DMN-04",
            index,
            writes_back.then(|| "PASSTHROUGH with WRITEBACK_CACHE: the kernel leaves passthrough out".into()),
        );
        self.0.insert(asked.connection);
    }

    /// BACKING_OPEN was called.
    pub(super) fn registers(&self, bench: &mut Judgement, index: usize, connection: usize) {
        // One that asked in vain broke another rule already.
        let never_asked = !self.0.contains(&connection);
        bench.met(
            "DMN-05",
            index,
            never_asked.then(|| "BACKING_OPEN on a connection that has not agreed to passthrough".into()),
        );
    }
}
