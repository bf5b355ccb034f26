//! Do cases and rules agree? A case may rest only on rules that there are and that can be shown.

use super::Rules;
use crate::program::capability;
use crate::script::{Case, Fault, ScriptError, Source, rule_span};

/// All that cases and rules contradict each other in, shown in the cases; `text` has the content of a file below `cases/`.
pub fn check(rules: &Rules, cases: &[Case], text: impl Fn(&str) -> String) -> Vec<ScriptError> {
    let mut wrong = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        // The variants of a case have one header.
        if index > 0 && cases[index - 1].path == case.path {
            continue;
        }
        let mut source = None;
        for id in &case.program.rules {
            let Some((what, expected, help)) = contradiction(rules, id) else { continue };
            let file = case.file();
            let source = source.get_or_insert_with(|| Source { text: text(&file), path: file });
            let at = rule_span(&source.text, id).unwrap_or(0..0);
            wrong.push(Fault::new(&at, what, expected).help(help).within(source));
        }
    }
    wrong
}

/// Why no case can rest on this rule: what is wrong, what would have been right, and the remedy.
fn contradiction(rules: &Rules, id: &str) -> Option<(String, &'static str, String)> {
    let Some(rule) = rules.get(id) else {
        let nearest = rules.nearest(id).join("`, `");
        let help = format!("near it: `{nearest}`; `fuseproof explain ID` shows a rule");
        return Some((format!("there is no rule `{id}`"), "expected the ID of a rule below `rules/`", help));
    };
    let mend = |field: &str| format!("if the case does show it, take `{field}` out of {}", rule.file);
    if let Some(reason) = &rule.unobservable {
        let what = format!("`{id}` is unobservable: {reason}");
        return Some((what, "expected a rule that can be shown", mend("unobservable")));
    }
    if let Some(reason) = &rule.later {
        let what = format!("`{id}` cannot be shown yet: {reason}");
        return Some((what, "expected a rule that can be shown", mend("later")));
    }
    let need = rule.needs.iter().find(|need| capability(&need.capability).is_none())?;
    Some((
        format!("`{id}` needs `{}`, which is no capability", need.capability),
        "expected a rule whose needs a probe can tell",
        format!("mend `needs` in {}, or add the capability and its probe", rule.file),
    ))
}
