//! Which kernels behave alike. Two of them do in a case that ended in the same way with the same transcript; what is
//! taken from a clock or a log is no behaviour.

use crate::run::CaseResult;

/// What a kernel made of a case, as far as it can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Behaviour<'a> {
    /// How it ended.
    pub(super) verdict: &'static str,
    /// What was observed.
    pub(super) transcript: &'a str,
}

impl<'a> Behaviour<'a> {
    pub(super) fn of(result: &'a CaseResult) -> Behaviour<'a> {
        Behaviour { verdict: result.verdict.word(), transcript: &result.transcript }
    }
}

/// The different items in the order they first come, and for each item which of them it is.
pub(super) fn classes<T: PartialEq>(items: impl IntoIterator<Item = T>) -> (Vec<T>, Vec<usize>) {
    let mut kinds: Vec<T> = Vec::new();
    let mut which = Vec::new();
    for item in items {
        let known = kinds.iter().position(|kind| *kind == item);
        which.push(known.unwrap_or(kinds.len()));
        if known.is_none() {
            kinds.push(item);
        }
    }
    (kinds, which)
}

/// From one transcript to another: lines that begin with ` `, `-` or `+`, and a line with `@@` between parts.
pub(super) fn difference(before: &str, after: &str) -> String {
    similar::TextDiff::from_lines(before, after).unified_diff().context_radius(3).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_numbered_as_they_come() {
        assert_eq!(classes(["a", "b", "a", "c"]), (vec!["a", "b", "c"], vec![0, 1, 0, 2]));
    }

    #[test]
    fn a_difference_has_both_sides() {
        let text = difference("open -> ok\nread -> 5\n", "open -> ok\nread -> EIO\n");
        assert_eq!(text, "@@ -1,2 +1,2 @@\n open -> ok\n-read -> 5\n+read -> EIO\n");
    }
}
