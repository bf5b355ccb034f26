//! The daemon without a process: requests in, answers out, a log of both.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::super::device::{Device, Via};
use super::loopback::Loopback;
use super::message::{self, FieldValue, Message};
use super::nodes::Nodes;
use super::request::Request;
use crate::abi::Opcode;
use crate::program::{Reply, Times, Transport, Value};
use crate::protocol::{Answer, Traffic};

/// Room for the largest request: a WRITE of the loopback's maximum, or what a script negotiates.
const BUFFER: usize = (1 << 20) + (1 << 16);

/// What a daemon was told to do with a request that matches.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) times: Times,
    pub(crate) opcode: Opcode,
    pub(crate) path: Option<String>,
    pub(crate) reply: Reply,
    /// How the rule was written, for the message about one that nobody came for.
    pub(crate) text: String,
}

/// The daemon.
#[derive(Debug)]
pub(super) struct Engine<D> {
    number: u8,
    /// What carries requests and replies where the script says nothing.
    pub(super) transport: Transport,
    /// A ring was made: only with the process's end is it surely gone.
    pub(super) had_ring: bool,
    /// Devices of one connection: the first, then clones. A closed one leaves its place empty.
    pub(super) devices: Vec<Option<D>>,
    loopback: Loopback,
    rules: Vec<Rule>,
    held: BTreeMap<String, Request>,
    /// What was received since [`Engine::take_log`].
    log: Vec<Traffic>,
    /// Uniques of held requests: scripts can name them.
    pub(super) uniques: BTreeMap<String, i64>,
    /// A rule said `die`.
    pub(super) dead: bool,
    /// Devices are left alone.
    pub(super) paused: bool,
    /// Rules are heeded no more.
    has_given_up: bool,
    buffer: Vec<u8>,
}

impl<D: Device> Engine<D> {
    pub(super) fn new(number: u8, lower: PathBuf) -> Engine<D> {
        Engine {
            number,
            transport: Transport::Plain,
            had_ring: false,
            devices: Vec::new(),
            loopback: Loopback { root: lower, nodes: Nodes::new() },
            rules: Vec::new(),
            held: BTreeMap::new(),
            log: Vec::new(),
            uniques: BTreeMap::new(),
            dead: false,
            paused: false,
            has_given_up: false,
            buffer: vec![0; BUFFER],
        }
    }

    /// Be as good as new, with no device yet, over another folder. The buffer stays: to make one takes long.
    pub(super) fn serve(&mut self, lower: PathBuf, over: Transport) {
        self.devices.clear();
        self.transport = over;
        self.loopback.root = lower;
        self.had_ring = false;
        self.dead = false;
        self.forget();
    }

    /// Be as good as new, on the same devices.
    pub(super) fn forget(&mut self) {
        self.loopback.nodes = Nodes::new();
        self.rules.clear();
        self.held.clear();
        self.log.clear();
        self.uniques.clear();
        self.paused = false;
        self.has_given_up = false;
    }

