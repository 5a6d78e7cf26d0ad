//! [`Visible`]: the part of a source image that is visible in a model input, and the bounds of outlines in it.
//!
//! It is a rectangle, or another convex polygon after a rotation or a shear. Points (x, y) are continuous pixel coordinates.

use crate::data::{Geometry, Size, Xyxy};

/// x, y in pixels.
pub(super) type Point = [f64; 2];

/// A convex region.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Visible {
    /// Corners, clockwise on the screen.
    corners: Vec<Point>,
}

impl Visible {
    /// A whole image.
    pub(super) fn of(size: Size) -> Self {
        Self { corners: rectangle([0., 0., size.1 as f64, size.0 as f64]).to_vec() }
    }

    /// The region after a geometric operation, clipped to the resulting image.
    pub(super) fn moved(&self, geometry: &Geometry) -> Self {
        let mut corners: Vec<Point> =
            self.corners.iter().map(|[x, y]| geometry.point(*x, *y).into()).collect();
        if doubled_area(&corners) < 0. {
            corners.reverse();
        }
        let image = Self::of(geometry.to);
        for (p, q) in edges(&image.corners) {
            corners = half(&corners, p, q);
        }
        Self { corners }
    }

    pub(super) fn corners(&self) -> &[Point] {
        &self.corners
    }

    /// Whether a box is entirely visible.
    pub(super) fn shows(&self, bounds: Xyxy<f64>) -> bool {
        rectangle(bounds).iter().all(|corner| edges(&self.corners).all(|(p, q)| side(p, q, *corner) >= 0.))
    }

    /// Extends `bounds` to include the visible part of the inside of a ring.
    pub(super) fn bound(&self, ring: &[Point], bounds: &mut Option<Xyxy<f64>>) {
        for (p, q) in edges(ring) {
            if let Some(ends) = self.cut(p, q) {
                ends.iter().for_each(|point| grow(bounds, *point));
            }
        }
        let inside = |corner: &&Point| contains(ring, **corner);
        self.corners.iter().filter(inside).for_each(|corner| grow(bounds, *corner));
    }

    /// The visible part of a line segment (Cyrus–Beck).
    fn cut(&self, p: Point, q: Point) -> Option<[Point; 2]> {
        let (mut from, mut to) = (0f64, 1f64);
        for (a, b) in edges(&self.corners) {
            let (start, end) = (side(a, b, p), side(a, b, q));
            match (start >= 0., end >= 0.) {
                (false, false) => return None,
                (true, true) => {}
                (true, false) => to = to.min(start / (start - end)),
                (false, true) => from = from.max(start / (start - end)),
            }
        }
        let at = |t: f64| [p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])];
        (from <= to && !self.corners.is_empty()).then(|| [at(from), at(to)])
    }
}

/// The corners of a box, clockwise on the screen.
pub(super) fn rectangle([x1, y1, x2, y2]: Xyxy<f64>) -> [Point; 4] {
    [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
}

/// Pairs of consecutive points, including the last with the first.
fn edges(points: &[Point]) -> impl Iterator<Item = (Point, Point)> + '_ {
    let next = points.iter().cycle().skip(1);
    points.iter().copied().zip(next.copied())
}

/// Positive if `point` is on the inner side of the edge from `p` to `q` of a clockwise polygon.
fn side(p: Point, q: Point, point: Point) -> f64 {
    (q[0] - p[0]) * (point[1] - p[1]) - (q[1] - p[1]) * (point[0] - p[0])
}

fn doubled_area(points: &[Point]) -> f64 {
    edges(points).map(|(p, q)| p[0] * q[1] - q[0] * p[1]).sum()
}

/// The part of a convex polygon on the inner side of an edge (Sutherland–Hodgman).
fn half(points: &[Point], p: Point, q: Point) -> Vec<Point> {
    let mut kept = vec![];
    for (a, b) in edges(points) {
        let (start, end) = (side(p, q, a), side(p, q, b));
        if start >= 0. {
            kept.push(a);
        }
        if (start >= 0.) != (end >= 0.) {
            let t = start / (start - end);
            kept.push([a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])]);
        }
    }
    kept
}

/// Whether a point lies inside a ring, by the even-odd rule.
fn contains(ring: &[Point], [x, y]: Point) -> bool {
    let crosses = |(p, q): &(Point, Point)| {
        (p[1] > y) != (q[1] > y) && x < p[0] + (y - p[1]) / (q[1] - p[1]) * (q[0] - p[0])
    };
    edges(ring).filter(crosses).count() % 2 == 1
}

