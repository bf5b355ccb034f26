//! Any program becomes one that an arena can perform, with as little change as possible.
//!
//! Steps are taken one by one into a program that is acceptable at every moment; what cannot be mended is left out. So a
//! program that is acceptable stays as it is. Nothing is chosen at random.
//!
//! Whoever drives a program makes all calls that are not begun by `start`, and must not wait for what a later step brings.
//! From the `on ...: hold` to its `answer`, and from `pause` to `serve`, every call of an application is therefore begun,
//! nothing is awaited, and no notification is sent that waits for a page or a folder. A fault in a mapping cannot be begun:
//! there is none in that time.

use super::bounds::{bounded, text};
use super::reply;
use super::world::{Running, Thing, World};
use super::{APPS, DAEMON, HOST, MOST_FILES, MOST_STEPS, app, menu};
use crate::abi::Opcode;
use crate::program::flags;
use crate::program::{
    Actor, At, Call, Data, Expect, Kind, Need, Outcome, Param, Program, Reply, Side, Signature, Step, Times,
    Value, Verb, Yields,
};
use crate::script;

/// The sentence above every program.
const TITLE: &str = "A generated program.";
/// The rule that every program names, as the text form asks for one.
const RULE: &str = "FUZZ-01";
/// Notifications that wait for nothing: POLL, RESEND and INC_EPOCH.
const WAIT_FOR_NOTHING: [i128; 3] = [1, 7, 8];
/// A notification that waits for the folder, and for no page.
pub(super) const INVAL_ENTRY: i128 = 3;
/// What a mount is served over, if not by read(2) and write(2).
pub(super) const SPLICE: &str = "splice";
/// Descriptors from here on are nobody's.
const NOBODYS: i128 = 1 << 16;

/// The nearest program that an arena can perform. One that is acceptable stays as it is.
pub fn repair(program: Program) -> Program {
    let mut body = Body::of(&program.steps);
    for step in program.steps.iter().filter(|step| !is_of_stage(step)) {
        body.take(step);
    }
    body.finish()
}

/// Can an arena perform this program?
///
/// # Errors
/// The first step that it cannot perform in its place, and what would be there.
pub fn is_acceptable(program: &Program) -> Result<(), String> {
    let repaired = repair(program.clone());
    if repaired == *program {
        return Ok(());
    }
    let both = program.steps.iter().map(Some).chain(std::iter::repeat(None));
    let shown = |step: Option<&Step>| step.map_or("nothing".to_string(), script::print_step);
    let most = program.steps.len().max(repaired.steps.len());
    let mut pairs = both.zip(repaired.steps.iter().map(Some).chain(std::iter::repeat(None))).take(most);
    Err(match pairs.find(|(step, mended)| step != mended) {
        Some((step, mended)) => format!("`{}` should be `{}`", shown(step), shown(mended)),
        None => "the header is not that of a generated program".to_string(),
    })
}

/// Does the step set the stage, wherever it stands?
pub(super) fn is_of_stage(step: &Step) -> bool {
    match &step.verb {
        Verb::Call(call) => menu::STAGE.contains(&call.name.as_str()),
        Verb::On { opcode, .. } => *opcode == Opcode::INIT,
        _ => false,
    }
}

/// A program of these steps, which are taken as they are.
pub(super) fn program(steps: Vec<Step>) -> Program {
    Program {
        title: TITLE.into(),
        rules: vec![RULE.into()],
        needs: Vec::new(),
        not: Vec::new(),
        danger: None,
        stress: None,
        steps,
    }
}

/// A step without conditions.
pub(super) fn step(actor: Actor, verb: Verb, expect: Option<Expect>) -> Step {
    Step { at: At::default(), when: Vec::new(), actor, failing: false, verb, expect }
}

