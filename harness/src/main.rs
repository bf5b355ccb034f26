//! The `fuseproof` command, which is also PID 1 in the guest.

use std::process::ExitCode;

fn main() -> ExitCode {
    if qemu::guest::is_guest_init() {
        harness::run::serve_in_guest();
    }
    harness::cli::main().into()
}
