//! What stands behind `->`: the law of a step, and its exceptions in brackets.

use super::error::Fault;
use super::lexer::{Cursor, Token};
use super::names::{Thing, new_name};
use super::step::{Reader, conditions};
use super::value::{errno, flags};
use crate::program::flags::{self, FlagSet, parse_number};
use crate::program::{Actor, Expect, Outcome, Variant, Yields};

impl Reader<'_> {
    /// `EIO [!passthrough: fd f "why"]`, behind the arrow.
    pub(super) fn expect(
        &mut self,
        actor: Actor,
        yields: Yields,
        cursor: &mut Cursor<'_>,
    ) -> Result<Expect, Fault> {
        let law = self.outcomes(actor, yields, cursor)?;
        let mut variants = Vec::new();
        while cursor.take("[").is_some() {
            let when = conditions(cursor, ":")?;
            let outcome = self.outcomes(actor, yields, cursor)?;
            let reason = cursor.expect("the reason for the exception, quoted")?;
            let reason = self.text(reason, "the reason for the exception, quoted")?;
            cursor.expect_word("]")?;
            variants.push(Variant { when, outcome, reason });
        }
        Ok(Expect { law, variants })
    }

    /// One outcome, or several joined by `or`.
    fn outcomes(&mut self, actor: Actor, yields: Yields, cursor: &mut Cursor<'_>) -> Result<Outcome, Fault> {
        let mut outcomes = vec![self.outcome(actor, yields, cursor)?];
        while cursor.take("or").is_some() {
            outcomes.push(self.outcome(actor, yields, cursor)?);
        }
        Ok(match outcomes.len() {
            1 => outcomes.remove(0),
            _ => Outcome::Any(outcomes),
        })
    }

    fn outcome(&mut self, actor: Actor, yields: Yields, cursor: &mut Cursor<'_>) -> Result<Outcome, Fault> {
        let wanted = possible(yields);
        let first = cursor.expect(&wanted)?;
        let outcome = match first.text.as_str() {
            "ok" => Outcome::Ok,
            "errno" => Outcome::Errno(bare_errno(cursor.expect("an errno's number")?)?),
            kind if Thing::of_kind(kind).is_some() => bind(kind, cursor.expect("a name")?)?,
            _ if first.is_quoted() => Outcome::Data(self.data(first, &wanted)?),
            text if parse_number(text).is_some() => Outcome::Int(int(first)?),
            text if text.starts_with("SIG") => Outcome::Signal(signal(first)?),
            text if text.starts_with('E') => match text.find('/') {
                // `EIO/EBUSY`: what the application sees, and what the kernel had inside.
                Some(at) => {
                    Outcome::Inside(errno(&first.part(0..at))?, errno(&first.part(at + 1..text.len()))?)
                }
                None => Outcome::Errno(errno(first)?),
            },
            _ if first.key_value().is_some() => fields(first, cursor)?,
            text => {
                let fault =
                    Fault::new(&first.span, format!("`{text}` is no outcome"), format!("expected {wanted}"));
                return Err(fault);
            }
        };
        let fits = match (&outcome, yields) {
            (Outcome::Ok | Outcome::Errno(_) | Outcome::Inside(..) | Outcome::Signal(_), _)
            | (Outcome::Int(_), Yields::Number)
            | (Outcome::Data(_), Yields::Data)
            | (Outcome::Fields(_), Yields::Fields) => true,
            (Outcome::Bind { kind, .. }, Yields::Named(named)) => kind == named,
            _ => false,
        };
        if !fits {
            return Err(Fault::new(
                &first.span,
                format!("the call cannot lead to `{outcome}`"),
                format!("expected {wanted}"),
            ));
        }
        if let Some((kind, name)) = outcome.binds()
            && let Some(thing) = Thing::of_kind(kind)
        {
            self.names.bind(actor, name, thing);
        }
        Ok(outcome)
    }
}

/// The outcomes that a call of this kind may have, for people.
pub(super) fn possible(yields: Yields) -> String {
    let success = match yields {
        Yields::Nothing => "`ok`".to_string(),
        Yields::Number => "`ok`, a number".into(),
        Yields::Data => "`ok`, quoted bytes".into(),
        Yields::Fields => "`ok`, fields such as `size=5`".into(),
        Yields::Named(kind) => format!("`{kind} NAME`, `ok`"),
    };
    format!("{success}, an errno or a signal")
}

fn bind(kind: &str, token: &Token) -> Result<Outcome, Fault> {
    let (name, value) = match token.key_value() {
        Some((name, value)) => (name, Some(int(&value)?)),
        None => (token.clone(), None),
    };
    Ok(Outcome::Bind { kind: kind.to_string(), name: new_name(&name)?.to_string(), value })
}

/// `size=5 mode=0644`: this word and those of its form that follow.
fn fields(first: &Token, cursor: &mut Cursor<'_>) -> Result<Outcome, Fault> {
    let mut fields: Vec<(String, i128)> = Vec::new();
    let mut token = first;
    while let Some((name, value)) = token.key_value() {
        let number = match FlagSet::of_field(&name.text) {
            // The record's flags are unsigned: `-1` means all bits.
            Some(set) => i128::from(flags(&set, &value)? as u64),
            None => i128::from(int(&value)?),
        };
        if fields.iter().any(|(other, _)| *other == name.text) {
            return Err(twice(&name));
        }
        fields.push((new_name(&name)?.to_string(), number));
        match cursor.peek().filter(|next| next.key_value().is_some()) {
            Some(next) => token = next,
            None => break,
        }
        cursor.next();
    }
    Ok(Outcome::Fields(fields))
}

/// A field or keyword that was given before.
pub(super) fn twice(name: &Token) -> Fault {
    Fault::new(&name.span, format!("`{}` is given twice", name.text), "expected it once")
}

fn int(token: &Token) -> Result<i64, Fault> {
    let number = parse_number(&token.text).and_then(|number| i64::try_from(number).ok());
    number.ok_or_else(|| {
        Fault::new(&token.span, format!("`{}` is no number", token.text), "expected a signed 64-bit number")
    })
}

/// The number of an errno that has no name.
pub(super) fn bare_errno(token: &Token) -> Result<i32, Fault> {
    i32::try_from(int(token)?)
        .map_err(|_| Fault::new(&token.span, "no errno is that large", "expected a 32-bit number"))
}

fn signal(token: &Token) -> Result<i32, Fault> {
    flags::signal_number(&token.text).ok_or_else(|| {
        let known = nix::sys::signal::Signal::iterator().map(nix::sys::signal::Signal::as_str);
        Fault::unknown(&token.span, "signal", &token.text, known)
    })
}