/// What a call is expected to lead to. Something made has a name; of anything else, success is the weakest outcome that
/// the text form knows. Whoever judges generated programs does not look at it.
pub(super) fn outcome(yields: Yields, name: &str) -> Expect {
    let law = match yields {
        Yields::Named(kind) => Outcome::Bind { kind: kind.into(), name: name.into(), value: None },
        _ => Outcome::Ok,
    };
    Expect { law, variants: Vec::new() }
}

/// The name that the step gives to something, in its law or in an exception.
pub(super) fn bound(step: &Step) -> Option<&str> {
    let expect = step.expect.as_ref()?;
    let mut outcomes = std::iter::once(&expect.law).chain(expect.variants.iter().map(|v| &v.outcome));
    outcomes.find_map(Outcome::binds).map(|(_, name)| name)
}

/// A program under construction: acceptable but for its end, which [`Body::finish`] brings.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) world: World,
    pub(super) steps: Vec<Step>,
    prologue: usize,
}

impl Body {
    /// The prologue that these steps ask for, and nothing behind it.
    pub(super) fn of(steps: &[Step]) -> Body {
        let mut files = Vec::new();
        let kind = steps.iter().find_map(lower).unwrap_or(menu::LOWER[0]);
        let mut stage = vec![host("lower", vec![("kind".into(), Value::Word(kind.into()))])];
        let calls = steps.iter().filter_map(|step| match &step.verb {
            Verb::Call(call) if call.name == "file" => Some(call),
            _ => None,
        });
        for call in calls {
            let path = call.text("path");
            if files.len() < MOST_FILES && is_plain(path) && files.iter().all(|known| known != path) {
                stage.push(file(path, &call.data("data"), call.arg("mode")));
                files.push(path.to_string());
            }
        }
        if files.is_empty() {
            stage.push(file("a", &Data(b"hello".to_vec()), None));
            files.push("a".into());
        }
        stage.extend(steps.iter().find_map(init));
        let is_spliced = steps.iter().any(is_spliced_mount);
        let over = is_spliced.then(|| ("over".into(), Value::Word(SPLICE.into())));
        let mount = Call { name: "mount".into(), args: over.into_iter().collect() };
        stage.push(step(DAEMON, Verb::Call(mount), Some(outcome(Yields::Nothing, ""))));
        Body { world: World::new(files), prologue: stage.len(), steps: stage }
    }

    /// How many steps there are behind the prologue.
    pub(super) fn len(&self) -> usize {
        self.steps.len() - self.prologue
    }

    /// Add the step, mended, and what has to come before it. Says whether it is in.
    pub(super) fn take(&mut self, step: &Step) -> bool {
        let (world, len) = (self.world.clone(), self.steps.len());
        let is_in = self.fit(step).is_some();
        let owed = self.world.armed.len() + self.world.running.len() + usize::from(self.world.is_paused);
        let fits = is_in && self.len() + owed <= MOST_STEPS;
        if !fits {
            self.world = world;
            self.steps.truncate(len);
        }
        fits
    }

    /// The program: everything is answered and awaited.
    pub(super) fn finish(mut self) -> Program {
        self.answer_all();
        while let Some(call) = self.world.running.first() {
            let (actor, name) = (call.actor, call.name.clone());
            self.wait(actor, &name, None);
        }
        program(self.steps)
    }

    fn push(&mut self, actor: Actor, verb: Verb, expect: Option<Expect>) {
        self.steps.push(step(actor, verb, expect));
    }

    fn fit(&mut self, step: &Step) -> Option<()> {
        let actor = actor(step.actor)?;
        let is_daemon = actor == DAEMON;
        match &step.verb {
            Verb::Call(call) => self.call(actor, call, None, bound(step)),
            Verb::Start { name, call } => self.call(actor, call, Some(name), bound(step)),
            Verb::Await { name } if !self.world.holds_up() => self.wait(actor, name, bound(step)),
            Verb::On { times, opcode, path, reply } if is_daemon => {
                self.rule(*times, *opcode, path.as_deref(), reply)
            }
            Verb::Answer { held, reply } if is_daemon => self.answer(held, reply),
            // To judge is not for generated programs.
            _ => None,
        }
    }

