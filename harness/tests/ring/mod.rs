//! What a test needs beyond the compiler, and how it is said aloud that something is missing.
//!
//! A test that cannot run here is listed as ignored, with its reason on standard error; it is never silently green. What a
//! missing kernel, program or right makes impossible is left out; whatever else goes wrong is a failure.

use std::path::Path;

use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};
use qemu::cache::Cache;
use qemu::kernel::{self, KernelSpec};
use qemu::progress::Progress;

/// The program under test, which is the agent in the guest as well.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_fuseproof");

/// The project's cases.
pub(crate) fn cases_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../cases"))
}

/// Why machines of that kernel cannot be had here; `None` if they can (the kernel has been fetched then).
pub(crate) fn no_machine(kernel: &str, cache: &Cache) -> Option<String> {
    if let Err(error) = qemu::install::QEMU.ensure(&mut Lines) {
        return Some(error.to_string());
    }
    let spec = KernelSpec::Catalogue(kernel.to_string());
    match kernel::resolve(&spec, cache, &mut Lines) {
        Ok(_) => None,
        Err(error) if is_out_of_reach(&error) => Some(error.to_string()),
        Err(error) => panic!("kernel {kernel}: {error}"),
    }
}

/// Can what was to be fetched not be had from here?
pub(crate) fn is_out_of_reach(error: &kernel::Error) -> bool {
    use kernel::Error::{Network, NoDebianSource, NoPackage, NoProgram};
    matches!(error, Network { .. } | NoDebianSource { .. } | NoPackage { .. } | NoProgram { .. })
}

/// Progress on standard error: a first fetch takes a while.
pub(crate) struct Lines;

impl Progress for Lines {
    fn say(&mut self, line: &str) {
        eprintln!("{line}");
    }
}

/// A test that is run if nothing is missing for it, and otherwise listed as ignored.
pub(crate) fn trial(
    name: &str,
    missing: Option<String>,
    test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    ignorable_trial(name, missing, || test().map(|()| Completion::Completed))
}

/// The same for a test that may find only when its turn comes that it is to be left out.
pub(crate) fn ignorable_trial(
    name: &str,
    missing: Option<String>,
    test: impl FnOnce() -> Result<Completion, Failed> + Send + 'static,
) -> Trial {
    if let Some(missing) = &missing {
        eprintln!("left out: {name}: {missing}");
    }
    Trial::ignorable_test(name, test).with_ignored_flag(missing.is_some())
}

/// Run the trials, and end the process with what came of it; `after` has the last word on standard error.
pub(crate) fn run(arguments: &Arguments, trials: Vec<Trial>, after: impl FnOnce() -> String) -> ! {
    let conclusion: Conclusion = libtest_mimic::run(arguments, trials);
    eprint!("{}", after());
    conclusion.exit()
}
