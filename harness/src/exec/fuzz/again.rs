//! Inputs that are known, once more: each runs as the target runs it, on mounts that have had no others.
//!
//! It knows no libFuzzer, and starts nothing that outlives it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::super::arena::Arena;
use super::keeper::{lay_down, names};
use super::odd::odd;
use super::{Brief, raw, reply};
use crate::generate::{self, Inputs};
use crate::program::{INNER_ERRNO, Profile, Transport};
use crate::protocol::{Odd, decode};

/// Run them one after the other, and take everything down. What was odd about the last one, or stayed behind.
///
/// # Errors
/// The arena, or what stands in its place, failed.
pub(crate) fn again(
    sort: Inputs,
    inputs: &[Vec<u8>],
    mut profile: Profile,
    over: Transport,
) -> io::Result<Option<Odd>> {
    profile.has.remove(INNER_ERRNO);
    let _gaps = fill_gaps()?;
    match sort {
        Inputs::Programs => programs(inputs, &profile, over),
        Inputs::Messages => {
            let seed = inputs.last().map_or(0, |input| generate::stage_of(input));
            as_target(profile, seed as u32, || raw::again(inputs))
        }
        Inputs::Lies => as_target(profile, 0, || reply::again(inputs)),
    }
}

fn programs(inputs: &[Vec<u8>], profile: &Profile, over: Transport) -> io::Result<Option<Odd>> {
    // Whoever was here before has left folders.
    let base = PathBuf::from(format!("/run/again-{}", std::process::id()));
    let mut arena = Arena::open(&base, over)?;
    let Some((last, earlier)) = inputs.split_last() else { return Ok(None) };
    for input in earlier {
        arena.run(&generate::from_bytes(input))?;
    }
    let program = generate::from_bytes(last);
    let mut ran = arena.run(&program)?;
    let leak = arena.close();
    ran.leak = ran.leak.or(leak);
    Ok(odd(&program, profile, over, ran))
}

/// Run them where the keeper would have laid everything down, and read what the target has written there.
fn as_target(profile: Profile, seed: u32, run: impl FnOnce() -> io::Result<()>) -> io::Result<Option<Odd>> {
    let findings = lay_down(&Brief { profile, places: Vec::new(), seed }, &[])?;
    run()?;
    let mut last = None;
    for name in names(&findings)? {
        last = Some(decode(&fs::read(findings.join(name))?).map_err(io::Error::other)?);
    }
    Ok(last)
}

/// Everything behind the first free descriptor is a program's: make that one stand behind all that is open here.
fn fill_gaps() -> io::Result<Vec<File>> {
    let open = fs::read_dir("/proc/self/fd")?.flatten();
    let last = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max().unwrap_or(0);
    let mut gaps = Vec::new();
    loop {
        let file = File::open("/dev/null")?;
        if file.as_raw_fd() > last {
            return Ok(gaps);
        }
        gaps.push(file);
    }
}