    pub(super) fn add_rule(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub(super) fn take_log(&mut self) -> Vec<Traffic> {
        std::mem::take(&mut self.log)
    }

    /// Rules for one request that no request came for.
    pub(super) fn left_over(&self) -> Vec<String> {
        self.rules.iter().filter(|rule| rule.times == Times::Once).map(|rule| rule.text.clone()).collect()
    }

    /// Hold nothing by that name, whatever comes.
    pub(super) fn disarm(&mut self, name: &str) {
        self.rules.retain(|rule| !matches!(&rule.reply, Reply::Hold(held) if held == name));
    }

    /// Answer whatever is held with ENOTCONN, as an abort would where there is one, and be the loopback from here on.
    pub(super) fn give_up(&mut self) {
        self.paused = false;
        self.has_given_up = true;
        for (_, request) in std::mem::take(&mut self.held) {
            self.give(&request, message::bare(request.header.unique, nix::libc::ENOTCONN));
        }
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn is_held(&self, name: &str) -> bool {
        self.held.contains_key(name)
    }

    /// Serve what is pending on all devices, without waiting. Gives how many requests that were.
    pub(super) fn pump(&mut self, names: &dyn Fn(&str) -> Option<i64>) -> usize {
        let mut served = 0;
        for index in 0..self.devices.len() {
            while !self.dead && !self.paused {
                // Nothing pending, or no connection (any more): either way nothing to serve here.
                let Ok((request, over)) = self.receive(index) else { break };
                self.handle(request, over, names);
                served += 1;
            }
        }
        served
    }

    /// The next request of a device.
    pub(super) fn receive(&mut self, index: usize) -> io::Result<(Request, Transport)> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let got = self.device(index).and_then(|device| device.read(&mut buffer)).and_then(|(count, over)| {
            let request = Request::new(index, &buffer[..count]).ok_or(io::ErrorKind::InvalidData)?;
            Ok((request, over))
        });
        self.buffer = buffer;
        got
    }

    /// Read one device once, with a buffer of this length, and serve what came. Gives the length of that.
    pub(super) fn take(
        &mut self,
        index: usize,
        len: usize,
        names: &dyn Fn(&str) -> Option<i64>,
    ) -> io::Result<i64> {
        let mut buffer = vec![0; len];
        let (count, over) = self.device(index)?.read(&mut buffer)?;
        if let Some(request) = Request::new(index, &buffer[..count]) {
            self.handle(request, over, names);
        }
        Ok(count as i64)
    }

    pub(super) fn handle(&mut self, request: Request, over: Transport, names: &dyn Fn(&str) -> Option<i64>) {
        let path = request.path(&self.loopback.nodes);
        let mut traffic = Traffic::new(self.number, path, &request, over);
        if !request.opcode().has_no_reply() {
            let reply = self.rule_for(&request, &traffic.path);
            traffic.answer = self.carry_out(request, &reply, names).0;
        } else if over == Transport::IoUring {
            // No answer, but its entry goes back: until then the kernel waits, and so may the application.
            self.give(&request, message::bare(request.header.unique, 0));
        }
        self.log.push(traffic);
    }

    /// The script's reply for this request; one without fields is the loopback's own.
    fn rule_for(&mut self, request: &Request, path: &str) -> Reply {
        if self.has_given_up {
            return Reply::Fields(Vec::new());
        }
        let matches = |rule: &Rule| {
            rule.opcode == request.opcode() && rule.path.as_ref().is_none_or(|wanted| wanted == path)
        };
        if let Some(index) = self.rules.iter().position(|rule| rule.times == Times::Once && matches(rule)) {
            return self.rules.remove(index).reply;
        }
        let always = self.rules.iter().rev().find(|rule| matches(rule));
        always.map_or(Reply::Fields(Vec::new()), |rule| rule.reply.clone())
    }

    /// Deal with a held request. Gives the errno of write(2), 0 for success; `None` if nothing is held by that name.
    pub(super) fn answer_held(
        &mut self,
        name: &str,
        reply: &Reply,
        names: &dyn Fn(&str) -> Option<i64>,
    ) -> Option<i32> {
        let request = self.held.remove(name)?;
        let (_, message_result) = self.carry_out(request, reply, names);
        Some(message_result)
    }

    fn carry_out(
        &mut self,
        request: Request,
        reply: &Reply,
        names: &dyn Fn(&str) -> Option<i64>,
    ) -> (Answer, i32) {
        let unique = request.header.unique;
        match reply {
            Reply::Hold(name) => {
                self.uniques.insert(name.clone(), unique as i64);
                self.held.insert(name.clone(), request);
                (Answer::Held(name.clone()), 0)
            }
            Reply::Drop => (Answer::Dropped, 0),
            Reply::Die => {
                self.dead = true;
                (Answer::Died, 0)
            }
            Reply::Error(error) => {
                let errno = self.give(&request, message::bare(unique, *error));
                (Answer::Error { error: *error, errno }, errno)
            }
            Reply::Fields(fields) if fields.is_empty() => {
                let answered = self.loopback.answer(&request);
                let errno = self.give(&request, message::own(unique, &answered));
                let answer = match answered {
                    Ok(_) => Answer::Reply { fields: Vec::new(), errno },
                    Err(error) => Answer::Error { error, errno },
                };
                (answer, errno)
            }
            Reply::Fields(fields) | Reply::Claim(fields) => {
                let base = match reply {
                    Reply::Claim(_) => self.loopback.claim(&request),
                    _ => self.loopback.answer(&request),
                };
                let resolve = |value: &Value| resolve(value, unique, &self.uniques, names);
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| (name.clone(), resolve(value))).collect();
                let message = message::overridden(request.opcode(), unique, base, &fields);
                let errno = self.give(&request, message);
                let shown = fields.into_iter().filter_map(|(name, value)| match value {
                    FieldValue::Number(value) if name != "unique" => Some((name, value)),
                    FieldValue::Fds(fds) => Some((name, fds.len() as i128)),
                    _ => None,
                });
                (Answer::Reply { fields: shown.collect(), errno }, errno)
            }
        }
    }

