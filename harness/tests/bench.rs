//! The benchmark on the running kernel: every row comes to figures, what a kernel does not offer is left out with its reason, and what is
//! slow is shown to be. What the figures are is nobody's business here.

#[expect(dead_code, reason = "some of it is for tests of kernels")]
mod ring;

use std::process::Command;

use harness::bench::{CACHED, Column, Job, Lower, Order, Ratio, Serving, Verdict, Work, rows};
use harness::run::Subject;
use libtest_mimic::{Arguments, Failed};
use qemu::cache::Cache;
use qemu::kernel::KernelSpec;

use ring::{Lines, PROGRAM};

fn main() {
    let arguments = Arguments::from_args();
    let missing_root = (!nix::unistd::geteuid().is_root()).then(|| "mounting needs root".to_string());
    let trials = vec![
        ring::trial("every-row-is-in-every-report", missing_root.clone(), every_row_is_in_every_report),
        ring::trial(
            "a-slow-daemon-is-shown-as-slower",
            missing_root.clone(),
            a_slow_daemon_is_shown_as_slower,
        ),
        ring::trial("what-can-be-measured-is-reported", missing_root, what_can_be_measured_is_reported),
        ring::trial("no-row-fits", None, no_row_fits),
    ];
    ring::run(&arguments, trials, String::new);
}

fn every_row_is_in_every_report() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let report = |kind: &str| format!("{kind}={}", folder.path().join(kind).display());
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "--kernel", "host", "--rounds", "2"]);
    for kind in ["html", "json", "csv"] {
        command.args(["--report", &report(kind)]);
    }
    let output = command.output()?;
    if output.status.code() != Some(0) {
        return Err(format!("{output:?}").into());
    }
    let read = |kind: &str| std::fs::read_to_string(folder.path().join(kind));
    let (page, csv) = (read("html")?, read("csv")?);
    let json: serde_json::Value = serde_json::from_str(&read("json")?)?;
    let measured = json["kernels"][0]["measured"].as_array().ok_or("a list")?;
    let has_ext4 = has_ext4();
    for row in rows() {
        let points: Vec<_> = measured.iter().filter(|one| one["row"] == row.name).collect();
        assert_eq!(points.len(), row.points.len() * row.lowers.len(), "{}", row.name);
        for point in points {
            let columns = point["columns"].as_array().ok_or("a list")?;
            for (index, column) in columns.iter().enumerate() {
                let times = column["nanos"].as_array().map_or(0, Vec::len);
                // These need nothing that is not everywhere, but for a row with many open files.
                let lacks_right =
                    column["skipped"].as_str().is_some_and(|why| why.contains("CAP_SYS_RESOURCE"));
                let has_times = (index == 0 || column["column"] == "native")
                    && (point["lower"] != "ext4" || has_ext4)
                    && !lacks_right;
                let is_left_out = column["skipped"].is_string() && !has_times;
                assert!(times == 2 || is_left_out, "{}: {column}", row.name);
            }
        }
        assert!(page.contains(&format!("id=\"{}\"", row.name)), "{} is not on the page", row.name);
        assert!(csv.contains(row.name), "{} is not in the table", row.name);
    }
    Ok(())
}

/// Can an ext4 be had here? It is said aloud if not: rows on it may be left out then.
fn has_ext4() -> bool {
    let has_program = Command::new("mkfs.ext4").arg("-V").output().is_ok();
    let has_loop = std::fs::File::open("/dev/loop-control").is_ok();
    let is_known = std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("\text4\n"));
    let has_ext4 = has_program && has_loop && is_known;
    if !has_ext4 {
        eprintln!("left out: rows on ext4: mkfs.ext4: {has_program}, loop: {has_loop}, ext4: {is_known}");
    }
    has_ext4
}

/// Each WRITE takes twenty milliseconds longer: on no machine that is noise.
fn a_slow_daemon_is_shown_as_slower() -> Result<(), Failed> {
    let subject = Subject::prepare(&KernelSpec::Host, PROGRAM.as_ref(), &Cache::open()?, &mut Lines)?;
    let mut session = subject.session()?;
    let column = |name: &str, delay| Column { name: name.into(), serving: Some(Serving { delay, ..CACHED }) };
    let work = Work::Write { order: Order::Sequential, piece: 1 << 20, count: 4, syncs: false };
    let job = Job::new(Lower::Tmpfs, work, &[column("quick", 0), column("slow", 20_000)], 6, 0);
    let heard = session.measure(&job, &mut |_| true).map_err(|lost| lost.to_string())?;
    let [Ok(base), Ok(slow), Ok(control)] = &heard.times[..] else {
        return Err(format!("{heard:?}").into());
    };
    let ratio = |times| Ratio::of(base, times).ok_or("there are rounds");
    assert_eq!(Verdict::of(ratio(slow)?, ratio(control)?), Verdict::Slower, "{heard:?}");
    Ok(())
}

/// A kernel that is none comes first, as what comes after it must not be lost.
fn what_can_be_measured_is_reported() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (image, json) = (folder.path().join("vmlinuz"), folder.path().join("json"));
    std::fs::write(&image, "no kernel")?;
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "--rounds", "2", "--row", "symlinks", "--kernel"]).arg(&image);
    command.args(["--kernel", "host", "--report", "html=/nowhere/page", "--report"]);
    let output = command.arg(format!("json={}", json.display())).output()?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
    let [lost, host] = [0, 1].map(|index| &json["kernels"][index]);
    assert!(lost["troubles"][0].is_string() && lost["measured"] == serde_json::json!([]), "{lost}");
    assert_eq!(host["measured"][0]["row"], "symlinks");
    assert!(host["troubles"].is_null(), "{host}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nowhere/page"), "{said}");
    Ok(())
}

fn no_row_fits() -> Result<(), Failed> {
    let output = Command::new(PROGRAM).args(["bench", "--row", "no such row"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("random-read-cold"), "{said}");
    Ok(())
}
