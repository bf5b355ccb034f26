//! Bytes as a case writes and a transcript shows them: `"hello"`, `"x"*4096`, `"a"+"\0"*7+"b"`.
//!
//! The printed form is canonical: runs are folded, so that a megabyte of one byte is eight characters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A run of equal bytes shorter than this is written out.
const FOLD: usize = 12;
/// The most bytes a literal may stand for: cases are small, generated ones must not eat the guest.
const MOST: usize = 8 << 20;

/// Bytes, with a readable text form.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct Data(pub Vec<u8>);

/// Why a text is no [`Data`]: what is wrong, and at which byte of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct DataError {
    /// What is wrong, and what would have been right.
    pub what: String,
    /// Byte offset in the text.
    pub at: usize,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = &self.0;
        if bytes.is_empty() {
            return f.write_str("\"\"");
        }
        let mut terms = Vec::new();
        let mut plain = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let run = bytes[at..].iter().take_while(|byte| **byte == bytes[at]).count();
            if run >= FOLD {
                if !plain.is_empty() {
                    terms.push(quote(&plain));
                    plain.clear();
                }
                terms.push(format!("{}*{run}", quote(&bytes[at..=at])));
            } else {
                plain.extend_from_slice(&bytes[at..at + run]);
            }
            at += run;
        }
        if !plain.is_empty() {
            terms.push(quote(&plain));
        }
        f.write_str(&terms.join("+"))
    }
}

fn quote(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\r' => text.push_str("\\r"),
            0 => text.push_str("\\0"),
            0x20..=0x7e => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text.push('"');
    text
}

impl FromStr for Data {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Data, DataError> {
        let mut bytes = Vec::new();
        let mut at = 0;
        loop {
            let (unit, end) = string(text, at)?;
            at = end;
            let mut times = 1;
            if text[at..].starts_with('*') {
                let digits: String = text[at + 1..].chars().take_while(char::is_ascii_digit).collect();
                times = digits
                    .parse::<usize>()
                    .map_err(|_| DataError { what: "expected a count after `*`".into(), at: at + 1 })?;
                at += 1 + digits.len();
            }
            if unit.len().saturating_mul(times) > MOST - bytes.len() {
                return Err(DataError { what: format!("more than {MOST} bytes"), at });
            }
            for _ in 0..times {
                bytes.extend_from_slice(&unit);
            }
            match text[at..].chars().next() {
                None => return Ok(Data(bytes)),
                Some('+') => at += 1,
                Some(_) => {
                    return Err(DataError { what: "expected `+`, `*` or the end of the bytes".into(), at });
                }
            }
        }
    }
}

/// The bytes of the quoted string that starts at `at`, and where it ends.
fn string(text: &str, at: usize) -> Result<(Vec<u8>, usize), DataError> {
    let wrong = |what: &str, at| DataError { what: what.into(), at };
    let mut chars = text[at..].char_indices();
    if chars.next().map(|(_, c)| c) != Some('"') {
        return Err(wrong("expected a `\"`", at));
    }
    let mut bytes = Vec::new();
    while let Some((offset, c)) = chars.next() {
        match c {
            '"' => return Ok((bytes, at + offset + 1)),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => bytes.push(b'\n'),
                Some('t') => bytes.push(b'\t'),
                Some('r') => bytes.push(b'\r'),
                Some('0') => bytes.push(0),
                Some('"') => bytes.push(b'"'),
                Some('\\') => bytes.push(b'\\'),
                Some('x') => {
                    let hex: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
                    let byte = u8::from_str_radix(&hex, 16)
                        .ok()
                        .filter(|_| hex.len() == 2)
                        .ok_or_else(|| wrong("expected two hexadecimal digits after `\\x`", at + offset))?;
                    bytes.push(byte);
                }
                _ => {
                    return Err(wrong("unknown escape: know \\n \\t \\r \\0 \\\" \\\\ \\xNN", at + offset));
                }
            },
            other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err(wrong("the string is not closed: a `\"` is missing", at))
}

/// In a message as they are: a text of some bytes may stand for millions, and messages come from guests.
impl Serialize for Data {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.collect_str(self) } else { to.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Data, D::Error> {
        if !from.is_human_readable() {
            return <&[u8]>::deserialize(from).map(|bytes| Data(bytes.to_vec()));
        }
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(b"", r#""""#)]
    #[case(b"hello", r#""hello""#)]
    #[case(b"\0\x7f\"\\\n", r#""\0\x7f\"\\\n""#)]
    #[case(&[b'x'; 4096], r#""x"*4096"#)]
    #[case(b"ab\0\0\0\0\0\0\0\0\0\0\0\0c", r#""ab"+"\0"*12+"c""#)]
    fn prints_and_parses_back(#[case] bytes: &[u8], #[case] text: &str) {
        let data = Data(bytes.to_vec());
        assert_eq!(data.to_string(), text);
        assert_eq!(text.parse::<Data>(), Ok(data));
    }

    #[test]
    fn a_message_stands_for_no_more_bytes_than_it_has() {
        let data = Data(vec![b'x'; 4096]);
        let message = postcard::to_stdvec(&data).expect("plain data");
        assert!(message.len() > 4096);
        assert_eq!(postcard::from_bytes::<Data>(&message), Ok(data));
        // A text in its place is only a text.
        let text = postcard::to_stdvec("\"x\"*4096").expect("plain data");
        assert_eq!(postcard::from_bytes::<Data>(&text), Ok(Data(b"\"x\"*4096".to_vec())));
    }

    #[rstest]
    #[case(r#""open"#, 0)]
    #[case(r#""a"*"#, 4)]
    #[case(r#""a"x"#, 3)]
    #[case(r#""\q""#, 1)]
    #[case(r#""\xg1""#, 1)]
    #[case(r#""x"*99999999999"#, 15)]
    fn says_where_it_is_wrong(#[case] text: &str, #[case] at: usize) {
        assert_eq!(text.parse::<Data>().unwrap_err().at, at);
    }
}
