//! What a patch changes, for people: on a terminal, as a mail to a list, as a page; and for programs as JSON.

use std::fmt::Write;

use askama::Template;
use serde::Serialize;

use super::behaviour::difference;
use super::splats;
use super::{on_one_line, printable};
use crate::validate::{Finding, How, Stage, Validation};

/// How wide a mail's lines are, where they can be broken.
const MAIL: usize = 72;
/// How many findings a mail tells in full.
const IN_MAIL: usize = 20;

/// What is known of a patch, in one sentence.
pub fn verdict(validation: &Validation) -> String {
    let count = |is: fn(How) -> bool| validation.findings.iter().filter(|finding| is(finding.how)).count();
    let cases = |count: usize| if count == 1 { "1 case".to_owned() } else { format!("{count} cases") };
    let (bad, changed, mended) =
        (count(How::is_bad), count(|how| how == How::Changed), count(|how| how > How::Changed));
    let mut parts = Vec::new();
    if bad > 0 {
        parts.push(format!("breaks the rules in {}", cases(bad)));
    }
    if changed > 0 {
        parts.push(format!("changes what is observed in {}, within the rules", cases(changed)));
    }
    if mended > 0 {
        parts.push(format!("makes {} pass", cases(mended)));
    }
    let [gained, gone] = &validation.abilities;
    if !gained.is_empty() {
        parts.push(format!("adds {}", gained.join(", ")));
    }
    if !gone.is_empty() {
        parts.push(format!("takes away {}", gone.join(", ")));
    }
    if parts.is_empty() { "changes nothing that can be observed".into() } else { parts.join("; ") }
}

/// For a terminal: the verdict, each finding with what changed, and how long it took.
pub fn validation(validation: &Validation, law: &dyn Fn(&str) -> Option<String>) -> String {
    let mut text = format!("{}: {}\n", validation.subject, verdict(validation));
    for finding in &validation.findings {
        push(&mut text, finding, law);
    }
    if !validation.unsteady.is_empty() {
        let names: Vec<_> = validation.unsteady.iter().map(|finding| finding.case.as_str()).collect();
        let _ = writeln!(text, "\nDid not come again, and does not count: {}", names.join(", "));
    }
    if let Some(trouble) = &validation.trouble {
        let _ = writeln!(text, "\nNot everything is known: {}", on_one_line(trouble));
    }
    let _ = writeln!(text, "\n{}", times(validation));
    printable(&text)
}

fn push(text: &mut String, finding: &Finding, law: &dyn Fn(&str) -> Option<String>) {
    let _ = writeln!(text, "\n{} on {}: {}", finding.case, finding.kernel, finding.how.words());
    let _ = writeln!(text, "  {}", finding.title);
    for rule in &finding.rules {
        let _ = writeln!(text, "  {rule}  {}", law(rule).unwrap_or_default());
    }
    let _ = writeln!(
        text,
        "  before: {}\n  after:  {}",
        on_one_line(&finding.before),
        on_one_line(&finding.after)
    );
    for line in reports(finding).iter().map(String::as_str).chain(changed(finding).lines()) {
        let _ = writeln!(text, "    {line}");
    }
}

/// What the kernel complained of, in lines.
fn reports(finding: &Finding) -> Vec<String> {
    finding.splats.iter().flat_map(splats::lines).collect()
}

/// What is observed otherwise.
fn changed(finding: &Finding) -> String {
    if finding.seen_before.is_empty() || finding.seen.is_empty() {
        return String::new();
    }
    difference(&finding.seen_before, &finding.seen)
}

fn times(validation: &Validation) -> String {
    let line = |stage: &Stage| {
        format!(
            "{}: built in {:.1} s, booted in {:.1} s, restored in {:.2} s, {} cases in {:.1} s ({} said nothing)\n",
            stage.kernel, stage.build, stage.boot, stage.restore, stage.cases, stage.run, stage.skipped
        )
    };
    let mut text: String = std::iter::once(&validation.base).chain(&validation.stages).map(line).collect();
    let _ = write!(text, "{:.1} s for the patch", validation.seconds);
    text
}

