//! A benchmark's job in a session: ordered, and heard until it is done.

use std::time::{Duration, Instant};

use super::session::{Lost, Session};
use crate::bench::{Heard, Job, Told};
use crate::exec;
use crate::protocol::{Order, Report};

/// Between two turns; before the first one, tens of thousands of files are made.
const PATIENCE: Duration = Duration::from_secs(45);
/// All turns together. An agent in its right mind gives up before.
const WHOLE: Duration = exec::BENCH.saturating_add(PATIENCE);

impl Session {
    /// Have a job measured there. `tell` hears of each turn, and says whether to go on.
    ///
    /// # Errors
    /// The agent is lost, cannot do it, or was told to stop; it is good for no other job then.
    pub fn measure(&mut self, job: &Job, tell: &mut dyn FnMut(&Told) -> bool) -> Result<Heard, Lost> {
        self.order(&Order::Bench(Box::new(job.clone())))?;
        let mut heard = Heard::of(job);
        let until = Instant::now() + WHOLE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let why = match self.report(PATIENCE.min(left))? {
                _ if left.is_zero() => format!("the job is not over after {} s", WHOLE.as_secs()),
                Report::Bench(told) if tell(&told) => match heard.hear(told) {
                    Ok(false) => continue,
                    Ok(true) => return Ok(heard),
                    Err(why) => why,
                },
                Report::Bench(_) => "it was told to stop".into(),
                Report::Trouble(why) => why,
                _ => "the agent talks of something else in the middle of a benchmark".into(),
            };
            self.tainted = true;
            return Err(Lost { why, console: self.console() });
        }
    }
}
