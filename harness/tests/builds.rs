//! Kernels that are built here: every case under a sanitizer, patches that must be found, a bad commit that must be.
//!
//! Building takes minutes and some gigabytes. So this is done where `CI` is set, or where such a kernel has been built
//! already; otherwise it is left out, and said to be, as is whatever the time does not allow for.

mod observed;
#[expect(dead_code, reason = "some of it is for tests that boot kernels of the catalogue")]
mod ring;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use harness::report;
use harness::run::CaseResult;
use libtest_mimic::{Arguments, Completion, Failed};
use qemu::cache::Cache;
use qemu::kernel::build::{Recipe, was_built};

use observed::compare;
use ring::{PROGRAM, cases_dir};

/// Nothing is begun after so long. With nothing built before, the first ones take most of it, and the other tests need
/// theirs.
const TIME: Duration = Duration::from_secs(40 * 60);

static BEGUN: OnceLock<Instant> = OnceLock::new();
const LATE: &str = "left out: the time for kernels that are built is over";

fn is_over() -> bool {
    BEGUN.get().is_some_and(|begun| begun.elapsed() > TIME)
}

fn main() {
    let arguments = Arguments::from_args();
    let cache = Cache::open().unwrap_or_else(|error| panic!("{error}"));
    let missing = |kernel: &str| match Recipe::named(kernel) {
        _ if arguments.list || std::env::var_os("CI").is_some() => None,
        Some(recipe) if was_built(&recipe, &cache) => None,
        _ => Some(format!("{kernel} has not been built: `fuseproof kernels fetch {kernel}` does it")),
    };
    BEGUN.get_or_init(Instant::now);
    let trial = |name: &str, kernel: &str, test: fn() -> Result<(), Failed>| {
        ring::ignorable_trial(&format!("builds/{name}"), missing(kernel), move || match is_over() {
            true => Ok(Completion::ignored_with(LATE)),
            false => test().map(|()| Completion::Completed),
        })
    };
    // The one under a sanitizer first: it must not be left out for the others.
    let trials = vec![
        trial("every_case_passes_under_kasan", "kasan-6.12", || every_case(&["kasan-6.12"], "faults/")),
        trial("a_wrong_patch_is_found_and_named", "small-6.12", a_wrong_patch),
        trial("a_bad_commit_is_bisected", "small-6.12", a_bad_commit),
        trial("every_case_passes_before_the_merge", V12[0], || every_case(&V12, "v12/")),
        trial("every_case_passes_where_replies_list_pipes", "vz-splice", || {
            every_case(&["vz-splice"], "vz_splice/")
        }),
        trial("each_flaw_of_the_posted_form_is_caught", "vz-splice", each_flaw),
        trial("programs_that_nobody_wrote_get_data_through", "small-6.12", || {
            programs_that_nobody_wrote("small-6.12").map(drop)
        }),
        trial("what_such_programs_reach_is_told", "kasan-6.12", what_they_reach),
        trial("a_finding_is_listed_and_replayed", "small-6.12", a_finding),
        trial("a_length_that_nobody_checks_is_found", "kasan-6.12", a_length),
    ];
    // They share object folders and processors: one after the other.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    ring::run(&arguments, trials, String::new)
}

fn fuseproof(words: &[&str]) -> Result<Output, Failed> {
    Ok(Command::new(PROGRAM).args(words).arg("--cases").arg(cases_dir()).output()?)
}

