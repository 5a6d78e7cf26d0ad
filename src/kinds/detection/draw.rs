//! Draws detections: filled and outlined masks, boxes, class names and scores.

use crate::data::Image;
use crate::draw::{Canvas, Color, color, shade};
use crate::metrics::coco::Detection;
use crate::ops;
use crate::task::DrawOptions;
use anyhow::{Result, ensure};
use image::RgbImage;
use std::collections::BTreeMap;

/// Opacity of masks.
const ALPHA: f32 = 0.4;

/// Draws the detections whose score is at least the threshold, the smallest on top. Each class has a color, and each object
/// of a class a shade of it.
pub(super) fn draw(
    image: &Image,
    detections: &[Detection],
    classes: &[String],
    options: &DrawOptions,
) -> Result<RgbImage> {
    let mut canvas = Canvas::new(image).map_err(anyhow::Error::msg)?;
    let mut shown: Vec<&Detection> = detections.iter().filter(|d| d.score >= options.threshold).collect();
    shown.sort_by(|a, b| ops::area(b.bbox).total_cmp(&ops::area(a.bbox)));
    let colors = colors(&shown);
    for (Detection { mask, .. }, color) in shown.iter().zip(&colors) {
        let Some(mask) = mask else { continue };
        let (found, size) = (mask.size(), image.size());
        ensure!(found == size, "a mask of {found:?} pixels does not fit the image of {size:?}");
        let pixels = mask.decode();
        canvas.fill(&pixels, *color, ALPHA);
        canvas.outline(&pixels, *color);
    }
    for (Detection { bbox, .. }, color) in shown.iter().zip(&colors) {
        canvas.rectangle(*bbox, *color);
    }
    let line = canvas.text_height();
    for (Detection { label, score, bbox: [x1, y1, ..], .. }, color) in shown.iter().zip(&colors) {
        let name = classes.get(*label as usize).map_or("?", String::as_str);
        canvas.caption(&format!("{name} {score:.2}"), *x1, y1 - line, *color);
    }
    Ok(canvas.into_image())
}

/// The color of each detection: the next shade of the color of its class.
fn colors(shown: &[&Detection]) -> Vec<Color> {
    let mut seen = BTreeMap::new();
    let mut next = |label: u32| {
        let count: &mut usize = seen.entry(label).or_default();
        *count += 1;
        shade(color(label as usize), *count - 1)
    };
    shown.iter().map(|detection| next(detection.label)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Rle;

    #[test]
    fn what_is_sure_enough_is_drawn() {
        let image = Image::new(120, 160, 3, vec![0; 120 * 160 * 3]); // drawn at three times its size
        let mut inside = vec![0; 120 * 160];
        (60..80).for_each(|y| inside[y * 160 + 50..y * 160 + 90].fill(1));
        let sure = Detection {
            label: 0,
            score: 0.9,
            bbox: [50., 60., 90., 80.],
            mask: Some(Rle::encode(&inside, (120, 160))),
            written: None,
        };
        let unsure =
            Detection { label: 1, score: 0.2, bbox: [0., 0., 160., 120.], mask: None, written: None };
        let names = ["cat".to_string(), "dog".into()];
        let drawn = |threshold| {
            draw(&image, &[sure.clone(), unsure.clone()], &names, &DrawOptions { threshold }).unwrap()
        };
        let pixel = |threshold, x: u32, y: u32| drawn(threshold).get_pixel(3 * x, 3 * y).0;
        let red = color(0);
        assert_eq!(pixel(0.5, 50, 70), red, "box");
        assert_eq!(pixel(0.5, 70, 70), red.map(|v| (f32::from(v) * ALPHA).round() as u8), "mask");
        assert_eq!((pixel(0.5, 0, 60), pixel(0.5, 100, 70)), ([0; 3], [0; 3]));
        assert_eq!(pixel(0.1, 0, 60), color(1), "the unsure box");
        let wrong = Detection { mask: Some(Rle::encode(&[1], (1, 1))), ..sure.clone() };
        let error = draw(&image, &[wrong], &names, &DrawOptions { threshold: 0.5 }).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }
}
