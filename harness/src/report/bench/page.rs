//! The page: in short, then each row with a bar for each column and kernel, and costs along axes. One file that needs no network and
//! runs no script.

use askama::Template;

use super::super::night::plot::COLOURS;
use super::super::printable;
use super::plot::{Curve, plot};
use super::{digits, interval, times};
use crate::bench::{Bench, FEWEST_ROUNDS, Figure, Lower, Measured, Ratio, Verdict};

#[derive(Template)]
#[template(path = "bench.html")]
struct Page<'a> {
    style: &'static str,
    bench: &'a Bench,
    answers: Vec<Answer<'a>>,
    rows: Vec<Row<'a>>,
}

impl Page<'_> {
    fn fewest_rounds() -> usize {
        FEWEST_ROUNDS
    }

    fn ways() -> &'static [(&'static str, &'static str)] {
        &WAYS
    }

    /// As a style names them.
    fn colours() -> impl Iterator<Item = String> {
        COLOURS.iter().map(|colour| format!("#{:02x}{:02x}{:02x}", colour.0, colour.1, colour.2))
    }
}

/// A row, at the last place of its axis, on all kernels.
struct Answer<'a> {
    row: &'a str,
    question: &'a str,
    place: String,
    compared: String,
    cells: Vec<Cell>,
}

struct Cell {
    ratio: String,
    word: String,
    interval: String,
    /// As the style names it.
    verdict: &'static str,
}

/// What ways are called, and what they are.
const WAYS: [(&str, &str); 8] = [
    ("cached", "an ordinary FUSE daemon: the kernel asks it, and keeps what was read"),
    ("native", "the same folder without FUSE"),
    (
        "passthrough",
        "the daemon registers the lower file at each open, and the kernel reads and writes that by itself",
    ),
    ("ids kept", "the same with one registration a file, kept for later opens"),
    ("writeback", "what is written lies in the kernel and is sent later, in larger pieces"),
    ("direct_io", "nothing is kept in the kernel"),
    ("splice replies", "the daemon moves pages of the lower file through a pipe instead of copying them"),
    (
        "io_uring",
        "requests and replies travel over a ring instead of read(2) and write(2). One thread serves it; other daemons have one for each \
         processor, up to four, so where several requests are under way at once, only one processor compares them fairly",
    ),
];

struct Row<'a> {
    name: &'a str,
    question: &'a str,
    claims: String,
    lowers: Vec<OnLower<'a>>,
}

/// A row on a lower file system.
struct OnLower<'a> {
    lower: String,
    plots: Vec<Picture<'a>>,
    /// Names of columns with their colours, for the pictures.
    legend: Vec<(usize, &'a str)>,
    tables: Vec<Table<'a>>,
    is_series: bool,
}

struct Picture<'a> {
    title: &'a str,
    svg: String,
}

struct Table<'a> {
    place: String,
    unit: String,
    ticks: Vec<Tick>,
    lines: Vec<Line<'a>>,
}

struct Tick {
    at: f64,
    text: String,
}

struct Line<'a> {
    column: &'a str,
    /// The first one of its column.
    is_first: bool,
    kernel: &'a str,
    rate: String,
    spread: String,
    ratio: String,
    interval: String,
    word: String,
    verdict: &'static str,
    bar: Option<Bar>,
    skipped: Option<&'a str>,
}

/// Per cent of the scale's width.
struct Bar {
    /// From the base to the median.
    from: f64,
    width: f64,
    /// The spread.
    low: f64,
    breadth: f64,
    base: f64,
    noise_from: f64,
    noise_width: f64,
}

/// The page as an HTML text.
///
/// # Errors
/// A plot cannot be drawn, which nothing can provoke.
pub fn bench_html(bench: &Bench) -> Result<String, askama::Error> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut answers = Vec::new();
    for (name, lower) in measured_rows(bench) {
        let of_row = |one: &&Measured| one.row == name && one.lower == lower;
        let kernels: Vec<Vec<&Measured>> =
            bench.kernels.iter().map(|kernel| kernel.measured.iter().filter(of_row).collect()).collect();
        let Some(first) = kernels.iter().flatten().next().copied() else { continue };
        answers.push(answer(&kernels, first));
        let part = on_lower(bench, &kernels, first)?;
        match rows.last_mut().filter(|row| row.name == name) {
            Some(row) => row.lowers.push(part),
            None => rows.push(Row {
                name,
                question: first.question,
                claims: first.claims.join(", "),
                lowers: vec![part],
            }),
        }
    }
    let style = include_str!("../../../templates/page.css");
    Page { style, bench, answers, rows }.render().map(|page| printable(&page))
}

/// Each row on each lower file system, once, in the order in which they were measured.
fn measured_rows(bench: &Bench) -> Vec<(&'static str, Lower)> {
    let mut known = Vec::new();
    for measured in bench.kernels.iter().flat_map(|kernel| &kernel.measured) {
        let one = (measured.row, measured.lower);
        if !known.contains(&one) {
            known.push(one);
        }
    }
    known
}

