//! What a program needs beside itself to start: its loader and its shared libraries, all the way down.
//!
//! It reads ELF headers and nothing is run, as a program under test is not to be trusted. It follows the rules of glibc's
//! loader as far as they concern an installed program (RPATH, RUNPATH, `$ORIGIN`, `ld.so.conf`, the default folders) and
//! knows nothing of `dlopen`, `LD_LIBRARY_PATH` and preloading.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, FileHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

const LD_SO_CONF: &str = "/etc/ld.so.conf";
/// More files than any conf of a sane system includes; a circle of includes ends here.
const MAX_CONFS: usize = 200;
const DEFAULT_FOLDERS: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// Why the closure cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ClosureError {
    /// A file cannot be read.
    #[error("cannot read {path} ({source}): give the path of a program that is there and readable")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An ELF file is damaged, or of another class than ours.
    #[error("{path} is no 64-bit ELF file ({reason}): give a program built for x86-64")]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: object::Error,
    },
    /// A library is nowhere.
    #[error(
        "{user} needs {library}, which is in no library folder: install the package that has it, or link statically"
    )]
    Missing {
        /// Who needs it.
        user: PathBuf,
        /// What is needed.
        library: String,
    },
}

/// What one ELF file asks for.
#[derive(Debug, Default)]
struct Needs {
    interpreter: Option<PathBuf>,
    libraries: Vec<String>,
    folders: Vec<PathBuf>,
}

/// The paths of `program`'s loader and libraries, sorted, each as the loader will look for it. Empty for a
/// static program and for what is no ELF file (a script, a data file).
///
/// # Errors
/// A file that cannot be read, a damaged ELF file, a library that is nowhere.
pub fn closure(program: &Path) -> Result<Vec<PathBuf>, ClosureError> {
    let shared = library_folders();
    let mut found = BTreeSet::new();
    let mut queue = VecDeque::from([program.to_owned()]);
    while let Some(user) = queue.pop_front() {
        let bytes =
            fs::read(&user).map_err(|source| ClosureError::Unreadable { path: user.clone(), source })?;
        if !bytes.starts_with(b"\x7fELF") {
            continue;
        }
        let needs =
            needs(&bytes, &user).map_err(|reason| ClosureError::NotElf { path: user.clone(), reason })?;
        let mut add = |path: PathBuf| {
            if found.insert(path.clone()) {
                queue.push_back(path);
            }
        };
        needs.interpreter.into_iter().for_each(&mut add);
        for library in needs.libraries {
            let candidate = if library.contains('/') {
                Some(PathBuf::from(&library)).filter(|path| path.is_file())
            } else {
                needs
                    .folders
                    .iter()
                    .chain(&shared)
                    .map(|folder| folder.join(&library))
                    .find(|path| path.is_file())
            };
            add(candidate.ok_or_else(|| ClosureError::Missing { user: user.clone(), library })?);
        }
    }
    Ok(found.into_iter().collect())
}

fn needs(bytes: &[u8], path: &Path) -> object::Result<Needs> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let mut needs = Needs::default();
    for segment in header.program_headers(endian, bytes)? {
        if let Some(name) = segment.interpreter(endian, bytes)? {
            needs.interpreter = Some(PathBuf::from(text(name)));
        }
    }
    let origin = path.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
    let dynamic = header.sections(endian, bytes)?.dynamic_table(endian, bytes)?;
    for entry in &dynamic {
        match entry.tag {
            DT_NEEDED => needs.libraries.push(text(dynamic.string(entry)?)),
            DT_RPATH | DT_RUNPATH => {
                let folders =
                    text(dynamic.string(entry)?).replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin);
                needs.folders.extend(folders.split(':').map(PathBuf::from));
            }
            _ => {}
        }
    }
    Ok(needs)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The folders of `ld.so.conf` and what it includes, then the loader's own.
fn library_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut confs = VecDeque::from([PathBuf::from(LD_SO_CONF)]);
    for _ in 0..MAX_CONFS {
        let Some(conf) = confs.pop_front() else { break };
        // No conf is no fault: not every system has one.
        let text = fs::read_to_string(conf).unwrap_or_default();
        for line in text.lines().map(str::trim) {
            match line.strip_prefix("include ") {
                Some(pattern) => confs.extend(included(Path::new(pattern.trim()))),
                None if line.starts_with('/') => folders.push(PathBuf::from(line)),
                None => {}
            }
        }
    }
    folders.extend(DEFAULT_FOLDERS.map(PathBuf::from));
    folders
}

/// The files of an include line; of patterns only the one in use everywhere, `folder/*.conf`.
fn included(pattern: &Path) -> Vec<PathBuf> {
    if !pattern.ends_with("*.conf") {
        return vec![pattern.to_owned()];
    }
    let items = pattern.parent().and_then(|folder| fs::read_dir(folder).ok());
    let mut files: Vec<_> = items.into_iter().flatten().flatten().map(|item| item.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_brings_its_loader_and_the_c_library() {
        let files = closure(&std::env::current_exe().unwrap()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_string_lossy()).collect();
        for start in ["ld-linux", "libc.so", "libgcc_s.so"] {
            assert!(names.iter().any(|name| name.starts_with(start)), "no {start} in {names:?}");
        }
    }

    #[test]
    fn a_script_needs_nothing() {
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!(closure(script.path()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_cut_or_absent_program_is_named() {
        let program = tempfile::NamedTempFile::new().unwrap();
        let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
        fs::write(&program, &whole[..100]).unwrap();
        assert!(
            matches!(closure(program.path()), Err(ClosureError::NotElf { path, .. }) if path == program.path())
        );
        let error = closure(Path::new("/no/such/program")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /no/such/program"), "{error}");
    }
}
