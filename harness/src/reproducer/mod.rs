//! A program as a C file that stands alone: what a kernel developer compiles and runs as root, without this project.
//!
//! The file has a small loopback daemon, in a child of its own, which plays the program's scripted replies; all steps are made by
//! one task, one after the other, and checked. It prints TAP and ends with 0, 1 or, where the kernel lacks what is needed, 4.
//! What one task cannot do, such as a call that blocks until a later step, is refused with the step and the reason.
//!
//! It is pure: it compiles and runs nothing.

mod calls;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::abi::{Field, Opcode, fuse_in_header};
use crate::program::{
    Actor, CAPABILITIES, Data, Outcome, Profile, Program, Reply, Saw, Seen, Side, Step, Times, Value, Verb,
};
use crate::script;

/// What every reproducer has before its own steps.
const PRELUDE: &str = include_str!("prelude.c");
/// What no kernel has that anybody would run a reproducer on, and what a program cannot find out.
const FOREIGN: [&str; 6] =
    ["v12", "v12_agreed", "v12_rework", "splice_replies", "fault_injection", "over_io_uring"];
/// The most bytes of one piece of data in the file.
const MOST_DATA: usize = 64 << 10;
/// The same in a reply.
const MOST_REPLY: usize = 4096;
/// As much of a request as the daemon keeps.
const MOST_SEEN: usize = 160;
/// The most fields of a rule, and of a request that is looked for.
const MOST_FIELDS: usize = 8;

/// Why a program has no reproducer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, `{step}`, cannot be told in C: {why}")]
pub struct Refused {
    /// The line of the step; 0 for the program as a whole.
    pub line: u32,
    /// The step.
    pub step: String,
    /// What it would take.
    pub why: &'static str,
}

/// The C file for a program, which `name` stands for.
///
/// # Errors
/// The first step that it cannot express.
pub fn reproducer(program: &Program, name: &str) -> Result<String, Refused> {
    let whole = |why| Refused { line: 0, step: program.title.clone(), why };
    if program.stress.is_some() {
        return Err(whole("a race is run many times"));
    }
    let wants = |name: &str| program.needs.iter().any(|need| need.present && need.capability == name);
    if FOREIGN.iter().any(|name| wants(name)) {
        return Err(whole(
            "it is about a dialect, a transport or a kind of kernel that needs more than a file",
        ));
    }
    let mut writer = Writer { profile: profile(program), ..Writer::default() };
    for step in &program.steps {
        if writer.profile.meets(&step.when) {
            writer.step(step, wants("passthrough")).map_err(|why| {
                let text = script::print_step(step);
                Refused { line: step.at.line, step: text, why }
            })?;
        }
    }
    Ok(writer.file(program, name))
}

/// A kernel that has all that the program needs, and everything else but dialects.
fn profile(program: &Program) -> Profile {
    let lacks = |name: &str| program.needs.iter().any(|need| !need.present && need.capability == name);
    let has = CAPABILITIES.iter().map(|capability| capability.name);
    let has = has.filter(|name| !FOREIGN.contains(name) && !lacks(name));
    Profile { release: String::new(), has: has.map(str::to_owned).collect() }
}

/// Why a step is refused.
type Why = &'static str;

#[derive(Default)]
struct Writer {
    profile: Profile,
    /// What stands for a name; those of open files and mappings belong to an actor.
    names: BTreeMap<(Option<Side>, String), String>,
    body: String,
    checks: usize,
}

impl Writer {
    fn file(&self, program: &Program, name: &str) -> String {
        let mut text = String::from("// SPDX-License-Identifier: MIT OR Apache-2.0\n");
        let comment = |text: &str| text.replace("*/", "* /").replace(['\n', '\r'], " ");
        let _ = writeln!(text, "/*\n * {}\n *\n * {}", comment(&program.title), comment(name));
        let needs: Vec<&str> =
            program.needs.iter().filter(|need| need.present).map(|need| need.capability.as_str()).collect();
        if !needs.is_empty() {
            let _ = writeln!(text, " * Needs: {}", needs.join(" "));
        }
        let _ =
            writeln!(text, " * Compile with cc, run as root: 0 passed, 1 failed, 4 skipped.\n */\n{PRELUDE}");
        for variable in self.names.values() {
            let _ = writeln!(text, "static long {variable} = -1;");
        }
        let _ = write!(
            text,
            "\nint main(void)\n{{\n\tlong r = 0;\n\n\tstage();\n\tprintf(\"TAP version 13\\n1..%d\\n\", {});\n{}",
            self.checks + 1,
            self.body
        );
        text.push_str(
            "\t(void)r;\n\tcheck(all_used(), 0, \"every scripted reply was used\");\n\tfinish(0);\n}\n",
        );
        text
    }

