//! The orientation that cameras write into files (EXIF): how a viewer turns the stored pixels before it shows them.
//!
//! Annotation tools that run in a browser show, and therefore annotate, turned images. PyTorch's loaders and pycocotools
//! use the stored pixels, and so do most published results.

use super::Size;
use super::decode::{Kind, chunks_of_png};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether images are turned as the EXIF data of their files say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// The stored pixels are used, as PyTorch's loaders do.
    #[default]
    Ignore,
    /// Images are turned as viewers, browsers and most annotation tools show them.
    Apply,
}

/// A turn of an image, mirrored or not: one of the eight values of the EXIF tag `Orientation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(u8);

/// Number of the tag.
const TAG: u16 = 0x0112;

impl Turn {
    /// The image stays as it is stored.
    pub const NONE: Self = Self(1);

    /// The turn that the metadata of an encoded image ask for. Metadata that cannot be read ask for none.
    ///
    /// The pixels of a TIFF are turned when they are read; it asks for no further turn.
    pub fn of(bytes: &[u8]) -> Self {
        let found = match Kind::of(bytes) {
            Ok(Kind::Jpeg) => of_jpeg(bytes),
            Ok(Kind::Png) => chunks_of_png(bytes).find_map(|chunk| match &chunk.name {
                b"eXIf" => of_exif(chunk.data),
                b"iTXt" => of_xmp(chunk.data),
                _ => None,
            }),
            Ok(Kind::WebP) => of_webp(bytes),
            _ => None,
        };
        found.unwrap_or(Self::NONE)
    }

    /// The turn of a TIFF's first image.
    pub fn of_tiff(bytes: &[u8]) -> Self {
        of_ifd(bytes).unwrap_or(Self::NONE)
    }

    fn new(value: u16) -> Option<Self> {
        u8::try_from(value).ok().filter(|value| (1..=8).contains(value)).map(Self)
    }

    /// Whether height and width change places.
    pub fn swaps_sides(self) -> bool {
        self.0 >= 5
    }

    /// (height, width) of the turned image.
    pub fn size(self, (height, width): Size) -> Size {
        if self.swaps_sides() { (width, height) } else { (height, width) }
    }

    /// The turned pixels [H, W, C] of an image of (height, width) `size`.
    pub fn apply(self, size: Size, channels: usize, data: Vec<u8>) -> Vec<u8> {
        if self == Self::NONE {
            return data;
        }
        let (height, width) = size;
        let (rows, columns) = self.size(size);
        let mut turned = Vec::with_capacity(data.len());
        for y in 0..rows {
            for x in 0..columns {
                let (from_y, from_x) = match self.0 {
                    2 => (y, width - 1 - x),
                    3 => (height - 1 - y, width - 1 - x),
                    4 => (height - 1 - y, x),
                    5 => (x, y),
                    6 => (height - 1 - x, y),
                    7 => (height - 1 - x, width - 1 - y),
                    8 => (x, width - 1 - y),
                    _ => (y, x),
                };
                let at = (from_y * width + from_x) * channels;
                turned.extend_from_slice(&data[at..at + channels]);
            }
        }
        turned
    }
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            2 => "mirrored",
            3 => "turned by 180°",
            4 => "flipped upside down",
            5 => "mirrored and turned by 90° to the left",
            6 => "turned by 90° to the right",
            7 => "mirrored and turned by 90° to the right",
            8 => "turned by 90° to the left",
            _ => "not turned",
        })
    }
}

/// The segments APP1 before the pixel data. EXIF goes before XMP, as for Pillow.
fn of_jpeg(bytes: &[u8]) -> Option<Turn> {
    let (mut at, mut by_xmp) = (2, None);
    while let Some(&[0xff, kind, high, low]) = bytes.get(at..at + 4) {
        if kind == 0xff {
            at += 1;
            continue;
        }
        if kind == 0xda || kind == 0xd9 {
            break;
        }
        let end = at + 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
        let content = bytes.get(at + 4..end)?;
        if kind == 0xe1 && content.starts_with(b"Exif\0") {
            if let Some(turn) = of_exif(content) {
                return Some(turn);
            }
        } else if kind == 0xe1 && by_xmp.is_none() {
            by_xmp = of_xmp(content);
        }
        at = end;
    }
    by_xmp
}

/// The chunks of a WebP.
fn of_webp(bytes: &[u8]) -> Option<Turn> {
    let (mut rest, mut by_xmp) = (bytes.get(12..)?, None);
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let [name @ .., l0, l1, l2, l3] = *head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let content = behind.get(..length)?;
        match &name {
            b"EXIF" => {
                if let Some(turn) = of_exif(content) {
                    return Some(turn);
                }
            }
            b"XMP " => by_xmp = of_xmp(content),
            _ => {}
        }
        rest = behind.get(length + length % 2..).unwrap_or_default();
    }
    by_xmp
}

/// EXIF data with or without the mark of a JPEG segment.
fn of_exif(content: &[u8]) -> Option<Turn> {
    of_ifd(content.strip_prefix(b"Exif\0\0").unwrap_or(content))
}

/// The first directory of a TIFF, or of EXIF data, which have the same form.
fn of_ifd(tiff: &[u8]) -> Option<Turn> {
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let pair = |at: usize| -> Option<u16> {
        let two = [*tiff.get(at)?, *tiff.get(at + 1)?];
        Some(if little { u16::from_le_bytes(two) } else { u16::from_be_bytes(two) })
    };
    let four = |at: usize| -> Option<usize> {
        let (a, b) = (usize::from(pair(at)?), usize::from(pair(at + 2)?));
        Some(if little { b << 16 | a } else { a << 16 | b })
    };
    let start = four(4)?;
    let entries = (0..usize::from(pair(start)?)).map(|k| start + 2 + 12 * k);
    let entry = entries.take_while(|at| *at < tiff.len()).find(|at| pair(*at) == Some(TAG))?;
    // One number of 16 bits, or, against the rules, of 32.
    let value = if pair(entry + 2)? == 4 { four(entry + 8)? } else { usize::from(pair(entry + 8)?) };
    Turn::new(u16::try_from(value).ok()?)
}

/// `tiff:Orientation="6"`, or the same as an element, in XMP data.
fn of_xmp(content: &[u8]) -> Option<Turn> {
    let name = b"tiff:Orientation";
    let place = content.windows(name.len()).position(|window| window == name)? + name.len();
    let digit = match content.get(place..)? {
        [b'=', b'"' | b'\'', digit, ..] | [b'>', digit, ..] => *digit,
        _ => return None,
    };
    digit.is_ascii_digit().then(|| Turn::new(u16::from(digit - b'0'))).flatten()
}
