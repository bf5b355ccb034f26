//! What a benchmark came to: on the terminal, as JSON, as CSV and as a page.

mod own;
mod page;
mod plot;

pub use own::{own, own_json};
pub use page::bench_html;

use std::fmt::Write;

use serde::Serialize;

use super::on_one_line;
use crate::bench::{Bench, FEWEST_ROUNDS, Figure, Kernel, Measured, Ratio};

/// All of it, the times of each round among it.
///
/// # Errors
/// None that plain data can provoke.
pub fn bench_json(bench: &Bench) -> serde_json::Result<String> {
    serde_json::to_string_pretty(bench).map(|text| text + "\n")
}

/// A line of the table.
#[derive(Serialize)]
struct Line<'a> {
    kernel: &'a str,
    release: &'a str,
    row: &'a str,
    claims: String,
    lower: &'a str,
    axis: &'a str,
    at: u32,
    column: &'a str,
    unit: String,
    lower_quartile: Option<f64>,
    median: Option<f64>,
    upper_quartile: Option<f64>,
    ratio: Option<f64>,
    ratio_low: Option<f64>,
    ratio_high: Option<f64>,
    control_low: Option<f64>,
    control_high: Option<f64>,
    verdict: String,
    skipped: &'a str,
}

/// A line for each column of each point, for a spreadsheet.
///
/// # Errors
/// None that plain data can provoke.
pub fn bench_csv(bench: &Bench) -> Result<String, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    for kernel in &bench.kernels {
        for measured in &kernel.measured {
            for figure in &measured.columns {
                table.serialize(line(kernel, measured, figure))?;
            }
        }
    }
    let bytes = table.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn line<'a>(kernel: &'a Kernel, measured: &'a Measured, figure: &'a Figure) -> Line<'a> {
    let (rate, ratio, control) = (figure.rate, figure.ratio, measured.control);
    Line {
        kernel: &kernel.name,
        release: kernel.release.as_deref().unwrap_or_default(),
        row: measured.row,
        claims: measured.claims.join(" "),
        lower: &measured.on,
        axis: measured.axis.unwrap_or_default(),
        at: measured.at,
        column: &figure.column,
        unit: measured.unit.to_string(),
        lower_quartile: rate.map(|rate| rate.low),
        median: rate.map(|rate| rate.median),
        upper_quartile: rate.map(|rate| rate.high),
        ratio: ratio.map(|ratio| ratio.median),
        ratio_low: ratio.map(|ratio| ratio.low),
        ratio_high: ratio.map(|ratio| ratio.high),
        control_low: control.map(|control| control.low),
        control_high: control.map(|control| control.high),
        verdict: figure.verdict.map(|verdict| verdict.to_string()).unwrap_or_default(),
        skipped: figure.skipped.as_deref().unwrap_or_default(),
    }
}

/// What each row is answered with, a line each.
pub fn bench(bench: &Bench) -> String {
    let mut text = String::new();
    for kernel in &bench.kernels {
        let release = kernel.release.as_deref().map(|release| format!(" ({})", on_one_line(release)));
        let name = kernel.name.clone() + &release.unwrap_or_default();
        let _ = writeln!(text, "{name}, {} rounds, seed {}", bench.rounds, bench.seed);
        if bench.tells_no_direction() {
            let _ = writeln!(
                text,
                "  no direction can be told of fewer than {FEWEST_ROUNDS} rounds: their spread is too weak for 95 per cent"
            );
        }
        for measured in &kernel.measured {
            let _ = writeln!(text, "  {} on {}: {}", measured.row, measured.place(), answer(measured));
        }
        for trouble in &kernel.troubles {
            let _ = writeln!(text, "  not measured: {}", on_one_line(trouble));
        }
    }
    text
}

fn answer(measured: &Measured) -> String {
    let Some(figure) = measured.answer() else { return "no answer".into() };
    match (figure.ratio, measured.control, figure.verdict) {
        (Some(ratio), Some(control), Some(verdict)) => format!(
            "{} {verdict}, {} as fast as {} ({}); that one beside itself {}",
            figure.column,
            times(ratio.median),
            measured.columns[0].column,
            interval(ratio),
            interval(control),
        ),
        _ => {
            let skipped = measured.columns.iter().find_map(|figure| figure.skipped.as_deref());
            format!("not measured: {}", on_one_line(skipped.unwrap_or("no time was told")))
        }
    }
}

/// `2.1×`, with three digits that count.
fn times(ratio: f64) -> String {
    format!("{}×", digits(ratio))
}

