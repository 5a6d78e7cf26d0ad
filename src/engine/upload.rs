//! Batches of a loader on the device that trains: on the CPU as they are, elsewhere one batch ahead of the training
//! step.

use super::train::Batches;
use crate::data::Geometric;
use crate::data::loader::Loader;
use candle_core::Device;

/// The batches of `epoch` from `start` on.
pub(super) fn batches<T>(loader: &Loader<T>, epoch: u64, start: usize) -> Batches<'_, T>
where
    T: Geometric + Clone + Send + Sync + 'static,
{
    match loader.device() {
        Device::Cpu => Box::new(loader.epoch(epoch, start)),
        device => prefetched(loader, epoch, start, device),
    }
}

#[cfg(feature = "cuda")]
fn prefetched<'a, T>(loader: &'a Loader<T>, epoch: u64, start: usize, device: &Device) -> Batches<'a, T>
where
    T: Geometric + Clone + Send + Sync + 'static,
{
    use crate::data::loader::{Loaded, LoaderError};
    use crate::data::prefetch::Prefetcher;
    use crate::ops::cuda::{Staged, Upload};
    use candle_core::Result;

    type Staging<T> = std::result::Result<(Loaded<T>, Vec<Staged>), LoaderError>;
    // One for the images, and one for each further view.
    let uploads = (0..=loader.views()).map(|_| Upload::new(device)).collect::<Result<Vec<_>>>();
    let uploads = match uploads {
        Ok(uploads) => uploads,
        Err(error) => return Box::new(std::iter::once(Err(error.into()))),
    };
    let stage = move |loaded: std::result::Result<Loaded<T>, LoaderError>| -> Staging<T> {
        let loaded = loaded?;
        let tensors = std::iter::once(&loaded.batch.images).chain(&loaded.batch.views);
        let staged = uploads
            .iter()
            .zip(tensors)
            .map(|(upload, tensor)| with_values(tensor, |values| upload.stage(values, tensor.shape())));
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
            _ => candle_core::bail!("images of a loader are contiguous f32 values in memory"),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn prefetched<'a, T>(loader: &'a Loader<T>, epoch: u64, start: usize, _: &Device) -> Batches<'a, T>
where
    T: Geometric + Clone + Send + Sync + 'static,
{
    Box::new(loader.epoch(epoch, start))
}
