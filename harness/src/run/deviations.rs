//! Known deviations: which kernel does not do what a case says, why, and where that is told.
//!
//! The table is `cases/deviations.toml`. A case in it runs all the same: as long as it fails the run is as expected,
//! and as soon as it passes its row is wrong, which is a failure. A row excuses the one failure that it tells, whatever
//! the transport, and no other one; a lost machine only where the kernel's report of its end is what the row tells. It cannot
//! say that a case is not to be run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use qemu::console::{Kind, Splat};
use qemu::kernel::build::{PATCHED, flavour};
use qemu::kernel::{KernelSpec, row};
use serde::Deserialize;

use super::outcome::{Failure, Verdict, complaint};
use crate::script::Case;

/// The table's name in the folder of the cases.
const FILE: &str = "deviations.toml";

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// The kernels, as they are asked for on the command line. A source's name stands for its flavours, too.
    pub kernels: Vec<String>,
    /// The case's name: one variant's, or all variants' without the bracket.
    pub case: String,
    /// What the failure says was expected and seen, word by word, less the round of a race.
    pub failure: String,
    /// Beginnings of stacks, the innermost function first: a report of the kernel's with one of them is this failure in
    /// whatever case it comes. Whether locks are taken in the wrong order shows when a machine has seen both orders.
    #[serde(default)]
    pub everywhere: Vec<String>,
    /// What the kernel does instead, and why.
    pub reason: String,
    /// The commit that mends it, by its subject, or whatever else tells more.
    pub source: String,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviations {
    #[serde(default)]
    deviation: Vec<Deviation>,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum DeviationsError {
    /// It cannot be read.
    #[error("cannot read {} ({source}): mend its permissions", path.display())]
    Unreadable {
        /// The table's file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// It is no such table.
    #[error("{} is not a table of deviations: {source}", path.display())]
    Wrong {
        /// The table's file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: Box<toml::de::Error>,
    },
    /// A row about a kernel that is not in the catalogue.
    #[error(
        "{}: there is no kernel {kernel}, on which {case} is said to fail: `fuseproof kernels list` names all",
        path.display()
    )]
    NoKernel {
        /// The table's file.
        path: PathBuf,
        /// The row's case.
        case: String,
        /// The row's kernel.
        kernel: String,
    },
    /// A row that no case fits.
    #[error("{}: there is no case {case}, which is said to fail on {kernels}: mend the name or remove the row", path.display())]
    NoCase {
        /// The table's file.
        path: PathBuf,
        /// The row's case.
        case: String,
        /// The row's kernels.
        kernels: String,
    },
}

impl Deviations {
    /// The table in a folder of cases, which are `cases`; none there is an empty one.
    ///
    /// # Errors
    /// See [`DeviationsError`].
    pub fn load(folder: &Path, cases: &[Case]) -> Result<Deviations, DeviationsError> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Deviations::default()),
            Err(source) => return Err(DeviationsError::Unreadable { path, source }),
        };
        let table: Deviations = match toml::from_str(&text) {
            Ok(table) => table,
            Err(source) => return Err(DeviationsError::Wrong { path, source: Box::new(source) }),
        };
        for row in &table.deviation {
            let case = row.case.clone();
            if let Some(kernel) = row.kernels.iter().find(|kernel| !is_kernel(kernel)).cloned() {
                return Err(DeviationsError::NoKernel { path, case, kernel });
            }
            if !cases.iter().any(|case| row.fits(&case.name())) {
                return Err(DeviationsError::NoCase { path, case, kernels: row.kernels.join(", ") });
            }
        }
        Ok(table)
    }

    /// The verdict in the light of the table. A known failure does not hide what the kernel complains of beside it.
    pub(super) fn judge(&self, kernel: &str, case: &Case, verdict: Verdict, splats: &[Splat]) -> Verdict {
        let name = case.name();
        // A patch may well mend what the table says of the kernel without it.
        let (kernel, is_patched) =
            kernel.strip_suffix(PATCHED).map_or((kernel, false), |kernel| (kernel, true));
        let rows = self.deviation.iter().filter(|row| row.is_about(kernel));
        let (known, new): (Vec<&Splat>, Vec<&Splat>) =
            splats.iter().partition(|splat| rows.clone().any(|row| row.knows(splat)));
        if let Verdict::Failed(failure) = &verdict
            && failure.step.is_none()
            && new.is_empty()
            && let Some(row) = known.first().and_then(|splat| rows.clone().find(|row| row.knows(splat)))
            && failure.told() == row.failure
        {
            return row.expected(failure.clone());
        }
        let mut rows = rows.filter(|row| row.fits(&name));
        let Some(first) = rows.clone().next() else { return verdict };
        if let (Verdict::Lost { .. }, [end, behind @ ..]) = (&verdict, splats)
            && behind.iter().all(|splat| matches!(splat.kind, Kind::Oops | Kind::Panic))
            && let Some(row) = rows.clone().find(|row| row.failure == complaint(end))
        {
            return row.expected(Box::new(Failure::of_kernel(case, end, "", Vec::new())));
        }
        // Variants and transports of one case may fail each in its own words.
        let row = match &verdict {
            Verdict::Failed(failure) => rows.find(|row| row.failure == failure.told()).unwrap_or(first),
            _ => first,
        };
        match verdict {
            Verdict::Failed(mut failure) => {
                let other = match row.beside(&failure, splats, &new) {
                    Some(splat) => complaint(splat),
                    None if failure.told() == row.failure => return row.expected(failure),
                    None => format!("{FILE} knows another failure: {}", row.failure),
                };
                failure.why.push_str(&format!("; {other}"));
                Verdict::Failed(failure)
            }
            Verdict::Passed if !is_patched => Verdict::Failed(Box::new(Failure {
                file: format!("{}.case", case.path),
                line: 1,
                step: None,
                why: format!(
                    "it passed, although {FILE} says that {kernel} deviates ({}): remove the row",
                    row.reason
                ),
                transcript: String::new(),
                kernel: Vec::new(),
            })),
            other => other,
        }
    }
}

