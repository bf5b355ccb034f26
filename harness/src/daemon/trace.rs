//! A trace: what passed between a daemon and its device, in the order that the kernel saw it.
//!
//! A file is a first line, then one frame an event: length, and a compact encoding. Order is the point: requests and
//! new backing ids stand where the system call that brought them returned, replies and closed ids where theirs began.
//! Reading is strict and bounded, as traces come from elsewhere: damage is an error that names the place. Nothing here
//! does I/O.

use serde::{Deserialize, Serialize};

/// The first line of every trace.
pub const FIRST_LINE: &[u8] = b"fuseproof trace 1\n";
/// The most bytes that an event takes.
const MOST: usize = 1 << 20;

/// An event, when it was and whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Microseconds since the recording began.
    pub micros: u64,
    /// The thread, by its number in the recorder's pid namespace; 0 for the recorder itself.
    pub task: i32,
    /// What happened.
    pub event: Event,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The first: what is recorded.
    Starts {
        /// The command, as it was run.
        command: Vec<String>,
        /// The folder that is to be shown.
        source: String,
        /// Where it is to be mounted.
        mount: String,
    },
    /// The workload's step that begins here.
    Step(String),
    /// A request was read.
    Request {
        /// Over which device.
        device: u32,
        /// The message.
        message: Cut,
    },
    /// Reading failed: for `ENODEV` the connection is at its end.
    NoRequest {
        /// Of which device.
        device: u32,
        /// Why.
        errno: i32,
    },
    /// A reply or a notification is about to be written.
    Reply {
        /// The system call, whose result comes later.
        call: u32,
        /// Over which device.
        device: u32,
        /// The message.
        message: Cut,
    },
    /// FUSE_DEV_IOC_BACKING_OPEN is back.
    BackingOpen {
        /// On which device.
        device: u32,
        /// What was to be registered; none if the argument could not be read or names no open file.
        file: Option<Lower>,
        /// `flags` and `padding` of the argument.
        rest: (u32, u64),
        /// The file system user of the thread, whose credentials the id keeps.
        fsuid: u32,
        /// The id, or an errno below zero.
        result: i32,
        /// The recorder refused it in the kernel's place.
        injected: bool,
    },
    /// FUSE_DEV_IOC_BACKING_CLOSE is about to be made.
    BackingClose {
        /// The system call, whose result comes later.
        call: u32,
        /// On which device.
        device: u32,
        /// The id; none if the argument could not be read.
        id: Option<u32>,
    },
    /// What came of an earlier call: a number of bytes or 0, or an errno below zero.
    Returned {
        /// The call.
        call: u32,
        /// What came of it.
        result: i64,
    },
    /// FUSE_DEV_IOC_CLONE: the device belongs to the connection of another from here on.
    Cloned {
        /// The other.
        from: u32,
        /// The device.
        device: u32,
    },
    /// The daemon set up an io_uring: what goes over the device by it cannot be seen.
    Ring,
    /// A thread or a process began.
    Began {
        /// Its number.
        child: i32,
        /// Is it a process?
        process: bool,
    },
    /// A process runs another program.
    Runs(String),
    /// A process ended: by itself with a code, or by a signal.
    Ended {
        /// The exit code.
        code: Option<i32>,
        /// The signal.
        signal: Option<i32>,
    },
    /// What the daemon wrote to standard output and standard error: the beginning and the end of it.
    Said {
        /// How many bytes it was.
        len: u64,
        /// The first of them.
        head: Vec<u8>,
        /// The last of them, if there are more.
        tail: Vec<u8>,
    },
    /// The recorder could not go on, or would not: what follows was not recorded.
    Blind(String),
}

/// A message, of which the trace keeps the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// How long the message is.
    pub len: u64,
    /// The beginning of it.
    pub head: Vec<u8>,
}

/// A file that was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lower {
    /// The path by which the kernel knows it, or what it is if it has none.
    pub path: String,
    /// Its file system.
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// The flags it was opened with.
    pub flags: u32,
}

/// Why a trace cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}, event {event}: {what}")]
pub struct TraceError {
    /// Bytes from the beginning.
    pub at: usize,
    /// How many events were read before.
    pub event: usize,
    /// What is wrong.
    pub what: String,
}

/// The bytes of one event.
///
/// # Errors
/// None that plain data can provoke.
pub fn frame(stamped: &Stamped) -> postcard::Result<Vec<u8>> {
    let mut frame = postcard::to_extend(stamped, vec![0; 4])?;
    let len = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    Ok(frame)
}

/// The events of a trace.
///
/// # Errors
/// It is no trace, or it is damaged, or it ends too early: where.
pub fn parse(bytes: &[u8]) -> Result<Vec<Stamped>, TraceError> {
    let mut events = Vec::new();
    read(bytes, &mut events).map(|()| events)
}

/// The events of a trace up to the first that cannot be read, and why that cannot.
pub fn parse_as_far(bytes: &[u8]) -> (Vec<Stamped>, Option<TraceError>) {
    let mut events = Vec::new();
    let error = read(bytes, &mut events).err();
    (events, error)
}

fn read(bytes: &[u8], events: &mut Vec<Stamped>) -> Result<(), TraceError> {
    let Some(mut rest) = bytes.strip_prefix(FIRST_LINE) else {
        let what = "this is no trace: expected one that `fuseproof daemon --save-trace` wrote".into();
        return Err(TraceError { at: 0, event: 0, what });
    };
    while !rest.is_empty() {
        let wrong = |what: String| TraceError { at: bytes.len() - rest.len(), event: events.len(), what };
        let (len, behind) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| wrong("the trace ends in the middle of an event".into()))?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > MOST {
            return Err(wrong(format!("an event of {len} bytes is longer than any: the trace is damaged")));
        }
        let (event, behind) = behind
            .split_at_checked(len)
            .ok_or_else(|| wrong("the trace ends in the middle of an event".into()))?;
        let (event, left) = postcard::take_from_bytes(event)
            .map_err(|error| wrong(format!("this is no event ({error}): the trace is damaged")))?;
        if !left.is_empty() {
            return Err(wrong(format!("{} bytes too many in an event: the trace is damaged", left.len())));
        }
        events.push(event);
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Vec<u8> {
        let events = [
            Event::Step("app open".into()),
            Event::Request { device: 0, message: Cut { len: 3, head: vec![1, 2, 3] } },
            Event::Ended { code: Some(0), signal: None },
        ];
        let mut bytes = FIRST_LINE.to_vec();
        for (index, event) in events.into_iter().enumerate() {
            bytes.extend(frame(&Stamped { micros: index as u64, task: 7, event }).unwrap());
        }
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let events = parse(&trace()).unwrap();
        assert_eq!(events.len(), 3);
        assert_eq!(events[2].event, Event::Ended { code: Some(0), signal: None });
    }

    #[test]
    fn a_cut_trace_says_where_it_ends() {
        let whole = trace();
        let error = parse(&whole[..whole.len() - 1]).unwrap_err();
        assert_eq!(error.event, 2);
        assert!(error.what.contains("ends in the middle"), "{error}");
        assert_eq!(parse(b"something else").unwrap_err().at, 0);
    }

    #[test]
    fn damage_is_found_or_changes_an_event_but_never_more() {
        let whole = trace();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(events) = parse(&damaged) {
                assert_eq!(events.len(), 3);
            }
        }
    }
}
