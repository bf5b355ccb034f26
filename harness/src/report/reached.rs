//! What campaigns reached of a kernel: by file, function and line; as a table, a page, and JSON.
//!
//! A place counts where it lies: code of a header with the file that it was compiled into, at the line that calls it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use askama::Template;
use qemu::kernel::{Frame, Origin, Origins};
use serde::Serialize;

use super::printable;
use crate::campaign::Passed;

/// What the page is about; a kernel may be instrumented elsewhere, too.
const OURS: [&str; 2] = ["fs/fuse/", "fs/backing-file.c"];
/// Without debug information, and for code that the kernel's macros make.
const NO_FILE: &str = "(no file known)";

/// How much of something was passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// So many were passed.
    pub passed: usize,
    /// Of so many.
    pub all: usize,
    /// So many were passed for the first time by the last campaign.
    pub new: usize,
    /// So many were passed before, and not by the last campaign.
    pub lost: usize,
}

/// All of a kernel that is ours.
#[derive(Debug, Serialize)]
pub struct Reached {
    kernel: String,
    release: String,
    places: Share,
    functions: Share,
    files: Vec<File>,
    /// Whether there was a campaign before the last one.
    has_before: bool,
}

#[derive(Debug, Default, Serialize)]
struct File {
    name: String,
    places: Share,
    functions: Share,
    function: Vec<Function>,
    #[serde(skip)]
    lines: BTreeMap<u32, Share>,
    #[serde(skip)]
    text: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Function {
    name: String,
    line: u32,
    places: Share,
}

impl Share {
    fn add(&mut self, other: Share) {
        self.passed += other.passed;
        self.all += other.all;
        self.new += other.new;
        self.lost += other.lost;
    }

    /// One thing, which was passed before the last campaign, or by it.
    fn one(was: bool, is: bool, has_before: bool) -> Share {
        let count = |is: bool| usize::from(is);
        Share {
            passed: count(was || is),
            all: 1,
            new: count(has_before && is && !was),
            lost: count(was && !is),
        }
    }

    fn percent(self) -> f64 {
        if self.all == 0 { 0.0 } else { 100.0 * self.passed as f64 / self.all as f64 }
    }

    /// Whole percents, and 100 only if nothing is missing.
    fn rounded(self) -> String {
        format!("{:.0}%", if self.passed == self.all { 100.0 } else { self.percent().min(99.0) })
    }

    /// How it is marked.
    fn word(self) -> &'static str {
        match self.passed {
            0 => "no",
            passed if passed == self.all => "yes",
            _ => "part",
        }
    }
}

/// Put places to their files, functions and lines.
pub fn reached(passed: &Passed, origins: &Origins) -> Reached {
    let mut files: BTreeMap<&str, File> = BTreeMap::new();
    let mut functions: BTreeMap<(&str, &str), (Function, bool, bool)> = BTreeMap::new();
    let has_before = !passed.before.is_empty();
    for origin in &origins.places {
        let Some((name, frame)) = own(origin) else { continue };
        let (was, is) = (passed.before.contains(&origin.address), passed.last.contains(&origin.address));
        let share = Share::one(was, is, has_before);
        let file = files.entry(name).or_insert_with(|| File {
            name: name.to_owned(),
            text: origins.sources.get(name).cloned(),
            ..File::default()
        });
        file.places.add(share);
        file.lines.entry(frame.line).or_default().add(share);
        let (function, did, does) = functions.entry((name, &frame.function)).or_insert_with(|| {
            let (name, line) = (frame.function.clone(), frame.line);
            (Function { name, line, ..Function::default() }, false, false)
        });
        function.line = function.line.min(frame.line);
        function.places.add(share);
        *did |= was;
        *does |= is;
    }
    for ((name, _), (function, did, does)) in functions {
        if let Some(file) = files.get_mut(name) {
            file.functions.add(Share::one(did, does, has_before));
            file.function.push(function);
        }
    }
    let (mut places, mut functions) = (Share::default(), Share::default());
    for file in files.values_mut() {
        file.function.sort_by(|one, other| (one.line, &one.name).cmp(&(other.line, &other.name)));
        places.add(file.places);
        functions.add(file.functions);
    }
    Reached {
        kernel: passed.kernel.clone(),
        release: passed.release.clone(),
        places,
        functions,
        files: files.into_values().collect(),
        has_before,
    }
}

