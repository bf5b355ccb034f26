//! Kernels and machines: find or fetch a kernel, boot it in QEMU, save its state, restore it, talk to
//! it over a framed link, notice when it is lost, and leave nothing behind.
//!
//! This package knows nothing about FUSE. What runs in the guest is the caller's business.

pub mod accel;
mod args;
pub mod black_box;
pub mod cache;
pub mod closure;
pub mod console;
pub mod debian;
mod digest;
pub mod guest;
pub mod hostile;
mod initramfs;
pub mod install;
pub mod kernel;
pub mod link;
pub mod machine;
mod process;
pub mod progress;
mod qmp;
pub mod vhost_user;
