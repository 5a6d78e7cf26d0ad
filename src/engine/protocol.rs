//! Checks of an evaluation protocol before a run: its operations are applied to blank images of the sizes of the data.

use crate::components::Components;
use crate::config::{ModelConfig, Operation};
use crate::data::augment::{Pipeline, PrepareSample};
use crate::data::{Entry, Image, ImageRef, Sample, SampleId, Size, SourceTransform};
use crate::rng::Rng;
use crate::task::Task;
use anyhow::{Result, bail};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Number of images of which the header is read, spread over the split, and of sizes that are tried.
const HEADERS: usize = 4096;
const SIZES: usize = 12;
/// (height, width) of images that are tried if the data are not at hand.
const USUAL: [Size; 3] = [(480, 640), (640, 480), (300, 900)];
/// (height, width) of an image of noise, and number of random streams with which an operation is tried on it.
const NOISE: Size = (60, 90);
const STREAMS: u64 = 8;
/// Pixels at a border of the model's input by which rounding may cut an image.
const ROUNDING: f64 = 1.;

/// Checks that `protocol`, the `[[eval]]` of a manifest, prepares images for `model` as `task` needs them: without random
/// numbers, ending with the size of the model's input (unless the task takes any size), and with the whole of each image if
/// the task predicts what is anywhere in it. It is tried on the sizes of `entries` or, if there are none, on usual ones,
/// which says nothing about the final size.
///
/// # Errors
/// Everything that is wrong, and an example of a protocol that works; operations with invalid options.
pub fn check_protocol<T: Task>(
    task: &T,
    protocol: &[Operation],
    components: &Components,
    model: &ModelConfig,
    entries: &[Entry],
) -> Result<()> {
    let trial = Trial { protocol, components, model };
    trial.pipeline(protocol.len())?;
    let mut flaws = vec![];
    for operation in trial.random() {
        flaws.push(format!(
            "`{}` draws random numbers, so that scores would differ from one evaluation to the next",
            operation.name
        ));
    }
    let sizes = if entries.is_empty() { USUAL.to_vec() } else { sizes_of(entries) };
    let found: Vec<(Size, Result<SourceTransform, String>)> =
        sizes.into_par_iter().map(|size| (size, trial.shown(size, protocol.len()))).collect();
    let [height, width] = model.image;
    let sized = |(size, shown): &(Size, Result<SourceTransform, String>)| match shown {
        Err(why) => Some(format!("an image of {} {why}", pixels(*size))),
        Ok(shown) if shown.geometry.to != (height, width) && !task.any_size() && !entries.is_empty() => {
            let (from, to) = (pixels(*size), pixels(shown.geometry.to));
            let end = match protocol.last() {
                None => format!("there are no operations: an image of {from} stays as it is"),
                Some(last) => format!("an image of {from} has {to} after `{}`", last.name),
            };
            Some(format!("{end}, but the model takes {height}x{width}"))
        }
        Ok(_) => None,
    };
    flaws.extend(found.iter().find_map(sized));
    let cut = |(size, shown): &(Size, Result<SourceTransform, String>)| {
        let shown = shown.as_ref().ok().filter(|shown| !is_whole(shown))?;
        Some((*size, trial.cutting(*size), share(shown)))
    };
    if let Some((size, operation, share)) = found.iter().filter(|_| task.needs_whole_images()).find_map(cut) {
        flaws.push(format!(
            "`{operation}` shows the model {share:.0} % of an image of {}: what lies outside cannot be predicted, and \
             counts as missed",
            pixels(size)
        ));
    }
    match flaws.is_empty() {
        true => Ok(()),
        false => bail!(
            "`[[eval]]`: this protocol cannot work:\n  {}\nfor tasks of kind `{}` for example: {}",
            flaws.join("\n  "),
            T::KIND,
            task.usual_protocol()
        ),
    }
}

/// The protocol, applied to images without content.
#[derive(Clone, Copy)]
struct Trial<'a> {
    protocol: &'a [Operation],
    components: &'a Components,
    model: &'a ModelConfig,
}

