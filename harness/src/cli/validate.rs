//! `fuseproof validate` and `fuseproof bisect-step`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use qemu::cache::Cache;
use qemu::kernel::KernelSpec;
use qemu::kernel::build::{Recipe, Source, dialect, dialects, flavour, flavours, plain};

use super::messages::Messages;
use super::out::{outln, print};
use super::progress::Lines;
use super::run::{CASES, Loaded, jobs, load, stop_on_ctrl_c};
use super::{Exit, are_there, cases_folder, own_program, reports, trouble};
use crate::report::{self, Bar, Row};
use crate::run::{Deviations, Event, SubjectError};
use crate::script::Case;
use crate::validate::{self, Base, Depth, Desk, Hear};

/// What a kernel patch changes, and whether that is right.
///
/// All cases run without it and with it, and with it under KASAN, lockdep and kmemleak.
/// Kernels are built from source when they are first needed; after that another patch costs the files that it touches. A
/// difference that does not come again in a second run does not count.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:
  0  no rule is broken, or with --patches: each was judged
  1  a rule is broken, or the kernel complains
  2  the command line or a case file is wrong
  3  a patch does not apply or does not build, or trouble with a machine or this computer")]
pub(super) struct Validate {
    /// Run only cases whose name contains one of these.
    filter: Vec<String>,
    /// A name from `fuseproof kernels list`, a tarball, or a git tree.
    #[arg(long, value_name = "SOURCE", required_unless_present = "base")]
    source: Option<String>,
    /// A patch on it; several are applied in this order and judged together.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "source", conflicts_with = "patches")]
    patch: Vec<PathBuf>,
    /// A folder of patches, each judged by itself, and only until something is found.
    #[arg(long, value_name = "DIR", requires = "source")]
    patches: Option<PathBuf>,
    /// What the patches make of the source: they are compared with our own kernel of that dialect.
    #[arg(long, value_name = "DIALECT", requires = "source")]
    dialect: Option<String>,
    /// In place of a source and patches: the kernel without them ...
    #[arg(long, value_name = "KERNEL", requires = "kernel", conflicts_with = "source")]
    base: Option<KernelSpec>,
    /// ... and the kernel with them.
    #[arg(long, value_name = "KERNEL", requires = "base")]
    kernel: Option<KernelSpec>,
    /// Run only cases that rest on this rule (`OPEN-05`) or group of rules (`OPEN`); may be repeated.
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// How many machines may be alive at once [default: one a processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Write a report, too: `json`, `html` (one page), or `mail` (text for a list); may be repeated.
    #[arg(long, value_name = "KIND=PATH", value_parser = reports::parse::<Kind>)]
    report: Vec<(Kind, PathBuf)>,
    /// The folder of the cases [default: `cases` here, or the project's].
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    messages: Messages,
}

/// A step of `git bisect run` on a kernel's tree.
///
/// Builds the tree, runs cases, and says by its exit code whether the kernel is good.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:
  0    good: no case fails
  1    bad: a case fails
  125  cannot tell: it does not build, does not boot, or this computer is in the way")]
pub(super) struct Step {
    /// Run only cases whose name contains one of these.
    filter: Vec<String>,
    /// The kernel's git tree.
    #[arg(long, value_name = "DIR", default_value = ".")]
    tree: PathBuf,
    /// Run only cases that rest on this rule or group of rules; may be repeated.
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// What to build it with.
    #[arg(long, value_name = "FLAVOUR", default_value = "small", value_parser = flavour_names())]
    flavour: String,
    /// The folder of the cases [default: `cases` here, or the project's].
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
}

fn flavour_names() -> PossibleValuesParser {
    PossibleValuesParser::new(flavours().iter().map(|flavour| flavour.name.as_str()))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Json,
    Html,
    Mail,
}

pub(super) fn validate(arguments: &Validate) -> Exit {
    let folder = cases_folder(arguments.cases.as_deref());
    let loaded = match load(&folder) {
        Ok(loaded) => loaded,
        Err(error) => {
            arguments.messages.tell(error, &folder);
            return Exit::Usage;
        }
    };
    // All that may be wrong with the command line, before minutes go into building.
    let wanted = (|| {
        let recipe = arguments.recipe()?;
        let cases = loaded.select(&folder, &arguments.filter, &arguments.rule)?;
        Ok::<_, String>((arguments.base(recipe.as_ref())?, recipe, arguments.patch_files()?, cases))
    })();
    let (base, recipe, files, cases) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("fuseproof: {error}");
            return Exit::Usage;
        }
    };
    let judged = Site::new(&folder, loaded, cases, Exit::Trouble)
        .and_then(|site| shown(|hear| judge(arguments, &site, base, recipe.as_ref(), &files, hear)));
    match judged {
        Ok(exit) => exit,
        Err(error) => trouble(&error),
    }
}

