//! The lenient layer of JSON: every annotation and result file in JSON is read by [`parse`] into records of the types here.
//!
//! Lenient is how a value may be written, not what it may be. A byte-order mark is skipped, `null` is an absent value, an
//! id may be a number, an integral float or a word, and the words NaN and Infinity, which Python writes, are values that
//! only a field that somebody reads refuses. Nothing is guessed: a value that is not what its field holds is a flaw, and
//! the reader of the record says where. The whole file is consumed: text after the document is an error.

mod scalar;

pub use scalar::RecordId;
pub(crate) use scalar::{Coordinate, NumberList, Scalar};

use crate::files;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use std::borrow::Cow;
use std::fmt;

/// Number of characters of a file that a message quotes.
const QUOTED: usize = 24;

/// Reads a document that must fill the file.
///
/// # Errors
/// A message that says what is wrong, and where: line and column of text that is not JSON, or the path of keys to a value of
/// another structure than `T`.
pub(crate) fn parse<T: DeserializeOwned>(mut bytes: Vec<u8>) -> Result<T, String> {
    let mark = match files::utf8(&bytes)? {
        Cow::Borrowed(text) => bytes.len() - text.len(),
        Cow::Owned(text) => {
            bytes = text.into_bytes();
            0
        }
    };
    quote_words(&mut bytes);
    let text = &bytes[mark..];
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err("the file is empty".into());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let document = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            Category::Data if path == "." => worded("the document", &inner),
            Category::Data => worded(&format!("`{path}`"), &inner),
            _ => syntax(&inner, text),
        }
    })?;
    deserializer.end().map_err(|error| {
        let rest = place(text, error.line(), error.column());
        format!(
            "line {}, column {}: more text follows the end of the document: `{}`; put everything into one document, or \
             into files of their own",
            error.line(),
            error.column(),
            quoted(rest)
        )
    })?;
    Ok(document)
}

/// What is wrong with the value called `name`, which has another structure than it should.
fn worded(name: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let expected = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = expected.and_then(|message| message.split_once(", expected ")) else {
        let twice = message.strip_prefix("duplicate field ").map(|key| format!("the key {key} occurs twice"));
        return format!("{name}: {}", twice.unwrap_or_else(|| message.to_string()));
    };
    let found = match found.split_once(' ') {
        Some(("integer" | "boolean" | "string", value)) => value.trim_matches('`'),
        Some(("floating", value)) => value.trim_start_matches("point ").trim_matches('`'),
        _ if found == "sequence" => "a list",
        _ if found == "map" => "an object",
        _ => found,
    };
    format!("{name} is {found}, expected {expected}")
}

/// What is wrong with text that is not JSON.
fn syntax(error: &serde_json::Error, text: &[u8]) -> String {
    let (line, column) = (error.line(), error.column());
    if error.classify() == Category::Eof {
        return format!(
            "line {line}, column {column}: the file ends in the middle of the document; it is cut off"
        );
    }
    let message = error.to_string();
    let message = match message.split(" at line ").next().unwrap_or_default() {
        "expected ident" => "expected a value",
        message => message,
    };
    let rest = quoted(place(text, line, column));
    format!("line {line}, column {column}: not JSON: {message}, found `{rest}`")
}

/// The text from a position on; line and column count from 1.
fn place(text: &[u8], line: usize, column: usize) -> &[u8] {
    let start = text.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len);
    text.get(start.sum::<usize>() + column.saturating_sub(1)..).unwrap_or_default()
}

fn quoted(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * QUOTED)]);
    text.chars().take_while(|c| *c != '\n').take(QUOTED).collect()
}

/// Words for numbers that JSON does not have, and strings of the same length that stand for them. A string of control
/// characters without escapes is in no other JSON file than one made by this program.
const WORDS: [(&str, &str); 3] = [
    ("-Infinity", "\"\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\""),
    ("Infinity", "\"\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\""),
    ("NaN", "\"\u{7f}\""),
];

/// The word for which a string stands, if it is one of [`WORDS`].
fn word_of(text: &str) -> Option<&'static str> {
    WORDS.iter().find(|(_, string)| string.trim_matches('"') == text).map(|(word, _)| *word)
}

/// Replaces words for numbers outside of strings by strings, so that positions in messages stay right.
fn quote_words(text: &mut [u8]) {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'N' | b'I' | b'-' => {
                let found = WORDS.iter().find(|(word, _)| text[at..].starts_with(word.as_bytes()));
                if let Some((word, string)) = found {
                    text[at..at + word.len()].copy_from_slice(string.as_bytes());
                }
                at += found.map_or(1, |(word, _)| word.len());
            }
            _ => at += 1,
        }
    }
}

