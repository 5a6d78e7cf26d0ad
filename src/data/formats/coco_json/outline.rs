//! [`Outline`]: the `segmentation` of COCO's files in all of its forms.
//!
//! Reading an outline never fails, because boxes are used and scored without it: what cannot be drawn becomes a
//! [`Segmentation::Flawed`], which tasks with masks refuse.

use super::super::super::json::{Coordinate, Scalar};
use super::super::super::{Rle, Segmentation, Size};
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// The `segmentation` of an annotation as stored in a file; [`Outline::segmentation`] checks it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Outline {
    /// The object has only a box: the key is absent, null, `{}`, `[]` or `[[]]`.
    #[default]
    None,
    /// Flat x, y lists, one per ring. A single list of numbers is one ring.
    Polygons(Vec<Vec<f64>>),
    /// Alternating runs of background and object, column by column, of a mask of `size` (height, width).
    Rle { size: Vec<f64>, counts: RunLengths },
    /// Something else, in words.
    Wrong(String),
}

/// Lengths of the runs of a mask.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RunLengths {
    /// A list of numbers.
    Plain(Vec<f64>),
    /// COCO's compressed string.
    Compressed(String),
}

/// Limit for the coordinates of a polygon, as a multiple of the sides of its image.
const FAR: f64 = 4.;
/// Numbers of the smallest ring: three points.
const LEAST: usize = 6;

/// An outline as it is used, and what was left out of it.
#[derive(Debug)]
pub(crate) struct ReadOutline {
    /// The outline.
    pub segmentation: Segmentation,
    /// Number of rings of fewer than three points, which have no area, beside others.
    pub dropped: usize,
    /// Whether the outline has nothing but such rings.
    pub degenerate: bool,
}

impl Outline {
    /// Checks it against the (height, width) of its image. Rings of fewer than three points are left out and counted.
    pub(crate) fn segmentation(self, size: Size) -> ReadOutline {
        let (mut dropped, mut degenerate) = (0, false);
        let segmentation = match self {
            Self::None => Segmentation::None,
            Self::Wrong(message) => Segmentation::Flawed(message),
            Self::Polygons(rings) => {
                let found = rings.len();
                let shortest = rings.iter().map(Vec::len).min().unwrap_or_default();
                let rings: Vec<_> = rings.into_iter().filter(|ring| ring.len() >= LEAST).collect();
                degenerate = rings.is_empty();
                match rings.iter().find_map(|ring| flaw(ring, size)) {
                    Some(flaw) => Segmentation::Flawed(flaw),
                    None if degenerate => Segmentation::Flawed(format!(
                        "has no polygon of at least 3 points: the shortest has {shortest} numbers"
                    )),
                    None => {
                        dropped = found - rings.len();
                        Segmentation::Polygons(rings)
                    }
                }
            }
            Self::Rle { size: stated, counts } => match runs(&stated, counts, size) {
                Ok(rle) => Segmentation::Rle(rle),
                Err(flaw) => Segmentation::Flawed(flaw),
            },
        };
        ReadOutline { segmentation, dropped, degenerate }
    }
}

/// The reason why a ring of three points or more cannot be drawn.
fn flaw(ring: &[f64], size: Size) -> Option<String> {
    let n = ring.len();
    if !n.is_multiple_of(2) {
        return Some(format!("a polygon has {n} numbers, expected pairs of x and y"));
    }
    // Rasterising takes time and memory in proportion to the distance.
    let far = FAR * size.0.max(size.1) as f64;
    let point = ring.iter().find(|v| !v.is_finite() || v.abs() > far)?;
    Some(format!("a polygon has a point at {point}, far outside of its image"))
}

/// The mask of run lengths for an image of (height, width) `image`.
fn runs(stated: &[f64], counts: RunLengths, image: Size) -> Result<Rle, String> {
    let whole = |v: &f64| v.fract() == 0. && (0. ..=f64::from(u32::MAX)).contains(v);
    let [height, width] = stated else {
        return Err(format!("the `size` of a mask has {} numbers, expected height and width", stated.len()));
    };
    if (*height, *width) != (image.0 as f64, image.1 as f64) {
        return Err(format!("a mask has {height}x{width} pixels, its image {}x{}", image.0, image.1));
    }
    let (height, width) = (image.0 as u32, image.1 as u32);
    let rle = match counts {
        RunLengths::Plain(counts) => match counts.iter().find(|count| !whole(count)) {
            Some(odd) => Err(format!("{odd} is not the length of a run")),
            None => Rle::new(height, width, counts.into_iter().map(|count| count as u32).collect()),
        },
        RunLengths::Compressed(counts) => Rle::from_coco(&bare(&counts), height, width),
    };
    rle.map_err(|e| format!("a mask is broken: {e}"))
}

