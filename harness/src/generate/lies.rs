//! Calls on a virtio-fs mount, and lies of its device about their answers. Any bytes are some input.
//!
//! ```text
//! { call u8 · lies u8 · { kind u8 · value u32 }* }*
//! ```
//!
//! The first turn's call is the mount itself. A lie changes one answer: the first of a turn's is for the first request that the
//! call leads to, and so on; requests behind the last one are answered honestly.

use std::collections::BTreeSet;
use std::fmt;

use crate::program::{Program, Reply, Value, Verb};

/// What is called. The mount has the files `a` of 5 bytes and `b` of 64 KiB, the link `l` to the first, and the folder `d` of
/// many files; `new` is none at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "their words stand in the table")]
pub enum Act {
    Stat,
    StatNobody,
    ReadShort,
    ReadShortDirect,
    ReadAll,
    ReadLong,
    ReadLongDirect,
    List,
    ReadLink,
    GetAttribute,
    ListAttributes,
    StatFs,
    Create,
    Remove,
    MakeFolder,
    RemoveFolder,
    Truncate,
    Append,
    SeekHole,
    Ioctl,
    Rename,
}

/// Each with its words for people, and the call of a script that is like it.
const ACTS: [(Act, &str, &str); 21] = [
    (Act::Stat, "stat \"a\"", "stat"),
    (Act::StatNobody, "stat \"nobody\"", "stat"),
    (Act::ReadShort, "read 5 bytes of \"a\"", "read"),
    (Act::ReadShortDirect, "read 5 bytes of \"a\", O_DIRECT", "read"),
    (Act::ReadAll, "read all of \"a\"", "pread"),
    (Act::ReadLong, "read all of \"b\"", "load"),
    (Act::ReadLongDirect, "read 4096 bytes of \"b\", O_DIRECT", "pread"),
    (Act::List, "list \"d\"", "readdir"),
    (Act::ReadLink, "readlink \"l\"", "readlink"),
    (Act::GetAttribute, "getxattr \"a\" trusted.x, 8 bytes", "getxattr"),
    (Act::ListAttributes, "listxattr \"a\", 16 bytes", "listxattr"),
    (Act::StatFs, "statfs", "statfs"),
    (Act::Create, "write \"new\" to \"new\"", "open"),
    (Act::Remove, "unlink \"new\"", "unlink"),
    (Act::MakeFolder, "mkdir \"folder\"", "mkdir"),
    (Act::RemoveFolder, "rmdir \"folder\"", "rmdir"),
    (Act::Truncate, "truncate \"a\" to 3 bytes", "truncate"),
    (Act::Append, "write 5 bytes behind \"a\"", "write"),
    (Act::SeekHole, "lseek \"a\" to a hole", "lseek"),
    (Act::Ioctl, "ioctl \"a\" FS_IOC_GETVERSION", "ioctl"),
    (Act::Rename, "rename \"new\" to \"d/new\"", "rename"),
];

/// A call, and what becomes of the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    call: u8,
    /// For the first answers.
    pub lies: Vec<Lie>,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lie {
    kind: u8,
    value: u32,
}

/// An answer as it goes into the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Header and payload.
    pub bytes: Vec<u8>,
    /// How many bytes the device says it has written, if not the truth.
    pub used: Option<u32>,
}

/// The sorts of lies, honesty among them.
const KINDS: u8 = 10;
const HONEST: Lie = Lie { kind: 0, value: 0 };
/// The most turns of one input.
const MOST_TURNS: usize = 8;
/// The most lies of one turn.
const MOST_LIES: u8 = 4;
/// The most bytes that a lie adds.
const MOST_MORE: u32 = 8 << 10;
/// A header: length, error, unique.
const HEADER: usize = 16;

/// The turns in these bytes.
pub fn turns(bytes: &[u8]) -> Vec<Turn> {
    let (mut turns, mut rest) = (Vec::new(), bytes);
    while let [call, lies, behind @ ..] = rest
        && turns.len() < MOST_TURNS
    {
        rest = behind;
        let mut turn = Turn { call: *call, lies: Vec::new() };
        for _ in 0..lies % (MOST_LIES + 1) {
            let Some((lie, behind)) = rest.split_first_chunk::<5>() else { break };
            let [kind, a, b, c, d] = *lie;
            turn.lies.push(Lie { kind, value: u32::from_le_bytes([a, b, c, d]) });
            rest = behind;
        }
        turns.push(turn);
    }
    turns
}

impl Turn {
    /// What is called, where it is not the first turn's.
    pub fn act(&self) -> Act {
        self.row().0
    }