    /// Give a request its answer. Gives the errno, 0 for success: the kernel took the whole message.
    fn give(&mut self, request: &Request, mut message: Message) -> i32 {
        let asks = self.transport == Transport::IoUring && request.opcode() == Opcode::INIT;
        let room = if asks { message::ask_for_ring(&mut message) } else { None };
        let given = self.device(request.device).and_then(|device| {
            let count = device.answer(request.header.unique, &message.bytes, message.via)?;
            room.map_or(Ok(()), |room| device.start_ring(room))?;
            Ok(count)
        });
        self.had_ring |= room.is_some();
        match given {
            Ok(count) if count == message.bytes.len() => 0,
            Ok(_) => Answer::IN_PART,
            // With this answer the ring comes to its end, which may overtake the return of the commit.
            Err(error)
                if self.had_ring
                    && request.opcode() == Opcode::DESTROY
                    && error.raw_os_error() == Some(nix::libc::ENOTCONN) =>
            {
                0
            }
            Err(error) => error.raw_os_error().unwrap_or(-1),
        }
    }

    /// Write to one of the devices.
    pub(super) fn send(&mut self, device: usize, bytes: &[u8], via: Via) -> io::Result<usize> {
        self.device(device)?.write(bytes, via)
    }

    fn device(&mut self, index: usize) -> io::Result<&mut D> {
        let device = self.devices.get_mut(index).and_then(Option::as_mut);
        device.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EBADF))
    }
}

fn resolve(
    value: &Value,
    unique: u64,
    uniques: &BTreeMap<String, i64>,
    names: &dyn Fn(&str) -> Option<i64>,
) -> FieldValue {
    match value {
        Value::Int(number) => FieldValue::Number(*number),
        // `same` is the request's own unique, for lies relative to it.
        Value::Name(name, offset) if name == "same" => {
            FieldValue::Number(i128::from(unique) + i128::from(*offset))
        }
        Value::Name(name, offset) => {
            let number = uniques.get(name).copied().or_else(|| names(name)).unwrap_or(0);
            FieldValue::Number(i128::from(number) + i128::from(*offset))
        }
        Value::Fds(fds) => FieldValue::Fds(descriptors(fds, names)),
        Value::Data(data) => FieldValue::Bytes(data.0.clone()),
        Value::Path(text) | Value::Word(text) => FieldValue::Word(text.clone()),
    }
}