fn answer<'a>(kernels: &[Vec<&'a Measured>], first: &'a Measured) -> Answer<'a> {
    let last = kernels.iter().flatten().map(|one| one.at).max().unwrap_or(first.at);
    let at_last = |points: &Vec<&'a Measured>| points.iter().find(|one| one.at == last).copied();
    let cells = kernels.iter().map(|points| at_last(points).map_or_else(Cell::none, Cell::of));
    let place = kernels.iter().filter_map(at_last).map(Measured::place).next();
    Answer {
        row: first.row,
        question: first.question,
        place: place.unwrap_or_default(),
        compared: format!("{} beside {}", first.answer, first.columns[0].column),
        cells: cells.collect(),
    }
}

impl Cell {
    fn none() -> Cell {
        Cell { ratio: "–".into(), word: "not measured".into(), interval: String::new(), verdict: "skipped" }
    }

    fn of(measured: &Measured) -> Cell {
        let figure = measured.answer().and_then(|figure| Some((figure.ratio?, figure.verdict?)));
        let Some((ratio, verdict)) = figure else { return Cell::none() };
        Cell {
            ratio: times(ratio.median),
            word: verdict.to_string(),
            interval: interval(ratio),
            verdict: styled(verdict),
        }
    }
}

/// As the style names a verdict.
fn styled(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Faster => "passed",
        Verdict::Slower => "failed",
        Verdict::Unknown => "skipped",
    }
}

fn on_lower<'a>(
    bench: &'a Bench,
    kernels: &[Vec<&'a Measured>],
    first: &'a Measured,
) -> Result<OnLower<'a>, askama::Error> {
    let mut places: Vec<u32> = kernels.iter().flatten().map(|one| one.at).collect();
    places.sort_unstable();
    places.dedup();
    let is_series = first.axis.is_some();
    let mut plots = Vec::new();
    if let Some(axis) = first.axis {
        let names: Vec<String> = places.iter().map(u32::to_string).collect();
        for (kernel, points) in bench.kernels.iter().zip(kernels).filter(|(_, points)| points.len() > 1) {
            let cost = |column: usize| {
                let place = |one: &&Measured| places.iter().position(|place| *place == one.at);
                points.iter().filter_map(|one| Some((place(one)?, one.columns[column].cost?))).collect()
            };
            let svg = draw(first, cost, &names, axis)?;
            plots.push(Picture { title: &kernel.name, svg });
        }
    } else if kernels.iter().filter(|points| !points.is_empty()).count() > 1 {
        let names: Vec<String> = bench.kernels.iter().map(|kernel| kernel.name.clone()).collect();
        let cost = |column: usize| {
            let points = kernels.iter().enumerate();
            points
                .filter_map(|(place, points)| Some((place, points.first()?.columns[column].cost?)))
                .collect()
        };
        plots.push(Picture {
            title: "across kernels, one measured after the other",
            svg: draw(first, cost, &names, "kernel")?,
        });
    }
    let columns = first.columns.iter().enumerate();
    let legend = columns.map(|(place, figure)| (place % COLOURS.len(), figure.column.as_str()));
    let tables = places.iter().map(|at| {
        let here = kernels.iter().map(|points| points.iter().find(|one| one.at == *at).copied());
        table(bench, &here.collect::<Vec<_>>())
    });
    Ok(OnLower {
        lower: first.on.clone(),
        legend: if plots.is_empty() { Vec::new() } else { legend.collect() },
        plots,
        tables: tables.collect(),
        is_series,
    })
}

fn draw(
    first: &Measured,
    cost: impl Fn(usize) -> Vec<(usize, crate::bench::Spread)>,
    places: &[String],
    axis: &str,
) -> Result<String, askama::Error> {
    let curve = |column: usize| Curve { points: cost(column), colour: column % COLOURS.len() };
    let curves: Vec<Curve> = (0..first.columns.len()).map(curve).collect();
    plot(&curves, places, axis, "µs an operation").map_err(askama::Error::custom)
}