    fn rule(&mut self, times: Times, opcode: Opcode, path: Option<&str>, reply: &Reply) -> Option<()> {
        if !menu::OPCODES.contains(&opcode) {
            return None;
        }
        let path = path.map(|path| self.world.path(path));
        self.world.answers_poll |= opcode == Opcode::POLL;
        let (times, reply) = if let Reply::Hold(name) = reply {
            let name = self.world.name_for_thing(DAEMON, Some(name), 'h');
            self.world.bind(DAEMON, &name, Thing::Held);
            self.world.armed.push((name.clone(), opcode));
            (Times::Once, Reply::Hold(name))
        } else {
            (times, reply::repaired(&self.world, opcode, reply)?)
        };
        self.push(DAEMON, Verb::On { times, opcode, path, reply }, None);
        Some(())
    }

    fn answer(&mut self, held: &str, reply: &Reply) -> Option<()> {
        let at = self.world.armed.iter().position(|(name, _)| name == held)?;
        let (held, opcode) = self.world.armed.remove(at);
        let reply = reply::repaired(&self.world, opcode, reply).unwrap_or(Reply::Fields(Vec::new()));
        self.push(DAEMON, Verb::Answer { held, reply }, None);
        Some(())
    }

    fn answer_all(&mut self) {
        if self.world.is_paused {
            self.world.is_paused = false;
            let serve = Call { name: "serve".into(), args: Vec::new() };
            self.push(DAEMON, Verb::Call(serve), Some(outcome(Yields::Nothing, "")));
        }
        while let Some((held, _)) = self.world.armed.first() {
            let held = held.clone();
            self.answer(&held, &Reply::Fields(Vec::new()));
        }
    }

    fn wait(&mut self, actor: Actor, name: &str, bind: Option<&str>) -> Option<()> {
        let is_it = |call: &Running| call.actor == actor && call.name == name;
        let at = self.world.running.iter().position(is_it)?;
        let Running { yields, makes, .. } = self.world.running.remove(at);
        let expect = self.bind(actor, yields, makes, bind);
        self.push(actor, Verb::Await { name: name.to_string() }, Some(expect));
        Some(())
    }

    /// What was made has a name from here on.
    fn bind(&mut self, actor: Actor, yields: Yields, makes: Option<Thing>, wished: Option<&str>) -> Expect {
        let Some(thing) = makes else { return outcome(yields, "") };
        let letter = match thing {
            Thing::Fd { .. } => 'f',
            Thing::Id => 'b',
            Thing::Map { .. } => 'm',
            Thing::Pipe => 'p',
            Thing::Held => 'h',
        };
        let name = self.world.name_for_thing(actor, wished, letter);
        self.world.bind(actor, &name, thing);
        outcome(yields, &name)
    }

    fn call(&mut self, actor: Actor, call: &Call, start: Option<&str>, bind: Option<&str>) -> Option<()> {
        let signature = menu::performs(actor.side, &call.name)?;
        let is_app = actor.side == Side::App;
        if self.world.killed.contains(&actor) {
            return None;
        }
        if let Some(busy) = self.world.running.iter().find(|call| call.actor == actor) {
            let name = busy.name.clone();
            self.answer_all();
            self.wait(actor, &name, None);
        }
        let can_start = is_app && menu::can_start(&call.name);
        let may_wait = self.world.holds_up() || (self.world.answers_poll && menu::polls(&call.name));
        let must_start = is_app && may_wait;
        if must_start && !can_start {
            return None;
        }
        let call = self.arguments(actor, signature, call)?;
        let call = self.allowed(actor, call)?;
        let makes = self.world.made_by(actor, &call, signature.yields);
        self.world.after(actor, &call);
        if can_start && (must_start || start.is_some()) {
            let name = self.world.name_for_call(actor, start.unwrap_or_default());
            let yields = signature.yields;
            self.world.running.push(Running { actor, name: name.clone(), yields, makes });
            self.push(actor, Verb::Start { name, call }, None);
        } else {
            let expect = self.bind(actor, signature.yields, makes, bind);
            self.push(actor, Verb::Call(call), Some(expect));
        }
        Some(())
    }

