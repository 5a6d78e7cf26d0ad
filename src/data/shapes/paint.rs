//! Colours for a scene: a cluttered background, textured objects, light and noise.

use super::outline::{Point, clip, squared_distance, unit};
use super::scene::{Figure, Scene};
use super::texture::{Colour, Texture, colour, fractal, mix};
use crate::rng::Rng;
use rand::{Rng as _, RngCore as _};

/// Smallest distance in RGB between the mean colours of an object and of the background.
const CONTRAST: f32 = 0.55;
/// Share of a random colour in the colours of clutter; the rest is the colour of the ground.
const VARIETY: f32 = 0.3;

/// Renders a scene to 8-bit RGB. [H, W, 3]
///
/// The colours drawn from `rng` do not depend on the classes of the scene.
pub(super) fn paint(scene: &Scene, rng: &mut Rng) -> Vec<u8> {
    let size = scene.size;
    let ground = Texture::random(size, rng);
    let mut canvas = Canvas::new(size, &ground);
    canvas.clutter(ground.mean(), rng);
    for figure in &scene.figures {
        let skin = Skin::random(size, ground.mean(), figure.crowd, rng);
        canvas.figure(figure, &skin);
    }
    canvas.develop(rng)
}

/// The colours of an object.
struct Skin {
    texture: Texture,
    /// Width in pixels and colour of the line along the inner edge.
    line: Option<(f64, Colour)>,
}

impl Skin {
    fn random(size: usize, ground: Colour, tiny: bool, rng: &mut Rng) -> Self {
        let mut texture = Texture::random(size, rng);
        while squared_difference(texture.mean(), ground) < CONTRAST * CONTRAST {
            texture = Texture::random(size, rng);
        }
        let width = rng.random_range(0.8..2.0) * size as f64 / 64.0;
        let ink = colour(rng);
        let line = (rng.random_bool(0.5) && !tiny).then_some((width, ink));
        Self { texture, line }
    }
}

struct Canvas {
    size: usize,
    /// [H, W]
    pixels: Vec<Colour>,
}

impl Canvas {
    fn new(size: usize, ground: &Texture) -> Self {
        let pixels = (0..size * size).map(|k| ground.at(centre(k % size), centre(k / size))).collect();
        Self { size, pixels }
    }

    /// Open regions of other textures and long strokes: edges that belong to no object.
    fn clutter(&mut self, ground: Colour, rng: &mut Rng) {
        let size = self.size;
        let side = size as f64;
        for _ in 0..rng.random_range(1..4u32) {
            let texture = Texture::near(ground, VARIETY, size, rng);
            let cell = rng.random_range(14.0..32.0) * size as f32 / 64.0;
            let (seed, level) = (rng.random::<u32>(), rng.random_range(0.5..0.68));
            self.blend(&texture, |x, y| {
                // A level set of smooth noise; its slope is about one per cell.
                (0.5 + (fractal(x / cell, y / cell, seed) - level) * cell).clamp(0.0, 1.0)
            });
        }
        for _ in 0..rng.random_range(0..4u32) {
            let texture = Texture::near(ground, VARIETY, size, rng);
            let at: Point = [rng.random_range(0.0..side), rng.random_range(0.0..side)];
            let (c, s) = unit(rng.random_range(0.0..1.0));
            let reach = rng.random_range(0.2..0.6) * side;
            let edge = [[at[0] - c * reach, at[1] - s * reach], [at[0] + c * reach, at[1] + s * reach]];
            let half = rng.random_range(0.4..1.6) * side / 64.0;
            self.blend(&texture, |x, y| {
                let distance = squared_distance(edge, f64::from(x), f64::from(y)).sqrt();
                (0.5 + half - distance).clamp(0.0, 1.0) as f32
            });
        }
    }

    fn blend(&mut self, texture: &Texture, weight: impl Fn(f32, f32) -> f32) {
        for (k, pixel) in self.pixels.iter_mut().enumerate() {
            let (x, y) = (centre(k % self.size), centre(k / self.size));
            let weight = weight(x, y);
            if weight > 0.0 {
                *pixel = mix(*pixel, texture.at(x, y), weight);
            }
        }
    }