/// For a mail to a list: plain text, lines that need no wrapping.
pub fn mail(validation: &Validation, law: &dyn Fn(&str) -> Option<String>) -> String {
    let mut text = wrapped(&format!("{} {}.", validation.subject, verdict(validation)), "");
    let kernels: Vec<_> = validation.stages.iter().map(|stage| stage.kernel.as_str()).collect();
    let base = &validation.base;
    text += &wrapped(
        &format!(
            "{} cases were run on {} ({}) and on {}.",
            base.cases,
            base.kernel,
            base.release,
            kernels.join(", ")
        ),
        "",
    );
    for finding in validation.findings.iter().take(IN_MAIL) {
        let _ = write!(text, "\n* {}\n", finding.case);
        text += &wrapped(&format!("{} ({})", finding.title, finding.how.words()), "  ");
        for rule in &finding.rules {
            text += &wrapped(&format!("{rule}: {}", law(rule).unwrap_or_default()), "  ");
        }
        text += &wrapped(&format!("{}: {}", finding.kernel, finding.after), "  ");
        for line in reports(finding) {
            let _ = writeln!(text, "    {line}");
        }
        for line in changed(finding).lines().filter(|line| !line.starts_with("@@")) {
            let _ = writeln!(text, "    {line}");
        }
    }
    if let Some(more) = validation.findings.len().checked_sub(IN_MAIL + 1) {
        let _ = writeln!(text, "\n... and {} more.", more + 1);
    }
    printable(&text)
}

/// The words of a text in lines.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = indent.to_owned();
    for word in text.split_whitespace() {
        if line.len() > indent.len() && line.len() + 1 + word.len() > MAIL {
            let _ = writeln!(lines, "{}", line.trim_end());
            line = indent.to_owned();
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = writeln!(lines, "{}", line.trim_end());
    lines
}

/// One patch of many, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The patch file's name.
    pub name: String,
    /// Whether anything was found; `None` if it could not be judged.
    pub detected: Option<bool>,
    /// What was found, the weightiest first.
    pub by: Vec<Finding>,
    /// How long it took.
    pub seconds: f64,
    /// The kernels it was built for, and how long each part took.
    pub stages: Vec<Stage>,
    /// Why it could not be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Row {
    /// That of a patch that was judged.
    pub fn of(validation: &Validation) -> Row {
        Row {
            name: validation.subject.clone(),
            detected: Some(!validation.findings.is_empty()),
            by: validation.findings.clone(),
            seconds: validation.seconds,
            stages: validation.stages.clone(),
            trouble: None,
        }
    }

    /// That of a patch that could not be judged.
    pub fn not_judged(name: &str, why: &dyn std::fmt::Display) -> Row {
        Row {
            name: name.to_owned(),
            detected: None,
            by: Vec::new(),
            seconds: 0.0,
            stages: Vec::new(),
            trouble: Some(why.to_string()),
        }
    }

    /// On a line.
    pub fn line(&self) -> String {
        let part = |part: fn(&Stage) -> f64| self.stages.iter().map(part).sum::<f64>();
        let times = format!(
            "{:.0} s (build {:.0}, boot {:.1}, restore {:.2}, run {:.0})",
            self.seconds,
            part(|stage| stage.build),
            part(|stage| stage.boot),
            part(|stage| stage.restore),
            part(|stage| stage.run)
        );
        let what = match (self.detected, self.by.first()) {
            (None, _) => format!("NOT JUDGED  {}", on_one_line(self.trouble.as_deref().unwrap_or_default())),
            (_, Some(first)) => {
                let rules = first.rules.join(" ");
                let more = self.by.len() - 1;
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!(
                    "detected    {rules}  {} on {}: {}{more}",
                    first.case,
                    first.kernel,
                    first.how.words()
                )
            }
            _ => "not found   nothing that can be observed is different".into(),
        };
        printable(&format!("{:<40} {what}  {times}", self.name))
    }
}

/// Patches as JSON: `{"patches":[{"name","detected","by","seconds",...}]}`.
///
/// # Errors
/// None that can be provoked: all of it is plain data.
pub fn patches_json(rows: &[Row]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        patches: &'a [Row],
    }
    Ok(serde_json::to_string_pretty(&Report { patches: rows })? + "\n")
}

