//! Results, on standard output.
//!
//! A reader that goes away (`fuseproof rules | head`) has seen enough: that is no error, and ends no run. Anything
//! else, such as a full disk, is trouble, and told.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use super::Exit;

/// Print it, as it is.
pub(super) fn out(text: impl Display) {
    if let Err(error) = write!(io::stdout().lock(), "{text}").and_then(|()| io::stdout().flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!(
            "fuseproof: cannot write to standard output ({error}): give it a place that can be written"
        );
        std::process::exit(Exit::Trouble as i32);
    }
}

/// Print a line, as `println!` does.
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::out::out(format_args!("{}\n", format_args!($($text)*))) };
}
pub(super) use outln;
