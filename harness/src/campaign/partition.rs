//! One of several campaigns that share the work: which of them this one is, as the command line or whatever started it says.
//!
//! It only counts. What a part does otherwise than the others is for those who ask it.

use std::fmt;
use std::str::FromStr;

/// The part of that number, from 1 on, of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    number: u32,
    of: u32,
}

/// What the command line says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `M/N`.
    Part(Partition),
    /// `/N`: the number is in the environment.
    Of(u32),
}

/// Why it is not known which part this is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// It is no part of anything.
    #[error("`{0}` is no part: write M/N with M from 1 to N, or /N where the environment has the number")]
    Wrong(String),
    /// What the environment says makes no sense.
    #[error("{names} are no part of anything ({said}): mend them, or say --partition M/N")]
    Environment {
        /// The variables.
        names: String,
        /// What they say.
        said: String,
    },
    /// The number is nowhere.
    #[error(
        "--partition /{of} takes the number from the environment, and none of {names} is set: write M/{of}"
    )]
    NoNumber {
        /// How many there are to be.
        of: u32,
        /// The variables that were looked for.
        names: String,
    },
}

/// A variable that has the number, what it begins with, and the one that says how many there are.
struct Row {
    number: &'static str,
    first: First,
    of: Option<&'static str>,
}

enum First {
    Zero,
    One,
    Variable(&'static str),
}

/// Slurm's arrays, GitLab, Buildkite, and indexed jobs of Kubernetes.
const TABLE: [Row; 4] = [
    Row {
        number: "SLURM_ARRAY_TASK_ID",
        first: First::Variable("SLURM_ARRAY_TASK_MIN"),
        of: Some("SLURM_ARRAY_TASK_COUNT"),
    },
    Row { number: "CI_NODE_INDEX", first: First::One, of: Some("CI_NODE_TOTAL") },
    Row { number: "BUILDKITE_PARALLEL_JOB", first: First::Zero, of: Some("BUILDKITE_PARALLEL_JOB_COUNT") },
    Row { number: "JOB_COMPLETION_INDEX", first: First::Zero, of: None },
];

impl Partition {
    /// All of the work.
    pub const WHOLE: Partition = Partition { number: 1, of: 1 };

    fn new(number: u32, of: u32) -> Option<Partition> {
        (1..=of).contains(&number).then_some(Partition { number, of })
    }

    /// Which part this is, and what says so if it is the environment.
    ///
    /// # Errors
    /// What was asked for cannot be had, or the environment contradicts itself.
    pub fn find(
        asked: Option<Asked>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Partition, Option<String>), PartitionError> {
        let of = match asked {
            Some(Asked::Part(part)) => return Ok((part, None)),
            Some(Asked::Of(of)) => Some(of),
            None => None,
        };
        for row in &TABLE {
            let Some(told) = variable(row.number) else { continue };
            let Some(count) = of.map(|of| of.to_string()).or_else(|| row.of.and_then(variable)) else {
                continue;
            };
            let (first, mut names) = match row.first {
                First::Zero => ("0".to_owned(), vec![row.number]),
                First::One => ("1".to_owned(), vec![row.number]),
                First::Variable(name) => {
                    (variable(name).unwrap_or_else(|| "0".into()), vec![row.number, name])
                }
            };
            names.extend(row.of.filter(|_| of.is_none()));
            let names = names.join(", ");
            let part = || {
                let (told, first): (u32, u32) = (told.parse().ok()?, first.parse().ok()?);
                Partition::new(told.checked_sub(first)?.checked_add(1)?, count.parse().ok()?)
            };
            let said = || format!("{told} from {first} on, {count} in all");
            let part =
                part().ok_or_else(|| PartitionError::Environment { names: names.clone(), said: said() })?;
            return Ok((part, Some(names)));
        }
        match of {
            Some(of) => Err(PartitionError::NoNumber { of, names: TABLE.map(|row| row.number).join(", ") }),
            None => Ok((Partition::WHOLE, None)),
        }
    }

    /// The numbers of all parts are different: this is where a part has its `place`.
    pub(super) fn spread(self, place: u32) -> u32 {
        place.wrapping_mul(self.of).wrapping_add(self.number - 1)
    }

