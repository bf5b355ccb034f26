//! What is measured: each row with the question that it answers and the claims that it is about.
//!
//! Sizes are such that the slowest column takes about a tenth of a second on an emulated machine, and all of it a few minutes.

use serde::Serialize;

use super::{CACHED, Cache, Carrier, Column, Lower, Opens, Order, Serving, Work};

/// What a row's figures are told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// MiB in a second.
    #[serde(rename = "MiB/s")]
    Bytes,
    /// Operations in a second.
    #[serde(rename = "operations/s")]
    Operations,
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unit::Bytes => "MiB/s",
            Unit::Operations => "operations/s",
        })
    }
}

/// Work, at one point or along an axis, and who does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What a newcomer asks.
    pub question: &'static str,
    /// The column that answers it, compared with the first one.
    pub answer: &'static str,
    /// The claims of the founding documents that it is about.
    pub claims: &'static [&'static str],
    /// What figures are told in.
    pub unit: Unit,
    /// What differs between its points; none if there is but one.
    pub axis: Option<&'static str>,
    /// Each with its place on the axis, which may change the columns.
    pub points: Vec<Point>,
    /// What it is done on.
    pub lowers: &'static [Lower],
}

/// A row's work at one place of its axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The place.
    pub at: u32,
    /// The work.
    pub work: Work,
    /// The first one is what the others are compared with.
    pub columns: Vec<Column>,
}

const BOTH: &[Lower] = &[Lower::Tmpfs, Lower::Ext4];
/// For what the lower file system has no part in.
const ONE: &[Lower] = &[Lower::Tmpfs];

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
/// Pages of the large file.
const PAGES: u32 = 4096;

const PASSED: Serving = Serving { opens: Opens::PassedEach, ..CACHED };
const KEPT: Serving = Serving { opens: Opens::PassedKept, ..CACHED };
const BACK: Serving = Serving { writes_back: true, ..CACHED };
const DIRECT: Serving = Serving { opens: Opens::Direct, ..CACHED };
const SPLICED: Serving = Serving { carrier: Carrier::Splices, ..CACHED };
const RING: Serving = Serving { carrier: Carrier::Ring, ..CACHED };

fn columns(of: &[(&str, Option<Serving>)]) -> Vec<Column> {
    of.iter().map(|(name, serving)| Column { name: (*name).into(), serving: *serving }).collect()
}

/// Daemons that read.
fn readers() -> Vec<Column> {
    columns(&[
        ("cached", Some(CACHED)),
        ("native", None),
        ("passthrough", Some(PASSED)),
        ("direct_io", Some(DIRECT)),
        ("splice replies", Some(SPLICED)),
        ("io_uring", Some(RING)),
    ])
}

/// The same where pages are needed: what is not cached cannot be mapped.
fn mappers() -> Vec<Column> {
    readers().into_iter().filter(|column| column.serving != Some(DIRECT)).collect()
}

/// Daemons that write: replies to that are too short to be spliced.
fn writers() -> Vec<Column> {
    columns(&[
        ("cached", Some(CACHED)),
        ("native", None),
        ("passthrough", Some(PASSED)),
        ("writeback", Some(BACK)),
        ("direct_io", Some(DIRECT)),
        ("io_uring", Some(RING)),
    ])
}

/// Daemons that open.
fn openers() -> Vec<Column> {
    columns(&[
        ("cached", Some(CACHED)),
        ("native", None),
        ("passthrough, an id an open", Some(PASSED)),
        ("passthrough, ids kept", Some(KEPT)),
        ("io_uring", Some(RING)),
    ])
}

fn one(work: Work, columns: Vec<Column>) -> Vec<Point> {
    vec![Point { at: 0, work, columns }]
}

fn series(places: &[u32], point: impl Fn(u32) -> (Work, Vec<Column>)) -> Vec<Point> {
    let point = |at: &u32| {
        let (work, columns) = point(*at);
        Point { at: *at, work, columns }
    };
    places.iter().map(point).collect()
}

