//! The `fuseproof` command, which is also PID 1 in the guest.

fn main() {}