    /// Is what has that number this part's?
    pub(super) fn has(self, number: u64) -> bool {
        number % u64::from(self.of) == u64::from(self.number - 1)
    }

    /// As a word in a file's name.
    pub(super) fn word(self) -> String {
        format!("{}-of-{}", self.number, self.of)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Asked {
    type Err = PartitionError;

    fn from_str(text: &str) -> Result<Asked, PartitionError> {
        let asked = || {
            let (number, of) = text.split_once('/')?;
            let of: u32 = of.parse().ok()?;
            match number {
                "" => (of > 0).then_some(Asked::Of(of)),
                _ => Partition::new(number.parse().ok()?, of).map(Asked::Part),
            }
        };
        asked().ok_or_else(|| PartitionError::Wrong(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn find(
        asked: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Result<(Partition, Option<String>), PartitionError> {
        let variable = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        };
        Partition::find(asked.map(|text| text.parse().expect("a part")), &variable)
    }

    #[rstest]
    #[case("0/3")]
    #[case("4/3")]
    #[case("1/0")]
    #[case("/0")]
    #[case("1")]
    #[case("1/")]
    #[case("-1/3")]
    #[case("1/3/5")]
    fn other_texts_are_refused(#[case] text: &str) {
        let error = text.parse::<Asked>().expect_err("refused").to_string();
        assert!(error.contains(text) && error.contains("M from 1 to N"), "{error}");
    }

    #[rstest]
    #[case(&[("SLURM_ARRAY_TASK_ID", "7"), ("SLURM_ARRAY_TASK_MIN", "5"), ("SLURM_ARRAY_TASK_COUNT", "4")], None, 3, 4)]
    #[case(&[("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "4")], None, 2, 4)]
    #[case(&[("BUILDKITE_PARALLEL_JOB", "0"), ("BUILDKITE_PARALLEL_JOB_COUNT", "2")], None, 1, 2)]
    #[case(&[("JOB_COMPLETION_INDEX", "2")], Some("/3"), 3, 3)]
    #[case(&[("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "4")], Some("1/2"), 1, 2)]
    #[case(&[("CI_NODE_TOTAL", "1")], None, 1, 1)]
    #[case(&[("JOB_COMPLETION_INDEX", "2")], None, 1, 1)]
    #[case(&[], None, 1, 1)]
    fn what_started_it_says_which(
        #[case] environment: &[(&str, &str)],
        #[case] asked: Option<&str>,
        #[case] number: u32,
        #[case] of: u32,
    ) {
        let (part, from) = find(asked, environment).expect("a part");
        assert_eq!(part, Partition { number, of });
        let is_told = of > 1 && asked != Some("1/2");
        assert_eq!(from.is_some_and(|names| names.contains(environment[0].0)), is_told);
    }

    #[test]
    fn an_environment_without_sense_is_told() {
        // An array with gaps has numbers beyond its count.
        for (told, count) in [("9", "2"), ("x", "2"), ("4", "2"), ("5", "0")] {
            let environment = [
                ("SLURM_ARRAY_TASK_ID", told),
                ("SLURM_ARRAY_TASK_MIN", "5"),
                ("SLURM_ARRAY_TASK_COUNT", count),
            ];
            let error = find(None, &environment).expect_err("refused").to_string();
            assert!(error.contains("SLURM_ARRAY_TASK_MIN") && error.contains("--partition M/N"), "{error}");
        }
        let error = find(Some("/3"), &[]).expect_err("refused").to_string();
        assert!(error.contains("JOB_COMPLETION_INDEX") && error.contains("M/3"), "{error}");
    }

    #[test]
    fn parts_have_nothing_in_common_and_all_together() {
        let parts = [1, 2, 3].map(|number| Partition { number, of: 3 });
        let mut numbers: Vec<u32> =
            parts.iter().flat_map(|part| (0..4).map(|place| part.spread(place))).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..12).collect::<Vec<_>>());
        for number in 0..9 {
            assert_eq!(parts.iter().filter(|part| part.has(number)).count(), 1);
        }
    }
}
