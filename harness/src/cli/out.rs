//! Results, on standard output.
//!
//! A reader that goes away (`fuseproof rules | head`) has seen enough: that is no error, and ends no run. Anything
//! else, such as a full disk, is trouble, and told.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use super::trouble;

/// Print it, as it is; what is in the way otherwise.
pub(super) fn print(text: impl Display) -> Result<(), String> {
    match write!(io::stdout().lock(), "{text}").and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output ({error}): give it a place that can be written"))
        }
        _ => Ok(()),
    }
}

/// Print it, as it is, where there is nothing else to lose: trouble ends the program.
pub(super) fn out(text: impl Display) {
    if let Err(why) = print(text) {
        std::process::exit(trouble(&why) as i32);
    }
}

/// Print a line, as `println!` does.
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::out::out(format_args!("{}\n", format_args!($($text)*))) };
}
pub(super) use outln;
