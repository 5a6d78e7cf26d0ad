//! The target of detection, and how it changes with its image.
//!
//! The annotation keeps the coordinates of the source image; augmentation changes only an affine map and the visible part
//! of the image. Boxes are computed from transformed outlines and clipped to the visible part, as detectron2 does with
//! `recompute_boxes`; for an object with only a box, the box itself is transformed. Invisible objects are removed.

use super::mask;
use super::visible::{Point, Visible, rectangle};
use crate::data::{Annotation, Entry, Geometric, Geometry, Object, Objects, Segmentation, Size, Xyxy, xyxy};
use anyhow::{Result, bail, ensure};
use std::sync::Arc;

/// Boxes with a side shorter than this, in pixels, are empty (detectron2 `filter_empty_instances`).
const EMPTY: f64 = 1e-5;

/// One object in the pixels of the (augmented) input.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Class index.
    pub label: u32,
    /// Box (x1, y1, x2, y2) of its visible part.
    pub bbox: Xyxy<f32>,
    /// Whether it is a region of many objects, which is not used in training.
    pub crowd: bool,
    /// Its index among the objects of the source.
    object: usize,
}

/// The objects of an image, which are transformed exactly when the image is augmented.
#[derive(Clone, Debug)]
pub struct DetectionTarget {
    image: Arc<Objects>,
    /// Source image to input.
    geometry: Geometry,
    visible: Visible,
    instances: Vec<Instance>,
}

impl DetectionTarget {
    /// The target of an entry of a data set with `classes` classes.
    ///
    /// # Errors
    /// An annotation without objects, or a label that is out of range.
    pub fn new(entry: &Entry, classes: usize) -> Result<Self> {
        let Annotation::Objects(image) = &entry.annotation else {
            bail!("`{}` has no objects, which detection needs", entry.id)
        };
        for object in &image.objects {
            let label = object.label;
            ensure!(
                (label as usize) < classes,
                "label {label} of `{}` is out of range for {classes} classes",
                entry.id
            );
        }
        let instance = |(object, source): (usize, &Object)| Instance {
            label: source.label,
            bbox: [0.; 4],
            crowd: source.crowd,
            object,
        };
        let mut target = Self {
            image: image.clone(),
            geometry: Geometry::identity(image.size),
            visible: Visible::of(image.size),
            instances: image.objects.iter().enumerate().map(instance).collect(),
        };
        target.bound();
        Ok(target)
    }

    /// Visible objects in input pixels, including crowds, which training skips.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The mask of instance `i` in the box `bbox` (input pixels), as a grid of 0 and 1, `[side, side]` row-major. `None` if
    /// only a box is annotated, or the outline has no area.
    ///
    /// As in detectron2's `crop_and_resize`, polygons are rasterized in the box, and bitmaps are averaged from the source
    /// pixels as RoIAlign does, and rounded. A non-finite box gives an empty mask.
    pub fn mask_in(&self, i: usize, bbox: Xyxy<f32>, side: usize) -> Option<Vec<f32>> {
        let object = &self.image.objects[self.instances[i].object];
        let within = mask::Within { geometry: &self.geometry, bbox: bbox.map(f64::from), side };
        if !bbox.iter().all(|v| v.is_finite()) {
            return object.has_mask().then(|| vec![0.; side * side]);
        }
        let mut mask = match &object.segmentation {
            Segmentation::None | Segmentation::Degenerate | Segmentation::Flawed(_) => return None,
            Segmentation::Polygons(rings) => within.polygons(rings),
            Segmentation::Rle(rle) => within.bitmap(rle),
        };
        if !self.visible.shows(within.bbox) {
            let shown = within.shown(&self.visible);
            mask.iter_mut().zip(shown).for_each(|(value, shown)| *value *= shown);
        }
        Some(mask)
    }

    /// The annotation in source pixels, for evaluation.
    pub fn source(&self) -> &[Object] {
        &self.image.objects
    }

    /// The whole annotation of the image.
    pub fn image(&self) -> &Objects {
        &self.image
    }

    /// Computes the boxes of visible objects and removes the others.
    fn bound(&mut self) {
        let Self { image, geometry, visible, instances } = self;
        instances.retain_mut(|instance| {
            let bounds = bounds(&image.objects[instance.object], image.size, geometry, visible);
            let Some([x1, y1, x2, y2]) = bounds else { return false };
            instance.bbox = [x1, y1, x2, y2].map(|v| v as f32);
            x2 - x1 > EMPTY && y2 - y1 > EMPTY
        });
    }
}

impl Geometric for DetectionTarget {
    fn apply(&mut self, geometry: &Geometry) {
        self.geometry = self.geometry.then(geometry);
        self.visible = self.visible.moved(geometry);
        self.bound();
    }

    fn fits(&self, decoded: Size) -> Result<(), String> {
        self.image.fits(decoded)
    }
}

/// Bounds of the visible part of an object, in input pixels.
fn bounds(object: &Object, size: Size, geometry: &Geometry, visible: &Visible) -> Option<Xyxy<f64>> {
    let mut bounds = None;
    let mut add = |ring: &[Point]| {
        let moved: Vec<Point> = ring.iter().map(|[x, y]| geometry.point(*x, *y).into()).collect();
        visible.bound(&moved, &mut bounds);
    };
    match &object.segmentation {
        Segmentation::None | Segmentation::Degenerate | Segmentation::Flawed(_) => {
            add(&rectangle(xyxy(object.bbox)));
        }
        Segmentation::Polygons(rings) => rings.iter().for_each(|ring| add(ring.as_chunks::<2>().0)),
        Segmentation::Rle(rle) => {
            for (start, end) in rle.runs() {
                column_rectangles(start, end, size.0).for_each(|b| add(&rectangle(b)));
            }
        }
    }
    bounds
}

/// Splits a run of a column-major bitmap of this height into at most three rectangles: the rest of its first column, whole
/// columns, and the start of its last column.
fn column_rectangles(start: usize, end: usize, height: usize) -> impl Iterator<Item = Xyxy<f64>> {
    let (first, last) = (start / height, (end - 1) / height);
    let (top, bottom) = (start % height, (end - 1) % height + 1);
    let rectangles = match last - first {
        0 => [Some((first, first + 1, top, bottom)), None, None],
        _ => [
            Some((first, first + 1, top, height)),
            (last - first > 1).then_some((first + 1, last, 0, height)),
            Some((last, last + 1, 0, bottom)),
        ],
    };
    let bounds = |(x1, x2, y1, y2)| [x1, y1, x2, y2].map(|v: usize| v as f64);
    rectangles.into_iter().flatten().map(bounds)
}

#[cfg(test)]
mod tests;