    /// The call, if it can be made here.
    fn allowed(&self, actor: Actor, mut call: Call) -> Option<Call> {
        match call.name.as_str() {
            "abort" if self.world.is_aborted => return None,
            // Said twice it says nothing.
            "pause" if self.world.is_paused => return None,
            "serve" if !self.world.is_paused => return None,
            // Somebody would have to read all of it.
            "cat" if self.world.has_large => call.name = "stat".into(),
            // It waits for pages and folders that a request has locked.
            "send" if call.arg("unique").is_none() && self.world.holds_up() => {
                let code = call.int("error", 0);
                let is_free = self.world.armed.is_empty() && self.world.running.is_empty();
                let waits_not = WAIT_FOR_NOTHING.contains(&code) || (is_free && code == INVAL_ENTRY);
                if (1..10).contains(&code) && !waits_not {
                    return None;
                }
            }
            // Where a page cannot be read, populate_vma_page_range() tries for ever: no signal but SIGKILL ends that.
            "mmap" => clear(&mut call, "flags", menu::bit(flags::MAP, "MAP_POPULATE").into()),
            // On an end that does not wait, some kernels still do for want of this flag.
            "splice" if self.world.is_pipe(actor, call.arg("in")) => {
                let flag = i128::from(menu::bit(flags::SPLICE, "SPLICE_F_NONBLOCK"));
                set(&mut call, "flags", flag);
            }
            // io_uring waits on an end that does not wait, too.
            "uring_read" | "uring_write" if self.world.is_pipe(actor, call.arg("fd")) => return None,
            "setfl" if self.world.is_pipe(actor, call.arg("fd")) => {
                set(&mut call, "flags", menu::bit(flags::OPEN, "O_NONBLOCK").into());
            }
            _ => {}
        }
        Some(call)
    }
}

/// Take these bits from a call's parameter.
fn clear(call: &mut Call, param: &str, bits: i128) {
    if let Some((_, value)) = call.args.iter_mut().find(|(name, _)| name == param)
        && let Some(number) = value.int()
    {
        *value = Value::Int(number & !bits);
    }
}

/// Set these bits of a call's last parameter.
fn set(call: &mut Call, param: &str, bits: i128) {
    match call.args.iter_mut().find(|(name, _)| name == param) {
        Some((_, value)) => *value = Value::Int(value.int().unwrap_or_default() | bits),
        None => call.args.push((param.into(), Value::Int(bits))),
    }
}

impl Body {
    /// The call with arguments that mean something here; what it needs is opened before.
    fn arguments(&mut self, actor: Actor, signature: &Signature, given: &Call) -> Option<Call> {
        let mut call = Call { name: given.name.clone(), args: Vec::new() };
        for param in signature.params {
            let is_ours = param.need != Need::Keyword || menu::takes(&call.name, param.name);
            let value = given.arg(param.name).filter(|_| is_ours);
            // What a pipe must have is set behind a missing argument, too.
            let is_must = param.need == Need::Required || call.name == "pipe";
            if value.is_none() && !is_must {
                continue;
            }
            let value = self.argument(actor, &call, param, value)?;
            call.args.push((param.name.into(), value));
        }
        Some(call)
    }

