//! Arguments and fields: a word becomes a value of the kind that its place asks for.

use super::error::Fault;
use super::lexer::Token;
use super::names::{Thing, new_name};
use super::step::Reader;
use crate::abi::Opcode;
use crate::program::flags::{self, FlagSet, parse_number};
use crate::program::{self, Actor, Data, Kind, Side, Value};

/// How a reply is written to the device.
const VIA: Kind = Kind::Word(program::VIA);
/// Names of a reply that are no fields of its structures.
const REPLY_EXTRAS: [(&str, Kind); 6] = [
    ("data", Kind::Data),
    ("pipes", Kind::Fds),
    ("cut", Kind::Number),
    ("pad", Kind::Number),
    ("via", VIA),
    ("pipe_has", Kind::Number),
];
/// What write(2) of the answer led to: a name of a request that is no field of its structures.
const ANSWERED: &str = "answered";
/// Flags of INIT that are among those of the request, or are not: names of it that are no fields of its structures.
const OFFERS: [&str; 4] = ["offers", "offers2", "lacks", "lacks2"];
/// What a request came by: a name of every request that is no field of its structures.
const BY: &str = "by";
/// What a WRITE carries, or the name of an extended attribute.
const DATA: &str = "data";
/// The unique of the very request that a reply is for.
const SAME: &str = "same";

/// What a field of a reply to `opcode` takes, if there is such a field.
pub(super) fn reply_kind(opcode: Opcode, name: &str) -> Option<Kind> {
    let extra = REPLY_EXTRAS.iter().find(|(extra, _)| *extra == name);
    extra.map(|(_, kind)| *kind).or_else(|| opcode.reply_field(name).map(|_| wire_kind(opcode, name)))
}

/// What a field of a request of `opcode` takes, if there is such a field.
pub(super) fn request_kind(opcode: Opcode, name: &str) -> Option<Kind> {
    match opcode.request_field(name) {
        _ if name == DATA && has_data(opcode) => Some(Kind::Data),
        Some(_) => Some(wire_kind(opcode, name)),
        None if opcode == Opcode::INIT && OFFERS.contains(&name) => Some(wire_kind(opcode, name)),
        None if name == BY => Some(Kind::Word(&["device", "io_uring"])),
        None => (name == ANSWERED).then_some(Kind::Number),
    }
}

fn has_data(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::WRITE | Opcode::NOTIFY_REPLY | Opcode::GETXATTR | Opcode::SETXATTR | Opcode::REMOVEXATTR
    )
}

/// What a field of the wire's structures takes.
pub(super) fn wire_kind(opcode: Opcode, name: &str) -> Kind {
    FlagSet::of_wire_field(opcode, name).map_or(Kind::Number, Kind::Flags)
}

/// Every name that [`reply_kind`] knows.
pub(super) fn reply_names(opcode: Opcode) -> impl Iterator<Item = &'static str> {
    let body = opcode.reply_parts().iter().flat_map(|(fields, _)| fields.iter());
    body.chain(crate::abi::fuse_out_header::FIELDS)
        .map(|field| field.name)
        .chain(REPLY_EXTRAS.iter().map(|(name, _)| *name))
}

/// Every name that [`request_kind`] knows.
pub(super) fn request_names(opcode: Opcode) -> impl Iterator<Item = &'static str> {
    let body = opcode.request_fields().iter();
    body.chain(crate::abi::fuse_in_header::FIELDS)
        .map(|field| field.name)
        .chain([ANSWERED, BY])
        .chain(OFFERS.into_iter().filter(move |_| opcode == Opcode::INIT))
        .chain(has_data(opcode).then_some(DATA))
}

/// What a parameter of this kind takes, for people.
pub(super) fn describe(kind: Kind) -> String {
    match kind {
        Kind::Path => "a quoted path".into(),
        Kind::Fd => "an open file's name, or a number".into(),
        Kind::Fds => "open files, joined by `+`: `p.r+q.r*3`".into(),
        Kind::Map => "a mapping's name, possibly with an offset: `m+4096`".into(),
        Kind::Aio => "an asynchronous request's name".into(),
        Kind::Number => "a number, or a name that has one".into(),
        Kind::Data => "quoted bytes".into(),
        Kind::Flags(flags::MODE) => "an octal mode".into(),
        Kind::Flags(set) => {
            let article = if set.name.starts_with(['a', 'o', 'I']) { "an" } else { "a" };
            let more = if set.bits { ", several joined by `|`" } else { "" };
            format!("{article} {}{more}", set.name)
        }
        Kind::Actor => "an actor".into(),
        Kind::Name => "a name".into(),
        Kind::Word(words) => format!("one of `{}`", words.join("`, `")),
    }
}