/// Open files as descriptors; what could not be opened is a number that nothing has.
pub(super) fn descriptors(fds: &[Value], names: &dyn Fn(&str) -> Option<i64>) -> Vec<u32> {
    let descriptor = |fd: &Value| match fd {
        Value::Int(number) => *number as u32,
        Value::Name(name, _) => names(name).unwrap_or(-1) as u32,
        _ => u32::MAX,
    };
    fds.iter().map(descriptor).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::os::fd::BorrowedFd;

    use zerocopy::IntoBytes;

    use super::*;
    use crate::abi::{fuse_backing_map, fuse_in_header, fuse_init_in, fuse_open_in};

    /// A device without a kernel: requests are laid in, answers come to lie in `written`.
    #[derive(Debug, Default)]
    struct Fake {
        pending: VecDeque<Vec<u8>>,
        written: Vec<Vec<u8>>,
        /// How much of a message it takes, if not all.
        takes: Option<usize>,
        room: Option<usize>,
    }

    impl Device for Fake {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Transport)> {
            let request = self.pending.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
            buffer[..request.len()].copy_from_slice(&request);
            Ok((request.len(), Transport::Plain))
        }
        fn answer(&mut self, _: u64, message: &[u8], via: Option<Via>) -> io::Result<usize> {
            self.write(message, via.unwrap_or_default())
        }
        fn write(&mut self, message: &[u8], _: Via) -> io::Result<usize> {
            self.written.push(message.to_vec());
            Ok(self.takes.unwrap_or(message.len()))
        }
        fn backing_open(&mut self, _: fuse_backing_map) -> io::Result<i32> {
            Ok(1)
        }
        fn backing_close(&mut self, _: u32) -> io::Result<()> {
            Ok(())
        }
        fn another(&self, _: Transport) -> io::Result<Fake> {
            Ok(Fake::default())
        }
        fn start_ring(&mut self, room: usize) -> io::Result<()> {
            self.room = Some(room);
            Ok(())
        }
        fn waitables(&self) -> Vec<BorrowedFd<'_>> {
            Vec::new()
        }
    }

    fn request(opcode: Opcode, unique: u64, body: &[u8]) -> Vec<u8> {
        let header = fuse_in_header {
            len: (size_of::<fuse_in_header>() + body.len()) as u32,
            opcode: opcode.0,
            unique,
            nodeid: 1,
            ..fuse_in_header::default()
        };
        [header.as_bytes(), body].concat()
    }

    fn engine(lower: &std::path::Path, requests: &[Vec<u8>]) -> Engine<Fake> {
        let mut engine = Engine::new(1, lower.to_path_buf());
        engine.devices.push(Some(Fake { pending: requests.iter().cloned().collect(), ..Fake::default() }));
        engine
    }

    fn rule(times: Times, opcode: Opcode, path: Option<&str>, reply: Reply) -> Rule {
        Rule { times, opcode, path: path.map(str::to_string), reply, text: "as written".into() }
    }

    fn written(engine: &Engine<Fake>) -> &[Vec<u8>] {
        &engine.devices[0].as_ref().expect("it was not closed").written
    }

    #[test]
    fn a_lookup_is_answered_from_the_lower_directory() {
        let lower = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(lower.path().join("a"), "hello").expect("a file in it");
        let mut engine =
            engine(lower.path(), &[request(Opcode::LOOKUP, 4, b"a\0"), request(Opcode::LOOKUP, 6, b"b\0")]);
        assert_eq!(engine.pump(&|_| None), 2);
        let size = Opcode::LOOKUP.reply_field("size").expect("an entry has a size").0;
        assert_eq!(size.get(&written(&engine)[0][16..]), Some(5));
        assert_eq!(written(&engine)[1][4..8], (-nix::libc::ENOENT).to_le_bytes());
        let paths: Vec<_> = engine.take_log().into_iter().map(|traffic| traffic.path).collect();
        assert_eq!(paths, ["a", "b"]);
    }

    #[test]
    fn a_rule_for_one_request_goes_before_one_for_all_and_is_used_up() {
        let lower = tempfile::tempdir().expect("a temporary folder");
        let open = request(Opcode::OPEN, 8, fuse_open_in::default().as_bytes());
        let mut engine = engine(lower.path(), &[open.clone(), open]);
        engine.add_rule(rule(Times::Always, Opcode::OPEN, None, Reply::Error(13)));
        engine.add_rule(rule(Times::Once, Opcode::OPEN, Some(""), Reply::Error(5)));
        assert_eq!(engine.left_over(), ["as written"]);
        engine.pump(&|_| None);
        assert_eq!(written(&engine)[0][4..8], (-5_i32).to_le_bytes());
        assert_eq!(written(&engine)[1][4..8], (-13_i32).to_le_bytes());
        assert!(engine.left_over().is_empty());
    }

    #[test]
    fn a_held_request_is_answered_later_and_its_unique_has_a_name() {
        let lower = tempfile::tempdir().expect("a temporary folder");
        let mut engine =
            engine(lower.path(), &[request(Opcode::OPEN, 10, fuse_open_in::default().as_bytes())]);
        engine.add_rule(rule(Times::Once, Opcode::OPEN, None, Reply::Hold("h".into())));
        engine.pump(&|_| None);
        assert!(written(&engine).is_empty());
        assert_eq!(engine.uniques.get("h"), Some(&10));
        let fields =
            vec![("unique".to_string(), Value::Name("same".into(), 1)), ("cut".to_string(), Value::Int(16))];
        assert_eq!(engine.answer_held("h", &Reply::Fields(fields), &|_| None), Some(0));
        assert_eq!(written(&engine)[0], [16, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(engine.answer_held("h", &Reply::Drop, &|_| None), None);
    }

    #[test]
    fn a_reply_that_is_taken_in_part_is_not_taken() {
        let lower = tempfile::tempdir().expect("a temporary folder");
        let mut engine = engine(lower.path(), &[request(Opcode::LOOKUP, 4, b"a\0")]);
        engine.devices[0].as_mut().expect("it was not closed").takes = Some(15);
        engine.pump(&|_| None);
        let answer = engine.take_log().remove(0).answer;
        assert_eq!(answer, Answer::Error { error: nix::libc::ENOENT, errno: Answer::IN_PART });
    }

    #[test]
    fn over_io_uring_an_init_reply_asks_for_it_and_says_nothing_else_that_it_did_not_say() {
        let lower = tempfile::tempdir().expect("a temporary folder");
        let init = fuse_init_in { major: 7, minor: 46, ..fuse_init_in::default() };
        let mut engine = engine(lower.path(), &[request(Opcode::INIT, 2, init.as_bytes())]);
        engine.transport = Transport::IoUring;
        let fields = [("flags", 0), ("flags2", 1 << 5), ("max_write", 1 << 20)]
            .map(|(name, value)| (name.to_string(), Value::Int(value)));
        engine.add_rule(rule(Times::Once, Opcode::INIT, None, Reply::Fields(fields.to_vec())));
        engine.pump(&|_| None);
        let said = |name| {
            let field = Opcode::INIT.reply_field(name).expect("INIT's reply has it").0;
            field.get(&written(&engine)[0][16..])
        };
        assert_eq!(said("flags"), Some(1 << 30));
        assert_eq!(said("flags2"), Some(1 << 9), "PASSTHROUGH would not have counted without INIT_EXT");
        assert_eq!(engine.devices[0].as_ref().and_then(|device| device.room), Some(1 << 20));
        assert!(engine.had_ring);
    }

    #[test]
    fn a_truncated_request_is_no_request() {
        let lower = tempfile::tempdir().expect("a temporary folder");
        let mut whole = request(Opcode::LOOKUP, 4, b"a\0");
        whole.pop();
        let mut engine = engine(lower.path(), &[whole]);
        assert_eq!(engine.pump(&|_| None), 0);
        assert!(engine.take_log().is_empty());
    }
}
