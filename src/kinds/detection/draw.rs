//! Draws detections: filled and outlined masks, boxes, class names and scores.

use crate::data::Image;
use crate::draw::{Canvas, Color, Drawing, LegendEntry, class_colors, shade};
use crate::metrics::coco::Detection;
use crate::ops;
use crate::task::DrawOptions;
use anyhow::{Result, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// Opacity of masks.
const ALPHA: f32 = 0.4;
/// Background of the words that say that nothing is drawn.
const NOTHING: Color = [90; 3];

/// Draws the detections whose score is at least the threshold, the smallest on top, or says that there are none. Each class
/// has a color, and each object of a class a shade of it. Annotated objects are drawn without scores.
pub(super) fn draw(
    image: &Image,
    detections: &[Detection],
    classes: &[String],
    options: &DrawOptions,
) -> Result<Drawing> {
    let DrawOptions { threshold, truth } = *options;
    let mut canvas = Canvas::new(image).map_err(anyhow::Error::msg)?;
    let mut shown: Vec<&Detection> =
        detections.iter().filter(|detection| truth || detection.score >= threshold).collect();
    shown.sort_by(|a, b| ops::area(b.bbox).total_cmp(&ops::area(a.bbox)));
    let class_colors = class_colors(classes);
    let of_class = |label: u32| class_colors.get(label as usize).copied().flatten().unwrap_or(NOTHING);
    let name = |label: u32| classes.get(label as usize).map_or("?", String::as_str);
    let colors = shades(&shown, &of_class);
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
        let name = name(*label);
        let text = if truth { name.to_string() } else { format!("{name} {score:.2}") };
        canvas.caption(&text, *x1, y1 - line, *color);
    }
    if shown.is_empty() {
        canvas.caption(&nothing(detections, options), 0., 0., NOTHING);
    }
    let labels: BTreeSet<u32> = shown.iter().map(|detection| detection.label).collect();
    let entry = |label: u32| LegendEntry {
        color: Some(of_class(label)),
        name: name(label).to_string(),
        remark: String::new(),
    };
    Ok(Drawing {
        picture: canvas.into_image(),
        title: match truth {
            true => "annotated objects".into(),
            false => format!("detections with a score of at least {threshold:.2}"),
        },
        legend: labels.into_iter().map(entry).collect(),
    })
}

/// Says that nothing is drawn, and how far the best detection is from the threshold.
fn nothing(detections: &[Detection], options: &DrawOptions) -> String {
    let best = detections.iter().map(|detection| detection.score).reduce(f32::max);
    match (options.truth, best) {
        (true, _) => "no objects".into(),
        (false, None) => "no detections".into(),
        (false, Some(best)) => format!("no score of {:.2} (best {best:.2})", options.threshold),
    }
}

/// The color of each detection: the next shade of the color of its class.
fn shades(shown: &[&Detection], of_class: &dyn Fn(u32) -> Color) -> Vec<Color> {
    let mut seen = BTreeMap::new();
    let mut next = |label: u32| {
        let count: &mut usize = seen.entry(label).or_default();
        *count += 1;
        shade(of_class(label), *count - 1)
    };
    shown.iter().map(|detection| next(detection.label)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Rle;
    use crate::draw::color;
    use image::RgbImage;

    /// A sure cat with a mask and an unsure dog, drawn at four times the size.
    fn drawn(threshold: f32, truth: bool) -> Drawing {
        let image = Image::new(120, 160, 3, vec![0; 120 * 160 * 3]);
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
        draw(&image, &[sure, unsure], &names(), &DrawOptions { threshold, truth }).unwrap()
    }

    fn names() -> [String; 2] {
        ["cat".to_string(), "dog".into()]
    }

    fn pixel(picture: &RgbImage, x: u32, y: u32) -> Color {
        picture.get_pixel(4 * x, 4 * y).0
    }

    #[test]
    fn what_is_sure_enough_is_drawn() {
        let sure = drawn(0.5, false);
        let red = color(0);
        assert_eq!(pixel(&sure.picture, 50, 70), red, "box");
        assert_eq!(pixel(&sure.picture, 70, 70), red.map(|v| (f32::from(v) * ALPHA).round() as u8), "mask");
        assert_eq!((pixel(&sure.picture, 0, 60), pixel(&sure.picture, 100, 70)), ([0; 3], [0; 3]));
        assert_eq!(sure.title, "detections with a score of at least 0.50");
        let names = |drawing: &Drawing| drawing.legend.iter().map(|e| e.name.clone()).collect::<Vec<_>>();
        assert_eq!((names(&sure), sure.legend[0].color), (vec!["cat".into()], Some(red)));
        let both = drawn(0.1, false);
        assert_eq!(pixel(&both.picture, 0, 60), color(1), "the unsure box");
        assert_eq!(names(&both), ["cat", "dog"]);
        let truth = drawn(0.5, true);
        assert_eq!(pixel(&truth.picture, 0, 60), color(1), "annotations have no threshold");
        assert_ne!(truth.picture, both.picture, "and their names stand without scores");
        assert_eq!(truth.title, "annotated objects");
    }

    #[test]
    fn a_picture_without_detections_says_so() {
        let none = drawn(0.95, false);
        assert!(none.legend.is_empty());
        assert_eq!(none.picture.get_pixel(0, 0).0, NOTHING);
        let (options, truth) =
            (DrawOptions { threshold: 0.95, truth: false }, DrawOptions { threshold: 0., truth: true });
        let unsure = Detection { label: 0, score: 0.3, bbox: [0.; 4], mask: None, written: None };
        assert_eq!(nothing(&[unsure], &options), "no score of 0.95 (best 0.30)");
        assert_eq!(
            (nothing(&[], &options), nothing(&[], &truth)),
            ("no detections".into(), "no objects".into())
        );
    }

    #[test]
    fn a_mask_of_another_size_is_an_error() {
        let image = Image::new(12, 16, 3, vec![0; 12 * 16 * 3]);
        let mask = Some(Rle::encode(&[1], (1, 1)));
        let wrong = Detection { label: 0, score: 1., bbox: [0.; 4], mask, written: None };
        let options = DrawOptions { threshold: 0.5, truth: false };
        let error = draw(&image, &[wrong], &names(), &options).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }
}