impl Reader<'_> {
    /// The value that a word stands for where `kind` is asked for.
    pub(super) fn value(&mut self, actor: Actor, kind: Kind, token: &Token) -> Result<Value, Fault> {
        let wanted = describe(kind);
        match kind {
            Kind::Path => self.text(token, &wanted).map(Value::Path),
            Kind::Data => self.data(token, &wanted).map(Value::Data),
            Kind::Fd => match parse_number(&token.text) {
                Some(number) => Ok(Value::Int(number)),
                None => self.named(actor, token, &wanted, |thing| matches!(thing, Thing::Fd)),
            },
            Kind::Fds => self.fds(actor, token).map(Value::Fds),
            Kind::Map => self.named(actor, token, &wanted, |thing| matches!(thing, Thing::Map)),
            Kind::Aio => self.named(actor, token, &wanted, |thing| matches!(thing, Thing::Aio)),
            Kind::Number => match number(token)? {
                Some(number) => Ok(Value::Int(number)),
                None => self.named(actor, token, &wanted, |thing| {
                    matches!(thing, Thing::Fd | Thing::Id | Thing::Held(_))
                }),
            },
            Kind::Flags(set) => flags(&set, token).map(Value::Int),
            Kind::Actor => parse_actor(token).map(|actor| Value::Word(actor.to_string())),
            Kind::Name => new_name(token).map(|name| Value::Name(name.to_string(), 0)),
            Kind::Word(words) if words.contains(&token.text.as_str()) => Ok(Value::Word(token.text.clone())),
            Kind::Word(words) => Err(Fault::unknown(&token.span, "word", &token.text, words.iter().copied())),
        }
    }

    /// Open files: `p.r`, `p.r+q.r*3+-1`.
    fn fds(&mut self, actor: Actor, token: &Token) -> Result<Vec<Value>, Fault> {
        let mut fds = Vec::new();
        let mut start = 0;
        for text in token.text.split('+') {
            let term = token.part(start..start + text.len());
            start += text.len() + 1;
            let split = text.find('*').unwrap_or(text.len());
            let fd = self.value(actor, Kind::Fd, &term.part(0..split))?;
            let times = match text.get(split + 1..) {
                None => 1,
                Some(digits) => digits.parse().ok().filter(|times| *times > 0).ok_or_else(|| {
                    let after = term.part(split..text.len());
                    Fault::new(
                        &after.span,
                        format!("`{digits}` is no count"),
                        "expected a number from 1 after `*`",
                    )
                })?,
            };
            if times > Value::MOST_FDS - fds.len() {
                let what = format!("more than {} files", Value::MOST_FDS);
                return Err(Fault::new(&term.span, what, "expected fewer"));
            }
            fds.extend(std::iter::repeat_n(fd, times));
        }
        Ok(fds)
    }

    /// A quoted text.
    pub(super) fn text(&mut self, token: &Token, wanted: &str) -> Result<String, Fault> {
        let Data(bytes) = self.data(token, wanted)?;
        String::from_utf8(bytes)
            .map_err(|_| Fault::new(&token.span, "these bytes are no text", "expected UTF-8"))
    }

    /// Quoted bytes.
    pub(super) fn data(&mut self, token: &Token, wanted: &str) -> Result<Data, Fault> {
        if !token.is_quoted() {
            return Err(Fault::new(
                &token.span,
                format!("`{}` is not quoted", token.text),
                format!("expected {wanted}"),
            ));
        }
        let data: Data = token.text.parse().map_err(|error: program::DataError| {
            let end = token.text.len();
            Fault::new(&token.part(error.at.min(end)..end).span, "these are no bytes", error.what)
        })?;
        *self.room = self.room.checked_sub(data.0.len()).ok_or_else(|| {
            Fault::new(
                &token.span,
                "the file's bytes are too many for one program",
                "expected fewer bytes from here on",
            )
        })?;
        Ok(data)
    }

    /// Something with a name, and an offset: `h`, `m+4096`, `h-1`.
    fn named(
        &self,
        actor: Actor,
        token: &Token,
        wanted: &str,
        fits: impl Fn(Thing) -> bool,
    ) -> Result<Value, Fault> {
        let end = token.text.len();
        let split = token.text.find(['+', '-']).unwrap_or(end);
        let name = token.part(0..split);
        let is_name = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase());
        if !is_name(&name.text) {
            return Err(Fault::new(
                &token.span,
                format!("`{}` does not fit here", token.text),
                format!("expected {wanted}"),
            ));
        }
        let same = Thing::Held(Opcode(0));
        let thing = if name.text == SAME && fits(same) {
            same
        } else {
            self.names.find(actor, &name, wanted, |thing| fits(thing).then_some(thing))?
        };
        let mut offset = 0;
        if split < end {
            let digits = token.text[split..].trim_start_matches('+');
            offset = digits.parse().ok().filter(|_| thing != Thing::Fd).ok_or_else(|| {
                Fault::new(
                    &token.part(split..end).span,
                    format!("`{}` is no offset of {}", &token.text[split..], name.text),
                    "expected `+` or `-` and a decimal number, behind anything but an open file",
                )
            })?;
        }
        Ok(Value::Name(name.text, offset))
    }
}

