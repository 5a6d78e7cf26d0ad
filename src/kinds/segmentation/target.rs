//! The pixel labels of an image, and how they change with it.
//!
//! Geometric operations are only recorded. Labels are looked up in the annotation once, after all operations, at the
//! nearest pixel to each center. Pixels outside an earlier crop stay invisible, and padding gets [`IGNORE`].

use crate::data::{Geometric, Geometry, IGNORE, Mask, Raster, Size};
use std::sync::Arc;

/// Labels of an image, at its own resolution and at that of the source image.
#[derive(Clone, Debug)]
pub struct SegmentationTarget {
    /// The annotation file, for messages.
    mask: Option<Arc<Mask>>,
    source: Arc<Raster>,
    /// The raster that the view refers to: the source, or the result of a rotation.
    base: Arc<Raster>,
    /// Map from the base to the image; it maps rows to rows.
    view: Geometry,
    /// The part of the base that all crops have kept: top, left, bottom, right.
    visible: [f64; 4],
}

impl SegmentationTarget {
    /// The annotated labels of an image; `file` is used in messages.
    pub fn new(source: Raster, mask: Option<Mask>) -> Self {
        let (view, visible) = (Geometry::identity(source.size()), whole(source.size()));
        let source = Arc::new(source);
        Self { mask: mask.map(Arc::new), base: source.clone(), source, view, visible }
    }

    /// The annotation at the resolution of the source image.
    pub fn source(&self) -> &Raster {
        &self.source
    }

    /// (height, width) of the image.
    pub fn size(&self) -> Size {
        self.view.to
    }

    /// Labels of the image. [H, W] row-major; [`IGNORE`] outside the source image.
    pub fn labels(&self) -> Vec<u16> {
        let (height, width) = self.size();
        let mut labels = Vec::with_capacity(height * width);
        self.rows([0, 0, height, width], |row| labels.extend_from_slice(row));
        labels
    }

    /// Calls `take` with the labels of each row of the rectangle (top, left, height, width) of the image.
    fn rows(&self, [top, left, height, width]: [usize; 4], mut take: impl FnMut(&[u16])) {
        let mut row = vec![IGNORE; width];
        let Some(back) = self.view.inverse() else {
            (0..height).for_each(|_| take(&row));
            return;
        };
        let (h, w) = self.base.size();
        let [a, _, c, _, e, f] = back.forward;
        let [first, start, last, end] = self.visible;
        let place = |at: f64, low: f64, high: f64, count: usize| {
            (at >= low && at < high).then(|| (at as usize).min(count.saturating_sub(1)))
        };
        let center = |i: usize| i as f64 + 0.5;
        let columns: Vec<Option<usize>> =
            (left..left + width).map(|x| place(a * center(x) + c, start, end, w)).collect();
        for y in top..top + height {
            let source = place(e * center(y) + f, first, last, h);
            for (label, column) in row.iter_mut().zip(&columns) {
                *label = match (source, column) {
                    (Some(y), Some(x)) => self.base.labels[y * w + x],
                    _ => IGNORE,
                };
            }
            take(&row);
        }
    }
}

fn whole((height, width): Size) -> [f64; 4] {
    [0., 0., height as f64, width as f64]
}

impl Geometric for SegmentationTarget {
    fn apply(&mut self, geometry: &Geometry) {
        let [_, b, _, d, _, _] = geometry.forward;
        let view = self.view.then(geometry);
        let Some(back) = view.inverse().filter(|_| b == 0. && d == 0.) else {
            // Rows are no longer rows: look up the labels now, and continue from the result.
            let turned = self.turned(&view);
            (self.view, self.visible) = (Geometry::identity(turned.size()), whole(turned.size()));
            self.base = Arc::new(turned);
            return;
        };
        let (height, width) = view.to;
        let (x0, y0) = back.point(0., 0.);
        let (x1, y1) = back.point(width as f64, height as f64);
        let [top, left, bottom, right] = self.visible;
        self.visible =
            [top.max(y0.min(y1)), left.max(x0.min(x1)), bottom.min(y0.max(y1)), right.min(x0.max(x1))];
        self.view = view;
    }

    fn fits(&self, decoded: Size) -> Result<(), String> {
        match &self.mask {
            Some(mask) => mask.check_size(self.source.size(), decoded),
            None => Ok(()),
        }
    }

    fn largest_share(&self, crop: [usize; 4]) -> Option<f64> {
        let mut counts = vec![0u32; usize::from(IGNORE) + 1];
        self.rows(crop, |row| row.iter().for_each(|label| counts[usize::from(*label)] += 1));
        counts.pop(); // IGNORE is the last
        let (most, all) = counts.iter().fold((0, 0), |(most, all), n| (n.max(&most).to_owned(), all + n));
        Some(if all == 0 { 1. } else { f64::from(most) / f64::from(all) })
    }
}

impl SegmentationTarget {
    /// The labels of the base, transformed by any `view`.
    fn turned(&self, view: &Geometry) -> Raster {
        let ((height, width), (h, w)) = (view.to, self.base.size());
        let mut labels = vec![IGNORE; height * width];
        if let Some(back) = view.inverse() {
            let [top, left, bottom, right] = self.visible;
            for (i, label) in labels.iter_mut().enumerate() {
                let (x, y) = back.point((i % width) as f64 + 0.5, (i / width) as f64 + 0.5);
                if x >= left && x < right && y >= top && y < bottom {
                    *label = self.base.labels[(y as usize).min(h - 1) * w + (x as usize).min(w - 1)];
                }
            }
        }
        Raster::new(height, width, labels)
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
