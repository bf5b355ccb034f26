//! How far a long step of setting up is, on standard error: a bar on a terminal, a line now and then in a log.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qemu::progress::Progress;

/// Without a terminal, a line is printed this often.
const EVERY: Duration = Duration::from_secs(10);

/// Shows what is being waited for.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bar: Option<ProgressBar>,
    told: Option<Instant>,
}

impl Progress for Lines {
    fn say(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn step(&mut self, done: u64, all: Option<u64>, what: &str) {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(ProgressBar::new_spinner);
            if let (Some(all), None) = (all, bar.length()) {
                bar.set_length(all);
                if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
                    bar.set_style(style);
                }
            }
            bar.set_position(done);
            bar.set_message(what.to_owned());
        } else if self.told.get_or_insert_with(Instant::now).elapsed() > EVERY {
            self.told = Some(Instant::now());
            match all {
                Some(all) => eprintln!("{done}/{all} {what}"),
                None => eprintln!("{done} {what}"),
            }
        }
    }

    fn done(&mut self) {
        self.told = None;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
