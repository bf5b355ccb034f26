//! The target `raw_write`: bytes for the device, while a stage stands that they may meet.
//!
//! To set a stage takes as long as hundreds of messages, so one stands until a request is gone that an input asks for. A process
//! keeps to one stage, which its seed chooses: inputs for another one are none of its business.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;

use super::super::arena::Run;
use super::odd::{Wrong, left};
use super::{Counters, Ground, reached};
use crate::abi::Opcode;
use crate::generate;
use crate::program::{Program, Transport};
use crate::protocol::{Odd, OddKind};
use crate::transcript;

struct Raw {
    ground: Ground,
    stage: usize,
    program: Program,
    held: Vec<String>,
    run: Option<Run>,
    /// Held requests that were answered by now.
    gone: BTreeSet<usize>,
    /// Whether the stage has a passthrough open, and data through it.
    reached: (bool, bool),
    inputs: u32,
}

/// A stage is set anew after so many inputs, to see what they left behind.
const MOST_INPUTS: u32 = 20_000;

/// To read the kernel's log takes as long as a message: it is done now and then, and the input is one of the latest then.
const BETWEEN_COMPLAINTS: u32 = 256;

thread_local! {
    static RAW: RefCell<Option<Raw>> = const { RefCell::new(None) };
}

/// One input: messages. `counters` are those of libFuzzer. Says whether it was for the stage of this process.
///
/// # Panics
/// The stage cannot be set, which no input should be able to bring about: libFuzzer tells of the input.
pub fn raw_write(bytes: &[u8], counters: &Counters) -> bool {
    RAW.with_borrow_mut(|raw| {
        let raw = raw.get_or_insert_with(|| Raw::enter().expect("the agent has laid everything down"));
        if generate::stage_of(bytes) != raw.stage {
            return false;
        }
        raw.ground.last.write(bytes);
        let counters = counters.lent();
        raw.run(bytes, counters).expect("the stage can be set");
        raw.ground.sift(bytes, counters).expect("the folder takes a file");
        true
    })
}

/// Run known inputs, and see what they left behind.
pub(super) fn again(inputs: &[Vec<u8>]) -> io::Result<()> {
    let mut raw = Raw::enter()?;
    inputs.iter().try_for_each(|input| raw.run(input, &mut []))?;
    raw.ground.hear_complaint()?;
    raw.strike(inputs.last().map_or(&[], Vec::as_slice))
}

impl Raw {
    fn enter() -> io::Result<Raw> {
        let ground = Ground::enter(Transport::Plain)?;
        let stage = generate::stage_for(ground.brief.seed);
        let program = generate::stage(stage);
        let held = generate::held(&program.steps);
        let (gone, reached) = (BTreeSet::new(), (false, false));
        Ok(Raw { ground, stage, program, held, run: None, gone, reached, inputs: 0 })
    }

    fn run(&mut self, bytes: &[u8], counters: &mut [u8]) -> io::Result<()> {
        let messages = generate::messages(bytes);
        let asked = |message: &generate::Message| message.request(self.held.len());
        if messages.iter().filter_map(asked).any(|request| self.gone.contains(&request))
            || self.inputs >= MOST_INPUTS
        {
            self.strike(bytes)?;
        }
        let mut run = match self.run.take() {
            Some(run) => run,
            None => self.set()?,
        };
        self.inputs += 1;
        if self.inputs.is_multiple_of(BETWEEN_COMPLAINTS) {
            self.ground.hear_complaint()?;
        }
        self.ground.arena.clear(&run);
        let mut odd = None;
        let steps = messages.len();
        for message in messages {
            let (request, via) = (message.request(self.held.len()), message.via());
            let mut bytes = message.bytes;
            let unique = request.and_then(|request| run.unique(&self.held[request]));
            if let (Some(unique), Some(room)) = (unique, bytes.get_mut(8..16)) {
                room.copy_from_slice(&unique.to_le_bytes());
            }
            let Ok(taken) = run.write(&bytes, via) else { continue };
            if taken != bytes.len() {
                odd = Some(format!("a message of {} bytes: the device takes {taken}", bytes.len()));
            }
            self.gone.extend(request);
            // Requests that it was given again are answered like any others.
            let is_new = |opcode| !matches!(opcode, Opcode::FORGET | Opcode::NOTIFY_REPLY);
            if run.received().iter().any(|traffic| is_new(traffic.opcode)) {
                self.gone.extend(0..self.held.len());
            }
        }
        self.ground.count(Some(&run), counters);
        self.run = Some(run);
        self.ground.tally(steps, self.reached);
        self.report(bytes, odd.map(|why| (OddKind::Oracle, "send".into(), "length".into(), why)))
    }

    /// Write down what is wrong, if something is.
    fn report(&mut self, input: &[u8], wrong: Option<Wrong>) -> io::Result<()> {
        let Some((kind, function, key, why)) = wrong else { return Ok(()) };
        let (bytes, records, rest) = (input.to_vec(), Vec::new(), Vec::new());
        self.ground.report(&Odd { bytes, kind, function, key, why, records, rest })
    }

    fn set(&mut self) -> io::Result<Run> {
        let run = self.ground.arena.begin(&self.program)?;
        if let Some(missing) = self.held.iter().find(|held| run.unique(held).is_none()) {
            let records = transcript::transcript(&self.program, run.records(), &Default::default());
            return Err(io::Error::other(format!("no request is held as `{missing}`:\n{records}")));
        }
        self.reached = reached(&self.program, run.records());
        self.gone.clear();
        self.inputs = 0;
        Ok(run)
    }

    /// Take the stage down, and see what stays.
    fn strike(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let ran = self.ground.arena.finish(run)?;
        self.report(bytes, left(&ran))
    }
}
