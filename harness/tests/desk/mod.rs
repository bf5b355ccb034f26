//! A folder to run the program in, with its own cases, and the law that holds after every run: nothing is left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::ring::{PROGRAM, cases_dir};

/// A run that is not over by then never will be.
const PATIENCE: Duration = Duration::from_secs(150);
/// What a killed process leaves is gone after this long.
const GONE: Duration = Duration::from_secs(10);
/// `nobody`, everywhere.
const NOBODY: u32 = 65534;

/// A folder with `cases/` in it, of which `lib` is the project's.
pub(crate) struct Desk {
    folder: TempDir,
    /// Those that were in use before.
    loop_devices: BTreeSet<String>,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Some runs are another user's.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        for name in ["cases", "tmp"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let lib = cases_dir().join("lib").canonicalize().expect("the library is there");
        symlink(lib, folder.path().join("cases/lib")).expect("a link");
        Desk { folder, loop_devices: loop_devices() }
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Write a case.
    pub(crate) fn case(&self, name: &str, text: &str) {
        self.file(&format!("cases/{name}.case"), text.as_bytes());
    }

    /// Write a file; its path.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the desk")).expect("a folder");
        fs::write(&path, content).expect("a file");
        path.to_string_lossy().into_owned()
    }

    /// Make a folder; its path.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("a folder");
        path
    }

    /// Run the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, |_| {})
    }

    /// The same, with something changed about how it is started.
    pub(crate) fn run_with(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Run {
        self.start_with(Path::new(PROGRAM), arguments, change).wait()
    }

    /// The same, as a user who may nothing.
    pub(crate) fn run_without_root(&self, arguments: &[&str]) -> Run {
        // The build's folder may be closed to others.
        let program = self.path("fuseproof");
        fs::copy(PROGRAM, &program).expect("a copy");
        let cache = self.folder("cache");
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).expect("ours");
        self.start_with(&program, arguments, |command| {
            if nix::unistd::geteuid().is_root() {
                command.uid(NOBODY).gid(NOBODY);
            }
            command.env("FUSEPROOF_CACHE", &cache);
        })
        .wait()
    }

    /// Start the program, as a shell would: in a process group of its own.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running<'_> {
        self.start_with(Path::new(PROGRAM), arguments, |_| {})
    }

    fn start_with(
        &self,
        program: &Path,
        arguments: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Running<'_> {
        let output = |name: &str| Stdio::from(File::create(self.path(name)).expect("a file"));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            // Inherited by all that the program starts, so it marks them as well.
            .env("TMPDIR", self.path("tmp"))
            .env("CARGO", "cargo")
            .stdin(Stdio::null())
            .stdout(output("out"))
            .stderr(output("err"))
            .process_group(0);
        change(&mut command);
        Running { desk: self, child: command.spawn().expect("the program starts"), since: Instant::now() }
    }

    /// Processes that run in this folder's name.
    fn processes(&self) -> Vec<String> {
        let mark = format!("TMPDIR={}", self.path("tmp").display());
        let all = fs::read_dir("/proc").expect("/proc is there").flatten();
        let ours = all.filter(|item| {
            fs::read(item.path().join("environ"))
                .is_ok_and(|text| text.split(|&byte| byte == 0).any(|word| word == mark.as_bytes()))
        });
        ours.map(|item| fs::read_to_string(item.path().join("cmdline")).unwrap_or_default()).collect()
    }

    /// After a run nothing is there that was not before.
    fn assert_clean(&self) {
        let start = Instant::now();
        while !self.processes().is_empty() {
            assert!(start.elapsed() < GONE, "these outlive the run: {:?}", self.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
        let left: Vec<_> = fs::read_dir(self.path("tmp")).expect("a folder").flatten().collect();
        assert!(left.is_empty(), "left in the folder for temporary files: {left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is there");
        let ours: Vec<_> = mounts.lines().filter(|line| line.contains(" fuseproof ")).collect();
        assert!(ours.is_empty(), "left mounted: {ours:?}");
        assert!(!Path::new("/run/fuseproof").exists(), "/run/fuseproof is left");
        // A loop device is released behind the back of whoever unmounts.
        while loop_devices().difference(&self.loop_devices).next().is_some() {
            assert!(start.elapsed() < GONE, "loop devices are left: {:?}", loop_devices());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Loop devices in use by a file system of ours.
fn loop_devices() -> BTreeSet<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let used = devices.filter_map(|device| {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        file.contains("images/ext4-").then(|| format!("{}: {}", device.file_name().display(), file.trim()))
    });
    used.collect()
}

/// The program, on its way. It ends with this value.
pub(crate) struct Running<'a> {
    desk: &'a Desk,
    child: Child,
    since: Instant,
}

impl Running<'_> {
    /// The QEMU it has started, as soon as there is one.
    pub(crate) fn machine(&self) -> Pid {
        self.child_called("qemu-system-x86")
    }

    /// The agent it has started on the running kernel, as soon as there is one.
    pub(crate) fn agent(&self) -> Pid {
        self.child_called("fuseproof")
    }

    fn child_called(&self, name: &str) -> Pid {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let start = Instant::now();
        loop {
            let children: String = fs::read_dir(&tasks)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
                .collect();
            let found = children.split_whitespace().find(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
            });
            if let Some(pid) = found {
                return Pid::from_raw(pid.parse().expect("a number"));
            }
            assert!(start.elapsed() < PATIENCE, "it never started {name}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Signal the process group, as the terminal does; SIGKILL goes to the program alone.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let sent = if signal == Signal::SIGKILL { kill(pid, signal) } else { killpg(pid, signal) };
        sent.expect("it runs");
    }

    /// Wait for its end, and see that nothing is left.
    pub(crate) fn wait(self) -> Run {
        let desk = self.desk;
        let run = self.wait_for_end();
        desk.assert_clean();
        run
    }

    fn wait_for_end(mut self) -> Run {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status;
            }
            assert!(self.since.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = |name: &str| fs::read_to_string(self.desk.path(name)).expect("a text");
        Run { status, out: text("out"), err: text("err"), took: self.since.elapsed() }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Over already, unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run that is over.
pub(crate) struct Run {
    status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Run {
    /// It ended with this exit code.
    pub(crate) fn ends(self, code: i32) -> Run {
        assert_eq!(self.status.code(), Some(code), "\n{}\n{}", self.out, self.err);
        self
    }

    /// It was killed, as it was to be.
    pub(crate) fn was_killed(&self) {
        assert_eq!(self.status.signal(), Some(9), "{}", self.status);
    }

    /// Its standard error has all of these.
    pub(crate) fn says(&self, parts: &[&str]) {
        has(&self.err, parts);
    }

    /// Its standard output has all of these.
    pub(crate) fn shows(&self, parts: &[&str]) {
        has(&self.out, parts);
    }

    /// Its standard output up to the summary, less what a guest logs about its clock whenever that has settled.
    pub(crate) fn failures(&self) -> String {
        let end = self.out.find("\n6.").unwrap_or(self.out.len());
        let is_noise =
            |line: &&str| ["    tsc:", "    clocksource:"].iter().any(|word| line.starts_with(word));
        let lines: Vec<_> = self.out[..end].lines().filter(|line| !is_noise(line)).collect();
        lines.join("\n").replace("  kernel log:\n  rules:", "  rules:")
    }
}

/// Lines may be broken to fit a terminal.
fn has(text: &str, parts: &[&str]) {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(&part), "{part:?} is not in\n{text}");
    }
}
