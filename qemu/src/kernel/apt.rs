//! Fetches the packages of a row through apt, with a configuration and a state of its own, so
//! that the machine's package lists and hooks stay out of it. apt verifies signatures and hashes;
//! nothing here talks to a network, and nothing is installed.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::{self, Failure};
use super::{Error, Row};
use crate::cache;
use crate::progress::Progress;

/// Debian's own suites, as far as a machine's sources may name them. `stable` and its like are also
/// what other vendors call theirs, so these count only under a path that ends in `/debian`.
const CODENAMES: [&str; 6] = ["bullseye", "bookworm", "trixie", "forky", "sid", "unstable"];

/// The keys of all suites. The machine's own entry may be tied to the keys of its own suite.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// The packages of one kernel, on disk.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The package that carries the image, and its version.
    pub(super) package: String,
    /// The `.deb` files.
    pub(super) files: Vec<PathBuf>,
}

/// Fetches the newest packages of `row` into the empty folder `folder`.
///
/// # Errors
/// No apt, no Debian mirror in its sources, no network, no such package, no space.
pub(super) fn fetch(row: &Row, folder: &Path, progress: &mut dyn Progress) -> Result<Fetched, Error> {
    let targets = command::output(
        Command::new("apt-get")
            .args(["indextargets", "--no-release-info"])
            .args([
                "--format",
                "$(SITE) $(RELEASE) $(COMPONENT)",
                "Created-By: Packages",
            ]),
    );
    let targets = targets.map_err(|failure| explain(failure, row, folder))?;
    let mirror = mirror(&targets, &row.suite).ok_or_else(|| Error::NoDebianSource {
        suite: row.suite.clone(),
    })?;
    fetch_from(mirror, row, folder, progress)
}

/// [`fetch`] from the archive at the URI `mirror`.
fn fetch_from(mirror: &str, row: &Row, folder: &Path, progress: &mut dyn Progress) -> Result<Fetched, Error> {
    let explain = |failure| explain(failure, row, folder);
    let apt = Apt::configure(mirror, &row.suite, folder)?;
    progress.say(&format!("reading what the suite {} offers", row.suite));
    apt.get(&["update"]).map_err(explain)?;

    let names = apt.cache(&["pkgnames", row.prefix()]).map_err(explain)?;
    let names: Vec<_> = names.lines().filter(|name| row.matches(name)).collect();
    let image = newest(apt.show(&names).map_err(explain)?)
        .map_err(explain)?
        .ok_or_else(|| Error::NoPackage {
            suite: row.suite.clone(),
            package: row.package.clone(),
        })?;

    let wanted = companions(&image.name);
    let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
    let mut packages = apt.show(&wanted).map_err(explain)?;
    packages.retain(|package| package.version == image.version);
    if packages.len() < wanted.len() {
        progress.say(&format!("the mirror no longer has the modules of {}", image.name));
    }
    packages.insert(0, image);

    let size: u64 = packages.iter().map(|package| package.size).sum();
    let package = format!("{} {}", packages[0].name, packages[0].version);
    progress.say(&format!("fetching {package} ({} MB)", size.div_ceil(1_000_000)));
    let mut args = vec!["download".to_owned()];
    args.extend(
        packages
            .iter()
            .map(|package| format!("{}={}", package.name, package.version)),
    );
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    apt.get(&args).map_err(explain)?;

    let items = fs::read_dir(folder).map_err(|source| cache::Error::io(folder, source))?;
    let files = items.flatten().map(|item| item.path());
    let files = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    Ok(Fetched { package, files })
}

/// The other packages that an image package is split into: since 6.19 the modules and the lists of
/// what is built in have packages of their own. Older ones carry everything.
fn companions(image: &str) -> Vec<String> {
    match image.strip_prefix("linux-binary-") {
        Some(release) => vec![
            format!("linux-modules-{release}"),
            format!("linux-base-{release}"),
        ],
        None => Vec::new(),
    }
}

/// The archive that serves `suite`, judged by what apt's sources on this machine say, a line a
/// target: URI, suite, component. apt has parsed both of its formats for that.
fn mirror<'a>(targets: &'a str, suite: &str) -> Option<&'a str> {
    let security = suite.ends_with("-security");
    let named_debian = |uri: &str| uri.ends_with("/debian") || uri.ends_with("/debian-security");
    let mut mirrors: Vec<&str> = targets
        .lines()
        .filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [uri, suite, "main"] => Some((uri.trim_end_matches('/'), suite)),
            _ => None,
        })
        .filter(|(uri, theirs)| {
            let codename = theirs.split('-').next().unwrap_or_default();
            theirs.ends_with("-security") == security && (CODENAMES.contains(&codename) || named_debian(uri))
        })
        .map(|(uri, _)| uri)
        .collect();
    mirrors.sort_by_key(|uri| !named_debian(uri));
    mirrors.first().copied()
}

/// A package as apt describes it.
#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    size: u64,
}