/// A short campaign: its figures, its corpus, and its end as the exit code says.
fn programs_that_nobody_wrote(kernel: &str) -> Result<tempfile::TempDir, Failed> {
    let folder = tempfile::tempdir()?;
    let (report, kept) = (folder.path().join("report.json"), folder.path().join("kept"));
    let (to, into) = (format!("json={}", report.display()), kept.display().to_string());
    let words = ["--time", "20s", "--jobs", "1", "--seed", "1", "--folder", &into, "--report", &to];
    let output = fuseproof(&[&["fuzz", "--kernel", kernel], words.as_slice()].concat())?;
    let told: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&report).map_err(|_| said(&output))?)?;
    let figure = |name: &str| told[name].as_f64().unwrap_or(-1.0);
    let count = |name: &str| std::fs::read_dir(kept.join(name)).map_or(0, Iterator::count);
    assert!(figure("execs") > 20.0 && figure("passthrough_open_share") > 0.0, "{told}");
    assert!(figure("data_share") > 0.0 && figure("data_share") <= figure("passthrough_open_share"), "{told}");
    assert_eq!((told["seed"].as_u64(), count("findings") as f64), (Some(1), figure("findings")), "{told}");
    assert!(count("corpus/sequence") > 500, "the cases are the first inputs");
    assert_eq!(output.status.code(), Some(i32::from(figure("findings") > 0.0)), "{}", said(&output));
    let has_coverage = kernel.starts_with("kasan");
    assert_eq!(
        (figure("coverage") > 0.0, kept.join("coverage").is_dir()),
        (has_coverage, has_coverage),
        "{told}"
    );
    Ok(folder)
}

/// The same where the kernel says what is passed: all of it is told by file and line, and none of it without.
fn what_they_reach() -> Result<(), Failed> {
    let folder = programs_that_nobody_wrote("kasan-6.12")?;
    let (kept, report) = (folder.path().join("kept"), folder.path().join("coverage.json"));
    let (kept, to) = (kept.display().to_string(), format!("json={}", report.display()));
    let tell = |kernel: &str| {
        let words = ["fuzz", "coverage", "--folder", &kept, "--kernel", kernel, "--report", &to];
        Command::new(PROGRAM).args(words).output()
    };
    let output = tell("kasan-6.12")?;
    let told: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&report).map_err(|_| said(&output))?)?;
    let figures: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("report.json"))?)?;
    let passed = told["places"]["passed"].as_u64().unwrap_or(0);
    // A few functions of headers outside of fs/fuse are compiled by themselves.
    let figure = figures["coverage"].as_u64().unwrap_or(0);
    assert!(passed > 0 && passed <= figure && passed > figure * 9 / 10, "{passed} of {figure}: {told}");
    let table = String::from_utf8_lossy(&output.stdout);
    for file in ["fs/fuse/passthrough.c ", "fs/fuse/iomode.c ", "fs/fuse/dev.c ", "fs/backing-file.c "] {
        assert!(table.contains(file), "{}", said(&output));
    }
    let files = told["files"].as_array().ok_or("no files")?;
    let passthrough = files.iter().find(|file| file["name"] == "fs/fuse/passthrough.c").ok_or("not there")?;
    let opened = passthrough["function"].as_array().into_iter().flatten().any(|one| {
        one["name"] == "fuse_passthrough_open"
            && one["line"].as_u64() > Some(0)
            && one["places"]["passed"] != 0
    });
    assert!(opened, "{passthrough}");
    let page = table.lines().find_map(|line| line.strip_prefix("the page: ")).ok_or("no page")?;
    let page = std::fs::read_to_string(page)?;
    assert!(page.contains("struct fuse_backing *fuse_passthrough_open("), "the page has the source");
    let missing = tell("kasan-7.2")?;
    assert_eq!(missing.status.code(), Some(3), "{}", said(&missing));
    assert!(said(&missing).contains("has covered kasan-7.2"), "{}", said(&missing));
    Ok(())
}

