//! Geometry of images: one affine map moves images, labels, boxes, masks and rasters alike.

/// (height, width) in pixels.
pub type Size = (usize, usize);

/// A box by two corners: x1, y1, x2, y2 in pixels. Coordinates are continuous: the width is x2 − x1, without "+ 1".
pub type Xyxy<T> = [T; 4];

/// A box in the form of COCO's files: x, y of the upper left corner, width, height in pixels.
pub type Xywh = [f64; 4];

/// The corners x1, y1, x2, y2 of a box that is given by a corner and its sides.
pub fn xyxy([x, y, w, h]: Xywh) -> Xyxy<f64> {
    [x, y, x + w, y + h]
}

/// The upper left corner and the sides of a box that is given by two corners.
pub fn xywh([x1, y1, x2, y2]: Xyxy<f64>) -> Xywh {
    [x1, y1, x2 - x1, y2 - y1]
}

/// An affine map from an image of size `from` to one of size `to`.
///
/// `forward` = [a, b, c, d, e, f]: x' = a·x + b·y + c, y' = d·x + e·y + f, in continuous pixel
/// coordinates (the centre of the first pixel is (0.5, 0.5)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// (height, width) of the image that is mapped.
    pub from: Size,
    /// (height, width) of the result.
    pub to: Size,
    /// The coefficients [a, b, c, d, e, f].
    pub forward: [f64; 6],
}

impl Geometry {
    /// The map of an image of (height, width) `size` to itself.
    pub fn identity(size: Size) -> Self {
        Self { from: size, to: size, forward: [1., 0., 0., 0., 1., 0.] }
    }

    /// Crops the rectangle (top, left, height, width), which may extend outside the image, and scales it to (height,
    /// width) `to`.
    pub fn crop_resize(from: Size, top: f64, left: f64, height: f64, width: f64, to: Size) -> Self {
        let (sx, sy) = (to.1 as f64 / width, to.0 as f64 / height);
        Self { from, to, forward: [sx, 0., -left * sx, 0., sy, -top * sy] }
    }

    /// The left-right mirror of an image of (height, width) `size`.
    pub fn flip(size: Size) -> Self {
        Self { from: size, to: size, forward: [-1., 0., size.1 as f64, 0., 1., 0.] }
    }

    /// First `self`, then `next`.
    pub fn then(&self, next: &Geometry) -> Geometry {
        let [a, b, c, d, e, f] = self.forward;
        let [p, q, r, s, t, u] = next.forward;
        Geometry {
            from: self.from,
            to: next.to,
            forward: [
                p * a + q * d,
                p * b + q * e,
                p * c + q * f + r,
                s * a + t * d,
                s * b + t * e,
                s * c + t * f + u,
            ],
        }
    }

    /// The image of the point (x, y).
    pub fn point(&self, x: f64, y: f64) -> (f64, f64) {
        let [a, b, c, d, e, f] = self.forward;
        (a * x + b * y + c, d * x + e * y + f)
    }

    /// The bounding box of the image of a box: exact unless the map rotates or shears.
    pub fn bounds(&self, [x1, y1, x2, y2]: Xyxy<f64>) -> Xyxy<f64> {
        let corners = [(x1, y1), (x2, y1), (x1, y2), (x2, y2)].map(|(x, y)| self.point(x, y));
        let low = |of: fn((f64, f64)) -> f64| corners.map(of).into_iter().fold(f64::INFINITY, f64::min);
        let high = |of: fn((f64, f64)) -> f64| corners.map(of).into_iter().fold(f64::NEG_INFINITY, f64::max);
        [low(|p| p.0), low(|p| p.1), high(|p| p.0), high(|p| p.1)]
    }

    /// The inverse map. `None` when the map is not invertible.
    pub fn inverse(&self) -> Option<Geometry> {
        let [a, b, c, d, e, f] = self.forward;
        let det = a * e - b * d;
        if det.abs() < 1e-12 {
            return None;
        }
        let (ia, ib, id, ie) = (e / det, -b / det, -d / det, a / det);
        Some(Geometry {
            from: self.to,
            to: self.from,
            forward: [ia, ib, -(ia * c + ib * f), id, ie, -(id * c + ie * f)],
        })
    }
}

