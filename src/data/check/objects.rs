//! What is odd about the boxes and outlines of a split: values that a reader must accept and nobody means.

use super::super::{Annotation, Entry, Object, Objects, Segmentation, Xyxy, xyxy};
use std::collections::BTreeSet;

/// Pixels by which a box may reach beyond its image, or differ from its outline, because of rounding and of other conventions.
const ROUNDING: f64 = 2.;
/// Share of the larger side by which a box may differ from its outline in addition.
const SHARE: f64 = 0.1;

/// The objects of a split.
#[derive(Debug, Default)]
pub(super) struct ObjectReport {
    /// Number of objects.
    pub objects: usize,
    /// Number of classes that have objects. A class without objects is not a problem: many splits lack the rare ones.
    pub classes: usize,
    /// What looks odd.
    pub notes: Vec<String>,
    /// What cannot be meant.
    pub problems: Vec<String>,
}

/// Objects of one kind: their number, and the first.
#[derive(Default)]
struct Odd {
    count: usize,
    first: String,
}

impl Odd {
    fn add(&mut self, entry: &Entry, object: &Object) {
        self.count += 1;
        if self.first.is_empty() {
            self.first = format!("`{}`, box {:?}", entry.id, object.bbox);
        }
    }

    fn of(&self, all: usize, what: &str) -> Option<String> {
        let Self { count, first } = self;
        (*count > 0).then(|| format!("{what}: {count} of {all}; the first: {first}"))
    }
}

impl ObjectReport {
    /// Counts the objects of `entries`, and those that are odd.
    pub(super) fn of(entries: &[Entry]) -> Self {
        let mut report = Self::default();
        let mut classes = BTreeSet::new();
        let [mut outside, mut beyond, mut other, mut corners, mut crowds, mut outlines, mut small] =
            <[Odd; 7]>::default();
        let mut described = false;
        for entry in entries {
            let Annotation::Objects(image) = &entry.annotation else { continue };
            described = true;
            for object in &image.objects {
                report.objects += 1;
                classes.insert(object.label);
                let place = reach(image, object);
                match place {
                    Reach::Outside => outside.add(entry, object),
                    Reach::Beyond => beyond.add(entry, object),
                    Reach::Inside => {}
                }
                if let Some(bounds) = outline_bounds(object)
                    && !similar(xyxy(object.bbox), bounds)
                {
                    other.add(entry, object);
                    if similar(object.bbox, bounds) {
                        corners.add(entry, object);
                    }
                }
                if object.crowd {
                    crowds.add(entry, object);
                }
                if let Segmentation::Flawed(flaw) = &object.segmentation {
                    outlines.add(entry, object);
                    report
                        .problems
                        .push(format!("`{}`, outline of the box {:?}: {flaw}", entry.id, object.bbox));
                }
                if xyxy(object.bbox).iter().all(|v| (-0.01..=1.01).contains(v)) {
                    small.add(entry, object);
                }
            }
        }
        report.classes = classes.len();
        let all = report.objects;
        if described && crowds.count == all {
            report.problems.push(match all {
                0 => "there is no object: nothing to learn and nothing to score".into(),
                _ => {
                    format!("every object is a crowd (`iscrowd`), all {all} of them: nothing to learn and nothing to score")
                }
            });
        }
        if all > 0 && small.count == all {
            report.problems.push(format!(
                "boxes lie between 0 and 1, all {all} of them: coordinates must be in pixels, not in shares of the image"
            ));
        }
        let hint = if corners.count == other.count { " and fit as corners (x1, y1, x2, y2)" } else { "" };
        let contradict = format!("boxes (x, y, width, height) contradict their outlines{hint}");
        report.problems.extend(outside.of(all, "boxes lie outside of their images"));
        report.problems.extend(other.of(all, &contradict));
        report.notes.extend(beyond.of(all, "boxes reach beyond their images"));
        report
    }
}

/// Where a box lies.
enum Reach {
    Inside,
    Beyond,
    Outside,
}

fn reach(image: &Objects, object: &Object) -> Reach {
    let (height, width) = (image.size.0 as f64, image.size.1 as f64);
    let [x1, y1, x2, y2] = xyxy(object.bbox);
    if x1 >= width || y1 >= height || x2 <= 0. || y2 <= 0. {
        return Reach::Outside;
    }
    let beyond = x1 < -ROUNDING || y1 < -ROUNDING || x2 > width + ROUNDING || y2 > height + ROUNDING;
    if beyond { Reach::Beyond } else { Reach::Inside }
}

