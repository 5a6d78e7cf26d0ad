//! Format `dense_maps`: a map of numbers beside each image, such as depth (NYU Depth v2, KITTI, DIODE) or any other value
//! that is predicted for every pixel.
//!
//! Images and maps are in folder trees of the same structure; the name of a map is that of its image with another
//! ending. A map is a grey PNG of 8 or 16 bits or a two-dimensional `.npy` array; it is read together with its image;
//! indexing only checks that it exists.

use super::super::{Annotation, DataError, DenseMapFile, Index};
use super::format::{Format, SplitSource};
use super::pairs::Pairs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `format = "dense_maps"` of a manifest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenseMaps {
    /// Folder of the maps, relative to the data root.
    pub maps: PathBuf,
    /// The endings of the file names of images and of maps. Files with another ending are not images of the
    /// split.
    pub suffix: [String; 2],
    /// A value is `scale` times the stored number plus `offset`: `scale = 0.001` converts millimetres to metres.
    #[serde(default = "one")]
    pub scale: f64,
    /// Added after scaling.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: f64,
    /// The stored number of pixels without a value; infinite numbers and NaN are such pixels in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<f64>,
    /// A file with the names of the split's images, one per line, without ending; all images when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<PathBuf>,
}

fn one() -> f64 {
    1.
}

fn is_zero(number: &f64) -> bool {
    *number == 0.
}

impl Format for DenseMaps {
    const NAME: &'static str = "dense_maps";

    fn check(&self, _: Option<&[String]>) -> Result<(), String> {
        let Self { scale, offset, invalid, .. } = self;
        if !scale.is_finite() || *scale == 0. {
            return Err(format!("`scale` is {scale}, expected a number other than 0"));
        }
        if !offset.is_finite() {
            return Err(format!("`offset` is {offset}, expected a number"));
        }
        match invalid {
            Some(number) if !number.is_finite() => {
                Err(format!("`invalid` is {number}; such pixels never have a value"))
            }
            _ => Ok(()),
        }
    }

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let Self { scale, offset, invalid, .. } = *self;
        let list = self.list.as_deref();
        let (pairs, ignored) =
            Pairs { maps: &self.maps, suffix: &self.suffix, list, what: "map" }.find(split)?;
        let entry = |(image, path)| {
            let map = DenseMapFile { path, scale, offset, invalid };
            split.entry(image, Annotation::DenseMap(map))
        };
        Ok(Index { entries: pairs.into_iter().map(entry).collect(), ignored, ..Index::default() })
    }
}