    /// Draws an object; a pixel's coverage follows from its signed distance to the outline.
    fn figure(&mut self, figure: &Figure, skin: &Skin) {
        let size = self.size;
        let mut inside = vec![false; size * size];
        figure.outline.fill(size, |row, first, end| inside[row * size..][first..end].fill(true));
        let ([x0, x1], [y0, y1]) = figure.outline.bounds();
        for row in clip(y0 - 1.0, size)..clip(y1 + 2.0, size) {
            for column in clip(x0 - 1.0, size)..clip(x1 + 2.0, size) {
                let at = row * size + column;
                let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
                let distance = figure.outline.distance(x, y);
                let depth = if inside[at] { distance } else { -distance };
                let coverage = (0.5 + depth).clamp(0.0, 1.0) as f32;
                if coverage > 0.0 {
                    let mut paint = skin.texture.at(x as f32, y as f32);
                    if let Some((width, ink)) = skin.line {
                        paint = mix(paint, ink, (0.5 + width - depth).clamp(0.0, 1.0) as f32);
                    }
                    self.pixels[at] = mix(self.pixels[at], paint, coverage);
                }
            }
        }
    }

    /// Light that falls off across the image, sensor noise, and 8 bits.
    fn develop(self, rng: &mut Rng) -> Vec<u8> {
        let (c, s) = unit(rng.random_range(0.0..1.0));
        let slope = rng.random_range(0.0..0.5) as f32 / self.size as f32;
        let (gx, gy) = (c as f32 * slope, s as f32 * slope);
        let level = rng.random_range(0.75..1.1_f32);
        let noise = rng.random_range(0.0..0.025_f32);
        let half = self.size as f32 / 2.0;
        let mut bytes = Vec::with_capacity(self.pixels.len() * 3);
        for (k, pixel) in self.pixels.iter().enumerate() {
            let (x, y) = (centre(k % self.size), centre(k / self.size));
            let light = level + gx * (x - half) + gy * (y - half);
            for channel in pixel {
                let value = channel * light + noise * bell(rng.next_u64());
                bytes.push((value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
            }
        }
        bytes
    }
}

/// The sum of four uniform numbers, of mean 0 and variance 1: close to normal, without a logarithm.
fn bell(bits: u64) -> f32 {
    let sum: u32 = (0..4).map(|k| (bits >> (16 * k)) as u16 as u32).sum();
    (sum as f32 / 65535.0 - 2.0) * 3.0_f32.sqrt()
}

fn centre(index: usize) -> f32 {
    index as f32 + 0.5
}

fn squared_difference(a: Colour, b: Colour) -> f32 {
    (0..3).map(|k| (a[k] - b[k]) * (a[k] - b[k])).sum()
}

#[cfg(test)]
mod tests {
    use super::super::scene::Request;
    use super::*;

    #[test]
    fn noise_has_mean_zero_and_variance_one() {
        let mut rng = Rng::new(0, "paint test", &[]);
        let values: Vec<f64> = (0..20_000).map(|_| f64::from(bell(rng.next_u64()))).collect();
        let moment = |power| values.iter().map(|v| v.powi(power)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.03 && (moment(2) - 1.0).abs() < 0.03, "{} {}", moment(1), moment(2));
    }

    #[test]
    fn objects_differ_from_the_ground() {
        let mut rng = Rng::new(1, "paint test", &[]);
        for _ in 0..300 {
            let ground = Texture::random(64, &mut rng).mean();
            let skin = Skin::random(64, ground, false, &mut rng);
            assert!(squared_difference(skin.texture.mean(), ground) >= CONTRAST * CONTRAST);
        }
    }

    #[test]
    fn an_object_covers_its_pixels_and_nothing_far_from_it() {
        for index in 0..30 {
            let mut rng = Rng::new(2, "paint test", &[index]);
            let request = Request { main: Some(index as usize % 10), crowd: false };
            let scene = Scene::compose(48, request, &mut rng);
            let figure = &scene.figures[0];
            let flat = Texture::random(48, &mut rng);
            let mut canvas = Canvas::new(48, &flat);
            let before = canvas.pixels.clone();
            let ink = [2.0; 3]; // brighter than any texture
            canvas.figure(figure, &Skin { texture: flat, line: Some((100.0, ink)) });
            for (k, (was, is)) in before.iter().zip(&canvas.pixels).enumerate() {
                let (x, y) = (f64::from(centre(k % 48)), f64::from(centre(k / 48)));
                if figure.outline.distance(x, y) > 0.5 {
                    assert!(
                        is == was || is.iter().all(|v| (v - 2.0).abs() < 1e-5),
                        "scene {index}, pixel {k}"
                    );
                }
            }
            assert!(canvas.pixels.iter().filter(|p| p[0] > 1.9).count() > 8, "scene {index}");
        }
    }
}
