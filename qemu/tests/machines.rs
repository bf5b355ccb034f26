//! Real machines in real QEMU: booted, saved, restored, and lost in every way there is. The test's own program is PID 1
//! of its guests, which do as the first word of a message says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use qemu::black_box::BlackBox;
use qemu::cache::Cache;
use qemu::console::Kind;
use qemu::guest;
use qemu::kernel::{self, Kernel};
use qemu::link::Link;
use qemu::machine::{Error, Lost, Machine, Setup, Template};
use qemu::progress::Quiet;

const HELLO: &[u8] = b"hello from the test's guest";
const MODULES: [&str; 2] = ["virtio_pci", "virtio_console"];
/// Time enough for an answer of a guest that is well.
const ANSWER: Duration = Duration::from_secs(20);
/// Set in the process that `kill_9_of_us` kills.
const TO_BE_KILLED: &str = "MACHINES_TEST_TO_BE_KILLED";

static CACHE: LazyLock<Cache> = LazyLock::new(|| Cache::open().expect("the cache folder opens"));
static KERNEL: LazyLock<Kernel> = LazyLock::new(|| {
    let spec = kernel::default_row().name.parse().expect("the default row is a kernel");
    kernel::resolve(&spec, &CACHE, &mut Quiet).expect("the default kernel is at hand")
});
static TEMPLATE: LazyLock<Template> = LazyLock::new(|| prepare(&KERNEL).expect("the default kernel boots"));

fn main() {
    if guest::is_guest_init() {
        be_the_guest();
    }
    if std::env::var_os(TO_BE_KILLED).is_some() {
        run_until_killed();
    }
    let tests: [(&str, fn()); 13] = [
        ("the_hello_is_kept_and_messages_come_back", the_hello_is_kept_and_messages_come_back),
        ("large_messages_pass_both_ways", large_messages_pass_both_ways),
        (
            "two_machines_of_a_template_do_not_see_each_other",
            two_machines_of_a_template_do_not_see_each_other,
        ),
        ("a_panic_is_told_with_the_kernels_words", a_panic_is_told_with_the_kernels_words),
        ("what_the_guest_wrote_last_outlives_it", what_the_guest_wrote_last_outlives_it),
        ("the_end_of_pid_1_is_a_panic", the_end_of_pid_1_is_a_panic),
        ("a_machine_that_powers_off_has_exited", a_machine_that_powers_off_has_exited),
        (
            "a_hang_is_silence_and_the_console_ends_with_stacks",
            a_hang_is_silence_and_the_console_ends_with_stacks,
        ),
        ("what_is_no_frame_is_told_from_silence", what_is_no_frame_is_told_from_silence),
        ("a_flood_of_messages_or_console_text_is_bounded", a_flood_of_messages_or_console_text_is_bounded),
        ("a_guest_that_takes_nothing_is_silent", a_guest_that_takes_nothing_is_silent),
        ("kill_9_of_us_leaves_no_qemu", kill_9_of_us_leaves_no_qemu),
        ("what_is_no_kernel_fails_with_its_path", what_is_no_kernel_fails_with_its_path),
    ];
    let trials = tests
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok::<(), Failed>(())
            })
        })
        .into();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

// The guest.

fn be_the_guest() -> ! {
    let port = match guest::start() {
        Ok(port) => port,
        Err(error) => {
            eprintln!("guest: {error}");
            guest::power_off()
        }
    };
    let raw = port.try_clone().expect("a port can be cloned");
    let mut link = Link::new(port, Duration::MAX);
    link.send(HELLO).expect("the host takes the hello");
    loop {
        let message = link.receive(Duration::MAX).expect("the host sends messages");
        let (order, rest) =
            message.split_at(message.iter().position(|&b| b == b' ').unwrap_or(message.len()));
        match order {
            b"echo" => link.send(rest).expect("the host takes an echo"),
            b"write" => std::fs::write("/tmp/note", rest).expect("/tmp is writable"),
            b"read" => {
                link.send(&std::fs::read("/tmp/note").unwrap_or_default()).expect("the host takes a note")
            }
            b"box" => {
                let mut black_box = BlackBox::of_guest().expect("a machine has a black box");
                black_box.write(b"before the last");
                black_box.write(b"the last");
                std::fs::write("/proc/sysrq-trigger", "c").expect("sysrq is there");
            }
            b"panic" => std::fs::write("/proc/sysrq-trigger", "c").expect("sysrq is there"),
            b"exit" => std::process::exit(3),
            b"off" => guest::power_off(),
            b"hang" => loop {
                std::thread::park();
            },
            b"babble" => (&raw).write_all(b"this is no frame").expect("the host reads"),
            b"flood" => loop {
                link.send(&[7; 100_000]).expect("the host reads");
            },
            b"print" => loop {
                println!("{}", "all work and no play ".repeat(100));
            },
            _ => eprintln!("guest: what is {:?}?", String::from_utf8_lossy(order)),
        }
    }
}

