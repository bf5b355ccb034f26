//! How mistakes in files are told: drawn for people, or one JSON object a line. Both go to standard error.

use std::path::Path;

use clap::{Args, ValueEnum};

use crate::report::Message;
use crate::script::LoadError;

#[derive(Debug, Args)]
pub(super) struct Messages {
    /// How mistakes in files are told: `json` is one object a line with file, line, column, code, message, label and help.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Human)]
    message_format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

impl Messages {
    /// Tell all that is wrong with files below `folder`.
    pub(super) fn tell(&self, error: LoadError, folder: &Path) {
        match self.message_format {
            Format::Human => eprintln!("{:?}", miette::Report::new(error)),
            Format::Json => {
                Message::all(&error, folder).iter().for_each(|message| eprintln!("{}", message.json()))
            }
        }
    }

    /// Tell one thing that is wrong with a file's looks: nothing needs to be drawn for it.
    pub(super) fn tell_one(&self, message: &Message) {
        match self.message_format {
            Format::Json => eprintln!("{}", message.json()),
            Format::Human => {
                let Message { file, line, column, message, help, .. } = message;
                let numbers = [line, column].into_iter().flatten().map(|number| format!(":{number}"));
                let help = help.iter().map(|help| format!("; {help}"));
                eprintln!("{file}{}: {message}{}", numbers.collect::<String>(), help.collect::<String>());
            }
        }
    }
}
