//! Every report of one made-up run, held against what its readers go by.

mod made_up;

use harness::report::{Changes, Side, failure, html, json, junit, ktap, read_events, summary, write_events};
use harness::run::{Event, Run, Verdict};
use rstest::rstest;

use made_up::{HOSTILE, events, origin};

fn run() -> Run {
    events().iter().collect()
}

#[test]
fn results_are_in_the_plans_order_and_read_back_the_same() {
    let text = write_events(&events()).unwrap();
    let read = read_events(&text).unwrap();
    let paths: Vec<&str> = read.kernels[0].cases.iter().map(|case| case.path.as_str()).collect();
    assert_eq!(paths, ["io/reads", "io/writes", "modes/direct", "modes/never", "modes/same"]);
    assert_eq!(read.result(1, 1).unwrap().verdict.word(), "failed");
    assert!(read.result(2, 3).is_none());
    assert_eq!(json(&read).unwrap(), json(&run()).unwrap());
}

/// A file that was cut, mixed up or made by something else is told, with the line.
#[rstest]
#[case::empty("", 1)]
#[case::foreign("{\"a\": 1}\n", 1)]
#[case::headless(&lines(1..), 1)]
#[case::twice(&[lines(..1), lines(..1)].concat(), 2)]
#[case::doubled(&[lines(..), lines(8..9)].concat(), lines(..).lines().count() + 1)]
#[case::torn(&lines(..)[..lines(..).len() - 5], lines(..).lines().count())]
#[case::outside(&lines(..).replace("\"kernel\":2", "\"kernel\":3"), 6)]
fn other_texts_are_refused(#[case] text: &str, #[case] line: usize) {
    let error = read_events(text).unwrap_err().to_string();
    assert!(error.starts_with(&format!("line {line} ")), "{error}");
}

fn lines(range: impl std::slice::SliceIndex<[Event], Output = [Event]>) -> String {
    write_events(&events()[range]).unwrap()
}