// The host.

fn prepare(kernel: &Kernel) -> Result<Template, Error> {
    let program = std::env::current_exe().expect("a test has a path");
    let setup = Setup {
        kernel,
        program: &program,
        files: &[],
        modules: &MODULES,
        memory_mib: 256,
        cmdline_extra: "",
    };
    Template::prepare(&setup, &CACHE, &mut Quiet)
}

fn start() -> Machine {
    TEMPLATE.start().expect("a saved machine starts")
}

fn ask(machine: &mut Machine, message: &[u8]) -> Vec<u8> {
    machine.send(message).expect("the guest takes a message");
    machine.receive(ANSWER).expect("the guest answers")
}

/// How a fresh machine is lost after `order`, and that it was known soon enough.
fn lost_by(order: &[u8], within: Duration) -> Lost {
    let mut machine = start();
    machine.send(order).expect("the guest takes a message");
    let start = Instant::now();
    let lost = machine.receive(within).expect_err("this guest is to be lost");
    assert!(start.elapsed() < within + Duration::from_secs(15), "it took {:?}", start.elapsed());
    lost
}

fn the_hello_is_kept_and_messages_come_back() {
    assert_eq!(TEMPLATE.hello(), HELLO);
    let again = prepare(&KERNEL).expect("a saved machine is found");
    assert_eq!((again.hello(), again.booted()), (HELLO, None));
    let mut machine = again.start().expect("a saved machine starts");
    for message in ["one", "", "three"] {
        assert_eq!(
            ask(&mut machine, format!("echo{message}").replace("echo", "echo ").as_bytes()),
            format!(" {message}").as_bytes()
        );
    }
    assert_eq!(machine.splats(), []);
}

fn large_messages_pass_both_ways() {
    let mut machine = start();
    let message = [b"echo ".as_slice(), &vec![b'x'; 4 << 20]].concat();
    assert!(ask(&mut machine, &message) == message[4..]);
}

fn two_machines_of_a_template_do_not_see_each_other() {
    let (mut one, mut two) = (start(), start());
    one.send(b"write one").expect("the guest takes a message");
    two.send(b"write two").expect("the guest takes a message");
    assert_eq!(ask(&mut one, b"read"), b" one");
    assert_eq!(ask(&mut two, b"read"), b" two");
    drop((one, two));
    assert_eq!(ask(&mut start(), b"read"), b"", "the template is as it was");
}

fn a_panic_is_told_with_the_kernels_words() {
    let mut machine = start();
    machine.send(b"panic").expect("the guest takes a message");
    let lost = machine.receive(ANSWER).expect_err("a panic ends the machine");
    let Lost::Panicked { line, console } = &lost else { panic!("{lost}") };
    assert!(line.starts_with("Kernel panic - not syncing"), "{line}");
    assert!(console.contains("sysrq"), "{console}");
    assert!(machine.splats().iter().any(|splat| splat.kind == Kind::Panic));
}

fn what_the_guest_wrote_last_outlives_it() {
    let mut machine = start();
    machine.add_black_box().expect("QEMU has one");
    assert_eq!(machine.black_box(), b"");
    machine.send(b"box").expect("the guest takes a message");
    let lost = machine.receive(ANSWER).expect_err("a panic ends the machine");
    assert!(matches!(lost, Lost::Panicked { .. }), "{lost}");
    assert_eq!(machine.black_box(), b"the last");
    assert_eq!(start().black_box(), b"", "each has its own");
}

