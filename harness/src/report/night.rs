//! What campaigns did over time, as a page: figures, plots and findings. One file that needs no network and runs no script.
//!
//! Figures of several writers stand side by side, as each counts for itself.

pub(super) mod plot;

use std::collections::BTreeMap;

use askama::Template;

use self::plot::{Curve, plot};
use super::printable;
use crate::campaign::{Finding, History, Moment};

/// A curve is drawn with so many points at most.
const MOST_POINTS: usize = 500;
const MIB: f64 = (1 << 20) as f64;

#[derive(Template)]
#[template(path = "night.html")]
struct Page<'a> {
    style: &'static str,
    sections: Vec<Section<'a>>,
    new: Vec<&'a Finding>,
    known: Vec<&'a Finding>,
}

impl Page<'_> {
    /// As a style names them.
    fn colours() -> impl Iterator<Item = String> {
        plot::COLOURS.iter().map(|colour| format!("#{:02x}{:02x}{:02x}", colour.0, colour.1, colour.2))
    }
}

/// A target on a kernel.
struct Section<'a> {
    target: &'a str,
    kernel: &'a str,
    rows: Vec<Row<'a>>,
    plots: Vec<Plot>,
}

/// What one writer has come to.
struct Row<'a> {
    writer: &'a str,
    campaigns: usize,
    last: &'a Moment,
    time: String,
    rate: f64,
    own: f64,
    guests: f64,
    /// Which of the colours is its.
    colour: usize,
}

struct Plot {
    title: &'static str,
    svg: String,
}

/// The page as an HTML text.
///
/// # Errors
/// A plot cannot be drawn, which nothing can provoke.
pub fn night(histories: &[History], findings: &[Finding]) -> Result<String, askama::Error> {
    let mut groups: BTreeMap<(&str, &str), Vec<&History>> = BTreeMap::new();
    for history in histories.iter().filter(|history| !history.moments.is_empty()) {
        groups.entry((&history.target, &history.kernel)).or_default().push(history);
    }
    let sections =
        groups.into_iter().map(|((target, kernel), histories)| section(target, kernel, &histories));
    let (known, new) = findings.iter().partition(|finding| finding.known.is_some());
    let page = Page {
        style: include_str!("../../templates/page.css"),
        sections: sections.collect::<Result<_, _>>()?,
        new,
        known,
    };
    page.render().map(|page| printable(&page))
}

fn section<'a>(
    target: &'a str,
    kernel: &'a str,
    histories: &[&'a History],
) -> Result<Section<'a>, askama::Error> {
    let rows = histories.iter().enumerate().filter_map(|(place, history)| row(place, history));
    let longest = histories.iter().filter_map(|history| history.moments.last()).map(|last| last.seconds);
    let (unit, seconds) = unit(longest.fold(0.0, f64::max));
    let draw = |title, of: &[fn(&Moment) -> f64]| -> Result<Plot, askama::Error> {
        let curves = histories.iter().enumerate().flat_map(|(place, history)| {
            let points = |of: &fn(&Moment) -> f64| points(&history.moments, seconds, *of);
            of.iter().enumerate().map(move |(style, of)| Curve {
                points: points(of),
                colour: place % plot::COLOURS.len(),
                is_thin: style > 0,
            })
        });
        let svg = plot(&curves.collect::<Vec<_>>(), unit).map_err(askama::Error::custom)?;
        Ok(Plot { title, svg })
    };
    let mut plots = Vec::new();
    let tells_places = histories.iter().flat_map(|history| &history.moments).any(|one| one.places > 0);
    if tells_places {
        plots.push(draw("places of the code that were passed", &[|one| one.places as f64]));
    }
    plots.push(draw("inputs a second", &[|one| one.rate]));
    plots.push(draw("inputs in the corpus", &[|one| one.corpus as f64]));
    let memory: [fn(&Moment) -> f64; 2] =
        [|one| one.memory.guests as f64 / MIB, |one| one.memory.own as f64 / MIB];
    plots.push(draw("memory in MiB: guests, and thin this program", &memory));
    let plots = plots.into_iter().collect::<Result<_, _>>()?;
    Ok(Section { target, kernel, rows: rows.collect(), plots })
}