    fn row(&self) -> (Act, &'static str, &'static str) {
        ACTS[usize::from(self.call) % ACTS.len()]
    }
}

fn to_bytes(turns: &[Turn]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for turn in turns {
        bytes.extend([turn.call, turn.lies.len() as u8]);
        for lie in &turn.lies {
            bytes.push(lie.kind);
            bytes.extend(lie.value.to_le_bytes());
        }
    }
    bytes
}

/// Inputs that are simpler by a turn, or by a lie.
pub(super) fn simpler(input: &[u8]) -> Vec<Vec<u8>> {
    let turns = turns(input);
    let mut simpler = Vec::new();
    // The first is the mount.
    for at in (1..turns.len()).rev() {
        let mut fewer = turns.clone();
        fewer.remove(at);
        simpler.push(to_bytes(&fewer));
    }
    for (at, turn) in turns.iter().enumerate() {
        for lie in (0..turn.lies.len()).rev() {
            let mut fewer = turns.clone();
            // Those behind it are about the same answers as before.
            match lie + 1 == turn.lies.len() {
                true => _ = fewer[at].lies.pop(),
                false if turn.lies[lie] == HONEST => continue,
                false => fewer[at].lies[lie] = HONEST,
            }
            simpler.push(to_bytes(&fewer));
        }
    }
    simpler
}

/// The input for a person to read: no script has words for it.
pub(super) fn print(input: &[u8]) -> String {
    let mut text = "# Calls on a virtio-fs mount, and what is wrong with the answers to the requests that they lead to.\n\
                    # `fuseproof replay` makes them again.\n"
        .to_string();
    for (number, turn) in turns(input).iter().enumerate() {
        let call = if number == 0 { "mount" } else { turn.row().1 };
        text.push_str(&format!("{call}\n"));
        for (number, lie) in turn.lies.iter().enumerate() {
            text.push_str(&format!("    answer {}: {lie}\n", number + 1));
        }
    }
    text
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        match self.kind % KINDS {
            1 => write!(f, "says that it has {value} bytes"),
            2 => write!(f, "says that it is {} bytes longer", value as i8),
            3 => write!(f, "error {}", -((value % 4096) as i32)),
            4 => write!(f, "unique {value}"),
            5 => write!(f, "lacks {value} bytes, modulo its length and one, and says that it has all"),
            6 => write!(f, "lacks {value} bytes, modulo its length and one"),
            7 => write!(f, "has {} bytes more", value % MOST_MORE),
            8 => write!(f, "the device says that it has written {value} bytes"),
            9 => write!(
                f,
                "byte {} behind the header, modulo their number, is {:#04x}",
                value & 0xff_ffff,
                value >> 24
            ),
            _ => f.write_str("honest"),
        }
    }
}

impl Lie {
    /// Make an honest answer a wrong one.
    pub fn tell(self, honest: Vec<u8>) -> Told {
        let (mut bytes, mut used) = (honest, None);
        let (len, value) = (bytes.len(), self.value);
        let at_most = |most: usize| value as usize % (most + 1);
        match self.kind % KINDS {
            1 => put(&mut bytes, 0, &value.to_le_bytes()),
            2 => put(&mut bytes, 0, &(len as u32).wrapping_add_signed(value as i8 as i32).to_le_bytes()),
            // Every kernel takes what is no error number for a pointer, and is gone (VFS-04): nothing else would be found.
            3 => put(&mut bytes, 4, &(-((value % 4096) as i32)).to_le_bytes()),
            4 => put(&mut bytes, 8, &value.to_le_bytes()),
            5 => bytes.truncate(len - at_most(len)),
            6 => {
                bytes.truncate(len - at_most(len));
                whole(&mut bytes);
            }
            7 => {
                bytes.resize(len + (value % MOST_MORE) as usize, 0xa5);
                whole(&mut bytes);
            }
            8 => used = Some(value),
            9 if len > HEADER => {
                let at = HEADER + (value as usize & 0xff_ffff) % (len - HEADER);
                bytes[at] = (value >> 24) as u8;
            }
            _ => {}
        }
        Told { bytes, used }
    }
}

/// Have the header tell the length.
fn whole(bytes: &mut [u8]) {
    let len = bytes.len() as u32;
    put(bytes, 0, &len.to_le_bytes());
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    if let Some(room) = bytes.get_mut(at..at + what.len()) {
        room.copy_from_slice(what);
    }
}

