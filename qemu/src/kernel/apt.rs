//! Fetches the packages of a row, or others by name, through apt, with a configuration and a state of
//! its own, so that the machine's package lists and hooks stay out of it. apt verifies signatures and
//! hashes; nothing here talks to a network, and nothing is installed.

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
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

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
    let mirror = mirror_of(&row.suite, &row.package, folder)?;
    fetch_from(&mirror, row, folder, progress)
}

/// Fetches the newest packages of these names from a suite into the empty folder `folder`; gives the files.
///
/// # Errors
/// As those of [`fetch`].
pub(crate) fn fetch_named(
    suite: &str,
    names: &[&str],
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<Vec<PathBuf>, Error> {
    let explain = |failure| explain(failure, suite, &names.join(", "), folder);
    let apt = Apt::configure(&mirror_of(suite, names[0], folder)?, suite, Kind::Binary, folder)?;
    apt.update(suite, progress).map_err(explain)?;
    progress.say(&format!("fetching {}", names.join(", ")));
    apt.get(&[&["download"], names].concat()).map_err(explain)?;
    with_extension(folder, "deb")
}

/// Fetches the newest source of a package from a suite into the empty folder `folder`; gives its `.dsc` file.
///
/// # Errors
/// As those of [`fetch`].
pub(crate) fn fetch_source(
    suite: &str,
    name: &str,
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, Error> {
    let explain = |failure| explain(failure, suite, name, folder);
    let apt = Apt::configure(&mirror_of(suite, name, folder)?, suite, Kind::Source, folder)?;
    apt.update(suite, progress).map_err(explain)?;
    progress.say(&format!("fetching the source of {name}"));
    apt.get(&["source", "--download-only", name]).map_err(explain)?;
    let found = with_extension(folder, "dsc")?.into_iter().next();
    found.ok_or_else(|| Error::NoPackage { suite: suite.into(), package: name.into() })
}

/// The archive that serves a suite, by what the machine's apt is configured with.
fn mirror_of(suite: &str, package: &str, folder: &Path) -> Result<String, Error> {
    let targets = command::output(&mut indextargets());
    let targets = targets.map_err(|failure| explain(failure, suite, package, folder))?;
    let mirror = mirror(&targets, suite).map(str::to_owned);
    mirror.ok_or_else(|| Error::NoDebianSource { suite: suite.to_owned() })
}

fn with_extension(folder: &Path, wanted: &str) -> Result<Vec<PathBuf>, Error> {
    let items = fs::read_dir(folder).map_err(|source| cache::Error::io(folder, source))?;
    let files = items.flatten().map(|item| item.path());
    Ok(files.filter(|path| path.extension().is_some_and(|extension| extension == wanted)).collect())
}

/// [`fetch`] from the archive at the URI `mirror`.
fn fetch_from(mirror: &str, row: &Row, folder: &Path, progress: &mut dyn Progress) -> Result<Fetched, Error> {
    let explain = |failure| explain(failure, &row.suite, &row.package, folder);
    let apt = Apt::configure(mirror, &row.suite, Kind::Binary, folder)?;
    apt.update(&row.suite, progress).map_err(explain)?;

    let names = apt.cache(&["pkgnames", row.prefix()]).map_err(explain)?;
    let names: Vec<_> = names.lines().filter(|name| row.matches(name)).collect();
    let image = newest(apt.show(&names).map_err(explain)?)
        .map_err(explain)?
        .ok_or_else(|| Error::NoPackage { suite: row.suite.clone(), package: row.package.clone() })?;

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
    args.extend(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    apt.get(&args).map_err(explain)?;

    Ok(Fetched { package, files: with_extension(folder, "deb")? })
}

/// The other packages that an image package is split into: since 6.19 the modules and the lists of
/// what is built in have packages of their own. Older ones carry everything.
fn companions(image: &str) -> Vec<String> {
    match image.strip_prefix("linux-binary-") {
        Some(release) => vec![format!("linux-modules-{release}"), format!("linux-base-{release}")],
        None => Vec::new(),
    }
}

/// Asks apt what its sources name, a line a target: URI, suite, component. apt has parsed both of
/// its formats for that.
fn indextargets() -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--no-release-info", "--format", "$(SITE) $(RELEASE) $(COMPONENT)"])
        .arg("Created-By: Packages");
    apt
}

/// The archive that serves `suite`, judged by the lines of [`indextargets`].
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
            stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        let size = field("Size")?.parse().ok()?;
        Some(Package { name: field("Package")?, version: field("Version")?, size })
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

/// What of a suite is read.
#[derive(Clone, Copy)]
enum Kind {
    Binary,
    Source,
}

/// apt with a configuration of its own.
struct Apt<'a> {
    folder: &'a Path,
    config: PathBuf,
}

impl<'a> Apt<'a> {
    fn configure(mirror: &str, suite: &str, kind: Kind, folder: &'a Path) -> Result<Self, Error> {
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
        write("kernel.sources", &source(mirror, suite, kind, keyring))?;
        write("apt.conf", &config(folder))?;
        Ok(Self { folder, config: folder.join("apt.conf") })
    }

    fn update(&self, suite: &str, progress: &mut dyn Progress) -> Result<(), Failure> {
        progress.say(&format!("reading what the suite {suite} offers"));
        self.get(&["update"]).map(drop)
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
            Command::new(program).arg("-q").arg("-c").arg(&self.config).args(args).current_dir(self.folder),
        )
    }
}