fn row(place: usize, history: &History) -> Option<Row<'_>> {
    let last = history.moments.last()?;
    let most = |of: fn(&Moment) -> u64| history.moments.iter().map(of).max().unwrap_or(0) as f64 / MIB;
    Some(Row {
        writer: &history.writer,
        campaigns: history.campaigns,
        last,
        time: time(last.seconds),
        rate: last.execs as f64 / last.seconds.max(0.001),
        own: most(|one| one.memory.own),
        guests: most(|one| one.memory.guests),
        colour: place % plot::COLOURS.len(),
    })
}

/// The unit in which so many seconds are shown, and how many seconds that is.
fn unit(seconds: f64) -> (&'static str, f64) {
    match seconds {
        ..300.0 => ("seconds", 1.0),
        ..10_800.0 => ("minutes", 60.0),
        _ => ("hours", 3600.0),
    }
}

/// `7 h 05 min`.
fn time(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..600 => format!("{seconds} s"),
        600..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A curve of not too many points: each is the mean of those that it stands for.
fn points(moments: &[Moment], seconds: f64, of: fn(&Moment) -> f64) -> Vec<(f64, f64)> {
    let share = moments.len().div_ceil(MOST_POINTS).max(1);
    let mean =
        |part: &[Moment], of: &dyn Fn(&Moment) -> f64| part.iter().map(of).sum::<f64>() / part.len() as f64;
    moments.chunks(share).map(|part| (mean(part, &|one| one.seconds / seconds), mean(part, &of))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::{Identity, Memory, Rate};

    fn history(writer: &str, lines: usize) -> History {
        let moment = |number: usize| Moment {
            seconds: number as f64 * 10.0,
            execs: number as u64 * 300,
            rate: 30.0,
            places: 700 + number,
            corpus: 900,
            restores: 1,
            memory: Memory { own: 50 << 20, guests: 300 << 20 },
            ..Moment::default()
        };
        History {
            target: "sequence".into(),
            kernel: "kasan-7.2".into(),
            writer: writer.into(),
            campaigns: 2,
            moments: (1..=lines).map(moment).collect(),
        }
    }

    #[test]
    fn writers_stand_side_by_side_and_findings_below() {
        let finding = |name: &str, known: Option<&str>| Finding {
            name: name.into(),
            why: "step 5: the oracle allows <b>\"hello\"".into(),
            times: 3,
            rate: Rate::default(),
            kernel: Identity { name: "kasan-7.2".into(), ..Identity::default() },
            known: known.map(str::to_owned),
        };
        let findings = [finding("oracle-read-1", None), finding("oracle-write-2", Some("it is old"))];
        let page = night(&[history("x-1-of-2", 2880), history("x-2-of-2", 7), history("y", 0)], &findings);
        let page = page.expect("a page");
        for there in [
            "href=\"findings/oracle-read-1/\"",
            "the oracle allows &#60;b&#62;",
            "8 h 00 min",
            "70 s",
            "x-2-of-2",
            "it is old",
            "\nhours\n",
        ] {
            assert!(page.contains(there), "{there}: {page}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(
            !page.contains("<script") && !page.contains("<b>\"") && page.len() < 200_000,
            "{}",
            page.len()
        );
    }

    #[test]
    fn a_curve_has_not_too_many_points_and_keeps_its_height() {
        let points = points(&history("x", 2880).moments, 3600.0, |one| one.rate);
        assert!(points.len() <= MOST_POINTS && points.len() > MOST_POINTS / 2);
        assert!(points.iter().all(|(_, rate)| (rate - 30.0).abs() < 1e-9));
    }

    #[test]
    fn nothing_at_all_is_a_page_too() {
        assert!(night(&[], &[]).expect("a page").contains("Nothing was found"));
    }
}
