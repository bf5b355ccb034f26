//! Every way a run can go wrong: the exit code, the one message that says what to do, and that nothing is left behind.
//!
//! The program is run as people run it, in a folder of its own with cases written for the purpose; what they know of FUSE is
//! as little as possible. After each run there must be no process, no mount and no temporary folder of it: [`Desk`] sees to
//! that for every test.

mod desk;
mod ring;

use std::fs;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use qemu::cache::Cache;
use qemu::kernel::{self, KernelSpec};
use qemu::progress::Quiet;
use serde_json::Value;

use desk::Desk;

/// What a test needs.
#[derive(Clone, Copy)]
enum Needs {
    /// The program alone.
    Nothing,
    /// Mounting.
    Root,
    /// A machine of the default kernel.
    Machine,
    /// Both.
    RootAndMachine,
}

const TESTS: [(&str, Needs, fn()); 36] = [
    ("usage/a_mistake_in_a_case_is_located", Needs::Nothing, a_mistake_in_a_case_is_located),
    ("usage/a_selection_of_nothing", Needs::Nothing, a_selection_of_nothing),
    ("usage/an_unknown_option", Needs::Nothing, an_unknown_option),
    ("usage/an_unknown_kernel_name", Needs::Nothing, an_unknown_kernel_name),
    ("usage/a_report_of_an_unknown_kind", Needs::Nothing, a_report_of_an_unknown_kind),
    ("usage/a_deviation_of_an_unknown_case", Needs::Nothing, a_deviation_of_an_unknown_case),
    ("usage/a_folder_that_is_no_saved_run", Needs::Nothing, a_folder_that_is_no_saved_run),
    ("usage/a_folder_with_something_else", Needs::Nothing, a_folder_with_something_else),
    ("usage/list_runs_nothing", Needs::Nothing, list_runs_nothing),
    ("trouble/a_path_that_is_no_kernel", Needs::Nothing, a_path_that_is_no_kernel),
    ("trouble/a_path_with_nothing_there", Needs::Nothing, a_path_with_nothing_there),
    ("trouble/a_corrupt_package", Needs::Nothing, a_corrupt_package),
    ("trouble/the_running_kernel_without_root", Needs::Nothing, the_running_kernel_without_root),
    ("trouble/one_kernel_of_two", Needs::Machine, one_kernel_of_two),
    ("trouble/a_full_disk", Needs::RootAndMachine, a_full_disk),
    ("deviation/a_wrong_expectation", Needs::Machine, a_wrong_expectation),
    ("deviation/a_known_one_is_expected", Needs::Machine, a_known_one_is_expected),
    ("deviation/the_failure_that_the_readme_shows", Needs::Machine, the_failure_that_the_readme_shows),
    ("deviation/a_lying_daemon", Needs::Machine, a_lying_daemon),
    ("deviation/a_release_that_was_not_expected", Needs::Machine, a_release_that_was_not_expected),
    ("deviation/a_reply_left_over", Needs::Machine, a_reply_left_over),
    ("deviation/a_file_still_held", Needs::Machine, a_file_still_held),
    ("deviation/a_complaint_of_the_kernel", Needs::Machine, a_complaint_of_the_kernel),
    ("deviation/a_call_that_hangs", Needs::Machine, a_call_that_hangs),
    ("lost/a_guest_that_panics", Needs::Machine, a_guest_that_panics),
    ("lost/a_guest_that_hangs", Needs::Machine, a_guest_that_hangs),
    ("lost/a_guest_that_goes_silent", Needs::Machine, a_guest_that_goes_silent),
    ("end/ctrl_c_finishes_the_case_in_progress", Needs::Machine, ctrl_c_finishes_the_case_in_progress),
    ("end/a_second_ctrl_c_leaves_at_once", Needs::Machine, a_second_ctrl_c_leaves_at_once),
    (
        "end/ctrl_c_leaves_nothing_on_the_running_kernel",
        Needs::Root,
        ctrl_c_leaves_nothing_on_the_running_kernel,
    ),
    ("end/kill_9_leaves_nothing", Needs::Machine, kill_9_leaves_nothing),
    (
        "end/kill_9_leaves_nothing_on_the_running_kernel",
        Needs::Root,
        kill_9_leaves_nothing_on_the_running_kernel,
    ),
    (
        "report/the_summary_counts_skips_with_their_reason",
        Needs::Machine,
        skips_are_counted_with_their_reason,
    ),
    ("report/kernels_list_shows_what_was_probed", Needs::Machine, kernels_list_shows_what_was_probed),
    ("report/saved_runs_are_compared", Needs::Machine, saved_runs_are_compared),
    ("report/json_has_every_field", Needs::Machine, json_has_every_field),
];