fn interval(ratio: Ratio) -> String {
    format!("{} to {}", times(ratio.low), times(ratio.high))
}

/// A number with three digits that count.
fn digits(number: f64) -> String {
    let places = match number.abs() {
        0.0 | 100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    };
    let text = format!("{number:.places$}");
    let whole = text.split('.').next().unwrap_or(&text).len();
    if places > 0 || whole < 5 {
        return text;
    }
    // 123456 is read as 123,456.
    let mut grouped = String::new();
    for (index, digit) in text.chars().enumerate() {
        if index > 0 && (text.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Heard, Job, Told, rows};

    /// Every row on two kernels, with made-up times; one has a column less.
    pub(super) fn made_up() -> Bench {
        let kernel = |name: &str, lacks: Option<&str>, slow: u64| {
            let mut measured = Vec::new();
            for row in rows() {
                for (point, lower) in
                    row.points.iter().flat_map(|point| row.lowers.iter().map(move |l| (point, l)))
                {
                    let job = Job::new(*lower, point.work, &point.columns, 7, 0);
                    let mut heard = Heard::of(&job);
                    for (index, column) in job.columns.iter().enumerate() {
                        let skips = lacks.is_some_and(|lacks| column.name == lacks);
                        for round in (0..7).filter(|_| !skips) {
                            let name: u64 = column.name.bytes().map(u64::from).sum();
                            let nanos = 1_000_000 * slow * (1 + name % 7) + round * 20_000;
                            let told = Told::Sample { column: index as u32, nanos };
                            heard.hear(told).expect("it is believed");
                        }
                        if skips {
                            let why = "the kernel <b>does not</b> offer it\n\u{1b}[31m".into();
                            heard.hear(Told::Skipped { column: index as u32, why }).expect("it is believed");
                        }
                    }
                    measured.push(Measured::new(&row, point, &job, heard));
                }
            }
            let troubles = lacks.map(|_| "<i>lost</i>".to_string()).into_iter().collect();
            Kernel { name: name.into(), release: Some(format!("{name}.1")), troubles, measured }
        };
        Bench {
            rounds: 7,
            seed: 5,
            kernels: vec![kernel("6.12", Some("io_uring"), 3), kernel("7.3", None, 2)],
        }
    }

    #[test]
    fn every_column_has_a_line_of_the_table() {
        let bench = made_up();
        let csv = bench_csv(&bench).expect("a table");
        let columns: usize =
            bench.kernels.iter().flat_map(|kernel| &kernel.measured).map(|one| one.columns.len()).sum();
        let mut read = csv::Reader::from_reader(csv.as_bytes());
        let lines: Vec<_> = read.records().collect::<Result<_, _>>().expect("it can be read");
        assert_eq!(lines.len(), columns);
        assert!(csv.contains("passthrough, ids kept"), "what has a comma is quoted");
    }

    #[test]
    fn json_has_all_times() {
        let text = bench_json(&made_up()).expect("a text");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let first = &value["kernels"][0]["measured"][0];
        assert_eq!(first["row"], "random-read-cold");
        assert_eq!(first["columns"][0]["nanos"].as_array().map(Vec::len), Some(7));
        assert_eq!(first["columns"][0]["ratio"], serde_json::Value::Null);
        assert!(first["control"]["median"].is_number());
    }

    #[test]
    fn a_guest_writes_no_line_of_its_own() {
        let mut made_up = made_up();
        made_up.kernels[0].release = Some("6.12\nall is well\u{1b}[2J".into());
        let text = bench(&made_up);
        assert!(!text.contains('\u{1b}') && !text.contains("\nall is well"), "{text}");
        assert!(text.contains("random-read-cold on tmpfs: passthrough"), "{text}");
    }

    #[test]
    fn too_few_rounds_are_said_to_be_too_few() {
        let mut made_up = made_up();
        let says_so = |made_up: &Bench| {
            let texts = [bench(made_up), bench_html(made_up).expect("a page")];
            texts.map(|text| text.contains("fewer than 6 rounds"))
        };
        assert_eq!(says_so(&made_up), [false; 2]);
        made_up.rounds = 5;
        assert_eq!(says_so(&made_up), [true; 2]);
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let numbers = [0.0, 0.0123, 0.5, 1.234, 12.34, 123.4, 12345.6, 1_234_567.0].map(digits);
        assert_eq!(numbers, ["0", "0.0123", "0.500", "1.23", "12.3", "123", "12,346", "1,234,567"]);
    }
}
