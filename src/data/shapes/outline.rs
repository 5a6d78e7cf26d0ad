//! Outlines of the ten classes as polygons, and their rasterisation at pixel centres.
//!
//! Coordinates are continuous pixels (the centre of the first pixel is (0.5, 0.5)). Only +, −, ×, ÷ and √ are used,
//! whose rounding IEEE 754 defines, so that a set has the same bytes on every platform; this does not hold for
//! `f64::sin`.

use std::f64::consts::{FRAC_PI_2, PI};

/// A point, x then y.
pub(super) type Point = [f64; 2];

/// Closed contours, filled by the even-odd rule.
#[derive(Clone, Debug)]
pub(super) struct Outline(Vec<Vec<Point>>);

/// Position, size, rotation and aspect ratio of a drawn outline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub centre: Point,
    /// Radius of the disc of the same area, in pixels.
    pub radius: f64,
    /// Rotation as a fraction of a turn.
    pub turn: f64,
    /// Ratio of the axes before rotation; the area stays.
    pub aspect: f64,
}

/// Number of straight edges that approximate a circle.
const ARC: usize = 40;

impl Outline {
    /// The outline of class `label` (an index of [`super::CLASSES`]): centroid at the origin, area π.
    pub fn of_class(label: usize) -> Self {
        let contours = match super::CLASSES[label] {
            "arrow" => vec![vec![
                [1.0, 0.0],
                [0.1, 0.85],
                [0.1, 0.32],
                [-1.0, 0.32],
                [-1.0, -0.32],
                [0.1, -0.32],
                [0.1, -0.85],
            ]],
            "circle" => vec![polygon(ARC, 1.0)],
            "crescent" => vec![crescent(0.45, 0.8)],
            "cross" => {
                let quarter = [[1.0, -0.3], [1.0, 0.3], [0.3, 0.3]];
                let rotated = |(c, s): (f64, f64)| quarter.map(|[x, y]| [c * x - s * y, s * x + c * y]);
                vec![(0..4).flat_map(|k| rotated(unit(k as f64 / 4.0))).collect()]
            }
            "heart" => vec![(0..ARC).map(|k| heart(k as f64 / ARC as f64)).collect()],
            "pentagon" => vec![polygon(5, 1.0)],
            "ring" => vec![polygon(ARC, 1.0), polygon(ARC, 0.55)],
            "square" => vec![polygon(4, 1.0)],
            "star" => {
                let (outer, inner) = (polygon(10, 1.0), polygon(10, 0.42));
                vec![(0..10).map(|k| if k % 2 == 0 { outer[k] } else { inner[k] }).collect()]
            }
            _ => vec![polygon(3, 1.0)], // triangle
        };
        Self(contours).normalised()
    }

    /// This outline, scaled, rotated and moved.
    pub fn placed(&self, at: &Placement) -> Self {
        let (c, s) = unit(at.turn);
        let (sx, sy) = (at.radius * at.aspect.sqrt(), at.radius / at.aspect.sqrt());
        self.map(|[x, y]| {
            let (x, y) = (sx * x, sy * y);
            [at.centre[0] + c * x - s * y, at.centre[1] + s * x + c * y]
        })
    }

    /// Calls `span(row, first, end)` for each run of pixels whose centres lie inside, in a `size` × `size` image.
    pub fn fill(&self, size: usize, mut span: impl FnMut(usize, usize, usize)) {
        let mut crossings = Vec::new();
        let (_, [y0, y1]) = self.bounds();
        for row in clip(y0, size)..clip(y1 + 1.0, size) {
            let y = row as f64 + 0.5;
            crossings.clear();
            for [[ax, ay], [bx, by]] in self.edges() {
                if (ay <= y) != (by <= y) {
                    crossings.push(ax + (y - ay) / (by - ay) * (bx - ax));
                }
            }
            crossings.sort_by(f64::total_cmp);
            for pair in crossings.chunks_exact(2) {
                // The first centre right of each crossing.
                let (first, end) = (clip(pair[0] + 0.5, size), clip(pair[1] + 0.5, size));
                if first < end {
                    span(row, first, end);
                }
            }
        }
    }

    /// Distance of a point to the nearest edge, in pixels.
    pub fn distance(&self, x: f64, y: f64) -> f64 {
        let squared = self.edges().map(|edge| squared_distance(edge, x, y)).fold(f64::INFINITY, f64::min);
        squared.sqrt()
    }

    /// Smallest and largest x, then y.
    pub fn bounds(&self) -> ([f64; 2], [f64; 2]) {
        let mut bounds = [[f64::INFINITY, f64::NEG_INFINITY]; 2];
        for point in self.0.iter().flatten() {
            for (bound, value) in bounds.iter_mut().zip(point) {
                *bound = [bound[0].min(*value), bound[1].max(*value)];
            }
        }
        (bounds[0], bounds[1])
    }

