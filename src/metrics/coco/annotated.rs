//! Annotated objects and masks as `hotcoco` takes them.

use crate::data::{Object, Rle, Segmentation, Size};
use hotcoco::Annotation;

/// An annotated object of the image `image_id` of (height, width) `size`.
pub(super) fn truth(id: u64, image_id: u64, size: Size, object: &Object) -> Annotation {
    let segmentation = match &object.segmentation {
        Segmentation::None | Segmentation::Flawed(_) => None,
        Segmentation::Degenerate => Some(hotcoco::Segmentation::UncompressedRle {
            size: [size.0 as u32, size.1 as u32],
            counts: vec![(size.0 * size.1) as u32],
        }),
        Segmentation::Polygons(rings) => Some(hotcoco::Segmentation::Polygon(rings.clone())),
        Segmentation::Rle(rle) => Some(segmentation(rle)),
    };
    Annotation {
        id,
        image_id,
        category_id: u64::from(object.label),
        bbox: Some(object.bbox),
        area: Some(object.area),
        segmentation,
        iscrowd: object.crowd,
        ..Annotation::default()
    }
}

/// Run lengths.
pub(super) fn segmentation(rle: &Rle) -> hotcoco::Segmentation {
    let size = [rle.height, rle.width];
    hotcoco::Segmentation::UncompressedRle { size, counts: rle.counts.clone() }
}
