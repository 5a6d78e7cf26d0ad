//! Pastes a mask of 28×28 probabilities from a box of the input into the source image: a pixel belongs to the mask if the
//! value at its center, interpolated linearly and 0 outside, is at least ½ (detectron2 `layers/mask_ops.py`, which samples
//! with `grid_sample`). torchvision pads and resizes instead, and differs by up to a pixel.

use super::mask_head::MASK;
use crate::data::{Rle, SourceTransform, Xyxy};

/// Probability from which a pixel belongs to the mask.
const INSIDE: f32 = 0.5;

/// Pastes `mask`, 28·28 probabilities. `bounds` is the box in pixels of the input that `source_transform` describes, with positive
/// sides; the result has the size of the source image.
pub(super) fn paste(mask: &[f32], bounds: Xyxy<f32>, source_transform: &SourceTransform) -> Rle {
    let (height, width) = source_transform.source;
    let [x1, y1, x2, y2] = bounds.map(f64::from);
    let (cell_x, cell_y) = ((x2 - x1) / MASK as f64, (y2 - y1) / MASK as f64);
    // Interpolation extends half a cell beyond the box.
    let reach = [x1 - cell_x / 2., y1 - cell_y / 2., x2 + cell_x / 2., y2 + cell_y / 2.];
    let [left, top, right, bottom] = span(reach, source_transform);
    let (w, h) = (right.saturating_sub(left), bottom.saturating_sub(top));
    let mut patch = vec![0u8; w * h];
    for (y, row) in patch.chunks_exact_mut(w.max(1)).enumerate() {
        for (x, pixel) in row.iter_mut().enumerate() {
            let (x, y) = ((left + x) as f64 + 0.5, (top + y) as f64 + 0.5);
            let (x, y) = source_transform.geometry.point(x, y);
            let value = at(mask, (x - x1) / cell_x - 0.5, (y - y1) / cell_y - 0.5);
            *pixel = u8::from(value >= INSIDE);
        }
    }
    Rle::encode_at(&patch, (h, w), (top.min(height), left.min(width)), (height, width))
}

/// Range of columns and rows of the source (end exclusive) that a box of the input may touch.
fn span(bbox: Xyxy<f64>, source_transform: &SourceTransform) -> [usize; 4] {
    let Some(back) = source_transform.geometry.inverse() else { return [0; 4] };
    let [x1, y1, x2, y2] = back.bounds(bbox);
    let axis = |low: f64, high: f64, size: usize| {
        let first = (low.floor().max(0.) as usize).min(size);
        (first, (high.ceil().max(0.) as usize).clamp(first, size))
    };
    let ((left, right), (top, bottom)) =
        (axis(x1, x2, source_transform.source.1), axis(y1, y2, source_transform.source.0));
    [left, top, right, bottom]
}

/// Interpolates `mask` linearly; the center of its first value is (0, 0), and it is 0 outside.
fn at(mask: &[f32], x: f64, y: f64) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (fx, fy) = ((x - left) as f32, (y - top) as f32);
    let place = |x: f64, y: f64| {
        let inside = |v: f64| v >= 0. && v < MASK as f64;
        if inside(x) && inside(y) { mask[y as usize * MASK + x as usize] } else { 0. }
    };
    let row = |y: f64| (1. - fx) * place(left, y) + fx * place(left + 1., y);
    (1. - fy) * row(top) + fy * row(top + 1.)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Geometry;

    #[test]
    fn a_full_mask_fills_its_box_in_the_source() {
        let full = [1f32; MASK * MASK];
        // The input is twice as large as the source: 8×10 pixels of 16×20.
        let size = (8, 10);
        let doubled = Geometry::crop_resize(size, 0., 0., 8., 10., (16, 20));
        let source_transform = SourceTransform { source: size, geometry: doubled };
        let rle = paste(&full, [4., 2., 12., 10.], &source_transform);
        let mut expected = vec![0; 80];
        for y in 1..5 {
            expected[y * 10 + 2..y * 10 + 6].fill(1);
        }
        assert_eq!(rle.decode(), expected);
        // Mirrored, the box lies at the other side.
        let source_transform =
            SourceTransform { source: size, geometry: doubled.then(&Geometry::flip((16, 20))) };
        let mirrored = paste(&full, [4., 2., 12., 10.], &source_transform).decode();
        assert!(mirrored.chunks(10).zip(expected.chunks(10)).all(|(a, b)| a.iter().eq(b.iter().rev())));
    }

    #[test]
    fn a_box_at_the_border_or_without_pixels_is_no_matter() {
        let source_transform = SourceTransform::new((5, 5));
        let full = [1f32; MASK * MASK];
        assert_eq!(paste(&full, [0., 0., 5., 5.], &source_transform).area(), 25);
        assert_eq!(paste(&[0.; MASK * MASK], [0., 0., 5., 5.], &source_transform).area(), 0);
        assert_eq!(paste(&full, [2.6, 2.6, 2.9, 2.9], &source_transform).area(), 0, "between the centers");
        assert_eq!(paste(&full, [2.4, 2.4, 2.6, 2.6], &source_transform).area(), 1);
        assert_eq!(paste(&full, [9., 9., 12., 12.], &source_transform).area(), 0, "outside");
        let huge = paste(&full, [-1e9, -1e9, 1e9, 1e9], &source_transform);
        assert_eq!((huge.area(), huge.size()), (25, (5, 5)));
    }
}
