//! Files of rules: TOML, one table a rule, read strictly. A mistake is shown where it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::{DIALECTS, Rule, Rules};
use crate::program::{CAPABILITIES, Condition, capability};
use crate::script::{Fault, ScriptError, Source, is_rule};

/// What a rule says.
const FIELDS: [&str; 7] = ["law", "dialects", "needs", "source", "unobservable", "later", "see"];

/// A rule, and where in its file it stands.
struct Placed {
    rule: Rule,
    source: usize,
    at: Range<usize>,
    see: Vec<Range<usize>>,
}

/// The rules that these files hold.
///
/// # Errors
/// Each file's first mistake; if the files are right by themselves, everything that is wrong between rules.
pub fn parse(sources: &[Source]) -> Result<Rules, Vec<ScriptError>> {
    let mut placed = Vec::new();
    let mut wrong = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        match file(source, index) {
            Ok(rules) => placed.extend(rules),
            Err(fault) => wrong.push(fault.within(source)),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut rules = BTreeMap::new();
    for Placed { rule, source, at, .. } in &placed {
        if let Some(Rule { file, .. }) = rules.insert(rule.id.clone(), rule.clone()) {
            let fault = Fault::new(at, format!("`{}` is there twice", rule.id), "expected another ID");
            wrong.push(fault.help(format!("the other one is in {file}")).within(&sources[*source]));
        }
    }
    for Placed { rule, source, see, .. } in &placed {
        for (target, at) in rule.see.iter().zip(see) {
            let fault = if !rules.contains_key(target) {
                Fault::unknown(at, "rule", target, rules.keys().map(String::as_str))
            } else if leads_to(&rules, target, &rule.id) {
                let what = format!("{} would be shown by itself", rule.id);
                Fault::new(at, what, "expected a rule that does not lead back here by its own `see`")
            } else {
                continue;
            };
            wrong.push(fault.within(&sources[*source]));
        }
    }
    if wrong.is_empty() { Ok(Rules(rules)) } else { Err(wrong) }
}

/// Is `end` where the `see` fields lead, beginning at `start`?
fn leads_to(rules: &BTreeMap<String, Rule>, start: &str, end: &str) -> bool {
    let mut met = BTreeSet::new();
    let mut left = vec![start];
    while let Some(id) = left.pop() {
        if id == end {
            return true;
        }
        if met.insert(id) {
            left.extend(rules.get(id).iter().flat_map(|rule| &rule.see).map(String::as_str));
        }
    }
    false
}

fn file(source: &Source, index: usize) -> Result<Vec<Placed>, Fault> {
    let table = DeTable::parse(&source.text).map_err(|error| {
        let at = error.span().unwrap_or(0..source.text.len());
        Fault::new(
            &at,
            format!("this is no TOML: {}", error.message()),
            "expected tables such as `[OPEN-05]`",
        )
    })?;
    let mut items: Vec<_> = table.get_ref().iter().collect();
    // The first mistake is the first for whoever reads the file.
    items.sort_by_key(|(id, _)| id.span().start);
    items.into_iter().map(|(id, value)| placed(source, index, id, value)).collect()
}

fn placed(
    source: &Source,
    index: usize,
    id: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<Placed, Fault> {
    let at = id.span();
    let name = id.get_ref().as_ref();
    let DeValue::Table(table) = value.get_ref() else {
        return Err(Fault::new(&at, format!("`{name}` belongs to no rule"), "expected `[ID]` above"));
    };
    if !is_rule(name) {
        let what = format!("`{name}` is no rule's ID");
        return Err(Fault::new(&at, what, "expected capitals, `-` and digits, such as `OPEN-05`"));
    }
    let mut keys: Vec<_> = table.keys().collect();
    keys.sort_by_key(|key| key.span().start);
    for key in keys {
        if !FIELDS.contains(&key.get_ref().as_ref()) {
            return Err(Fault::unknown(&key.span(), "field", key.get_ref(), FIELDS));
        }
    }
    let fields = Fields { id: name, at: &at, table };
    let dialects = fields.required("dialects", fields.list("dialects")?)?;
    for (dialect, span) in &dialects {
        if !DIALECTS.contains(&dialect.as_str()) {
            return Err(Fault::unknown(span, "dialect", dialect, DIALECTS));
        }
    }
    let see = fields.list("see")?.unwrap_or_default();
    let rule = Rule {
        id: name.to_string(),
        file: source.path.clone(),
        law: fields.required("law", fields.sentence("law")?)?,
        dialects: dialects.into_iter().map(|(dialect, _)| dialect).collect(),
        needs: fields.needs()?,
        source: fields.required("source", fields.text("source")?)?.0.to_string(),
        unobservable: fields.text("unobservable")?.map(|(text, _)| text.to_string()),
        later: fields.text("later")?.map(|(text, _)| text.to_string()),
        see: see.iter().map(|(id, _)| id.clone()).collect(),
    };
    if let (Some(_), Some((_, span))) = (&rule.unobservable, fields.text("later")?) {
        let fault = Fault::new(&span, "what nobody can see cannot come later", "expected no `later`");
        return Err(fault.help("`unobservable` is for ever; `later` waits for what the suite cannot do yet"));
    }
    Ok(Placed { rule, source: index, at, see: see.into_iter().map(|(_, span)| span).collect() })
}

/// A word of a list, and where it stands.
type Word = (String, Range<usize>);

/// The fields of one rule.
struct Fields<'a> {
    id: &'a str,
    at: &'a Range<usize>,
    table: &'a DeTable<'a>,
}

impl<'a> Fields<'a> {
    fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, Fault> {
        value.ok_or_else(|| {
            Fault::new(self.at, format!("{} has no `{name}`", self.id), format!("expected `{name}` below"))
        })
    }

    /// A text that says something, and where it stands.
    fn text(&self, name: &str) -> Result<Option<(&'a str, Range<usize>)>, Fault> {
        let Some(value) = self.table.get(name) else { return Ok(None) };
        match value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => Ok(Some((text, value.span()))),
            _ => Err(Fault::new(&value.span(), format!("this is no {name}"), "expected a text in quotes")),
        }
    }

    fn sentence(&self, name: &str) -> Result<Option<String>, Fault> {
        match self.text(name)? {
            Some((text, span)) if !text.ends_with('.') => Err(Fault::new(
                &span,
                format!("this {name} is no sentence"),
                "expected a full stop at its end",
            )),
            text => Ok(text.map(|(text, _)| text.to_string())),
        }
    }

    /// Words, at least one, and where each stands.
    fn list(&self, name: &str) -> Result<Option<Vec<Word>>, Fault> {
        let Some(value) = self.table.get(name) else { return Ok(None) };
        let wrong = |span: &Range<usize>| {
            Fault::new(
                span,
                format!("this is no list for {name}"),
                "expected words in quotes: `[\"A\", \"B\"]`",
            )
        };
        let DeValue::Array(items) = value.get_ref() else { return Err(wrong(&value.span())) };
        if items.is_empty() {
            return Err(wrong(&value.span()));
        }
        let word = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
            DeValue::String(word) => Ok((word.to_string(), item.span())),
            _ => Err(wrong(&item.span())),
        };
        items.iter().map(word).collect::<Result<_, _>>().map(Some)
    }

    fn needs(&self) -> Result<Vec<Condition>, Fault> {
        let Some((text, span)) = self.text("needs")? else { return Ok(Vec::new()) };
        let words = text.split_whitespace().map(|word| {
            let name = word.strip_prefix('!').unwrap_or(word);
            // A text without escapes stands in the file as it is, behind its quote.
            let is_plain = span.len() == text.len() + 2;
            let start = span.start + 1 + (name.as_ptr() as usize - text.as_ptr() as usize);
            let at = if is_plain { start..start + name.len() } else { span.clone() };
            behaviour(name, &at)?;
            Ok(Condition { capability: name.to_string(), present: name.len() == word.len() })
        });
        words.collect()
    }
}

/// A capability, or a behaviour that no probe tells yet; not what is nearly the one and therefore not the other.
fn behaviour(name: &str, at: &Range<usize>) -> Result<(), Fault> {
    /// So many letters may be wrong in a word that was meant to be another.
    const SLIPS: usize = 2;
    let known = || CAPABILITIES.iter().map(|capability| capability.name);
    let is_slip = known().any(|known| strsim::damerau_levenshtein(known, name) <= SLIPS);
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if capability(name).is_some() || (is_name && !is_slip) {
        return Ok(());
    }
    Err(Fault::unknown(at, "capability", name, known()))
}
