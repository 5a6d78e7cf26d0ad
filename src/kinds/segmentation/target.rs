//! The labels of an image's pixels, which move with it: looked up as the nearest pixel to each centre. Cropped pixels
//! stay lost, and padding is ignored.

use crate::data::{Geometric, Geometry, IGNORE, PixelMap, Raster, RasterFile, Size};
use std::sync::Arc;

/// Labels of an image, at its own resolution and at that of the source image.
#[derive(Clone, Debug)]
pub struct SegmentationTarget {
    /// The file, for messages.
    file: Option<Arc<RasterFile>>,
    map: PixelMap<Raster>,
}

impl SegmentationTarget {
    /// Labels of an image as annotated; `file` is their origin, for messages.
    pub fn new(source: Raster, file: Option<RasterFile>) -> Self {
        Self { file: file.map(Arc::new), map: PixelMap::new(source) }
    }

    /// The annotation at the resolution of the source image.
    pub fn source(&self) -> &Raster {
        self.map.source()
    }

    /// (height, width) of the image.
    pub fn size(&self) -> Size {
        self.map.size()
    }

    /// Labels of the image. [H, W] row-major; [`IGNORE`] outside the source image.
    pub fn labels(&self) -> Vec<u16> {
        self.map.values()
    }
}

impl Geometric for SegmentationTarget {
    fn apply(&mut self, geometry: &Geometry) {
        self.map.apply(geometry);
    }

    fn fits(&self, decoded: Size) -> Result<(), String> {
        match &self.file {
            Some(file) => file.check_size(self.source().size(), decoded),
            None => Ok(()),
        }
    }

    fn largest_share(&self, crop: [usize; 4]) -> Option<f64> {
        let mut counts = vec![0u32; usize::from(IGNORE) + 1];
        self.map.rows(crop, |row| row.iter().for_each(|label| counts[usize::from(*label)] += 1));
        counts.pop(); // IGNORE is the last
        let (most, all) = counts.iter().fold((0, 0), |(most, all), n| (n.max(&most).to_owned(), all + n));
        Some(if all == 0 { 1. } else { f64::from(most) / f64::from(all) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(width: usize, labels: &[u16]) -> SegmentationTarget {
        SegmentationTarget::new(Raster::new(labels.len() / width, width, labels.to_vec()), None)
    }

    #[test]
    fn labels_move_to_the_nearest_pixel_and_padding_is_ignored() {
        let mut t = target(3, &[0, 1, 2, 3, 4, 5]);
        t.apply(&Geometry::crop_resize((2, 3), 0., 0., 2., 3., (4, 6)));
        assert_eq!(t.labels()[..6], [0, 0, 1, 1, 2, 2]);
        t.apply(&Geometry::flip((4, 6)));
        assert_eq!(t.labels()[6..12], [2, 2, 1, 1, 0, 0]);
        // Three rows and columns from row 2, column 4 on: two and two of them exist.
        t.apply(&Geometry::crop_resize((4, 6), 2., 4., 3., 3., (3, 3)));
        assert_eq!(t.labels(), [3, 3, IGNORE, 3, 3, IGNORE, IGNORE, IGNORE, IGNORE]);
        assert_eq!(t.source().labels, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_a_crop_has_cut_off_does_not_come_back() {
        let mut t = target(4, &[0, 1, 2, 3]);
        t.apply(&Geometry::crop_resize((1, 4), 0., 1., 1., 2., (1, 2)));
        t.apply(&Geometry::crop_resize((1, 2), 0., -1., 1., 4., (1, 4)));
        assert_eq!(t.labels(), [IGNORE, 1, 2, IGNORE]);
    }

    #[test]
    fn a_quarter_turn_is_looked_up_at_once() {
        let mut t = target(2, &[0, 1, 2, 3]);
        t.apply(&Geometry::crop_resize((2, 2), 0., 0., 2., 2., (4, 4)));
        // (x, y) -> (4 − y, x)
        let turn = Geometry { from: (4, 4), to: (4, 4), forward: [0., -1., 4., 1., 0., 0.] };
        t.apply(&turn);
        t.apply(&Geometry::crop_resize((4, 4), 0., 0., 4., 4., (2, 2)));
        assert_eq!(t.labels(), [2, 0, 3, 1]);
    }

    #[test]
    fn the_largest_share_is_that_of_the_commonest_class_of_labelled_pixels() {
        let t = target(4, &[0, 0, 0, 1, IGNORE, IGNORE, IGNORE, IGNORE]);
        assert_eq!(t.largest_share([0, 0, 2, 4]), Some(0.75));
        assert_eq!(t.largest_share([0, 2, 1, 2]), Some(0.5));
        assert_eq!(t.largest_share([1, 0, 1, 4]), Some(1.));
    }

    #[test]
    fn a_single_pixel_moves_too() {
        let mut t = target(1, &[7]);
        t.apply(&Geometry::crop_resize((1, 1), 0., 0., 1., 1., (2, 3)));
        assert_eq!(t.labels(), [7; 6]);
    }
}
