//! What a few times say: the middle, how far it can be trusted, and whether one column is faster than another.
//!
//! Nothing is assumed about how times are distributed: all of it rests on their order.

use plotters::data::Quartiles;
use serde::{Deserialize, Serialize};

/// The middle of some values and the quarters around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// A quarter of them are below.
    pub low: f64,
    /// Half of them are.
    pub median: f64,
    /// Three quarters are.
    pub high: f64,
}

impl Spread {
    /// Of these values; none of none.
    pub fn of(values: &[f64]) -> Option<Spread> {
        if values.is_empty() {
            return None;
        }
        let [_, low, _, high, _] = Quartiles::new(values).values().map(f64::from);
        Some(Spread { low, median: Quartiles::new(values).median(), high })
    }
}

/// How many times as fast as the base a column is, taken round by round: what disturbs a round disturbs both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The middle.
    pub median: f64,
    /// The median of many more rounds is not below, in 95 of 100 such runs; of fewer than [`FEWEST_ROUNDS`] the least of all.
    pub low: f64,
    /// Nor above.
    pub high: f64,
    /// Of how many rounds that is.
    pub rounds: usize,
}

/// Of so many rounds, all of them lie on one side of the median of many more in one of 32 runs; of one round less in one of 16,
/// which no interval of 95 per cent can leave out.
pub const FEWEST_ROUNDS: usize = 6;

impl Ratio {
    /// Of a column's times to the base's, the same round at the same place; none without rounds.
    pub fn of(base: &[u64], column: &[u64]) -> Option<Ratio> {
        let mut ratios = ratios(base, column);
        let median = Spread::of(&ratios)?.median;
        ratios.sort_by(f64::total_cmp);
        let (rounds, cut) = (ratios.len(), beyond(ratios.len()));
        Some(Ratio { median, low: ratios[cut], high: ratios[rounds - 1 - cut], rounds })
    }
}

impl Ratio {
    /// Of what is beside itself: what may as well be noise lies between one by this and this. Noise has no direction: what
    /// something is faster than itself by, it might be slower by.
    pub fn noise(self) -> f64 {
        [self.low, self.high].map(|edge| edge.max(1.0 / edge)).into_iter().fold(1.0, f64::max)
    }
}

fn ratios(base: &[u64], column: &[u64]) -> Vec<f64> {
    base.iter().zip(column).map(|(base, own)| *base as f64 / (*own).max(1) as f64).collect()
}

/// How many values at either end are beyond the interval that holds the median of what they are drawn from with 95 per
/// cent: each is on either side of it like a coin.
fn beyond(count: usize) -> usize {
    let (mut chance, mut sum, mut cut) = (0.5_f64.powi(count as i32), 0.0, 0);
    for k in 0..count / 2 {
        sum += chance;
        if 2.0 * sum > 0.05 {
            break;
        }
        cut = k;
        chance *= (count - k) as f64 / (k + 1) as f64;
    }
    cut
}

/// What may be said of a column beside the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is faster.
    Faster,
    /// It is slower.
    Slower,
    /// It differs by no more than the base from itself, or there are too few rounds.
    #[serde(rename = "cannot be told")]
    Unknown,
}

impl Verdict {
    /// Of a column, where the base measured twice came to `control`.
    pub fn of(ratio: Ratio, control: Ratio) -> Verdict {
        let noise = control.noise();
        if ratio.rounds.min(control.rounds) < FEWEST_ROUNDS {
            Verdict::Unknown
        } else if ratio.low > noise {
            Verdict::Faster
        } else if ratio.high < 1.0 / noise {
            Verdict::Slower
        } else {
            Verdict::Unknown
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Unknown => "cannot be told",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(median: f64, low: f64, high: f64) -> Ratio {
        Ratio { median, low, high, rounds: 9 }
    }

    #[test]
    fn quarters_lie_around_the_middle() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[7.0]), Some(Spread { low: 7.0, median: 7.0, high: 7.0 }));
        let five = Spread::of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(five, Some(Spread { low: 2.0, median: 3.0, high: 4.0 }));
    }

    /// The table in any book: the interval for the median of that many values.
    #[test]
    fn intervals_hold_the_median() {
        let expected =
            [(1, 0), (2, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (15, 3), (20, 5), (30, 9)];
        for (count, cut) in expected {
            assert_eq!(beyond(count), cut, "of {count}");
        }
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        // The machine is slowed tenfold in the second round: both columns are.
        let found = Ratio::of(&[200, 2000, 220], &[100, 1000, 100]);
        assert_eq!(found, Some(Ratio { rounds: 3, ..ratio(2.0, 2.0, 2.2) }));
        assert_eq!(Ratio::of(&[], &[]), None);
        assert!(Ratio::of(&[5], &[0]).is_some_and(|ratio| ratio.median.is_finite()));
    }

    #[test]
    fn one_round_beyond_nine_is_no_spread() {
        let base = [100; 9];
        let own = [50, 50, 50, 50, 50, 50, 50, 50, 5000];
        assert_eq!(Ratio::of(&base, &own), Some(ratio(2.0, 2.0, 2.0)));
    }

    #[test]
    fn a_direction_is_told_only_beyond_the_control() {
        let quiet = ratio(1.0, 0.98, 1.01);
        let noisy = ratio(1.0, 0.5, 1.1);
        assert_eq!(Verdict::of(ratio(1.5, 1.4, 1.6), quiet), Verdict::Faster);
        assert_eq!(Verdict::of(ratio(1.5, 1.4, 1.6), noisy), Verdict::Unknown);
        assert_eq!(Verdict::of(ratio(0.6, 0.5, 0.7), quiet), Verdict::Slower);
        assert_eq!(Verdict::of(ratio(0.6, 0.5, 0.7), noisy), Verdict::Unknown);
        assert_eq!(Verdict::of(ratio(1.5, 0.9, 1.6), quiet), Verdict::Unknown);
        // The base is never faster than itself.
        assert_eq!(Verdict::of(noisy, noisy), Verdict::Unknown);
        assert_eq!(Verdict::of(quiet, quiet), Verdict::Unknown);
    }

    #[test]
    fn no_direction_is_told_of_a_few_rounds() {
        let of = |rounds| {
            let ratio = |own| Ratio::of(&vec![100; rounds], &vec![own; rounds]).expect("there are rounds");
            Verdict::of(ratio(50), ratio(100))
        };
        assert_eq!([1, 5, 6].map(of), [Verdict::Unknown, Verdict::Unknown, Verdict::Faster]);
    }
}
