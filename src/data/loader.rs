//! [`Loader`]: worker threads that decode and augment, and an iterator of batches in order.
//!
//! Order and randomness are functions of (seed, epoch, index of the entry), so the number of workers changes nothing but
//! speed, and an epoch can start at any batch. At most `prefetch` batches wait; dropping the iterator stops the workers.
//! The worker that finishes the last sample of a batch lays its pixels out; the caller's thread only makes the tensor.

use super::augment::Prepare;
use super::{Batch, Entry, Frame, Geometric, Image, ImageRef, Prepared, Sample, SampleId};
use crate::rng::Rng;
use candle_core::{Device, Tensor};
use crossbeam_channel::{Receiver, Sender, unbounded};
use rand::seq::SliceRandom;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Makes the target of an entry; the error says what is wrong with its annotation.
pub type TargetFn<T> = Arc<dyn Fn(&Entry) -> Result<T, String> + Send + Sync>;

/// How entries become batches.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
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
    /// Channels to decode to.
    pub channels: usize,
}

/// As `allowed_skips`: however many images are unreadable, the others are read; a batch may be empty.
pub const ANY_SKIPS: usize = usize::MAX;

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
    #[error("all loader threads have ended before batch {0}")]
    Workers(usize),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Reads `entries` again and again.
pub struct Loader<T> {
    work: Arc<Work<T>>,
    config: LoaderConfig,
    device: Device,
}

impl<T: Geometric + Clone + Send + Sync + 'static> Loader<T> {
    /// # Panics
    /// When `config.batch` is 0.
    pub fn new(
        entries: Arc<Vec<Entry>>,
        target: TargetFn<T>,
        prepare: Arc<dyn Prepare<T>>,
        config: LoaderConfig,
        device: Device,
    ) -> Self {
        assert!(config.batch > 0, "a batch of no images");
        let work = Work { entries, target, prepare, seed: config.seed, channels: config.channels };
        Self { work: Arc::new(work), config, device }
    }

    /// Where the images of a batch go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Images of a batch, at most.
    pub fn batch(&self) -> usize {
        self.config.batch
    }

    /// Batches of an epoch.
    pub fn batches(&self) -> usize {
        let (entries, batch) = (self.work.entries.len(), self.config.batch);
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
        let mut order: Vec<usize> = (0..self.work.entries.len()).collect();
        if self.config.shuffle {
            order.shuffle(&mut Rng::new(self.config.seed, "shuffle", &[epoch]));
        }
        let (jobs, queue) = unbounded();
        let (done, results) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..self.config.workers)
            .map(|_| {
                let (work, queue, done, stop) =
                    (self.work.clone(), queue.clone(), done.clone(), stop.clone());
                std::thread::spawn(move || work.serve(epoch, &queue, &done, &stop))
            })
            .collect();
        Epoch {
            work: self.work.clone(),
            config: self.config.clone(),
            device: Device::Cpu,
            epoch,
            order,
            next: start,
            asked: start,
            batches: self.batches(),
            jobs,
            results,
            waiting: BTreeMap::new(),
            skips: 0,
            stop,
            workers,
        }
    }
}

/// What the threads share.
struct Work<T> {
    entries: Arc<Vec<Entry>>,
    target: TargetFn<T>,
    prepare: Arc<dyn Prepare<T>>,
    seed: u64,
    channels: usize,
}

/// One sample to make, for a place in a batch.
struct Job<T> {
    batch: usize,
    place: usize,
    /// Of the entry.
    index: usize,
    slots: Arc<Mutex<Slots<T>>>,
}

/// A batch in the making.
struct Slots<T> {
    samples: Vec<Option<Result<Prepared<T>, Fault>>>,
    missing: usize,
}

/// Why there is no sample.
struct Fault {
    id: SampleId,
    reason: String,
    /// Another sample may take its place.
    replaceable: bool,
}

/// The number of a batch, and the batch.
type Finished<T> = (usize, Result<HostBatch<T>, LoadError>);