fn main() {
    let arguments = Arguments::from_args();
    let machine = if arguments.list { None } else { no_machine() };
    let root = (!nix::unistd::geteuid().is_root()).then(|| "mounting needs root".to_string());
    let trials = TESTS.map(|(name, needs, test)| {
        let missing = match needs {
            Needs::Nothing => None,
            Needs::Root => root.clone(),
            Needs::Machine => machine.clone(),
            Needs::RootAndMachine => root.clone().or_else(|| machine.clone()),
        };
        ring::trial(name, missing, move || {
            test();
            Ok(())
        })
    });
    ring::run(&arguments, Vec::<Trial>::from(trials), String::new);
}

/// Why there is no machine. If there is one it is booted and saved here, so that tests which look at a running QEMU see one
/// that runs a case.
fn no_machine() -> Option<String> {
    let cache = Cache::open().unwrap_or_else(|error| panic!("{error}"));
    let missing = ring::no_machine(&kernel::default_row().name, &cache);
    if missing.is_none() {
        let desk = Desk::new();
        desk.case("good", GOOD);
        desk.run(&["run"]).ends(0);
    }
    missing
}

// Cases. `use mount/passthrough` is the project's own: a loopback over a file "a" with "hello".

const GOOD: &str = r#"# A file can be read through the mount.
rules  DATA-00
use    mount/passthrough

app    open "a" O_RDONLY -> fd f
app    read f 5 -> "hello"
"#;

const WRONG: &str = r#"# A file holds another word.
rules  DATA-00
use    mount/passthrough

app    open "a" O_RDONLY -> fd f
app    read f 5 -> "world"
"#;

/// Takes about three seconds, and passes.
fn slow() -> String {
    let steps = "app    blocks r\n".repeat(200);
    format!(
        "# An open waits for its answer.\nrules  DATA-00\nuse    mount/passthrough\n\n\
         daemon on LOOKUP \"a\": hold h\napp    start r: open \"a\" O_RDONLY\n{steps}\
         daemon answer h: reply\napp    await r -> fd f\n"
    )
}

/// The same, with an ext4 lower file system beside it.
fn slow_on_ext4() -> String {
    slow().replacen("\n\n", "\n\nhost   lower ext4 at=lower2\n", 1)
}

const HANGS: &str = r#"# A read returns.
rules  DATA-00
use    mount/passthrough

daemon on READ: drop
app    open "a" O_RDONLY -> fd f
app    read f 5 -> "hello"
"#;

// The command line and the case files: exit code 2.

fn a_mistake_in_a_case_is_located() {
    let desk = Desk::new();
    desk.case("folder/good", GOOD);
    desk.case("folder/bad", &GOOD.replace("read f 5", "raed f 5"));
    let run = desk.run(&["run"]).ends(2);
    run.says(&["[folder/bad.case:6:8]", "unknown", "`raed`", "nearest is `read`"]);
}

fn a_selection_of_nothing() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    for arguments in [&["run", "no-such-case"][..], &["run", "--rule", "OPEN"]] {
        desk.run(arguments).ends(2).says(&["no case below cases fits", "fuseproof run --list"]);
    }
}

fn an_unknown_option() {
    Desk::new().run(&["run", "--kernal", "6.12"]).ends(2).says(&["--kernal", "--kernel"]);
}

/// A name is part of the command line: nothing has been tried yet.
fn an_unknown_kernel_name() {
    let desk = Desk::new();
    let run = desk.run(&["run", "--kernel", "6.21"]).ends(2);
    run.says(&["no kernel called 6.21", "near it: 6.1", "fuseproof kernels list"]);
}

fn a_report_of_an_unknown_kind() {
    Desk::new().run(&["run", "--report", "yaml=x"]).ends(2).says(&["expected json=PATH"]);
}

fn a_folder_that_is_no_saved_run() {
    Desk::new()
        .run(&["diff", "here", "there"])
        .ends(2)
        .says(&["here is no saved run", "fuseproof run --save"]);
}

/// It is not emptied.
fn a_folder_with_something_else() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    desk.run(&["run", "--save", "cases"]).ends(2).says(&["cases holds something", "name another folder"]);
    assert!(desk.path("cases/good.case").exists());
}

