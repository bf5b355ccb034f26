//! What the host and the agent say to each other, and the record of a case that comes of it.
//!
//! The agent runs next to the kernel under test (PID 1 of a guest, or a child in private namespaces on the running
//! kernel). Everything it says is hostile input for the host: it is parsed, bounded and timed there.

use qemu::console::Leak;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::abi::{Incoming, Opcode};
use crate::bench::{Bare, Job, Told};
use crate::daemon::{End, Launch};
use crate::generate::Inputs;
use crate::program::{Data, Observed, Profile, Program, Transport};

/// A message as it travels over the link.
///
/// # Errors
/// None that plain data can provoke.
pub fn encode<T: Serialize>(message: &T) -> postcard::Result<Vec<u8>> {
    postcard::to_stdvec(message)
}

/// The message in these bytes.
///
/// # Errors
/// They are no message of that kind.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> postcard::Result<T> {
    postcard::from_bytes(bytes)
}

/// What the host asks of the agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Run this program and report each step.
    Run {
        /// The program.
        program: Box<Program>,
        /// What the kernel can do: steps and laws depend on it.
        profile: Profile,
        /// How.
        how: How,
    },
    /// The same on the mount of somebody else's daemon, which is recorded: it is started where the program mounts.
    Watch {
        /// The program.
        program: Box<Program>,
        /// What the kernel can do.
        profile: Profile,
        /// The daemon.
        launch: Launch,
    },
    /// Inputs for the fuzz run to come: several messages of them, as a message is bounded.
    Seeds(Vec<Vec<u8>>),
    /// Run a fuzz target until the link is closed, and tell of it once a second.
    Fuzz {
        /// The target's path, there.
        program: std::path::PathBuf,
        /// What the kernel can do: the oracle depends on it.
        profile: Profile,
        /// The kernel's instrumented places, by address.
        places: Vec<u64>,
        /// The seed of all choices.
        seed: u32,
    },
    /// Run these inputs of a fuzz target one after the other, each as the target does, and tell of the last one.
    Again {
        /// What carries requests and answers.
        over: Transport,
        /// What the inputs mean.
        sort: Inputs,
        /// The inputs.
        inputs: Vec<Vec<u8>>,
        /// What the kernel can do: the oracle depends on it.
        profile: Profile,
    },
    /// Measure how long work takes in several ways, and tell of each turn.
    Bench(Box<Job>),
    /// Measure what is bare.
    Bare {
        /// So many mounts, and one more for the messages.
        mounts: u32,
        /// So many messages.
        messages: u32,
    },
    /// Say what memory nobody points to any more, since the last time. Only where the kernel finds it out, and it takes
    /// longer than most cases.
    Leaks,
}

/// How a program is run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct How {
    /// What carries requests and replies.
    pub transport: Transport,
    /// When steps are told.
    pub pace: Pace,
    /// Which allocation of the failing step fails; without one that step is like any other.
    pub failing: Option<u32>,
    /// The seed of the delays between steps, for a case that is run to find a race.
    pub shake: Option<u64>,
    /// Nothing is expected of a step, and one that names what an earlier one did not give is left out: the program is run
    /// where that cannot be had.
    pub lawless: bool,
}

/// When steps are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// Several together: fast, and a machine that dies takes its last few milliseconds along.
    Fast,
    /// Each at once.
    Careful,
}

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// First word, unasked: the agent is ready.
    Hello {
        /// `uname -r`.
        release: String,
        /// Whether the kernel's debug messages tell the errno behind an EIO.
        inner_errno: bool,
        /// Whether the kernel finds leaks: each [`Ending`] says when its program began, and [`Order::Leaks`] is obeyed.
        finds_leaks: bool,
    },
    /// Steps of the running program are over.
    Steps(Vec<StepRecord>),
    /// A part of the recording of the running program's daemon: before its end, as a message is bounded.
    Trace(Vec<u8>),
    /// The running program is over.
    End(Ending),
    /// What leaked.
    Leaks(Vec<Leak>),
    /// How a fuzz run goes.
    Fuzzing(Fuzzing),
    /// What was wrong with the last of the inputs that were run again, if something was.
    Again(Option<Odd>),
    /// How a benchmark goes.
    Bench(Told),
    /// What is bare.
    Bare(Bare),
    /// The agent could not do what it was asked.
    Trouble(String),
}

