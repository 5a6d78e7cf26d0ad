//! Sizes of images in TOML: one number for a square, or [height, width].

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;

/// The schema of a size: one number for a square, or [height, width]. For fields that [`size`] or [`optional_size`] reads.
#[derive(Debug)]
pub struct SquareOrSize;

impl JsonSchema for SquareOrSize {
    fn schema_name() -> Cow<'static, str> {
        "SquareOrSize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 2, "maxItems": 2 },
        ] })
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of pixels, or [height, width]")]
enum Written {
    Square(usize),
    Size([usize; 2]),
}

/// Reads `224` or `[224, 320]` as [height, width].
///
/// # Errors
/// Anything else.
pub fn size<'de, D: Deserializer<'de>>(from: D) -> Result<[usize; 2], D::Error> {
    Ok(match Written::deserialize(from)? {
        Written::Square(side) => [side, side],
        Written::Size(size) => size,
    })
}

/// [`size`] of a key that may be absent.
///
/// # Errors
/// The errors of [`size`].
pub fn optional_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[usize; 2]>, D::Error> {
    size(from).map(Some)
}

/// Reads the length of one side: `256`, or `[256, 256]`.
///
/// # Errors
/// Two lengths that differ, and anything else.
pub fn optional_side<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    match size(from)? {
        [height, width] if height == width => Ok(Some(height)),
        [height, width] => Err(serde::de::Error::custom(format!(
            "[{height}, {width}]: expected one number, the length of one side in pixels; the other follows from the image"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Sizes {
        #[serde(default, deserialize_with = "optional_size")]
        crop: Option<[usize; 2]>,
        #[serde(default, deserialize_with = "optional_side")]
        short: Option<usize>,
    }

    #[test]
    fn a_square_is_one_number_or_two() {
        let read = |text: &str| toml::from_str::<Sizes>(text).map(|sizes| (sizes.crop, sizes.short));
        assert_eq!(read("crop = 224\nshort = 256").unwrap(), (Some([224, 224]), Some(256)));
        assert_eq!(read("crop = [2, 3]\nshort = [4, 4]").unwrap(), (Some([2, 3]), Some(4)));
        assert_eq!(read("").unwrap(), (None, None));
        let error = read("short = [4, 5]").unwrap_err().to_string();
        assert!(error.contains("[4, 5]: expected one number"), "{error}");
        let error = read("crop = \"big\"").unwrap_err().to_string();
        assert!(error.contains("expected a number of pixels, or [height, width]"), "{error}");
    }
}
