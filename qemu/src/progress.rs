//! What a long step is doing: lines, and how far it is. Who shows it, and how, is the caller's business;
//! nothing in this package prints.

/// Listens to what is being waited for.
pub trait Progress {
    /// Takes one line, without a line end.
    fn say(&mut self, line: &str);

    /// So many steps are done, of so many if that is known; this is the last one.
    fn step(&mut self, _done: u64, _all: Option<u64>, _what: &str) {}

    /// No more steps come.
    fn done(&mut self) {}
}

/// Hears everything and shows nothing.
#[derive(Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn say(&mut self, _line: &str) {}
}
