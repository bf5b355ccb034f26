//! Everything that knows FUSE: the case language, the reference daemon, the executor and the reports.

pub mod abi;
pub mod program;
pub mod script;
