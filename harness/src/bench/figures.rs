//! What was measured, as figures: of each kernel, row, lower file system and point, how fast each column is, and what may be said of it.

use serde::Serialize;

use super::rows::{Point, Row, Unit};
use super::{FEWEST_ROUNDS, Heard, Job, Lower, Ratio, Spread, Times, Verdict};

/// A run of the benchmark.
#[derive(Debug, Serialize)]
pub struct Bench {
    /// How many turns each column had.
    pub rounds: u32,
    /// What the order of turns, and places in files, came of.
    pub seed: u64,
    /// Each kernel, in the order in which they were asked for.
    pub kernels: Vec<Kernel>,
}

impl Bench {
    /// Whether there are too few rounds for a spread that would let a direction be told.
    pub fn tells_no_direction(&self) -> bool {
        (self.rounds as usize) < FEWEST_ROUNDS
    }
}

/// What was measured on a kernel.
#[derive(Debug, Serialize)]
pub struct Kernel {
    /// The name it was asked for by.
    pub name: String,
    /// `uname -r` there; none if no agent ever came up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// What it was not measured for, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// What was measured.
    pub measured: Vec<Measured>,
}

impl Kernel {
    /// Of which nothing is known yet.
    pub fn new(name: String) -> Kernel {
        Kernel { name, release: None, troubles: Vec::new(), measured: Vec::new() }
    }
}

/// What came of a row's point on a lower file system.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// The row's name.
    pub row: &'static str,
    /// What it answers.
    pub question: &'static str,
    /// The column that does.
    pub answer: &'static str,
    /// The claims that it is about.
    pub claims: &'static [&'static str],
    /// What was below.
    pub lower: Lower,
    /// The same in the agent's words.
    pub on: String,
    /// What differs between points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub axis: Option<&'static str>,
    /// The place on that axis.
    pub at: u32,
    /// What rates are told in.
    pub unit: Unit,
    /// How many times as fast as itself the first column is; none if it cannot do the work.
    pub control: Option<Ratio>,
    /// The columns, the first one being what the others are compared with.
    pub columns: Vec<Figure>,
}

/// What a column came to.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// Its name.
    pub column: String,
    /// How long the work took, once a round, in nanoseconds.
    pub nanos: Vec<u64>,
    /// How fast that is, in the row's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Spread>,
    /// How long one operation takes, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Spread>,
    /// How many times as fast as the first column it is; the first one has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
    /// What may be said of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Why it could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl Measured {
    /// What was heard of a row's point.
    pub fn new(row: &Row, point: &Point, job: &Job, heard: Heard) -> Measured {
        let Heard { lower: on, mut times, .. } = heard;
        // The control is the last one: the first one again.
        let again = times.pop();
        let base: Vec<u64> = times.first().and_then(|times| times.clone().ok()).unwrap_or_default();
        let control = again.and_then(|again| Ratio::of(&base, &again.ok()?));
        let figure = |(index, (times, column)): (usize, (Times, &super::Column))| {
            let name = column.name.clone();
            let ratio = |nanos: &[u64]| if index == 0 { None } else { Ratio::of(&base, nanos) };
            match times {
                Ok(nanos) => {
                    let ratio = ratio(&nanos);
                    Figure::new(name, nanos, point, row.unit, ratio, control)
                }
                Err(why) => Figure::skipped(name, why),
            }
        };
        Measured {
            row: row.name,
            question: row.question,
            answer: row.answer,
            claims: row.claims,
            lower: job.lower,
            on,
            axis: row.axis,
            at: point.at,
            unit: row.unit,
            control,
            columns: times.into_iter().zip(&job.columns).enumerate().map(figure).collect(),
        }
    }

    /// What the row's question is answered with.
    pub fn answer(&self) -> Option<&Figure> {
        self.columns.iter().find(|figure| figure.column == self.answer)
    }

    /// What it was done on, and at which place of the axis.
    pub fn place(&self) -> String {
        match self.axis {
            Some(axis) => format!("{}, {axis}: {}", self.lower, self.at),
            None => self.lower.to_string(),
        }
    }
}

