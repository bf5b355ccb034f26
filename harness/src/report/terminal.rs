//! For people, while it runs: a bar on a terminal, plain lines in a log, every failure in full.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::failure::{Origin, failure};
use crate::run::Event;

/// Without a terminal, a line is printed this often.
const EVERY: Duration = Duration::from_secs(5);

/// How far the cases are, on standard error.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    plain: bool,
    last: Instant,
    kernels: Vec<String>,
}

impl Default for Bar {
    fn default() -> Bar {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        Bar { bar, plain, last: Instant::now(), kernels: Vec::new() }
    }
}

impl Bar {
    /// Something happened.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Plan { kernels, cases, .. } => {
                self.bar.reset();
                self.bar.set_length((kernels.len() * cases.len()) as u64);
                self.kernels = kernels.iter().map(|kernel| kernel.name.clone()).collect();
            }
            Event::Profile { .. } | Event::Session { .. } | Event::Trouble { .. } => {}
            Event::Case { kernel, result, .. } => {
                let kernel = &self.kernels[*kernel];
                self.bar.inc(1);
                self.bar.set_message(format!("{kernel} {}", result.path));
                if self.plain && self.last.elapsed() > EVERY {
                    self.last = Instant::now();
                    let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
                    eprintln!("{done}/{all} {kernel} {}", result.path);
                }
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The same, and failures on standard output as they come.
#[derive(Debug)]
pub struct Terminal {
    bar: Bar,
    origin: Origin,
}

impl Terminal {
    /// For a run that has not begun.
    pub fn new(origin: Origin) -> Terminal {
        Terminal { bar: Bar::default(), origin }
    }

    /// Something happened.
    pub fn hear(&mut self, event: &Event) {
        self.bar.hear(event);
        if let Event::Case { kernel, result, .. } = event
            && let Some(text) = failure(&self.bar.kernels[*kernel], result, &self.origin)
        {
            // A reader who has gone ends no run; what else is in the way will be in the summary's way, too.
            self.bar.bar.suspend(|| _ = writeln!(std::io::stdout(), "{text}"));
        }
    }
}