/// Compressed run lengths without what programs add to them and no run contains: white space, also inside of wrapped lines,
/// and the quotes of `b'…'`, as which Python prints bytes, with its escapes of the backslash and the line feed.
fn bare(counts: &str) -> String {
    let text: String = counts.split_whitespace().collect();
    let quoted = |quote: char| text.strip_prefix('b')?.strip_prefix(quote)?.strip_suffix(quote);
    let Some(inner) = quoted('\'').or_else(|| quoted('"')) else { return text };
    let mut rest = inner.chars();
    let mut found = String::with_capacity(inner.len());
    while let Some(letter) = rest.next() {
        match letter {
            '\\' => found.extend(rest.next().filter(|escaped| *escaped != 'n')),
            other => found.push(other),
        }
    }
    found
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OutlineVisitor)
    }
}

/// Implemented by hand, because serde's untagged enums would copy every number of every polygon first.
struct OutlineVisitor;

/// An outline that is neither a list nor an object.
fn no_outline<E: Error>(found: impl fmt::Display) -> Result<Outline, E> {
    Ok(Outline::Wrong(format!("is {found}, expected a list of polygons, or a mask with `size` and `counts`")))
}

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of polygons, or a mask with `size` and `counts`")
    }

    fn visit_unit<E: Error>(self) -> Result<Outline, E> {
        Ok(Outline::None)
    }

    fn visit_bool<E: Error>(self, set: bool) -> Result<Outline, E> {
        no_outline(set)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Outline, E> {
        no_outline(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Outline, E> {
        no_outline(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Outline, E> {
        no_outline(number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Outline, E> {
        match text {
            "" => Ok(Outline::None),
            text => no_outline(format_args!("\"{}\"", text.chars().take(20).collect::<String>())),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Outline, A::Error> {
        let (mut rings, mut flat, mut wrong) = (vec![], vec![], None);
        while let Some(part) = sequence.next_element()? {
            match part {
                Part::Ring(ring) if ring.is_empty() => {}
                Part::Ring(ring) => rings.push(ring),
                Part::Number(number) => flat.push(number),
                Part::Odd(Scalar::Absent) => wrong = wrong.or(Some(Scalar::Nested("null"))),
                Part::Odd(odd) => wrong = wrong.or(Some(odd)),
            }
        }
        // A ring may be written as a list of points.
        if rings.len() >= LEAST / 2 && rings.iter().all(|point: &Vec<f64>| point.len() == 2) {
            rings = vec![rings.concat()];
        }
        Ok(match (wrong, rings.is_empty(), flat.is_empty()) {
            (Some(odd), ..) => Outline::Wrong(format!("a polygon contains {odd}, expected numbers")),
            (None, false, false) => Outline::Wrong("mixes numbers and lists of numbers".into()),
            (None, true, true) => Outline::None,
            (None, false, true) => Outline::Polygons(rings),
            (None, true, false) => Outline::Polygons(vec![flat]),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
        let (mut size, mut counts, mut others) = (Part::default(), Part::default(), false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "size" => size = map.next_value()?,
                "counts" => counts = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    others = true;
                }
            }
        }
        let counts = match counts {
            Part::Ring(counts) => RunLengths::Plain(counts),
            Part::Odd(Scalar::Word(counts)) => RunLengths::Compressed(counts),
            Part::Odd(Scalar::Absent) if size == Part::default() && !others => return Ok(Outline::None),
            other => return Ok(Outline::Wrong(format!("`counts` of a mask is {other}, expected runs"))),
        };
        Ok(match size {
            Part::Ring(size) => Outline::Rle { size, counts },
            other => Outline::Wrong(format!("`size` of a mask is {other}, expected height and width")),
        })
    }
}

/// What may stand in an outline: a number, a list of numbers, or something else.
#[derive(Debug, PartialEq)]
enum Part {
    Number(f64),
    Ring(Vec<f64>),
    Odd(Scalar),
}

impl Default for Part {
    fn default() -> Self {
        Self::Odd(Scalar::Absent)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Ring(_) => f.write_str("a list"),
            Self::Odd(odd) => odd.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number or a list of numbers")
    }

    fn visit_unit<E: Error>(self) -> Result<Part, E> {
        Ok(Part::default())
    }

    fn visit_bool<E: Error>(self, set: bool) -> Result<Part, E> {
        Ok(Part::Odd(Scalar::Bool(set)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Part, E> {
        Ok(Part::Number(number as f64))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Part, E> {
        Ok(Part::Number(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Part, E> {
        Ok(Part::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Part, E> {
        Ok(Part::Odd(Scalar::of_text(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Part, A::Error> {
        let (mut numbers, mut odd) = (vec![], None);
        while let Some(coordinate) = sequence.next_element()? {
            match coordinate {
                Coordinate::Number(number) => numbers.push(number),
                Coordinate::Odd(Scalar::Absent) => odd = odd.or(Some(Scalar::Nested("null"))),
                Coordinate::Odd(other) => odd = odd.or(Some(other)),
            }
        }
        // Inside of a list even an absent value and a word are no outline.
        Ok(odd.map_or(Part::Ring(numbers), |odd| Part::Odd(Scalar::Nested(named(&odd)))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Part::Odd(Scalar::Nested("an object")))
    }
}

/// What an odd value in a list of numbers is.
fn named(odd: &Scalar) -> &'static str {
    match odd {
        Scalar::NotFinite(word) | Scalar::Nested(word) => word,
        Scalar::Word(_) => "a word",
        Scalar::Bool(_) => "true or false",
        _ => "null",
    }
}