    fn step(&mut self, step: &Step, is_passthrough: bool) -> Result<(), Why> {
        if step.failing {
            return Err("allocations fail on demand");
        }
        if step.actor.number != 1 {
            return Err("it takes several applications or daemons");
        }
        match &step.verb {
            Verb::Call(call) => {
                let yields = step.expect.as_ref().map(|expect| expect.on(&self.profile).clone());
                let said = self.call(step.actor, call, is_passthrough)?;
                let Some(said) = said else { return Ok(()) };
                self.check(step, &said, &yields.unwrap_or(Outcome::Ok))
            }
            Verb::On { times, opcode, path, reply } => {
                self.rule(step.actor, *times, *opcode, path.as_deref(), reply)
            }
            Verb::Saw(saw) => self.saw(step, saw),
            Verb::Start { .. } | Verb::Blocks { .. } | Verb::Await { .. } => {
                Err("a call is under way while other steps happen")
            }
            Verb::Answer { .. } => Err("a request is held while other steps happen"),
        }
    }

    /// Make a call, and compare what comes of it.
    fn check(&mut self, step: &Step, said: &calls::Said, law: &Outcome) -> Result<(), Why> {
        let condition = self.condition(said, law)?;
        let text = literal(script::print_step(step).as_bytes());
        let _ = writeln!(self.body, "\tr = {};", said.expression);
        if let Some((kind, name)) = law.binds() {
            let owner = if kind == "id" { None } else { Some(step.actor.side) };
            let variable = variable(kind, owner, name)?;
            let _ = writeln!(self.body, "\t{variable} = r;");
            self.names.insert((owner, name.to_owned()), variable);
        }
        let _ = writeln!(self.body, "\tcheck({condition}, r, {text});");
        self.checks += 1;
        Ok(())
    }

    fn condition(&self, said: &calls::Said, law: &Outcome) -> Result<String, Why> {
        Ok(match law {
            Outcome::Ok => "r >= 0".into(),
            Outcome::Int(number) => format!("r == {number}LL"),
            Outcome::Errno(errno) | Outcome::Inside(errno, _) => format!("r == -{errno}"),
            Outcome::Signal(signal) => format!("r == -1000 - {signal}"),
            Outcome::Bind { kind, .. } if !["fd", "id", "map"].contains(&kind.as_str()) => {
                return Err("what it makes is no file, backing id or mapping");
            }
            Outcome::Bind { value: Some(value), .. } => format!("r == {value}LL"),
            Outcome::Bind { .. } => "r >= 0".into(),
            Outcome::Data(data) if said.gives_data => {
                format!("is_text(r, {}, {})", bytes(data, MOST_DATA)?, data.0.len())
            }
            Outcome::Data(_) => return Err("its bytes are not kept"),
            Outcome::Fields(fields) if said.gives_stat => {
                let mut all = vec!["r >= 0".to_owned()];
                for (name, value) in fields {
                    if !["size", "mode", "nlink", "uid", "gid"].contains(&name.as_str()) {
                        return Err("a field of the record is not kept");
                    }
                    all.push(format!("(long long)st.st_{name} == {value}LL"));
                }
                all.join(" && ")
            }
            Outcome::Fields(_) => return Err("its record is not kept"),
            Outcome::Any(outcomes) => {
                let any: Result<Vec<String>, Why> = outcomes
                    .iter()
                    .map(|outcome| Ok(format!("({})", self.condition(said, outcome)?)))
                    .collect();
                any?.join(" || ")
            }
        })
    }

    fn rule(
        &mut self,
        actor: Actor,
        times: Times,
        opcode: Opcode,
        path: Option<&str>,
        reply: &Reply,
    ) -> Result<(), Why> {
        let mut parts = vec![format!(".opcode = {}", opcode.0)];
        if times == Times::Once {
            parts.push(".once = 1".into());
        }
        if path.is_some_and(|path| path.contains(['/', ':'])) {
            return Err("its file is not in the mount's root");
        }
        parts.push(format!(".path = {}", literal(path.unwrap_or("*").as_bytes())));
        match reply {
            Reply::Error(errno) => parts.push(format!(".error = {}", errno.abs())),
            Reply::Fields(fields) => {
                let mut set = Vec::new();
                for (name, value) in fields {
                    match (name.as_str(), value) {
                        ("data", Value::Data(data)) => {
                            if opcode == Opcode::IOCTL {
                                return Err("its data stands behind a fixed part");
                            }
                            let text = bytes(data, MOST_REPLY - 1)?;
                            parts.push(format!(".has_data = 1, .data = {text}, .ndata = {}", data.0.len()));
                        }
                        ("cut" | "pad", value) => {
                            let number =
                                value.int().filter(|number| (0..=MOST_REPLY as i128).contains(number));
                            parts.push(format!(".{name} = {}", number.ok_or("a length is out of bounds")?));
                        }
                        (name, value) => {
                            let field = match opcode.reply_field(name) {
                                Some((field, false)) => field,
                                _ => return Err("it changes the reply's header, or how it is written"),
                            };
                            set.push(field_of(&field, 0, &self.number(actor.side, value)?));
                        }
                    }
                }
                if set.len() > 2 * MOST_FIELDS {
                    return Err("it has too many fields");
                }
                if !set.is_empty() {
                    parts.push(format!(".nfields = {}, .fields = {{ {} }}", set.len(), set.join(", ")));
                }
            }
            Reply::Claim(_) => return Err("the daemon claims what it has not done"),
            Reply::Hold(_) => return Err("a request is held while other steps happen"),
            Reply::Drop => return Err("a request is never answered"),
            Reply::Die => return Err("the daemon dies"),
        }
        let _ = writeln!(self.body, "\tadd_rule((struct rule){{ {} }});", parts.join(", "));
        Ok(())
    }