fn a_deviation_of_an_unknown_case() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    desk.file("cases/deviations.toml", deviation("bad").as_bytes());
    desk.run(&["run"]).ends(2).says(&[
        "deviations.toml",
        "no case bad",
        "6.12",
        "mend the name or remove the row",
    ]);
}

fn list_runs_nothing() {
    let desk = Desk::new();
    desk.case("b", GOOD);
    desk.case("a", &axis(WRONG));
    let run = desk.run(&["run", "--list", "--kernel", "/no/such/kernel"]).ends(0);
    let names: Vec<_> = run.out.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["a[mode=O_RDONLY]", "a[mode=O_RDWR]", "b"]);
    assert!(run.out.contains("A file can be read through the mount."), "{}", run.out);
}

/// The same case with an axis.
fn axis(case: &str) -> String {
    case.replace("use ", "axis   mode = O_RDONLY O_RDWR\nuse ").replace("O_RDONLY ->", "$mode ->")
}

// This computer, the kernel: exit code 3.

fn a_path_that_is_no_kernel() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    let path = desk.file("letter.txt", b"Dear kernel, ...");
    desk.run(&["run", "--kernel", &path]).ends(3).says(&[&path, "is not a kernel: give a bzImage"]);
}

fn a_path_with_nothing_there() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    desk.run(&["run", "--kernel", "./nothing"]).ends(3).says(&["nothing at ./nothing", "check the spelling"]);
}

fn a_corrupt_package() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    let head = b"!<arch>\ndebian-binary   1342943816  0     0     100644  4         `\n2.0\n";
    let path = desk.file("linux.deb", &[head.as_slice(), &[0; 99]].concat());
    desk.run(&["run", "--kernel", &path]).ends(3).says(&[&path, "is corrupt", "fetch it again"]);
}

fn the_running_kernel_without_root() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    let run = desk.run_without_root(&["run", "--kernel", "host"]).ends(3);
    run.says(&["--kernel host", "needs root", "sudo"]);
}

/// The other one is judged all the same.
fn one_kernel_of_two() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    let run = desk.run(&["run", "--kernel", "./nothing", "--kernel", "6.12"]).ends(3);
    run.says(&["./nothing: there is nothing at ./nothing", "not every case was run"]);
    run.shows(&["./nothing: 0 passed, 1 not run\n", "): 1 passed\n"]);
}

fn a_full_disk() {
    let cache = Cache::open().expect("the cache folder opens");
    let spec = KernelSpec::Catalogue(kernel::default_row().name.clone());
    let image = kernel::resolve(&spec, &cache, &mut Quiet).expect("the default kernel is at hand").image;

    let desk = Desk::new();
    desk.case("good", GOOD);
    let full = desk.folder("full");
    mount(Some("small"), &full, Some("tmpfs"), MsFlags::empty(), Some("size=2M")).expect("a tmpfs");
    let image = image.to_string_lossy();
    let run = desk.run_with(&["run", "--kernel", &image], |command| {
        command.env("FUSEPROOF_CACHE", &full);
    });
    let left: Vec<_> =
        fs::read_dir(&full).expect("it is there").flatten().map(|item| item.file_name()).collect();
    umount(&full).expect("nothing holds it");
    run.ends(3).says(&["no space left on the device for", "FUSEPROOF_CACHE"]);
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".partial")), "{left:?}");
}

// A deviation: exit code 1.

