//! A run's events as text: one JSON value a line, as they happened.

use crate::run::{Event, Run};

/// Text that is no run's events. Says which line, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A line is no event.
    #[error("line {line} is no event of this version of fuseproof ({source}): run again with --save")]
    Line {
        /// Its number.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// An event is about something that the plan does not have.
    #[error(
        "line {line} does not fit the plan in line 1: the file was changed or cut, run again with --save"
    )]
    Place {
        /// Its number.
        line: usize,
    },
}

/// One line each.
///
/// # Errors
/// None that can be provoked: all of it is plain data.
pub fn write_events(events: &[Event]) -> serde_json::Result<String> {
    let mut text = String::new();
    for event in events {
        text.push_str(&serde_json::to_string(event)?);
        text.push('\n');
    }
    Ok(text)
}

/// What events in lines add up to.
///
/// # Errors
/// See [`Unreadable`].
pub fn read_events(text: &str) -> Result<Run, Unreadable> {
    let mut run = Run::default();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let event =
            serde_json::from_str(line).map_err(|source| Unreadable::Line { line: line_number, source })?;
        if !fits(&run, &event, index) {
            return Err(Unreadable::Place { line: line_number });
        }
        run.hear(&event);
    }
    if run.kernels.is_empty() { Err(Unreadable::Place { line: 1 }) } else { Ok(run) }
}

/// The plan is first and nowhere else; all others are about its kernels and cases, each case once.
fn fits(run: &Run, event: &Event, index: usize) -> bool {
    match event {
        Event::Plan { .. } => index == 0,
        Event::Profile { kernel, .. } | Event::Session { kernel, .. } | Event::Trouble { kernel, .. } => {
            *kernel < run.kernels.len()
        }
        Event::Case { kernel, case, .. } => {
            *kernel < run.kernels.len() && *case < run.cases.len() && run.result(*kernel, *case).is_none()
        }
    }
}