/// Is it a kernel's name, as on the command line?
fn is_kernel(name: &str) -> bool {
    match name.parse() {
        Ok(KernelSpec::Catalogue(name)) => row(&name).is_ok(),
        Ok(_) => true,
        Err(_) => false,
    }
}

impl Deviation {
    fn is_about(&self, kernel: &str) -> bool {
        let source =
            kernel.split_once('-').filter(|(name, _)| flavour(name).is_some()).map(|(_, source)| source);
        self.kernels.iter().any(|name| name == kernel || Some(name.as_str()) == source)
    }

    /// Is it this row's failure, in whatever case it came?
    fn knows(&self, splat: &Splat) -> bool {
        let stack = splat.stack.join(" < ");
        let begins = |known: &String| {
            stack.strip_prefix(known.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(" < "))
        };
        complaint(splat) == self.failure && self.everywhere.iter().any(begins)
    }

    /// What the kernel complained of that nobody knows, beside this row's failure. If that is a complaint itself, the oops
    /// and the panic behind it belong to it.
    fn beside<'a>(&self, failure: &Failure, splats: &[Splat], new: &[&'a Splat]) -> Option<&'a Splat> {
        let is_told = |splat: &Splat| complaint(splat) == failure.told();
        let is_complaint = splats.iter().any(is_told);
        let belongs = |splat: &Splat| match splat.kind {
            Kind::Oops | Kind::Panic => is_complaint,
            // Where stacks are listed, they tell one report from another.
            _ => self.everywhere.is_empty() && is_told(splat),
        };
        new.iter().copied().find(|splat| !belongs(splat))
    }

    fn expected(&self, failure: Box<Failure>) -> Verdict {
        Verdict::Deviated { failure, reason: format!("{} ({})", self.reason, self.source) }
    }

    fn fits(&self, name: &str) -> bool {
        name == self.case || name.split('[').next() == Some(self.case.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "[[deviation]]\nkernels = [\"5.10\"]\ncase = \"io/a\"\nfailure = \"w\"\nreason = \"r\"\n\
                         source = \"s\"\n";

    fn load(text: &str) -> Result<Deviations, DeviationsError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), text).unwrap();
        Deviations::load(folder.path(), &[case()])
    }

    fn case() -> Case {
        let text =
            "# A.\nrules A-01\naxis n = 1 2\n\nhost lower tmpfs\nhost file \"a\" \"\" $n\n".to_string();
        let source = crate::script::Source { path: "io/a.case".into(), text };
        let library = crate::script::Folder("/nowhere".into());
        crate::script::parse(&source, &library).unwrap().remove(0)
    }

    fn failed(why: &str) -> Verdict {
        let failure = Failure {
            file: String::new(),
            line: 1,
            step: None,
            why: why.into(),
            transcript: String::new(),
            kernel: Vec::new(),
        };
        Verdict::Failed(Box::new(failure))
    }

    #[test]
    fn a_failure_in_the_table_is_expected_and_a_pass_is_not() {
        let table = load(TABLE).unwrap();
        assert!(
            matches!(table.judge("5.10", &case(), failed("w"), &[]), Verdict::Deviated { reason, .. } if reason == "r (s)")
        );
        assert!(matches!(table.judge("5.10", &case(), Verdict::Passed, &[]), Verdict::Failed(_)));
        assert_eq!(table.judge("6.1", &case(), failed("w"), &[]), failed("w"));
        assert_eq!(
            table.judge("5.10", &case(), failed("v"), &[]),
            failed("v; deviations.toml knows another failure: w")
        );
        let table = load(&format!("{TABLE}{}", TABLE.replace("\"w\"", "\"v\""))).unwrap();
        for why in ["w", "v", "v, in round 3 of 20 with seed 7"] {
            let verdict = table.judge("5.10", &case(), failed(why), &[]);
            assert!(matches!(verdict, Verdict::Deviated { .. }), "{why}");
        }
        assert_eq!(table.judge("6.1", &case(), Verdict::Passed, &[]), Verdict::Passed);
        let skipped = Verdict::Skipped("x".into());
        assert_eq!(table.judge("5.10", &case(), skipped.clone(), &[]), skipped);
    }

    #[test]
    fn a_complaint_beside_a_known_failure_is_told() {
        let table = load(TABLE).unwrap();
        let splats = qemu::console::scan("BUG: KASAN: null-ptr-deref in f+0x1/0x2\n");
        assert_eq!(splats.len(), 1);
        let complaint = "the kernel complained: BUG: KASAN: null-ptr-deref in f";
        let verdict = table.judge("5.10", &case(), failed("w"), &splats);
        assert_eq!(verdict, failed(&format!("w; {complaint}")));

        // A complaint that is itself the known failure is not beside it, in whatever step and round it came.
        let table = load(&TABLE.replace("\"w\"", &format!("\"{complaint}\""))).unwrap();
        let Verdict::Failed(mut failure) = failed(complaint) else { unreachable!("made so") };
        failure.step = Some("app open \"a\"".into());
        let verdict =
            table.judge("5.10", &case(), Verdict::Failed(Box::new(failure.at_point(Some(2)))), &splats);
        assert!(matches!(verdict, Verdict::Deviated { .. }), "{verdict:?}");
    }

    #[test]
    fn a_lost_machine_is_expected_where_its_end_is() {
        let lost = || Verdict::Lost { why: "it ended".into(), after: None, console: String::new() };
        let end = "BUG: kernel NULL pointer dereference, address: 0000000000000010\nOops: 0000 [#1]\n";
        let panic = "Kernel panic - not syncing: Fatal exception\n";
        let row = "the kernel complained: BUG: kernel NULL pointer dereference, address: N";
        let table = load(&TABLE.replace("\"w\"", &format!("\"{row}\""))).unwrap();
        let judged = |console: &str| table.judge("5.10", &case(), lost(), &qemu::console::scan(console));
        assert!(matches!(judged(&format!("{end}{panic}")), Verdict::Deviated { .. }));
        assert_eq!(judged(panic), lost());
        assert_eq!(judged(""), lost());
        let first = "BUG: KASAN: null-ptr-deref in f+0x1/0x2\n";
        assert_eq!(judged(&format!("{first}{panic}")), lost());
    }

    #[test]
    fn a_report_that_may_come_anywhere_is_known_anywhere() {
        let why = "the kernel complained: BUG: KASAN: null-ptr-deref in f";
        let row = TABLE.replace("\"w\"", &format!("\"{why}\"\neverywhere = [\"f < g\"]"));
        let table = load(&row.replace("\"io/a\"", "\"io/a[n=1]\"")).unwrap();
        let report = |stack: &str| {
            let frames: String = stack.split(' ').map(|name| format!(" {name}+0x1/0x2\n")).collect();
            let text =
                format!("BUG: KASAN: null-ptr-deref in f+0x1/0x2\nCall Trace:\n <TASK>\n{frames} </TASK>\n");
            qemu::console::scan(&text)
        };
        let mut other = case();
        other.path = "io/b".into();
        let judged =
            |stack: &str, verdict: Verdict| table.judge("small-5.10", &other, verdict, &report(stack));
        assert!(matches!(judged("f g h", failed(why)), Verdict::Deviated { .. }));
        assert_eq!(judged("f gg h", failed(why)), failed(why));
        assert_eq!(judged("f g h", failed("w")), failed("w"));
        assert_eq!(judged("f g h", Verdict::Passed), Verdict::Passed);
        assert_eq!(table.judge("small-6.1", &other, failed(why), &report("f g h")), failed(why));

        // In the row's own case, too, it is known by its stack, and nothing else is.
        let own = |stack: &str| table.judge("5.10", &case(), failed(why), &report(stack));
        assert!(matches!(own("f g h"), Verdict::Deviated { .. }));
        assert_eq!(own("f h"), failed(&format!("{why}; {why}")));
        let oops = "Oops: general protection fault\n---[ end trace 0 ]---\nWARNING: CPU: 0 PID: 1 at fs/a.c:1 h+0x1/0x2\n";
        let mut splats = report("f g h");
        splats.extend(qemu::console::scan(oops));
        let Verdict::Failed(told) = table.judge("5.10", &case(), failed(why), &splats) else {
            panic!("a warning beside it is hidden")
        };
        assert!(told.why.contains("; the kernel complained: WARNING"), "{}", told.why);
    }

    #[test]
    fn mistakes_in_the_table_are_located() {
        let error = load(&TABLE.replace("reason", "raison")).unwrap_err().to_string();
        assert!(error.contains("deviations.toml") && error.contains("line 5, column 1"), "{error}");
        let error = load(&TABLE.replace("io/a", "io/b")).unwrap_err().to_string();
        assert!(error.contains("there is no case io/b"), "{error}");
        let error = load(&TABLE.replace("5.10", "5.11")).unwrap_err().to_string();
        assert!(error.contains("there is no kernel 5.11"), "{error}");
    }
}