/// The geometry from the source image to the model's input: predictions go back to the source image through its
/// inverse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SourceTransform {
    /// (height, width) of the source image as decoded.
    pub source: Size,
    /// From the source image to the model's input.
    pub geometry: Geometry,
}

impl SourceTransform {
    /// The identity, for a source image of (height, width) `source` to which nothing has been done yet.
    pub fn new(source: Size) -> Self {
        Self { source, geometry: Geometry::identity(source) }
    }

    /// The rectangle of the source image in the input, in input pixels; everything outside is padding. Exact unless the
    /// map rotates or shears; then it is the bounding box of the image.
    pub fn shown(&self) -> Xyxy<f64> {
        let (height, width) = self.source;
        within(self.geometry.bounds([0., 0., width as f64, height as f64]), self.geometry.to)
    }

    /// Maps a box from the input to the source image, clipped to the source image, in its pixels. `None` when the map
    /// is not invertible.
    pub fn in_source(&self, bbox: Xyxy<f64>) -> Option<Xyxy<f64>> {
        Some(within(self.geometry.inverse()?.bounds(bbox), self.source))
    }
}

/// Clips a box to an image of this size.
fn within([x1, y1, x2, y2]: Xyxy<f64>, (height, width): Size) -> Xyxy<f64> {
    let (width, height) = (width as f64, height as f64);
    [x1.clamp(0., width), y1.clamp(0., height), x2.clamp(0., width), y2.clamp(0., height)]
}

/// A target that moves with its image under flips, crops and scaling.
pub trait Geometric {
    /// Moves the target as its image has moved.
    fn apply(&mut self, geometry: &Geometry);

    /// Checks that the target fits an image that was decoded to this (height, width).
    ///
    /// # Errors
    /// Why it cannot.
    fn fits(&self, _decoded: Size) -> Result<(), String> {
        Ok(())
    }

    /// Among the labelled pixels of a rectangle (top, left, height, width) that lies inside the image, the share of the
    /// most frequent class; 1 where none is labelled. `None` if the target has no labels of pixels.
    fn largest_share(&self, _rectangle: [usize; 4]) -> Option<f64> {
        None
    }
}

/// A class index does not move.
impl Geometric for u32 {
    fn apply(&mut self, _: &Geometry) {}
}

/// Nothing to predict, nothing to move (pre-training).
impl Geometric for () {
    fn apply(&mut self, _: &Geometry) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crop_then_flip_and_back() {
        let g =
            Geometry::crop_resize((100, 200), 10., 20., 50., 100., (25, 25)).then(&Geometry::flip((25, 25)));
        assert_eq!(g.point(20., 10.), (25., 0.));
        assert_eq!(g.point(120., 60.), (0., 25.));
        let (x, y) = g.point(33., 44.);
        let (bx, by) = g.inverse().unwrap().point(x, y);
        assert!((bx - 33.).abs() < 1e-9 && (by - 44.).abs() < 1e-9);
        assert_eq!((g.from, g.to), ((100, 200), (25, 25)));
    }

    #[test]
    fn boxes_by_hand() {
        assert_eq!((xyxy([1., 2., 3., 4.]), xywh([1., 2., 4., 6.])), ([1., 2., 4., 6.], [1., 2., 3., 4.]));
        assert_eq!(Geometry::flip((10, 20)).bounds([1., 2., 5., 4.]), [15., 2., 19., 4.]);
        let turned = Geometry { forward: [0., -1., 10., 1., 0., 0.], ..Geometry::identity((10, 10)) };
        assert_eq!(turned.bounds([1., 2., 5., 4.]), [6., 1., 8., 5.], "a quarter of a turn");
        // The input shows 4 columns of padding, then the left half of the source at twice its size.
        let geometry = Geometry::crop_resize((10, 20), 0., -2., 10., 12., (20, 24));
        let source_transform = SourceTransform { source: (10, 20), geometry };
        assert_eq!(source_transform.shown(), [4., 0., 24., 20.]);
        assert_eq!(source_transform.in_source([0., -2., 8., 6.]), Some([0., 0., 2., 3.]));
    }
}
