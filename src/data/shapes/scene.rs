//! The positions of objects, and the visible pixels of each.
//!
//! The main object has the largest visible area by a margin, and its class is that of the image. The
//! number of objects and the class are drawn before anything is rejected, so that they stay
//! independent; only places, sizes and order are redrawn until the scene fits.

use super::outline::{Outline, Placement, unit};
use super::spec::CLASSES;
use crate::rng::Rng;
use rand::Rng as _;
use std::f64::consts::PI;

/// The requirements of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Class index of the largest visible object; `None` for an image without objects.
    pub main: Option<usize>,
    /// Whether there is a cluster of tiny objects.
    pub crowd: bool,
}

/// One drawn object.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub label: usize,
    /// Position and size in pixels of the image.
    pub outline: Outline,
    /// Whether it is part of the cluster of tiny objects.
    pub crowd: bool,
    /// Number of pixels that it would cover without occlusion.
    area: f64,
}

/// A composed image, without colours.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub size: usize,
    /// From back to front.
    pub figures: Vec<Figure>,
    /// 1 + index of the figure seen at each pixel, 0 for the background. [H, W]
    pub owner: Vec<u8>,
}

/// Radius of the disc of the same area, in 1/64 of the image's side.
const MAIN_RADIUS: std::ops::Range<f64> = 15.0..20.0;
const OTHER_RADIUS: std::ops::Range<f64> = 4.0..7.0;
/// Largest rotation to either side, in turns.
const TURN: f64 = 0.1;
const TINY_RADIUS: std::ops::Range<f64> = 2.2..2.9;
/// The main object shows at least this many times the area of any other.
const MARGIN: f64 = 1.5;
/// Smallest visible share of the main object, and of any other object; parts outside the image are not visible.
const MAIN_SEEN: f64 = 0.7;
const OTHER_SEEN: f64 = 0.35;
/// A crowd has more than eight objects.
const CROWD: usize = 9;

impl Scene {
    /// Draws scenes until one fits `request`.
    pub fn compose(size: usize, request: Request, rng: &mut Rng) -> Self {
        let Some(main) = request.main else {
            return Self { size, figures: Vec::new(), owner: vec![0; size * size] };
        };
        let mut others = rng.random_range(0..6u32);
        // The loop ends: a single object always fits, and one with a crowd fits after a few draws.
        loop {
            for _ in 0..100 {
                let scene = Self::draw(size, main, others, request.crowd, rng);
                if scene.fits(main) {
                    return scene;
                }
            }
            others = others.saturating_sub(1);
        }
    }

    /// Visible pixels of each figure.
    pub fn visible(&self) -> Vec<usize> {
        let mut visible = vec![0; self.figures.len()];
        for &owner in &self.owner {
            if owner > 0 {
                visible[usize::from(owner) - 1] += 1;
            }
        }
        visible
    }

    fn draw(size: usize, main: usize, others: u32, crowd: bool, rng: &mut Rng) -> Self {
        let mut groups = vec![vec![figure(size, main, MAIN_RADIUS, 0.36..0.64, rng)]];
        for _ in 0..others {
            let label = random_label(rng);
            groups.push(vec![figure(size, label, OTHER_RADIUS, 0.05..0.95, rng)]);
        }
        if crowd {
            groups.push(cluster(size, rng));
        }
        // The main object goes to a random depth.
        let depth = rng.random_range(0..groups.len() as u32) as usize;
        groups[..=depth].rotate_left(1);
        let figures: Vec<Figure> = groups.into_iter().flatten().collect();
        let mut owner = vec![0; size * size];
        for (k, figure) in figures.iter().enumerate() {
            figure.outline.fill(size, |row, first, end| owner[row * size..][first..end].fill(k as u8 + 1));
        }
        Self { size, figures, owner }
    }

