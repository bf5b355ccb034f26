//! One step: `[condition] actor verb ... -> outcome`.

use super::Source;
use super::error::Fault;
use super::lexer::{Cursor, Line, Token};
use super::names::{Names, Thing, new_name};
use super::outcome::{bare_errno, possible, twice};
use super::printer::usage;
use super::value::{describe, errno, parse_actor, reply_kind, reply_names, request_kind, request_names};
use crate::abi::Opcode;
use crate::program::{
    Actor, At, CAPABILITIES, Call, Condition, Expect, Kind, Need, Outcome, Reply, Saw, Seen, Side, Signature,
    Step, Times, Value, Verb, Yields, capability, signature, signatures,
};

/// The verbs that are no calls.
pub(super) const VERBS: [&str; 7] = ["start", "blocks", "await", "on", "always", "answer", "saw"];

/// Reads the steps of one file.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    /// Everything named so far, in this file and those before it.
    pub(super) names: &'a mut Names,
    /// How many bytes of data the program may still hold.
    pub(super) room: &'a mut usize,
}

impl Reader<'_> {
    pub(super) fn step(&mut self, line: &Line) -> Result<Step, Fault> {
        let mut cursor = Cursor::new(line);
        let when = match cursor.take("[") {
            Some(_) => conditions(&mut cursor, "]")?,
            None => Vec::new(),
        };
        let actor = parse_actor(cursor.expect("an actor: `app`, `daemon` or `host`")?)?;
        let failing = cursor.take("failing");
        let word = cursor.expect("a call or a verb")?;
        if matches!(word.text.as_str(), "on" | "always" | "answer" | "saw") && actor.side != Side::Daemon {
            return Err(Fault::new(
                &word.span,
                format!("`{}` is not for {actor}", word.text),
                "expected a call: only a daemon answers and sees requests",
            ));
        }
        let (verb, expect) = match word.text.as_str() {
            "start" => self.start(actor, &mut cursor)?,
            "blocks" => (self.blocks(actor, &mut cursor)?, None),
            "await" => self.wait(actor, !when.is_empty(), &mut cursor)?,
            "on" => (self.on(actor, Times::Once, &mut cursor)?, None),
            "always" => (self.on(actor, Times::Always, &mut cursor)?, None),
            "answer" => self.answer(actor, &mut cursor)?,
            "saw" => (Verb::Saw(self.saw(actor, &mut cursor)?), None),
            _ => {
                let (call, signature) = self.call(actor, word, &mut cursor)?;
                let expect = self.arrow(actor, signature, &mut cursor)?;
                (Verb::Call(call), Some(expect))
            }
        };
        cursor.finish(&format!("`{}`", word.text))?;
        if let Some(failing) = failing
            && (actor.side == Side::Host || !matches!(verb, Verb::Call(_) | Verb::Answer { .. }))
        {
            return Err(Fault::new(
                &failing.span,
                format!("`{}` of {actor} cannot be made to fail", word.text),
                "expected a call of an application or a daemon, or a daemon's `answer`",
            ));
        }
        Ok(Step {
            at: At { file: self.source.path.clone(), line: line.number },
            when,
            actor,
            failing: failing.is_some(),
            verb,
            expect,
        })
    }

    fn start(&mut self, actor: Actor, cursor: &mut Cursor<'_>) -> Result<(Verb, Option<Expect>), Fault> {
        let name = cursor.expect("a name for the call in progress")?;
        new_name(name)?;
        cursor.expect_word(":")?;
        let word = cursor.expect("a call")?;
        let (call, signature) = self.call(actor, word, cursor)?;
        if let Some(arrow) = cursor.peek().filter(|token| token.text == "->") {
            return Err(Fault::new(
                &arrow.span,
                "a call that is only begun has no outcome yet",
                format!("expected it later: `{actor} await {} -> OUTCOME`", name.text),
            ));
        }
        self.names.start(actor, name, signature.yields, self.source)?;
        let name = name.text.clone();
        Ok((Verb::Start { name, call }, None))
    }

    fn blocks(&mut self, actor: Actor, cursor: &mut Cursor<'_>) -> Result<Verb, Fault> {
        let (name, _) = self.running(actor, cursor)?;
        Ok(Verb::Blocks { name })
    }

    fn wait(
        &mut self,
        actor: Actor,
        conditional: bool,
        cursor: &mut Cursor<'_>,
    ) -> Result<(Verb, Option<Expect>), Fault> {
        let (name, yields) = self.running(actor, cursor)?;
        cursor.expect_word("->")?;
        let expect = self.expect(actor, yields, cursor)?;
        self.names.awaited(actor, &name, !conditional);
        Ok((Verb::Await { name }, Some(expect)))
    }

    fn running(&mut self, actor: Actor, cursor: &mut Cursor<'_>) -> Result<(String, Yields), Fault> {
        let wanted = "a call in progress";
        let name = cursor.expect(wanted)?;
        let yields = self.names.find(actor, name, wanted, |thing| match thing {
            Thing::Running(yields) => Some(yields),
            _ => None,
        })?;
        Ok((name.text.clone(), yields))
    }

    fn on(&mut self, actor: Actor, times: Times, cursor: &mut Cursor<'_>) -> Result<Verb, Fault> {
        let opcode = opcode(cursor.expect("an opcode")?)?;
        let path = self.path(cursor)?;
        cursor.expect_word(":")?;
        let reply = self.reply(actor, opcode, cursor)?;
        if let Reply::Hold(name) = &reply {
            self.names.bind(actor, name, Thing::Held(opcode));
        }
        Ok(Verb::On { times, opcode, path, reply })
    }

    fn answer(&mut self, actor: Actor, cursor: &mut Cursor<'_>) -> Result<(Verb, Option<Expect>), Fault> {
        let wanted = "a held request";
        let name = cursor.expect(wanted)?;
        let opcode = self.names.find(actor, name, wanted, |thing| match thing {
            Thing::Held(opcode) => Some(opcode),
            _ => None,
        })?;
        cursor.expect_word(":")?;
        if let Some(hold) = cursor.peek().filter(|token| token.text == "hold") {
            return Err(Fault::new(
                &hold.span,
                format!("`{}` is held already", name.text),
                "expected `reply`, `claim`, `error`, `drop` or `die`",
            ));
        }
        let reply = self.reply(actor, opcode, cursor)?;
        // What write(2) led to is of interest where the reply is wrong on purpose.
        let expect = match cursor.take("->") {
            Some(_) => Some(self.expect(actor, Yields::Nothing, cursor)?),
            None => None,
        };
        Ok((Verb::Answer { held: name.text.clone(), reply }, expect))
    }

    fn reply(&mut self, actor: Actor, opcode: Opcode, cursor: &mut Cursor<'_>) -> Result<Reply, Fault> {
        const REPLIES: [&str; 6] = ["reply", "claim", "error", "hold", "drop", "die"];
        let word = cursor
            .expect("what is done with the request: `reply`, `claim`, `error`, `hold`, `drop` or `die`")?;
        Ok(match word.text.as_str() {
            kind @ ("reply" | "claim") => {
                let made = if kind == "reply" { Reply::Fields } else { Reply::Claim };
                let kind = |name: &Token| {
                    reply_kind(opcode, &name.text).ok_or_else(|| {
                        let what = format!("field of the reply to {opcode}");
                        Fault::unknown(&name.span, &what, &name.text, reply_names(opcode))
                    })
                };
                made(self.fields(actor, kind, cursor)?)
            }
            "error" => {
                let token = cursor.expect("an errno")?;
                let is_number = crate::program::flags::parse_number(&token.text).is_some();
                Reply::Error(if is_number { bare_errno(token)? } else { errno(token)? })
            }
            "hold" => Reply::Hold(new_name(cursor.expect("a name for the held request")?)?.to_string()),
            "drop" => Reply::Drop,
            "die" => Reply::Die,
            other => return Err(Fault::unknown(&word.span, "kind of answer", other, REPLIES)),
        })
    }

    fn saw(&mut self, actor: Actor, cursor: &mut Cursor<'_>) -> Result<Saw, Fault> {
        if cursor.take("nothing").is_some() {
            return Ok(Saw::Exactly(Vec::new()));
        }
        if cursor.take("no").is_some() {
            return list(cursor, |cursor| opcode(cursor.expect("an opcode")?)).map(Saw::No);
        }
        let some = cursor.take("some").is_some();
        let seen = list(cursor, |cursor| self.seen(actor, cursor))?;
        Ok(if some { Saw::Some(seen) } else { Saw::Exactly(seen) })
    }

    fn seen(&mut self, actor: Actor, cursor: &mut Cursor<'_>) -> Result<Seen, Fault> {
        let opcode = opcode(cursor.expect("an opcode, `nothing`, `no` or `some`")?)?;
        let path = self.path(cursor)?;
        let kind = |name: &Token| {
            request_kind(opcode, &name.text).ok_or_else(|| {
                let what = format!("field of {opcode}");
                Fault::unknown(&name.span, &what, &name.text, request_names(opcode))
            })
        };
        Ok(Seen { opcode, path, fields: self.fields(actor, kind, cursor)? })
    }

    fn path(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<String>, Fault> {
        match cursor.peek().filter(|token| token.is_quoted()) {
            None => Ok(None),
            Some(token) => {
                cursor.next();
                self.text(token, "a quoted path").map(Some)
            }
        }
    }

    /// `name=value` as often as it comes.
    fn fields(
        &mut self,
        actor: Actor,
        kind: impl Fn(&Token) -> Result<Kind, Fault>,
        cursor: &mut Cursor<'_>,
    ) -> Result<Vec<(String, Value)>, Fault> {
        let mut fields: Vec<(String, Value)> = Vec::new();
        while let Some((name, value)) = cursor.peek().and_then(Token::key_value) {
            cursor.next();
            let value = self.value(actor, kind(&name)?, &value)?;
            if fields.iter().any(|(other, _)| *other == name.text) {
                return Err(twice(&name));
            }
            fields.push((name.text, value));
        }
        Ok(fields)
    }

    /// A call with its arguments, as far as the arrow.
    fn call(
        &mut self,
        actor: Actor,
        word: &Token,
        cursor: &mut Cursor<'_>,
    ) -> Result<(Call, &'static Signature), Fault> {
        let signature = signature(&word.text).ok_or_else(|| {
            let names = signatures().map(|signature| signature.name).chain(VERBS);
            Fault::unknown(&word.span, "call", &word.text, names)
        })?;
        if !signature.sides.contains(&actor.side) {
            let sides: Vec<String> = signature
                .sides
                .iter()
                .map(|side| format!("`{}`", Actor { side: *side, number: 1 }))
                .collect();
            return Err(Fault::new(
                &word.span,
                format!("{actor} cannot `{}`", word.text),
                format!("expected a call of {actor}'s; this one is for {}", sides.join(" or ")),
            ));
        }
        let form = |fault: Fault| fault.help(format!("the call is `{}`", usage(signature)));
        let mut args = Vec::new();
        for param in signature.params.iter().filter(|param| param.need != Need::Keyword) {
            let wanted = format!("`{}`, {}", param.name, describe(param.kind));
            let next = cursor.peek().filter(|token| !matches!(token.text.as_str(), "->" | "["));
            match (next, param.need) {
                (None, Need::Trailing) => break,
                (None, _) => {
                    let end = cursor.here();
                    let what = format!("`{}` lacks an argument", signature.name);
                    return Err(form(Fault::new(&end, what, format!("expected {wanted}"))));
                }
                (Some(token), _) => {
                    cursor.next();
                    args.push((param.name.to_string(), self.value(actor, param.kind, token)?));
                }
            }
        }
        let keywords = || signature.params.iter().filter(|param| param.need == Need::Keyword);
        let kind = |name: &Token| {
            let param = keywords().find(|param| param.name == name.text);
            param.map(|param| param.kind).ok_or_else(|| {
                let what = format!("keyword of {}", signature.name);
                form(Fault::unknown(&name.span, &what, &name.text, keywords().map(|param| param.name)))
            })
        };
        // In the signature's order, so that two ways of writing one call are one program.
        let given = self.fields(actor, kind, cursor)?;
        args.extend(
            keywords().filter_map(|param| given.iter().find(|(name, _)| name == param.name).cloned()),
        );
        if let Some(token) = cursor.peek().filter(|token| token.text != "->") {
            let what = format!("`{}` is too much", token.text);
            return Err(form(Fault::new(
                &token.span,
                what,
                "expected `->` and an outcome, or the end of the line",
            )));
        }
        let name = signature.name.to_string();
        let call = Call { name, args };
        self.share(actor, &call, word)?;
        Ok((call, signature))
    }

    /// The outcome of a call that is waited for.
    fn arrow(
        &mut self,
        actor: Actor,
        signature: &Signature,
        cursor: &mut Cursor<'_>,
    ) -> Result<Expect, Fault> {
        if cursor.take("->").is_some() {
            return self.expect(actor, signature.yields, cursor);
        }
        if signature.yields == Yields::Nothing {
            return Ok(Expect { law: Outcome::Ok, variants: Vec::new() });
        }
        Err(Fault::new(
            &cursor.here(),
            format!("`{}` lacks an outcome", signature.name),
            format!("expected `->` and {}", possible(signature.yields)),
        ))
    }

    /// The two calls by which one actor comes to what another has.
    fn share(&mut self, actor: Actor, call: &Call, word: &Token) -> Result<(), Fault> {
        let there = |text: &str| Token { text: text.to_string(), span: word.span.clone() };
        match call.name.as_str() {
            "fork" => self.names.fork(actor, parse_actor(&there(call.text("child")))?),
            "take" => {
                let owner = parse_actor(&there(call.text("actor")))?;
                self.names.find(owner, &there(call.text("fd")), "an open file", |thing| {
                    matches!(thing, Thing::Fd).then_some(())
                })?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// `a, !b` as far as `close`.
pub(super) fn conditions(cursor: &mut Cursor<'_>, close: &str) -> Result<Vec<Condition>, Fault> {
    let conditions = list(cursor, |cursor| condition(cursor.expect("a capability, or `!` and one")?))?;
    cursor.expect_word(close)?;
    Ok(conditions)
}

/// `passthrough` or `!passthrough`.
pub(super) fn condition(token: &Token) -> Result<Condition, Fault> {
    let name = token.text.strip_prefix('!').unwrap_or(&token.text);
    if capability(name).is_none() {
        let known = CAPABILITIES.iter().map(|capability| capability.name);
        return Err(Fault::unknown(&token.span, "capability", name, known));
    }
    Ok(Condition { capability: name.to_string(), present: name.len() == token.text.len() })
}

/// One or several, with commas between.
fn list<T>(
    cursor: &mut Cursor<'_>,
    mut one: impl FnMut(&mut Cursor<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut items = vec![one(cursor)?];
    while cursor.take(",").is_some() {
        items.push(one(cursor)?);
    }
    Ok(items)
}

fn opcode(token: &Token) -> Result<Opcode, Fault> {
    Opcode::parse(&token.text).ok_or_else(|| {
        let known = Opcode::ALL.iter().filter_map(|opcode| opcode.name());
        Fault::unknown(&token.span, "opcode", &token.text, known)
    })
}
