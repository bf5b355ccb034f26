//! Cases that are skipped on every kernel as it comes: those for kernels that nobody released, which `builds.rs` runs and has the
//! snapshots of, and those about virtio-fs, which `transports.rs` runs.

/// Is the case at that path one of them?
pub(crate) fn is_about_one(path: &str) -> bool {
    ["v12/", "vz_splice/", "virtiofs/"].iter().any(|folder| path.starts_with(folder))
}