    fn saw(&mut self, step: &Step, saw: &Saw) -> Result<(), Why> {
        let (how, list): (char, Vec<Seen>) = match saw {
            Saw::Exactly(list) => ('e', list.clone()),
            Saw::Some(list) => ('s', list.clone()),
            Saw::No(opcodes) => {
                let seen = |opcode: &Opcode| Seen { opcode: *opcode, path: None, fields: Vec::new() };
                ('n', opcodes.iter().map(seen).collect())
            }
        };
        let mut all = Vec::new();
        for seen in &list {
            all.push(self.seen(seen)?);
        }
        let text = literal(script::print_step(step).as_bytes());
        let list = if all.is_empty() {
            "NULL".to_owned()
        } else {
            format!("(struct seen[]){{ {} }}", all.join(", "))
        };
        let _ = writeln!(self.body, "\tsaw('{how}', {list}, {}, {text});", all.len());
        self.checks += 1;
        Ok(())
    }

    fn seen(&self, seen: &Seen) -> Result<String, Why> {
        let path = seen.path.as_ref().map_or("NULL".into(), |path| literal(path.as_bytes()));
        let mut fields = Vec::new();
        for (name, value) in &seen.fields {
            let field =
                seen.opcode.request_field(name).ok_or("it looks at more than fields of the request")?;
            if field.offset + field.size > MOST_SEEN || fields.len() == MOST_FIELDS {
                return Err("it looks at more than is kept of a request");
            }
            fields.push(field_of(&field, u64::from(name == "flags"), &self.number(Side::Daemon, value)?));
        }
        let count = fields.len();
        let fields = if count == 0 { "{ 0, 0, 0, 0 }".into() } else { fields.join(", ") };
        Ok(format!("{{ {}, {path}, {count}, {{ {fields} }} }}", seen.opcode.0))
    }

    /// A number, as C has it.
    fn number(&self, side: Side, value: &Value) -> Result<String, Why> {
        match value {
            Value::Int(number) => match i64::try_from(*number) {
                Ok(i64::MIN) => Ok("(-9223372036854775807LL - 1)".into()),
                Ok(number) => Ok(format!("{number}LL")),
                Err(_) => u64::try_from(*number)
                    .map(|number| format!("(long long){number}ULL"))
                    .map_err(|_| "a number has more than 64 bits"),
            },
            Value::Name(name, offset) => {
                let find = |owner| self.names.get(&(owner, name.clone()));
                let variable = find(Some(side)).or_else(|| find(None));
                let variable = variable.ok_or("it names something of another actor, or a request")?;
                Ok(if *offset == 0 { variable.clone() } else { format!("({variable} + {offset}LL)") })
            }
            _ => Err("a value is no number"),
        }
    }
}

/// `{ at, size, value, mask }`; O_LARGEFILE is no matter of a request's flags.
fn field_of(field: &Field, without_largefile: u64, value: &str) -> String {
    let mask = u64::MAX >> (64 - 8 * field.size) & !(without_largefile * 0o100_000);
    format!("{{ {}, {}, {value}, {mask:#x}ULL }}", field.offset, field.size)
}

/// The C variable of something named.
fn variable(kind: &str, owner: Option<Side>, name: &str) -> Result<String, Why> {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err("a name is none in C");
    }
    let owner = match owner {
        // Alone it may be a word of C.
        None => "of_",
        Some(Side::App) => "app_",
        Some(Side::Daemon) => "daemon_",
        Some(Side::Host) => "host_",
    };
    Ok(format!("{kind}_{owner}{name}"))
}

fn bytes(data: &Data, most: usize) -> Result<String, Why> {
    if data.0.len() > most { Err("its data is too long for a source file") } else { Ok(literal(&data.0)) }
}

/// Bytes as a C string.
fn literal(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' | b'?' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let _ = write!(text, "\\{byte:03o}");
            }
        }
    }
    text.push('"');
    text
}

const _: () = assert!(size_of::<fuse_in_header>() == 40);
