//! `fuseproof kernels`, `doctor` and `shell`.

use clap::Subcommand;
use qemu::cache::Cache;
use qemu::install::QEMU;
use qemu::kernel::{self, KernelSpec, build, catalogue};

use super::out::{out, outln};
use super::progress::Lines;
use super::{Exit, own_program, trouble};
use crate::program::{CAPABILITIES, Profile};
use crate::run::{interactive, remembered};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Which there are, which are here already, what can be built, and what those are able to do that were run.
    List,
    /// Fetch or build some, so that later runs need not.
    Fetch {
        /// Their names; all that need not be built if none is given.
        names: Vec<String>,
    },
}

pub(super) fn kernels(command: &Command) -> Exit {
    let cache = match Cache::open() {
        Ok(cache) => cache,
        Err(error) => return trouble(&error),
    };
    match command {
        Command::List => {
            let mut probed = Vec::new();
            for row in catalogue() {
                let here = kernel::is_cached(row, &cache).map(|kernel| kernel.release);
                outln!("{:<10} {:<34} {}", row.name, here.as_deref().unwrap_or("not fetched"), row.note);
                if let Some(profile) = here.and_then(|release| remembered(&cache, &row.name, &release)) {
                    probed.push((row.name.as_str(), profile));
                }
            }
            outln!("{:<10} {:<34} the running kernel", "host", release());
            out(recipes());
            out(abilities(&probed));
            Exit::Expected
        }
        Command::Fetch { names } => {
            let all = catalogue().iter().map(|row| row.name.clone()).collect();
            for name in if names.is_empty() { &all } else { names } {
                let resolved = name
                    .parse::<KernelSpec>()
                    .and_then(|spec| kernel::resolve(&spec, &cache, &mut Lines::default()));
                match resolved {
                    Ok(kernel) => outln!("{name} {}", kernel.release),
                    Err(error @ kernel::Error::UnknownName { .. }) => {
                        trouble(&error);
                        return Exit::Usage;
                    }
                    Err(error) => return trouble(&error),
                }
            }
            Exit::Expected
        }
    }
}

/// What can be built, and from what.
fn recipes() -> String {
    let mut text = String::from(
        "\nBuilt from source when they are first named, as FLAVOUR-SOURCE or FLAVOUR-DIALECT:\n",
    );
    let mut line =
        |what: &str, name: &str, note: &str| text.push_str(&format!("{what:<9} {name:<22} {note}\n"));
    build::flavours().iter().for_each(|flavour| line("flavour", &flavour.name, &flavour.note));
    build::sources().iter().for_each(|source| line("source", &source.name, &source.note));
    build::dialects().iter().for_each(|dialect| line("dialect", &dialect.name, &dialect.note));
    text
}

/// A table of capability and kernel.
fn abilities(probed: &[(&str, Profile)]) -> String {
    if probed.is_empty() {
        return String::new();
    }
    let width = CAPABILITIES.iter().map(|capability| capability.name.len()).max().unwrap_or(0);
    let line = |first: &str, cells: &mut dyn Iterator<Item = (&str, usize)>| {
        let cells = cells.map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>().join("  ");
        format!("{}\n", format!("{first:<width$}  {cells}").trim_end())
    };
    let mut table = format!("\n{}", line("", &mut probed.iter().map(|(name, _)| (*name, name.len()))));
    for capability in CAPABILITIES {
        let mark = |profile: &Profile| if profile.has.contains(capability.name) { "yes" } else { "-" };
        let mut cells = probed.iter().map(|(name, profile)| (mark(profile), name.len()));
        table.push_str(&line(capability.name, &mut cells));
    }
    table
}

fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "?".into(), |name| name.release().to_string_lossy().into_owned())
}

pub(super) fn shell(kernel: &KernelSpec) -> Exit {
    let enter = || {
        let cache = Cache::open().map_err(|error| error.to_string())?;
        interactive(kernel, &own_program()?, &cache, &mut Lines::default()).map_err(|error| error.to_string())
    };
    match enter() {
        Ok(()) => Exit::Expected,
        Err(error) => trouble(&error),
    }
}

/// What a run needs, what this computer has of it, and the command that mends the rest.
pub(super) fn doctor() -> Exit {
    let found = |name: &str| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|folder| folder.join(name).exists())
    };
    let checks = [
        ("QEMU, to boot kernels", QEMU.find().is_some(), QEMU.remedy()),
        ("apt-get, to fetch kernels by name", found("apt-get"), "use --kernel PATH instead".into()),
        ("dpkg-deb, to unpack them", found("dpkg-deb"), "sudo apt-get install dpkg".into()),
        ("mkfs.ext4, for cases with ext4 below", found("mkfs.ext4"), "sudo apt-get install e2fsprogs".into()),
        (
            "/dev/fuse, for --kernel host",
            std::path::Path::new("/dev/fuse").exists(),
            "sudo modprobe fuse".into(),
        ),
        ("what builds kernels from source", build::remedy().is_none(), build::remedy().unwrap_or_default()),
        ("root, for --kernel host", nix::unistd::geteuid().is_root(), "run with sudo".into()),
        (
            "a cache folder that can be written",
            Cache::open().is_ok(),
            "set FUSEPROOF_CACHE to a folder that can".into(),
        ),
    ];
    let mut exit = Exit::Expected;
    for (what, there, remedy) in checks {
        if there {
            outln!("ok       {what}");
        } else if what.ends_with("--kernel host") || what.ends_with("from source") {
            outln!("optional {what}: {remedy}");
        } else {
            outln!("missing  {what}: {remedy}");
            exit = Exit::Trouble;
        }
    }
    exit
}