impl<T: Geometric + Clone> Work<T> {
    /// Does jobs until there are no more.
    fn serve(&self, epoch: u64, jobs: &Receiver<Job<T>>, done: &Sender<Finished<T>>, stop: &AtomicBool) {
        for job in jobs {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some(finished) = self.run(epoch, job)
                && done.send(finished).is_err()
            {
                return;
            }
        }
    }

    /// Makes one sample; whoever makes the last of a batch returns the batch.
    fn run(&self, epoch: u64, job: Job<T>) -> Option<Finished<T>> {
        let fault = |reason, replaceable| {
            let id = self.entries[job.index].id.clone();
            Fault { id, reason, replaceable }
        };
        let sample = catch_unwind(AssertUnwindSafe(|| self.sample(epoch, job.index)))
            .unwrap_or_else(|panic| Err((format!("reading it panicked: {}", message(&*panic)), false)))
            .map_err(|(reason, replaceable)| fault(reason, replaceable));
        // Nothing panics while the lock is held.
        let mut slots = job.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.samples[job.place] = Some(sample);
        slots.missing -= 1;
        if slots.missing > 0 {
            return None;
        }
        let samples = std::mem::take(&mut slots.samples);
        drop(slots);
        Some((job.batch, HostBatch::new(samples.into_iter().flatten().collect())))
    }

