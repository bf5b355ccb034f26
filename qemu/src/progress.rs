//! One line at a time, what a long step is doing. Who shows it, and how, is the caller's business;
//! nothing in this package prints.

/// Listens to what is being waited for.
pub trait Progress {
    /// Takes one line, without a line end.
    fn say(&mut self, line: &str);
}

/// Hears everything and shows nothing.
#[derive(Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn say(&mut self, _line: &str) {}
}