    /// `call` has the arguments before this one.
    fn argument(&mut self, actor: Actor, call: &Call, param: &Param, value: Option<&Value>) -> Option<Value> {
        let number = value.and_then(Value::int).unwrap_or_default();
        let data = match value {
            Some(Value::Data(data)) => data.clone(),
            _ => Data::default(),
        };
        Some(match (param.kind, value) {
            (Kind::Path, Some(Value::Path(path))) => Value::Path(self.world.path(path)),
            (Kind::Path, _) => Value::Path(self.world.path("")),
            (Kind::Fd, _) => self.fd(actor, &call.name, value)?,
            (Kind::Map, _) => self.map(actor, value)?,
            (Kind::Number, Some(value @ Value::Name(..))) if call.name == "backing_close" => {
                reply::id(&self.world, value)
            }
            (Kind::Number, Some(value @ Value::Name(..)))
                if call.name == "send" && param.name == "unique" =>
            {
                reply::unique(&self.world, value)
            }
            (Kind::Number, _) => {
                let range = menu::range(&call.name, param.name);
                let most = self.room(actor, call).map_or(*range.end(), |room| room.min(*range.end()));
                Value::Int(number.clamp(*range.start(), most))
            }
            (Kind::Data, _) => Value::Data(match (call.name.as_str(), param.name) {
                ("getxattr" | "setxattr" | "removexattr", "name") => text(&data, "user.a"),
                ("symlink", _) => text(&data, "a"),
                ("store", _) => {
                    let room = self.room(actor, call).unwrap_or_default();
                    let mut data = bounded(&data);
                    data.0.truncate(usize::try_from(room).unwrap_or_default());
                    data
                }
                _ => bounded(&data),
            }),
            (Kind::Flags(set), _) => Value::Int(menu::flags(set, number)),
            (Kind::Actor, given) => self.waiting(given)?,
            (Kind::Word(known), Some(Value::Word(word))) if known.contains(&word.as_str()) => {
                Value::Word(word.clone())
            }
            (Kind::Word([mildest, ..]), _) if call.name == "signal" => Value::Word((*mildest).into()),
            (Kind::Fds | Kind::Aio | Kind::Name | Kind::Word(_), _) => return None,
        })
    }

    /// An actor with a call in progress: the one that is meant, or whose has been in progress for longest.
    fn waiting(&self, given: Option<&Value>) -> Option<Value> {
        let is_there = |call: &&Running| !self.world.killed.contains(&call.actor);
        let actors = self.world.running.iter().filter(is_there).map(|call| call.actor.to_string());
        let mut meant = actors.clone().filter(|actor| given == Some(&Value::Word(actor.clone())));
        meant.next().or_else(|| actors.clone().next()).map(Value::Word)
    }

    fn fd(&mut self, actor: Actor, call: &str, value: Option<&Value>) -> Option<Value> {
        let name = match value {
            Some(Value::Int(number)) if *number < 0 || *number >= NOBODYS => {
                return Some(Value::Int((*number).clamp(i32::MIN.into(), i32::MAX.into())));
            }
            Some(Value::Name(name, _)) => name.as_str(),
            _ => "",
        };
        match self.world.thing(actor, name) {
            // A closed one is good for being registered, and for nothing else: its number may be another's by now.
            Some(Thing::Fd { is_open, .. }) if is_open || call == "backing_open" => {
                return Some(Value::Name(name.into(), 0));
            }
            _ => {}
        }
        let wants_pipe = matches!(call, "tee" | "setpipe_sz");
        let is_like = |is_pipe: bool| {
            let fits = |thing| matches!(thing, Thing::Fd { is_open: true, is_pipe: is } if is == is_pipe);
            self.world.names(actor, fits).last().map(|name| (*name).to_string())
        };
        if let Some(name) = is_like(wants_pipe).or_else(|| is_like(!wants_pipe)) {
            return Some(Value::Name(name, 0));
        }
        // An application that has nothing open would have to wait for it.
        if actor.side == Side::App && self.world.holds_up() {
            return None;
        }
        let flags = menu::bit(flags::OPEN, "O_RDWR");
        let path = Value::Path(self.world.path(""));
        let args = vec![("path".into(), path), ("flags".into(), Value::Int(flags.into()))];
        let made = Thing::Fd { is_pipe: false, is_open: true };
        let expect = self.bind(actor, Yields::Named("fd"), Some(made), None);
        let name = expect.law.binds().map(|(_, name)| name.to_string())?;
        self.push(actor, Verb::Call(Call { name: "open".into(), args }), Some(expect));
        Some(Value::Name(name, 0))
    }