    /// The sample of entry `index`, or the reason why there is none and whether it may be replaced.
    fn sample(&self, epoch: u64, index: usize) -> Result<Prepared<T>, (String, bool)> {
        let entry = &self.entries[index];
        let target = (self.target)(entry).map_err(|reason| (reason, false))?;
        let image = match &entry.image {
            ImageRef::File(path) => Image::open(path, self.channels).map_err(|e| (e.to_string(), true))?,
            ImageRef::Memory(image) => image.with_channels(self.channels).map_err(|reason| (reason, true))?,
        };
        target.fits(image.size()).map_err(|reason| (reason, false))?;
        let mut rng = Rng::new(self.seed, "augment", &[epoch, index as u64]);
        let sample = Sample::new(entry.id.clone(), image, target);
        self.prepare.prepare(sample, &mut rng).map_err(|reason| (reason, true))
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// A batch in host memory.
struct HostBatch<T> {
    ids: Vec<SampleId>,
    /// [B, C, H, W] row-major.
    pixels: Vec<f32>,
    /// (C, H, W)
    shape: (usize, usize, usize),
    frames: Vec<Frame>,
    targets: Vec<T>,
    skipped: Vec<Fault>,
}

impl<T: Clone> HostBatch<T> {
    fn new(samples: Vec<Result<Prepared<T>, Fault>>) -> Result<Self, LoadError> {
        let (mut readable, mut skipped) = (Vec::with_capacity(samples.len()), vec![]);
        for sample in samples {
            match sample {
                Ok(sample) => readable.push(Some(sample)),
                Err(fault) if fault.replaceable => {
                    readable.push(None);
                    skipped.push(fault);
                }
                Err(Fault { id, reason, .. }) => return Err(LoadError::Sample { id, reason }),
            }
        }
        let samples = replace(readable);
        let (count, shape) = (samples.len(), samples.first().map_or((0, 0, 0), |s| s.shape));
        let mut pixels = Vec::with_capacity(count * shape.0 * shape.1 * shape.2);
        let (mut ids, mut frames, mut targets) = (vec![], vec![], vec![]);
        for sample in samples {
            if sample.shape != shape {
                return Err(LoadError::Shape { id: sample.id, first: shape, other: sample.shape });
            }
            pixels.extend_from_slice(&sample.pixels);
            ids.push(sample.id);
            frames.push(sample.frame);
            targets.push(sample.target);
        }
        Ok(Self { ids, pixels, shape, frames, targets, skipped })
    }

    fn into_batch(self, device: &Device) -> Result<Batch<T>, LoadError> {
        let (channels, height, width) = self.shape;
        let shape = (self.ids.len(), channels, height, width);
        let images = Tensor::from_vec(self.pixels, shape, device)?; // [B, C, H, W]
        Ok(Batch { ids: self.ids, images, frames: self.frames, targets: self.targets })
    }
}

/// Puts the next sample, cyclically, where one is missing; nothing when all are.
fn replace<S: Clone>(mut samples: Vec<Option<S>>) -> Vec<S> {
    let count = samples.len();
    for missing in 0..count {
        if samples[missing].is_none() {
            samples[missing] = (1..count).find_map(|k| samples[(missing + k) % count].clone());
        }
    }
    samples.into_iter().flatten().collect()
}

/// An epoch under way: an iterator of batches, which ends at the first error.
pub struct Epoch<T> {
    work: Arc<Work<T>>,
    config: LoaderConfig,
    device: Device,
    epoch: u64,
    /// Entries in the order of this epoch.
    order: Vec<usize>,
    /// The next batch, the first that the workers have not been asked for, and how many there are.
    next: usize,
    asked: usize,
    batches: usize,
    jobs: Sender<Job<T>>,
    results: Receiver<Finished<T>>,
    /// Batches that came before their turn.
    waiting: BTreeMap<usize, Result<HostBatch<T>, LoadError>>,
    skips: usize,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl<T: Geometric + Clone> Epoch<T> {
    /// What has to be done for batch `number`.
    fn work_of(&self, number: usize) -> impl Iterator<Item = Job<T>> + use<T> {
        let first = number * self.config.batch;
        let entries = self.order[first..(first + self.config.batch).min(self.order.len())].to_vec();
        let samples = entries.iter().map(|_| None).collect();
        let slots = Arc::new(Mutex::new(Slots { samples, missing: entries.len() }));
        let job = move |(place, index)| Job { batch: number, place, index, slots: slots.clone() };
        entries.into_iter().enumerate().map(job)
    }

    /// Waits for batch `number`, with `prefetch` more under way.
    fn wait(&mut self, number: usize) -> Result<HostBatch<T>, LoadError> {
        if self.workers.is_empty() {
            let finished = self.work_of(number).filter_map(|job| self.work.run(self.epoch, job)).last();
            return finished.map_or(Err(LoadError::Workers(number)), |(_, host)| host);
        }
        let last = (number + 1 + self.config.prefetch).min(self.batches);
        while self.asked < last {
            for job in self.work_of(self.asked) {
                // That nobody listens is found below.
                let _ = self.jobs.send(job);
            }
            self.asked += 1;
        }
        loop {
            if let Some(host) = self.waiting.remove(&number) {
                return host;
            }
            let (finished, host) = self.results.recv().map_err(|_| LoadError::Workers(number))?;
            self.waiting.insert(finished, host);
        }
    }

    fn load(&mut self) -> Result<Loaded<T>, LoadError> {
        let mut host = self.wait(self.next)?;
        self.next += 1;
        let mut skipped = vec![];
        for Fault { id, reason, .. } in std::mem::take(&mut host.skipped) {
            self.skips += 1;
            let (allowed, count) = (self.config.allowed_skips, self.skips);
            if allowed == 0 || host.ids.is_empty() && allowed != ANY_SKIPS {
                return Err(LoadError::Sample { id, reason });
            }
            if count > allowed {
                return Err(LoadError::TooMany { count, allowed, id, reason });
            }
            skipped.push(id);
        }
        Ok(Loaded { batch: host.into_batch(&self.device)?, skipped })
    }
}

impl<T: Geometric + Clone> Iterator for Epoch<T> {
    type Item = Result<Loaded<T>, LoadError>;

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
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    /// Gives the first byte plus noise, so that randomness shows in the pixels; some bytes make trouble.
    struct Noise;
    impl Prepare<u32> for Noise {
        fn prepare(&self, s: Sample<u32>, rng: &mut Rng) -> Result<Prepared<u32>, String> {
            match s.image.data[0] {
                99 => return Err("bad".into()),
                98 => panic!("worse"),
                97 => std::thread::sleep(Duration::from_millis(20)),
                _ => {}
            }
            let shape = if s.image.data[0] == 96 { (1, 1, 2) } else { (1, 1, 1) };
            let pixels = vec![f32::from(s.image.data[0]) + rng.random::<f32>(); shape.2];
            Ok(Prepared { id: s.id, pixels, shape, frame: s.frame, target: s.target })
        }
    }

    fn config(workers: usize, shuffle: bool, allowed_skips: usize) -> LoaderConfig {
        LoaderConfig {
            seed: 3,
            batch: 4,
            workers,
            prefetch: 2,
            shuffle,
            drop_last: shuffle,
            allowed_skips,
            channels: 1,
        }
    }

    fn of_entries(entries: Vec<Entry>, config: LoaderConfig) -> Loader<u32> {
        let target: TargetFn<u32> = Arc::new(|e| match e.annotation {
            Annotation::Label(label) => Ok(label),
            _ => Err("no label".into()),
        });
        Loader::new(Arc::new(entries), target, Arc::new(Noise), config, Device::Cpu)
    }

    /// One-pixel images of these values, each with its place as label.
    fn entries(values: &[u8]) -> Vec<Entry> {
        let entry = |(i, v): (usize, &u8)| Entry {
            id: SampleId::new(format!("{i}")),
            image: ImageRef::Memory(Arc::new(Image::new(1, 1, 1, vec![*v]))),
            annotation: Annotation::Label(i as u32),
        };
        values.iter().enumerate().map(entry).collect()
    }

    fn loader(values: &[u8], workers: usize, shuffle: bool, allowed_skips: usize) -> Loader<u32> {
        of_entries(entries(values), config(workers, shuffle, allowed_skips))
    }

    fn pixels(loader: &Loader<u32>, epoch: u64, start: usize) -> Vec<Vec<f32>> {
        let values = |loaded: Result<Loaded<u32>, LoadError>| {
            loaded.unwrap().batch.images.flatten_all().unwrap().to_vec1().unwrap()
        };
        loader.epoch(epoch, start).map(values).collect()
    }

    fn first_error(loader: &Loader<u32>) -> String {
        loader.epoch(0, 0).find_map(Result::err).unwrap().to_string()
    }

    #[test]
    fn workers_change_nothing_and_an_epoch_starts_anywhere() {
        let values: Vec<u8> = (0..42).collect();
        let one = pixels(&loader(&values, 0, true, 0), 5, 0);
        assert_eq!((one.len(), loader(&values, 0, true, 0).batches()), (10, 10));
        for workers in [0, 1, 2, 4, 7] {
            assert_eq!(pixels(&loader(&values, workers, true, 0), 5, 0), one);
            assert_eq!(pixels(&loader(&values, workers, true, 0), 5, 7), one[7..]);
            assert!(pixels(&loader(&values, workers, true, 0), 5, 10).is_empty());
        }
        assert_ne!(pixels(&loader(&values, 1, true, 0), 6, 0), one);
        let mut seen: Vec<u32> = one.concat().iter().map(|v| *v as u32).collect();
        assert!(!seen.is_sorted());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 40);
    }

    #[test]
    fn evaluation_keeps_order_and_the_last_batch() {
        for workers in [0, 2] {
            let in_order = pixels(&loader(&[0, 1, 2, 3, 4, 5], workers, false, 0), 0, 0);
            assert_eq!(in_order.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2]);
            assert!(in_order.concat().iter().enumerate().all(|(i, v)| *v as usize == i));
        }
    }

    #[test]
    fn unreadable_samples_stop_or_are_replaced() {
        let values = [0, 99, 2, 3, 4, 5, 6, 99, 99, 9];
        for workers in [0, 1, 3] {
            let error = first_error(&loader(&values, workers, false, 0));
            assert!(error.contains("`1`") && error.contains("bad"), "{error}");
            let loaded: Vec<_> = loader(&values, workers, false, 3).epoch(0, 0).map(Result::unwrap).collect();
            assert_eq!(loaded[0].batch.targets, [0, 2, 2, 3]);
            assert_eq!(loaded[1].batch.targets, [4, 5, 6, 4]);
            assert_eq!(loaded[1].skipped, [SampleId::new("7")]);
            assert_eq!(loaded[2].batch.targets, [9, 9]);
            let error = first_error(&loader(&values, workers, false, 2));
            assert!(
                error.contains("3 unreadable images in an epoch, 2 are allowed; the last is `8`"),
                "{error}"
            );
            let error = first_error(&loader(&[99; 4], workers, false, 9));
            assert!(error.contains("sample `0`: bad"), "{error}");
            let any = loader(&[99, 99, 99, 99, 5], workers, false, ANY_SKIPS);
            let loaded: Vec<_> = any.epoch(0, 0).map(Result::unwrap).collect();
            assert!(loaded[0].batch.is_empty() && loaded[0].skipped.len() == 4);
            assert_eq!(loaded[1].batch.targets, [4]);
        }
    }

    #[test]
    fn an_iterator_ends_with_its_error() {
        let loader = loader(&[99, 1, 2, 3, 4, 5, 6, 7], 2, false, 0);
        let mut epoch = loader.epoch(0, 0);
        assert!(epoch.next().unwrap().is_err());
        assert!(epoch.next().is_none());
    }

    #[test]
    fn panics_and_wrong_annotations_are_never_skipped() {
        for workers in [0, 2] {
            let error = first_error(&loader(&[1, 98, 1, 1], workers, false, 9));
            assert!(error.contains("`1`: reading it panicked: worse"), "{error}");
            let mut unlabelled = entries(&[1; 4]);
            unlabelled[2].annotation = Annotation::None;
            let error = first_error(&of_entries(unlabelled, config(workers, false, 9)));
            assert_eq!(error, "sample `2`: no label");
            let error = first_error(&loader(&[1, 1, 96, 1], workers, false, 9));
            assert!(error.contains("(1, 1, 1) and, of `2`, (1, 1, 2)"), "{error}");
        }
    }

    #[test]
    fn a_corrupt_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let whole: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/golden/decode/444.jpg"].iter().collect();
        let cut = folder.path().join("cut.jpg");
        std::fs::write(&cut, &std::fs::read(&whole).unwrap()[..900]).unwrap();
        let entry = |(label, path): (u32, &PathBuf)| Entry {
            id: SampleId::new(path.file_name().unwrap().to_string_lossy()),
            image: ImageRef::File(path.clone()),
            annotation: Annotation::Label(label),
        };
        let entries: Vec<Entry> = (0..).zip([&whole, &cut, &whole]).map(entry).collect();
        let error = first_error(&of_entries(entries.clone(), config(2, false, 0)));
        for words in ["sample `cut.jpg`", &cut.display().to_string(), "truncated"] {
            assert!(error.contains(words), "{error}");
        }
        let loader = of_entries(entries, config(2, false, 1));
        let loaded = loader.epoch(0, 0).next().unwrap().unwrap();
        assert_eq!(loaded.skipped, [SampleId::new("cut.jpg")]);
        assert_eq!(loaded.batch.targets, [0, 2, 2]);
    }

    #[test]
    fn dropping_an_epoch_ends_its_workers_soon() {
        for _ in 0..20 {
            let loader = loader(&[1; 90], 3, true, 0);
            let mut epoch = loader.epoch(0, 0);
            epoch.next();
            drop(epoch);
            assert_eq!(Arc::strong_count(&loader.work), 1);
            drop(loader.epoch(0, 0)); // before its first batch
        }
        let slow = LoaderConfig { prefetch: 200, ..config(2, false, 0) };
        let loader = of_entries(entries(&[97; 800]), slow);
        let mut epoch = loader.epoch(0, 0);
        epoch.next();
        let began = Instant::now();
        drop(epoch);
        assert!(began.elapsed() < Duration::from_secs(2), "the queue of 8 s was emptied first");
        assert_eq!(Arc::strong_count(&loader.work), 1);
    }

    #[test]
    fn waiting_batches_are_bounded() {
        let loader = loader(&[1; 80], 2, false, 0);
        let mut epoch = loader.epoch(0, 0);
        for taken in 1..=20 {
            epoch.next().unwrap().unwrap();
            assert_eq!(epoch.asked, (taken + 2).min(20));
        }
    }
}
