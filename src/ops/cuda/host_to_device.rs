//! Copies of images from the host to a device while the device computes.
//!
//! One thread copies them into page-locked memory and queues their transfer on a stream of its own; the thread that
//! trains takes them over by a copy on the device, which waits for the transfer there and not on the host.

use super::value::{allocate, tensor};
use candle_core::cuda::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, PinnedHostSlice};
use candle_core::cuda::{CudaDevice, WrapErr};
use candle_core::{Device, Result, Shape, Tensor};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;

/// Number of batches in flight: one is being received, one follows.
const IN_FLIGHT: usize = 2;

/// Copies batches to a device on a stream of its own.
pub struct HostToDevice {
    device: CudaDevice,
    copies: Arc<CudaStream>,
    free: Receiver<Buffers>,
    back: Sender<Buffers>,
}

/// Page-locked memory of the host, and memory of the device, that batches pass through.
#[derive(Default)]
struct Buffers {
    buffers: Option<(PinnedHostSlice<f32>, CudaSlice<f32>)>,
    /// Recorded when the last batch has left.
    left: Option<CudaEvent>,
}

/// A batch under way.
pub struct StagedCopy {
    device: CudaDevice,
    buffers: Buffers,
    back: Sender<Buffers>,
    /// Recorded when all of it has arrived.
    arrived: CudaEvent,
    shape: Shape,
}

impl HostToDevice {
    /// Copies to `device`.
    ///
    /// # Errors
    /// When it is not a CUDA device or has no memory left.
    pub fn new(device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let copies = device.cuda_stream().context().new_stream().w()?;
        let (back, free) = bounded(IN_FLIGHT);
        for _ in 0..IN_FLIGHT {
            back.send(Buffers::default()).map_err(candle_core::Error::wrap)?;
        }
        Ok(Self { device, copies, free, back })
    }

    /// Queues the transfer of values of this shape. Waits while [`IN_FLIGHT`] batches are in flight.
    pub fn stage(&self, values: &[f32], shape: impl Into<Shape>) -> Result<StagedCopy> {
        let mut buffers = self.free.recv().map_err(candle_core::Error::wrap)?;
        if let Some(left) = buffers.left.take() {
            left.synchronize().w()?;
        }
        if buffers.buffers.as_ref().is_none_or(|(pinned, _)| pinned.len() < values.len()) {
            let context = self.copies.context();
            // SAFETY: both are written before they are read.
            let pinned = unsafe { context.alloc_pinned::<f32>(values.len().max(1)) }.w()?;
            let staged = unsafe { self.copies.alloc::<f32>(values.len().max(1)) }.w()?;
            buffers.buffers = Some((pinned, staged));
        }
        if let Some((pinned, staged)) = &mut buffers.buffers {
            pinned.as_mut_slice().w()?[..values.len()].copy_from_slice(values);
            self.copies.memcpy_htod(&*pinned, staged).w()?;
        }
        let arrived = self.copies.record_event(None).w()?;
        Ok(StagedCopy {
            device: self.device.clone(),
            buffers,
            back: self.back.clone(),
            arrived,
            shape: shape.into(),
        })
    }
}

impl StagedCopy {
    /// The batch on the device, for work that is queued from now on.
    pub fn finish(mut self) -> Result<Tensor> {
        let stream = self.device.cuda_stream();
        let count = self.shape.elem_count();
        let mut values = allocate::<f32>(&self.device, count)?;
        stream.wait(&self.arrived).w()?;
        if let Some((_, staged)) = &self.buffers.buffers {
            stream.memcpy_dtod(&staged.slice(..count), &mut values).w()?;
        }
        self.buffers.left = Some(stream.record_event(None).w()?);
        let result = tensor(values, self.shape.clone(), &self.device);
        let _ = self.back.send(std::mem::take(&mut self.buffers)); // the receiver may be gone
        Ok(result)
    }
}

impl Drop for Buffers {
    /// Memory is freed on another stream than the one that reads it.
    fn drop(&mut self) {
        if let Some(left) = &self.left {
            let _ = left.synchronize(); // an error of the device appears in the next operation, too
        }
    }
}
