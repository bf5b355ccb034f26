//! What a daemon must and may receive, and whether it did. Housekeeping requests depend on caches and are left out.

use crate::abi::Opcode;
use crate::program::Seen;
use crate::script;

/// A part of what a daemon receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Between so many and so many requests of this kind.
    Some { opcode: Opcode, path: String, least: u8, most: u8 },
    /// Whatever came of a step outside of the model.
    Anything,
}

impl Sent {
    /// The same, but it need not come.
    pub(super) fn at_will(&self) -> Sent {
        match self.clone() {
            Sent::Some { opcode, path, most, .. } => Sent::Some { opcode, path, least: 0, most },
            Sent::Anything => Sent::Anything,
        }
    }

    /// Must such a request have come?
    pub(super) fn must_be(&self, wanted: Opcode) -> bool {
        matches!(self, Sent::Some { opcode, least, .. } if *opcode == wanted && *least > 0)
    }

    fn fits(&self, got: &Got) -> bool {
        match self {
            Sent::Anything => true,
            Sent::Some { opcode, path, .. } => {
                *opcode == got.opcode && got.path.as_ref().is_none_or(|got| got == path || path == ANY_PATH)
            }
        }
    }
}

/// The path of a file that has lost its name.
pub(super) const ANY_PATH: &str = "*";

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) opcode: Opcode,
    /// Absent where nobody looked.
    pub(super) path: Option<String>,
}

impl From<&Seen> for Got {
    fn from(seen: &Seen) -> Got {
        Got { opcode: seen.opcode, path: seen.path.clone() }
    }
}

/// Could exactly these requests have come?
pub(super) fn explains(sent: &[Sent], got: &[Got]) -> bool {
    // Which beginnings of `got` the parts so far explain.
    let mut reached = vec![false; got.len() + 1];
    reached[0] = true;
    for part in sent {
        let (least, most) = match part {
            Sent::Some { least, most, .. } => (usize::from(*least), usize::from(*most)),
            Sent::Anything => (0, got.len()),
        };
        let mut next = vec![false; got.len() + 1];
        for start in (0..=got.len()).filter(|start| reached[*start]) {
            let run = got[start..].iter().take(most).take_while(|got| part.fits(got)).count();
            (least..=run).for_each(|count| next[start + count] = true);
        }
        reached = next;
    }
    reached[got.len()]
}

/// Those of the requests that are no housekeeping.
pub(super) fn relevant(got: impl Iterator<Item = Got>) -> Vec<Got> {
    got.filter(|got| !got.opcode.is_housekeeping()).collect()
}

/// The requests as a case would say them.
pub(super) fn listed(sent: &[Sent]) -> String {
    let part = |sent: &Sent| match sent {
        Sent::Anything => "...".to_string(),
        Sent::Some { opcode, path, least, most } => {
            let seen = Seen { opcode: *opcode, path: Some(path.clone()), fields: Vec::new() };
            let text = script::print_seen(std::slice::from_ref(&seen));
            if least == most { text } else { format!("[{text}]") }
        }
    };
    if sent.is_empty() { "nothing".into() } else { sent.iter().map(part).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn sent(opcode: Opcode, least: u8, most: u8) -> Sent {
        Sent::Some { opcode, path: "a".into(), least, most }
    }

    #[rstest]
    #[case(&[Opcode::OPEN, Opcode::RELEASE], true)]
    #[case(&[Opcode::OPEN, Opcode::READ, Opcode::READ, Opcode::RELEASE], true)]
    #[case(&[Opcode::OPEN, Opcode::READ, Opcode::READ, Opcode::READ, Opcode::RELEASE], false)]
    #[case(&[Opcode::OPEN], false)]
    #[case(&[Opcode::RELEASE, Opcode::OPEN], false)]
    fn a_list_is_explained_or_not(#[case] got: &[Opcode], #[case] explained: bool) {
        let model = [sent(Opcode::OPEN, 1, 1), sent(Opcode::READ, 0, 2), sent(Opcode::RELEASE, 1, 1)];
        let got: Vec<Got> =
            got.iter().map(|opcode| Got { opcode: *opcode, path: Some("a".into()) }).collect();
        assert_eq!(explains(&model, &got), explained);
        assert!(explains(&[Sent::Anything], &got));
    }
}
