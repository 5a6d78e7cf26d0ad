//! [`Loader`]: worker threads that decode and augment, and an iterator of batches in order.
//!
//! Order and randomness are functions of (seed, epoch, index of the entry), and for further views of the number of the
//! view, so the number of workers affects only the speed, and an epoch can start at any batch. At most `prefetch`
//! batches are prepared ahead; dropping the iterator stops the workers. The worker that finishes the last sample of a
//! batch also lays out its pixels; the caller's thread only makes the tensors.

mod collate;
mod error;
mod work;

pub use error::LoaderError;
pub use work::TargetFn;

use super::augment::PrepareSample;
use super::{Batch, Entry, Geometric, SampleId};
use crate::rng::Rng;
use candle_core::Device;
use collate::{Fault, HostBatch};
use crossbeam_channel::{Receiver, Sender, unbounded};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use work::{Finished, PendingBatch, Request, SampleMaker};

/// Options of a loader.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Seeds the order of the images and their augmentation.
    pub seed: u64,
    /// Images per batch, at least 1.
    pub batch: usize,
    /// Number of worker threads; with 0 the caller's thread does the work.
    pub workers: usize,
    /// Number of batches that are prepared ahead.
    pub prefetch: usize,
    /// Whether to shuffle the images in every epoch.
    pub shuffle: bool,
    /// Whether to drop the last batch when it is not full.
    pub drop_last: bool,
    /// Unreadable images that an epoch may replace. A wrong annotation or a panic is always an error.
    pub allowed_skips: usize,
    /// Channels to decode to: 1 or 3.
    pub channels: usize,
}

/// A value of `allowed_skips` for which any number of images may be unreadable; a batch may then be empty.
pub const ANY_SKIPS: usize = usize::MAX;

/// A batch, with the samples that could not be read.
#[derive(Debug)]
pub struct Loaded<T> {
    /// Images and targets.
    pub batch: Batch<T>,
    /// Unreadable samples; each is replaced by the next readable one of the batch.
    pub skipped: Vec<SampleId>,
}

/// Reads `entries` once per epoch.
pub struct Loader<T> {
    maker: Arc<SampleMaker<T>>,
    config: LoaderConfig,
    device: Device,
}

impl<T: Geometric + Clone + Send + Sync + 'static> Loader<T> {
    /// A loader of `entries` with one view of each image, which `prepare` makes; images go to `device`.
    ///
    /// # Panics
    /// When `config.batch` is 0.
    pub fn new(
        entries: Arc<Vec<Entry>>,
        target: TargetFn<T>,
        prepare: Arc<dyn PrepareSample<T>>,
        config: LoaderConfig,
        device: Device,
    ) -> Self {
        Self::with_views(entries, target, prepare, vec![], config, device)
    }

    /// Adds further views of every image, one for each of `views` ([`Batch::views`]).
    ///
    /// # Panics
    /// When `config.batch` is 0.
    pub fn with_views(
        entries: Arc<Vec<Entry>>,
        target: TargetFn<T>,
        prepare: Arc<dyn PrepareSample<T>>,
        views: Vec<Arc<dyn PrepareSample<()>>>,
        config: LoaderConfig,
        device: Device,
    ) -> Self {
        assert!(config.batch > 0, "the batch size is 0");
        let (seed, channels) = (config.seed, config.channels);
        let maker = SampleMaker { entries, target, prepare, views, seed, channels };
        Self { maker: Arc::new(maker), config, device }
    }

    /// The device of the images of a batch.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Largest number of images in a batch.
    pub fn batch(&self) -> usize {
        self.config.batch
    }

    /// Number of further views of every image.
    pub fn views(&self) -> usize {
        self.maker.views.len()
    }

    /// Number of batches per epoch.
    pub fn batches(&self) -> usize {
        let (entries, batch) = (self.maker.entries.len(), self.config.batch);
        if self.config.drop_last { entries / batch } else { entries.div_ceil(batch) }
    }

    /// The batches of `epoch` from number `start` on.
    pub fn epoch(&self, epoch: u64, start: usize) -> Epoch<T> {
        let mut batches = self.epoch_in_memory(epoch, start);
        batches.device = self.device.clone();
        batches
    }

    /// Like [`Self::epoch`], but with images in host memory.
    pub fn epoch_in_memory(&self, epoch: u64, start: usize) -> Epoch<T> {
        let mut order: Vec<usize> = (0..self.maker.entries.len()).collect();
        if self.config.shuffle {
            order.shuffle(&mut Rng::new(self.config.seed, "shuffle", &[epoch]));
        }
        let (requests, queue) = unbounded();
        let (done, results) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..self.config.workers)
            .map(|_| {
                let (maker, queue, done, stop) =
                    (self.maker.clone(), queue.clone(), done.clone(), stop.clone());
                std::thread::spawn(move || maker.serve(epoch, &queue, &done, &stop))
            })
            .collect();
        Epoch {
            maker: self.maker.clone(),
            config: self.config.clone(),
            device: Device::Cpu,
            epoch,
            order,
            next: start,
            asked: start,
            batches: self.batches(),
            requests,
            results,
            waiting: BTreeMap::new(),
            skips: 0,
            stop,
            workers,
        }
    }
}