/// The box around the outline of an object.
fn outline_bounds(object: &Object) -> Option<Xyxy<f64>> {
    match &object.segmentation {
        Segmentation::Polygons(rings) => {
            let mut bounds = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
            for [x, y] in rings.iter().flat_map(|ring| ring.as_chunks::<2>().0) {
                bounds = [bounds[0].min(*x), bounds[1].min(*y), bounds[2].max(*x), bounds[3].max(*y)];
            }
            Some(bounds)
        }
        Segmentation::Rle(rle) if rle.area() > 0 => Some(xyxy(rle.bbox())),
        _ => None,
    }
}

/// Whether two boxes of corners are one up to rounding and conventions.
fn similar(a: Xyxy<f64>, b: Xyxy<f64>) -> bool {
    let side = |[x1, y1, x2, y2]: Xyxy<f64>| (x2 - x1).max(y2 - y1);
    let allowed = ROUNDING + SHARE * side(a).max(side(b));
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ImageRef, Rle, SampleId, Xywh};
    use std::sync::Arc;

    const SIZE: (usize, usize) = (48, 64);

    fn ring([x, y, w, h]: Xywh) -> Segmentation {
        Segmentation::Polygons(vec![vec![x, y, x + w, y, x + w, y + h, x, y + h]])
    }

    fn report(objects: &[(Xywh, Segmentation, bool)]) -> ObjectReport {
        let entry = |(bbox, segmentation, crowd): &(Xywh, Segmentation, bool)| {
            let object =
                Object { label: 0, bbox: *bbox, segmentation: segmentation.clone(), crowd: *crowd, area: 1. };
            let (objects, absent, not_exhaustive) = (vec![object], vec![], vec![]);
            let image = Objects { image_id: 1.into(), size: SIZE, objects, absent, not_exhaustive };
            let annotation = Annotation::Objects(Arc::new(image));
            Entry { id: SampleId::new("a.jpg"), image: ImageRef::File("a.jpg".into()), annotation }
        };
        ObjectReport::of(&objects.iter().map(entry).collect::<Vec<_>>())
    }

    const GOOD: Xywh = [10., 10., 30., 20.];

    #[test]
    fn boxes_that_nobody_means_are_told() {
        let of = |bbox: Xywh| report(&[(bbox, ring(bbox), false), (GOOD, ring(GOOD), false)]);
        assert!(of(GOOD).problems.is_empty() && of(GOOD).notes.is_empty());
        let off_by_one = [10., 10., 31., 21.];
        assert!(report(&[(off_by_one, ring(GOOD), false)]).problems.is_empty());
        let beyond = of([-5., -3., 30., 20.]);
        assert!(beyond.problems.is_empty());
        assert!(beyond.notes[0].starts_with("boxes reach beyond their images: 1 of 2; the first: `a.jpg`"));
        let outside = of([100., 100., 30., 20.]);
        assert!(outside.problems[0].starts_with("boxes lie outside of their images: 1 of 2"), "{outside:?}");
        let corners = [10., 10., 40., 30.];
        let found = report(&[(corners, ring(GOOD), false)]);
        assert!(
            found.problems[0]
                .contains("contradict their outlines and fit as corners (x1, y1, x2, y2): 1 of 1")
        );
        let runs = Rle::encode_at(&[1; 20 * 30], (20, 30), (10, 10), SIZE);
        let found = report(&[([1., 1., 5., 5.], Segmentation::Rle(runs), false)]);
        assert!(found.problems[0].contains("contradict their outlines: 1 of 1; the first"), "{found:?}");
        let share = [0.2, 0.2, 0.5, 0.4];
        let found = report(&[(share, ring(share), false)]);
        assert!(found.problems[0].contains("boxes lie between 0 and 1"), "{found:?}");
        let found = report(&[(GOOD, Segmentation::Flawed("is odd".into()), false)]);
        assert!(
            found.problems[0].contains("`a.jpg`, outline of the box")
                && found.problems[0].ends_with("is odd")
        );
    }

    #[test]
    fn a_split_without_objects_to_learn_is_told() {
        let found = report(&[(GOOD, ring(GOOD), true)]);
        assert!(found.problems[0].contains("every object is a crowd"), "{found:?}");
        assert!(report(&[(GOOD, ring(GOOD), true), (GOOD, ring(GOOD), false)]).problems.is_empty());
        assert!(report(&[]).problems.is_empty(), "without boxes in its annotations");
    }
}
