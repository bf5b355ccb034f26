//! What a kernel is able to do, as the case language names it.
//!
//! A profile is probed on the running kernel ([`crate::run`]), never derived from a version number: fixes are
//! backported.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that a kernel can or cannot do.
#[derive(Debug)]
pub struct Capability {
    /// Its name in `needs` lines and brackets.
    pub name: &'static str,
    /// What is missing where it is absent; a reason for skipping.
    pub absence: &'static str,
}

/// The capability that no program can find out: the agent tells.
pub const INNER_ERRNO: &str = "inner_errno";

/// The capability that a failing step needs.
pub const FAULT_INJECTION: &str = "fault_injection";

/// The capability of a transport: what is served by virtio-fs has it.
pub const OVER_VIRTIOFS: &str = "over_virtiofs";

/// Every capability there is.
pub const CAPABILITIES: &[Capability] = &[
    Capability { name: "passthrough", absence: "the kernel does not offer FUSE_PASSTHROUGH at INIT" },
    Capability {
        name: "backing_type_check",
        absence: "BACKING_OPEN accepts a directory: the kernel lacks the check of the file's type",
    },
    Capability {
        name: "immutable_check",
        absence: "passthrough opens ignore the lower file's immutable attribute",
    },
    Capability { name: "notify_resend", absence: "FUSE_NOTIFY_RESEND is unknown to the kernel" },
    Capability {
        name: "notify_needs_init",
        absence: "the kernel processes notifications before INIT is answered",
    },
    Capability { name: "copy_file_range_64", absence: "the kernel has no FUSE_COPY_FILE_RANGE_64" },
    Capability { name: "tmpfile", absence: "the kernel has no FUSE_TMPFILE" },
    Capability { name: "io_uring", absence: "io_uring_setup is not available" },
    Capability {
        name: "over_io_uring",
        absence: "the kernel has no FUSE over io_uring, or its parameter fuse.enable_uring is off",
    },
    Capability {
        name: "ring_needs_agreement",
        absence: "commands of FUSE over io_uring are taken though it was not agreed on, or was switched off",
    },
    Capability {
        name: "io_uring_bufpool",
        absence: "the kernel has no pools of buffers for FUSE over io_uring",
    },
    Capability { name: "virtiofs", absence: "the kernel has no virtio-fs" },
    Capability { name: OVER_VIRTIOFS, absence: "it is about virtio-fs: run it with --transport virtiofs" },
    Capability { name: "overlay", absence: "the kernel has no overlayfs" },
    Capability {
        name: "ext4",
        absence: "no ext4 on a loop device: the kernel lacks it, or mkfs.ext4 is missing",
    },
    Capability { name: "notify_type_check", absence: "NOTIFY_STORE into a directory is accepted" },
    Capability {
        name: "notify_needs_connection",
        absence: "the kernel processes notifications after the connection is aborted",
    },
    Capability {
        name: "abort_error_until_umount",
        absence: "the device keeps saying ECONNABORTED after the aborted connection is unmounted",
    },
    Capability {
        name: "enosys_open_is_final",
        absence: "after OPEN was answered with ENOSYS, RELEASE is still sent, or files have no I/O mode",
    },
    Capability { name: "cuse", absence: "there is no /dev/cuse" },
    Capability { name: "inval_wq", absence: "the kernel has no module parameter inval_wq" },
    Capability { name: "fuseblk", absence: "no fuseblk mount on a loop device" },
    Capability { name: "log_from_boot", absence: "the kernel's log does not reach back to its start" },
    Capability {
        name: "direct_splice_uncached",
        absence: "splice from a DIRECT_IO file goes through the page cache",
    },
    Capability {
        name: "direct_io_allow_mmap",
        absence: "a DIRECT_IO file cannot be mapped shared, whatever INIT says",
    },
    Capability { name: "allow_idmap", absence: "FUSE_ALLOW_IDMAP is unknown to the kernel" },
    Capability { name: "hugetlb", absence: "the kernel has no hugetlbfs" },
    Capability { name: "tmpfs_xattr", absence: "tmpfs keeps no security attributes" },
    Capability {
        name: "append_only_check",
        absence: "passthrough opens ignore the lower file's append-only attribute",
    },
    Capability {
        name: "lower_seal_check",
        absence: "seals of a memfd below a passthrough file do not bound its mappings",
    },
    Capability { name: "sync_init", absence: "FUSE_DEV_IOC_SYNC_INIT is unknown to the kernel" },
    Capability { name: "backing_ioctls", absence: "BACKING_OPEN is unknown to the kernel" },
    Capability {
        name: "notify_store_limit",
        absence: "NOTIFY_STORE and NOTIFY_RETRIEVE do not look at their offset",
    },
    Capability {
        name: "notify_long_names",
        absence: "names in notifications have at most 1024 bytes, whatever MAX_PAGES says",
    },
    Capability {
        name: "notify_expire",
        absence: "NOTIFY_INVAL_ENTRY cannot keep the entry to be looked up again",
    },
    Capability { name: "store_of_nothing", absence: "NOTIFY_STORE of no bytes makes a file longer" },
    Capability {
        name: "device_mounts_twice",
        absence: "a device that is mounted cannot be mounted elsewhere, too",
    },
    Capability {
        name: "debugfs",
        absence: "debugfs is not mounted, or has no file of the dynamic debug messages",
    },
    Capability { name: "clone_across_users", absence: "a device of another user namespace cannot be cloned" },
    Capability { name: "ioctl_of_32_bits", absence: "the kernel serves no 32-bit programs" },
    Capability { name: "notify_inc_epoch", absence: "FUSE_NOTIFY_INC_EPOCH is unknown to the kernel" },
    Capability { name: "epoch_of_folders", absence: "FUSE_NOTIFY_INC_EPOCH leaves cached folders alone" },
    Capability { name: "notify_prune", absence: "FUSE_NOTIFY_PRUNE is unknown to the kernel" },
    Capability { name: "anonymous_pid", absence: "requests without a caller name some process" },
    Capability {
        name: "mount_takes_device_early",
        absence: "mount(2) looks for the device only when it has read all options",
    },
    Capability { name: "noflush", absence: "FOPEN_NOFLUSH is unknown to the kernel" },
    Capability {
        name: "parallel_direct_writes",
        absence: "FOPEN_PARALLEL_DIRECT_WRITES is unknown to the kernel",
    },
    Capability {
        name: "attribute_ioctls_open",
        absence: "FS_IOC_GETFLAGS goes out on the file's own handle, without an OPEN",
    },
    Capability {
        name: "zero_range",
        absence: "fallocate refuses FALLOC_FL_ZERO_RANGE without asking the daemon",
    },
    Capability {
        name: "precise_invalidation",
        absence: "a write makes all attributes stale, and not only those that it changes",
    },
    Capability {
        name: "ext4_quota",
        absence: "no ext4 with quotas: the kernel lacks them, or mkfs.ext4 is missing",
    },
    Capability {
        name: "splice_replies",
        absence: "a reply that lists pipes is EINVAL: the kernel lacks the vz-splice dialect",
    },
    Capability { name: "fdinfo_connection", absence: "/proc/PID/fdinfo does not tell a device's connection" },
    Capability { name: "v12", absence: "the kernel has no passthrough of the form before the merge" },
    Capability {
        name: "v12_agreed",
        absence: "a kernel of the v12 dialect has the errnos as posted, not those agreed in review",
    },
    Capability { name: "v12_rework", absence: "the kernel has no PASSTHROUGH_CLOSE of the v12 dialect" },
    Capability {
        name: FAULT_INJECTION,
        absence: "the kernel makes no allocation fail on demand: it is built without CONFIG_FAULT_INJECTION",
    },
    Capability {
        name: INNER_ERRNO,
        absence: "the kernel has no dynamic debug, so inner errnos stay unknown",
    },
];

/// The capability of that name.
pub fn capability(name: &str) -> Option<&'static Capability> {
    CAPABILITIES.iter().find(|capability| capability.name == name)
}

/// `passthrough` or `!passthrough`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Condition {
    /// Name of the capability.
    pub capability: String,
    /// Whether it must be there, or must be absent.
    pub present: bool,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.present { "" } else { "!" }, self.capability)
    }
}

/// What one kernel was found to be able to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// `uname -r`.
    pub release: String,
    /// Names of the capabilities that are there.
    pub has: BTreeSet<String>,
}

impl Profile {
    /// Do all conditions hold?
    pub fn meets(&self, conditions: &[Condition]) -> bool {
        self.unmet(conditions).is_none()
    }

    /// The first condition that does not hold.
    pub fn unmet<'a>(&self, conditions: &'a [Condition]) -> Option<&'a Condition> {
        conditions.iter().find(|condition| self.has.contains(&condition.capability) != condition.present)
    }
}

impl Condition {
    /// Why a case that needs this condition is skipped where it does not hold.
    pub fn reason(&self) -> String {
        match (capability(&self.capability), self.present) {
            (Some(capability), true) => capability.absence.to_string(),
            (_, _) => format!("the kernel has {}", self.capability),
        }
    }
}
