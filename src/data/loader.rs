//! [`Loader`]: worker threads that decode and augment, and an iterator of batches in order.
//!
//! Order and randomness are functions of (seed, epoch, index of the entry), so the number of workers changes nothing but
//! speed, and an epoch can start at any batch. At most `prefetch` batches wait; dropping the iterator stops the workers.

use super::augment::Prepare;
use super::{Batch, Entry, Geometric, Image, ImageRef, Prepared, Sample, SampleId};
use crate::rng::Rng;
use candle_core::{Device, Tensor};
use crossbeam_channel::{Receiver, Sender, unbounded};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Makes the target of an entry; the error says what is wrong with its annotation.
pub type TargetFn<T> = Arc<dyn Fn(&Entry) -> Result<T, String> + Send + Sync>;

/// How entries become batches.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    pub seed: u64,
    /// Images of a batch.
    pub batch: usize,
    /// Threads, at least 1.
    pub workers: usize,
    /// Batches that may wait.
    pub prefetch: usize,
    /// A new order every epoch.
    pub shuffle: bool,
    /// Leave out the last batch when it is not full.
    pub drop_last: bool,
    /// Unreadable images that an epoch may replace.
    pub allowed_skips: usize,
    /// Channels to decode to.
    pub channels: usize,
}

/// A batch, and what could not be read for it.
#[derive(Debug)]
pub struct Loaded<T> {
    pub batch: Batch<T>,
    /// Unreadable samples; each is replaced by the next readable one of the batch.
    pub skipped: Vec<SampleId>,
}

/// Why there is no batch.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("sample `{id}`: {reason}")]
    Sample { id: SampleId, reason: String },
    #[error("{count} unreadable images in an epoch, {allowed} are allowed; the last is `{id}`: {reason}")]
    TooMany { count: usize, allowed: usize, id: SampleId, reason: String },
    #[error(
        "samples of one batch differ in shape: {first:?} and, of `{id}`, {other:?} (channels, height, width)"
    )]
    Shape { id: SampleId, first: (usize, usize, usize), other: (usize, usize, usize) },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Reads `entries` again and again.
pub struct Loader<T> {
    work: Arc<Work<T>>,
    config: LoaderConfig,
    device: Device,
}

/// What the threads share.
struct Work<T> {
    entries: Arc<Vec<Entry>>,
    target: TargetFn<T>,
    prepare: Arc<dyn Prepare<T>>,
    seed: u64,
    channels: usize,
}

impl<T: Geometric + Clone + Send + Sync + 'static> Loader<T> {
    pub fn new(
        entries: Arc<Vec<Entry>>,
        target: TargetFn<T>,
        prepare: Arc<dyn Prepare<T>>,
        config: LoaderConfig,
        device: Device,
    ) -> Self {
        let work = Work { entries, target, prepare, seed: config.seed, channels: config.channels };
        Self { work: Arc::new(work), config, device }
    }

    /// Batches of an epoch.
    pub fn batches(&self) -> usize {
        let (entries, batch) = (self.work.entries.len(), self.config.batch);
        if self.config.drop_last { entries / batch } else { entries.div_ceil(batch) }
    }

    /// The batches of `epoch` from number `start` on.
    pub fn epoch(&self, epoch: u64, start: usize) -> Epoch<T> {
        let mut order: Vec<usize> = (0..self.work.entries.len()).collect();
        if self.config.shuffle {
            order.shuffle(&mut Rng::new(self.config.seed, "shuffle", &[epoch]));
        }
        let (jobs, queue) = unbounded();
        let (done, results) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..self.config.workers.max(1))
            .map(|_| {
                let (work, queue, done, stop) =
                    (self.work.clone(), queue.clone(), done.clone(), stop.clone());
                std::thread::spawn(move || work.serve(epoch, &queue, &done, &stop))
            })
            .collect();
        Epoch {
            entries: self.work.entries.clone(),
            config: self.config.clone(),
            device: self.device.clone(),
            asked: (start * self.config.batch).min(order.len()),
            next: start,
            batches: self.batches(),
            order,
            jobs,
            results,
            waiting: BTreeMap::new(),
            skips: 0,
            stop,
            workers,
        }
    }
}

impl<T: Geometric> Work<T> {
    /// Answers jobs (place in the epoch, index of the entry) until there are no more.
    fn serve(&self, epoch: u64, jobs: &Receiver<(usize, usize)>, done: &Sender<Done<T>>, stop: &AtomicBool) {
        for (place, index) in jobs {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let sample = catch_unwind(AssertUnwindSafe(|| self.sample(epoch, index)))
                .unwrap_or_else(|_| Err("the program panicked while reading it".into()));
            if done.send((place, sample)).is_err() {
                return;
            }
        }
    }

