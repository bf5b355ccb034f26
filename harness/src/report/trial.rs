//! A daemon's trial, for a person at a terminal.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::daemon::trial::{Evidence, Standing, Trial, Verdict, Workload};
use crate::rules::Rules;

/// What a daemon keeps, what it breaks and by what that is seen, and what nothing was about.
pub fn trial(trial: &Trial, command: &[String], rules: &Rules) -> String {
    let mut text = format!("{} on {} ({})\n", command.join(" "), trial.kernel, trial.release);
    if let Some(why) = trial.unusable() {
        let _ = writeln!(text, "  cannot be judged: {why}");
        return text;
    }
    let _ = writeln!(text, "  {}", trial.uses());
    let standings = trial.standings(rules);
    let law = |id: &str| rules.get(id).map_or("", |rule| rule.law.as_str());
    for (id, standing) in standings.iter().filter(|(_, standing)| !standing.breaks.is_empty()) {
        let _ = writeln!(text, "\n  broken  {id}  {}", law(id));
        for evidence in &standing.breaks {
            let more = if evidence.times > 1 { format!(", {} times", evidence.times) } else { String::new() };
            let _ = writeln!(text, "    {}: {}{more}", evidence.workload, evidence.why);
        }
        if let Some(evidence) = standing.breaks.first() {
            evidence.lines.iter().for_each(|line| _ = writeln!(text, "      {line}"));
        }
    }
    let list = |wanted: fn(&Standing) -> bool| -> Vec<&str> {
        standings.iter().filter(|(_, standing)| wanted(standing)).map(|(id, _)| *id).collect()
    };
    let kept = list(|standing| standing.breaks.is_empty() && standing.kept > 0);
    let idle = list(|standing| standing.breaks.is_empty() && standing.kept == 0);
    let broken = standings.len() - kept.len() - idle.len();
    let _ = writeln!(text, "\n  kept           {}", kept.join(" "));
    let _ = writeln!(text, "  not exercised  {}", idle.join(" "));
    let _ = writeln!(
        text,
        "\n  {} rules: {} kept, {broken} broken, {} not exercised",
        standings.len(),
        kept.len(),
        idle.len()
    );
    text
}

/// The same for programs: a list, of each kernel one.
pub fn trials_json(trials: &[Trial], command: &[String], rules: &Rules) -> String {
    let list: Vec<Value> = trials.iter().map(|trial| one(trial, command, rules)).collect();
    format!("{:#}\n", Value::from(list))
}

fn one(trial: &Trial, command: &[String], rules: &Rules) -> Value {
    let evidence = |evidence: &Evidence| {
        json!({
            "workload": evidence.workload,
            "why": evidence.why,
            "times": evidence.times,
            "lines": evidence.lines,
        })
    };
    let standings = trial.standings(rules);
    let standing = |(id, standing): (&&str, &Standing)| {
        json!({
            "rule": id,
            "state": state(standing),
            "kept": standing.kept,
            "breaks": standing.breaks.iter().map(evidence).collect::<Vec<_>>(),
        })
    };
    let workload = |workload: &Workload| {
        let (verdict, why) = match &workload.verdict {
            Verdict::Passed => ("passed", None),
            Verdict::Failed(why) => ("failed", Some(why)),
            Verdict::Skipped(why) => ("skipped", Some(why)),
            Verdict::Unusable(why) => ("unusable", Some(why)),
            Verdict::Lost(why) => ("lost", Some(why)),
        };
        json!({ "name": workload.name, "verdict": verdict, "why": why })
    };
    json!({
        "command": command,
        "kernel": trial.kernel,
        "release": trial.release,
        "use": trial.uses().to_string(),
        "unusable": trial.unusable(),
        "rules": standings.iter().map(standing).collect::<Vec<_>>(),
        "workloads": trial.workloads.iter().map(workload).collect::<Vec<_>>(),
    })
}

/// The state of a rule in one word.
fn state(standing: &Standing) -> &'static str {
    match standing {
        Standing { breaks, .. } if !breaks.is_empty() => "broken",
        Standing { kept: 0, .. } => "not exercised",
        _ => "kept",
    }
}