fn a_wrong_expectation() {
    let desk = Desk::new();
    desk.case("wrong", WRONG);
    desk.case("good", GOOD);
    let run = desk.run(&["run"]).ends(1);
    insta::assert_snapshot!(run.failures(), @r#"
    FAILED wrong on 6.12
      A file holds another word.
      cases/wrong.case:6
        app    read f 5 -> "world"
      expected "world", got "hello"
      what happened (`>` is a request to the daemon):
        host   lower tmpfs -> ok
        host   file "a" "hello" -> ok
        daemon on INIT: reply flags=INIT_EXT flags2=PASSTHROUGH max_stack_depth=1
        daemon mount -> ok
            > INIT = ok flags=INIT_EXT flags2=PASSTHROUGH max_stack_depth=1
        app    open "a" O_RDONLY -> fd f
            > LOOKUP "a" = ok
            > OPEN "a" = ok
        app    read f 5 -> "hello"
            > READ "a" fh=1 size=4096 = ok
        end
            > FLUSH "a" fh=1 = ok
            > RELEASE "a" fh=1 = ok
      rules: DATA-00
      again: cargo run --release -- run --kernel 6.12 'wrong'
    "#);
    assert!(run.out.contains(": 1 passed, 1 failed\n"), "{}", run.out);
}

/// A row of the table of deviations.
fn deviation(case: &str) -> String {
    format!(
        "[[deviation]]\nkernels = [\"6.12\"]\ncase = \"{case}\"\nfailure = 'expected \"world\", got \"hello\"'\n\
         reason = \"it is not the world\"\nsource = \"a commit\"\n"
    )
}

/// It is counted with its reason, and a row that is not needed any more is a failure.
fn a_known_one_is_expected() {
    let desk = Desk::new();
    desk.case("wrong", WRONG);
    desk.case("good", GOOD);
    desk.file("cases/deviations.toml", deviation("wrong").as_bytes());
    let run = desk.run(&["run"]).ends(0);
    assert!(run.out.contains(": 1 passed, 1 deviated as expected\n"), "{}", run.out);
    assert!(run.out.contains("  1 deviated: it is not the world (a commit)\n"), "{}", run.out);
    desk.file("cases/deviations.toml", deviation("wrong").replace("hello", "hallo").as_bytes());
    desk.run(&["run"]).ends(1);
    desk.file("cases/deviations.toml", deviation("good").as_bytes());
    let run = desk.run(&["run", "good"]).ends(1);
    assert!(run.out.contains("FAILED good on 6.12"), "{}", run.out);
    assert!(run.out.contains("remove the row"), "{}", run.out);
}

/// The README's case, run by the README's command.
fn the_failure_that_the_readme_shows() {
    let readme = fs::read_to_string(ring::cases_dir().join("../README.md")).expect("the README");
    let block = |language: &str| {
        let rest = readme.split_once(&format!("```{language}\n")).expect("a block").1;
        rest.split("```").next().expect("its end")
    };
    let desk = Desk::new();
    desk.case("open_reply/an-id-never-given", block("case"));
    let run = desk.run(&["run"]).ends(1);
    assert_eq!(run.failures().trim_end(), block("text").trim_end());
}

fn a_lying_daemon() {
    let desk = Desk::new();
    desk.case("lie", &GOOD.replace("\n\n", "\n\ndaemon on READ: reply data=\"liar!\"\n"));
    let run = desk.run(&["run"]).ends(1);
    run.shows(&["cases/lie.case:7", "expected \"hello\", got \"liar!\"", "> READ \"a\" fh=1"]);
}

/// What a daemon saw is judged, too: here it did not see what the case says.
fn a_release_that_was_not_expected() {
    let desk = Desk::new();
    desk.case("saw", &format!("{GOOD}app    close f\ndaemon saw OPEN \"a\", READ \"a\", FLUSH \"a\"\n"));
    let run = desk.run(&["run"]).ends(1);
    run.shows(&["cases/saw.case:8", "RELEASE \"a\""]);
}

fn a_reply_left_over() {
    let desk = Desk::new();
    desk.case("left", &GOOD.replace("\n\n", "\n\ndaemon on WRITE \"a\": error ENOSPC\n"));
    let run = desk.run(&["run"]).ends(1);
    run.shows(&["cases/left.case:1", "a scripted reply was never used: daemon on WRITE \"a\": error ENOSPC"]);
}

/// A daemon that has a file of its own mount open keeps the mount from going, and is named.
fn a_file_still_held() {
    let desk = Desk::new();
    desk.case("a-held", &format!("{GOOD}daemon take app f -> fd g\n"));
    desk.case("b-good", GOOD);
    let run = desk.run(&["run", "--jobs", "1"]).ends(1);
    let held = "something is left behind: mnt cannot be unmounted (EBUSY: Device or resource busy): process daemon has 1 open";
    run.shows(&["cases/a-held.case:1", held]);
    assert!(run.out.contains(": 1 passed, 1 failed\n"), "{}", run.out);
}

fn a_complaint_of_the_kernel() {
    let desk = Desk::new();
    let steps =
        "host   open \"/dev/kmsg\" O_WRONLY -> fd k\nhost   write k \"<4>WARNING: made up\\n\" -> 20\n";
    desk.case("loud", &format!("{GOOD}{steps}"));
    desk.run(&["run"]).ends(1).shows(&["the kernel complained: WARNING: made up", "kernel log:"]);
}

fn a_call_that_hangs() {
    let desk = Desk::new();
    desk.case("a-hangs", HANGS);
    desk.case("b-good", GOOD);
    let run = desk.run(&["run", "--jobs", "1"]).ends(1);
    run.shows(&[
        "cases/a-hangs.case:7",
        "expected \"hello\", got did not return",
        "> READ \"a\" fh=1 size=4096 = dropped",
    ]);
    assert!(run.out.contains(": 1 passed, 1 failed\n"), "{}", run.out);
    assert!(run.took < Duration::from_secs(40), "{:?}", run.took);
}

// A lost machine: exit code 3, as nothing is known about the case.

fn a_guest_that_panics() {
    let desk = Desk::new();
    let steps = "host   open \"/proc/sysrq-trigger\" O_WRONLY -> fd s\nhost   write s \"c\" -> 1\n";
    desk.case("a-panics", &format!("{GOOD}{steps}"));
    desk.case("b-good", GOOD);
    let run = desk.run(&["run", "--jobs", "1"]).ends(3);
    run.shows(&[
        "LOST a-panics",
        "the guest's kernel panicked (Kernel panic - not syncing: sysrq triggered crash)",
        "host   open \"/proc/sysrq-trigger\" O_WRONLY -> fd s",
        "sysrq_handle_crash",
    ]);
    run.says(&["not every case was run to its end"]);
    assert!(run.out.contains(": 1 passed, 1 lost with their machine\n"), "{}", run.out);
}

/// Takes as long as an agent may be silent, as the next one does.
fn a_guest_that_hangs() {
    let desk = Desk::new();
    let steps = "host   open \"/sys/power/state\" O_WRONLY -> fd s\nhost   write s \"freeze\" -> 6\n";
    desk.case("a-hangs", &format!("{GOOD}{steps}"));
    desk.case("b-good", GOOD);
    let run = desk.run(&["run", "--jobs", "1"]).ends(3);
    run.shows(&["LOST a-hangs", "the guest said nothing for 45s"]);
    assert!(run.out.contains(": 1 passed, 1 lost with their machine\n"), "{}", run.out);
}

fn a_guest_that_goes_silent() {
    let desk = Desk::new();
    desk.case("a-hangs", HANGS);
    desk.case("b-good", GOOD);
    let running = desk.start(&["run", "--jobs", "1"]);
    let machine = running.machine();
    std::thread::sleep(Duration::from_secs(1));
    nix::sys::signal::kill(machine, Signal::SIGSTOP).expect("QEMU can be stopped");
    let run = running.wait().ends(3);
    run.shows(&["LOST a-hangs", "the guest said nothing for 45s", "look at the kernel stacks"]);
    assert!(run.out.contains(": 1 passed, 1 lost with their machine\n"), "{}", run.out);
    assert!(run.took < Duration::from_secs(100), "{:?}", run.took);
}

// The end of the program itself.

fn ctrl_c_finishes_the_case_in_progress() {
    let desk = Desk::new();
    ["a", "b", "c", "d"].iter().for_each(|name| desk.case(name, &slow()));
    let running = desk.start(&["run", "--jobs", "1"]);
    running.machine();
    std::thread::sleep(Duration::from_secs(1));
    running.signal(Signal::SIGINT);
    let run = running.wait().ends(3);
    run.says(&["stopping after the cases in progress", "not every case was run to its end"]);
    assert!(run.out.contains(": 1 passed, 3 not run\n"), "{}", run.out);
}

fn a_second_ctrl_c_leaves_at_once() {
    let desk = Desk::new();
    desk.case("a-hangs", HANGS);
    let running = desk.start(&["run"]);
    running.machine();
    std::thread::sleep(Duration::from_secs(1));
    running.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    running.signal(Signal::SIGINT);
    let run = running.wait().ends(3);
    run.says(&["left at once"]);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

fn kill_9_leaves_nothing() {
    let desk = Desk::new();
    desk.case("a-hangs", HANGS);
    let running = desk.start(&["run"]);
    running.machine();
    std::thread::sleep(Duration::from_secs(1));
    running.signal(Signal::SIGKILL);
    running.wait().was_killed();
    desk.case("a-hangs", GOOD);
    desk.run(&["run"]).ends(0);
}

fn ctrl_c_leaves_nothing_on_the_running_kernel() {
    for times in [1, 2] {
        let desk = Desk::new();
        ["a", "b", "c", "d"].iter().for_each(|name| desk.case(name, &slow_on_ext4()));
        let running = desk.start(&["run", "--kernel", "host"]);
        running.agent();
        for _ in 0..times {
            std::thread::sleep(Duration::from_millis(500));
            running.signal(Signal::SIGINT);
        }
        let run = running.wait().ends(3);
        run.says(&[["stopping after the cases in progress", "left at once"][times - 1]]);
        // The terminal's signal reaches the agent's processes, too, if they let it.
        assert_eq!(run.out.contains(": 1 passed, 3 not run\n"), times == 1, "{}", run.out);
    }
}

fn kill_9_leaves_nothing_on_the_running_kernel() {
    let desk = Desk::new();
    desk.case("a-slow", &slow_on_ext4());
    let running = desk.start(&["run", "--kernel", "host"]);
    running.agent();
    std::thread::sleep(Duration::from_millis(500));
    running.signal(Signal::SIGKILL);
    running.wait().was_killed();
}

// What came of it, for people and for programs.

fn skips_are_counted_with_their_reason() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    desk.case("skipped", &GOOD.replace("use ", "needs  !passthrough\nuse "));
    let run = desk.run(&["run"]).ends(0);
    assert!(
        run.out.contains(": 1 passed, 1 skipped\n  1 skipped: the kernel has passthrough\n"),
        "{}",
        run.out
    );
}

fn kernels_list_shows_what_was_probed() {
    let desk = Desk::new();
    let list = desk.run(&["kernels", "list"]).ends(0).out;
    let mut lines = list.split("\n\n").last().expect("a table").lines();
    let names: Vec<&str> = lines.next().expect("names").split_whitespace().collect();
    let column =
        names.iter().position(|name| *name == kernel::default_row().name).expect("the default kernel");
    let passthrough = lines.find_map(|line| line.strip_prefix("passthrough ")).expect("a capability");
    assert_eq!(passthrough.split_whitespace().nth(column), Some("yes"), "{list}");
}

fn saved_runs_are_compared() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    desk.run(&["run", "--save", "before"]).ends(0);
    assert!(desk.path("before/report.html").exists());
    desk.case("good", &GOOD.replace("read f 5 -> \"hello\"", "read f 4 -> \"hell\""));
    desk.run(&["run", "--save", "after"]).ends(0);
    let run = desk.run(&["diff", "before", "after"]).ends(1);
    run.shows(&["DATA-00\n  good\n", "-app    read f 5 -> \"hello\"\n    +app    read f 4 -> \"hell\"\n"]);
    run.shows(&["before 6.12 -> after 6.12: 1 of 1 cases behave differently\n"]);
    desk.run(&["run", "--save", "before"]).ends(0);
    desk.run(&["diff", "before", "after"]).ends(0).shows(&[": 0 of 1 cases behave differently\n"]);
}

