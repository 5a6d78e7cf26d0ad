//! [`Outline`]: the `segmentation` of COCO's files in all of its forms.

use super::super::super::{Rle, Segmentation, Size};
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// The `segmentation` of an annotation as stored in a file; [`Outline::segmentation`] checks it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Outline {
    /// The object has only a box.
    #[default]
    None,
    /// Flat x, y lists, one per ring.
    Polygons(Vec<Vec<f64>>),
    /// Alternating runs of background and object, column by column.
    Rle {
        /// Rows of the mask.
        height: u32,
        /// Columns of the mask.
        width: u32,
        /// The runs.
        counts: RunLengths,
    },
}

/// Lengths of the runs of a mask.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum RunLengths {
    /// A list of numbers.
    Plain(Vec<u32>),
    /// COCO's compressed string.
    Compressed(String),
}

/// Limit for the coordinates of a polygon, as a multiple of the sides of its image.
const FAR: f64 = 4.;

/// An error in an outline.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OutlineError {
    /// A ring of fewer than three points.
    Degenerate(String),
    /// Anything else.
    Wrong(String),
}

impl Outline {
    /// Checks it against the (height, width) of its image.
    ///
    /// # Errors
    /// Rings of fewer than three points or half a point, coordinates that are not finite or far away; runs for another size.
    pub(crate) fn segmentation(self, size: Size) -> Result<Segmentation, OutlineError> {
        match self {
            Self::None => Ok(Segmentation::None),
            Self::Polygons(rings) => {
                for ring in &rings {
                    let n = ring.len();
                    if !n.is_multiple_of(2) {
                        let message = format!("a polygon has {n} numbers, expected pairs of x and y");
                        return Err(OutlineError::Wrong(message));
                    }
                    // Rasterising takes time and memory in proportion to the distance.
                    let far = FAR * size.0.max(size.1) as f64;
                    if let Some(v) = ring.iter().find(|v| !v.is_finite() || v.abs() > far) {
                        let message = format!("a polygon has a point at {v}, far outside of its image");
                        return Err(OutlineError::Wrong(message));
                    }
                    if n < 6 {
                        let message = format!("a polygon has {} points, expected at least 3", n / 2);
                        return Err(OutlineError::Degenerate(message));
                    }
                }
                Ok(if rings.is_empty() { Segmentation::None } else { Segmentation::Polygons(rings) })
            }
            Self::Rle { height, width, counts } => {
                if (height as usize, width as usize) != size {
                    return Err(OutlineError::Wrong(format!(
                        "a mask has {height}x{width} pixels, its image {}x{}",
                        size.0, size.1
                    )));
                }
                let rle = match counts {
                    RunLengths::Plain(counts) => Rle::new(height, width, counts),
                    RunLengths::Compressed(counts) => Rle::from_coco(&counts, height, width),
                };
                rle.map(Segmentation::Rle).map_err(|e| OutlineError::Wrong(format!("a mask is broken: {e}")))
            }
        }
    }
}

impl fmt::Display for OutlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Degenerate(message) | Self::Wrong(message)) = self;
        f.write_str(message)
    }
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OutlineVisitor)
    }
}

/// Implemented by hand, because serde's untagged enums would copy every number of every polygon first.
struct OutlineVisitor;

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of polygons, or a mask with `size` and `counts`")
    }

    fn visit_unit<E: Error>(self) -> Result<Outline, E> {
        Ok(Outline::None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Outline, A::Error> {
        let mut rings = vec![];
        while let Some(ring) = sequence.next_element()? {
            rings.push(ring);
        }
        Ok(Outline::Polygons(rings))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
        let (mut size, mut counts) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "size" => size = Some(map.next_value::<[u32; 2]>()?),
                "counts" => counts = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let [height, width] = size.ok_or_else(|| Error::missing_field("size"))?;
        Ok(Outline::Rle { height, width, counts: counts.ok_or_else(|| Error::missing_field("counts"))? })
    }
}
