//! [`Scalar`]: a value of a record as it is written, and what a field may ask of it.

use super::{skip_list, skip_object, word_of};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// The id of a record in an annotation file. Numbers come before words, as a sorted list of either kind has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordId {
    /// A whole number.
    Number(i128),
    /// Any other text.
    Word(Arc<str>),
}

impl RecordId {
    /// The bytes that stand for it in hashes: those of a 64-bit number for a number.
    pub(in crate::data) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Number(number) => (*number as u64).to_le_bytes().to_vec(),
            Self::Word(word) => word.as_bytes().to_vec(),
        }
    }
}

impl RecordId {
    /// The same digits as a number instead of a word, or the other way round; `None` for words of other text.
    pub(crate) fn respelled(&self) -> Option<Self> {
        match self {
            Self::Number(number) => Some(Self::Word(number.to_string().into())),
            Self::Word(word) => {
                let number: i128 = word.parse().ok()?;
                (number.to_string() == **word).then_some(Self::Number(number))
            }
        }
    }

    /// The number, if it is one.
    pub(crate) fn number(&self) -> Option<i128> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Word(_) => None,
        }
    }

    /// Whether both are numbers, or both words.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// As it stands in a file: a number or a string.
impl Serialize for RecordId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => number.serialize(serializer),
            Self::Word(word) => serializer.serialize_str(word),
        }
    }
}

impl<'de> Deserialize<'de> for RecordId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = Scalar::deserialize(deserializer)?
            .id()
            .map_err(|flaw| D::Error::custom(format!("an id {flaw}")))?;
        id.ok_or_else(|| D::Error::custom("an id is absent"))
    }
}

impl From<u64> for RecordId {
    fn from(number: u64) -> Self {
        Self::Number(number.into())
    }
}

/// Words are in quotes, so that the word `"1"` is not taken for the number 1.
impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => write!(f, "\"{word}\""),
        }
    }
}

/// A value of a record as it is written. Values of every type are read; the methods say what is wrong with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Scalar {
    /// Not there, or null.
    #[default]
    Absent,
    Bool(bool),
    Whole(i128),
    Real(f64),
    Word(String),
    /// NaN or an infinite number.
    NotFinite(&'static str),
    /// A list or an object.
    Nested(&'static str),
}

/// Largest magnitude below which every whole number is a float of its own.
const EXACT: f64 = 9_007_199_254_740_992.;

impl Scalar {
    /// The value of a string.
    pub(crate) fn of_text(text: &str) -> Self {
        word_of(text).map_or_else(|| Self::Word(text.into()), Self::NotFinite)
    }

    /// An id: a whole number, also one that is written as a float, or a word.
    pub(crate) fn id(&self) -> Result<Option<RecordId>, String> {
        match self {
            Self::Absent => Ok(None),
            Self::Word(word) if !word.is_empty() => Ok(Some(RecordId::Word(word.as_str().into()))),
            _ => match self.integer() {
                Some(number) => Ok(Some(RecordId::Number(number))),
                None => Err(self.other("a whole number or a word")),
            },
        }
    }

    /// A whole number of at least 0.
    pub(crate) fn whole(&self) -> Result<Option<u64>, String> {
        match (self, self.integer().map(u64::try_from)) {
            (Self::Absent, _) => Ok(None),
            (_, Some(Ok(number))) => Ok(Some(number)),
            _ => Err(self.other("a whole number of at least 0")),
        }
    }

    /// A finite number.
    pub(crate) fn number(&self) -> Result<Option<f64>, String> {
        match self {
            Self::Absent => Ok(None),
            Self::Whole(number) => Ok(Some(*number as f64)),
            Self::Real(number) if number.is_finite() => Ok(Some(*number)),
            _ => Err(self.other("a number")),
        }
    }

    /// Whether a flag is set: 0 or 1, true or false, also in quotes or as floats; not set if absent.
    pub(crate) fn flag(&self) -> Result<bool, String> {
        let word = if let Self::Word(word) = self { word.as_str() } else { "" };
        match (self, self.integer(), word) {
            (Self::Absent | Self::Bool(false), ..) | (_, Some(0), _) | (_, _, "0" | "false" | "False") => {
                Ok(false)
            }
            (Self::Bool(true), ..) | (_, Some(1), _) | (_, _, "1" | "true" | "True") => Ok(true),
            _ => Err(self.other("0 or 1")),
        }
    }

    /// A text that is not empty.
    pub(crate) fn word(&self) -> Result<Option<&str>, String> {
        match self {
            Self::Absent => Ok(None),
            Self::Word(word) if word.is_empty() => Ok(None),
            Self::Word(word) => Ok(Some(word)),
            _ => Err(self.other("a text")),
        }
    }

    /// The number, if it is whole.
    fn integer(&self) -> Option<i128> {
        match self {
            Self::Whole(number) => Some(*number),
            Self::Real(number) if number.fract() == 0. && number.abs() < EXACT => Some(*number as i128),
            _ => None,
        }
    }

    fn other(&self, expected: &str) -> String {
        format!("is {self}, expected {expected}")
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Bool(set) => set.fmt(f),
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
            Self::Word(word) => write!(f, "\"{}\"", word.chars().take(40).collect::<String>()),
            Self::NotFinite(word) | Self::Nested(word) => f.write_str(word),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Absent)
    }

    fn visit_bool<E: Error>(self, set: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(set))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Whole(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Whole(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar::Real(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::of_text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Scalar, A::Error> {
        skip_list(sequence)?;
        Ok(Scalar::Nested("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scalar, A::Error> {
        skip_object(map)?;
        Ok(Scalar::Nested("an object"))
    }
}

/// A number of a list, or what stands in its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Coordinate {
    Number(f64),
    Odd(Scalar),
}

impl<'de> Deserialize<'de> for Coordinate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = Scalar::deserialize(deserializer)?;
        Ok(match scalar {
            Scalar::Whole(number) => Self::Number(number as f64),
            Scalar::Real(number) => Self::Number(number),
            odd => Self::Odd(odd),
        })
    }
}

/// A list of numbers as it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum NumberList {
    /// Not there, null, or empty.
    #[default]
    Absent,
    Numbers(Vec<f64>),
    Wrong(String),
}

impl NumberList {
    /// The numbers, or what is wrong with them.
    pub(crate) fn numbers(self) -> Result<Option<Vec<f64>>, String> {
        match self {
            Self::Absent => Ok(None),
            Self::Numbers(numbers) => Ok(Some(numbers)),
            Self::Wrong(message) => Err(message),
        }
    }
}

impl<'de> Deserialize<'de> for NumberList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberListVisitor)
    }
}

