//! Who goes first: all tasks of an arena share one processor, and the one that can go on longest before anything happens
//! goes last. So whatever a call sets in motion is over, or asleep in the kernel, when the one that runs programs goes on:
//! nobody has to ask, and the order is the same each time.

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Who goes before whom.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rank {
    /// Who runs programs: goes on when nobody else can.
    Runner,
    /// Who makes calls beside it.
    Helper,
    /// Who answers requests.
    Daemon,
}

/// Take this place among the tasks.
///
/// # Errors
/// The kernel does not let us.
pub(super) fn take(rank: Rank) -> nix::Result<()> {
    let mut one = CpuSet::new();
    one.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let (policy, priority) = match rank {
        Rank::Runner => (libc::SCHED_OTHER, 0),
        Rank::Helper => (libc::SCHED_FIFO, 10),
        Rank::Daemon => (libc::SCHED_FIFO, 20),
    };
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters live across the call.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) }).map(drop)
}
