//! How a case file is laid out: one blank between words, as the printer has it, every line by itself.
//!
//! It moves words and changes none: `0x77`, `$flag`, `use` and comments stay what they are, so nothing is lost.

use super::Source;
use super::error::ScriptError;
use super::lexer::{Line, lex};
use super::printer::first_word;

/// The file in canonical form: a line has one blank between its words and before its comment, and of empty lines one stays.
///
/// # Errors
/// A line that cannot be cut into words.
pub fn format(source: &Source) -> Result<String, ScriptError> {
    let lines = lex(&source.text).map_err(|fault| fault.within(source))?;
    let mut lines = lines.into_iter().peekable();
    let mut formatted = String::new();
    let mut is_apart = false;
    let mut start = 0;
    for (number, text) in (1..).zip(source.text.split('\n')) {
        let (mut shown, end) = match lines.next_if(|line| line.number == number) {
            Some(line) => (words(&line), line.end - start),
            None => (String::new(), 0),
        };
        let comment = text[end..].trim();
        if !shown.is_empty() && !comment.is_empty() {
            shown.push(' ');
        }
        shown.push_str(comment);
        if shown.is_empty() {
            is_apart = true;
        } else {
            if is_apart && !formatted.is_empty() {
                formatted.push('\n');
            }
            is_apart = false;
            formatted.push_str(&shown);
            formatted.push('\n');
        }
        start += text.len() + 1;
    }
    Ok(formatted)
}

fn words(line: &Line) -> String {
    let mut text = String::new();
    let mut is_glued = true;
    for (index, token) in line.tokens.iter().enumerate() {
        let word = token.text.as_str();
        if !is_glued && !matches!(word, "]" | "," | ":") {
            text.push(' ');
        }
        is_glued = word == "[";
        match index {
            0 if !is_glued => text.push_str(&first_word(word)),
            _ => text.push_str(word),
        }
    }
    text.truncate(text.trim_end().len());
    text
}