/// An epoch in progress: an iterator over batches, which ends at the first error.
pub struct Epoch<T> {
    maker: Arc<SampleMaker<T>>,
    config: LoaderConfig,
    device: Device,
    epoch: u64,
    /// Entries in the order of this epoch.
    order: Vec<usize>,
    /// The next batch, the first batch not yet requested from the workers, and the number of batches.
    next: usize,
    asked: usize,
    batches: usize,
    requests: Sender<Request<T>>,
    results: Receiver<Finished<T>>,
    /// Batches that arrived before their turn.
    waiting: BTreeMap<usize, Result<HostBatch<T>, LoaderError>>,
    skips: usize,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl<T: Geometric + Clone> Epoch<T> {
    /// The samples of batch `number`.
    fn requests_of(&self, number: usize) -> impl Iterator<Item = Request<T>> + use<T> {
        let first = number * self.config.batch;
        let entries = self.order[first..(first + self.config.batch).min(self.order.len())].to_vec();
        let pending = Arc::new(Mutex::new(PendingBatch::of(entries.len())));
        let request = move |(place, index)| Request { batch: number, place, index, pending: pending.clone() };
        entries.into_iter().enumerate().map(request)
    }

    /// Waits for batch `number` while `prefetch` more are prepared.
    fn wait(&mut self, number: usize) -> Result<HostBatch<T>, LoaderError> {
        if self.workers.is_empty() {
            let run = |request| self.maker.run(self.epoch, request);
            let finished = self.requests_of(number).filter_map(run).last();
            return finished.map_or(Err(LoaderError::Workers(number)), |(_, host)| host);
        }
        let last = (number + 1 + self.config.prefetch).min(self.batches);
        while self.asked < last {
            for request in self.requests_of(self.asked) {
                // If all workers have ended, `recv` below returns the error.
                let _ = self.requests.send(request);
            }
            self.asked += 1;
        }
        loop {
            if let Some(host) = self.waiting.remove(&number) {
                return host;
            }
            let (finished, host) = self.results.recv().map_err(|_| LoaderError::Workers(number))?;
            self.waiting.insert(finished, host);
        }
    }

    fn load(&mut self) -> Result<Loaded<T>, LoaderError> {
        let mut host = self.wait(self.next)?;
        self.next += 1;
        let mut skipped = vec![];
        for Fault { id, reason, .. } in std::mem::take(&mut host.skipped) {
            self.skips += 1;
            let (allowed, count) = (self.config.allowed_skips, self.skips);
            if allowed == 0 || host.ids.is_empty() && allowed != ANY_SKIPS {
                return Err(LoaderError::Sample { id, reason });
            }
            if count > allowed {
                return Err(LoaderError::TooMany { count, allowed, id, reason });
            }
            skipped.push(id);
        }
        Ok(Loaded { batch: host.into_batch(&self.device)?, skipped })
    }
}

impl<T: Geometric + Clone> Iterator for Epoch<T> {
    type Item = Result<Loaded<T>, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.batches {
            return None;
        }
        let loaded = self.load();
        if loaded.is_err() {
            self.next = self.batches;
        }
        Some(loaded)
    }
}

impl<T> Drop for Epoch<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.requests = unbounded().0; // closes the queue that the workers read
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // panics are caught inside
        }
    }
}

#[cfg(test)]
mod tests;