/// A folder as a campaign leaves it: its case is judged, and what was not run again is first.
fn a_finding() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let finding = folder.path().join("findings/oracle-read-00000000");
    std::fs::create_dir_all(&finding)?;
    let put = |file: &str, text: &str| std::fs::write(finding.join(file), text);
    let case = |data: &str| {
        format!(
            "# A read gives what is in the file.\nrules OPEN-13\n\nhost lower tmpfs\nhost file \"a\" \"hello\"\n\
             daemon mount\napp open \"a\" O_RDONLY -> fd f\napp read f 5 -> \"{data}\"\n"
        )
    };
    put("kernel", "name = \"small-6.12\"\nrelease = \"6.12\"\ntarget = \"sequence\"\n")?;
    put("report.txt", "step 5, app read f 5: the oracle allows \"hello\"\n")?;
    put("rate", "input = \"9 of 10\"\ncase = \"10 of 10\"\n")?;
    put("input", "")?;
    std::fs::create_dir(finding.join("counts"))?;
    put("counts/somebody", "3")?;
    let path = finding.display().to_string();
    let replay = |data: &str| {
        put("case", &case(data))?;
        fuseproof(&["replay", &path])
    };
    let (right, wrong) = (replay("hello")?, replay("HELLO")?);
    assert_eq!((right.status.code(), wrong.status.code()), (Some(0), Some(1)), "{}", said(&wrong));
    assert!(said(&right).contains("app    read f 5 -> \"hello\""), "{}", said(&right));
    assert!(
        said(&wrong)
            .contains(&format!("replay --cases {} --kernel small-6.12 '{path}'", cases_dir().display()))
    );
    // A kernel with patches is nobody's name: on another one it is judged all the same.
    put("kernel", "name = \"small-6.12+patch\"\nrelease = \"6.12\"\ntarget = \"sequence\"\n")?;
    let (unsaid, said_so) =
        (fuseproof(&["replay", &path])?, fuseproof(&["replay", "--kernel", "small-6.12", &path])?);
    assert_eq!((unsaid.status.code(), said_so.status.code()), (Some(2), Some(1)), "{}", said(&said_so));
    assert!(said(&unsaid).contains("or say on which kernel: `--kernel`"), "{}", said(&unsaid));
    put("kernel", "name = \"small-6.12\"\nrelease = \"6.12\"\ntarget = \"sequence\"\n")?;
    let into = folder.path().display().to_string();
    let listed = said(&fuseproof(&["findings", "--folder", &into])?);
    let line = "oracle-read-00000000  3 times, 9 of 10 alone, 10 of 10 as a case, on small-6.12 (6.12)";
    assert!(listed.contains(line) && listed.contains("1 findings, 0 known"), "{listed}");
    put("rate", "# not replayed yet\n")?;
    let completed = fuseproof(&["replay", &path])?;
    let rate = std::fs::read_to_string(finding.join("rate"))?;
    // What the empty input stands for does nothing that is wrong: the case stays.
    assert!(rate.contains("input = \"0 of 10\"") && !rate.contains("case"), "{rate}{}", said(&completed));
    assert_eq!(std::fs::read_to_string(finding.join("case"))?, case("HELLO"));
    assert_eq!(completed.status.code(), Some(1), "{}", said(&completed));
    Ok(())
}

/// A device that lies finds out a kernel that believes it, as this one believes the length of an answer (VFS-04).
fn a_length() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let into = folder.path().display().to_string();
    let what = ["fuzz", "--kernel", "kasan-6.12", "--target", "virtio_reply", "--until-found"];
    let how = ["--time", "5m", "--jobs", "1", "--seed", "1", "--folder", &into];
    let output = fuseproof(&[what.as_slice(), &how].concat())?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let read = |finding: &Path, file: &str| std::fs::read_to_string(finding.join(file)).unwrap_or_default();
    let findings = std::fs::read_dir(folder.path().join("findings"))?.flatten().map(|finding| finding.path());
    let came_again = |finding: &PathBuf| {
        let rate = read(finding, "rate");
        rate.contains("input = ") && !rate.contains("input = \"0 of")
    };
    let finding = findings.filter(|path| path.is_dir()).find(came_again).ok_or_else(|| said.clone())?;
    let case = read(&finding, "case");
    let lies = case.lines().filter(|line| line.contains("answer ") && !line.contains("honest")).count();
    assert!(case.contains("\nmount\n") && lies > 0, "{case}\n{said}");
    let again = fuseproof(&["replay", &finding.display().to_string()])?;
    assert_eq!(again.status.code(), Some(1), "{}", self::said(&again));
    Ok(())
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// The three forms of passthrough before the merge.
const V12: [&str; 3] = ["v12", "v12-posted", "v12-rework"];

