//! How long anything may take. Generous: an emulated machine on a busy host is slow, and a bound is only there to
//! end what would never end.

use std::time::Duration;

/// A call that has not returned after this long hangs.
pub(crate) const CALL: Duration = Duration::from_secs(10);
/// The same on the mount of somebody else's daemon, each of whose calls is looked at, where one step may be many calls.
pub(crate) const CALL_OF_WORKLOAD: Duration = Duration::from_secs(30);
/// How long a call is watched before it is said to block.
pub(crate) const BLOCK: Duration = Duration::from_millis(10);
/// How long an expected request, or the end of a process, may take to show.
pub(crate) const SETTLE: Duration = Duration::from_secs(3);
/// A connection's ring, when nobody is left who could serve it. More than the five seconds after which the kernel itself
/// says that one does not come down (`FUSE_URING_TEARDOWN_TIMEOUT`), and less than a call, as calls wait for it.
pub(crate) const RING: Duration = Duration::from_secs(8);
/// A whole workload of somebody else's daemon, each of whose calls is looked at: minutes where the machine is emulated, too.
pub(crate) const WORKLOAD: Duration = Duration::from_secs(240);
/// A whole case.
pub(crate) const CASE: Duration = Duration::from_secs(40);
/// A job of the benchmark. It tells of each turn: where one does not end, the host loses patience long before.
pub(crate) const BENCH: Duration = Duration::from_secs(1800);
