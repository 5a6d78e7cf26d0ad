//! [`AnnotationRecord`]: one entry of `annotations`, and the object that it describes.

use super::super::super::json::{NumberList, RecordId, Scalar};
use super::super::super::{Object, Segmentation, Size, Xywh};
use super::classes::Classes;
use super::counts::Counts;
use super::images::Images;
use super::outline::{Outline, ReadOutline};
use serde::Deserialize;

/// An entry of `annotations` as it is written.
#[derive(Deserialize)]
pub(super) struct AnnotationRecord {
    #[serde(default)]
    id: Scalar,
    #[serde(default)]
    image_id: Scalar,
    #[serde(default)]
    category_id: Scalar,
    #[serde(default)]
    bbox: NumberList,
    #[serde(default)]
    segmentation: Outline,
    #[serde(default)]
    area: Scalar,
    #[serde(default)]
    iscrowd: Scalar,
}

/// The object of a record.
pub(super) struct Found {
    /// Its id, if the file gives one; ids only tell repetitions.
    pub id: Option<RecordId>,
    /// Place of its image.
    pub image: usize,
    /// The object.
    pub object: Object,
}

impl AnnotationRecord {
    /// The object of the record at `place` of `annotations`; what is left out is added to `counts`.
    ///
    /// # Errors
    /// What is wrong, with the ids of annotation and image.
    pub(super) fn object(
        self,
        place: usize,
        images: &Images,
        classes: &Classes,
        counts: &mut Counts,
        allowed_degenerate: usize,
    ) -> Result<Found, String> {
        let of = |id: &Option<RecordId>| match id {
            Some(id) => format!("annotation {id}"),
            None => format!("annotations[{place}]"),
        };
        let id = self.id.id().map_err(|flaw| format!("{}: `id` {flaw}", of(&None)))?;
        let name = of(&id);
        let image = self.image_id.id().map_err(|flaw| format!("{name}: `image_id` {flaw}"))?;
        let image = image.ok_or_else(|| format!("{name}: there is no `image_id`"))?;
        let Some(at) = images.place_of.get(&image) else {
            return Err(format!("{name} is of image {image}, which is not in `images`"));
        };
        let category = self.category_id.id().map_err(|flaw| format!("{name}: `category_id` {flaw}"))?;
        let category = category.ok_or_else(|| format!("{name}: there is no `category_id`"))?;
        let Some(label) = classes.label_of.get(&category) else {
            return Err(format!("{name} is of category {category}, which is not in `categories`"));
        };
        let name = format!("{name} (image {image})");
        let (size, allowed) = (images.found[*at].1.size, allowed_degenerate);
        let object =
            self.described(*label, size, &name, counts, allowed).map_err(|flaw| format!("{name}: {flaw}"))?;
        Ok(Found { id, image: *at, object })
    }

    fn described(
        self,
        label: u32,
        size: Size,
        name: &str,
        counts: &mut Counts,
        allowed: usize,
    ) -> Result<Object, String> {
        // The size of an image with a flaw is not known, so its outlines cannot be judged.
        let outline = if size == (0, 0) { Outline::None } else { self.segmentation };
        let ReadOutline { mut segmentation, dropped, degenerate } = outline.segmentation(size);
        let bbox = match (self.bbox.numbers().map_err(|flaw| format!("`bbox` {flaw}"))?, &segmentation) {
            (Some(bbox), _) => to_box(&bbox)?,
            (None, Segmentation::Polygons(rings)) => around(rings),
            (None, Segmentation::Rle(rle)) => rle.bbox(),
            (None, Segmentation::Flawed(flaw)) => {
                return Err(format!("has no `bbox`, and its outline cannot be drawn: {flaw}"));
            }
            (None, Segmentation::None | Segmentation::Degenerate) => {
                return Err("has neither `bbox` nor `segmentation`".into());
            }
        };
        let [_, _, w, h] = bbox;
        let flat = w == 0. || h == 0.;
        if flat && counts.degenerate.0 >= allowed {
            return Err(format!(
                "bbox {bbox:?} has no area; remove such annotations, or allow their number by `allowed_degenerate` in the \
                 table `annotations` of the split (it is {allowed})"
            ));
        }
        // Tasks without masks do not look at outlines, so one without area is no error before a task asks for it.
        let known = degenerate && counts.degenerate.0 < allowed;
        if flat || known {
            Counts::count(&mut counts.degenerate, || name.to_string());
        }
        if degenerate && (flat || known) {
            segmentation = Segmentation::Degenerate;
        }
        if let Segmentation::Flawed(flaw) = &segmentation {
            counts.flawed.push(format!("{name}: {flaw}"));
        }
        for _ in 0..dropped {
            Counts::count(&mut counts.rings, || name.to_string());
        }
        let crowd = self.iscrowd.flag().map_err(|flaw| format!("`iscrowd` {flaw}"))?;
        let mut object = Object { label, bbox, segmentation, crowd, area: w * h };
        object.area = match self.area.number().map_err(|flaw| format!("`area` {flaw}"))? {
            Some(area) if area >= 0. => area,
            Some(area) => return Err(format!("`area` is {area}, expected at least 0")),
            None => object.mask(size)?.map_or(w * h, |mask| mask.area() as f64),
        };
        Ok(object)
    }
}

/// The four numbers of a box: x, y, width, height.
pub(crate) fn to_box(numbers: &[f64]) -> Result<Xywh, String> {
    let Ok(bbox) = <Xywh>::try_from(numbers) else {
        return Err(format!("`bbox` has {} numbers, expected x, y, width and height", numbers.len()));
    };
    if bbox.iter().any(|v| !v.is_finite()) || bbox[2] < 0. || bbox[3] < 0. {
        return Err(format!("bbox {bbox:?} is not a box (x, y, width, height)"));
    }
    Ok(bbox)
}

/// The box around all rings: x, y, width, height.
fn around(rings: &[Vec<f64>]) -> Xywh {
    let along = |axis: usize| {
        let values = rings.iter().flat_map(|ring| ring.iter().skip(axis).step_by(2));
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)))
    };
    let ((x1, x2), (y1, y2)) = (along(0), along(1));
    [x1, y1, x2 - x1, y2 - y1]
}
