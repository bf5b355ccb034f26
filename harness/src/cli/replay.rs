//! `fuseproof replay`: a finding's case on any kernel, judged as `fuseproof run` judges cases.
//!
//! A finding that was not run again when it was found is run again first, on the kernel that it was found on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use super::out::{outln, print};
use super::progress::Lines;
use super::run::{CASES, exit, jobs, load, stop_on_ctrl_c};
use super::{Exit, cases_folder, own_program, trouble};
use crate::campaign::{self, Finding, Replay, Target};
use crate::program::Transport;
use crate::report::{Origin, Terminal, on_one_line, summary};
use crate::rules::Rules;
use crate::run::{Deviations, Plan, Run, Subject, Verdict};
use crate::script::{self, Case, Source};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A finding's folder, below `findings` in the folder of a campaign.
    finding: PathBuf,
    /// A name from `fuseproof kernels list`, the path of a kernel, or `host` [default: the one that it was found on].
    #[arg(long)]
    kernel: Option<KernelSpec>,
    /// The folder of the cases, whose probes tell what a kernel can do.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
}

pub(super) fn replay(arguments: &Arguments) -> Exit {
    let folder = &arguments.finding;
    let finding = match Finding::at(folder) {
        Ok(finding) => finding,
        Err(error) => return usage(&error),
    };
    // A kernel with patches has a name that finds none.
    let own = finding.kernel.name.parse::<KernelSpec>();
    let kernel = match (&arguments.kernel, &own) {
        (Some(kernel), _) | (None, Ok(kernel)) => kernel.clone(),
        (None, Err(error)) => return usage(&format!("{error}, or say on which kernel: `--kernel`")),
    };
    let is_own = own.is_ok_and(|own| own == kernel);
    match judge(arguments, &finding, &kernel, is_own) {
        Ok(Ok(Came::Count(count))) => {
            outln!("{count} on {kernel}");
            if count.part > 0 { Exit::Deviation } else { Exit::Expected }
        }
        Ok(Ok(Came::Run(run))) => {
            let passed = run.kernels.iter().flat_map(|result| &result.cases);
            for case in passed.filter(|case| case.verdict == Verdict::Passed) {
                outln!("{}", case.transcript);
            }
            for result in &run.kernels {
                if let Some(why) = &result.trouble {
                    eprintln!("fuseproof: {}: {}", result.name, on_one_line(why));
                }
            }
            match print(summary(&run)) {
                Ok(()) => exit(&run),
                Err(error) => trouble(&error),
            }
        }
        Ok(Err(error)) => usage(&error),
        Err(error) => trouble(&error),
    }
}

fn usage(error: &dyn std::fmt::Display) -> Exit {
    eprintln!("fuseproof: {error}");
    Exit::Usage
}

/// What came of it.
enum Came {
    /// Its case was run.
    Run(Run),
    /// No script has words for it: how often its input came to the same.
    Count(campaign::Count),
}

/// What came of it, or what is wrong with the case.
fn judge(
    arguments: &Arguments,
    finding: &Finding,
    kernel: &KernelSpec,
    is_own: bool,
) -> Result<Result<Came, String>, Box<dyn std::error::Error>> {
    let cases = cases_folder(arguments.cases.as_deref());
    let probes = match load(&cases) {
        Ok(loaded) => loaded.probes,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let (cache, program) = (Cache::open()?, own_program()?);
    if let Some(target) = Target::named(&finding.kernel.target) {
        let is_case = target.inputs.program(&[]).is_some();
        let is_new = is_own && finding.rate.input.is_none();
        if is_new || !is_case {
            let replay = Replay::prepare(
                &arguments.finding,
                target,
                kernel,
                &program,
                &probes,
                &cache,
                &mut Lines::default(),
            )?;
            if is_new {
                eprintln!("{} was not run again yet: that is done first", finding.name);
                eprintln!("replayed {}: {}", finding.name, replay.complete()?);
            }
            if !is_case {
                return Ok(Ok(Came::Count(replay.count()?)));
            }
        }
    }
    let case = match case(&arguments.finding) {
        Ok(case) => case,
        Err(error) => return Ok(Err(error)),
    };
    let subject = Subject::prepare(kernel, &program, &cache, &mut Lines::default())?;
    let plan = Plan {
        subjects: &[subject],
        transports: &[Transport::Plain],
        cases: &[case],
        probes: &probes,
        deviations: &Deviations::default(),
        rules: &Rules::default(),
        seed: 0,
        jobs: jobs(Some(1)),
    };
    let mut terminal = Terminal::new(origin(arguments));
    let stop = stop_on_ctrl_c(Exit::Trouble, CASES)?;
    Ok(Ok(Came::Run(plan.run(&cache, &stop, &mut |event| terminal.hear(event)))))
}

/// The finding's case, named so that the command to repeat it fits.
fn case(folder: &Path) -> Result<Case, String> {
    let path = folder.join("case");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {} ({error}): name the folder of a finding", path.display()))?;
    let source = Source { path: path.display().to_string(), text };
    let parsed = script::parse(&source, &BTreeMap::<&str, &str>::new()).map_err(|error| error.to_string())?;
    let case = parsed.into_iter().next().ok_or_else(|| format!("{} has no case", path.display()))?;
    Ok(Case { path: folder.display().to_string(), ..case })
}

fn origin(arguments: &Arguments) -> Origin {
    let start = if std::env::var_os("CARGO").is_some() { "cargo run --release --" } else { "fuseproof" };
    let mut again = format!("{start} replay");
    if let Some(cases) = &arguments.cases {
        again.push_str(&format!(" --cases {}", cases.display()));
    }
    Origin { cases: PathBuf::new(), again }
}