/// How a fuzz run goes; figures count from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fuzzing {
    /// Inputs that were run.
    pub execs: u64,
    /// Steps of programs that were run, those of prologues among them.
    pub steps: u64,
    /// Programs in which an open was taken for passthrough.
    pub opens: u64,
    /// Those of them in which data went through such a file.
    pub data: u64,
    /// Instrumented places of the kernel that were passed for the first time, by their numbers in the order.
    pub places: Vec<u16>,
    /// Inputs that are new in the corpus.
    pub units: Vec<Vec<u8>>,
    /// What is not as it should be although the kernel lives.
    pub odd: Vec<Odd>,
    /// Which of the first inputs brought nothing that those before them had not, by their numbers, once that is known.
    pub dull: Option<Vec<u32>>,
    /// Why the target does not go on, if so.
    pub end: Option<String>,
}

/// A program after which something was not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Odd {
    /// The program, as bytes.
    pub bytes: Vec<u8>,
    /// What sort of thing.
    pub kind: OddKind,
    /// Where: the call that led to something else, the kernel's function that hangs.
    pub function: String,
    /// What else makes two such things the same.
    pub key: String,
    /// What is wrong.
    pub why: String,
    /// What came of its steps.
    pub records: Vec<StepRecord>,
    /// What its daemon received after the last step.
    pub rest: Vec<Traffic>,
}

/// What is wrong although the kernel lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OddKind {
    /// The oracle forbids what a step led to.
    Oracle,
    /// Something stays behind.
    Behind,
    /// A call does not come back.
    Hang,
    /// The daemon ended by itself.
    Ended,
}

impl std::fmt::Display for OddKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            OddKind::Oracle => "oracle",
            OddKind::Behind => "behind",
            OddKind::Hang => "hang",
            OddKind::Ended => "ended",
        })
    }
}

/// What came of one step.
#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which of the program's steps.
    pub index: usize,
    /// What was observed; `None` where the verb has no outcome.
    pub observed: Option<Observed>,
    /// For an `EIO`: the errno that the kernel had inside, where its debug messages tell.
    pub inner: Option<i32>,
    /// Why the step disagrees with its law; `None` if it agrees.
    pub wrong: Option<String>,
    /// Of the failing step: whether an allocation was made to fail.
    pub struck: Option<bool>,
    /// What the daemons received meanwhile.
    pub traffic: Vec<Traffic>,
    /// What the kernel logged meanwhile.
    pub kernel: Vec<String>,
}

/// One request as a daemon received and answered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Which daemon.
    pub daemon: u8,
    /// The opcode.
    pub opcode: Opcode,
    /// The file it is about, relative to the mount's root.
    pub path: String,
    /// Fields of header and body, under the kernel's names.
    pub fields: Vec<(String, i128)>,
    /// What follows the fixed part and is no name: the bytes of a WRITE or an attribute's value.
    pub data: Option<Data>,
    /// What it came over.
    pub over: Transport,
    /// What the daemon did.
    pub answer: Answer,
}

impl Traffic {
    /// A request that nothing was done with yet.
    pub fn new(daemon: u8, path: String, request: &Incoming, over: Transport) -> Traffic {
        let data = match request.opcode() {
            // Of a message that is not whole they would be others.
            Opcode::WRITE | Opcode::NOTIFY_REPLY if request.is_whole() => Some(request.tail().to_vec()),
            Opcode::GETXATTR | Opcode::SETXATTR | Opcode::REMOVEXATTR => {
                request.names().into_iter().next().map(String::into_bytes)
            }
            _ => None,
        };
        let (opcode, fields) = (request.opcode(), request.fields());
        Traffic { daemon, opcode, path, fields, data: data.map(Data), over, answer: Answer::None }
    }
}

/// What a daemon did with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// There is no answer to this opcode.
    None,
    /// Replied without error.
    Reply {
        /// Fields that differ from the loopback's own answer, as the script gave them.
        fields: Vec<(String, i128)>,
        /// The result of write(2), as an errno; 0 for success.
        errno: i32,
    },
    /// Replied with an error.
    Error {
        /// The errno in the reply's header.
        error: i32,
        /// The result of write(2), as an errno; 0 for success.
        errno: i32,
    },
    /// Kept under this name.
    Held(String),
    /// Not answered.
    Dropped,
    /// The daemon ended itself.
    Died,
}

impl Answer {
    /// In place of an errno: write(2) took a part of the message only.
    pub const IN_PART: i32 = i32::MAX;
}

/// How a program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// What the daemons received while the applications were ended.
    pub traffic: Vec<Traffic>,
    /// Scripted replies that no request came for.
    pub left_over: Vec<String>,
    /// What still held a file system that should have been free.
    pub leak: Option<String>,
    /// Something is stuck in the kernel; this machine must not run another case.
    pub stuck: Option<String>,
    /// The kernel's log since the last step.
    pub kernel: Vec<String>,
    /// How the recorded daemon ended, if one was started.
    pub daemon: Option<End>,
    /// Milliseconds from the first step to here.
    pub millis: u64,
    /// When the program began, in the kernel's own count; only where the kernel finds leaks.
    pub began: Option<u64>,
}
