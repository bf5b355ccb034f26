//! Leaks as verdicts: results of a session on a kernel that finds leaks, held back until it is asked for them.
//!
//! The kernel says of each leak when the memory was allocated, and of each case it is known when it began. On any other
//! kernel nothing is held back.

use qemu::console::Leak;

use super::outcome::{CaseResult, Failure, Verdict};
use super::session::{Lost, Session};
use crate::script::Case;

/// After so many cases the kernel is asked, although more could run in its session: nobody waits for ever, and with a
/// machine that is lost not too much goes unasked.
const MOST: usize = 100;

/// One case, over but for its leaks.
#[derive(Debug)]
struct Held {
    case: usize,
    /// In the kernel's own count.
    began: u64,
    result: CaseResult,
}

/// The cases of one session that are over, in the order in which they ran.
#[derive(Debug, Default)]
pub(super) struct Back(Vec<Held>);

impl Back {
    /// Hold a result back if its session can be asked for leaks; else it comes back at once.
    pub(super) fn hold(&mut self, session: &Session, case: usize, result: CaseResult) -> Option<CaseResult> {
        match session.began {
            Some(began) if session.finds_leaks && !matches!(result.verdict, Verdict::Skipped(_)) => {
                self.0.push(Held { case, began, result });
                None
            }
            _ => Some(result),
        }
    }

    /// Is it time to ask?
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// Ask, and give all results. If the session is tainted anyway, it may have nothing to say.
    ///
    /// # Errors
    /// The kernel should have said what leaked, and did not. What is known of the cases stands in the results.
    pub(super) fn release(
        &mut self,
        session: &mut Session,
        cases: &[Case],
    ) -> (Vec<(usize, CaseResult)>, Result<(), Lost>) {
        let mut held = std::mem::take(&mut self.0);
        if held.is_empty() {
            return (Vec::new(), Ok(()));
        }
        let asked = match session.leaks() {
            Ok(leaks) => {
                session.tainted |= charge(&mut held, cases, leaks);
                Ok(())
            }
            Err(_) if session.tainted => Ok(()),
            Err(lost) => Err(lost),
        };
        (held.into_iter().map(|held| (held.case, held.result)).collect(), asked)
    }

    /// All results of a session that cannot be asked any more.
    pub(super) fn unasked(&mut self) -> Vec<(usize, CaseResult)> {
        std::mem::take(&mut self.0).into_iter().map(|held| (held.case, held.result)).collect()
    }
}

/// A leak belongs to the last case that began before it: what is allocated between two cases is left of the first. Says
/// whether there was one. What is older than all cases is of probes, which nobody judges.
fn charge(held: &mut [Held], cases: &[Case], leaks: Vec<Leak>) -> bool {
    let mut any = false;
    for leak in leaks {
        let place = held.partition_point(|held| held.began <= leak.jiffies);
        let Some(last) = place.checked_sub(1) else { continue };
        let Held { case, result, .. } = &mut held[last];
        any = true;
        if matches!(result.verdict, Verdict::Passed) {
            let failure = Failure::of_kernel(&cases[*case], &leak.splat, &result.transcript, Vec::new());
            result.verdict = Verdict::Failed(Box::new(failure));
        }
        if !result.splats.iter().any(|known| known.key() == leak.splat.key()) {
            result.splats.push(leak.splat);
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::program::Transport;
    use crate::script;

    fn leak(jiffies: u64, function: &str) -> Leak {
        let text = format!(
            "unreferenced object 0x1 (size 96):\n  comm \"a\", pid 1, jiffies {jiffies}\n    {function}+0x1/0x2\n"
        );
        qemu::console::leaks(&text).remove(0)
    }

    #[test]
    fn a_leak_is_charged_to_the_case_that_allocated_it() {
        let text =
            "# A.\nrules A-01\naxis n = 1 2 3\n\nhost lower tmpfs\nhost file \"a\" \"\" $n\n".to_string();
        let source = script::Source { path: "io/a.case".into(), text };
        let cases = script::parse(&source, &BTreeMap::<&str, &str>::new()).unwrap();
        let held = |case: usize, began: u64| {
            let result = CaseResult::of(&cases[case], Transport::Plain, Verdict::Passed);
            Held { case, began, result }
        };
        let mut all = [held(1, 100), held(0, 110), held(2, 120)];
        let leaks =
            vec![leak(99, "early"), leak(110, "f"), leak(119, "f"), leak(119, "g"), leak(500, "last")];
        assert!(charge(&mut all, &cases, leaks));
        let told: Vec<_> = all
            .iter()
            .map(|held| {
                let functions = held.result.splats.iter().filter_map(|splat| splat.function.as_deref());
                let ended = held.result.verdict.reason().unwrap_or("passed").to_string();
                (ended, functions.collect::<Vec<_>>())
            })
            .collect();
        let why = "the kernel complained: unreferenced object (size 96), allocated in ";
        let expected = [
            ("passed".to_string(), vec![]),
            (format!("{why}f"), vec!["f", "g"]),
            (format!("{why}last"), vec!["last"]),
        ];
        assert_eq!(told, expected);
        assert!(!charge(&mut all, &cases, vec![leak(7, "probe")]));
    }
}
