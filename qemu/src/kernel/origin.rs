//! What the instrumented places of a kernel belong to: function, file and line, from its debug information.
//!
//! Debug information is most of a kernel and is not kept with one that was built here. What it says of these places is, and
//! the text of their files as it was when they were compiled; both together are small. It runs nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use addr2line::Loader;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use object::{Object as _, ObjectSymbol as _};
use serde::{Deserialize, Serialize};

use super::places::places;
use super::{Error, store};
use crate::cache;

/// Every kernel has this function, in this file of its source: so it is known where the source begins.
const LANDMARK: (&str, &str) = ("start_kernel", "init/main.c");
/// No table is larger than this when it is unpacked.
const MOST: u64 = 256 << 20;
/// As much of a source file is kept.
const MOST_SOURCE: u64 = 4 << 20;

/// All instrumented places of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origins {
    /// In the order of their addresses.
    pub places: Vec<Origin>,
    /// The texts of the files that they were compiled from, by path, where these were at hand.
    pub sources: BTreeMap<String, String>,
}

/// An instrumented place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where it is, as KCOV reports it.
    pub address: u64,
    /// The function it is in, and those that this one was put into by the compiler; the last one is called. None where nothing
    /// is known.
    pub frames: Vec<Frame>,
}

/// A line of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The function.
    pub function: String,
    /// Relative to the kernel's source; empty where there is no debug information.
    pub file: String,
    /// From 1 on; 0 where it is not known.
    pub line: u32,
}

