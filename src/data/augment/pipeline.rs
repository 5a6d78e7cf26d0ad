//! [`Pipeline`]: the operations of a recipe or an evaluation protocol, followed by normalisation and random erasing.

use super::super::{Geometric, Image, PreparedSample, Sample, Size};
use super::erase;
use super::error::AugmentError;
use super::input::ModelInput;
use super::registry::Augmentations;
use super::transform::{SampleMut, Transform};
use crate::config::{Erase, Normalize, Operation, View};
use crate::rng::Rng;
use std::sync::Arc;

/// Prepares a decoded sample for the model; called by the workers of the loader.
pub trait PrepareSample<T>: Send + Sync {
    /// Turns `sample` into normalised pixels. `rng` belongs to this sample in this epoch.
    ///
    /// # Errors
    /// The problem with the image; the loader adds its id.
    fn prepare(&self, sample: Sample<T>, rng: &mut Rng) -> Result<PreparedSample<T>, String>;
}

/// Operations, normalisation and random erasing, in this order: decoded samples in, normalised pixels out.
#[derive(Clone)]
pub struct Pipeline {
    steps: Vec<Arc<dyn Transform>>,
    /// Names of the steps, as in a recipe.
    names: Vec<String>,
    erase: Option<Erase>,
    /// For each channel, the normalised value of every byte.
    tables: Vec<[f32; 256]>,
    /// The (height, width) that images must have after the last step; any when `None`.
    input: Option<Size>,
}

impl Pipeline {
    /// Builds the pipeline of `operations`, which are registered in `augmentations`. `input` is the model's [height,
    /// width], the default size of operations; `channels` is 1 or 3.
    ///
    /// # Errors
    /// An invalid operation or value; the error names it.
    pub fn new(
        augmentations: &Augmentations,
        operations: &[Operation],
        erase: Option<&Erase>,
        normalize: &Normalize,
        input: [usize; 2],
        channels: usize,
    ) -> Result<Self, AugmentError> {
        let input = ModelInput::new(normalize, input, channels)?;
        if let Some(erase) = erase {
            erase::check(erase)?;
        }
        let step = |operation| augmentations.transform(operation, &input);
        let steps = operations.iter().map(step).collect::<Result<_, _>>()?;
        let names = operations.iter().map(|operation| operation.name.clone()).collect();
        // (byte / 255 − mean) / std, rounded at each operation as PyTorch rounds it.
        let table = |(mean, std): (f32, f32)| std::array::from_fn(|byte| (byte as f32 / 255. - mean) / std);
        let tables = input.statistics.iter().copied().map(table).collect();
        Ok(Self { steps, names, erase: erase.cloned(), tables, input: Some(input.size) })
    }

    /// Allows images of any size: they keep the size that the operations produce.
    pub fn of_any_size(self) -> Self {
        Self { input: None, ..self }
    }

    /// [H, W, C] bytes -> [C, H, W] normalised. A look-up is exact, and as fast as vector arithmetic, which would have
    /// to gather bytes with the same stride.
    fn normalized(&self, image: &Image) -> Vec<f32> {
        let c = image.channels;
        let mut pixels = Vec::with_capacity(image.data.len());
        for (channel, table) in self.tables.iter().enumerate() {
            pixels.extend(image.data[channel..].iter().step_by(c).map(|byte| table[usize::from(*byte)]));
        }
        pixels
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pipeline").field(&self.names).finish()
    }
}

/// The pipelines of the further views of an image (`[[views]]` of a recipe), one for each view. `input` is the model's
/// [height, width]; views with an `image` of their own have that size instead.
///
/// # Errors
/// As [`Pipeline::new`]; a count of 0.
pub fn view_pipelines(
    augmentations: &Augmentations,
    views: &[View],
    normalize: &Normalize,
    input: [usize; 2],
    channels: usize,
) -> Result<Vec<Pipeline>, AugmentError> {
    let mut pipelines = vec![];
    for view in views {
        let size = view.image.unwrap_or(input);
        let pipeline = Pipeline::new(augmentations, &view.augment, None, normalize, size, channels)?;
        if view.count == 0 {
            return Err(AugmentError::NoView);
        }
        pipelines.extend(std::iter::repeat_n(pipeline, view.count));
    }
    Ok(pipelines)
}

impl<T: Geometric + Send> PrepareSample<T> for Pipeline {
    fn prepare(&self, mut sample: Sample<T>, rng: &mut Rng) -> Result<PreparedSample<T>, String> {
        let (channels, expected) = (sample.image.channels, self.tables.len());
        if channels != expected {
            return Err(format!("the image has {channels} channels, but the model's input has {expected}"));
        }
        let mut erased = SampleMut::of(&mut sample);
        self.steps.iter().try_for_each(|step| step.apply(&mut erased, rng))?;
        let size = sample.image.size();
        if let Some(input) = self.input.filter(|input| *input != size) {
            return Err(format!(
                "the pipeline [{}] ends with {}x{} but the model's input is {}x{}: end it with resize, center_crop \
                 or random_resized_crop",
                self.names.join(", "),
                size.0,
                size.1,
                input.0,
                input.1
            ));
        }
        let mut pixels = self.normalized(&sample.image);
        if let Some(rect) = self.erase.as_ref().and_then(|erase| erase::draw(erase, size, rng)) {
            erase::fill(&mut pixels, size, rect, rng);
        }
        let Sample { id, target, source_transform, .. } = sample;
        Ok(PreparedSample { id, pixels, shape: (channels, size.0, size.1), source_transform, target })
    }
}
