//! The page: rules down, kernels across, and behind each cell what the kernel did. One file that needs no network and
//! runs nothing but its own script; without scripts the table can still be read.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use serde::Serialize;

use super::behaviour::{Behaviour, classes, difference};
use super::failure::{Origin, complaints, failure};
use super::{NOT_RUN, printable, word};
use crate::run::{CaseResult, Run};

/// How a case can end, the weightiest first: it stands for all cases of a rule.
const VERDICTS: [&str; 6] = ["lost", "failed", NOT_RUN, "deviated", "passed", "skipped"];

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    kernels: Vec<Kernel<'a>>,
    /// Those that there are.
    verdicts: Vec<&'a str>,
    groups: BTreeSet<&'a str>,
    rules: Vec<Rule<'a>>,
    style: &'static str,
    script: &'static str,
    /// What the script shows on demand, as JSON that cannot end the element it stands in.
    data: String,
}

struct Kernel<'a> {
    name: &'a str,
    release: &'a str,
    /// As many as there are verdicts.
    counts: Vec<usize>,
    /// Why it could not be asked about all cases.
    trouble: Option<&'a str>,
}

#[derive(Serialize)]
struct Data<'a> {
    kernels: Vec<&'a str>,
    rules: &'a [Rule<'a>],
    cases: Vec<Case<'a>>,
}

/// A row.
#[derive(Serialize)]
struct Rule<'a> {
    id: &'a str,
    group: &'a str,
    law: &'a str,
    /// Places of the cases that rest on it.
    cases: Vec<usize>,
    /// One a kernel.
    cells: Vec<Cell>,
    differs: bool,
}

#[derive(Serialize)]
struct Cell {
    verdict: &'static str,
    /// `A` for the first kernel and all that behave alike, and so on.
    alike: String,
    /// How many cases ended with that verdict.
    count: usize,
}

#[derive(Serialize)]
struct Case<'a> {
    path: &'a str,
    title: &'a str,
    text: &'a str,
    /// What kernels were seen to do, each once.
    seen: Vec<Seen<'a>>,
    /// One a kernel; none where it was not run.
    runs: Vec<Option<Ran<'a>>>,
    /// One a pair of neighbours: from the kernel at this place to the next one; empty where they behave alike.
    changes: Vec<String>,
}

#[derive(Serialize)]
struct Seen<'a> {
    verdict: &'static str,
    transcript: &'a str,
}

#[derive(Serialize)]
struct Ran<'a> {
    seen: usize,
    reason: Option<&'a str>,
    /// The failure in full.
    failure: Option<String>,
    /// What the kernel complained of, if there is no failure that says so.
    complaints: String,
}

/// The page as an HTML text.
///
/// # Errors
/// None that can be provoked: all of it is plain data.
pub fn html(run: &Run, origin: &Origin) -> Result<String, askama::Error> {
    let rules = rules(run);
    let data = Data {
        kernels: run.kernels.iter().map(|kernel| kernel.name.as_str()).collect(),
        rules: &rules,
        cases: (0..run.cases.len()).map(|place| case(run, place, origin)).collect(),
    };
    let data = serde_json::to_string(&data).map_err(askama::Error::custom)?.replace('<', "\\u003c");
    let every =
        (0..run.kernels.len()).flat_map(|kernel| (0..run.cases.len()).map(move |case| (kernel, case)));
    let there: BTreeSet<&str> = every.map(|(kernel, case)| word(run.result(kernel, case))).collect();
    let verdicts: Vec<&str> = VERDICTS.into_iter().filter(|word| there.contains(word)).collect();
    let page = Page {
        kernels: (0..run.kernels.len()).map(|place| kernel(run, place, &verdicts)).collect(),
        verdicts,
        groups: rules.iter().map(|rule| rule.group).collect(),
        style: include_str!("../../templates/page.css"),
        script: include_str!("../../templates/page.js"),
        data,
        rules,
    };
    page.render().map(|page| printable(&page))
}

fn kernel<'a>(run: &'a Run, place: usize, verdicts: &[&str]) -> Kernel<'a> {
    let result = &run.kernels[place];
    let words = (0..run.cases.len()).map(|case| word(run.result(place, case)));
    let words: Vec<&str> = words.collect();
    let count = |word: &str| words.iter().filter(|known| **known == word).count();
    Kernel {
        trouble: result.trouble.as_deref(),
        name: &result.name,
        release: &result.profile.release,
        counts: verdicts.iter().copied().map(count).collect(),
    }
}

/// The rules that the cases rest on, by group and number.
fn rules(run: &Run) -> Vec<Rule<'_>> {
    let mut cases: BTreeMap<(&str, u32, &str), Vec<usize>> = BTreeMap::new();
    for (place, case) in run.cases.iter().enumerate() {
        for id in &case.rules {
            let (group, number) = id.rsplit_once('-').unwrap_or((id, ""));
            cases.entry((group, number.parse().unwrap_or(0), id)).or_default().push(place);
        }
    }
    cases.into_iter().map(|((group, _, id), cases)| rule(run, id, group, cases)).collect()
}

fn rule<'a>(run: &'a Run, id: &'a str, group: &'a str, cases: Vec<usize>) -> Rule<'a> {
    let kernels = 0..run.kernels.len();
    let behaviour = |kernel: usize| {
        cases.iter().map(|case| run.result(kernel, *case).map(Behaviour::of)).collect::<Vec<_>>()
    };
    let (kinds, alike) = classes(kernels.map(behaviour));
    let cell = |kind: &usize| {
        let ended: Vec<&str> =
            kinds[*kind].iter().map(|seen| seen.map_or(NOT_RUN, |seen| seen.verdict)).collect();
        let verdict = VERDICTS.into_iter().find(|word| ended.contains(word)).unwrap_or(NOT_RUN);
        let count = ended.iter().filter(|word| **word == verdict).count();
        Cell { verdict, alike: letter(*kind), count }
    };
    Rule {
        id,
        group,
        law: run.laws.get(id).map_or("", String::as_str),
        cells: alike.iter().map(cell).collect(),
        differs: kinds.len() > 1,
        cases,
    }
}

/// `A` to `Z`, then `A1` and on.
fn letter(index: usize) -> String {
    let letter = char::from(b'A' + (index % 26) as u8);
    if index < 26 { letter.to_string() } else { format!("{letter}{}", index / 26) }
}

fn case<'a>(run: &'a Run, place: usize, origin: &Origin) -> Case<'a> {
    let planned = &run.cases[place];
    let results: Vec<_> = (0..run.kernels.len()).map(|kernel| run.result(kernel, place)).collect();
    let (seen, which) = classes(results.iter().flatten().map(|result| Behaviour::of(result)));
    let mut which = which.into_iter();
    let ran = results.iter().zip(&run.kernels).map(|(result, kernel)| {
        let result = (*result)?;
        let seen = which.next()?;
        let failure = failure(&kernel.name, result, origin);
        let complaints = if failure.is_some() { String::new() } else { complaints(result) };
        Some(Ran { seen, reason: result.verdict.reason(), failure, complaints })
    });
    let change = |pair: &[Option<&'a CaseResult>]| match pair {
        [Some(before), Some(after)] => difference(&before.transcript, &after.transcript),
        _ => String::new(),
    };
    Case {
        path: &planned.path,
        title: &planned.title,
        text: &planned.text,
        runs: ran.collect(),
        changes: results.windows(2).map(change).collect(),
        seen: seen
            .into_iter()
            .map(|seen| Seen { verdict: seen.verdict, transcript: seen.transcript })
            .collect(),
    }
}
