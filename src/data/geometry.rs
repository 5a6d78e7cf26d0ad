//! How pixels move: one affine map for images, labels, boxes, masks and rasters alike.

/// (height, width) in pixels.
pub type Size = (usize, usize);

/// An affine map from an image of size `from` to one of size `to`.
///
/// `forward` = [a, b, c, d, e, f]: x' = a·x + b·y + c, y' = d·x + e·y + f, in continuous pixel
/// coordinates (the centre of the first pixel is (0.5, 0.5)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    pub from: Size,
    pub to: Size,
    pub forward: [f64; 6],
}

impl Geometry {
    /// Nothing moves.
    pub fn identity(size: Size) -> Self {
        Self { from: size, to: size, forward: [1., 0., 0., 0., 1., 0.] }
    }

    /// Cuts the rectangle (top, left, height, width; may reach outside) and scales it to `to`.
    pub fn crop_resize(from: Size, top: f64, left: f64, height: f64, width: f64, to: Size) -> Self {
        let (sx, sy) = (to.1 as f64 / width, to.0 as f64 / height);
        Self { from, to, forward: [sx, 0., -left * sx, 0., sy, -top * sy] }
    }

    /// Left-right mirror.
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

    /// Where the point (x, y) goes.
    pub fn point(&self, x: f64, y: f64) -> (f64, f64) {
        let [a, b, c, d, e, f] = self.forward;
        (a * x + b * y + c, d * x + e * y + f)
    }

    /// The way back. `None` when the map is not invertible.
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

/// How a model input lies in its source image: predictions go back through its inverse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Size of the source image as decoded.
    pub source: Size,
    /// Source image -> model input.
    pub geometry: Geometry,
}

impl Frame {
    pub fn new(source: Size) -> Self {
        Self { source, geometry: Geometry::identity(source) }
    }

    /// Where the source image lies in the input: x1, y1, x2, y2 in input pixels. What is outside is padding. Exact
    /// unless something rotates or shears, when it is the box around the image.
    pub fn shown(&self) -> [f64; 4] {
        let ((h, w), (height, width)) = (self.source, self.geometry.to);
        let corners = [(0., 0.), (w as f64, 0.), (0., h as f64), (w as f64, h as f64)];
        let points = corners.map(|(x, y)| self.geometry.point(x, y));
        let low = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).fold(f64::INFINITY, f64::min);
        let high = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).fold(f64::NEG_INFINITY, f64::max);
        let (width, height) = (width as f64, height as f64);
        [
            low(|p| p.0).clamp(0., width),
            low(|p| p.1).clamp(0., height),
            high(|p| p.0).clamp(0., width),
            high(|p| p.1).clamp(0., height),
        ]
    }
}

/// A target that moves with its image: one flip, crop or scale for labels, boxes, masks and rasters.
pub trait Geometric {
    fn apply(&mut self, geometry: &Geometry);
    /// Whether it can belong to an image that was decoded to this size; the error says why not.
    fn fits(&self, _decoded: Size) -> Result<(), String> {
        Ok(())
    }
    /// Among the labelled pixels of a rectangle (top, left, height, width) that lies inside the image, the share of the
    /// commonest class; 1 where none is labelled. `None` when single pixels have no label.
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
}