#[test]
fn the_summary_has_a_table_of_groups() {
    let text = summary(&run());
    insta::assert_snapshot!(text, @r#"
            6.1             6.12          7.3
    io      1, 1 skipped    1, 1 failed   2
    modes   2, 1 deviated   3             1, 1 lost, 1 not run

    6.1 (6.1.0-test): 3 passed, 1 deviated as expected, 1 skipped
      1 skipped: the kernel has no passthrough
      1 deviated: it is forgotten there (a commit)
      kasan in fuse_read: BUG: KASAN: slab-use-after-free in fuse_read
        modes/never
      17 allocations failed on purpose (1 cases)
      restored in 0.50 s, cases over after 1.5 s
    6.12 (6.12.0-test): 4 passed, 1 failed
      kasan in fuse_read: BUG: KASAN: slab-use-after-free in fuse_read
        io/writes
      17 allocations failed on purpose (1 cases)
      restored in 0.50 s, cases over after 1.5 s
    7.3 (7.3.0-test): 3 passed, 1 lost with their machine, 1 not run
      restored in 0.50 s, cases over after 1.5 s
    "#);
}

/// One finding that many cases come upon is told once.
#[test]
fn the_summary_tells_a_finding_once_with_its_cases() {
    let mut run = run();
    let splats = run.result(1, 1).unwrap().splats.clone();
    run.kernels[0].cases.iter_mut().for_each(|case| case.splats.clone_from(&splats));
    let text = summary(&run);
    let told = "  kasan in fuse_read: BUG: KASAN: slab-use-after-free in fuse_read\n    io/reads\n    io/writes\n    \
                modes/direct\n    modes/never\n    modes/same\n  17 allocations";
    assert!(text.contains(told), "{text}");
}

#[test]
fn json_has_what_the_kernel_complained_of() {
    let report: serde_json::Value = serde_json::from_str(&json(&run()).unwrap()).unwrap();
    let splats = |kernel: usize, case: usize| &report["kernels"][kernel]["cases"][case]["splats"];
    let told = serde_json::json!([{
        "kind": "kasan",
        "title": "BUG: KASAN: slab-use-after-free in fuse_read",
        "function": "fuse_read",
        "stack": ["fuse_read", "vfs_read"],
        "allocated": ["fuse_open"],
        "freed": [],
    }]);
    assert_eq!((splats(1, 1), splats(0, 0)), (&told, &serde_json::json!([])));
}

#[test]
fn the_page_has_what_the_kernel_complained_of() {
    let page = html(&run(), &origin()).unwrap();
    // Once in a failure, once beside a deviation; `<` may not stand in the page.
    assert_eq!(page.matches("stack     fuse_read \\u003c vfs_read").count(), 2);
}

#[test]
fn junit_counts_and_masks() {
    insta::assert_snapshot!(junit(&run(), &origin()).unwrap(), @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="fuseproof" tests="15" skipped="1" failures="1" errors="2">
        <testsuite name="6.1" tests="5" skipped="1" errors="0" failures="0" time="1.500">
            <properties>
                <property name="release" value="6.1.0-test"/>
            </properties>
            <testcase name="io/reads" classname="6.1.io" time="0.012">
                <properties>
                    <property name="rules" value="IO-01"/>
                </properties>
            </testcase>
            <testcase name="io/writes" classname="6.1.io" time="0.012">
                <properties>
                    <property name="rules" value="IO-02"/>
                </properties>
                <skipped message="the kernel has no passthrough"/>
            </testcase>
            <testcase name="modes/direct" classname="6.1.modes" time="0.012">
                <properties>
                    <property name="rules" value="MODE-01"/>
                </properties>
            </testcase>
            <testcase name="modes/never" classname="6.1.modes" time="0.012">
                <properties>
                    <property name="deviates" value="it is forgotten there (a commit)"/>
                    <property name="rules" value="IO-01"/>
                </properties>
            </testcase>
            <testcase name="modes/same" classname="6.1.modes" time="0.012">
                <properties>
                    <property name="rules" value="FWD-01"/>
                </properties>
            </testcase>
        </testsuite>
        <testsuite name="6.12" tests="5" skipped="0" errors="0" failures="1" time="1.500">
            <properties>
                <property name="release" value="6.12.0-test"/>
            </properties>
            <testcase name="io/reads" classname="6.12.io" time="0.012">
                <properties>
                    <property name="rules" value="IO-01"/>
                </properties>
            </testcase>
            <testcase name="io/writes" classname="6.12.io" time="0.012">
                <properties>
                    <property name="rules" value="IO-02"/>
                </properties>
                <failure message="expected EIO, got &lt;/script&gt;&lt;b id=harm&gt;&amp;]]&gt; # SKIP �[31m" type="failed">FAILED io/writes on 6.12
      A write is refused.
      cases/io/writes.case:7
        app    write f &quot;x&quot; -&gt; EIO
      expected EIO, got &lt;/script&gt;&lt;b id=harm&gt;&amp;]]&gt; # SKIP �[31m
      what happened (`&gt;` is a request to the daemon):
        app    write f &quot;x&quot; -&gt; &lt;/script&gt;&lt;b id=harm&gt;&amp;]]&gt; # SKIP �[31m
      kernel log:
        fuse: refused
      the kernel&apos;s reports (the innermost function first):
        kasan in fuse_read: BUG: KASAN: slab-use-after-free in fuse_read
          stack     fuse_read &lt; vfs_read
          allocated fuse_open
      rules: IO-02
      again: fuseproof run --kernel 6.12 &apos;io/writes&apos;</failure>
            </testcase>
            <testcase name="modes/direct" classname="6.12.modes" time="0.012">
                <properties>
                    <property name="rules" value="MODE-01"/>
                </properties>
            </testcase>
            <testcase name="modes/never" classname="6.12.modes" time="0.012">
                <properties>
                    <property name="rules" value="IO-01"/>
                </properties>
            </testcase>
            <testcase name="modes/same" classname="6.12.modes" time="0.012">
                <properties>
                    <property name="rules" value="FWD-01"/>
                </properties>
            </testcase>
        </testsuite>
        <testsuite name="7.3" tests="5" skipped="0" errors="2" failures="0" time="1.500">
            <properties>
                <property name="release" value="7.3.0-test"/>
            </properties>
            <testcase name="io/reads" classname="7.3.io" time="0.012">
                <properties>
                    <property name="rules" value="IO-01"/>
                </properties>
            </testcase>
            <testcase name="io/writes" classname="7.3.io" time="0.012">
                <properties>
                    <property name="rules" value="IO-02"/>
                </properties>
            </testcase>
            <testcase name="modes/direct" classname="7.3.modes" time="0.012">
                <properties>
                    <property name="rules" value="MODE-01"/>
                </properties>
                <error message="the guest&apos;s kernel panicked" type="lost">LOST modes/direct on 7.3
      Direct I/O goes to the daemon.
      the machine was lost, so nothing is known about the case: the guest&apos;s kernel panicked
      the end of its console:
        Kernel panic
      rules: MODE-01
      again: fuseproof run --kernel 7.3 &apos;modes/direct&apos;</error>
            </testcase>
            <testcase name="modes/never" classname="7.3.modes">
                <properties>
                    <property name="rules" value="IO-01"/>
                </properties>
                <error message="not run: no space left: free some"/>
            </testcase>
            <testcase name="modes/same" classname="7.3.modes" time="0.012">
                <properties>
                    <property name="rules" value="FWD-01"/>
                </properties>
            </testcase>
        </testsuite>
    </testsuites>
    "#);
}

