//! Files that are there whole or not at all, and the folder of a saved run. It replaces a run that was saved there before,
//! and nothing else.

use std::error::Error;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::report::{read_events, write_events};
use crate::run::{Event, Run};

/// What happened, one event a line.
const EVENTS: &str = "events.jsonl";
/// The same as a page.
const PAGE: &str = "report.html";

/// Put a text at `path`.
pub(super) fn write_whole(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    let folder = folder_of(path);
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
    file.write_all(content.as_ref())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The folder that a path is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The folder of a saved run.
#[derive(Debug)]
pub(super) struct Saved {
    path: PathBuf,
}

impl Saved {
    /// To be written: there is nothing at the path, or an empty folder, or a saved run and nothing else.
    pub(super) fn at(path: &Path) -> Result<Saved, String> {
        let shown = path.display();
        let names: Vec<_> = match fs::read_dir(path) {
            Ok(items) => items.flatten().map(|item| item.file_name()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(format!("cannot save in {shown}: {error}")),
        };
        if let Some(foreign) = names.iter().find(|name| *name != EVENTS && *name != PAGE) {
            let foreign = Path::new(foreign).display();
            return Err(format!(
                "{shown} holds something that is no saved run ({foreign}): name another folder"
            ));
        }
        if !folder_of(path).is_dir() {
            return Err(format!("cannot save in {shown}: create {} first", folder_of(path).display()));
        }
        Ok(Saved { path: path.to_path_buf() })
    }

    /// Put the run there.
    pub(super) fn write(&self, events: &[Event], page: &str) -> Result<(), Box<dyn Error>> {
        let events = write_events(events)?;
        self.replace(&events, page)
            .map_err(|error| format!("cannot save the run in {}: {error}", self.path.display()).into())
    }

    /// Made beside, then renamed; what was there before goes with the folder it was made in.
    fn replace(&self, events: &str, page: &str) -> io::Result<()> {
        let beside = tempfile::Builder::new().prefix(".fuseproof-").tempdir_in(folder_of(&self.path))?;
        let (new, old) = (beside.path().join("new"), beside.path().join("old"));
        fs::create_dir(&new)?;
        fs::write(new.join(EVENTS), events)?;
        fs::write(new.join(PAGE), page)?;
        match fs::rename(&self.path, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&new, &self.path).inspect_err(|_| {
            // Nobody else has put anything there, or it is theirs.
            let _ = fs::rename(&old, &self.path);
        })
    }

    /// The run that was saved at a path.
    pub(super) fn read(path: &Path) -> Result<Run, String> {
        let file = path.join(EVENTS);
        let text = fs::read_to_string(&file).map_err(|error| {
            format!("{} is no saved run ({error}): make one with `fuseproof run --save`", path.display())
        })?;
        read_events(&text).map_err(|error| format!("{}: {error}", file.display()))
    }
}
