//! What the suite itself costs, on the terminal and as JSON.

use std::fmt::Write;

use super::super::on_one_line;
use super::{digits, interval, times};
use crate::bench::{Cost, Judged, Own, Spread};

/// All of it, the times of each turn among it.
///
/// # Errors
/// None that plain data can provoke.
pub fn own_json(all: &[Own]) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&serde_json::json!({ "kernels": all })).map(|text| text + "\n")
}

/// Each kernel with a line for each cost.
pub fn own(all: &[Own]) -> String {
    let mut text = String::new();
    for own in all {
        let _ = writeln!(text, "{} ({}), {} rounds", own.kernel, on_one_line(&own.release), own.rounds);
        for cost in &own.costs {
            let _ = writeln!(text, "  {}", line(cost));
        }
        for trouble in &own.troubles {
            let _ = writeln!(text, "  not measured: {}", on_one_line(trouble));
        }
    }
    text
}

fn line(cost: &Cost) -> String {
    let Some(spread) = cost.spread else { return format!("{}: no time was told", cost.name) };
    let mut line = format!("{}, {}: {}", cost.name, cost.what, told(spread));
    if let Some(limit) = &cost.limit
        && let (Some(spread), Some(ratio)) = (limit.spread, limit.times)
    {
        let _ = write!(
            line,
            "; {} ({}) as long as {}, {}",
            times(ratio.median),
            interval(ratio),
            limit.what,
            told(spread)
        );
    }
    if let Some(Judged { most, is_kept }) = cost.bound {
        let word = if is_kept { "within" } else { "NOT within" };
        let _ = write!(line, "; {word} {most}");
    }
    line
}

/// `1.23 ms (1.2 to 1.3)`.
fn told(spread: Spread) -> String {
    let (unit, by) = match spread.median {
        nanos if nanos < 1e3 => ("ns", 1.0),
        nanos if nanos < 1e6 => ("µs", 1e3),
        nanos if nanos < 1e9 => ("ms", 1e6),
        _ => ("s", 1e9),
    };
    let number = |nanos: f64| digits(nanos / by);
    format!("{} {unit} ({} to {})", number(spread.median), number(spread.low), number(spread.high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bound;

    #[test]
    fn each_cost_stands_beside_its_limit() {
        let case =
            Cost::of("case", "the least case", vec![6_000_000; 6]).beside("a mount", vec![2_000_000; 6]);
        let costs = vec![
            Cost::of("boot", "a boot", vec![2_000_000_000]),
            case.within(Bound::Times(5.0)),
            Cost::of("restore", "a machine", vec![400_000_000]).within(Bound::Seconds(0.3)),
            Cost::of("sequence", "a program", Vec::new()),
        ];
        let troubles = vec!["raw_write: no\nsuch".into()];
        let told =
            own(&[Own { kernel: "6.12".into(), release: "6.12.1".into(), rounds: 6, costs, troubles }]);
        insta::assert_snapshot!(told, @"
        6.12 (6.12.1), 6 rounds
          boot, a boot: 2.00 s (2.00 to 2.00)
          case, the least case: 6.00 ms (6.00 to 6.00); 3.00× (3.00× to 3.00×) as long as a mount, 2.00 ms (2.00 to 2.00); within 5 times
          restore, a machine: 400 ms (400 to 400); NOT within 0.3 s
          sequence: no time was told
          not measured: raw_write: no such
        ");
    }
}
