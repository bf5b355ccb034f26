//! A file: its title, its header, and its steps, with those of the library files it uses before its own.

use std::ops::Range;

use super::axes::{self, Choice};
use super::error::{Fault, ScriptError};
use super::lexer::{Cursor, Line, Token, lex};
use super::names::Names;
use super::step::{Reader, condition};
use super::{Case, Library, Source, library_path};
use crate::program::{Condition, Exclusion, FAULT_INJECTION, Program, Step, Stress, Transport};

/// The most bytes of data that all variants of a file may hold together.
const ROOM: usize = 64 << 20;
/// The words a line of the header starts with.
const HEADERS: [&str; 7] = ["rules", "needs", "not", "danger", "stress", "axis", "use"];

/// The cases that a file holds: one, or one of each combination of its axes.
///
/// # Errors
/// The first thing that is wrong with the file, or with a library file it uses.
pub fn parse(source: &Source, library: &dyn Library) -> Result<Vec<Case>, ScriptError> {
    let within = |fault: Fault| fault.within(source);
    let title = title(&source.text).map_err(within)?;
    let choices = lex(&source.text).and_then(axes::expand).map_err(within)?;
    let path = source.path.strip_suffix(".case").unwrap_or(&source.path);
    let mut room = ROOM;
    let mut cases = Vec::new();
    for Choice { variant, lines } in choices {
        let mut parser = Parser {
            library,
            room: &mut room,
            using: Vec::new(),
            names: Names::default(),
            rules: Vec::new(),
            needs: Vec::new(),
            not: Vec::new(),
            dangers: Vec::new(),
            stress: None,
            steps: Vec::new(),
        };
        parser.file(source, &lines)?;
        let whole = 0..source.text.lines().next().map_or(0, str::len);
        if parser.rules.is_empty() {
            let fault =
                Fault::new(&whole, "the case rests on no rule", "expected a line `rules ID ...` below");
            return Err(within(fault.help("a rule's ID looks like `OPEN-05`")));
        }
        if parser.steps.is_empty() {
            return Err(within(Fault::new(&whole, "the case does nothing", "expected steps below")));
        }
        parser.one_failing(source)?;
        parser.names.finish()?;
        cases.push(Case {
            path: path.to_string(),
            variant,
            program: Program {
                title: title.to_string(),
                rules: parser.rules,
                needs: parser.needs,
                not: parser.not,
                danger: (!parser.dangers.is_empty()).then(|| parser.dangers.join("; ")),
                stress: parser.stress,
                steps: parser.steps,
            },
        });
    }
    Ok(cases)
}

/// What the file and those it uses have said so far.
struct Parser<'a> {
    library: &'a dyn Library,
    room: &'a mut usize,
    /// The library files that are being read, outermost first.
    using: Vec<String>,
    names: Names,
    rules: Vec<String>,
    needs: Vec<Condition>,
    not: Vec<Exclusion>,
    dangers: Vec<String>,
    stress: Option<Stress>,
    steps: Vec<Step>,
}

