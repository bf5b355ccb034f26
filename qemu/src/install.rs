//! Is QEMU there? If not, and this is root on a system with apt, it is installed; else the command to do it is told.
//!
//! It never waits for an answer on a terminal, and installs nothing but QEMU.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::progress::Progress;

const QEMU: &str = "qemu-system-x86_64";
const COMMAND: [&str; 5] = ["apt-get", "install", "-y", "--no-install-recommends", "qemu-system-x86"];

/// Why there is no QEMU.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is not installed and installing is not ours to do.
    #[error("{QEMU} is not installed: run `{0}`")]
    Missing(String),
    /// The installation did not work out.
    #[error("`{command}` did not install {QEMU} ({reason}): run it by hand and see what it says")]
    Failed {
        /// What was run.
        command: String,
        /// Its exit status and last line.
        reason: String,
    },
}

/// The path of QEMU, where it is installed.
pub fn find() -> Option<PathBuf> {
    in_path(QEMU)
}

/// The command that installs QEMU here, for this user.
pub fn remedy() -> String {
    if in_path("apt-get").is_none() {
        return format!("your system's package manager for {QEMU}");
    }
    let sudo = if nix::unistd::geteuid().is_root() { "" } else { "sudo " };
    format!("{sudo}{}", COMMAND.join(" "))
}

/// The path of QEMU, installed if need be and if that is possible without asking.
///
/// # Errors
/// See [`InstallError`].
pub fn ensure(progress: &mut dyn Progress) -> Result<PathBuf, InstallError> {
    if let Some(path) = find() {
        return Ok(path);
    }
    if !nix::unistd::geteuid().is_root() || in_path("apt-get").is_none() {
        return Err(InstallError::Missing(remedy()));
    }
    progress.say(&format!("{QEMU} is missing: running `{}`", remedy()));
    let failed = |reason: String| InstallError::Failed { command: remedy(), reason };
    let output = Command::new(COMMAND[0])
        .args(&COMMAND[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    match find() {
        Some(path) if output.status.success() => Ok(path),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
            Err(failed(format!("{}, {last}", output.status)))
        }
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
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
    fn the_errors_name_the_command() {
        insta::assert_snapshot!(InstallError::Missing("sudo apt-get install x".into()), @"qemu-system-x86_64 is not installed: run `sudo apt-get install x`");
        let error = InstallError::Failed {
            command: "apt-get install x".into(),
            reason: "exit status: 100, E: no network".into(),
        };
        insta::assert_snapshot!(error, @"`apt-get install x` did not install qemu-system-x86_64 (exit status: 100, E: no network): run it by hand and see what it says");
    }
}
