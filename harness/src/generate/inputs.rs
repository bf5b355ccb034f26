//! What the bytes of an input mean, and which inputs are simpler.
//!
//! All sorts of input are bytes to libFuzzer, and any bytes are some input. What performs them is not for here.

use serde::{Deserialize, Serialize};

use super::{from_bytes, lies, minimise, raw, seed, stage_for, stage_of, to_bytes};
use crate::program::Program;
use crate::script;

/// The sorts of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inputs {
    /// A program for an arena.
    Programs,
    /// Messages for the device, on a stage.
    Messages,
    /// Calls, and lies about their answers.
    Lies,
}

impl Inputs {
    /// The inputs that a case makes.
    pub fn seeds(self, case: &Program) -> Vec<Vec<u8>> {
        match self {
            Inputs::Programs => seed(case).iter().map(to_bytes).collect(),
            Inputs::Messages => raw::raw_seeds(case),
            Inputs::Lies => lies::lie_seeds(case),
        }
    }

    /// Can a process with that seed run the input?
    pub fn is_for(self, input: &[u8], seed: u32) -> bool {
        self != Inputs::Messages || stage_of(input) == stage_for(seed)
    }

    /// The input as a program, where a script has words for it.
    pub fn program(self, input: &[u8]) -> Option<Program> {
        match self {
            Inputs::Programs => Some(from_bytes(input)),
            Inputs::Messages => Some(raw::raw_program(input)),
            Inputs::Lies => None,
        }
    }

    /// The input for a person to read: a case, where there is one.
    pub fn print(self, input: &[u8]) -> String {
        self.program(input).map_or_else(|| lies::print(input), |program| script::print(&program))
    }

    /// Of how many steps, messages or calls it is made.
    pub fn len(self, input: &[u8]) -> usize {
        match self {
            Inputs::Programs => from_bytes(input).steps.len(),
            Inputs::Messages => raw::messages(input).len(),
            Inputs::Lies => lies::turns(input).len(),
        }
    }

    /// Make it simpler as long as `again` says that the simpler one still does what it did. `None` ends the search.
    pub fn minimise(self, input: &[u8], again: &mut dyn FnMut(&[u8]) -> Option<bool>) -> Vec<u8> {
        let simpler = match self {
            Inputs::Programs => {
                let least = minimise(&from_bytes(input), &mut |program| again(&to_bytes(program)));
                return to_bytes(&least);
            }
            Inputs::Messages => raw::simpler,
            Inputs::Lies => lies::simpler,
        };
        let mut least = input.to_vec();
        'search: loop {
            for one in simpler(&least) {
                match again(&one) {
                    Some(true) => {
                        least = one;
                        continue 'search;
                    }
                    Some(false) => {}
                    None => return least,
                }
            }
            return least;
        }
    }
}
