//! What can keep a kernel from being at hand, each with the way out. It decides nothing.

use std::io;
use std::path::PathBuf;

use crate::cache;
use crate::install::InstallError;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache folder's own trouble.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// No row, no file and not `host`.
    #[error(
        "there is no kernel called {name} (near it: {near}): `fuseproof kernels list` shows all names, and a file is named with a slash, as in ./{name}"
    )]
    UnknownName {
        /// What was asked for.
        name: String,
        /// The names most like it.
        near: String,
    },
    /// `host` was to be booted.
    #[error(
        "the kernel called host is already running and is not booted: name one of the catalogue, or a path"
    )]
    Host,
    /// Nothing is at the path.
    #[error("there is nothing at {path}: check the spelling, or pick a name from `fuseproof kernels list`")]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// The path cannot be read.
    #[error("cannot read {path} ({source}): mend its permissions, or copy it to where it can be read")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "{path} is not a kernel: give a bzImage, an x86-64 vmlinux, a kernel's .deb package, or a build tree"
    )]
    NotAKernel {
        /// The path given.
        path: PathBuf,
    },
    /// A folder without a built kernel.
    #[error(
        "{path} holds no built kernel (neither vmlinux nor arch/x86/boot/bzImage): run `make` there first"
    )]
    NotBuilt {
        /// The folder given.
        path: PathBuf,
    },
    /// QEMU boots an ELF kernel through its PVH entry only.
    #[error("{path} has no PVH entry: build it with CONFIG_PVH=y, or give its bzImage")]
    NoPvh {
        /// The vmlinux given.
        path: PathBuf,
    },
    /// `dpkg-deb` cannot unpack it.
    #[error("the package {path} is corrupt ({detail}): fetch it again")]
    CorruptPackage {
        /// The package.
        path: PathBuf,
        /// What `dpkg-deb` said.
        detail: String,
    },
    /// A package without an image.
    #[error(
        "the package {path} holds no kernel image: give the linux-image package, or from Linux 6.19 on the linux-binary package"
    )]
    NoImageInPackage {
        /// The package.
        path: PathBuf,
    },
    /// A program is not installed.
    #[error(
        "{program} was not found, and kernels are fetched with it: install apt and dpkg, or give the path of a kernel"
    )]
    NoProgram {
        /// The program.
        program: String,
    },
    /// The machine's apt is not configured with a Debian mirror.
    #[error(
        "apt's sources name no Debian archive that could serve the suite {suite}: add one to /etc/apt/sources.list, or give the path of a kernel"
    )]
    NoDebianSource {
        /// The suite wanted.
        suite: String,
    },
    /// The mirror cannot be reached.
    #[error(
        "the Debian mirror cannot be reached ({detail}): check the network and apt's proxy settings, then try again"
    )]
    Network {
        /// What apt said.
        detail: String,
    },
    /// The suite's signature cannot be verified.
    #[error(
        "apt cannot verify the suite {suite} ({detail}): bring the keys up to date with `apt-get install debian-archive-keyring`"
    )]
    NoKey {
        /// The suite.
        suite: String,
        /// What apt said.
        detail: String,
    },
    /// The mirror has no package for the row.
    #[error(
        "no package in the suite {suite} is called {package}: pick another name from `fuseproof kernels list`, or give the path of a kernel"
    )]
    NoPackage {
        /// The suite searched.
        suite: String,
        /// The pattern searched for.
        package: String,
    },
    /// A program failed for another reason.
    #[error("`{command}` failed ({detail}): mend what it complains about, or give the path of a kernel")]
    Command {
        /// The program and its first argument.
        command: String,
        /// What it said.
        detail: String,
    },
    /// A program that a build needs.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// No source of a kernel.
    #[error(
        "{path} holds no source of a kernel: give a name that `fuseproof kernels list` shows, a tarball, or a git tree at its top"
    )]
    NoSource {
        /// The path given.
        path: PathBuf,
    },
    /// A file that is no patch.
    #[error("{patch} is no patch: give unified differences, as git format-patch and diff -u write them")]
    NoPatch {
        /// The file.
        patch: String,
    },
    /// A patch that does not apply.
    #[error(
        "{patch} does not apply; rebase it onto the source, or give the source it was made for:\n{detail}"
    )]
    Patch {
        /// The file.
        patch: String,
        /// What `patch` said, with the hunks that failed.
        detail: String,
    },
    /// The source, or the compiler, has no option that a flavour is for.
    #[error(
        "{name} would find nothing: {option} cannot be switched on in this source with {compiler}; take a source that has \
         it, or a compiler that can"
    )]
    NoOption {
        /// What was to be built.
        name: String,
        /// The option.
        option: String,
        /// Compiler and linker.
        compiler: String,
    },
    /// The compiler or the linker failed.
    #[error("{name} does not build; all of it is in {log}:\n{said}")]
    Build {
        /// What was built.
        name: String,
        /// The first errors.
        said: String,
        /// All that was printed.
        log: PathBuf,
    },
    /// Debug information that cannot be read.
    #[error(
        "cannot read the debug information of {path} ({reason}): build it again, with CONFIG_DEBUG_INFO_DWARF4=y"
    )]
    DebugInfo {
        /// The vmlinux.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A module cannot be read.
    #[error("cannot read the kernel module {path} ({reason}): fetch or build the kernel's modules again")]
    Module {
        /// The module's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
