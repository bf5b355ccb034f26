//! What a campaign says of itself while it goes on: figures for whoever listens, a line of its history every ten seconds, and the
//! page every few minutes. What could not be written before is tried again with each line.
//!
//! It counts nothing itself, apart from time and memory.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::history::{self, Lines, Memory, Moment, histories};
use super::{Event, Figures, Folder};
use crate::report::night;

/// Between two lines.
const LINE: Duration = Duration::from_secs(10);
/// Between two pages.
const PAGE: Duration = Duration::from_secs(180);
/// The page, in a campaign's folder.
pub(super) const NAME: &str = "report.html";

/// What is said of one campaign.
pub(super) struct Diary {
    lines: Lines,
    begun: u64,
    begin: Instant,
    until: Instant,
    /// When the last line was written, and how it stood then.
    line: Instant,
    last: Figures,
    page: Instant,
    /// Whether it was told that something waits to be written.
    is_told: bool,
}

impl Diary {
    /// Of a campaign that begins now.
    pub(super) fn new(folder: &Folder, target: &str, kernel: &str, time: Duration) -> Diary {
        let kernel = super::plain(kernel);
        let now = Instant::now();
        Diary {
            lines: Lines::new(folder.path().join(history::file(target, &kernel, folder.writer()))),
            begun: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            begin: now,
            until: now + time,
            line: now,
            last: Figures::default(),
            page: now,
            is_told: false,
        }
    }

    /// When the campaign is to end.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Nobody fuzzes any more.
    pub(super) fn rest(&mut self) {
        self.until = self.until.min(Instant::now());
    }

    /// The figures of now, but for what is known here: time, rate and memory.
    pub(super) fn tell(
        &mut self,
        mut figures: Figures,
        folder: &mut Folder,
        hear: &mut dyn FnMut(Event<'_>),
    ) {
        let now = Instant::now();
        figures.seconds = now.min(self.until).duration_since(self.begin).as_secs_f64();
        figures.left = self.until.saturating_duration_since(now);
        figures.rate = self.rate(&figures).unwrap_or(self.last.rate);
        figures.memory = self.last.memory;
        if self.line.elapsed() >= LINE && figures.seconds > self.last.seconds {
            figures.memory = Memory::now();
            self.write(&figures, folder, hear);
        }
        if self.page.elapsed() >= PAGE {
            self.page = now;
            write_page(folder);
        }
        hear(Event::Figures(&figures));
    }

    /// It is over. Gives its last figures.
    pub(super) fn end(
        mut self,
        mut figures: Figures,
        folder: &mut Folder,
        hear: &mut dyn FnMut(Event<'_>),
    ) -> Figures {
        figures.seconds = Instant::now().min(self.until).duration_since(self.begin).as_secs_f64();
        figures.rate = self.rate(&figures).unwrap_or(self.last.rate);
        // Guests have ended by now.
        figures.memory = self.last.memory;
        if figures.seconds > self.last.seconds || figures.execs > self.last.execs {
            self.write(&figures, folder, hear);
        }
        write_page(folder);
        folder.write_again();
        figures
    }

    fn write(&mut self, figures: &Figures, folder: &mut Folder, hear: &mut dyn FnMut(Event<'_>)) {
        self.line = Instant::now();
        self.lines.add(&Moment::of(figures, self.begun, figures.rate));
        self.last = figures.clone();
        folder.write_again();
        let unwritten = folder.unwritten();
        if unwritten.is_nothing() == self.is_told {
            self.is_told = !unwritten.is_nothing();
            hear(Event::Room(&unwritten));
        }
    }

    /// Inputs a second since the last line, if that is long enough ago.
    fn rate(&self, figures: &Figures) -> Option<f64> {
        let seconds = figures.seconds - self.last.seconds;
        (seconds >= 1.0).then(|| figures.execs.saturating_sub(self.last.execs) as f64 / seconds)
    }
}

/// The page of all that was ever written in the folder. What cannot be read is not on it.
pub(super) fn write_page(folder: &mut Folder) {
    let histories = histories(folder.path()).unwrap_or_default();
    if let Ok(page) = night(&histories, &folder.all_findings()) {
        folder.write(Path::new(NAME), page.as_bytes());
    }
}
