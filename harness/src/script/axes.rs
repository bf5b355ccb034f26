//! Axes: `axis flag = A B` makes one case of each value, with `$flag` replaced in every other line.

use std::ops::Range;

use super::error::Fault;
use super::lexer::{Line, Token};

/// So many variants of one file are more than anybody reads.
const MOST: usize = 256;

struct Axis {
    name: Token,
    values: Vec<Token>,
}

/// The file's lines for one choice of values.
pub(super) struct Choice {
    /// `flag=KEEP_CACHE,mode=0`; none for a file without axes.
    pub(super) variant: Option<String>,
    pub(super) lines: Vec<Line>,
}

/// Every choice of values, the last axis changing fastest.
pub(super) fn expand(lines: Vec<Line>) -> Result<Vec<Choice>, Fault> {
    let (axis_lines, lines): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|line| line.tokens[0].text == "axis");
    let mut axes: Vec<Axis> = Vec::new();
    for line in &axis_lines {
        let axis = axis(line)?;
        if axes.iter().any(|other| other.name.text == axis.name.text) {
            return Err(Fault::new(
                &axis.name.span,
                format!("the axis `{}` is there twice", axis.name.text),
                "expected another name",
            ));
        }
        axes.push(axis);
    }
    for axis in &axes {
        let is_used = |token: &Token| {
            variables(&token.text).any(|at| token.text[at.start + 1..at.end] == axis.name.text)
        };
        if !lines.iter().flat_map(|line| &line.tokens).any(is_used) {
            return Err(Fault::new(
                &axis.name.span,
                format!("no line has `${}`: all variants would be one", axis.name.text),
                "expected an axis that is used",
            ));
        }
    }
    let mut choices: Vec<Vec<(&Axis, &Token)>> = vec![Vec::new()];
    for axis in &axes {
        if choices.len() * axis.values.len() > MOST {
            return Err(Fault::new(
                &axis.name.span,
                format!("the axes make more than {MOST} variants"),
                "expected fewer values",
            ));
        }
        choices = choices
            .iter()
            .flat_map(|choice| axis.values.iter().map(|value| [choice.as_slice(), &[(axis, value)]].concat()))
            .collect();
    }
    choices
        .iter()
        .map(|choice| {
            let values: Vec<String> =
                choice.iter().map(|(axis, value)| format!("{}={}", axis.name.text, value.text)).collect();
            Ok(Choice {
                variant: (!values.is_empty()).then(|| values.join(",")),
                lines: lines.iter().map(|line| replace(line, choice)).collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

fn axis(line: &Line) -> Result<Axis, Fault> {
    let wrong =
        |span: &Range<usize>, what: &str| Fault::new(span, what, "expected `axis NAME = VALUE VALUE ...`");
    let [_, name, equals, values @ ..] = line.tokens.as_slice() else {
        return Err(wrong(&(line.end..line.end), "an axis without a name or values"));
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.text.chars().all(is_name) {
        return Err(wrong(&name.span, "an axis is called by letters, digits and `_`"));
    }
    if equals.text != "=" {
        return Err(wrong(&equals.span, "an axis without `=`"));
    }
    if values.len() < 2 {
        return Err(wrong(&(line.end..line.end), "an axis has at least two values"));
    }
    for (index, value) in values.iter().enumerate() {
        if variables(&value.text).next().is_some() || matches!(value.text.as_str(), "[" | "]" | "," | ":") {
            return Err(wrong(&value.span, "a value is one plain word or string"));
        }
        if values[..index].iter().any(|other| other.text == value.text) {
            return Err(wrong(&value.span, "the same value twice"));
        }
    }
    Ok(Axis { name: name.clone(), values: values.to_vec() })
}

fn replace(line: &Line, choice: &[(&Axis, &Token)]) -> Result<Line, Fault> {
    let mut line = line.clone();
    for token in &mut line.tokens {
        let mut text = String::new();
        let mut end = 0;
        for at in variables(&token.text) {
            let name = &token.text[at.start + 1..at.end];
            let known = choice.iter().find(|(axis, _)| axis.name.text == name);
            let (_, value) = known.ok_or_else(|| {
                let names = choice.iter().map(|(axis, _)| axis.name.text.as_str());
                let fault = Fault::unknown(&token.part(at.clone()).span, "axis", name, names);
                if choice.is_empty() {
                    fault.help(format!("add `axis {name} = VALUE VALUE` above; a library file has none"))
                } else {
                    fault
                }
            })?;
            text.push_str(&token.text[end..at.start]);
            text.push_str(&value.text);
            end = at.end;
        }
        if end > 0 {
            text.push_str(&token.text[end..]);
            token.text = text;
        }
    }
    Ok(line)
}

/// Where `$name` stands in a word, outside of quotes.
fn variables(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut quoted = false;
    let mut escaped = false;
    text.char_indices().filter_map(move |(at, c)| {
        if escaped {
            escaped = false;
        } else if quoted && c == '\\' {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
        }
        (c == '$' && !quoted).then(|| {
            let rest = &text[at + 1..];
            let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            at..at + 1 + len
        })
    })
}