/// A list of records; `None` if it is absent or null.
#[derive(Debug)]
pub(crate) struct Records<T>(pub Option<Vec<T>>);

impl<T> Default for Records<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Records<T> {
    /// The records of the list `name`, which a file must have; without any, that is one of its `flaws`.
    pub(crate) fn required(self, name: &str, flaws: &mut Vec<String>) -> Vec<T> {
        match &self.0 {
            None => flaws.push(format!("there is no list `{name}`")),
            Some(records) if records.is_empty() => flaws.push(format!("`{name}` is empty")),
            Some(_) => {}
        }
        self.0.unwrap_or_default()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Records<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RecordsVisitor(std::marker::PhantomData))
    }
}

struct RecordsVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for RecordsVisitor<T> {
    type Value = Records<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: Error>(self) -> Result<Records<T>, E> {
        Ok(Records(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Records<T>, A::Error> {
        let mut records = vec![];
        while let Some(NamedFields(record)) = sequence.next_element()? {
            records.push(record);
        }
        Ok(Records(Some(records)))
    }
}

/// A record that is read by the names of its fields alone. Without it, serde also takes a list of values in the order of the
/// fields.
pub(crate) struct NamedFields<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for NamedFields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldsVisitor(std::marker::PhantomData))
    }
}

struct FieldsVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldsVisitor<T> {
    type Value = NamedFields<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with named fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NamedFields<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(NamedFields)
    }
}

/// Consumes the rest of a list.
fn skip_list<'de, A: SeqAccess<'de>>(mut sequence: A) -> Result<(), A::Error> {
    while sequence.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Consumes the rest of an object.
fn skip_object<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Pair {
        #[serde(default)]
        a: Scalar,
        #[serde(default)]
        b: NumberList,
    }

    fn pair(text: &str) -> Result<Pair, String> {
        parse::<NamedFields<Pair>>(text.as_bytes().to_vec()).map(|NamedFields(pair)| pair)
    }

    #[test]
    fn a_mark_and_words_for_numbers_are_no_obstacle() {
        let text = "\u{feff}{\"unread\": [NaN, -Infinity, \"NaN \\\" Infinity\"], \"a\": \"NaN\"}";
        assert_eq!(pair(text).unwrap().a, Scalar::Word("NaN".into()), "a word in quotes stays one");
        for word in ["NaN", "Infinity", "-Infinity"] {
            let found = pair(&format!("{{\"a\": {word}, \"b\": [1, {word}]}}")).unwrap();
            let error = found.a.number().unwrap_err();
            assert_eq!(error, format!("is {word}, expected a number"));
            assert_eq!(found.b.numbers().unwrap_err(), format!("contains {word}, expected numbers"));
        }
        let wide: Vec<u8> = "\u{feff}{\"a\": \"ñ\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(parse::<Pair>(wide).unwrap().a, Scalar::Word("ñ".into()), "UTF-16 with its mark");
        assert!(parse::<Pair>(b"<html>".to_vec()).unwrap_err().contains("a web page"));
    }

    #[test]
    fn the_whole_file_is_read_and_what_is_wrong_has_its_place() {
        for (text, words) in [
            (
                "{\"a\": 1}\n{\"a\": 2}",
                "line 2, column 1: more text follows the end of the document: `{\"a\": 2}`",
            ),
            ("{}\nNone", "line 2, column 1: more text follows the end of the document: `None`"),
            ("{\"a\": [1, 2", "line 1, column 11: the file ends in the middle of the document"),
            ("{\"a\": nope}", "line 1, column 8: not JSON: expected a value"),
            (" \n", "the file is empty"),
            ("[1, [2]]", "the document is a list, expected an object with named fields"),
            ("7", "the document is 7, expected an object with named fields"),
            ("{\"a\": 1, \"a\": 2}", "the document: the key `a` occurs twice"),
        ] {
            let error = pair(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        let records = |text: &str| parse::<Records<Pair>>(text.as_bytes().to_vec());
        let mut flaws = vec![];
        assert_eq!(records("[{}, {\"a\": 1}]").unwrap().required("a", &mut flaws).len(), 2);
        assert!(records("null").unwrap().required("b", &mut flaws).is_empty());
        assert!(records("[]").unwrap().required("c", &mut flaws).is_empty());
        assert_eq!(flaws, ["there is no list `b`", "`c` is empty"]);
        assert!(records("[{}, [1, [2]]]").unwrap_err().starts_with("`[1]` is a list, expected an object"));
    }
}