    fn edges(&self) -> impl Iterator<Item = [Point; 2]> + '_ {
        self.0.iter().flat_map(|ring| {
            let next = ring.iter().cycle().skip(1);
            ring.iter().zip(next).map(|(a, b)| [*a, *b])
        })
    }

    fn map(&self, f: impl Fn(Point) -> Point) -> Self {
        Self(self.0.iter().map(|ring| ring.iter().map(|p| f(*p)).collect()).collect())
    }

    /// Moves the centroid to the origin and scales the area to π; contours after the first are holes.
    fn normalised(&self) -> Self {
        let (mut area, mut cx, mut cy) = (0.0, 0.0, 0.0);
        for (k, ring) in self.0.iter().enumerate() {
            let [a, mx, my] = moments(ring);
            let sign = if k == 0 { a.signum() } else { -a.signum() };
            (area, cx, cy) = (area + sign * a, cx + sign * mx, cy + sign * my);
        }
        let scale = (PI / area).sqrt();
        self.map(|[x, y]| [(x - cx / area) * scale, (y - cy / area) * scale])
    }
}

/// Square of the distance of (x, y) to a straight edge.
pub(super) fn squared_distance([[ax, ay], [bx, by]]: [Point; 2], x: f64, y: f64) -> f64 {
    let (dx, dy, px, py) = (bx - ax, by - ay, x - ax, y - ay);
    let along = ((px * dx + py * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    let (ex, ey) = (px - along * dx, py - along * dy);
    ex * ex + ey * ey
}

/// (cos, sin) of a fraction of a turn, by Taylor series within a quarter.
pub(super) fn unit(turn: f64) -> (f64, f64) {
    let quarter = (turn * 4.0).floor();
    let x = (turn * 4.0 - quarter) * FRAC_PI_2;
    let (mut c, mut s) = (1.0, 1.0);
    for k in (1..=11).rev() {
        let even = 2.0 * k as f64;
        c = 1.0 - c * x * x / ((even - 1.0) * even);
        s = 1.0 - s * x * x / (even * (even + 1.0));
    }
    s *= x;
    match quarter.rem_euclid(4.0) as u8 {
        0 => (c, s),
        1 => (-s, c),
        2 => (-c, -s),
        _ => (s, -c),
    }
}

/// A coordinate as a pixel index, kept in 0..=size.
pub(super) fn clip(value: f64, size: usize) -> usize {
    (value.floor().max(0.0) as usize).min(size)
}

fn polygon(corners: usize, radius: f64) -> Vec<Point> {
    let corner = |k| {
        let (c, s) = unit(k as f64 / corners as f64);
        [radius * c, radius * s]
    };
    (0..corners).map(corner).collect()
}

/// The unit disc without the disc of radius `r` around (d, 0).
fn crescent(d: f64, r: f64) -> Vec<Point> {
    let x = (1.0 - r * r + d * d) / (2.0 * d);
    let y = (1.0 - x * x).sqrt();
    let outer = polygon(ARC, 1.0).into_iter().filter(|[px, _]| *px < x);
    let inner = polygon(ARC, r).into_iter().rev().map(|[px, py]| [px + d, py]).filter(|[px, _]| *px < x);
    std::iter::once([x, y]).chain(outer).chain([[x, -y]]).chain(inner).collect()
}

fn heart(turn: f64) -> Point {
    let cos = |k: f64| unit(k * turn).0;
    let sin = unit(turn).1;
    let y = 13.0 * cos(1.0) - 5.0 * cos(2.0) - 2.0 * cos(3.0) - cos(4.0);
    [sin * sin * sin, -y / 16.0]
}

/// Signed area, and the integrals of x and y over a simple polygon.
fn moments(ring: &[Point]) -> [f64; 3] {
    let mut sums = [0.0; 3];
    for (k, [ax, ay]) in ring.iter().enumerate() {
        let [bx, by] = ring[(k + 1) % ring.len()];
        let cross = ax * by - bx * ay;
        sums[0] += cross / 2.0;
        sums[1] += cross * (ax + bx) / 6.0;
        sums[2] += cross * (ay + by) / 6.0;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_agrees_with_libm() {
        for k in -20..=50 {
            let turn = k as f64 / 23.0;
            let (s, c) = (turn * 2.0 * PI).sin_cos();
            let (uc, us) = unit(turn);
            assert!((uc - c).abs() < 1e-14 && (us - s).abs() < 1e-14, "turn {turn}");
        }
    }

    #[test]
    fn every_class_covers_the_area_it_is_asked_for() {
        for label in 0..super::super::CLASSES.len() {
            let at = Placement { centre: [100.2, 99.7], radius: 40.0, turn: 0.13, aspect: 1.2 };
            let outline = Outline::of_class(label).placed(&at);
            let (mut area, mut x, mut y) = (0.0, 0.0, 0.0);
            outline.fill(200, |row, first, end| {
                for column in first..end {
                    area += 1.0;
                    x += column as f64 + 0.5;
                    y += row as f64 + 0.5;
                }
            });
            assert!((area / (PI * 1600.0) - 1.0).abs() < 0.01, "class {label}: {area}");
            assert!((x / area - 100.2).abs() < 0.2 && (y / area - 99.7).abs() < 0.2, "class {label}");
        }
    }

    #[test]
    fn distance_to_a_square() {
        let square = Outline(vec![vec![[1.0, 1.0], [5.0, 1.0], [5.0, 5.0], [1.0, 5.0]]]);
        assert_eq!(square.distance(3.0, 2.0), 1.0);
        assert_eq!(square.distance(8.0, 9.0), 5.0);
        let mut filled = Vec::new();
        square.fill(4, |row, first, end| filled.push((row, first, end)));
        assert_eq!(filled, [(1, 1, 4), (2, 1, 4), (3, 1, 4)]);
    }
}
