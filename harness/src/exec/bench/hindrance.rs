//! What keeps a column from its work: what is not offered where it would be done, which says something about that place, or
//! anything else, which is trouble.

use std::fmt;
use std::io::{self, PipeWriter, Write};

use nix::errno::Errno;

/// Why there is nothing to time.
#[derive(Debug)]
pub(super) enum Hindrance {
    /// It is not offered here: what, and the remedy if there is one.
    Lacks(String),
    /// It is, and does not work.
    Fails(io::Error),
}

/// The first byte of what a daemon's process says of [`Hindrance::Lacks`]; of anything else it is another one.
const LACKS: u8 = b'-';
const FAILS: u8 = b'!';

impl Hindrance {
    /// Tell whoever started this process.
    pub(super) fn tell(&self, told: &mut PipeWriter) -> io::Result<()> {
        let kind = match self {
            Hindrance::Lacks(_) => LACKS,
            Hindrance::Fails(_) => FAILS,
        };
        told.write_all(&[&[kind], self.to_string().as_bytes()].concat())
    }

    /// What was told; nothing is told where there is no hindrance.
    pub(super) fn heard(told: &[u8]) -> Option<Hindrance> {
        let (kind, why) = told.split_first()?;
        let why = String::from_utf8_lossy(why).into_owned();
        Some(match *kind {
            LACKS => Hindrance::Lacks(why),
            _ => Hindrance::Fails(io::Error::other(why)),
        })
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hindrance::Lacks(why) => f.write_str(why),
            Hindrance::Fails(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Hindrance {
    fn from(error: io::Error) -> Hindrance {
        Hindrance::Fails(error)
    }
}

impl From<Errno> for Hindrance {
    fn from(errno: Errno) -> Hindrance {
        Hindrance::Fails(errno.into())
    }
}

/// What is there, or why it is not offered.
///
/// # Errors
/// It is offered, and does not work.
pub(super) fn offered<T>(had: Result<T, Hindrance>) -> io::Result<Result<T, String>> {
    match had {
        Ok(had) => Ok(Ok(had)),
        Err(Hindrance::Lacks(why)) => Ok(Err(why)),
        Err(Hindrance::Fails(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn only_what_is_not_offered_is_left_out() {
        for (hindrance, is_lack) in [
            (Hindrance::Lacks("no ring".into()), true),
            (Hindrance::from(Errno::EPERM), false),
            (Hindrance::from(io::Error::other("-")), false),
        ] {
            let (mut hears, mut tells) = io::pipe().expect("a pipe");
            hindrance.tell(&mut tells).expect("it is heard");
            drop(tells);
            let mut told = Vec::new();
            hears.read_to_end(&mut told).expect("it is told");
            let heard = Hindrance::heard(&told).expect("there is one");
            assert_eq!(heard.to_string(), hindrance.to_string());
            assert_eq!(offered::<()>(Err(heard)).is_ok(), is_lack);
        }
        assert!(Hindrance::heard(b"").is_none());
    }
}
