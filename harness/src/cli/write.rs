//! `fuseproof fmt` and `fuseproof new`: the commands that write case files.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::messages::Messages;
use super::out::outln;
use super::{Exit, cases_folder, trouble};
use crate::report::Message;
use crate::script::{Folder, LoadError, Source, files, format, parse};

#[derive(Debug, Args)]
pub(super) struct FmtArguments {
    /// Case files, or folders of them [default: `cases` here, or the project's].
    paths: Vec<PathBuf>,
    /// Say which files are not in canonical form, and change none.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    messages: Messages,
}

#[derive(Debug, Args)]
pub(super) struct NewArguments {
    /// Its name: a group and a sentence, such as `open_reply/an-id-never-given`.
    case: String,
    /// The folder of the cases [default: `cases` here, or the project's].
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
}

pub(super) fn fmt(arguments: &FmtArguments) -> Exit {
    let default = [cases_folder(None)];
    let paths = if arguments.paths.is_empty() { &default[..] } else { &arguments.paths };
    let mut exit = Exit::Expected;
    for path in paths {
        let files = match files(path) {
            Ok(files) => files,
            Err(error) => {
                arguments.messages.tell(error, Path::new(""));
                return Exit::Usage;
            }
        };
        for file in files {
            match format_file(&file, arguments) {
                Ok(true) => {}
                Ok(false) => exit = Exit::Usage,
                Err(error) => return trouble(&format!("cannot write {}: {error}", file.display())),
            }
        }
    }
    exit
}

/// Is the file in canonical form now?
fn format_file(file: &Path, arguments: &FmtArguments) -> io::Result<bool> {
    let wrong = |error: LoadError| {
        arguments.messages.tell(error, Path::new(""));
        Ok(false)
    };
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(source) => return wrong(LoadError::Unreadable { path: file.to_path_buf(), source }),
    };
    let path = file.display().to_string();
    let formatted = match format(&Source { path: path.clone(), text: text.clone() }) {
        Ok(formatted) => formatted,
        Err(error) => return wrong(LoadError::Wrong(vec![error])),
    };
    if formatted == text {
        return Ok(true);
    }
    if !arguments.check {
        fs::write(file, formatted)?;
        outln!("{path}");
        return Ok(true);
    }
    let (line, column) = first_difference(&text, &formatted);
    arguments.messages.tell_one(&Message {
        help: Some(format!("`fuseproof fmt {path}` mends it")),
        file: path,
        line: Some(line),
        column: Some(column),
        code: "layout",
        message: "not in canonical form".into(),
        label: None,
    });
    Ok(false)
}

/// Line and column where two texts part.
fn first_difference(text: &str, other: &str) -> (usize, usize) {
    let same = text.chars().zip(other.chars()).take_while(|(one, other)| one == other);
    same.fold((1, 1), |(line, column), (c, _)| if c == '\n' { (line + 1, 1) } else { (line, column + 1) })
}

/// A case that parses and passes; its rule is one that there is not, so that it cannot stay.
const SKELETON: &str = r#"# One sentence, which is true if this case passes.
rules  RULE-00
use    mount/passthrough

app    open "a" O_RDONLY -> fd f
app    read f 5 -> "hello"
daemon saw OPEN "a", READ "a"
"#;

pub(super) fn new(arguments: &NewArguments) -> Exit {
    let name = &arguments.case;
    let refuse = |why: &str| {
        eprintln!("fuseproof: {why}");
        Exit::Usage
    };
    if !is_case_name(name) {
        return refuse(&format!(
            "`{name}` names no case: give a group and a sentence of small words, as in open_reply/an-id-never-given"
        ));
    }
    let folder = cases_folder(arguments.cases.as_deref());
    let file = folder.join(format!("{name}.case"));
    let source = Source { path: format!("{name}.case"), text: SKELETON.into() };
    if let Err(error) = parse(&source, &Folder(folder.clone())) {
        eprintln!("{:?}", miette::Report::new(error));
        return refuse(&format!(
            "{} has no library that a new case could use: name the folder with --cases",
            folder.display()
        ));
    }
    let path = file.display();
    match create(&file) {
        Ok(()) => {
            outln!("{path} is there. Now");
            outln!("  say in its first line what is true if it passes, and in the name of the file, shorter");
            outln!(
                "  replace RULE-00: `fuseproof rules` lists what no case shows, `fuseproof explain ID` has the law"
            );
            outln!("  write its steps: cases/README.md shows the language");
            outln!("  try it: `fuseproof run {name}`; then lay it out: `fuseproof fmt {path}`");
            Exit::Expected
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            refuse(&format!("{path} is there already: edit it, or give another name"))
        }
        Err(error) => trouble(&format!("cannot write {path}: {error}")),
    }
}

fn create(file: &Path) -> io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    OpenOptions::new().write(true).create_new(true).open(file)?.write_all(SKELETON.as_bytes())
}

/// `open_reply/an-id-never-given`.
fn is_case_name(name: &str) -> bool {
    let are_words = |text: &str, between: char, least: usize| {
        let is_word = |word: &str| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        text.split(between).count() >= least && text.split(between).all(is_word)
    };
    name.split_once('/')
        .is_some_and(|(group, name)| group != "lib" && are_words(group, '_', 1) && are_words(name, '-', 2))
}
