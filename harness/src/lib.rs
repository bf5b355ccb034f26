//! Everything that knows FUSE: the case language, the reference daemon, the executor and the reports.

pub mod abi;
pub mod bench;
pub mod campaign;
pub mod cli;
pub mod daemon;
pub mod exec;
pub mod generate;
pub mod hostile;
pub mod oracle;
pub mod program;
pub mod protocol;
mod relay;
pub mod report;
pub mod reproducer;
pub mod rules;
pub mod run;
pub mod script;
pub mod transcript;
pub mod validate;