/// The file that a place counts for, and the innermost line of that file which leads there; none if it is not ours.
fn own(origin: &Origin) -> Option<(&str, &Frame)> {
    let file = origin.frames.last()?.file.as_str();
    if file.is_empty() {
        return origin.frames.last().map(|frame| (NO_FILE, frame));
    }
    let is_ours =
        OURS.iter().any(|ours| if ours.ends_with('/') { file.starts_with(ours) } else { file == *ours });
    let frame = origin.frames.iter().find(|frame| frame.file == file)?;
    is_ours.then_some((file, frame))
}

impl Reached {
    /// The table, and the functions that were not reached.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.summary());
        let wide = self.files.iter().map(|file| file.name.len()).max().unwrap_or(0).max("file".len());
        let _ = writeln!(text, "{:<wide$}  {:>16}  {:>16}", "file", "places", "functions");
        let cell = |share: Share| format!("{:>5} /{:>5} {:>3}", share.passed, share.all, share.rounded());
        for file in &self.files {
            let _ =
                write!(text, "{:<wide$}  {:>16}  {:>16}", file.name, cell(file.places), cell(file.functions));
            text.push_str(&difference(file.places));
            text.push('\n');
        }
        for file in &self.files {
            let missed: Vec<_> = file.missed().collect();
            if !missed.is_empty() {
                let _ = writeln!(text, "\nnot reached in {}:", file.name);
                text.push_str(&wrapped(&missed));
            }
        }
        printable(&text)
    }

    fn summary(&self) -> String {
        format!(
            "{} ({}): {} of {} places ({}), {} of {} functions{}",
            self.kernel,
            self.release,
            self.places.passed,
            self.places.all,
            self.places.rounded(),
            self.functions.passed,
            self.functions.all,
            difference(self.places)
        )
    }

    /// `{"kernel","release","places":{"passed","all","new","lost"},"functions":{...},"files":[{"name",...,"function":[...]}]}`.
    ///
    /// # Errors
    /// None that can be provoked: all of it is plain data.
    pub fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The page: one file that needs no network.
    ///
    /// # Errors
    /// None that can be provoked.
    pub fn html(&self) -> askama::Result<String> {
        let page = Page { reached: self, style: include_str!("../../templates/page.css") };
        page.render().map(|page| printable(&page))
    }
}

impl File {
    fn missed(&self) -> impl Iterator<Item = &str> {
        self.function.iter().filter(|one| one.places.passed == 0).map(|one| one.name.as_str())
    }

    /// Each line of the source with its mark; without the source, the lines that have one.
    fn marked(&self) -> Vec<Line<'_>> {
        let line = |number: u32, text| Line { number, text, share: self.lines.get(&number).copied() };
        match &self.text {
            Some(text) => text.lines().zip(1..).map(|(text, number)| line(number, text)).collect(),
            None => self.lines.keys().filter(|number| **number > 0).map(|number| line(*number, "")).collect(),
        }
    }
}

/// What the last campaign changed, where it changed something.
fn difference(share: Share) -> String {
    let part = |count: usize, what: &str| if count > 0 { format!(", {count} {what}") } else { String::new() };
    part(share.new, "new") + &part(share.lost, "not again")
}

fn wrapped(names: &[&str]) -> String {
    const WIDTH: usize = 100;
    let mut text = String::new();
    let mut line = String::from(" ");
    for name in names {
        if line.len() + 1 + name.len() > WIDTH {
            text += &(std::mem::replace(&mut line, " ".into()) + "\n");
        }
        line += &format!(" {name}");
    }
    text + &line + "\n"
}

#[derive(Template)]
#[template(path = "reached.html")]
struct Page<'a> {
    reached: &'a Reached,
    style: &'static str,
}

