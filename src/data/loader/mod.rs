//! [`Loader`]: worker threads that decode and augment, and an iterator of batches in order.
//!
//! Order and randomness are functions of (seed, epoch, index of the entry), and for further views of the number of the
//! view, so the number of workers changes nothing but speed, and an epoch can start at any batch. At most `prefetch`
//! batches wait; dropping the iterator stops the workers. The worker that finishes the last sample of a batch lays its
//! pixels out; the caller's thread only makes the tensors.

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

/// How entries become batches.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Seeds the order of the images and their augmentation.
    pub seed: u64,
    /// Images of a batch, at least 1.
    pub batch: usize,
    /// Threads; with 0 the caller's thread does the work.
    pub workers: usize,
    /// Batches that may wait.
    pub prefetch: usize,
    /// A new order every epoch.
    pub shuffle: bool,
    /// Leave out the last batch when it is not full.
    pub drop_last: bool,
    /// Unreadable images that an epoch may replace. A wrong annotation and a panic are errors at once.
    pub allowed_skips: usize,
    /// Channels to decode to: 1 or 3.
    pub channels: usize,
}

/// As `allowed_skips`: however many images are unreadable, the others are read; a batch may be empty.
pub const ANY_SKIPS: usize = usize::MAX;

/// A batch, and what could not be read for it.
#[derive(Debug)]
pub struct Loaded<T> {
    /// Images and targets.
    pub batch: Batch<T>,
    /// Unreadable samples; each is replaced by the next readable one of the batch.
    pub skipped: Vec<SampleId>,
}

/// Reads `entries` again and again, epoch by epoch.
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

    /// The same with further views of every image, one for each of `views` ([`Batch::views`]).
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
        assert!(config.batch > 0, "a batch of no images");
        let (seed, channels) = (config.seed, config.channels);
        let maker = SampleMaker { entries, target, prepare, views, seed, channels };
        Self { maker: Arc::new(maker), config, device }
    }

    /// Where the images of a batch go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Images of a batch, at most.
    pub fn batch(&self) -> usize {
        self.config.batch
    }

    /// Number of further views of every image.
    pub fn views(&self) -> usize {
        self.maker.views.len()
    }

    /// Batches of an epoch.
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

    /// The same with images in the memory of the CPU.
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

/// An epoch under way: an iterator of batches, which ends at the first error.
pub struct Epoch<T> {
    maker: Arc<SampleMaker<T>>,
    config: LoaderConfig,
    device: Device,
    epoch: u64,
    /// Entries in the order of this epoch.
    order: Vec<usize>,
    /// The next batch, the first that the workers have not been asked for, and how many there are.
    next: usize,
    asked: usize,
    batches: usize,
    requests: Sender<Request<T>>,
    results: Receiver<Finished<T>>,
    /// Batches that came before their turn.
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

    /// Waits for batch `number`, with `prefetch` more under way.
    fn wait(&mut self, number: usize) -> Result<HostBatch<T>, LoaderError> {
        if self.workers.is_empty() {
            let run = |request| self.maker.run(self.epoch, request);
            let finished = self.requests_of(number).filter_map(run).last();
            return finished.map_or(Err(LoaderError::Workers(number)), |(_, host)| host);
        }
        let last = (number + 1 + self.config.prefetch).min(self.batches);
        while self.asked < last {
            for request in self.requests_of(self.asked) {
                // When all workers have ended, `recv` below is the error.
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
