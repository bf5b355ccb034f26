//! Cases for kernels that nobody released: on all others they are skipped. `builds.rs` runs them, and has their snapshots.

/// Is the case at that path one of them?
pub(crate) fn is_about_one(path: &str) -> bool {
    ["v12/", "vz_splice/"].iter().any(|folder| path.starts_with(folder))
}
