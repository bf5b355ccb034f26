//! Daemons side by side, as a page: what each keeps and breaks, and by what that is seen. One file that needs no network and
//! runs no script.

use std::collections::BTreeMap;

use askama::Template;

use super::{Row, State, Tried};

#[derive(Template)]
#[template(path = "trials.html")]
struct Page<'a> {
    style: &'static str,
    trials: &'a [Tried],
    /// Each rule that any of them was held against, with its law and how each stands.
    rules: Vec<Rule<'a>>,
}

struct Rule<'a> {
    id: &'a str,
    law: &'a str,
    cells: Vec<Cell>,
}

struct Cell {
    word: &'static str,
    /// As the style names it.
    verdict: &'static str,
    /// Where the evidence stands, if there is any.
    anchor: Option<String>,
}

/// The page.
///
/// # Errors
/// None that plain data can provoke.
pub fn trials_html(trials: &[Tried]) -> askama::Result<String> {
    let laws: BTreeMap<&str, &str> = trials
        .iter()
        .flat_map(|tried| &tried.rules)
        .map(|row| (row.rule.as_str(), row.law.as_str()))
        .collect();
    let rules = laws.into_iter().map(|(id, law)| {
        let cells = trials.iter().enumerate().map(|(column, tried)| {
            let row = tried.rules.iter().find(|row| row.rule == id);
            cell(column, tried, row)
        });
        Rule { id, law, cells: cells.collect() }
    });
    Page { style: include_str!("../../../templates/page.css"), trials, rules: rules.collect() }.render()
}

fn cell(column: usize, tried: &Tried, row: Option<&Row>) -> Cell {
    let (word, verdict) = match row.map(|row| row.state) {
        _ if tried.unusable.is_some() => ("not judged", "lost"),
        Some(State::Kept) => ("kept", "passed"),
        Some(State::Broken) => ("broken", "failed"),
        Some(State::NotExercised) | None => ("–", "skipped"),
    };
    let anchor = row.filter(|row| row.state == State::Broken).map(|row| format!("{}-{column}", row.rule));
    Cell { word, verdict, anchor }
}

impl Tried {
    /// Rules that are broken, for the page.
    fn broken(&self) -> impl Iterator<Item = &Row> {
        self.rules.iter().filter(|row| row.state == State::Broken)
    }
}