/// One patch as JSON.
///
/// # Errors
/// None that can be provoked: all of it is plain data.
pub fn validation_json(validation: &Validation) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        subject: &'a str,
        verdict: String,
        bad: bool,
        base: &'a Stage,
        stages: &'a [Stage],
        gained: &'a [String],
        gone: &'a [String],
        findings: &'a [Finding],
        unsteady: &'a [Finding],
        seconds: f64,
    }
    let [gained, gone] = &validation.abilities;
    let report = Report {
        subject: &validation.subject,
        verdict: verdict(validation),
        bad: validation.is_bad(),
        base: &validation.base,
        stages: &validation.stages,
        gained,
        gone,
        findings: &validation.findings,
        unsteady: &validation.unsteady,
        seconds: validation.seconds,
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

#[derive(Template)]
#[template(path = "validation.html")]
struct Page<'a> {
    validations: Vec<Shown<'a>>,
    style: &'static str,
}

struct Shown<'a> {
    subject: &'a str,
    verdict: String,
    word: &'static str,
    stages: Vec<&'a Stage>,
    findings: Vec<Item<'a>>,
    unsteady: Vec<&'a str>,
}

struct Item<'a> {
    finding: &'a Finding,
    word: &'static str,
    rules: Vec<(&'a str, String)>,
    reports: Vec<String>,
    lines: Vec<(&'static str, String)>,
}

/// One page that needs no network and no script: a section a patch.
///
/// # Errors
/// None that can be provoked.
pub fn validation_html(
    validations: &[Validation],
    law: &dyn Fn(&str) -> Option<String>,
) -> askama::Result<String> {
    let word = |bad: bool| if bad { "failed" } else { "passed" };
    let validations = validations.iter().map(|validation| Shown {
        subject: &validation.subject,
        verdict: verdict(validation),
        word: word(validation.is_bad()),
        stages: std::iter::once(&validation.base).chain(&validation.stages).collect(),
        findings: validation.findings.iter().map(|finding| shown_finding(finding, law)).collect(),
        unsteady: validation.unsteady.iter().map(|finding| finding.case.as_str()).collect(),
    });
    Page { validations: validations.collect(), style: include_str!("../../templates/page.css") }.render()
}

fn shown_finding<'a>(finding: &'a Finding, law: &dyn Fn(&str) -> Option<String>) -> Item<'a> {
    let mark = |line: &str| match line.bytes().next() {
        Some(b'-') => "before",
        Some(b'+') => "after",
        _ => "same",
    };
    Item {
        finding,
        word: if finding.how.is_bad() { "failed" } else { "passed" },
        rules: finding.rules.iter().map(|rule| (rule.as_str(), law(rule).unwrap_or_default())).collect(),
        reports: reports(finding),
        lines: printable(&changed(finding)).lines().map(|line| (mark(line), line.to_owned())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn law(rule: &str) -> Option<String> {
        (rule == "OPEN-05").then(|| "An id that was never given fails the open.".into())
    }

    fn finding(how: How, after: &str, seen: &str) -> Finding {
        Finding {
            how,
            kernel: "small-6.12+patch".into(),
            case: "open_reply/an-id".into(),
            title: "An open reply with an id that was never given fails the open.".into(),
            rules: vec!["OPEN-05".into()],
            before: "passed".into(),
            after: after.into(),
            splats: Vec::new(),
            seen_before: "app    open \"a\" -> EIO\n".into(),
            seen: seen.into(),
        }
    }

    fn made_up(findings: Vec<Finding>) -> Validation {
        let stage =
            Stage { kernel: "small-6.12".into(), release: "6.12.1".into(), cases: 9, ..Stage::default() };
        let patched =
            Stage { kernel: "small-6.12+patch".into(), build: 14.0, boot: 0.7, run: 20.0, ..stage.clone() };
        Validation {
            subject: "fix.patch".into(),
            base: stage,
            stages: vec![patched],
            seconds: 34.7,
            findings,
            ..Validation::default()
        }
    }

    fn broken() -> Validation {
        let after = "failed (expected EIO, got 3)";
        made_up(vec![finding(How::Broken, after, "app    open \"a\" -> fd f\n")])
    }

    #[test]
    fn a_terminal_shows_law_and_difference() {
        insta::assert_snapshot!(validation(&broken(), &law), @r#"
        fix.patch: breaks the rules in 1 case

        open_reply/an-id on small-6.12+patch: the rule is broken
          An open reply with an id that was never given fails the open.
          OPEN-05  An id that was never given fails the open.
          before: passed
          after:  failed (expected EIO, got 3)
            @@ -1 +1 @@
            -app    open "a" -> EIO
            +app    open "a" -> fd f

        small-6.12: built in 0.0 s, booted in 0.0 s, restored in 0.00 s, 9 cases in 0.0 s (0 said nothing)
        small-6.12+patch: built in 14.0 s, booted in 0.7 s, restored in 0.00 s, 9 cases in 20.0 s (0 said nothing)
        34.7 s for the patch
        "#);
    }

    #[test]
    fn a_mail_is_narrow() {
        let text = mail(&broken(), &law);
        assert!(text.lines().all(|line| line.len() <= MAIL), "{text}");
        insta::assert_snapshot!(text, @r#"
        fix.patch breaks the rules in 1 case.
        9 cases were run on small-6.12 (6.12.1) and on small-6.12+patch.

        * open_reply/an-id
          An open reply with an id that was never given fails the open. (the
          rule is broken)
          OPEN-05: An id that was never given fails the open.
          small-6.12+patch: failed (expected EIO, got 3)
            -app    open "a" -> EIO
            +app    open "a" -> fd f
        "#);
        let many = made_up((0..23).map(|_| finding(How::Changed, "passed", "")).collect());
        assert!(mail(&many, &law).ends_with("\n... and 3 more.\n"));
    }

    #[test]
    fn a_verdict_says_what_there_is() {
        assert_eq!(verdict(&made_up(Vec::new())), "changes nothing that can be observed");
        let changed =
            made_up(vec![finding(How::Changed, "passed", "x\n"), finding(How::Mended, "passed", "x\n")]);
        assert_eq!(
            verdict(&changed),
            "changes what is observed in 1 case, within the rules; makes 1 case pass"
        );
        assert!(!changed.is_bad() && broken().is_bad());
        let abilities = [vec!["passthrough".to_owned()], Vec::new()];
        assert_eq!(verdict(&Validation { abilities, ..made_up(Vec::new()) }), "adds passthrough");
    }

    #[test]
    fn a_row_of_a_folder_has_a_name_a_rule_and_times() {
        insta::assert_snapshot!(Row::of(&broken()).line(), @"fix.patch                                detected    OPEN-05  open_reply/an-id on small-6.12+patch: the rule is broken  35 s (build 14, boot 0.7, restore 0.00, run 20)");
        let rows = [Row::of(&made_up(Vec::new())), Row::not_judged("bad.patch", &"it does not apply:\nHunk")];
        assert!(rows[0].line().contains("not found"));
        assert!(rows[1].line().contains("NOT JUDGED  it does not apply: Hunk"));
        let json: serde_json::Value = serde_json::from_str(&patches_json(&rows).unwrap()).unwrap();
        assert_eq!(
            (&json["patches"][0]["detected"], &json["patches"][1]["detected"]),
            (&false.into(), &().into())
        );
    }

    #[test]
    fn what_a_kernel_says_is_no_markup() {
        let hostile = "failed (<script>x</script>\u{1b}[1m)";
        let mut finding = finding(How::Splat, hostile, "<b>\n");
        finding.splats = qemu::console::scan("BUG: KASAN: slab-use-after-free in fuse_read+0x1/0x2 <b>");
        let found = made_up(vec![finding]);
        assert!(validation(&found, &law).contains("    kasan in fuse_read: BUG: KASAN: slab-use-after-free"));
        let page = validation_html(&[found], &law).unwrap();
        assert!(!page.contains("<script>") && !page.contains("<b>") && page.contains("OPEN-05"), "{page}");
        let json = validation_json(&broken()).unwrap();
        assert!(json.contains("\"bad\": true") && json.contains("\"how\": \"broken\""), "{json}");
    }
}