impl Trial<'_> {
    /// The first `count` operations.
    fn pipeline(&self, count: usize) -> Result<Pipeline> {
        let (augmentations, model) = (&self.components.augmentations, self.model);
        let normalize = model.normalize();
        let operations = &self.protocol[..count];
        let pipeline =
            Pipeline::new(augmentations, operations, None, &normalize, model.image, model.channels)?;
        Ok(pipeline.of_any_size())
    }

    /// The operations whose result depends on random numbers.
    fn random(&self) -> Vec<&Operation> {
        let (height, width) = NOISE;
        let noise = |channels: usize| {
            let bytes = (0..height * width * channels).map(|k| (k.wrapping_mul(2_654_435_761) >> 11) as u8);
            Image::new(height, width, channels, bytes.collect())
        };
        let alone = |operation: &&Operation| {
            let trial = Trial { protocol: std::slice::from_ref(*operation), ..*self };
            let Ok(pipeline) = trial.pipeline(1) else { return false };
            let result = |stream: u64| {
                let sample = Sample::new(SampleId::new("noise"), noise(self.model.channels), ());
                let prepared = pipeline.prepare(sample, &mut Rng::new(0, "protocol", &[stream]));
                prepared.ok().map(|prepared| (prepared.pixels, prepared.source_transform))
            };
            let first = result(0);
            (1..STREAMS).any(|stream| result(stream) != first)
        };
        let may = |operation: &&Operation| self.components.augmentations.is_random(operation);
        self.protocol.iter().filter(may).filter(alone).collect()
    }

    /// Where an image of this size is after the first `count` operations.
    fn shown(&self, (height, width): Size, count: usize) -> Result<SourceTransform, String> {
        let channels = self.model.channels;
        let blank = Image::new(height, width, channels, vec![128; height * width * channels]);
        let sample = Sample::new(SampleId::new("blank"), blank, ());
        let pipeline = self.pipeline(count).map_err(|e| e.to_string())?;
        let prepared = pipeline.prepare(sample, &mut Rng::new(0, "protocol", &[]))?;
        Ok(prepared.source_transform)
    }

    /// The name of the first operation after which a part of the image is outside.
    fn cutting(&self, size: Size) -> &str {
        let cuts = |count: &usize| self.shown(size, *count).is_ok_and(|shown| !is_whole(&shown));
        let count = (1..=self.protocol.len()).find(cuts).unwrap_or(self.protocol.len());
        self.protocol.get(count.saturating_sub(1)).map_or("", |operation| &operation.name)
    }
}

/// Whether the whole image is inside of the input, but for rounding.
fn is_whole(shown: &SourceTransform) -> bool {
    let (height, width) = (shown.source.0 as f64, shown.source.1 as f64);
    let [left, top, right, bottom] = shown.geometry.bounds([0., 0., width, height]);
    let (h, w) = (shown.geometry.to.0 as f64, shown.geometry.to.1 as f64);
    left >= -ROUNDING && top >= -ROUNDING && right <= w + ROUNDING && bottom <= h + ROUNDING
}

/// How much of the image is inside of the input, in percent.
fn share(shown: &SourceTransform) -> f64 {
    let (height, width) = (shown.source.0 as f64, shown.source.1 as f64);
    let area = |[left, top, right, bottom]: [f64; 4]| (right - left) * (bottom - top);
    100. * area(shown.shown()) / area(shown.geometry.bounds([0., 0., width, height]))
}

/// Sizes of the images of a split by the headers of their files, at most [`SIZES`], from tall to wide.
fn sizes_of(entries: &[Entry]) -> Vec<Size> {
    let step = entries.len().div_ceil(HEADERS);
    let some: Vec<&ImageRef> = entries.iter().step_by(step).map(|entry| &entry.image).collect();
    let sizes: BTreeSet<Size> =
        some.par_iter().filter_map(|image| image.size().ok()).collect::<Vec<_>>().into_iter().collect();
    let mut sizes = Vec::from_iter(sizes);
    sizes.sort_by(|a, b| (a.1 * b.0).cmp(&(b.1 * a.0)));
    let last = sizes.len().saturating_sub(1);
    if sizes.len() <= SIZES {
        return sizes;
    }
    (0..SIZES).map(|k| sizes[k * last / (SIZES - 1)]).collect()
}

fn pixels((height, width): Size) -> String {
    format!("{height}x{width} pixels")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Annotation, Geometry};

    fn entry(height: usize, width: usize) -> Entry {
        let image = Image::new(height, width, 1, vec![0; height * width]);
        Entry { id: SampleId::new("x"), image: ImageRef::Memory(image.into()), annotation: Annotation::None }
    }

    #[test]
    fn sizes_are_spread_from_tall_to_wide() {
        let few: Vec<Entry> = [(10, 40), (40, 10), (20, 20), (10, 40)].map(|(h, w)| entry(h, w)).into();
        assert_eq!(sizes_of(&few), [(40, 10), (20, 20), (10, 40)]);
        let many: Vec<Entry> = (1..100).map(|k| entry(100, k)).collect();
        let sizes = sizes_of(&many);
        assert_eq!((sizes.len(), sizes[0], sizes[SIZES - 1]), (SIZES, (100, 1), (100, 99)));
    }

    #[test]
    fn rounding_is_no_cut() {
        let of = |geometry| SourceTransform { source: (100, 200), geometry };
        let whole = of(Geometry::crop_resize((100, 200), 0., 0., 100., 200., (50, 100)));
        assert!(is_whole(&whole) && (share(&whole) - 100.).abs() < 1e-9);
        assert!(is_whole(&of(Geometry::crop_resize((100, 200), 0., 0., 99.5, 199.5, (50, 100)))));
        let half = of(Geometry::crop_resize((100, 200), 0., 50., 100., 100., (100, 100)));
        assert!(!is_whole(&half) && (share(&half) - 50.).abs() < 1e-9);
    }
}