impl Parser<'_> {
    fn file(&mut self, source: &Source, lines: &[Line]) -> Result<(), ScriptError> {
        let within = |fault: Fault| fault.within(source);
        let mut headers: Vec<&str> = Vec::new();
        let mut in_steps = false;
        for line in lines {
            let mut cursor = Cursor::new(line);
            let first = cursor.expect("a word").map_err(within)?;
            let word = first.text.as_str();
            if !HEADERS.contains(&word) {
                let step = self.reader(source).step(line);
                let step =
                    step.map_err(|fault| within(if in_steps { fault } else { or_header(first, fault) }))?;
                self.steps.push(step);
                in_steps = true;
                continue;
            }
            if in_steps {
                let what = format!("`{word}` behind the first step");
                return Err(within(Fault::new(&first.span, what, "expected above all steps")));
            }
            if !["use", "not"].contains(&word) && headers.contains(&word) {
                let what = format!("`{word}` is there twice");
                return Err(within(Fault::new(&first.span, what, "expected one such line")));
            }
            headers.push(word);
            if word == "use" {
                let used = self.find(cursor).map_err(within)?;
                self.splice(used)?;
            } else {
                self.header(source, first, cursor).map_err(within)?;
            }
        }
        Ok(())
    }

    /// A case has at most one step whose allocations fail, says that it needs such a kernel, and is about no race besides.
    fn one_failing(&self, source: &Source) -> Result<(), ScriptError> {
        let mut failing = self.steps.iter().filter(|step| step.failing);
        let Some(first) = failing.next() else { return Ok(()) };
        let whole = 0..source.text.lines().next().map_or(0, str::len);
        let needs = |need: &Condition| need.capability == FAULT_INJECTION && need.present;
        let (what, help) = if let Some(second) = failing.next() {
            (
                "two steps are `failing`",
                format!("expected one; they are on the lines {} and {}", first.at.line, second.at.line),
            )
        } else if self.stress.is_some() {
            ("a race whose allocations fail", "expected `stress` or a `failing` step".to_string())
        } else if !self.needs.iter().any(needs) {
            ("a `failing` step on any kernel", format!("expected a line `needs {FAULT_INJECTION}` below"))
        } else {
            return Ok(());
        };
        Err(Fault::new(&whole, what, help).within(source))
    }

    fn reader<'b>(&'b mut self, source: &'b Source) -> Reader<'b> {
        Reader { source, names: &mut self.names, room: self.room }
    }

    /// `rules`, `needs`, `not`, `danger` or `stress`.
    fn header(&mut self, source: &Source, word: &Token, mut cursor: Cursor<'_>) -> Result<(), Fault> {
        match word.text.as_str() {
            "danger" => {
                let wanted = "what it may do to the machine, quoted";
                let danger = cursor.expect(wanted)?;
                let danger = self.reader(source).text(danger, wanted)?;
                if !self.dangers.contains(&danger) {
                    self.dangers.push(danger);
                }
                cursor.finish("the reason")
            }
            "not" => {
                let token = cursor.expect("a transport, or `all`")?;
                let all = Transport::ALL;
                let meant: Vec<Transport> = match (token.text.as_str(), Transport::parse(&token.text)) {
                    ("all", _) => all.map(|(_, transport)| transport).into(),
                    (_, Some(transport)) => vec![transport],
                    (name, None) => {
                        let names = all.iter().map(|(name, _)| *name).chain(["all"]);
                        return Err(Fault::unknown(&token.span, "transport", name, names));
                    }
                };
                let wanted = "why it cannot run over that transport, quoted";
                let reason = cursor.expect(wanted)?;
                let reason = self.reader(source).text(reason, wanted)?;
                for transport in meant {
                    let exclusion = Exclusion { transport, reason: reason.clone() };
                    if !self.not.contains(&exclusion) {
                        self.not.push(exclusion);
                    }
                }
                cursor.finish("the reason")
            }
            "stress" => {
                let wanted = format!("how many rounds, from 2 to {}", Stress::MOST);
                let token = cursor.expect(&wanted)?;
                let rounds = token.text.parse().ok().filter(|rounds| (2..=Stress::MOST).contains(rounds));
                let rounds = rounds.ok_or_else(|| {
                    Fault::new(&token.span, "no number of rounds", format!("expected {wanted}"))
                })?;
                let wanted = "why no order of steps can show it, quoted";
                let reason = cursor.expect(wanted)?;
                let reason = self.reader(source).text(reason, wanted)?;
                self.stress = Some(Stress { rounds, reason });
                cursor.finish("the reason")
            }
            "needs" => {
                let mut token = cursor.expect("a capability, or `!` and one")?;
                loop {
                    let need = condition(token)?;
                    if !self.needs.contains(&need) {
                        self.needs.push(need);
                    }
                    match cursor.next() {
                        Some(next) => token = next,
                        None => return Ok(()),
                    }
                }
            }
            _ if !self.using.is_empty() => Err(Fault::new(
                &word.span,
                "a library file has no rules",
                "expected them in the cases that use it",
            )),
            _ => {
                let mut token = cursor.expect("a rule's ID")?;
                loop {
                    self.rules.push(rule(token)?);
                    match cursor.next() {
                        Some(next) => token = next,
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    /// The library file that a `use` line names.
    fn find(&mut self, mut cursor: Cursor<'_>) -> Result<Source, Fault> {
        let token = cursor.expect("a library file's name, such as `mount/passthrough`")?;
        let name = &token.text;
        cursor.finish("the library file's name")?;
        let path = library_path(name);
        if self.using.contains(&path) {
            return Err(Fault::new(
                &token.span,
                format!("`{name}` uses itself"),
                format!("expected a file other than {}", self.using.join(", ")),
            ));
        }
        self.library.find(name).ok_or_else(|| {
            Fault::new(
                &token.span,
                format!("there is no library file `{name}`"),
                format!("expected a readable file {path} below the cases"),
            )
        })
    }

    /// The steps of a library file become the program's, its needs and dangers too.
    fn splice(&mut self, used: Source) -> Result<(), ScriptError> {
        let within = |fault: Fault| fault.within(&used);
        title(&used.text).map_err(within)?;
        let lines = lex(&used.text).map_err(within)?;
        if let Some(line) = lines.iter().find(|line| line.tokens[0].text == "axis") {
            return Err(within(Fault::new(
                &line.tokens[0].span,
                "a library file has no axes",
                "expected them in the cases that use it",
            )));
        }
        let choices = axes::expand(lines).map_err(within)?;
        self.using.push(used.path.clone());
        for Choice { lines, .. } in &choices {
            self.file(&used, lines)?;
        }
        self.using.pop();
        Ok(())
    }
}

/// Before the first step, a word that starts no step may have been meant for the header.
fn or_header(first: &Token, fault: Fault) -> Fault {
    if fault.is_at(&first.span) {
        let known = HEADERS.into_iter().chain(["app", "daemon", "host"]);
        Fault::unknown(&first.span, "header or actor", &first.text, known)
    } else {
        fault
    }
}

/// The sentence on the first line.
fn title(text: &str) -> Result<&str, Fault> {
    let line = text.lines().next().unwrap_or_default();
    let title = line.strip_prefix("# ").map(str::trim);
    title.filter(|title| title.len() > 1 && title.ends_with('.')).ok_or_else(|| {
        Fault::new(&(0..line.len()), "the first line is no title", "expected a title")
            .help("begin with `# ` and one sentence, full stop included, that is true if the case passes")
    })
}

/// `OPEN-05`.
fn rule(token: &Token) -> Result<String, Fault> {
    if is_rule(&token.text) {
        return Ok(token.text.clone());
    }
    Err(Fault::new(
        &token.span,
        format!("`{}` is no rule's ID", token.text),
        "expected capitals, `-` and digits, such as `OPEN-05`",
    ))
}

/// Is it the ID of a rule, by its looks?
pub(crate) fn is_rule(id: &str) -> bool {
    id.rsplit_once('-').is_some_and(|(group, number)| {
        group.starts_with(|c: char| c.is_ascii_uppercase())
            && group.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
            && !number.is_empty()
            && number.chars().all(|c| c.is_ascii_digit())
    })
}

/// Where the header of a case names this rule.
pub(crate) fn rule_span(text: &str, id: &str) -> Option<Range<usize>> {
    let lines = lex(text).ok()?;
    let rules = lines.into_iter().find(|line| line.tokens[0].text == "rules")?;
    rules.tokens.into_iter().find(|token| token.text == id).map(|token| token.span)
}