    /// Whether every object is recognisable and the largest is of class `main` by a margin.
    fn fits(&self, main: usize) -> bool {
        let visible = self.visible();
        let seen = |k: usize| visible[k] as f64 / self.figures[k].area;
        let ordinary = || (0..self.figures.len()).filter(|k| !self.figures[*k].crowd);
        let Some(largest) = ordinary().max_by_key(|k| visible[*k]) else { return false };
        let members = self.figures.iter().filter(|f| f.crowd).count();
        let members_seen =
            (0..self.figures.len()).filter(|k| self.figures[*k].crowd && seen(*k) > 0.5).count();
        self.figures[largest].label == main
            && seen(largest) > MAIN_SEEN
            && ordinary().all(|k| seen(k) > OTHER_SEEN)
            && ordinary().all(|k| k == largest || visible[k] as f64 * MARGIN < visible[largest] as f64)
            && (members == 0 || members_seen >= CROWD)
    }
}

fn random_label(rng: &mut Rng) -> usize {
    rng.random_range(0..CLASSES.len() as u32) as usize
}

fn figure(
    size: usize,
    label: usize,
    radius: std::ops::Range<f64>,
    centre: std::ops::Range<f64>,
    rng: &mut Rng,
) -> Figure {
    let side = size as f64;
    let at = Placement {
        centre: [rng.random_range(centre.clone()) * side, rng.random_range(centre) * side],
        radius: rng.random_range(radius) * side / 64.0,
        turn: rng.random_range(-TURN..TURN),
        aspect: rng.random_range(0.85..1.18),
    };
    place(label, at, false)
}

fn place(label: usize, at: Placement, crowd: bool) -> Figure {
    Figure { label, outline: Outline::of_class(label).placed(&at), crowd, area: PI * at.radius * at.radius }
}

/// 10 to 12 tiny objects of one class on a jittered, rotated grid.
fn cluster(size: usize, rng: &mut Rng) -> Vec<Figure> {
    let scale = size as f64 / 64.0;
    let label = random_label(rng);
    let count = rng.random_range(CROWD as u32 + 1..=12);
    let centre = [rng.random_range(18.0..46.0), rng.random_range(18.0..46.0)];
    let (c, s) = unit(rng.random_range(0.0..1.0));
    let member = |k: u32| {
        let x = (f64::from(k % 4) - 1.5) * 7.0 + rng.random_range(-1.0..1.0);
        let y = (f64::from(k / 4) - 1.0) * 7.0 + rng.random_range(-1.0..1.0);
        let at = Placement {
            centre: [scale * (centre[0] + c * x - s * y), scale * (centre[1] + s * x + c * y)],
            radius: rng.random_range(TINY_RADIUS) * scale,
            turn: rng.random_range(0.0..1.0),
            aspect: 1.0,
        };
        place(label, at, true)
    };
    (0..count).map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_hold_what_is_asked() {
        for index in 0..300u64 {
            let mut rng = Rng::new(3, "scene test", &[index]);
            let main = index as usize % CLASSES.len();
            let crowd = index % 3 == 0;
            let scene = Scene::compose(64, Request { main: Some(main), crowd }, &mut rng);
            let visible = scene.visible();
            let ordinary: Vec<usize> = (0..visible.len()).filter(|k| !scene.figures[*k].crowd).collect();
            assert!((1..=6).contains(&ordinary.len()), "scene {index}: {} objects", ordinary.len());
            let largest = *ordinary.iter().max_by_key(|k| visible[**k]).unwrap();
            assert_eq!(scene.figures[largest].label, main, "scene {index}");
            assert!(ordinary.iter().all(|k| visible[*k] > 10), "scene {index}: {visible:?}");
            let seen = (0..visible.len()).filter(|k| scene.figures[*k].crowd && visible[*k] > 0).count();
            assert_eq!(crowd, seen > 8, "scene {index}: {seen} members of a crowd");
        }
    }

    #[test]
    fn the_number_of_objects_is_varied() {
        let count = |index| {
            let mut rng = Rng::new(0, "scene test", &[index]);
            Scene::compose(64, Request { main: Some(0), crowd: false }, &mut rng).figures.len()
        };
        let counts: Vec<usize> = (0..300).map(count).collect();
        for n in 1..=6 {
            let share = counts.iter().filter(|c| **c == n).count();
            assert!((20..=90).contains(&share), "{share} of 300 scenes hold {n} objects");
        }
    }
}