/// No case fails on any of them, and what the group that is about such kernels observes is what its snapshots say.
fn every_case(kernels: &[&str], group: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let saved = folder.path().join("run");
    let wanted = kernels.iter().flat_map(|kernel| ["--kernel", kernel]);
    let saving = ["--save", saved.to_str().ok_or("a folder whose name is no text")?];
    let output = fuseproof(&["run"].into_iter().chain(wanted).chain(saving).collect::<Vec<_>>())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let totals =
        text.lines().filter(|line| kernels.iter().any(|kernel| line.starts_with(&format!("{kernel} ("))));
    eprintln!("{}", totals.collect::<Vec<_>>().join("\n"));
    if !output.status.success() {
        return Err(said(&output).into());
    }
    let run = report::read_events(&std::fs::read_to_string(saved.join("events.jsonl"))?)?;
    let mut files: BTreeMap<&str, Vec<(&str, Vec<&CaseResult>)>> = BTreeMap::new();
    for kernel in &run.kernels {
        for case in kernel.cases.iter().filter(|case| case.path.starts_with(group)) {
            let file = files.entry(case.path.split('[').next().unwrap_or_default()).or_default();
            match file.last_mut().filter(|(name, _)| *name == kernel.name) {
                Some((_, cases)) => cases.push(case),
                None => file.push((&kernel.name, vec![case])),
            }
        }
    }
    // A walk of allocations that walks nothing shows nothing.
    let walked = run.kernels.iter().filter(|kernel| kernel.points() > Some(0)).count();
    if group == "faults/" && walked < kernels.len() {
        return Err("no allocation was made to fail".into());
    }
    for (path, runs) in files {
        compare("built", path, &runs[0].1[0].title, &report::observed(&runs));
    }
    Ok(())
}

/// A kernel with one flaw fails the cases that are there for it.
fn each_flaw() -> Result<(), Failed> {
    let mut flaws: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in include_str!("../../qemu/dialects/vz-splice-flaws.tsv").lines().skip(1) {
        let [switch, _, case, _] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err(line.into());
        };
        flaws.entry(switch.rsplit_once('_').ok_or(line)?.1).or_default().push(case);
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("report.json");
    let mut missed = Vec::new();
    let all = flaws.len();
    for (index, (flaw, cases)) in flaws.into_iter().enumerate() {
        if is_over() {
            eprintln!("{LATE}, {} of {all} flaws with it", all - index);
            break;
        }
        let (kernel, report) = (format!("vz-splice-as-posted-{flaw}"), format!("json={}", path.display()));
        let words = ["run", "--kernel", &kernel, "--report", &report];
        let output = fuseproof(&words.into_iter().chain(cases.iter().copied()).collect::<Vec<_>>())?;
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let seen = report["kernels"][0]["cases"].as_array().ok_or_else(|| said(&output))?;
        let wrong = seen.iter().filter(|case| case["verdict"] == "failed" || case["verdict"] == "lost");
        let wrong: BTreeSet<_> = wrong.filter_map(|case| case["path"].as_str()?.split('[').next()).collect();
        eprintln!("{kernel}: {}", wrong.iter().copied().collect::<Vec<_>>().join(" "));
        if !cases.iter().all(|case| wrong.contains(case)) {
            missed.push(format!("{kernel}: {}", said(&output)));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n").into()) }
}

fn mutants() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu/mutants/6.12")
}

/// The patches are copied, each into a folder of its own, and judged; what the report says of each.
fn judged(names: &[&str], filter: &str) -> Result<Vec<serde_json::Value>, Failed> {
    let folder = tempfile::tempdir()?;
    for name in names {
        std::fs::copy(mutants().join(name), folder.path().join(name))?;
    }
    let report = folder.path().join("report.json");
    let (patches, path) = (folder.path().display().to_string(), format!("json={}", report.display()));
    let output =
        fuseproof(&["validate", "--source", "6.12", "--patches", &patches, "--report", &path, filter])?;
    if !output.status.success() {
        return Err(said(&output).into());
    }
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report)?)?;
    Ok(report["patches"].as_array().cloned().unwrap_or_default())
}

fn a_wrong_patch() -> Result<(), Failed> {
    expect(&judged(&[PLAIN.0], PLAIN.1)?, PLAIN.2, "small-6.12+patch")
}

