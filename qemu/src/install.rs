//! Is a program there? If not, and this is root on a system with apt, it is installed; else the command to do it is told.
//!
//! It never waits for an answer on a terminal, and installs nothing but the package that is named.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::progress::Progress;

const COMMAND: [&str; 4] = ["apt-get", "install", "-y", "--no-install-recommends"];

/// What boots kernels.
pub const QEMU: Program = Program::new("qemu-system-x86_64", "qemu-system-x86");

/// Where C's compiler looks for headers that packages install.
const HEADERS: [&str; 2] = ["/usr/include", "/usr/local/include"];

/// A program, or the header of a library, and Debian's package of it.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    name: &'static str,
    package: &'static str,
    is_header: bool,
}

/// Why a program is not there.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is not installed and installing is not ours to do.
    #[error("{program} is not installed: run `{command}`")]
    Missing {
        /// The program.
        program: &'static str,
        /// What installs it.
        command: String,
    },
    /// The installation did not work out.
    #[error("`{command}` did not install {program} ({reason}): run it by hand and see what it says")]
    Failed {
        /// The program.
        program: &'static str,
        /// What was run.
        command: String,
        /// Its exit status and last line.
        reason: String,
    },
}

impl Program {
    /// By its name in `$PATH`, and its package's.
    pub const fn new(name: &'static str, package: &'static str) -> Self {
        Self { name, package, is_header: false }
    }

    /// A header by its name, and its package's.
    pub const fn header(name: &'static str, package: &'static str) -> Self {
        Self { name, package, is_header: true }
    }

    /// Its path, where it is installed.
    pub fn find(&self) -> Option<PathBuf> {
        if self.is_header {
            return HEADERS
                .iter()
                .map(|folder| Path::new(folder).join(self.name))
                .find(|file| file.is_file());
        }
        in_path(self.name)
    }

    /// The command that installs it here, for this user.
    pub fn remedy(&self) -> String {
        if in_path("apt-get").is_none() {
            return format!("your system's package manager for {}", self.name);
        }
        let sudo = if nix::unistd::geteuid().is_root() { "" } else { "sudo " };
        format!("{sudo}{} {}", COMMAND.join(" "), self.package)
    }

    /// Its path, installed if need be and if that is possible without asking.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn ensure(&self, progress: &mut dyn Progress) -> Result<PathBuf, InstallError> {
        if let Some(path) = self.find() {
            return Ok(path);
        }
        let (program, command) = (self.name, self.remedy());
        if !nix::unistd::geteuid().is_root() || in_path("apt-get").is_none() {
            return Err(InstallError::Missing { program, command });
        }
        progress.say(&format!("{program} is missing: running `{command}`"));
        let failed = |reason: String| InstallError::Failed { program, command: command.clone(), reason };
        let output = Command::new(COMMAND[0])
            .args(&COMMAND[1..])
            .arg(self.package)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        match self.find() {
            Some(path) if output.status.success() => Ok(path),
            _ => {
                let said = String::from_utf8_lossy(&output.stderr);
                let last = said.lines().rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
                Err(failed(format!("{}, {last}", output.status)))
            }
        }
    }
}

/// Where a program of that name is.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_not_looked_for_among_programs() {
        assert_eq!(Program::header("sh", "dash").find(), None);
        assert!(Program::new("sh", "dash").find().is_some());
    }

    #[test]
    fn the_errors_name_the_command() {
        let error = InstallError::Missing { program: QEMU.name, command: "sudo apt-get install x".into() };
        insta::assert_snapshot!(error, @"qemu-system-x86_64 is not installed: run `sudo apt-get install x`");
        let error = InstallError::Failed {
            program: QEMU.name,
            command: "apt-get install x".into(),
            reason: "exit status: 100, E: no network".into(),
        };
        insta::assert_snapshot!(error, @"`apt-get install x` did not install qemu-system-x86_64 (exit status: 100, E: no network): run it by hand and see what it says");
    }
}