fn grow(bounds: &mut Option<Xyxy<f64>>, [x, y]: Point) {
    *bounds = Some(match *bounds {
        None => [x, y, x, y],
        Some([x1, y1, x2, y2]) => [x1.min(x), y1.min(y), x2.max(x), y2.max(y)],
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(visible: &Visible, ring: &[Point]) -> Option<Xyxy<f64>> {
        let mut bounds = None;
        visible.bound(ring, &mut bounds);
        bounds
    }

    #[test]
    fn bounds_by_hand() {
        let visible = Visible::of((10, 20));
        // A triangle with its tip beyond the right edge: x = 20 is reached at y = 4 and 6.
        let triangle = [[10., 0.], [30., 5.], [10., 10.]];
        assert_eq!(bounds(&visible, &triangle), Some([10., 0., 20., 10.]));
        assert_eq!(bounds(&visible, &[[16., 2.], [24., 4.], [16., 6.]]), Some([16., 2., 20., 6.]));
        assert_eq!(bounds(&visible, &rectangle([-5., -5., 50., 50.])), Some([0., 0., 20., 10.]));
        assert_eq!(bounds(&visible, &rectangle([21., 0., 25., 5.])), None);
        // Along the edges of the image.
        assert_eq!(bounds(&visible, &rectangle([0., 0., 20., 10.])), Some([0., 0., 20., 10.]));
        assert_eq!(bounds(&visible, &rectangle([0., 2., 5., 10.])), Some([0., 2., 5., 10.]));
        // A clasp around the image from above: its arms reach in at the left and at the right, y = 5 to 7.
        let clasp = [
            [2., 5.],
            [2., 7.],
            [-4., 7.],
            [-4., -4.],
            [24., -4.],
            [24., 7.],
            [18., 7.],
            [18., 5.],
            [22., 5.],
            [22., -2.],
            [-2., -2.],
            [-2., 5.],
        ];
        assert_eq!(bounds(&visible, &clasp), Some([0., 5., 20., 7.]));
    }

    /// A ray along a row of pixels meets a vertex once, not twice, and not at all at a tip.
    #[test]
    fn points_at_the_height_of_a_vertex_are_inside_or_outside() {
        let diamond = [[0., 1.], [1., 0.], [2., 1.], [1., 2.]];
        for (point, inside) in [
            ([1., 1.], true),
            ([0.5, 1.], true),
            ([-0.5, 1.], false),
            ([2.5, 1.], false),
            ([0.5, 0.], false),
            ([0.5, 2.], false),
            ([0.4, 0.5], false),
            ([0.6, 0.5], true),
            ([1.6, 0.5], false),
        ] {
            assert_eq!(contains(&diamond, point), inside, "{point:?}");
        }
    }

    #[test]
    fn a_region_moves_and_shrinks() {
        let size = (10, 20);
        let crop = Geometry::crop_resize(size, 2., -4., 6., 12., (12, 24));
        let visible = Visible::of(size).moved(&crop);
        // Columns 0 to 8 of the image are to the right of 4 empty ones, twice as large.
        assert_eq!(bounds(&visible, &rectangle([-1., -1., 99., 99.])), Some([8., 0., 24., 12.]));
        assert!(visible.shows([8., 0., 24., 12.]) && !visible.shows([7., 0., 24., 12.]));
        let mirrored = visible.moved(&Geometry::flip((12, 24)));
        assert!(mirrored.shows([0., 0., 16., 12.]) && !mirrored.shows([0., 0., 17., 12.]));
        // Cropped parts do not reappear with padding.
        let padded = mirrored.moved(&Geometry::crop_resize((12, 24), -5., -5., 30., 40., (30, 40)));
        assert_eq!(bounds(&padded, &rectangle([-1., -1., 99., 99.])), Some([5., 5., 21., 17.]));
        // A crop of the whole, along all edges, and one along two of them.
        let whole = Visible::of(size).moved(&Geometry::crop_resize(size, 0., 0., 10., 20., size));
        assert!(whole.shows([0., 0., 20., 10.]) && !whole.shows([0., 0., 20.1, 10.]));
        let corner = Visible::of(size).moved(&Geometry::crop_resize(size, 0., 0., 5., 8., (5, 8)));
        assert!(corner.shows([0., 0., 8., 5.]) && !corner.shows([0., 0., 8., 5.1]));
        let gone = visible.moved(&Geometry::crop_resize((12, 24), 50., 50., 5., 5., (5, 5)));
        assert_eq!(bounds(&gone, &rectangle([-1., -1., 99., 99.])), None);
    }
}