struct Line<'a> {
    number: u32,
    text: &'a str,
    share: Option<Share>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, file: &str, line: u32) -> Frame {
        Frame { function: function.into(), file: file.into(), line }
    }

    fn made_up() -> Origins {
        const DEV: &str = "fs/fuse/dev.c";
        let chains = [
            vec![frame("read", DEV, 3)],
            // A header's code, at the line that calls it.
            vec![frame("list_add", "include/linux/list.h", 90), frame("read", DEV, 4)],
            vec![frame("helper", DEV, 1), frame("read", DEV, 4)],
            vec![frame("never<b>", DEV, 6)],
            vec![frame("open", "fs/backing-file.c", 2)],
            vec![frame("other", "fs/open.c", 2)],
        ];
        let places = (1..).zip(chains).map(|(address, frames)| Origin { address, frames }).collect();
        let text = "static int helper() {}\n\nint read() {\n\tif (a < b)\n}\nint never() {}\n";
        Origins { places, sources: [(DEV.to_owned(), text.to_owned())].into() }
    }

    fn passed(before: &[u64], last: &[u64]) -> Passed {
        Passed {
            kernel: "kasan-6.12".into(),
            release: "6.12.1".into(),
            before: before.iter().copied().collect(),
            last: last.iter().copied().collect(),
            ..Passed::default()
        }
    }

    #[test]
    fn places_are_counted_where_they_lie() {
        insta::assert_snapshot!(reached(&passed(&[], &[1, 3, 6]), &made_up()).table(), @r"
        kasan-6.12 (6.12.1): 2 of 5 places (40%), 2 of 4 functions

        file                         places         functions
        fs/backing-file.c      0 /    1  0%      0 /    1  0%
        fs/fuse/dev.c          2 /    4 50%      2 /    3 67%

        not reached in fs/backing-file.c:
          open

        not reached in fs/fuse/dev.c:
          never<b>
        ");
    }

    #[test]
    fn the_difference_is_to_all_campaigns_before() {
        let text = reached(&passed(&[1, 2], &[1, 3, 5]), &made_up()).table();
        insta::assert_snapshot!(text, @r"
        kasan-6.12 (6.12.1): 4 of 5 places (80%), 3 of 4 functions, 2 new, 1 not again

        file                         places         functions
        fs/backing-file.c      1 /    1 100%      1 /    1 100%, 1 new
        fs/fuse/dev.c          3 /    4 75%      2 /    3 67%, 1 new, 1 not again

        not reached in fs/fuse/dev.c:
          never<b>
        ");
        let none: serde_json::Value =
            serde_json::from_str(&reached(&passed(&[], &[1]), &made_up()).json().unwrap()).unwrap();
        assert_eq!(none["places"]["new"], 0, "without a campaign before, all would be new");
        assert_eq!(none["files"][1]["function"][0]["name"], "helper");
    }

    #[test]
    fn the_page_marks_lines() {
        let page = reached(&passed(&[1, 2], &[1, 3]), &made_up()).html().unwrap();
        for there in [
            "id=\"fs/fuse/dev.c:3\" class=\"yes\"",
            "id=\"fs/fuse/dev.c:6\" class=\"no\"",
            "href=\"#fs/fuse/dev.c:6\"",
            "if (a &#60; b)",
            "never&#60;b&#62;",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(there), "{there}: {page}");
        }
        // Nothing lies on line 2, and the text of the other file is not at hand.
        assert!(
            page.contains("id=\"fs/fuse/dev.c:2\">")
                && page.contains("id=\"fs/backing-file.c:2\" class=\"no\"")
        );
        assert!(!page.contains("never<b>") && !page.contains("fs/open.c"), "{page}");
    }

    #[test]
    fn without_debug_information_there_are_functions() {
        let places = vec![Origin { address: 1, frames: vec![frame("read", "", 0)] }];
        let reached = reached(&passed(&[], &[1]), &Origins { places, ..Origins::default() });
        assert!(reached.table().contains("(no file known)      1 /    1 100%"), "{}", reached.table());
        assert!(reached.html().unwrap().contains("(no file known)"));
    }
}