impl Validate {
    /// What the base is built from; none if it is a kernel that is given.
    fn recipe(&self) -> Result<Option<Recipe>, String> {
        let Some(source) = &self.source else { return Ok(None) };
        if self.patch.is_empty() && self.patches.is_none() {
            return Err("nothing to judge: give --patch FILE or --patches DIR".into());
        }
        are_there(&self.patch)?;
        Ok(Some(Recipe::new(Source::named(source), plain())))
    }

    /// The files in the folder of patches.
    fn patch_files(&self) -> Result<Vec<PathBuf>, String> {
        let Some(folder) = &self.patches else { return Ok(Vec::new()) };
        let items =
            fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
        let mut files: Vec<PathBuf> = items.flatten().map(|item| item.path()).collect();
        files.retain(|path| path.extension().is_some_and(|kind| kind == "patch" || kind == "diff"));
        files.sort();
        match files.is_empty() {
            true => Err(format!("{} holds no file that ends in .patch or .diff", folder.display())),
            false => Ok(files),
        }
    }

    /// The kernel to compare with.
    fn base(&self, recipe: Option<&Recipe>) -> Result<KernelSpec, String> {
        if let Some(name) = &self.dialect {
            let dialect = dialect(name).ok_or_else(|| {
                let names: Vec<_> = dialects().iter().map(|dialect| dialect.name.as_str()).collect();
                format!("there is no dialect {name}; there are {}", names.join(", "))
            })?;
            return Ok(KernelSpec::Built(Box::new(Recipe::of_dialect(dialect, plain()))));
        }
        match (recipe, &self.base) {
            (Some(recipe), _) => Ok(KernelSpec::Built(Box::new(recipe.clone()))),
            (None, Some(base)) => Ok(base.clone()),
            (None, None) => Err("give --source or --base".into()),
        }
    }
}