#[test]
fn ktap_follows_the_rules_of_the_format() {
    let text = ktap(&run(), &origin());
    assert_eq!(ktap_mistakes(&text), Vec::<String>::new(), "{text}");
    insta::assert_snapshot!(text, @r#"
    KTAP version 1
    1..3
      KTAP version 1
      # Subtest: 6.1
      1..5
      ok 1 io/reads
      ok 2 io/writes # SKIP the kernel has no passthrough
      ok 3 modes/direct
      ok 4 modes/never # XFAIL it is forgotten there (a commit)
      ok 5 modes/same
    ok 1 6.1
      KTAP version 1
      # Subtest: 6.12
      1..5
      ok 1 io/reads
      # FAILED io/writes on 6.12
      #   A write is refused.
      #   cases/io/writes.case:7
      #     app    write f "x" -> EIO
      #   expected EIO, got </script><b id=harm>&]]> # SKIP �[31m
      #   what happened (`>` is a request to the daemon):
      #     app    write f "x" -> </script><b id=harm>&]]> # SKIP �[31m
      #   kernel log:
      #     fuse: refused
      #   the kernel's reports (the innermost function first):
      #     kasan in fuse_read: BUG: KASAN: slab-use-after-free in fuse_read
      #       stack     fuse_read < vfs_read
      #       allocated fuse_open
      #   rules: IO-02
      #   again: fuseproof run --kernel 6.12 'io/writes'
      not ok 2 io/writes
      ok 3 modes/direct
      ok 4 modes/never
      ok 5 modes/same
    not ok 2 6.12
      KTAP version 1
      # Subtest: 7.3
      1..5
      ok 1 io/reads
      ok 2 io/writes
      # LOST modes/direct on 7.3
      #   Direct I/O goes to the daemon.
      #   the machine was lost, so nothing is known about the case: the guest's kernel panicked
      #   the end of its console:
      #     Kernel panic
      #   rules: MODE-01
      #   again: fuseproof run --kernel 7.3 'modes/direct'
      not ok 3 modes/direct # ERROR
      not ok 4 modes/never # ERROR not run: no space left: free some
      ok 5 modes/same
    not ok 3 7.3
    "#);
}

#[rstest]
#[case::version("KTAP version 1", "TAP version 13")]
#[case::plan("  1..5", "  1..4")]
#[case::number("  ok 3 ", "  ok 4 ")]
#[case::parent("not ok 2 6.12", "ok 2 6.12")]
#[case::directive("# SKIP the kernel", "# MAYBE the kernel")]
#[case::loose("  # FAILED", "  FAILED")]
#[case::error("not ok 3 modes/direct # ERROR", "ok 3 modes/direct # ERROR")]
fn the_rules_of_ktap_find_an_offence(#[case] good: &str, #[case] bad: &str) {
    let text = ktap(&run(), &origin());
    assert!(text.contains(good), "{good} is not in {text}");
    assert_ne!(ktap_mistakes(&text.replacen(good, bad, 1)), Vec::<String>::new());
}

/// What is wrong with a KTAP text, by the rules of the kernel's Documentation/dev-tools/ktap.rst.
fn ktap_mistakes(text: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let used = ktap_level(&lines, 0, &mut mistakes).1;
    if used != lines.len() {
        mistakes.push(format!("something follows the last test: {}", lines[used]));
    }
    mistakes
}

/// One level: version, plan, tests. Whether all of them are well, and how many lines it takes.
fn ktap_level(lines: &[&str], depth: usize, mistakes: &mut Vec<String>) -> (bool, usize) {
    let indent = "  ".repeat(depth);
    let own = |line: &str| {
        line.strip_prefix(indent.as_str()).filter(|rest| !rest.starts_with(' ')).map(str::to_string)
    };
    let mut at = 0;
    let mut next = |what: &str, fits: &dyn Fn(&str) -> bool, mistakes: &mut Vec<String>| {
        while lines.get(at).and_then(|line| own(line)).is_some_and(|line| line.starts_with("# ")) {
            at += 1;
        }
        let line = lines.get(at).and_then(|line| own(line)).unwrap_or_default();
        if !fits(&line) {
            mistakes.push(format!("{what} is missing at depth {depth}: {line:?}"));
        }
        at += 1;
        line
    };
    next("the version", &|line| line == "KTAP version 1", mistakes);
    let plan = next("the plan", &|line| line.starts_with("1.."), mistakes);
    let count: usize = plan.trim_start_matches("1..").parse().unwrap_or(0);
    let mut well = true;
    let mut number = 1;
    while let Some(line) = lines.get(at) {
        let mut below = None;
        if line.starts_with(&format!("{indent}  KTAP")) {
            let (well, used) = ktap_level(&lines[at..], depth + 1, mistakes);
            below = Some(well);
            at += used;
        }
        let Some(line) = lines.get(at).and_then(|line| own(line)) else { break };
        at += 1;
        if line.starts_with("# ") {
            continue;
        }
        let ok = !line.starts_with("not ok ");
        let rest = line.trim_start_matches("not ").strip_prefix("ok ").unwrap_or_default();
        let (test, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
        let named = test.split_once(' ').is_some_and(|(first, name)| {
            first == number.to_string() && !name.is_empty() && !name.contains('#')
        });
        let directive = directive.split(' ').next().unwrap_or_default();
        if !named || !["", "SKIP", "TODO", "XFAIL", "TIMEOUT", "ERROR"].contains(&directive) {
            mistakes.push(format!("no result line of test {number}: {line:?}"));
        }
        if ok && (["TIMEOUT", "ERROR"].contains(&directive) || below == Some(false)) {
            mistakes.push(format!("ok, and yet it is not: {line:?}"));
        }
        well &= ok;
        number += 1;
    }
    if number != count + 1 {
        mistakes.push(format!("{} tests at depth {depth}, but the plan has {count}", number - 1));
    }
    (well, at)
}

#[test]
fn changes_are_grouped_by_rule() {
    let run = run();
    let side = |kernel: usize| Side { name: run.kernels[kernel].name.clone(), run: &run, kernel };
    assert_eq!(Changes::between(side(0), side(0)).count(), 0);
    let changes = Changes::between(side(1), side(2));
    assert_eq!((changes.compared(), changes.count()), (4, 3));
    insta::assert_snapshot!(changes.text(), @r#"
    IO-01  A read gives the bytes of the file below.
      io/reads
        A read gives the data.
        @@ -1,2 +1,2 @@
         app    open "a" O_RDONLY -> fd f
        -app    read f 5 -> "hello"
        +app    read f 5 -> "hell"

    IO-02
      io/writes
        A write is refused.
        failed (expected EIO, got </script><b id=harm>&]]> # SKIP �[31m) -> passed
        @@ -1 +1 @@
        -app    write f "x" -> </script><b id=harm>&]]> # SKIP �[31m
        +app    write f "x" -> EIO

    MODE-01
      modes/direct
        Direct I/O goes to the daemon.
        passed -> lost (the guest's kernel panicked)

    6.12 -> 7.3: 3 of 4 cases behave differently
      1 more were run only on 6.12, and not compared
    "#);
}

/// The page asks nobody for anything, and what a guest says stays text.
#[test]
fn the_page_is_alone_and_masked() {
    let page = html(&run(), &origin()).unwrap();
    for reference in ["http:", "https:", "//", "src=", "<link", "@import", "url("] {
        let found =
            page.lines().find(|line| line.contains(reference) && !line.trim_start().starts_with("//"));
        assert_eq!(found, None, "{reference}");
    }
    assert!(!page.contains(HOSTILE) && !page.contains("<b id=harm>"));
    assert_eq!(page.matches("</script>").count(), 2);
}

/// What a guest may say to be taken for the report itself, or to command the terminal that shows it.
const LOUD: &str = "\u{1b}[2J\u{9b}31m\u{7f}\u{8}\r\nFORGED\tline\nok 9 FORGED\n";

/// The same run, with that in every text that a guest or a daemon has a hand in.
fn loud_run() -> Run {
    let mut events = events();
    for event in &mut events {
        match event {
            Event::Plan { .. } | Event::Session { .. } => {}
            Event::Profile { profile, .. } => profile.release = LOUD.into(),
            Event::Trouble { why, .. } => *why = LOUD.into(),
            Event::Case { result, .. } => {
                match &mut result.verdict {
                    Verdict::Passed => continue,
                    Verdict::Skipped(reason) => *reason = LOUD.into(),
                    Verdict::Deviated { reason, .. } => *reason = LOUD.into(),
                    Verdict::Failed(failure) => {
                        (failure.why, failure.transcript) = (LOUD.into(), LOUD.into());
                        failure.kernel = vec![LOUD.into(), LOUD.into()];
                    }
                    Verdict::Lost { why, after, console } => {
                        (*why, *after, *console) = (LOUD.into(), Some(LOUD.into()), LOUD.into());
                    }
                }
                result.transcript = LOUD.into();
                for splat in &mut result.splats {
                    let words = || vec![LOUD.to_string(), LOUD.to_string()];
                    (splat.title, splat.function) = (LOUD.into(), Some(LOUD.into()));
                    (splat.stack, splat.allocated, splat.freed) = (words(), words(), words());
                }
            }
        }
    }
    events.iter().collect()
}

fn failures(run: &Run) -> String {
    let all = run.kernels.iter().flat_map(|kernel| kernel.cases.iter().map(|case| (&kernel.name, case)));
    all.filter_map(|(kernel, case)| failure(kernel, case, &origin())).collect::<Vec<_>>().join("\n")
}

fn changes(run: &Run) -> String {
    let side = |kernel: usize| Side { name: run.kernels[kernel].name.clone(), run, kernel };
    Changes::between(side(0), side(1)).text() + &Changes::between(side(1), side(2)).text()
}

/// A guest commands no terminal and begins no line of a report: what it says stands behind other words, or further in
/// than the report's own lines do. A page has no lines.
#[rstest]
#[case::terminal(failures, 4)]
#[case::summary(summary, 1)]
#[case::changes(changes, 4)]
#[case::junit(|run: &Run| junit(run, &origin()).unwrap(), 4)]
#[case::ktap(|run: &Run| ktap(run, &origin()), usize::MAX)]
#[case::html(|run: &Run| html(run, &origin()).unwrap(), 0)]
fn a_guest_begins_no_line(#[case] report: fn(&Run) -> String, #[case] further_in: usize) {
    let text = report(&loud_run());
    assert!(text.contains("FORGED"), "{text}");
    assert_eq!(text.chars().find(|c| c.is_control() && !['\n', '\t'].contains(c)), None, "{text}");
    for line in text.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let forged = ["FORGED", "ok 9 FORGED"].iter().any(|forged| line[indent..].starts_with(forged));
        assert!(!forged || indent >= further_in, "{line:?} in {text}");
    }
}

/// A program reads what was said, on one line and by JSON's own escapes.
#[test]
fn json_has_it_escaped() {
    let run = loud_run();
    let text = json(&run).unwrap();
    assert!(
        !text.contains(['\u{1b}', '\r', '\t']) && !text.lines().any(|line| line.starts_with("FORGED")),
        "{text}"
    );
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["kernels"][0]["release"], LOUD);
}