impl Origins {
    /// As they are kept.
    pub fn pack(&self) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        serde_json::to_writer(&mut packed, self).expect("plain data, to memory");
        packed.finish().expect("it is memory")
    }

    /// Those that were packed.
    ///
    /// # Errors
    /// It was something else, or not all of it is there.
    pub fn unpack(packed: &[u8]) -> io::Result<Origins> {
        let mut text = Vec::new();
        GzDecoder::new(packed).take(MOST).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// The origins of a kernel's instrumented places: as they were kept when it was built, otherwise from its debug information,
/// otherwise the functions alone, from its symbols.
///
/// # Errors
/// The image or what was kept of it cannot be read.
pub fn origins(image: &Path) -> Result<Origins, Error> {
    let kept = image.with_file_name(store::ORIGINS);
    let is_stored = image.file_name().is_some_and(|name| name == store::IMAGE);
    match fs::read(&kept) {
        Ok(packed) if is_stored => {
            Origins::unpack(&packed).map_err(|source| cache::Error::io(&kept, source).into())
        }
        _ => of_elf(image),
    }
}

/// The origins that an ELF kernel itself tells.
///
/// # Errors
/// It cannot be read.
pub(super) fn of_elf(image: &Path) -> Result<Origins, Error> {
    let places = places(image)?;
    if places.is_empty() {
        return Ok(Origins::default());
    }
    let fail = |reason: Box<dyn std::error::Error>| Error::DebugInfo {
        path: image.to_owned(),
        reason: reason.to_string(),
    };
    let loader = Loader::new(image).map_err(fail)?;
    let top = top(image, &loader)?;
    let mut origins = Origins::default();
    for address in places {
        // What KCOV reports is behind the call, and may be another line already.
        let mut frames = frames(&loader, address - 1, &top).map_err(fail)?;
        if let (true, Some(function)) = (frames.is_empty(), loader.find_symbol(address - 1)) {
            frames.push(Frame { function: function.to_owned(), file: String::new(), line: 0 });
        }
        origins.places.push(Origin { address, frames });
    }
    for file in origins.places.iter().filter_map(|origin| Some(&origin.frames.last()?.file)) {
        // An image may name any file; only those of its own tree are shown.
        let is_below = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
        if is_below
            && !origins.sources.contains_key(file)
            && let Ok(text) = source(&top.join(file))
        {
            origins.sources.insert(file.clone(), text);
        }
    }
    Ok(origins)
}

fn source(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(MOST_SOURCE).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn frames(loader: &Loader, address: u64, top: &Path) -> Result<Vec<Frame>, Box<dyn std::error::Error>> {
    let (mut found, mut frames) = (loader.find_frames(address)?, Vec::new());
    while let Some(frame) = found.next()? {
        let Some(function) = frame.function else { continue };
        let (file, line) = match frame.location {
            Some(at) => (at.file.map(|file| relative(file, top)), at.line),
            None => (None, None),
        };
        let function = function.raw_name()?.into_owned();
        frames.push(Frame { function, file: file.unwrap_or_default(), line: line.unwrap_or(0) });
    }
    Ok(frames)
}

/// Where the source was that the kernel was built from; nowhere without debug information.
fn top(image: &Path, loader: &Loader) -> Result<PathBuf, Error> {
    let bytes = fs::read(image).map_err(|source| cache::Error::io(image, source))?;
    let elf = object::File::parse(&*bytes).map_err(|_| Error::NotAKernel { path: image.to_owned() })?;
    let at = elf.symbols().find(|symbol| symbol.name() == Ok(LANDMARK.0)).map(|symbol| symbol.address());
    let file = at.and_then(|at| loader.find_location(at).ok()??.file.map(|file| plain(Path::new(file))));
    let top = file.and_then(|file| {
        file.ends_with(LANDMARK.1).then(|| file.ancestors().nth(2).map(Path::to_owned)).flatten()
    });
    Ok(top.unwrap_or_default())
}

fn relative(file: &str, top: &Path) -> String {
    let file = plain(Path::new(file));
    file.strip_prefix(top).unwrap_or(&file).display().to_string()
}

/// Without `..` and `.`, as a compiler writes it: there need be no such folder here.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
        plain
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const MAIN: &str = "#include \"fs/a.h\"
void __sanitizer_cov_trace_pc(void) {}
int once(int);
int start_kernel(int x)
{
	return once(x);
}
";
    const HEADER: &str = "static inline __attribute__((always_inline)) int twice(int x)
{
	if (x > 3)
		return 2 * x;
	return 1;
}
";
    const A: &str = "#include \"a.h\"
int once(int x)
{
	if (x)
		return twice(x);
	return 7;
}
";

    /// A program that is laid out like a kernel, instrumented where a kernel is.
    fn built(top: &Path, debug: &str) -> PathBuf {
        fs::create_dir_all(top.join("src/init")).expect("made");
        fs::create_dir_all(top.join("src/fs")).expect("made");
        fs::create_dir_all(top.join("out")).expect("made");
        for (name, text) in [("init/main.c", MAIN), ("fs/a.h", HEADER), ("fs/a.c", A)] {
            fs::write(top.join("src").join(name), text).expect("written");
        }
        let cc = |arguments: &[&str]| {
            let mut cc = Command::new("cc");
            cc.current_dir(top.join("out")).args([debug, "-I../src"]).args(arguments);
            assert!(cc.status().expect("a compiler").success(), "{arguments:?}");
        };
        cc(&["-c", "-fno-pie", "../src/init/main.c", "-o", "main.o"]);
        cc(&["-c", "-fno-pie", "-fsanitize-coverage=trace-pc", "../src/fs/a.c", "-o", "a.o"]);
        cc(&["-nostdlib", "-static", "-no-pie", "-Wl,-e,start_kernel", "main.o", "a.o", "-o", "vmlinux"]);
        top.join("out/vmlinux")
    }

    #[test]
    fn places_have_lines_and_who_they_were_put_into() {
        let folder = tempfile::tempdir().expect("temp");
        let told = origins(&built(folder.path(), "-gdwarf-4")).expect("origins");
        let chain = |origin: &Origin| {
            let frames = origin.frames.iter();
            frames
                .map(|frame| format!("{} {}:{}", frame.function, frame.file, frame.line))
                .collect::<Vec<_>>()
        };
        let all: Vec<_> = told.places.iter().map(chain).collect();
        assert_eq!(all[0], ["once fs/a.c:4"], "{all:?}");
        assert!(all.contains(&vec!["twice fs/a.h:4".to_owned(), "once fs/a.c:5".to_owned()]), "{all:?}");
        assert!(all.contains(&vec!["once fs/a.c:6".to_owned()]), "{all:?}");
        assert_eq!(told.sources.keys().collect::<Vec<_>>(), ["fs/a.c"]);
        assert_eq!(told.sources["fs/a.c"], A);
        let packed = told.pack();
        assert_eq!(Origins::unpack(&packed).expect("unpacked"), told);
        assert!(Origins::unpack(&packed[..packed.len() / 2]).is_err(), "a half is not taken for a whole");
    }

    #[test]
    fn without_debug_information_there_are_functions() {
        let folder = tempfile::tempdir().expect("temp");
        let image = built(folder.path(), "-g0");
        let told = origins(&image).expect("origins");
        let once = [Frame { function: "once".into(), file: String::new(), line: 0 }];
        assert!(told.places.len() > 3 && told.places.iter().all(|origin| origin.frames == once), "{told:?}");
        assert!(told.sources.is_empty());
    }

    #[test]
    fn what_was_kept_is_preferred_beside_a_stored_image_only() {
        let folder = tempfile::tempdir().expect("temp");
        let image = built(folder.path(), "-g0");
        let kept = Origins { sources: [("fs/a.c".into(), A.into())].into(), ..Origins::default() };
        fs::write(image.with_file_name(store::ORIGINS), kept.pack()).expect("written");
        assert_ne!(origins(&image).expect("origins"), kept);
        let stored = image.with_file_name(store::IMAGE);
        fs::rename(&image, &stored).expect("renamed");
        assert_eq!(origins(&stored).expect("origins"), kept);
        fs::write(stored.with_file_name(store::ORIGINS), "half").expect("written");
        assert!(origins(&stored).expect_err("refused").to_string().contains(store::ORIGINS));
    }
}
