//! Sources of training batches: a loader, or features that are kept in memory.
//!
//! On the CPU the batches of a loader are used as they are; to another device, each is copied while the step
//! before it runs.

use crate::data::Geometric;
use crate::data::loader::{Loaded, Loader, LoaderError};
use candle_core::Device;

/// A source of training batches.
pub trait Source<T> {
    /// Micro-batches of `epoch` from `start` on, in order.
    fn epoch(&self, epoch: u64, start: usize) -> Batches<'_, T>;
}

/// An epoch that is being read.
pub type Batches<'a, T> = Box<MicroBatches<'a, T>>;

/// The micro-batches in order; an error ends the epoch.
pub type MicroBatches<'a, T> = dyn Iterator<Item = Result<Loaded<T>, LoaderError>> + 'a;

impl<T: Geometric + Clone + Send + Sync + 'static> Source<T> for Loader<T> {
    fn epoch(&self, epoch: u64, start: usize) -> Batches<'_, T> {
        match self.device() {
            Device::Cpu => Box::new(Loader::epoch(self, epoch, start)),
            device => copied_ahead(self, epoch, start, device),
        }
    }
}

#[cfg(feature = "cuda")]
fn copied_ahead<'a, T>(loader: &'a Loader<T>, epoch: u64, start: usize, device: &Device) -> Batches<'a, T>
where
    T: Geometric + Clone + Send + Sync + 'static,
{
    use crate::data::prefetch::Prefetcher;
    use crate::ops::cuda::{HostToDevice, StagedCopy};
    use candle_core::Result;

    type Staging<T> = std::result::Result<(Loaded<T>, Vec<StagedCopy>), LoaderError>;
    // One for the images, and one for each further view.
    let copies = (0..=loader.views()).map(|_| HostToDevice::new(device)).collect::<Result<Vec<_>>>();
    let copies = match copies {
        Ok(copies) => copies,
        Err(error) => return Box::new(std::iter::once(Err(error.into()))),
    };
    let stage = move |loaded: std::result::Result<Loaded<T>, LoaderError>| -> Staging<T> {
        let loaded = loaded?;
        let tensors = std::iter::once(&loaded.batch.images).chain(&loaded.batch.views);
        let staged = copies
            .iter()
            .zip(tensors)
            .map(|(copy, tensor)| with_values(tensor, |values| copy.stage(values, tensor.shape())));
        let staged = staged.collect::<Result<_>>()?;
        Ok((loaded, staged))
    };
    let finish = |staging: Staging<T>| {
        let (mut loaded, staged) = staging?;
        let tensors = std::iter::once(&mut loaded.batch.images).chain(&mut loaded.batch.views);
        for (tensor, staged) in tensors.zip(staged) {
            *tensor = staged.finish()?;
        }
        Ok(loaded)
    };
    return Box::new(Prefetcher::new(loader.epoch_in_memory(epoch, start).map(stage)).map(finish));

    /// Runs `read` on the values of a tensor of the loader.
    fn with_values<R>(images: &candle_core::Tensor, read: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
        let (storage, layout) = images.storage_and_layout();
        match (&*storage, layout.contiguous_offsets()) {
            (candle_core::Storage::Cpu(candle_core::CpuStorage::F32(values)), Some((start, end))) => {
                read(&values[start..end])
            }
            _ => candle_core::bail!("the loader returns images as contiguous f32 values in CPU memory"),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn copied_ahead<'a, T>(loader: &'a Loader<T>, epoch: u64, start: usize, _: &Device) -> Batches<'a, T>
where
    T: Geometric + Clone + Send + Sync + 'static,
{
    Box::new(Loader::epoch(loader, epoch, start))
}
