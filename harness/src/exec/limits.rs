//! How long anything may take. Generous: an emulated machine on a busy host is slow, and a bound is only there to
//! end what would never end.

use std::time::Duration;

/// A call that has not returned after this long hangs.
pub(crate) const CALL: Duration = Duration::from_secs(10);
/// How long a call is watched before it is said to block.
pub(crate) const BLOCK: Duration = Duration::from_millis(10);
/// How long an expected request, or the end of a process, may take to show.
pub(crate) const SETTLE: Duration = Duration::from_secs(3);
/// A whole case.
pub(crate) const CASE: Duration = Duration::from_secs(40);
