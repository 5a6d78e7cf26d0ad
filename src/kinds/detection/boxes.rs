//! Boxes on the host: overlap, the regression code of R-CNN (arXiv:1311.2524), and clipping. x1, y1, x2, y2 in pixels,
//! continuous coordinates: a box has no "+ 1" (detectron2 `modeling/box_regression.py`).

/// x1, y1, x2, y2.
pub(super) type Bounds = [f32; 4];

/// Widths and heights grow by at most this factor: keeps exp finite (detectron2 `_DEFAULT_SCALE_CLAMP`).
const MOST_GROWTH: f32 = 1000. / 16.;

pub(super) fn area([x1, y1, x2, y2]: Bounds) -> f32 {
    (x2 - x1) * (y2 - y1)
}

/// Intersection over union; 0 for boxes that do not overlap.
#[inline(always)]
pub(super) fn iou(a: Bounds, b: Bounds) -> f32 {
    let width = a[2].min(b[2]) - a[0].max(b[0]);
    let height = a[3].min(b[3]) - a[1].max(b[1]);
    if !(width > 0. && height > 0.) {
        return 0.;
    }
    let intersection = width * height;
    let overlap = intersection / (area(a) + area(b) - intersection);
    if overlap > 0. { overlap } else { 0. } // corners that are no numbers
}

/// The part of a box within `region`. Numbers that are none stay none.
pub(super) fn clip(bounds: Bounds, region: Bounds) -> Bounds {
    let [left, top, right, bottom] = region;
    let within = |v: f32, low: f32, high: f32| {
        if v < low {
            low
        } else if v > high {
            high
        } else {
            v
        }
    };
    let [x1, y1, x2, y2] = bounds;
    [within(x1, left, right), within(y1, top, bottom), within(x2, left, right), within(y2, top, bottom)]
}

/// Whether a box is finite and has an area.
pub(super) fn is_proper([x1, y1, x2, y2]: Bounds) -> bool {
    [x1, y1, x2, y2].iter().all(|v| v.is_finite()) && x2 > x1 && y2 > y1
}

/// How a box is told relative to another: offsets of the centre in sides, logarithms of the sides, each times a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BoxCoder {
    /// Of x, y, width, height.
    pub weights: [f32; 4],
}

impl BoxCoder {
    /// Of proposals relative to anchors.
    pub const RPN: Self = Self { weights: [1., 1., 1., 1.] };
    /// Of objects relative to proposals.
    pub const ROI: Self = Self { weights: [10., 10., 5., 5.] };

    /// The deltas that turn `from` into `to`; sides of `from` must be positive.
    pub fn encode(self, from: Bounds, to: Bounds) -> [f32; 4] {
        let ([x, y, w, h], [to_x, to_y, to_w, to_h]) = (centred(from), centred(to));
        let [wx, wy, ww, wh] = self.weights;
        [wx * (to_x - x) / w, wy * (to_y - y) / h, ww * (to_w / w).ln(), wh * (to_h / h).ln()]
    }

    /// The box that `deltas` make of `from`. Deltas that are no numbers give none.
    pub fn decode(self, from: Bounds, deltas: [f32; 4]) -> Bounds {
        let [x, y, w, h] = centred(from);
        let [wx, wy, ww, wh] = self.weights;
        let grown = |delta: f32| if delta > MOST_GROWTH.ln() { MOST_GROWTH } else { delta.exp() };
        let (x, y) = (deltas[0] / wx * w + x, deltas[1] / wy * h + y);
        let (w, h) = (grown(deltas[2] / ww) * w, grown(deltas[3] / wh) * h);
        [x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h]
    }
}

/// Centre and sides.
fn centred([x1, y1, x2, y2]: Bounds) -> [f32; 4] {
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