/// `0x10`, `-5`, `-ENOSYS`, `NOTIFY_RESEND`; none for what may be a name.
fn number(token: &Token) -> Result<Option<i128>, Fault> {
    if let Some((_, code)) = flags::NOTIFY.names.iter().find(|(name, _)| *name == token.text) {
        return Ok(Some((*code).into()));
    }
    match token.text.strip_prefix("-E") {
        None => Ok(parse_number(&token.text)),
        Some(_) => errno(&token.part(1..token.text.len())).map(|errno| Some(-i128::from(errno))),
    }
}

/// Flags by name, or any number.
pub(super) fn flags(set: &FlagSet, token: &Token) -> Result<i128, Fault> {
    if let Some(number) = parse_number(&token.text) {
        return Ok(number);
    }
    if !set.bits && token.text.contains('|') {
        return Err(Fault::new(
            &token.span,
            format!("a {} cannot be joined with another", set.name),
            "expected one",
        ));
    }
    set.parse(&token.text).map(i128::from).map_err(|part| {
        let at = part.as_ptr() as usize - token.text.as_ptr() as usize;
        let names = set.names.iter().map(|(name, _)| *name);
        Fault::unknown(&token.part(at..at + part.len()).span, set.name, part, names)
    })
}

/// An errno by name.
pub(super) fn errno(token: &Token) -> Result<i32, Fault> {
    flags::errno_number(&token.text).ok_or_else(|| {
        let names: Vec<String> = (1..=133).map(flags::errno_name).collect();
        let known = names.iter().map(String::as_str).filter(|name| name.starts_with('E'));
        Fault::unknown(&token.span, "errno", &token.text, known)
    })
}

/// `app`, `app2`, `daemon`, `host`.
pub(super) fn parse_actor(token: &Token) -> Result<Actor, Fault> {
    const SIDES: [(&str, Side); 3] = [("app", Side::App), ("daemon", Side::Daemon), ("host", Side::Host)];
    let digits = token.text.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let name = &token.text[..token.text.len() - digits.len()];
    let Some((_, side)) = SIDES.iter().find(|(known, _)| *known == name) else {
        return Err(Fault::unknown(&token.span, "actor", &token.text, SIDES.iter().map(|(name, _)| *name)));
    };
    let most = if *side == Side::Host { 1 } else { Actor::MOST };
    let number = if digits.is_empty() { Ok(1) } else { digits.parse() };
    match number {
        Ok(number @ 1..) if number <= most && !digits.starts_with(['0', '+']) => {
            Ok(Actor { side: *side, number })
        }
        _ => Err(Fault::new(
            &token.span,
            format!("there is no {name} number `{digits}`"),
            if most == 1 {
                "expected `host`: there is only one".to_string()
            } else {
                format!("expected `{name}`, or `{name}2` to `{name}{most}`")
            },
        )),
    }
}