    fn sample(&self, epoch: u64, index: usize) -> Result<Prepared<T>, String> {
        let entry = &self.entries[index];
        let target = (self.target)(entry)?;
        let image = match &entry.image {
            ImageRef::File(path) => Image::open(path, self.channels).map_err(|e| e.to_string())?,
            ImageRef::Memory(image) => image.with_channels(self.channels)?,
        };
        let mut rng = Rng::new(self.seed, "augment", &[epoch, index as u64]);
        self.prepare.prepare(Sample::new(entry.id.clone(), image, target), &mut rng)
    }
}

/// Place in the epoch, and the sample or why there is none.
type Done<T> = (usize, Result<Prepared<T>, String>);

/// An epoch under way: an iterator of batches.
pub struct Epoch<T> {
    entries: Arc<Vec<Entry>>,
    config: LoaderConfig,
    device: Device,
    /// Entries in the order of this epoch.
    order: Vec<usize>,
    /// The next batch, and how many there are.
    next: usize,
    batches: usize,
    /// Places that the workers have been asked for.
    asked: usize,
    jobs: Sender<(usize, usize)>,
    results: Receiver<Done<T>>,
    /// Samples that came before their turn.
    waiting: BTreeMap<usize, Result<Prepared<T>, String>>,
    skips: usize,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl<T: Clone> Epoch<T> {
    fn load(&mut self) -> Result<Loaded<T>, LoadError> {
        let places =
            self.next * self.config.batch..((self.next + 1) * self.config.batch).min(self.order.len());
        let last = (places.end + self.config.prefetch * self.config.batch).min(self.order.len());
        for place in self.asked..last {
            // Workers live as long as `self`, so somebody listens.
            let _ = self.jobs.send((place, self.order[place]));
        }
        self.asked = self.asked.max(last);
        while !places.clone().all(|place| self.waiting.contains_key(&place)) {
            let Ok((place, sample)) = self.results.recv() else {
                let id = self.entries[self.order[places.start]].id.clone();
                return Err(LoadError::Sample { id, reason: "all workers have ended".into() });
            };
            self.waiting.insert(place, sample);
        }
        self.next += 1;
        let mut samples: Vec<Option<Prepared<T>>> = vec![];
        let mut skipped = vec![];
        for place in places {
            let id = &self.entries[self.order[place]].id;
            match self.waiting.remove(&place) {
                Some(Ok(sample)) => samples.push(Some(sample)),
                Some(Err(reason)) => {
                    self.skips += 1;
                    let (id, allowed, count) = (id.clone(), self.config.allowed_skips, self.skips);
                    if allowed == 0 {
                        return Err(LoadError::Sample { id, reason });
                    }
                    if count > allowed {
                        return Err(LoadError::TooMany { count, allowed, id, reason });
                    }
                    skipped.push(id);
                    samples.push(None);
                }
                None => {}
            }
        }
        let samples = replace(samples).ok_or_else(|| LoadError::Sample {
            id: skipped.last().cloned().unwrap_or_else(|| SampleId::new("")),
            reason: "no image of its batch can be read".into(),
        })?;
        Ok(Loaded { batch: collate(samples, &self.device)?, skipped })
    }
}

/// Puts the next readable sample, cyclically, where one is missing; `None` when all are.
fn replace<S: Clone>(samples: Vec<Option<S>>) -> Option<Vec<S>> {
    let n = samples.len();
    (0..n).map(|i| (i..i + n).find_map(|j| samples[j % n].clone())).collect()
}

fn collate<T>(samples: Vec<Prepared<T>>, device: &Device) -> Result<Batch<T>, LoadError> {
    let count = samples.len();
    let first = samples.first().map_or((0, 0, 0), |s| s.shape);
    let mut pixels = Vec::with_capacity(count * first.0 * first.1 * first.2);
    let (mut ids, mut frames, mut targets) = (vec![], vec![], vec![]);
    for sample in samples {
        if sample.shape != first {
            return Err(LoadError::Shape { id: sample.id, first, other: sample.shape });
        }
        pixels.extend_from_slice(&sample.pixels);
        ids.push(sample.id);
        frames.push(sample.frame);
        targets.push(sample.target);
    }
    let images = Tensor::from_vec(pixels, (count, first.0, first.1, first.2), device)?; // [B, C, H, W]
    Ok(Batch { ids, images, frames, targets })
}

impl<T: Clone> Iterator for Epoch<T> {
    type Item = Result<Loaded<T>, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.batches).then(|| self.load())
    }
}