fn the_end_of_pid_1_is_a_panic() {
    let lost = lost_by(b"exit", ANSWER);
    let Lost::Panicked { line, .. } = &lost else { panic!("{lost}") };
    assert!(line.contains("Attempted to kill init"), "{line}");
}

fn a_machine_that_powers_off_has_exited() {
    let lost = lost_by(b"off", ANSWER);
    let Lost::Exited { status: Some(status), .. } = &lost else { panic!("{lost}") };
    assert!(status.success(), "{status}");
}

fn a_hang_is_silence_and_the_console_ends_with_stacks() {
    let lost = lost_by(b"hang", Duration::from_secs(1));
    let Lost::Silent { console, .. } = &lost else { panic!("{lost}") };
    assert!(console.contains("Show Blocked State"), "{console}");
}

fn what_is_no_frame_is_told_from_silence() {
    let lost = lost_by(b"babble", ANSWER);
    let Lost::BrokenFrame { reason, .. } = &lost else { panic!("{lost}") };
    assert!(reason.contains("starts with"), "{reason}");
}

fn a_flood_of_messages_or_console_text_is_bounded() {
    let mut machine = start();
    machine.send(b"flood").expect("the guest takes a message");
    assert_eq!(machine.receive(ANSWER).expect("a flood begins with a message").len(), 100_000);
    std::thread::sleep(Duration::from_secs(1));
    drop(machine);

    let lost = lost_by(b"print", Duration::from_secs(3));
    assert!(matches!(lost, Lost::Silent { .. }), "{lost}");
    let length = lost.console().len();
    assert!((1000..=256 << 10).contains(&length), "{length} bytes of console");
    assert!(own_memory_mib() < 300, "{} MiB", own_memory_mib());
}

fn a_guest_that_takes_nothing_is_silent() {
    let mut machine = start();
    machine.send(b"hang").expect("the guest takes a message");
    let lost = machine.send(&vec![0; 8 << 20]).expect_err("nobody takes this message");
    assert!(matches!(lost, Lost::Silent { .. }), "{lost}");
}

fn kill_9_of_us_leaves_no_qemu() {
    LazyLock::force(&TEMPLATE);
    let mut child = Command::new(std::env::current_exe().expect("a test has a path"))
        .env(TO_BE_KILLED, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test starts itself");
    let mut line = String::new();
    let told = BufReader::new(child.stdout.take().expect("it was piped")).read_line(&mut line);
    // Empty for a process that is gone, also if nobody has reaped it yet.
    let arguments = PathBuf::from("/proc").join(line.trim()).join("cmdline");
    let runs = || std::fs::read_to_string(&arguments).is_ok_and(|text| text.contains("virtserialport"));
    let ran = runs();
    // Before anything is asserted: a test that fails must leave nothing behind either.
    child.kill().expect("it can be killed");
    child.wait().expect("it can be reaped");
    assert!(told.is_ok() && ran, "process {line:?} was to be a running QEMU");

    let start = Instant::now();
    while runs() {
        assert!(start.elapsed() < ANSWER, "QEMU outlives us");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ask(&mut start_again(), b"echo"), b"", "the next run works as ever");
}

fn start_again() -> Machine {
    prepare(&KERNEL).and_then(|template| template.start()).expect("a saved machine starts")
}

/// Hold a machine, tell its QEMU's pid, and wait for the end.
fn run_until_killed() -> ! {
    let _machine = start();
    let us = std::process::id();
    let children = std::fs::read_dir("/proc/self/task").expect("/proc is there").flatten().find_map(|task| {
        let pids = std::fs::read_to_string(task.path().join("children")).ok()?;
        pids.split_whitespace().next().map(str::to_owned)
    });
    println!("{}", children.unwrap_or_else(|| panic!("process {us} has a QEMU")));
    loop {
        std::thread::park();
    }
}

fn what_is_no_kernel_fails_with_its_path() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("not-a-kernel");
    std::fs::write(&image, [0; 4096]).expect("it can be written");
    let kernel =
        Kernel { image: image.clone(), name: "not-a-kernel".into(), digest: String::new(), ..KERNEL.clone() };
    let error = prepare(&kernel).expect_err("this does not boot").to_string();
    let image = image.display().to_string();
    assert!(error.contains(&image) && error.contains("too old"), "{error}");
}

/// Our resident memory.
fn own_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is there");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it tells our size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") / 1024
}
