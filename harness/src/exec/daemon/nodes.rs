//! Node ids and file handles: which file a request is about.

use std::collections::BTreeMap;

/// The root's id (`FUSE_ROOT_ID`).
pub(super) const ROOT: u64 = 1;

/// The files the kernel knows about. Ids are never reused: a stale one must not look like a fresh one.
#[derive(Debug)]
pub(super) struct Nodes {
    /// Id to path, relative to the mount's root.
    paths: BTreeMap<u64, String>,
    /// Path to id, for those that still have that name.
    ids: BTreeMap<String, u64>,
    next: u64,
    next_handle: u64,
}

impl Nodes {
    pub(super) fn new() -> Nodes {
        Nodes {
            paths: BTreeMap::from([(ROOT, String::new())]),
            ids: BTreeMap::from([(String::new(), ROOT)]),
            next: ROOT + 1,
            next_handle: 1,
        }
    }

    pub(super) fn path(&self, id: u64) -> Option<&str> {
        self.paths.get(&id).map(String::as_str)
    }

    /// Path of an entry of a directory.
    pub(super) fn child(&self, directory: u64, name: &str) -> Option<String> {
        let directory = self.path(directory)?;
        Some(if directory.is_empty() { name.to_string() } else { format!("{directory}/{name}") })
    }

    /// The id of a path, a new one if it has none.
    pub(super) fn id(&mut self, path: &str) -> u64 {
        if let Some(id) = self.ids.get(path) {
            return *id;
        }
        let id = self.next;
        self.next += 1;
        self.ids.insert(path.to_string(), id);
        self.paths.insert(id, path.to_string());
        id
    }

    /// The path has another name from here on, and so has everything below it.
    pub(super) fn renamed(&mut self, from: &str, to: &str) {
        self.gone(to);
        let below = format!("{from}/");
        let moved: Vec<_> =
            self.ids.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
        for path in moved {
            if let Some(id) = self.ids.remove(&path) {
                let path = format!("{to}{}", &path[from.len()..]);
                self.paths.insert(id, path.clone());
                self.ids.insert(path, id);
            }
        }
    }

    /// A second name for an id.
    pub(super) fn linked(&mut self, id: u64, path: &str) {
        self.ids.insert(path.to_string(), id);
    }

    /// The name is gone; its id stays known, as files may be open.
    pub(super) fn gone(&mut self, path: &str) {
        self.ids.remove(path);
    }

    pub(super) fn new_handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_folder_takes_its_files_along() {
        let mut nodes = Nodes::new();
        let folder = nodes.id("d");
        let file = nodes.id("d/f");
        let other = nodes.id("df");
        nodes.renamed("d", "e");
        assert_eq!(nodes.path(folder), Some("e"));
        assert_eq!(nodes.path(file), Some("e/f"));
        assert_eq!(nodes.path(other), Some("df"));
        assert_eq!(nodes.id("e/f"), file);
    }

    #[test]
    fn a_removed_name_gets_a_new_id() {
        let mut nodes = Nodes::new();
        let old = nodes.id("a");
        nodes.gone("a");
        assert_ne!(nodes.id("a"), old);
        assert_eq!(nodes.path(old), Some("a"));
    }
}
