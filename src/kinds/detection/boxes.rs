//! Boxes in input pixels, on the CPU: overlap, box regression of R-CNN (arXiv:1311.2524), and clipping
//! (detectron2 `modeling/box_regression.py`).

use crate::data::Xyxy;
use crate::ops;

/// Maximum factor by which widths and heights grow, so that exp stays finite (detectron2 `_DEFAULT_SCALE_CLAMP`).
const MAX_GROWTH: f32 = 1000. / 16.;

/// Intersection over union; 0 for boxes that do not overlap or have a NaN coordinate.
#[inline(always)]
pub(super) fn iou(a: Xyxy<f32>, b: Xyxy<f32>) -> f32 {
    let overlap = ops::iou(a, ops::area(a), b, ops::area(b));
    if overlap > 0. { overlap } else { 0. }
}

/// The part of a box within `region`. NaN coordinates stay NaN.
pub(super) fn clip([x1, y1, x2, y2]: Xyxy<f32>, region: Xyxy<f32>) -> Xyxy<f32> {
    let [left, top, right, bottom] = region;
    [x1.clamp(left, right), y1.clamp(top, bottom), x2.clamp(left, right), y2.clamp(top, bottom)]
}

/// Whether a box is finite and has an area.
pub(super) fn is_proper([x1, y1, x2, y2]: Xyxy<f32>) -> bool {
    [x1, y1, x2, y2].iter().all(|v| v.is_finite()) && x2 > x1 && y2 > y1
}

/// Encodes a box relative to another: offsets of the center in units of the sides, and logarithms of the ratios of the
/// sides, each multiplied by a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BoxCoder {
    /// Weights for x, y, width and height.
    pub weights: [f32; 4],
}

impl BoxCoder {
    /// Coder for proposals relative to anchors.
    pub(crate) const RPN: Self = Self { weights: [1., 1., 1., 1.] };
    /// Coder for objects relative to proposals.
    pub(crate) const ROI: Self = Self { weights: [10., 10., 5., 5.] };

    /// The deltas that turn `from` into `to`; sides of `from` must be positive.
    pub(crate) fn encode(self, from: Xyxy<f32>, to: Xyxy<f32>) -> [f32; 4] {
        let ([x, y, w, h], [to_x, to_y, to_w, to_h]) = (centerd(from), centerd(to));
        let [wx, wy, ww, wh] = self.weights;
        [wx * (to_x - x) / w, wy * (to_y - y) / h, ww * (to_w / w).ln(), wh * (to_h / h).ln()]
    }

    /// Applies `deltas` to `from`. NaN deltas give NaN coordinates.
    pub(crate) fn decode(self, from: Xyxy<f32>, deltas: [f32; 4]) -> Xyxy<f32> {
        let [x, y, w, h] = centerd(from);
        let [wx, wy, ww, wh] = self.weights;
        let grown = |delta: f32| if delta > MAX_GROWTH.ln() { MAX_GROWTH } else { delta.exp() };
        let (x, y) = (deltas[0] / wx * w + x, deltas[1] / wy * h + y);
        let (w, h) = (grown(deltas[2] / ww) * w, grown(deltas[3] / wh) * h);
        [x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h]
    }
}

/// Centre and sides.
fn centerd([x1, y1, x2, y2]: Xyxy<f32>) -> [f32; 4] {
    let (w, h) = (x2 - x1, y2 - y1);
    [x1 + 0.5 * w, y1 + 0.5 * h, w, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_by_hand() {
        assert_eq!(iou([0., 0., 2., 2.], [1., 1., 3., 3.]), 1. / 7.);
        assert_eq!(iou([0., 0., 2., 2.], [2., 0., 4., 2.]), 0., "they touch");
        assert_eq!(iou([0., 0., 2., 2.], [0., 0., 2., 2.]), 1.);
        assert_eq!(iou([1., 1., 1., 1.], [1., 1., 1., 1.]), 0., "boxes without area");
        assert_eq!(iou([f32::NAN; 4], [0., 0., 1., 1.]), 0.);
        assert_eq!(clip([-3., 1., 9., 4.], [0., 2., 8., 3.]), [0., 2., 8., 3.]);
    }

    #[test]
    fn the_code_goes_there_and_back() {
        for codec in [BoxCoder::RPN, BoxCoder::ROI] {
            let (from, to) = ([10., 20., 50., 40.], [-3., 18., 60., 77.]);
            let back = codec.decode(from, codec.encode(from, to));
            assert!(back.iter().zip(to).all(|(a, b)| (a - b).abs() < 1e-4), "{back:?}");
        }
        // 10·(35 − 30)/40, 10·(30 − 30)/20, 5·ln(30/40), 5·ln(20/20)
        let deltas = BoxCoder::ROI.encode([10., 20., 50., 40.], [20., 20., 50., 40.]);
        assert_eq!(deltas, [1.25, 0., 5. * 0.75f32.ln(), 0.]);
        let huge = BoxCoder::RPN.decode([0., 0., 16., 16.], [0., 0., 1e9, f32::INFINITY]);
        assert_eq!(huge, [8. - 500., 8. - 500., 8. + 500., 8. + 500.]);
        assert!(!is_proper(BoxCoder::RPN.decode([0., 0., 1., 1.], [f32::NAN, 0., 0., 0.])));
        assert!(!is_proper(BoxCoder::RPN.decode([0., 0., 1., 1.], [f32::INFINITY, 0., 0., 0.])));
    }
}
