//! How a campaign is getting on, on standard error: two lines that stay on a terminal, a line a minute in a log. What is of note
//! has a line of its own in both.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, ProgressBar, ProgressStyle};

use super::out::outln;
use crate::campaign::{Event, Figures};

/// Without a terminal, the figures are told this often.
const EVERY: Duration = Duration::from_secs(60);

/// Tells a campaign's figures, and what it finds.
pub(super) struct Teller {
    bar: Option<ProgressBar>,
    told: Instant,
    /// Since it began.
    seconds: f64,
    line: fn(&Figures) -> String,
}

impl Teller {
    /// For a campaign of that length whose figures are such a line.
    pub(super) fn new(time: Duration, line: fn(&Figures) -> String) -> Teller {
        let bar = || {
            let bar = ProgressBar::new(time.as_secs());
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {prefix}\n{wide_msg}") {
                bar.set_style(style);
            }
            bar
        };
        Teller { bar: std::io::stderr().is_terminal().then(bar), told: Instant::now(), seconds: 0.0, line }
    }

    pub(super) fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Found(finding) => match &finding.known {
                Some(reason) => self.say(&format!("found {}, which is known: {reason}", finding.name)),
                None => {
                    self.say(&format!("found {} after {:.0} s: {}", finding.name, self.seconds, finding.why));
                }
            },
            Event::Replayed(finding) => self.say(&format!("replayed {}: {}", finding.name, finding.rate)),
            Event::Room(unwritten) if unwritten.is_nothing() => self.say("there is room again: all is written"),
            Event::Room(unwritten) => self.say(&format!(
                "the campaign's folder takes nothing more ({}): what is found is kept in memory and written as soon as there is room",
                unwritten.why
            )),
            Event::Figures(figures) => self.show(figures),
        }
    }

    fn show(&mut self, figures: &Figures) {
        self.seconds = figures.seconds;
        let line = (self.line)(figures);
        let left = match figures.left {
            Duration::ZERO => "running findings again".to_owned(),
            left => format!("{} left", FormattedDuration(Duration::from_secs(left.as_secs()))),
        };
        if let Some(bar) = &self.bar {
            bar.set_position(figures.seconds as u64);
            bar.set_prefix(left);
            bar.set_message(line);
        } else if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            eprintln!("{line}; {left}");
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// It is over: the figures are what came of it.
    pub(super) fn end(&self, figures: &Figures) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        outln!("{}", (self.line)(figures));
    }
}