    fn map(&self, actor: Actor, value: Option<&Value>) -> Option<Value> {
        let (wished, offset) = match value {
            Some(Value::Name(name, offset)) => (name.as_str(), *offset),
            _ => ("", 0),
        };
        let maps = self.world.maps(actor);
        let name = maps.iter().find(|name| **name == wished).or(maps.last())?;
        let Some(Thing::Map { len }) = self.world.thing(actor, name) else { return None };
        let most = i64::try_from(len).unwrap_or_default();
        Some(Value::Name((*name).to_string(), offset.clamp(0, most)))
    }

    /// How much of a mapping a call may touch: what lies behind it is somebody else's.
    fn room(&self, actor: Actor, call: &Call) -> Option<i128> {
        let Some(Value::Name(name, offset)) = call.arg("map") else { return None };
        match self.world.thing(actor, name) {
            Some(Thing::Map { len }) => Some((len - i128::from(*offset)).max(0)),
            _ => None,
        }
    }
}

/// The actor that stands for this one; applications beyond the last are the first ones again.
fn actor(actor: Actor) -> Option<Actor> {
    match actor.side {
        Side::App => Some(app((actor.number.max(1) - 1) % APPS + 1)),
        Side::Daemon => (actor == DAEMON).then_some(DAEMON),
        Side::Host => Some(HOST),
    }
}

fn host(name: &str, args: Vec<(String, Value)>) -> Step {
    let call = Call { name: name.into(), args };
    step(HOST, Verb::Call(call), Some(outcome(Yields::Nothing, "")))
}

/// `host file "a" "hello"`.
pub(super) fn file(path: &str, data: &Data, mode: Option<&Value>) -> Step {
    let mut args =
        vec![("path".into(), Value::Path(path.into())), ("data".into(), Value::Data(bounded(data)))];
    if let Some(mode) = mode {
        let mode = menu::flags(flags::MODE, mode.int().unwrap_or_default());
        args.push(("mode".into(), Value::Int(mode)));
    }
    host("file", args)
}

/// A name in the root that means the same to everybody.
fn is_plain(name: &str) -> bool {
    const MOST: usize = 32;
    let is_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= MOST && name.chars().all(is_char) && !name.starts_with('.')
}

/// The lower file system that the step makes, if it is one of ours.
fn lower(step: &Step) -> Option<&str> {
    match &step.verb {
        Verb::Call(call) if call.name == "lower" => {
            menu::LOWER.into_iter().find(|kind| *kind == call.text("kind"))
        }
        _ => None,
    }
}

/// Does the daemon read and write its device by splice(2)?
fn is_spliced_mount(step: &Step) -> bool {
    matches!(&step.verb, Verb::Call(call) if call.name == "mount" && call.text("over") == SPLICE)
}

/// The rule for INIT, if the step is one that an arena can follow.
fn init(given: &Step) -> Option<Step> {
    let Verb::On { opcode: Opcode::INIT, reply: Reply::Fields(given), .. } = &given.verb else { return None };
    let over = menu::bit(flags::INIT2, "OVER_IO_URING") | menu::bit(flags::INIT2, "HAS_IO_URING_BUFPOOL");
    let mut fields: Vec<(String, Value)> = Vec::new();
    for (name, value) in given {
        let known = menu::INIT.iter().find(|(known, _)| known == name);
        if let (Some((_, range)), Some(number)) = (known, value.int())
            && fields.iter().all(|(other, _)| other != name)
        {
            let number = number.clamp(*range.start(), *range.end());
            let number = if name == "flags2" { number & !i128::from(over) } else { number };
            fields.push((name.clone(), Value::Int(number)));
        }
    }
    let reply = Reply::Fields(fields);
    let verb = Verb::On { times: Times::Once, opcode: Opcode::INIT, path: None, reply };
    Some(step(DAEMON, verb, None))
}
