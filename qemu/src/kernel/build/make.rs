//! Runs `make`, tells how far it is, and picks what the compiler said out of what it printed. It knows no option of a kernel.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use super::recipe::Recipe;
use super::tree::Tree;
use super::trouble;
use crate::install;
use crate::kernel::{Error, command};
use crate::process::Process;
use crate::progress::Progress;

/// All that was printed.
const LOG: &str = "fuseproof.log";
/// How many steps the longest build of this folder had.
const STEPS: &str = "fuseproof.steps";
/// How much of what the compiler said is told on.
const TOLD: usize = 24;
/// A build that prints nothing for so long does not end.
const SILENCE: Duration = Duration::from_secs(30 * 60);
/// A longer line is taken in parts.
const MAX_LINE: u64 = 64 << 10;
/// `make` closes its output a moment before it ends.
const END: Duration = Duration::from_secs(60);

/// What every call of `make` is given. The same source gives the same kernel, whoever builds it, and where.
pub(super) fn settings(make: &mut Command, tree: &Tree, out: &Path) {
    make.arg("-C").arg(tree.source()).arg(format!("O={}", out.display()));
    make.args(["ARCH=x86", "KBUILD_BUILD_USER=fuseproof", "KBUILD_BUILD_HOST=fuseproof"]);
    make.arg("KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970");
    settle(make);
    if install::in_path("ccache").is_some() {
        // What one tree has compiled another need not: neither the folder's name nor the place of objects counts.
        make.arg("CC=ccache gcc").env("CCACHE_BASEDIR", tree.folder()).env("CCACHE_NOHASHDIR", "1");
    }
}

/// Variables that say where something is. `CC`, `LLVM`, `KCFLAGS`, `CCACHE_COMPILER` and their like would make another
/// kernel under the same name.
const KEPT: [&str; 9] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PKG_CONFIG_PATH",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "CCACHE_DIR",
    "CCACHE_MAXSIZE",
];

/// Let no variable of the user's decide about the kernel.
fn settle(command: &mut Command) {
    let kept = KEPT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))).collect::<Vec<_>>();
    command.env_clear().envs(kept).env("LC_ALL", "C");
}

/// Tells the programs that make a kernel of a source from other ones.
pub(super) fn identity() -> Result<String, Error> {
    let version = |program: &str| -> Result<String, Error> {
        let mut asked = Command::new(program);
        settle(&mut asked);
        let said = command::output(asked.arg("--version"))?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    };
    Ok([version("gcc")?, version("ld")?].join("\n"))
}

/// Build the kernel, as far as something changed.
pub(super) fn vmlinux(
    tree: &Tree,
    out: &Path,
    recipe: &Recipe,
    progress: &mut dyn Progress,
) -> Result<PathBuf, Error> {
    progress.say(&format!("building {recipe}"));
    let (log, steps) = (out.join(LOG), out.join(STEPS));
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("make");
    settings(&mut make, tree, out);
    make.arg(format!("-j{jobs}")).arg(format!("LOCALVERSION=-{}", recipe.flavour.name)).arg("vmlinux");
    let (output, input) = io::pipe().map_err(trouble(&log))?;
    make.stdin(std::process::Stdio::null()).stdout(input.try_clone().map_err(trouble(&log))?).stderr(input);
    let process = Process::spawn(make)
        .map_err(|source| Error::Command { command: "make".into(), detail: source.to_string() })?;
    let known = fs::read_to_string(&steps).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let mut file = File::create(&log).map_err(trouble(&log))?;
    let (mut done, lines) = (0, lines(BufReader::new(output)));
    loop {
        let line = match lines.recv_timeout(SILENCE) {
            Ok(line) => line.map_err(trouble(&log))?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                progress.done();
                let said = format!("it printed nothing for {} minutes and was ended", SILENCE.as_secs() / 60);
                return Err(Error::Build { name: recipe.to_string(), said, log });
            }
        };
        file.write_all(&line).map_err(trouble(&log))?;
        if let Some(object) = step(&String::from_utf8_lossy(&line)) {
            done += 1;
            progress.step(done, known.filter(|known| *known >= done), object);
        }
    }
    progress.done();
    match process.wait(END) {
        Some(status) if status.success() => {}
        _ => {
            let text = fs::read(&log).map_err(trouble(&log))?;
            let said = complaints(&String::from_utf8_lossy(&text));
            return Err(Error::Build { name: recipe.to_string(), said, log });
        }
    }
    if known.is_none_or(|known| known < done) {
        fs::write(&steps, done.to_string()).map_err(trouble(&steps))?;
    }
    Ok(out.join("vmlinux"))
}

/// The lines of an output as they come, until its end.
fn lines(mut output: impl BufRead + Send + 'static) -> Receiver<io::Result<Vec<u8>>> {
    let (lines, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let mut line = Vec::new();
            let line = match output.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(0) => return,
                read => read.map(|_| line),
            };
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The object of a line like `  CC      fs/open.o`.
fn step(line: &str) -> Option<&str> {
    let (what, object) = line.strip_prefix("  ")?.trim_end().split_once(' ')?;
    let is_step = !what.is_empty() && what.bytes().all(|byte| byte.is_ascii_uppercase());
    is_step.then_some(object.trim_start())
}

/// What the compiler and the linker said, errors first.
fn complaints(log: &str) -> String {
    let said: Vec<&str> = log.lines().filter(|line| step(line).is_none() && !is_about_make(line)).collect();
    let is_error = |line: &&&str| line.contains("error:") || line.contains("undefined reference");
    let first = said.iter().position(|line| is_error(&line)).unwrap_or(said.len().saturating_sub(TOLD));
    let lines: Vec<_> = said.iter().skip(first.saturating_sub(1)).take(TOLD).copied().collect();
    if lines.is_empty() {
        log.lines().last().unwrap_or("it said nothing").to_owned()
    } else {
        lines.join("\n")
    }
}

fn is_about_make(line: &str) -> bool {
    line.starts_with("make") && (line.contains("directory") || line.contains("***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_and_complaints_are_not() {
        assert_eq!(step("  CC      fs/fuse/dev.o\n"), Some("fs/fuse/dev.o"));
        assert_eq!(step("  LD [M]  fs/fuse/fuse.ko\n"), Some("[M]  fs/fuse/fuse.ko"));
        assert_eq!(step("fs/fuse/dev.c:3:1: error: expected"), None);
        assert_eq!(step("   12 | int x"), None);
    }

    #[test]
    fn the_first_error_is_told_with_what_follows() {
        let log = "  CC      a.o\n../a.c: In function 'f':\n../a.c:3:1: error: expected ';'\n    3 | }\n      | ^\n\
            make[2]: *** [../scripts/Makefile.build:229: a.o] Error 1\n  CC      b.o\n";
        assert_eq!(
            complaints(log),
            "../a.c: In function 'f':\n../a.c:3:1: error: expected ';'\n    3 | }\n      | ^"
        );
    }
}
