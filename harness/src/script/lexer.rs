//! Lines and words. A word is what stands between blanks, with quoted parts kept whole; `[`, `]`, `,` and `:` are
//! words by themselves. What a word means is not decided here.

use std::ops::Range;

use super::error::Fault;

const PUNCTUATION: [char; 4] = ['[', ']', ',', ':'];

/// A word, and where it stands in the file.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

impl Token {
    pub(super) fn is_quoted(&self) -> bool {
        self.text.starts_with('"')
    }

    /// The bytes `range` of the word as a word of its own. A word in which an axis was replaced stands for its
    /// whole place: its bytes are not the file's.
    pub(super) fn part(&self, range: Range<usize>) -> Token {
        let span = if self.span.len() == self.text.len() {
            self.span.start + range.start..self.span.start + range.end
        } else {
            self.span.clone()
        };
        Token { text: self.text[range].to_string(), span }
    }

    /// `key` and `value` of a word such as `key=value`.
    pub(super) fn key_value(&self) -> Option<(Token, Token)> {
        let at = self.text.find('=').filter(|_| !self.is_quoted())?;
        Some((self.part(0..at), self.part(at + 1..self.text.len())))
    }
}

/// A line that says something.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u32,
    pub(super) tokens: Vec<Token>,
    /// Where its last word ends.
    pub(super) end: usize,
}

/// The lines of a text that are more than blanks and comments.
pub(super) fn lex(text: &str) -> Result<Vec<Line>, Fault> {
    let mut lines = Vec::new();
    let mut start = 0;
    for (number, line) in (1..).zip(text.split('\n')) {
        let tokens = words(line, start)?;
        if let Some(last) = tokens.last() {
            let end = last.span.end;
            lines.push(Line { number, tokens, end });
        }
        start += line.len() + 1;
    }
    Ok(lines)
}

fn words(line: &str, start: usize) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut chars = line.char_indices().peekable();
    while let Some((at, first)) = chars.next() {
        if first.is_whitespace() {
            continue;
        }
        if first == '#' {
            break;
        }
        let mut end = at + first.len_utf8();
        if !PUNCTUATION.contains(&first) {
            let mut quoted = (first == '"').then_some(at);
            while let Some(&(next, c)) = chars.peek() {
                match (quoted, c) {
                    (Some(_), '"') => quoted = None,
                    (Some(_), '\\') => {
                        chars.next();
                    }
                    (Some(_), _) => {}
                    (None, '"') => quoted = Some(next),
                    (None, c) if c.is_whitespace() || PUNCTUATION.contains(&c) => break,
                    (None, _) => {}
                }
                end = chars.next().map_or(line.len(), |(at, c)| at + c.len_utf8());
            }
            if let Some(open) = quoted {
                return Err(Fault::new(
                    &(start + open..start + line.len()),
                    "a string is not closed",
                    "expected a closing `\"` on the same line",
                ));
            }
        }
        tokens.push(Token { text: line[at..end].to_string(), span: start + at..start + end });
    }
    Ok(tokens)
}

/// The words of a line, read from left to right.
pub(super) struct Cursor<'a> {
    tokens: &'a [Token],
    end: Range<usize>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(line: &'a Line) -> Cursor<'a> {
        Cursor { tokens: &line.tokens, end: line.end..line.end }
    }

    /// Where the next word begins, or the line ends.
    pub(super) fn here(&self) -> Range<usize> {
        self.peek().map_or(self.end.clone(), |token| token.span.clone())
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.first()
    }

    pub(super) fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    /// The next word if it is exactly this one.
    pub(super) fn take(&mut self, word: &str) -> Option<&'a Token> {
        self.peek().filter(|token| token.text == word)?;
        self.next()
    }

    /// The next word, which `what` describes.
    pub(super) fn expect(&mut self, what: &str) -> Result<&'a Token, Fault> {
        let end = self.end.clone();
        self.next().ok_or_else(|| Fault::new(&end, "the line ends too early", format!("expected {what}")))
    }

    /// The next word, which must be this one.
    pub(super) fn expect_word(&mut self, word: &str) -> Result<(), Fault> {
        let token = self.expect(&format!("`{word}`"))?;
        if token.text == word {
            return Ok(());
        }
        Err(Fault::new(
            &token.span,
            format!("`{}` is out of place", token.text),
            format!("expected `{word}`"),
        ))
    }

    /// Nothing may be left.
    pub(super) fn finish(mut self, after: &str) -> Result<(), Fault> {
        match self.next() {
            None => Ok(()),
            Some(token) => Err(Fault::new(
                &token.span,
                format!("`{}` is too much", token.text),
                format!("expected nothing more after {after}"),
            )),
        }
    }
}