/// A mutant, cases that find it, a rule that is named.
const PLAIN: (&str, &str, &str) = ("backing-id-reused.patch", "backing_open/", "BOPEN-20");
fn expect(patches: &[serde_json::Value], rule: &str, kernel: &str) -> Result<(), Failed> {
    let [patch] = patches else { return Err(format!("{} patches", patches.len()).into()) };
    let found = patch["by"].as_array().into_iter().flatten();
    let named = found.filter(|by| {
        by["kernel"] == kernel && by["rules"].as_array().is_some_and(|all| all.iter().any(|one| one == rule))
    });
    if named.count() > 0 { Ok(()) } else { Err(format!("{patch:#}").into()) }
}

/// A history of the source with one bad commit in it.
fn a_bad_commit() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("linux");
    run(Command::new(PROGRAM).args(["kernels", "fetch", "small-6.12"]))?;
    let copied = source()?;
    let copy = |from: PathBuf| {
        let mut cp = Command::new("cp");
        run(cp.args(["--archive", "--reflink=auto", "--no-target-directory"]).arg(from).arg(&tree))
    };
    copy(copied.join("src"))?;
    // The last one's patches are still in it; these files are as they came.
    copy(copied.join("original"))?;
    // The copy that is made of a tree, and its objects, go with it.
    let cache = folder.path().join("cache");
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        run(git.arg("-C").arg(&tree).args(IDENTITY).args(words).env(qemu::cache::VARIABLE, &cache))
    };
    git(&["init", "--quiet"])?;
    git(&["add", "--force", "."])?;
    git(&["commit", "--quiet", "--message", "source"])?;
    git(&["tag", "good"])?;
    let edit = |file: &str, from: &str, to: &str, subject: &str| {
        let path = tree.join(file);
        let text = std::fs::read_to_string(&path)?;
        if text.matches(from).count() != 1 {
            return Err(Failed::from(format!("{from:?} does not stand once in {file}")));
        }
        std::fs::write(&path, text.replace(from, to))?;
        git(&["commit", "--quiet", "--all", "--message", subject]).map(drop)
    };
    let (file, end) =
        ("fs/fuse/passthrough.c", "int fuse_backing_close(struct fuse_conn *fc, int backing_id)\n{\n");
    edit(file, end, &format!("{end}\t/* A comment. */\n"), "harmless")?;
    edit("fs/fuse/readdir.c", "#include <linux/iversion.h>", "#error not yet", "does not build")?;
    edit("fs/fuse/readdir.c", "#error not yet", "#include <linux/iversion.h>", "builds again")?;
    edit(
        file,
        "\terr = -ENOENT;\n\tfb = fuse_backing_id_remove",
        "\terr = -EBADF;\n\tfb = fuse_backing_id_remove",
        "the bad one",
    )?;
    edit(file, "\t/* A comment. */\n", "", "harmless again")?;
    git(&["bisect", "start", "HEAD", "good"])?;
    let cases = cases_dir().display().to_string();
    let found = git(&["bisect", "run", PROGRAM, "bisect-step", "--cases", &cases, "backing_close/"])?;
    let bad = git(&["log", "-1", "--format=%s", "refs/bisect/bad"])?;
    if bad.trim() == "the bad one" { Ok(()) } else { Err(format!("{bad}\n{found}").into()) }
}

/// Where the cache has the source of 6.12.
fn source() -> Result<PathBuf, Failed> {
    let items = std::fs::read_dir(Cache::open()?.root())?.flatten();
    let is_ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tree-6.12-"))
    };
    let tree = items.map(|item| item.path()).find(is_ours);
    Ok(tree.ok_or("there is no source of 6.12 in the cache")?)
}

/// Who commits: nobody's own configuration is needed.
const IDENTITY: [&str; 6] =
    ["-c", "user.name=test", "-c", "user.email=test@example", "-c", "core.compression=0"];

/// What a command printed, if it succeeded.
fn run(command: &mut Command) -> Result<String, Failed> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", said(&output)).into()),
    }
}