fn json_has_every_field() {
    let desk = Desk::new();
    desk.case("good", GOOD);
    desk.case("skipped", &GOOD.replace("use ", "needs  !passthrough\nuse "));
    desk.case("wrong", WRONG);
    desk.run(&["run", "--report", "json=report.json"]).ends(1);
    let text = fs::read_to_string(desk.path("report.json")).expect("the report is there");
    let mut report: Value = serde_json::from_str(&text).expect("it is JSON");
    let kernel = &mut report["kernels"][0];
    // What differs from run to run is of the right kind.
    assert!(kernel["seconds"].take().as_f64().is_some_and(|seconds| seconds > 0.0), "{text}");
    assert!(kernel["release"].take().as_str().is_some_and(|release| release.starts_with("6.12.")), "{text}");
    for case in kernel["cases"].as_array_mut().expect("a list") {
        assert!(case["millis"].take().is_u64(), "{text}");
        let transcript = case.as_object_mut().and_then(|case| case.remove("transcript"));
        assert_eq!(transcript.is_some_and(|text| text.is_string()), case["verdict"] != "skipped", "{text}");
    }
    let case = |path: &str, verdict: &str| serde_json::json!({ "path": path, "verdict": verdict, "rules": ["DATA-00"], "millis": null, "splats": [] });
    let mut cases = [case("good", "passed"), case("skipped", "skipped"), case("wrong", "failed")];
    cases[1]["reason"] = "the kernel has passthrough".into();
    cases[2]["reason"] = "expected \"world\", got \"hello\"".into();
    let wanted = serde_json::json!({ "kernels": [{
        "name": "6.12", "release": null, "passthrough": true, "passed": 1, "failed": 1, "skipped": 1, "lost": 0,
        "expected_deviations": 0, "seconds": null, "cases": cases,
    }] });
    assert_eq!(report, wanted);
}
