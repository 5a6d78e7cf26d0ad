//! The annotations of a scene in COCO's form.
//!
//! Everything describes the visible region: `area` counts its pixels, `bbox` bounds them, and the segmentation
//! reproduces them exactly. A region without holes is a list of polygons, one per 4-connected part, along the edges of
//! pixels; one with holes is a compressed run-length string; a crowd is a list of run lengths. Format:
//! <https://cocodataset.org/#format-data>.

use super::scene::Scene;
use super::spec::{CATEGORY_IDS, CLASSES};
use hotcoco::mask;
use serde::Serialize;

/// One entry of `annotations`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Annotation {
    /// Counts from 1 in the order of the file; 0 until the file is assembled.
    pub id: u64,
    pub image_id: u64,
    pub category_id: u32,
    pub segmentation: Segmentation,
    pub area: usize,
    /// x, y, width, height
    pub bbox: [usize; 4],
    pub iscrowd: u8,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Segmentation {
    /// Flat x, y lists.
    Polygons(Vec<Vec<usize>>),
    Rle {
        /// Height, width.
        size: [u32; 2],
        counts: Counts,
    },
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Counts {
    Compressed(String),
    Plain(Vec<u32>),
}

/// The annotations of a scene, from back to front; a crowd is one of them and comes last.
pub(super) fn annotate(scene: &Scene, image_id: u64) -> Vec<Annotation> {
    let mut annotations = Vec::new();
    let mut crowd: Option<(usize, Region)> = None;
    for (k, figure) in scene.figures.iter().enumerate() {
        let owned = scene.owner.iter().map(|owner| usize::from(*owner) == k + 1);
        if figure.crowd {
            let (_, region) = crowd.get_or_insert_with(|| (figure.label, Region::empty(scene.size)));
            region.pixels.iter_mut().zip(owned).for_each(|(pixel, owned)| *pixel |= owned);
        } else {
            let region = Region { size: scene.size, pixels: owned.collect() };
            annotations.push(region.annotation(image_id, figure.label, false));
        }
    }
    annotations.extend(crowd.map(|(label, region)| region.annotation(image_id, label, true)));
    annotations
}

/// Class ids of the pixels: 0 background, 1 + index of [`CLASSES`]. [H, W]
pub(super) fn semantic(scene: &Scene) -> Vec<u8> {
    let id = |owner: &u8| match usize::from(*owner) {
        0 => 0,
        k => scene.figures[k - 1].label as u8 + 1,
    };
    scene.owner.iter().map(id).collect()
}

/// A set of pixels.
struct Region {
    size: usize,
    /// [H, W]
    pixels: Vec<bool>,
}

impl Region {
    fn empty(size: usize) -> Self {
        Self { size, pixels: vec![false; size * size] }
    }

    fn annotation(&self, image_id: u64, label: usize, crowd: bool) -> Annotation {
        debug_assert!(label < CLASSES.len());
        let segmentation = match self.polygons() {
            Some(polygons) if !crowd => Segmentation::Polygons(polygons),
            _ => {
                let rle = self.rle();
                let counts = if crowd {
                    Counts::Plain(rle.counts)
                } else {
                    Counts::Compressed(mask::rle_to_string(&rle))
                };
                Segmentation::Rle { size: [self.size as u32; 2], counts }
            }
        };
        Annotation {
            id: 0,
            image_id,
            category_id: CATEGORY_IDS[label],
            segmentation,
            area: self.pixels.iter().filter(|p| **p).count(),
            bbox: self.bbox(),
            iscrowd: u8::from(crowd),
        }
    }

    fn contains(&self, x: usize, y: usize) -> bool {
        x < self.size && y < self.size && self.pixels[y * self.size + x]
    }

    fn bbox(&self) -> [usize; 4] {
        let inside = || (0..self.pixels.len()).filter(|k| self.pixels[*k]);
        let range = |values: &mut dyn Iterator<Item = usize>| {
            values.fold((usize::MAX, 0), |(low, end), v| (low.min(v), end.max(v + 1)))
        };
        let (x0, x1) = range(&mut inside().map(|k| k % self.size));
        let (y0, y1) = range(&mut inside().map(|k| k / self.size));
        [x0, y0, x1 - x0, y1 - y0]
    }

    fn rle(&self) -> hotcoco::Rle {
        let size = self.size;
        let columns: Vec<u8> =
            (0..size * size).map(|k| u8::from(self.pixels[k % size * size + k / size])).collect();
        mask::encode(&columns, size as u32, size as u32).expect("the mask holds size × size pixels")
    }

    /// The boundary of each 4-connected part, clockwise; `None` when a part has a hole.
    fn polygons(&self) -> Option<Vec<Vec<usize>>> {
        // Directed edges between corners of pixels, with the region on their right: bit d of a
        // corner is the edge that leaves it to the east, south, west or north.
        let stride = self.size + 1;
        let mut leaves = vec![0u8; stride * stride];
        for (k, _) in self.pixels.iter().enumerate().filter(|(_, pixel)| **pixel) {
            let (x, y) = (k % self.size, k / self.size);
            // Indices below zero wrap around and are outside.
            if !self.contains(x, y.wrapping_sub(1)) {
                leaves[y * stride + x] |= 1;
            }
            if !self.contains(x + 1, y) {
                leaves[y * stride + x + 1] |= 2;
            }
            if !self.contains(x, y + 1) {
                leaves[(y + 1) * stride + x + 1] |= 4;
            }
            if !self.contains(x.wrapping_sub(1), y) {
                leaves[(y + 1) * stride + x] |= 8;
            }
        }
        let mut left = leaves.clone();
        let mut polygons = Vec::new();
        while let Some(start) = left.iter().position(|bits| *bits != 0) {
            let first = left[start].trailing_zeros() as usize;
            let (mut corner, mut direction) = (start, first);
            let mut points: Vec<usize> = Vec::new();
            loop {
                left[corner] &= !(1 << direction);
                corner = match direction {
                    0 => corner + 1,
                    1 => corner + stride,
                    2 => corner - 1,
                    _ => corner - stride,
                };
                // Right before straight before left keeps pixels that touch at a corner apart.
                let turns = [(direction + 1) % 4, direction, (direction + 3) % 4];
                let next = turns.into_iter().find(|d| leaves[corner] >> d & 1 == 1)?;
                if next != direction {
                    points.extend([corner % stride, corner / stride]);
                }
                direction = next;
                if (corner, direction) == (start, first) {
                    break;
                }
            }
            if doubled_area(&points) < 0 {
                return None;
            }
            polygons.push(points);
        }
        Some(polygons)
    }
}

/// Twice the signed area of a polygon; positive when clockwise in image coordinates.
fn doubled_area(points: &[usize]) -> i64 {
    let at = |k: usize| points[k % points.len()] as i64;
    (0..points.len()).step_by(2).map(|k| at(k) * at(k + 3) - at(k + 2) * at(k + 1)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::scene::Request;
    use super::*;
    use crate::rng::Rng;

    fn region(rows: [&str; 5]) -> Region {
        Region { size: 5, pixels: rows.concat().bytes().map(|b| b == b'#').collect() }
    }

    #[test]
    fn boundaries_by_hand() {
        let l = region([".....", ".#...", ".##..", ".....", "....."]);
        assert_eq!(l.polygons(), Some(vec![vec![2, 1, 2, 2, 3, 2, 3, 3, 1, 3, 1, 1]]));
        assert_eq!(l.bbox(), [1, 1, 2, 2]);
        let diagonal = region(["#....", ".#...", ".....", ".....", "....."]);
        assert_eq!(
            diagonal.polygons(),
            Some(vec![vec![1, 0, 1, 1, 0, 1, 0, 0], vec![2, 1, 2, 2, 1, 2, 1, 1]])
        );
        let ring = region([".....", ".###.", ".#.#.", ".###.", "....."]);
        assert_eq!(ring.polygons(), None);
        assert_eq!(ring.rle().counts, [6, 3, 2, 1, 1, 1, 2, 3, 6]);
    }

    #[test]
    fn polygons_rasterise_to_the_very_pixels() {
        let (mut checked, mut holes) = (0, 0);
        for index in 0..200 {
            let mut rng = Rng::new(1, "annotation test", &[index]);
            let request = Request { main: Some(index as usize % 10), crowd: index % 5 == 0 };
            let scene = Scene::compose(48, request, &mut rng);
            for k in 0..scene.figures.len() {
                let pixels: Vec<bool> = scene.owner.iter().map(|o| usize::from(*o) == k + 1).collect();
                let region = Region { size: 48, pixels };
                let Some(polygons) = region.polygons() else {
                    holes += 1;
                    continue;
                };
                let parts: Vec<Vec<f64>> =
                    polygons.iter().map(|p| p.iter().map(|v| *v as f64).collect()).collect();
                if parts.is_empty() {
                    continue;
                }
                let rle = mask::fr_polys(&parts, 48, 48).unwrap();
                assert_eq!(mask::decode(&rle), mask::decode(&region.rle()), "scene {index}, figure {k}");
                checked += 1;
            }
        }
        assert!(checked > 400 && holes > 20, "{checked} polygons, {holes} regions with holes");
    }
}
