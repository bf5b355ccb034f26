//! Snapshots of what kernels were observed to do, one a case's file.

use std::path::Path;

/// What was observed of a case's file is what was reviewed, and stands in that folder.
pub(crate) fn compare(folder: &str, path: &str, title: &str, text: &str) {
    let (group, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(Path::new("..").join(folder).join(group));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_input_file(format!("cases/{path}.case"));
    settings.set_description(title);
    settings.bind(|| insta::assert_snapshot!(name, text));
}
