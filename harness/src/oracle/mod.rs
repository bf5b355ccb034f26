//! The executable specification: what each step of a program may lead to on a kernel with that profile, and which
//! requests the daemon must and must not get. It walks a program step by step and is told what came of each.
//!
//! It is pure: it opens nothing, asks nobody and looks at no clock. It has no opinion of what it does not model, and
//! says so; it never guesses. What it knows are rules, cited by their IDs; each refusal stands in one place.

mod attributes;
mod calls;
mod daemon;
mod device;
mod io;
mod memory;
mod modes;
mod notify;
mod numbers;
mod opens;
mod ruling;
mod stage;
mod started;
mod traffic;
mod v12;
mod walk;
mod world;

pub use ruling::Ruling;
pub use walk::{Contradiction, Judged, against_case, against_kernel, against_kernel_with_care, wrong_about};