impl Figure {
    fn new(
        column: String,
        nanos: Vec<u64>,
        point: &Point,
        unit: Unit,
        ratio: Option<Ratio>,
        control: Option<Ratio>,
    ) -> Figure {
        const MIB: f64 = (1 << 20) as f64;
        let amount = match unit {
            Unit::Bytes => point.work.bytes() as f64 / MIB,
            Unit::Operations => f64::from(point.work.count()),
        };
        let each = |of: &dyn Fn(f64) -> f64| {
            Spread::of(&nanos.iter().map(|nanos| of(*nanos as f64)).collect::<Vec<_>>())
        };
        let rate = each(&|nanos| amount * 1e9 / nanos);
        let cost = each(&|nanos| nanos / 1e3 / f64::from(point.work.count()));
        let verdict = ratio.zip(control).map(|(ratio, control)| Verdict::of(ratio, control));
        Figure { column, nanos, rate, cost, ratio, verdict, skipped: None }
    }

    fn skipped(column: String, why: String) -> Figure {
        Figure {
            column,
            nanos: Vec::new(),
            rate: None,
            cost: None,
            ratio: None,
            verdict: None,
            skipped: Some(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Told, rows};
    use super::*;

    fn measured(times: &[&[u64]], skipped: Option<u32>) -> Measured {
        let row = rows().into_iter().find(|row| row.name == "symlinks").expect("the row");
        let point = &row.points[0];
        let job = Job::new(Lower::Tmpfs, point.work, &point.columns, times[0].len() as u32, 0);
        let mut heard = Heard::of(&job);
        for (column, times) in times.iter().enumerate() {
            for nanos in times.iter().filter(|_| Some(column as u32) != skipped) {
                heard.hear(Told::Sample { column: column as u32, nanos: *nanos }).expect("it is believed");
            }
        }
        if let Some(column) = skipped {
            heard.hear(Told::Skipped { column, why: "no".into() }).expect("it is believed");
        }
        assert_eq!(heard.hear(Told::Done), Ok(true));
        Measured::new(&row, point, &job, heard)
    }

    #[test]
    fn the_last_column_is_the_control() {
        let found = measured(&[&[200; 6], &[100; 6], &[50; 6], &[200, 202, 200, 202, 200, 202]], None);
        assert_eq!(found.columns.len(), 3);
        assert_eq!(found.control.map(|control| control.high), Some(1.0));
        let verdicts: Vec<_> = found.columns.iter().map(|figure| figure.verdict).collect();
        assert_eq!(verdicts, [None, Some(Verdict::Faster), Some(Verdict::Faster)]);
        assert_eq!(found.answer().and_then(|figure| Some(figure.ratio?.median)), Some(2.0));
    }

    #[test]
    fn what_is_skipped_has_no_figures() {
        let found = measured(&[&[200], &[100], &[50], &[200]], Some(1));
        assert_eq!(found.answer().and_then(|figure| figure.skipped.as_deref()), Some("no"));
        assert!(found.answer().is_some_and(|figure| figure.ratio.is_none() && figure.rate.is_none()));
        // Without the base there is nothing to compare with.
        let found = measured(&[&[200], &[100], &[50], &[200]], Some(0));
        assert_eq!(found.control, None);
        assert!(found.columns.iter().all(|figure| figure.verdict.is_none()));
    }

    #[test]
    fn rates_and_costs_are_of_the_work() {
        // 2500 links in a fortieth of a second.
        let found = measured(&[&[25_000_000], &[25_000_000], &[1], &[1]], None);
        let figure = &found.columns[0];
        assert_eq!(figure.rate.map(|rate| rate.median.round()), Some(100_000.0));
        assert_eq!(figure.cost.map(|cost| cost.median), Some(10.0));
    }
}