/// The stanzas of `apt-cache show`.
fn packages(text: &str) -> Vec<Package> {
    let package = |stanza: &str| {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        let size = field("Size")?.parse().ok()?;
        Some(Package {
            name: field("Package")?,
            version: field("Version")?,
            size,
        })
    };
    text.split("\n\n").filter_map(package).collect()
}

/// The newest package by dpkg's rules.
fn newest(packages: Vec<Package>) -> Result<Option<Package>, Failure> {
    let mut newest: Option<Package> = None;
    for package in packages {
        let newer = match &newest {
            None => true,
            Some(newest) => compare(&package.version, &newest.version)? == Ordering::Greater,
        };
        if newer {
            newest = Some(package);
        }
    }
    Ok(newest)
}

/// Orders two Debian versions. `dpkg` says no by status 1, so a failure to compare is any other.
fn compare(left: &str, right: &str) -> Result<Ordering, Failure> {
    for (operator, ordering) in [("gt", Ordering::Greater), ("eq", Ordering::Equal)] {
        let mut dpkg = Command::new("dpkg");
        match command::output(dpkg.args(["--compare-versions", left, operator, right])) {
            Ok(_) => return Ok(ordering),
            Err(Failure::Failed { status: Some(1), .. }) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(Ordering::Less)
}

/// apt with a configuration of its own.
struct Apt<'a> {
    folder: &'a Path,
    config: PathBuf,
}

impl<'a> Apt<'a> {
    fn configure(mirror: &str, suite: &str, folder: &'a Path) -> Result<Self, Error> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|source| cache::Error::io(&path, source))
        };
        for below in ["lists/partial", "archives/partial", "empty"] {
            let path = folder.join(below);
            fs::create_dir_all(&path).map_err(|source| cache::Error::io(&path, source))?;
        }
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
        write("status", "")?;
        write("kernel.sources", &source(mirror, suite, keyring))?;
        write("apt.conf", &config(folder))?;
        Ok(Self {
            folder,
            config: folder.join("apt.conf"),
        })
    }

    fn get(&self, args: &[&str]) -> Result<String, Failure> {
        self.run("apt-get", args)
    }

    fn cache(&self, args: &[&str]) -> Result<String, Failure> {
        self.run("apt-cache", args)
    }

    /// What apt knows of these packages; those it does not know are left out.
    fn show(&self, names: &[&str]) -> Result<Vec<Package>, Failure> {
        let mut found = Vec::new();
        // One by one, as apt fails as a whole over a single unknown name.
        for name in names {
            match self.cache(&["show", "--no-all-versions", name]) {
                Ok(text) => found.extend(packages(&text)),
                Err(Failure::Failed { stderr, .. }) if stderr.contains("No packages found") => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String, Failure> {
        command::output(
            Command::new(program)
                .arg("-q")
                .arg("-c")
                .arg(&self.config)
                .args(args)
                .current_dir(self.folder),
        )
    }
}

/// The one source, in deb822 form.
fn source(mirror: &str, suite: &str, keyring: Option<&str>) -> String {
    let signed_by = keyring
        .map(|path| format!("Signed-By: {path}\n"))
        .unwrap_or_default();
    format!(
        "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\n\
         Targets: Packages\n{signed_by}"
    )
}

/// apt's configuration, read after the machine's own, of which proxies and credentials stay.
fn config(folder: &Path) -> String {
    let folder = folder.display();
    // Hooks of the machine would clean its own package cache and wake its desktop. apt's sandbox
    // user cannot get into a cache folder that is its owner's alone.
    format!(
        r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "amd64";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "{folder}";
Dir::State::lists "lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::archives "archives";
Dir::Etc::sourcelist "{folder}/kernel.sources";
Dir::Etc::sourceparts "{folder}/empty";
Dir::Etc::preferences "{folder}/empty/none";
Dir::Etc::preferencesparts "{folder}/empty";
"#
    )
}

/// Sorts apt's failures by their remedy.
fn explain(failure: Failure, row: &Row, folder: &Path) -> Error {
    let Failure::Failed { stderr, .. } = &failure else {
        return failure.into();
    };
    let line = |marks: &[&str]| {
        let hit = |line: &&str| marks.iter().any(|mark| line.contains(mark));
        stderr
            .lines()
            .find(hit)
            .map(|line| line.trim_start_matches(['E', 'W', ':', ' ']).to_owned())
    };
    let suite = row.suite.clone();
    if let Some(detail) = line(&["NO_PUBKEY", "EXPKEYSIG", "is not signed"]) {
        Error::NoKey { suite, detail }
    } else if line(&["does not have a Release file"]).is_some() {
        Error::NoPackage {
            suite,
            package: row.package.clone(),
        }
    } else if line(&["No space left on device", "enough free space"]).is_some() {
        cache::Error::NoSpace {
            path: folder.to_owned(),
        }
        .into()
    } else if let Some(detail) = line(&["Failed to fetch", "Temporary failure"]) {
        Error::Network { detail }
    } else {
        failure.into()
    }
}
