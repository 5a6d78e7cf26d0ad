//! Targets of the mask head: masks on a grid over a box.

use super::visible::{Point, Visible};
use crate::data::{Geometry, Rle, Xyxy};

/// Minimum side of a box in pixels, as divisor (detectron2).
const SHORTEST: f64 = 0.1;
/// Maximum number of samples of a bitmap along one side of a cell.
const MOST_SAMPLES: usize = 16;

/// A side × side grid over a box of the input, and the map from the source image to the input.
pub(super) struct Within<'a> {
    /// Map from the source image to the input.
    pub geometry: &'a Geometry,
    /// The box in input pixels; finite.
    pub bbox: Xyxy<f64>,
    pub side: usize,
}

impl Within<'_> {
    /// Rasterizes polygons of the source: their rings are transformed to the grid and rasterized there
    /// (detectron2 `rasterize_polygons_within_box`). `[side, side]`
    pub(super) fn polygons(&self, rings: &[Vec<f64>]) -> Vec<f32> {
        let ring = |ring: &Vec<f64>| {
            let points = ring.as_chunks::<2>().0.iter();
            self.ring(points.map(|[x, y]| self.geometry.point(*x, *y).into()))
        };
        self.rasterised(&rings.iter().map(ring).collect::<Vec<_>>())
    }

    /// The visible part of the box. `[side, side]`
    pub(super) fn shown(&self, visible: &Visible) -> Vec<f32> {
        match visible.corners() {
            [] => vec![0.; self.side * self.side],
            corners => self.rasterised(&[self.ring(corners.iter().copied())]),
        }
    }

    /// Converts points of the input to a flat list of grid coordinates.
    fn ring(&self, points: impl Iterator<Item = Point>) -> Vec<f64> {
        let [x1, y1, x2, y2] = self.bbox;
        let side = self.side as f64;
        let (sx, sy) = (side / (x2 - x1).max(SHORTEST), side / (y2 - y1).max(SHORTEST));
        points.flat_map(|[x, y]| [(x - x1) * sx, (y - y1) * sy]).collect()
    }

    fn rasterised(&self, rings: &[Vec<f64>]) -> Vec<f32> {
        match Rle::of_polygons(rings, (self.side, self.side)) {
            Ok(rle) => rle.decode().into_iter().map(f32::from).collect(),
            Err(_) => vec![0.; self.side * self.side], // a grid of 2³² cells
        }
    }

    /// Samples a bitmap of the source: a cell is 1 if the mean of its samples is at least ½. Samples are as dense as the
    /// pixels of the bitmap, which is interpolated linearly (RoIAlign, aligned, sampling ratio 0). `[side, side]`
    pub(super) fn bitmap(&self, rle: &Rle) -> Vec<f32> {
        let side = self.side;
        let Some(back) = self.geometry.inverse() else { return vec![0.; side * side] };
        let bitmap = Bitmap::new(rle);
        let [x1, y1, x2, y2] = self.bbox;
        let (cell_x, cell_y) = ((x2 - x1) / side as f64, (y2 - y1) / side as f64);
        let [a, b, _, d, e, _] = back.forward;
        let samples = |length: f64| (length.ceil() as usize).clamp(1, MOST_SAMPLES);
        let (across, down) = (samples(cell_x * a.hypot(d)), samples(cell_y * b.hypot(e)));
        let mean = |k: usize| {
            let (left, top) = (x1 + (k % side) as f64 * cell_x, y1 + (k / side) as f64 * cell_y);
            let mut sum = 0.;
            for i in 0..down {
                let y = top + (i as f64 + 0.5) / down as f64 * cell_y;
                for j in 0..across {
                    let x = left + (j as f64 + 0.5) / across as f64 * cell_x;
                    let (x, y) = back.point(x, y);
                    sum += bitmap.at(x - 0.5, y - 0.5);
                }
            }
            sum / (down * across) as f64
        };
        (0..side * side).map(|k| if mean(k) >= 0.5 { 1. } else { 0. }).collect()
    }
}

/// A bitmap that is interpolated linearly between the centers of its pixels.
struct Bitmap {
    height: usize,
    width: usize,
    /// Pixels, column-major.
    columns: Vec<u8>,
}

impl Bitmap {
    fn new(rle: &Rle) -> Self {
        let (height, width) = rle.size();
        let mut columns = vec![0; height * width];
        rle.runs().for_each(|(start, end)| columns[start..end].fill(1));
        Self { height, width, columns }
    }

    /// The value at (x, y), where the center of the first pixel is (0, 0). As in RoIAlign, the outermost pixels extend by
    /// one pixel, and the value is 0 beyond.
    fn at(&self, x: f64, y: f64) -> f64 {
        let (w, h) = (self.width as f64, self.height as f64);
        if !(-1. ..=w).contains(&x) || !(-1. ..=h).contains(&y) || self.columns.is_empty() {
            return 0.;
        }
        let split = |v: f64, length: usize| {
            let v = v.max(0.);
            let low = (v as usize).min(length - 1);
            if low + 1 >= length { (length - 1, length - 1, 0.) } else { (low, low + 1, v - low as f64) }
        };
        let ((left, right, fx), (top, bottom, fy)) = (split(x, self.width), split(y, self.height));
        let pixel = |x: usize, y: usize| f64::from(self.columns[x * self.height + y]);
        let row = |y: usize| (1. - fx) * pixel(left, y) + fx * pixel(right, y);
        (1. - fy) * row(top) + fy * row(bottom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_visible_has_no_mask() {
        let (geometry, whole) = (Geometry::identity((8, 8)), Visible::of((8, 8)));
        let within = Within { geometry: &geometry, bbox: [2., 2., 10., 10.], side: 4 };
        let shown = within.shown(&whole);
        assert_eq!((shown.len(), shown.iter().sum::<f32>()), (16, 9.), "6 of 8 pixels a side");
        let aside = Geometry { forward: [1., 0., 100., 0., 1., 0.], ..geometry };
        assert_eq!(within.shown(&whole.moved(&aside)), [0.; 16]);
    }

    /// A cell of one pixel has one sample, where two a side would see less of a single pixel: 0.75 · 0.6 of it.
    #[test]
    fn samples_are_as_dense_as_pixels() {
        let bitmap = Rle::encode(&[0, 0, 0, 0, 1, 0, 0, 0, 0], (3, 3));
        let geometry = Geometry::identity((3, 3));
        let within = |bbox| Within { geometry: &geometry, bbox, side: 1 }.bitmap(&bitmap);
        assert_eq!(within([1., 1.4, 2., 2.4]), [1.]);
        assert_eq!(within([1., 1.6, 2., 2.6]), [0.]);
        // 2 × 2 samples, half a pixel from the centre each way.
        assert_eq!(within([0.5, 0.5, 2.5, 2.5]), [0.]);
    }
}