/// What both commands work with.
struct Site {
    cases: Vec<Case>,
    loaded: Loaded,
    deviations: Deviations,
    cache: Cache,
    program: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Site {
    /// `left` is the exit code of a program that is left at once.
    fn new(folder: &Path, loaded: Loaded, cases: Vec<Case>, left: Exit) -> Result<Site, Box<dyn Error>> {
        Ok(Site {
            cases,
            deviations: Deviations::load(folder, &loaded.cases)?,
            loaded,
            cache: Cache::open()?,
            program: own_program()?,
            stop: stop_on_ctrl_c(left, CASES)?,
        })
    }

    fn desk(&self, jobs: usize) -> Desk<'_> {
        Desk {
            cases: &self.cases,
            probes: &self.loaded.probes,
            deviations: &self.deviations,
            rules: &self.loaded.rules,
            jobs,
            program: &self.program,
            cache: &self.cache,
            stop: &self.stop,
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Do something whose progress is shown.
fn shown<T>(work: impl FnOnce(&mut Hear<'_>) -> T) -> T {
    let (mut lines, mut bar) = (Lines::default(), Bar::default());
    let mut events = |event: &Event| bar.hear(event);
    work(&mut Hear { progress: &mut lines, events: &mut events })
}

/// Judge what was given, and tell it.
fn judge(
    arguments: &Validate,
    site: &Site,
    base: KernelSpec,
    recipe: Option<&Recipe>,
    files: &[PathBuf],
    hear: &mut Hear<'_>,
) -> Result<Exit, Box<dyn Error>> {
    let desk = site.desk(jobs(arguments.jobs));
    let base = Base::run(&desk, base, hear)?;
    let law = |rule: &str| site.loaded.rules.get(rule).map(|rule| rule.law.clone());
    if let (Some(_), Some(recipe)) = (&arguments.patches, recipe) {
        return many(arguments, &desk, &base, recipe, files, hear, &law);
    }
    let validation = match (recipe, &arguments.kernel) {
        (Some(recipe), _) => validate::patches(&desk, &base, recipe, &arguments.patch, Depth::Full, hear)?,
        (None, Some(kernel)) => validate::kernel(&desk, &base, kernel.clone(), hear)?,
        (None, None) => return Err("give --kernel".into()),
    };
    if site.is_stopped() {
        // Half a run would be told as a verdict.
        eprintln!("fuseproof: not every case was run to its end");
        return Ok(Exit::Trouble);
    }
    print(report::validation(&validation, &law))?;
    for (kind, path) in &arguments.report {
        let text = match kind {
            Kind::Json => report::validation_json(&validation)?,
            Kind::Html => report::validation_html(std::slice::from_ref(&validation), &law)?,
            Kind::Mail => report::mail(&validation, &law),
        };
        reports::put(path, &text)?;
    }
    Ok(match (validation.is_bad(), validation.trouble) {
        (true, _) => Exit::Deviation,
        (false, Some(_)) => Exit::Trouble,
        (false, None) => Exit::Expected,
    })
}

/// Each patch of a folder by itself; one that cannot be judged takes nothing from the others.
fn many(
    arguments: &Validate,
    desk: &Desk<'_>,
    base: &Base,
    recipe: &Recipe,
    files: &[PathBuf],
    hear: &mut Hear<'_>,
    law: &dyn Fn(&str) -> Option<String>,
) -> Result<Exit, Box<dyn Error>> {
    let (mut rows, mut validations) = (Vec::new(), Vec::new());
    for file in files {
        let row = match validate::patches(
            desk,
            base,
            recipe,
            std::slice::from_ref(file),
            Depth::UntilFound,
            hear,
        ) {
            Ok(validation) => {
                let row = Row::of(&validation);
                validations.push(validation);
                row
            }
            Err(error) => Row::not_judged(&file.file_name().unwrap_or_default().to_string_lossy(), &error),
        };
        if desk.stop.load(Ordering::SeqCst) {
            // Half a run finds nothing, or too much.
            break;
        }
        outln!("{}", row.line());
        rows.push(row);
        // After each, so that a night's work survives whatever ends it.
        for (kind, path) in &arguments.report {
            let text = match kind {
                Kind::Json => report::patches_json(&rows)?,
                Kind::Html => report::validation_html(&validations, law)?,
                Kind::Mail => validations.iter().map(|one| report::mail(one, law) + "\n").collect(),
            };
            reports::put(path, &text)?;
        }
    }
    let found = rows.iter().filter(|row| row.detected == Some(true)).count();
    outln!("{found} of {} detected", rows.len());
    let all = rows.len() == files.len() && rows.iter().all(|row| row.detected.is_some());
    Ok(if all { Exit::Expected } else { Exit::Trouble })
}

/// The exit code for `git bisect run`.
pub(super) fn step(arguments: &Step) -> Exit {
    match is_good(arguments) {
        Ok(true) => Exit::Expected,
        Ok(false) => Exit::Deviation,
        Err(error) => {
            eprintln!("fuseproof: cannot tell: {error}");
            Exit::CannotTell
        }
    }
}

fn is_good(arguments: &Step) -> Result<bool, Box<dyn Error>> {
    let folder = cases_folder(arguments.cases.as_deref());
    let loaded = load(&folder)?;
    let cases = loaded.select(&folder, &arguments.filter, &arguments.rule)?;
    let site = Site::new(&folder, loaded, cases, Exit::CannotTell)?;
    let flavour = flavour(&arguments.flavour).unwrap_or(plain());
    let recipe = Recipe::new(Source::Path(arguments.tree.clone()), flavour);
    let desk = site.desk(jobs(None));
    let (base, wrong) = shown(|hear| {
        let base = Base::run(&desk, KernelSpec::Built(Box::new(recipe)), hear)?;
        let wrong = base.complaints(&desk, hear)?;
        Ok::<_, SubjectError>((base, wrong))
    })?;
    for finding in &wrong {
        outln!("{}: {} ({})", finding.case, finding.after, finding.rules.join(" "));
    }
    match (wrong.is_empty(), base.ran()) {
        _ if site.is_stopped() => Err("it was stopped".into()),
        (false, _) => Ok(false),
        // A kernel on which nothing is said is not good.
        (true, 0) => Err("none of these cases says anything on this kernel".into()),
        (true, count) => {
            outln!("{count} cases as expected");
            Ok(true)
        }
    }
}