struct NumberListVisitor;

/// What is wrong with a value that should be a list.
fn no_list<E: Error>(found: impl fmt::Display) -> Result<NumberList, E> {
    Ok(NumberList::Wrong(format!("is {found}, expected a list of numbers")))
}

impl<'de> Visitor<'de> for NumberListVisitor {
    type Value = NumberList;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of numbers")
    }

    fn visit_unit<E: Error>(self) -> Result<NumberList, E> {
        Ok(NumberList::Absent)
    }

    fn visit_bool<E: Error>(self, set: bool) -> Result<NumberList, E> {
        no_list(set)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<NumberList, E> {
        no_list(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<NumberList, E> {
        no_list(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<NumberList, E> {
        no_list(number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<NumberList, E> {
        no_list(Scalar::of_text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<NumberList, A::Error> {
        let (mut numbers, mut odd) = (vec![], None);
        while let Some(coordinate) = sequence.next_element()? {
            match coordinate {
                Coordinate::Number(number) => numbers.push(number),
                Coordinate::Odd(Scalar::Absent) => odd = odd.or(Some("null".to_string())),
                Coordinate::Odd(scalar) => odd = odd.or_else(|| Some(scalar.to_string())),
            }
        }
        Ok(match odd {
            Some(odd) => NumberList::Wrong(format!("contains {odd}, expected numbers")),
            None if numbers.is_empty() => NumberList::Absent,
            None => NumberList::Numbers(numbers),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NumberList, A::Error> {
        skip_object(map)?;
        no_list("an object")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_a_field_asks_for_or_named() {
        let word = |text: &str| Scalar::Word(text.into());
        let number = |n: i128| Some(RecordId::Number(n));
        assert_eq!(Scalar::Whole(7).id().unwrap(), number(7));
        assert_eq!(Scalar::Real(7.).id().unwrap(), number(7));
        assert_eq!(word("7").id().unwrap(), Some(RecordId::Word("7".into())), "a word is not a number");
        assert_eq!(Scalar::Absent.id().unwrap(), None);
        assert!(Scalar::Real(7.5).id().unwrap_err().contains("is 7.5, expected a whole number or a word"));
        assert!(
            Scalar::Real(1e300).id().is_err() && Scalar::Bool(true).id().is_err() && word("").id().is_err()
        );
        assert_eq!(Scalar::Real(3.).whole().unwrap(), Some(3));
        assert!(
            Scalar::Whole(-1).whole().unwrap_err().contains("is -1, expected a whole number of at least 0")
        );
        for unset in [Scalar::Absent, Scalar::Bool(false), Scalar::Real(0.), Scalar::Whole(0), word("0")] {
            assert!(!unset.flag().unwrap(), "{unset:?}");
        }
        for set in [Scalar::Bool(true), Scalar::Real(1.), Scalar::Whole(1), word("1")] {
            assert!(set.flag().unwrap(), "{set:?}");
        }
        for odd in
            [Scalar::Whole(2), word("maybe"), word(""), Scalar::Nested("a list"), Scalar::NotFinite("NaN")]
        {
            assert!(odd.flag().unwrap_err().ends_with("expected 0 or 1"), "{odd:?}");
        }
        assert!(word("0.9").number().unwrap_err().contains("is \"0.9\", expected a number"));
        assert!(Scalar::Real(f64::INFINITY).number().is_err());
        assert!(
            RecordId::Number(9) < RecordId::Number(10) && RecordId::Number(10) < RecordId::Word("1".into())
        );
    }
}