/// The one source, in deb822 form.
fn source(mirror: &str, suite: &str, kind: Kind, keyring: Option<&str>) -> String {
    let signed_by = keyring.map(|path| format!("Signed-By: {path}\n")).unwrap_or_default();
    let (kind, targets) = match kind {
        Kind::Binary => ("deb", "Packages"),
        Kind::Source => ("deb-src", "Sources"),
    };
    format!(
        "Types: {kind}\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\n\
         Targets: {targets}\n{signed_by}"
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
fn explain(failure: Failure, suite: &str, package: &str, folder: &Path) -> Error {
    let Failure::Failed { stderr, .. } = &failure else {
        return failure.into();
    };
    let line = |marks: &[&str]| {
        let hit = |line: &&str| marks.iter().any(|mark| line.contains(mark));
        stderr.lines().find(hit).map(|line| line.trim_start_matches(['E', 'W', ':', ' ']).to_owned())
    };
    let (suite, package) = (suite.to_owned(), package.to_owned());
    if let Some(detail) = line(&["NO_PUBKEY", "EXPKEYSIG", "is not signed"]) {
        Error::NoKey { suite, detail }
    } else if line(&[
        "does not have a Release file",
        "Unable to locate package",
        "Unable to find a source package",
    ])
    .is_some()
    {
        Error::NoPackage { suite, package }
    } else if command::is_out_of_space(stderr) {
        cache::Error::NoSpace { path: folder.to_owned() }.into()
    } else if let Some(detail) = line(&["Failed to fetch", "Temporary failure"]) {
        Error::Network { detail }
    } else {
        failure.into()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::row;
    use super::*;
    use crate::progress::Quiet;

    const SOURCES: &str = "\
Types: deb
URIs: http://debian.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://debian.example/debian-security
Suites: bookworm-security
Components: main
";

    const LIST: &str = "\
deb [arch=amd64] http://other.example/linux/debian bookworm stable
deb http://tools.example/apt nodistro main
deb-src http://sources.example/debian bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://debian.example/debian bookworm main
deb http://debian.example/debian-security bookworm-security main
";

    #[rstest]
    #[case("kernel.sources", SOURCES)]
    #[case("kernel.list", LIST)]
    fn both_formats_of_sources_lead_to_the_same_archives(#[case] name: &str, #[case] text: &str) {
        let folder = tempfile::tempdir().expect("temp");
        let file = folder.path().join(name);
        fs::write(&file, text).expect("written");
        let mut apt = indextargets();
        apt.arg("-o").arg(format!("Dir::Etc::sourcelist={}", file.display()));
        apt.arg("-o").arg(format!("Dir::Etc::sourceparts={}", folder.path().join("none").display()));
        apt.arg("-o").arg(format!("Dir::State={}", folder.path().display()));
        let targets = command::output(&mut apt).expect("apt-get runs");
        assert_eq!(mirror(&targets, "trixie-backports"), Some("http://debian.example/debian"));
        assert_eq!(mirror(&targets, "bullseye-security"), Some("http://debian.example/debian-security"));
    }

    #[rstest]
    #[case::another_distribution("http://archive.example/ubuntu noble main", "sid", None)]
    #[case::a_vendor_with_debians_names("http://vendor.example/apt stable main", "sid", None)]
    #[case::only_the_security_archive("http://m.example/debian-security bookworm-security main", "sid", None)]
    #[case::no_security_archive("http://m.example/debian bookworm main", "bookworm-security", None)]
    #[case::stable_by_its_path("http://m.example/debian stable main", "sid", Some("http://m.example/debian"))]
    #[case::a_path_of_its_own("http://m.example/d12 bookworm main", "sid", Some("http://m.example/d12"))]
    #[case::the_likelier_of_two(
        "http://v.example/apt bookworm main\nhttp://m.example/debian bookworm main",
        "sid",
        Some("http://m.example/debian")
    )]
    #[case::nothing("", "sid", None)]
    fn a_mirror_is_told_by_suite_or_path(
        #[case] targets: &str,
        #[case] suite: &str,
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(mirror(targets, suite), expected);
    }

    #[rstest]
    #[case(&["6.12.9-1", "6.12.117-1", "6.12.43-1"], "6.12.117-1")]
    #[case(&["7.3~rc7-1~exp1", "7.3-1", "7.3~rc10-1~exp1"], "7.3-1")]
    #[case(&["6.1.192-2", "6.1.192-10"], "6.1.192-10")]
    fn the_newest_is_so_by_dpkgs_rules(#[case] versions: &[&str], #[case] expected: &str) {
        let package = |version: &&str| Package { name: "p".into(), version: (*version).into(), size: 1 };
        let newest = newest(versions.iter().map(package).collect()).expect("dpkg runs");
        assert_eq!(newest.expect("one").version, expected);
    }

    #[test]
    fn stanzas_are_read_and_incomplete_ones_left_out() {
        let text = "Package: a\nVersion: 1-1\nSize: 12\nDescription: x\n y\n\nPackage: b\nVersion: 2\n\n";
        let a = Package { name: "a".into(), version: "1-1".into(), size: 12 };
        assert_eq!(packages(text), [a]);
        assert_eq!(packages(""), []);
    }

    #[test]
    fn split_kernels_have_companions() {
        insta::assert_snapshot!(
            companions("linux-binary-7.2.13+deb14-cloud-amd64").join("\n"),
            @"
        linux-modules-7.2.13+deb14-cloud-amd64
        linux-base-7.2.13+deb14-cloud-amd64
        "
        );
        assert!(companions("linux-image-6.12.117+deb12-cloud-amd64").is_empty());
    }

    #[test]
    fn the_source_names_one_suite_and_its_keys() {
        insta::assert_snapshot!(source("http://m.example/debian", "sid", Kind::Binary, Some("/keys.gpg")), @"
        Types: deb
        URIs: http://m.example/debian
        Suites: sid
        Components: main
        Architectures: amd64
        Targets: Packages
        Signed-By: /keys.gpg
        ");
    }

    #[test]
    fn apts_complaints_are_sorted_by_remedy() {
        let said = [
            "E: Failed to fetch http://m.example/debian/dists/sid/InRelease  Could not resolve 'm.example'\n\
             E: Some index files failed to download. They have been ignored, or old ones used instead.",
            "W: GPG error: http://m.example/debian sid InRelease: The following signatures couldn't be \
             verified because the public key is not available: NO_PUBKEY 6ED0E7B82643E131\n\
             E: The repository 'http://m.example/debian sid InRelease' is not signed.",
            "E: The repository 'http://m.example/debian nosuchsuite Release' does not have a Release file.",
            "E: Failed to fetch http://m.example/p.deb  Error writing to file - write (28: No space left on device)",
            "E: Could not get lock lists/lock. It is held by process 12 (apt-get)",
            "",
        ];
        let row = row("7.2").expect("row");
        let explained = said.map(|stderr| {
            let command = "apt-get -q update".to_owned();
            let failure = Failure::Failed { command, status: Some(100), stderr: stderr.to_owned() };
            explain(failure, &row.suite, &row.package, Path::new("/cache/kernel")).to_string()
        });
        insta::assert_snapshot!(explained.join("\n"), @"
        the Debian mirror cannot be reached (Failed to fetch http://m.example/debian/dists/sid/InRelease  Could not resolve 'm.example'): check the network and apt's proxy settings, then try again
        apt cannot verify the suite sid (GPG error: http://m.example/debian sid InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 6ED0E7B82643E131): bring the keys up to date with `apt-get install debian-archive-keyring`
        no package in the suite sid is called linux-binary-7.2.*-cloud-amd64: pick another name from `fuseproof kernels list`, or give the path of a kernel
        no space left on the device for /cache/kernel: free some, or set FUSEPROOF_CACHE to a folder on a larger file system
        `apt-get -q update` failed (Could not get lock lists/lock. It is held by process 12 (apt-get)): mend what it complains about, or give the path of a kernel
        `apt-get -q update` failed (it gave no reason): mend what it complains about, or give the path of a kernel
        ");
    }

    #[test]
    fn a_missing_apt_says_what_to_install() {
        let failure = command::output(&mut Command::new("apt-get-that-is-not-there")).expect_err("missing");
        let error = explain(failure, "sid", "linux-image", Path::new("/cache"));
        insta::assert_snapshot!(error, @"apt-get-that-is-not-there was not found, and kernels are fetched with it: install apt and dpkg, or give the path of a kernel");
    }

    #[test]
    fn a_mirror_out_of_reach_is_a_network_error() {
        let folder = tempfile::tempdir().expect("temp");
        // A blank in the path, as home folders may have it, has to pass through apt's configuration.
        let folder = folder.path().join("a b");
        fs::create_dir(&folder).expect("made");
        // The discard port, on which nobody listens.
        let row = row("7.2").expect("row");
        let error = fetch_from("http://127.0.0.1:9/debian", row, &folder, &mut Quiet).expect_err("refused");
        assert!(matches!(error, Error::Network { .. }), "{error}");
    }
}
