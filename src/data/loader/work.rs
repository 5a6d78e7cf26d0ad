//! The work of a [`Loader`](super::Loader)'s threads: they decode images, make their views, and lay out each batch when
//! its last sample is done.

use super::collate::{Fault, HostBatch, SampleViews};
use super::error::LoaderError;
use crate::data::augment::PrepareSample;
use crate::data::{Entry, Geometric, Sample};
use crate::rng::Rng;
use crossbeam_channel::{Receiver, Sender};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Makes the target of an entry; the error describes the problem with its annotation.
pub type TargetFn<T> = Arc<dyn Fn(&Entry) -> Result<T, String> + Send + Sync>;

/// Everything that makes samples; shared by the threads.
pub(super) struct SampleMaker<T> {
    pub entries: Arc<Vec<Entry>>,
    pub target: TargetFn<T>,
    pub prepare: Arc<dyn PrepareSample<T>>,
    /// Makes the further views of an image.
    pub views: Vec<Arc<dyn PrepareSample<()>>>,
    pub seed: u64,
    pub channels: usize,
}

/// A request for one sample of a batch.
pub(super) struct Request<T> {
    /// Number of the batch.
    pub batch: usize,
    /// Index of the sample in the batch.
    pub place: usize,
    /// Index of the entry.
    pub index: usize,
    pub pending: Arc<Mutex<PendingBatch<T>>>,
}

/// A batch that is not complete.
pub(super) struct PendingBatch<T> {
    samples: Vec<Option<Result<SampleViews<T>, Fault>>>,
    missing: usize,
}

impl<T> PendingBatch<T> {
    /// Waits for `count` samples.
    pub fn of(count: usize) -> Self {
        Self { samples: (0..count).map(|_| None).collect(), missing: count }
    }
}

/// The number of a batch, and the batch.
pub(super) type Finished<T> = (usize, Result<HostBatch<T>, LoaderError>);

impl<T: Geometric + Clone> SampleMaker<T> {
    /// Serves requests until the channel is closed.
    pub fn serve(
        &self,
        epoch: u64,
        requests: &Receiver<Request<T>>,
        done: &Sender<Finished<T>>,
        stop: &AtomicBool,
    ) {
        for request in requests {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some(finished) = self.run(epoch, request)
                && done.send(finished).is_err()
            {
                return;
            }
        }
    }

    /// Makes one sample; returns the batch if it was the last sample.
    pub fn run(&self, epoch: u64, request: Request<T>) -> Option<Finished<T>> {
        let fault = |(reason, replaceable)| {
            let id = self.entries[request.index].id.clone();
            Fault { id, reason, replaceable }
        };
        let sample = catch_unwind(AssertUnwindSafe(|| self.sample(epoch, request.index)))
            .unwrap_or_else(|panic| Err((format!("reading it panicked: {}", message(&*panic)), false)))
            .map_err(fault);
        // Nothing panics while the lock is held.
        let mut pending = request.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.samples[request.place] = Some(sample);
        pending.missing -= 1;
        if pending.missing > 0 {
            return None;
        }
        let samples = std::mem::take(&mut pending.samples);
        drop(pending);
        Some((request.batch, HostBatch::new(samples.into_iter().flatten().collect())))
    }

    /// The views of entry `index`, or the reason why there are none and whether another sample may replace it.
    fn sample(&self, epoch: u64, index: usize) -> Result<SampleViews<T>, (String, bool)> {
        let entry = &self.entries[index];
        let target = (self.target)(entry).map_err(|reason| (reason, false))?;
        let image = entry.image.decode(self.channels).map_err(|reason| (reason, true))?;
        let remark = |reason: String| (reason + &entry.image.remark_on_size(), false);
        target.fits(image.size()).map_err(remark)?;
        let further = (0u64..)
            .zip(&self.views)
            .map(|(view, prepare)| {
                let mut rng = Rng::new(self.seed, "view", &[epoch, index as u64, view]);
                prepare.prepare(Sample::new(entry.id.clone(), image.clone(), ()), &mut rng)
            })
            .collect::<Result<_, _>>()
            .map_err(|reason| (reason, true))?;
        let mut rng = Rng::new(self.seed, "augment", &[epoch, index as u64]);
        let sample = Sample::new(entry.id.clone(), image, target);
        let first = self.prepare.prepare(sample, &mut rng).map_err(|reason| (reason, true))?;
        Ok(SampleViews { first, further })
    }
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
