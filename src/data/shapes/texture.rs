//! Procedural textures: two colours mixed by a pattern, anti-aliased by soft edges.
//!
//! A texture is drawn without knowing what it will fill, so that colour and pattern say nothing
//! about a class.

use super::outline::unit;
use crate::rng::Rng;
use rand::Rng as _;

/// Red, green, blue in 0..1.
pub(super) type Colour = [f32; 3];

#[derive(Clone, Copy, Debug)]
enum Pattern {
    Flat,
    Gradient,
    Stripes,
    Checkers,
    Dots,
    Noise,
}

const PATTERNS: [Pattern; 6] =
    [Pattern::Flat, Pattern::Gradient, Pattern::Stripes, Pattern::Checkers, Pattern::Dots, Pattern::Noise];

/// Share of a random colour in the second colour of a texture; the rest is the first colour.
const STRENGTH: f32 = 0.4;

/// A colour at every point of the plane.
#[derive(Clone, Debug)]
pub(super) struct Texture {
    pattern: Pattern,
    colours: [Colour; 2],
    /// Cosine and sine of the pattern's direction, divided by its period.
    axis: (f32, f32),
    phase: [f32; 2],
    /// Width of a soft edge, in periods.
    edge: f32,
    seed: u32,
}

impl Texture {
    /// A random texture for an image of `size` pixels: periods scale with it. Its first colour is `from` on average by
    /// 1 − `variety`, its second one is near the first.
    pub fn near(from: Colour, variety: f32, size: usize, rng: &mut Rng) -> Self {
        let first = mix(from, colour(rng), variety);
        let second = mix(first, colour(rng), STRENGTH);
        Self { colours: [first, second], ..Self::random(size, rng) }
    }

    /// A texture of any colour.
    pub fn random(size: usize, rng: &mut Rng) -> Self {
        let first = colour(rng);
        let second = mix(first, colour(rng), STRENGTH);
        let pattern = PATTERNS[rng.random_range(0..PATTERNS.len() as u32) as usize];
        let period = rng.random_range(4.0..14.0) * size as f32 / 64.0;
        let (c, s) = unit(rng.random_range(0.0..1.0));
        Self {
            pattern,
            colours: [first, second],
            axis: (c as f32 / period, s as f32 / period),
            phase: [rng.random_range(0.0..64.0), rng.random_range(0.0..64.0)],
            edge: 1.0 / period,
            seed: rng.random(),
        }
    }

    /// The colour halfway between the two.
    pub fn mean(&self) -> Colour {
        mix(self.colours[0], self.colours[1], if matches!(self.pattern, Pattern::Flat) { 0.0 } else { 0.5 })
    }

    /// The colour at a point, in pixels.
    pub fn at(&self, x: f32, y: f32) -> Colour {
        mix(self.colours[0], self.colours[1], self.weight(x, y))
    }

    /// The weight of the second colour, in 0..1.
    pub fn weight(&self, x: f32, y: f32) -> f32 {
        let (c, s) = self.axis;
        let u = c * x + s * y + self.phase[0];
        let v = c * y - s * x + self.phase[1];
        match self.pattern {
            Pattern::Flat => 0.0,
            Pattern::Gradient => (wave(u / 8.0) + 1.0) / 2.0,
            Pattern::Stripes => self.soft(wave(u)),
            Pattern::Checkers => {
                let (a, b) = (self.soft(wave(u)), self.soft(wave(v)));
                a + b - 2.0 * a * b
            }
            Pattern::Dots => {
                let (du, dv) = (u - u.floor() - 0.5, v - v.floor() - 0.5);
                self.soft(1.2 - 4.0 * (du * du + dv * dv).sqrt())
            }
            Pattern::Noise => (1.6 * fractal(u / 2.0, v / 2.0, self.seed) - 0.3).clamp(0.0, 1.0),
        }
    }

    /// A step at 0 of a function with slope 4 per period, as wide as a pixel.
    fn soft(&self, value: f32) -> f32 {
        (0.5 + value / (4.0 * self.edge)).clamp(0.0, 1.0)
    }
}

/// A random colour.
pub(super) fn colour(rng: &mut Rng) -> Colour {
    std::array::from_fn(|_| rng.random_range(0.0..1.0))
}

/// `a` where `weight` is 0, `b` where it is 1.
pub(super) fn mix(a: Colour, b: Colour, weight: f32) -> Colour {
    std::array::from_fn(|k| a[k] + (b[k] - a[k]) * weight)
}

/// Value noise in three octaves, in 0..1; one cell of the coarsest is one unit.
pub(super) fn fractal(x: f32, y: f32, seed: u32) -> f32 {
    let octave = |k: u32| {
        let scale = (1u32 << k) as f32;
        value_noise(x * scale, y * scale, seed.wrapping_add(k)) / scale
    };
    (octave(0) + octave(1) + octave(2)) / 1.75
}

/// A triangle wave of period 1 in -1..1.
fn wave(t: f32) -> f32 {
    4.0 * (t - t.floor() - 0.5).abs() - 1.0
}

/// Random values at integer points, smoothly interpolated.
fn value_noise(x: f32, y: f32, seed: u32) -> f32 {
    let (x0, y0) = (x.floor(), y.floor());
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (smooth(x - x0), smooth(y - y0));
    let (ix, iy) = (x0 as i32, y0 as i32);
    let row = |iy: i32| {
        let (a, b) = (lattice(ix, iy, seed), lattice(ix.wrapping_add(1), iy, seed));
        a + (b - a) * tx
    };
    let (a, b) = (row(iy), row(iy.wrapping_add(1)));
    a + (b - a) * ty
}

/// A hash of an integer point, in 0..1.
fn lattice(x: i32, y: i32, seed: u32) -> f32 {
    let mut h = (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77) ^ seed;
    for multiplier in [0x7FEB_352D, 0x846C_A68B_u32] {
        h = (h ^ (h >> 16)).wrapping_mul(multiplier);
    }
    (h >> 8) as f32 / (1u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stay_in_range_and_use_it() {
        let mut rng = Rng::new(0, "texture test", &[]);
        let mut spread = 0;
        for _ in 0..200 {
            let texture = Texture::random(64, &mut rng);
            let weights: Vec<f32> =
                (0..4096).map(|k| texture.weight((k % 64) as f32 + 0.5, (k / 64) as f32 + 0.5)).collect();
            assert!(weights.iter().all(|w| (0.0..=1.0).contains(w)), "{texture:?}");
            let low = weights.iter().copied().fold(1.0, f32::min);
            let high = weights.iter().copied().fold(0.0, f32::max);
            spread += usize::from(high - low > 0.3);
        }
        assert!(spread > 140, "{spread} of 200 textures vary; one in six is flat");
    }
}
