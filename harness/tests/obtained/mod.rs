//! Daemons that others wrote: fetched from Debian, and built here where they come as sources. They stay in the cache;
//! installed are the tools that build them, and bindfs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use qemu::cache::{self, Cache};
use qemu::debian;
use qemu::install::Program;
use qemu::kernel::Error;
use xshell::{Shell, cmd};

use crate::ring::{Lines, is_out_of_reach};

/// A daemon that is there, or why it cannot be had here.
pub(crate) type Obtained = Result<Result<PathBuf, String>, Failed>;

/// Debian 13 has libfuse 3.17.
const STABLE: &str = "trixie";
/// And its backports a newer go-fuse, which knows passthrough.
const BACKPORTS: &str = "trixie-backports";
/// Where else a daemon on such a go-fuse is.
const UNSTABLE: &str = "sid";

/// What building failed with.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Packages(#[from] Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error(transparent)]
    Build(#[from] xshell::Error),
    #[error(transparent)]
    Files(#[from] std::io::Error),
}

/// libfuse's example, from Debian's source of it, with its library within.
pub(crate) fn passthrough_hp(cache: &Cache) -> Obtained {
    for (name, package) in
        [("g++", "g++"), ("meson", "meson"), ("ninja", "ninja-build"), ("dpkg-source", "dpkg-dev")]
    {
        if let Err(error) = Program::new(name, package).ensure(&mut Lines) {
            return Ok(Err(error.to_string()));
        }
    }
    let built = cache.entry("daemon-passthrough_hp", &mut Lines, |folder, _| -> Result<(), Trouble> {
        let source = debian::source(STABLE, "fuse3", cache, &mut Lines)?;
        let build = folder.join("build");
        let shell = Shell::new()?;
        let options = ["-Ddefault_library=static", "-Dexamples=true", "-Dtests=false", "-Dutils=false"];
        cmd!(shell, "meson setup {options...} {build} {source}").quiet().ignore_stdout().run()?;
        cmd!(shell, "ninja -C {build} example/passthrough_hp").quiet().ignore_stdout().run()?;
        fs::copy(build.join("example/passthrough_hp"), folder.join("passthrough_hp"))?;
        Ok(fs::remove_dir_all(build)?)
    });
    sorted(built.map(|folder| folder.join("passthrough_hp")))
}

/// go-fuse's example, built with Debian's Go as a static program.
pub(crate) fn go_fuse_loopback(cache: &Cache) -> Obtained {
    let built = cache.entry("daemon-go-fuse-loopback", &mut Lines, |folder, _| -> Result<(), Trouble> {
        let tools =
            ["golang-1.24-go", "golang-1.24-src", "golang-golang-x-sys-dev", "golang-github-moby-sys-dev"];
        let tools = debian::unpacked(STABLE, &tools, cache, &mut Lines)?;
        let library = debian::unpacked(BACKPORTS, &["golang-github-hanwen-go-fuse-dev"], cache, &mut Lines)?;
        // Its second version lies where the first one would.
        let place = folder.join("path/src/github.com/hanwen/go-fuse");
        fs::create_dir_all(&place)?;
        symlink(library.join("usr/share/gocode/src/github.com/hanwen/go-fuse"), place.join("v2"))?;
        let root = tools.join("usr/lib/go-1.24");
        let paths = std::env::join_paths([folder.join("path"), tools.join("usr/share/gocode")]);
        let example =
            library.join("usr/share/doc/golang-github-hanwen-go-fuse-dev/examples/loopback/main.go");
        let (go, loopback) = (root.join("bin/go"), folder.join("loopback"));
        let shell = Shell::new()?;
        cmd!(shell, "{go} build -o {loopback} {example}")
            .env("GOROOT", &root)
            .env("GOPATH", paths.map_err(std::io::Error::other)?)
            .env("GOCACHE", folder.join("objects"))
            .env("GOENV", "off")
            .env("GO111MODULE", "off")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .quiet()
            .run()?;
        fs::remove_dir_all(folder.join("objects"))?;
        Ok(fs::remove_dir_all(folder.join("path"))?)
    });
    sorted(built.map(|folder| folder.join("loopback")))
}

/// rclone, which mounts with go-fuse if asked to.
pub(crate) fn rclone(cache: &Cache) -> Obtained {
    let unpacked = debian::unpacked(UNSTABLE, &["rclone"], cache, &mut Lines).map_err(Trouble::from);
    sorted(unpacked.map(|folder| folder.join("usr/bin/rclone")))
}

/// bindfs, which knows nothing of passthrough.
pub(crate) fn bindfs() -> Obtained {
    Ok(Program::new("bindfs", "bindfs").ensure(&mut Lines).map_err(|error| error.to_string()))
}

fn sorted(result: Result<PathBuf, Trouble>) -> Obtained {
    match result {
        Ok(path) if Path::is_file(&path) => Ok(Ok(path)),
        Ok(path) => Err(Failed::from(format!("{} is not in its package", path.display()))),
        Err(Trouble::Packages(error)) if is_out_of_reach(&error) => Ok(Err(error.to_string())),
        Err(error) => Err(Failed::from(error.to_string())),
    }
}