/// The calls of a case that this target makes, too, each with the lies of the case's replies.
pub(super) fn lie_seeds(case: &Program) -> Vec<Vec<u8>> {
    let mut lies = vec![HONEST];
    let (mut seeds, mut calls) = (Vec::new(), BTreeSet::new());
    for step in &case.steps {
        match &step.verb {
            Verb::On { reply: Reply::Fields(fields) | Reply::Claim(fields), .. } => {
                lies.extend(fields.iter().filter_map(lie));
            }
            Verb::Call(call) | Verb::Start { call, .. } => {
                let is_like = |(_, (_, _, name)): &(usize, &(Act, &str, &str))| *name == call.name;
                calls.extend(ACTS.iter().enumerate().filter(is_like).map(|(number, _)| number as u8));
            }
            _ => {}
        }
    }
    let honest = Turn { call: 0, lies: Vec::new() };
    for lie in &lies {
        let wrong = |call| Turn { call, lies: vec![*lie] };
        seeds.extend(calls.iter().map(|call| to_bytes(&[honest.clone(), wrong(*call)])));
        seeds.push(to_bytes(&[wrong(0), honest.clone()]));
    }
    seeds
}

/// What a script says of a reply, as a lie.
fn lie((name, value): &(String, Value)) -> Option<Lie> {
    let Value::Int(value) = value else { return None };
    let kind = match name.as_str() {
        "len" => 1,
        "error" => 3,
        "unique" => 4,
        "cut" => 6,
        "pad" => 7,
        _ => return None,
    };
    let value = if kind == 3 { value.saturating_neg() } else { *value };
    Some(Lie { kind, value: value as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_some_input_of_bounded_size() {
        let rng = &mut fastrand::Rng::with_seed(1);
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..rng.usize(0..200)).map(|_| rng.u8(..)).collect();
            let turns = turns(&bytes);
            assert!(turns.len() <= MOST_TURNS);
            for lie in turns.iter().flat_map(|turn| &turn.lies) {
                let told = lie.tell((0..rng.usize(0..100)).map(|byte| byte as u8).collect());
                assert!(told.bytes.len() < 100 + MOST_MORE as usize);
            }
        }
    }

    #[test]
    fn simpler_inputs_are_inputs_and_come_to_an_end() {
        let rng = &mut fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..rng.usize(0..200)).map(|_| rng.u8(..)).collect();
            let mut least = to_bytes(&turns(&bytes));
            assert_eq!(turns(&least), turns(&bytes));
            let mut rounds = 0;
            while let Some(one) = simpler(&least).into_iter().next() {
                let weight = |bytes: &[u8]| {
                    let turns = turns(bytes);
                    let lies = turns.iter().flat_map(|turn| &turn.lies);
                    (bytes.len(), lies.filter(|lie| **lie != HONEST).count())
                };
                assert!(weight(&one) < weight(&least));
                (least, rounds) = (one, rounds + 1);
            }
            assert!(rounds <= MOST_TURNS * (1 + MOST_LIES as usize) && turns(&least).len() <= 1);
        }
    }

    #[test]
    fn an_input_is_told() {
        let told = print(&[0, 0, 7, 2, 0, 0, 0, 0, 0, 3, 5, 0, 0, 0]);
        assert!(
            told.ends_with("mount\nlist \"d\"\n    answer 1: honest\n    answer 2: error -5\n"),
            "{told}"
        );
    }

    #[test]
    fn each_kind_of_lie_is_about_another_part() {
        let honest: Vec<u8> = [[20, 0, 0, 0], [0; 4], [7, 0, 0, 0], [0; 4], *b"data"].concat();
        let told = |kind, value| Lie { kind, value }.tell(honest.clone());
        assert_eq!(told(0, 9), Told { bytes: honest.clone(), used: None });
        assert_eq!(told(1, 0xffff_ffff).bytes[..4], [0xff; 4]);
        assert_eq!(told(2, 1).bytes[0], 21);
        assert_eq!(told(3, 5).bytes[4..8], (-5_i32).to_le_bytes());
        assert_eq!(told(4, 9).bytes[8], 9);
        assert_eq!((told(5, 2).bytes.len(), told(5, 2).bytes[0]), (18, 20));
        assert_eq!((told(6, 2).bytes.len(), told(6, 2).bytes[0]), (18, 18));
        assert_eq!((told(7, 3).bytes.len(), told(7, 3).bytes[0]), (23, 23));
        assert_eq!(told(8, 1).used, Some(1));
        assert_eq!(told(9, 0x4100_0001).bytes[17], b'A');
    }
}
