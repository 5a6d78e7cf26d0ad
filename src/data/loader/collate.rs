//! [`HostBatch`]: samples collated in host memory, before tensors are made.

use super::error::LoaderError;
use crate::data::{Batch, PreparedSample, SampleId, SourceTransform};
use candle_core::{Device, Tensor};

/// The first view of an image, with its target, and all further ones.
#[derive(Clone)]
pub(super) struct SampleViews<T> {
    pub first: PreparedSample<T>,
    pub further: Vec<PreparedSample<()>>,
}

/// The reason why a sample is missing.
pub(super) struct Fault {
    pub id: SampleId,
    pub reason: String,
    /// Whether another sample may replace it.
    pub replaceable: bool,
}

/// A batch in host memory.
pub(super) struct HostBatch<T> {
    pub ids: Vec<SampleId>,
    images: HostImages,
    views: Vec<HostImages>,
    source_transforms: Vec<SourceTransform>,
    targets: Vec<T>,
    /// Unreadable samples, which others replace.
    pub skipped: Vec<Fault>,
}

/// Images of one shape.
struct HostImages {
    /// [B, C, H, W] row-major.
    pixels: Vec<f32>,
    /// (C, H, W)
    shape: (usize, usize, usize),
}

impl HostImages {
    /// Allocates memory for `count` images of `shape`.
    fn new(count: usize, shape: (usize, usize, usize)) -> Self {
        Self { pixels: Vec::with_capacity(count * shape.0 * shape.1 * shape.2), shape }
    }

    /// # Errors
    /// A sample whose shape differs from those before it.
    fn push<T>(&mut self, sample: &PreparedSample<T>) -> Result<(), LoaderError> {
        if sample.shape != self.shape {
            return Err(LoaderError::Shape { id: sample.id.clone(), first: self.shape, other: sample.shape });
        }
        self.pixels.extend_from_slice(&sample.pixels);
        Ok(())
    }

    /// The tensor of `count` images. [B, C, H, W]
    fn into_tensor(self, count: usize, device: &Device) -> Result<Tensor, LoaderError> {
        let (channels, height, width) = self.shape;
        Ok(Tensor::from_vec(self.pixels, (count, channels, height, width), device)?)
    }
}

impl<T: Clone> HostBatch<T> {
    /// # Errors
    /// An error that no other sample may replace, or samples of different shapes.
    pub fn new(samples: Vec<Result<SampleViews<T>, Fault>>) -> Result<Self, LoaderError> {
        let (mut readable, mut skipped) = (Vec::with_capacity(samples.len()), vec![]);
        for sample in samples {
            match sample {
                Ok(sample) => readable.push(Some(sample)),
                Err(fault) if fault.replaceable => {
                    readable.push(None);
                    skipped.push(fault);
                }
                Err(Fault { id, reason, .. }) => return Err(LoaderError::Sample { id, reason }),
            }
        }
        let samples = replace(readable);
        let count = samples.len();
        let mut images = HostImages::new(count, samples.first().map_or((0, 0, 0), |s| s.first.shape));
        let first = samples.first().map_or(&[][..], |sample| &sample.further);
        let mut views: Vec<_> = first.iter().map(|view| HostImages::new(count, view.shape)).collect();
        let (mut ids, mut source_transforms, mut targets) = (vec![], vec![], vec![]);
        for SampleViews { first, further } in samples {
            images.push(&first)?;
            views.iter_mut().zip(&further).try_for_each(|(images, view)| images.push(view))?;
            ids.push(first.id);
            source_transforms.push(first.source_transform);
            targets.push(first.target);
        }
        Ok(Self { ids, images, views, source_transforms, targets, skipped })
    }

    /// The batch, with its images on `device`.
    pub fn into_batch(self, device: &Device) -> Result<Batch<T>, LoaderError> {
        let count = self.ids.len();
        let images = self.images.into_tensor(count, device)?; // [B, C, H, W]
        let views = self.views.into_iter().map(|view| view.into_tensor(count, device));
        let views = views.collect::<Result<_, _>>()?;
        let (ids, source_transforms, targets) = (self.ids, self.source_transforms, self.targets);
        Ok(Batch { ids, images, views, source_transforms, targets })
    }
}

/// Replaces each missing sample by the next one, cyclically; does nothing when all are missing.
fn replace<S: Clone>(mut samples: Vec<Option<S>>) -> Vec<S> {
    let count = samples.len();
    for missing in 0..count {
        if samples[missing].is_none() {
            samples[missing] = (1..count).find_map(|k| samples[(missing + k) % count].clone());
        }
    }
    samples.into_iter().flatten().collect()
}