/// A point on all kernels: columns down, the kernels of each below each other.
fn table<'a>(bench: &'a Bench, kernels: &[Option<&'a Measured>]) -> Table<'a> {
    let all = || kernels.iter().flatten();
    let ratios =
        all().flat_map(|one| one.columns.iter().filter_map(|figure| figure.ratio).chain(one.control));
    let edges = ratios.flat_map(|ratio| [ratio.low, ratio.high]);
    let noises = all().filter_map(|one| Some(one.control?.noise())).flat_map(|noise| [noise, 1.0 / noise]);
    let scale = Scale::of(edges.chain(noises));
    let columns = all().map(|one| one.columns.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for column in 0..columns {
        let mut is_first = true;
        for (kernel, measured) in bench.kernels.iter().zip(kernels) {
            if let Some((measured, figure)) = measured.and_then(|one| Some((one, one.columns.get(column)?))) {
                lines.push(line(&kernel.name, measured, figure, is_first, &scale));
                is_first = false;
            }
        }
    }
    let place = all().next().filter(|one| one.axis.is_some()).map(|one| one.place());
    let unit = all().next().map(|one| one.unit.to_string());
    Table { place: place.unwrap_or_default(), unit: unit.unwrap_or_default(), ticks: scale.ticks(), lines }
}

fn line<'a>(
    kernel: &'a str,
    measured: &'a Measured,
    figure: &'a Figure,
    is_first: bool,
    scale: &Scale,
) -> Line<'a> {
    // The first column is beside itself.
    let is_base = std::ptr::eq(&raw const measured.columns[0], figure);
    let ratio = if is_base { measured.control } else { figure.ratio };
    let word = match figure.verdict {
        Some(verdict) => verdict.to_string(),
        None if is_base => "itself, again".into(),
        None => String::new(),
    };
    let bar = ratio.zip(measured.control).map(|(ratio, control)| scale.bar(ratio, control));
    Line {
        column: &figure.column,
        is_first,
        kernel,
        rate: figure.rate.map(|rate| digits(rate.median)).unwrap_or_default(),
        spread: figure
            .rate
            .map(|rate| format!("{} to {}", digits(rate.low), digits(rate.high)))
            .unwrap_or_default(),
        ratio: ratio.map(|ratio| times(ratio.median)).unwrap_or_default(),
        interval: ratio.map(interval).unwrap_or_default(),
        word,
        verdict: figure.verdict.map_or("skipped", styled),
        bar,
        skipped: figure.skipped.as_deref(),
    }
}

/// Ratios as places, doubled and halved alike.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// With room for all of these, and for half and double.
    fn of(ratios: impl Iterator<Item = f64>) -> Scale {
        let (low, high) = ratios.fold((0.5_f64, 2.0_f64), |(low, high), one| (low.min(one), high.max(one)));
        let aside = (high / low).powf(0.04);
        Scale { low: low / aside, high: high * aside }
    }

    /// Per cent of the width.
    fn place(&self, ratio: f64) -> f64 {
        100.0 * (ratio / self.low).ln() / (self.high / self.low).ln()
    }

    fn bar(&self, ratio: Ratio, control: Ratio) -> Bar {
        let (base, middle) = (self.place(1.0), self.place(ratio.median));
        let (low, noise_from) = (self.place(ratio.low), self.place(1.0 / control.noise()));
        Bar {
            from: base.min(middle),
            width: (middle - base).abs(),
            low,
            breadth: self.place(ratio.high) - low,
            base,
            noise_from,
            noise_width: self.place(control.noise()) - noise_from,
        }
    }

    /// Powers of two, or of four or eight where there would be too many.
    fn ticks(&self) -> Vec<Tick> {
        let steps = (self.high / self.low).log2();
        let step = (steps / 6.0).ceil().max(1.0);
        let first = (self.low.log2() / step).ceil() as i32;
        let last = (self.high.log2() / step).floor() as i32;
        let tick = |power: i32| {
            let ratio = 2_f64.powf(f64::from(power) * step);
            let text = if ratio < 1.0 { format!("1/{}", (1.0 / ratio).round()) } else { ratio.to_string() };
            Tick { at: self.place(ratio), text: text + "×" }
        };
        (first..=last).map(tick).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::made_up;
    use super::*;
    use crate::bench::rows;

    #[test]
    fn every_row_is_there_and_no_guest_writes_the_page() {
        let bench = made_up();
        let page = bench_html(&bench).expect("a page");
        for row in rows() {
            assert!(page.contains(&format!("id=\"{}\"", row.name)), "{}", row.name);
            assert!(row.claims.iter().all(|claim| page.contains(claim)), "{}", row.name);
        }
        for wrong in ["<b>does", "<i>lost", "<script", "\u{1b}", "NaN", "inf%"] {
            assert!(!page.contains(wrong), "{wrong}");
        }
        assert!(page.contains("&#60;i&#62;lost"));
        assert!(page.len() < 1_000_000, "{}", page.len());
    }

    #[test]
    fn nothing_at_all_is_a_page_too() {
        let bench = Bench { rounds: 2, seed: 0, kernels: Vec::new() };
        assert!(bench_html(&bench).is_ok());
    }

    #[test]
    fn half_is_as_far_as_double() {
        let scale = Scale::of([4.0, 0.25].into_iter());
        let (half, one, double) = (scale.place(0.5), scale.place(1.0), scale.place(2.0));
        assert!((double - one - (one - half)).abs() < 1e-9 && (one - 50.0).abs() < 1e-9);
        let ticks: Vec<_> = scale.ticks().into_iter().map(|tick| tick.text).collect();
        assert_eq!(ticks, ["1/4×", "1/2×", "1×", "2×", "4×"]);
        let wide = Scale::of([5000.0].into_iter());
        assert!(wide.ticks().len() <= 8 && wide.ticks().iter().any(|tick| tick.text == "1×"));
    }
}