impl<T> Drop for Epoch<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = unbounded().0; // closes the queue that the workers read
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // panics are caught inside
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Annotation;
    use rand::Rng as _;

    /// Normalises to the raw value plus noise, so that randomness shows in the pixels.
    struct Noise;
    impl Prepare<u32> for Noise {
        fn prepare(&self, s: Sample<u32>, rng: &mut Rng) -> Result<Prepared<u32>, String> {
            if s.image.data[0] == 99 {
                return Err("bad".into());
            }
            if s.image.data[0] == 98 {
                panic!("worse");
            }
            let pixels = vec![f32::from(s.image.data[0]) + rng.random::<f32>()];
            Ok(Prepared { id: s.id, pixels, shape: (1, 1, 1), frame: s.frame, target: s.target })
        }
    }

    fn loader(values: &[u8], workers: usize, shuffle: bool, allowed_skips: usize) -> Loader<u32> {
        let entry = |(i, v): (usize, &u8)| Entry {
            id: SampleId::new(format!("{i}")),
            image: ImageRef::Memory(Arc::new(Image::new(1, 1, 1, vec![*v]))),
            annotation: Annotation::Label(i as u32),
        };
        let entries = Arc::new(values.iter().enumerate().map(entry).collect());
        let target: TargetFn<u32> = Arc::new(|e| match e.annotation {
            Annotation::Label(label) => Ok(label),
            _ => Err("no label".into()),
        });
        let config = LoaderConfig {
            seed: 3,
            batch: 4,
            workers,
            prefetch: 2,
            shuffle,
            drop_last: shuffle,
            allowed_skips,
            channels: 1,
        };
        Loader::new(entries, target, Arc::new(Noise), config, Device::Cpu)
    }

    fn pixels(loader: &Loader<u32>, epoch: u64, start: usize) -> Vec<Vec<f32>> {
        let values = |loaded: Result<Loaded<u32>, LoadError>| {
            loaded.unwrap().batch.images.flatten_all().unwrap().to_vec1().unwrap()
        };
        loader.epoch(epoch, start).map(values).collect()
    }

    #[test]
    fn workers_change_nothing_and_an_epoch_starts_anywhere() {
        let values: Vec<u8> = (0..42).collect();
        let one = pixels(&loader(&values, 1, true, 0), 5, 0);
        assert_eq!(one.len(), 10);
        for workers in [2, 4, 7] {
            assert_eq!(pixels(&loader(&values, workers, true, 0), 5, 0), one);
            assert_eq!(pixels(&loader(&values, workers, true, 0), 5, 7), one[7..]);
        }
        assert_ne!(pixels(&loader(&values, 1, true, 0), 6, 0), one);
        let mut seen: Vec<u32> = one.concat().iter().map(|v| *v as u32).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 40);
    }

    #[test]
    fn evaluation_keeps_order_and_the_last_batch() {
        let in_order = pixels(&loader(&[0, 1, 2, 3, 4, 5], 2, false, 0), 0, 0);
        assert_eq!(in_order.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2]);
        assert!(in_order.concat().iter().enumerate().all(|(i, v)| *v as usize == i));
    }

    #[test]
    fn unreadable_samples_stop_or_are_replaced() {
        let values = [0, 99, 2, 3, 4, 5, 6, 99];
        let error = loader(&values, 2, false, 0).epoch(0, 0).next().unwrap().unwrap_err().to_string();
        assert!(error.contains("`1`") && error.contains("bad"), "{error}");
        let loaded: Vec<_> = loader(&values, 2, false, 2).epoch(0, 0).map(Result::unwrap).collect();
        assert_eq!(loaded[0].batch.targets, [0, 2, 2, 3]);
        assert_eq!(loaded[1].batch.targets, [4, 5, 6, 4]);
        assert_eq!(loaded[1].skipped, [SampleId::new("7")]);
        let error = loader(&values, 2, false, 1).epoch(0, 0).nth(1).unwrap().unwrap_err().to_string();
        assert!(error.contains("2 unreadable images"), "{error}");
        let error = loader(&[98; 4], 1, false, 0).epoch(0, 0).next().unwrap().unwrap_err().to_string();
        assert!(error.contains("panicked"), "{error}");
    }

    #[test]
    fn dropping_an_epoch_ends_its_workers() {
        let values: Vec<u8> = vec![1; 90];
        for _ in 0..20 {
            let loader = loader(&values, 3, true, 0);
            let mut epoch = loader.epoch(0, 0);
            epoch.next();
            drop(epoch);
            assert_eq!(Arc::strong_count(&loader.work), 1);
        }
    }
}