/// All that is measured, in the order in which a reader wants it.
pub fn rows() -> Vec<Row> {
    let read = |order, cache, piece, count| Work::Read { order, cache, piece, count };
    let write = |order, piece, count, syncs| Work::Write { order, piece, count, syncs };
    let file = |name, question, claims, points| Row {
        name,
        question,
        answer: "passthrough",
        claims,
        unit: Unit::Bytes,
        axis: None,
        points,
        lowers: BOTH,
    };
    vec![
        file(
            "random-read-cold",
            "How fast are 4 KiB reads at random places of a file that is not in memory?",
            &["S0-24", "S0-26", "S0-27", "S1-23"],
            one(read(Order::Random, Cache::Cold, 4 * KIB, 512), readers()),
        ),
        file(
            "random-read-warm",
            "How fast are 4 KiB reads at random places of a file that was read before?",
            &["S0-26", "S1-23"],
            one(read(Order::Random, Cache::Warm, 4 * KIB, PAGES), readers()),
        ),
        file(
            "sequential-read",
            "How fast is a file read from its beginning to its end, in pieces of 1 MiB?",
            &["S0-26", "S1-23"],
            one(read(Order::Sequential, Cache::Cold, MIB, 16), readers()),
        ),
        file(
            "sequential-write",
            "How fast is a file written, in pieces of 1 MiB?",
            &["S0-25", "S0-26", "S0-27", "S1-23"],
            one(write(Order::Sequential, MIB, 16, false), writers()),
        ),
        file(
            "sequential-write-fsync",
            "How fast is a file written with an fsync(2) at the end?",
            &["S0-25", "S0-26", "S1-23"],
            one(write(Order::Sequential, MIB, 16, true), writers()),
        ),
        file(
            "random-write",
            "How fast are 4 KiB writes at random places?",
            &["S0-26", "S1-23"],
            one(write(Order::Random, 4 * KIB, 512, false), writers()),
        ),
        file(
            "mmap-touch",
            "How fast is a file that is not in memory mapped and touched, page by page?",
            &["S1-23"],
            one(Work::Touch { pages: PAGES }, mappers()),
        ),
        Row {
            name: "small-files",
            question: "How fast are 200 small files of 10,000 opened, read and closed, the same ones each time?",
            answer: "passthrough, an id an open",
            claims: &["S1-24"],
            unit: Unit::Operations,
            axis: None,
            points: one(Work::SmallFiles { all: 10_000, count: 200 }, openers()),
            lowers: BOTH,
        },
        Row {
            name: "parallel-opens",
            question: "What does it cost to open and close a file when several tasks do so at once?",
            answer: "passthrough, an id an open",
            claims: &["S1-24", "S3-55"],
            unit: Unit::Operations,
            axis: Some("tasks"),
            points: series(&[1, 2, 4, 8], |tasks| (Work::Tasks { tasks, count: 160 }, openers())),
            lowers: ONE,
        },
        Row {
            name: "open-files",
            question: "What does it cost to open and close a file when many others are open?",
            answer: "passthrough, an id an open",
            claims: &["S1-24"],
            unit: Unit::Operations,
            axis: Some("open files"),
            // Those of all columns together are fewer than 20,000, which is all that some containers allow.
            points: series(&[0, 100, 1000, 3000], |open| (Work::Beside { open, count: 200 }, openers())),
            lowers: ONE,
        },
        Row {
            name: "symlinks",
            question: "What does it buy to walk over symlinks that the kernel may remember?",
            answer: "remembered",
            claims: &["S3-62"],
            unit: Unit::Operations,
            axis: None,
            points: one(
                Work::Links { count: 2500 },
                columns(&[
                    ("asked each time", Some(CACHED)),
                    ("remembered", Some(Serving { keeps_links: true, ..CACHED })),
                    ("native", None),
                ]),
            ),
            lowers: ONE,
        },
        Row {
            name: "request-size",
            question: "What do requests of up to 256 pages buy, instead of 32, the slower the daemon is?",
            answer: "256 pages",
            claims: &["S3-68", "S3-69", "S3-70"],
            unit: Unit::Bytes,
            axis: Some("microseconds that each WRITE takes longer"),
            points: series(&[0, 1, 10, 100], |delay| {
                let of = |pages| Some(Serving { pages, delay, ..CACHED });
                (
                    write(Order::Sequential, MIB, 16, false),
                    columns(&[("32 pages", of(32)), ("256 pages", of(256))]),
                )
            }),
            lowers: ONE,
        },
        Row {
            name: "opendir",
            question: "What does it buy to answer the first opening of a folder with ENOSYS?",
            answer: "ENOSYS",
            claims: &["S3-53"],
            unit: Unit::Operations,
            axis: None,
            points: one(
                Work::Folders { count: 500 },
                columns(&[
                    ("asked each time", Some(CACHED)),
                    ("ENOSYS", Some(Serving { opens_folders: false, ..CACHED })),
                    ("native", None),
                ]),
            ),
            lowers: ONE,
        },
        Row {
            name: "splice-replies",
            question: "What do replies cost that are spliced instead of written, by their size?",
            answer: "spliced",
            claims: &["S2-03"],
            unit: Unit::Bytes,
            axis: Some("KiB of a reply"),
            points: series(&[4, 128, 1024], |kib| {
                let count = (16 * KIB / kib).min(512);
                let spliced = Serving { carrier: Carrier::Splices, ..DIRECT };
                (
                    read(Order::Sequential, Cache::Warm, kib * KIB, count),
                    columns(&[("written", Some(DIRECT)), ("spliced", Some(spliced))]),
                )
            }),
            lowers: ONE,
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The benchmarks of the founding documents, without those of virtio-fs, which are measured beside that transport, and S2-04,
    /// which wants a network.
    const CLAIMS: [&str; 13] = [
        "S0-24", "S0-25", "S0-26", "S0-27", "S1-23", "S1-24", "S2-03", "S3-53", "S3-55", "S3-62", "S3-68",
        "S3-69", "S3-70",
    ];

    #[test]
    fn every_claim_has_its_row_and_every_row_its_claim() {
        let named: BTreeSet<&str> = rows().iter().flat_map(|row| row.claims).copied().collect();
        assert_eq!(named, CLAIMS.into_iter().collect());
        assert!(rows().iter().all(|row| !row.claims.is_empty()));
    }

    #[test]
    fn names_are_different_and_questions_are_questions() {
        let rows = rows();
        let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows.len());
        assert!(rows.iter().all(|row| row.question.ends_with('?')));
    }

    #[test]
    fn a_row_can_be_shown() {
        for row in rows() {
            assert_eq!(row.points.len() > 1, row.axis.is_some(), "{}", row.name);
            for point in &row.points {
                let names: Vec<&str> = point.columns.iter().map(|column| column.name.as_str()).collect();
                let first: Vec<_> = row.points[0].columns.iter().map(|column| column.name.as_str()).collect();
                assert_eq!(names, first, "{}: the same columns at each point", row.name);
                assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{}", row.name);
                assert!(names[1..].contains(&row.answer), "{}: {}", row.name, row.answer);
                assert!(point.columns[0].serving.is_some(), "{}: compared with a daemon", row.name);
                assert_eq!(row.unit == Unit::Bytes, point.work.bytes() > 0, "{}", row.name);
                assert!(point.work.count() > 0);
            }
        }
    }

    #[test]
    fn what_is_read_fits_into_the_file() {
        for point in rows().iter().flat_map(|row| &row.points) {
            assert!(point.work.bytes() <= u64::from(PAGES * super::super::PAGE), "{:?}", point.work);
        }
    }
}
