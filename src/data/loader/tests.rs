//! Order, bytes and errors of a loader do not depend on its workers.

use super::*;
use crate::data::{Annotation, Image, ImageRef, PreparedSample, Sample};
use rand::Rng as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Gives the first byte plus noise, so that randomness shows in the pixels; some bytes make trouble.
struct Noise;
impl<T> PrepareSample<T> for Noise {
    fn prepare(&self, s: Sample<T>, rng: &mut Rng) -> Result<PreparedSample<T>, String> {
        match s.image.data[0] {
            99 => return Err("bad".into()),
            98 => panic!("worse"),
            97 => std::thread::sleep(Duration::from_millis(20)),
            _ => {}
        }
        let shape = if s.image.data[0] == 96 { (1, 1, 2) } else { (1, 1, 1) };
        let pixels = vec![f32::from(s.image.data[0]) + rng.random::<f32>(); shape.2];
        let Sample { id, target, source_transform, .. } = s;
        Ok(PreparedSample { id, pixels, shape, source_transform, target })
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
    Loader::new(Arc::new(entries), Arc::new(label), Arc::new(Noise), config, Device::Cpu)
}

fn label(entry: &Entry) -> Result<u32, String> {
    match entry.annotation {
        Annotation::Label(label) => Ok(label),
        _ => Err("no label".into()),
    }
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

/// The same with `views` further views of each image.
fn with_views(values: &[u8], workers: usize, allowed_skips: usize, views: usize) -> Loader<u32> {
    let view = || Arc::new(Noise) as Arc<dyn PrepareSample<()>>;
    let views = (0..views).map(|_| view()).collect();
    let (entries, config) = (Arc::new(entries(values)), config(workers, true, allowed_skips));
    Loader::with_views(entries, Arc::new(label), Arc::new(Noise), views, config, Device::Cpu)
}

fn loader(values: &[u8], workers: usize, shuffle: bool, allowed_skips: usize) -> Loader<u32> {
    of_entries(entries(values), config(workers, shuffle, allowed_skips))
}

fn pixels(loader: &Loader<u32>, epoch: u64, start: usize) -> Vec<Vec<f32>> {
    let values = |loaded: Result<Loaded<u32>, LoaderError>| {
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
            error.contains("3 unreadable images in an epoch, but only 2 are allowed; the last is `8`"),
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
    let whole: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../tests/golden/decode/444.jpg"].iter().collect();
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
        assert_eq!(Arc::strong_count(&loader.maker), 1);
        drop(loader.epoch(0, 0)); // before its first batch
    }
    let slow = LoaderConfig { prefetch: 200, ..config(2, false, 0) };
    let loader = of_entries(entries(&[97; 800]), slow);
    let mut epoch = loader.epoch(0, 0);
    epoch.next();
    let began = Instant::now();
    drop(epoch);
    assert!(began.elapsed() < Duration::from_secs(2), "the queue of 8 s was emptied first");
    assert_eq!(Arc::strong_count(&loader.maker), 1);
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

/// Values of the images and of every view, batch by batch.
fn all_views(loader: &Loader<u32>, epoch: u64, start: usize) -> Vec<Vec<Vec<f32>>> {
    let values = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    let batch = |loaded: Result<Loaded<u32>, LoaderError>| {
        let Batch { images, views, .. } = loaded.unwrap().batch;
        std::iter::once(&images).chain(&views).map(values).collect()
    };
    loader.epoch(epoch, start).map(batch).collect()
}

#[test]
fn views_show_the_same_images_with_randomness_of_their_own() {
    let values: Vec<u8> = (0..22).collect();
    let without = pixels(&loader(&values, 0, true, 0), 5, 0);
    let one = all_views(&with_views(&values, 0, 0, 2), 5, 0);
    assert_eq!(one.len(), 5);
    for (batch, first) in one.iter().zip(&without) {
        assert_eq!((batch.len(), &batch[0]), (3, first), "the first view is as without others");
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let same_image = |(x, y): (&f32, &f32)| x.floor() == y.floor() && x != y;
            assert!(batch[a].iter().zip(&batch[b]).all(same_image), "{:?}", batch);
        }
    }
    for workers in [1, 2, 5] {
        let loader = with_views(&values, workers, 0, 2);
        assert_eq!(all_views(&loader, 5, 0), one);
        assert_eq!(all_views(&loader, 5, 3), one[3..], "an epoch starts anywhere");
    }
    let three = all_views(&with_views(&values, 2, 0, 3), 5, 0);
    assert!(three.iter().zip(&one).all(|(three, two)| three[..3] == two[..]), "a view more changes no other");
    assert_ne!(all_views(&with_views(&values, 0, 0, 2), 6, 0), one);
}

#[test]
fn an_unreadable_image_is_replaced_in_every_view() {
    let values = [0, 99, 2, 3, 4, 5, 6, 7];
    for workers in [0, 3] {
        let loader = with_views(&values, workers, 1, 2);
        assert_eq!(loader.views(), 2);
        for loaded in loader.epoch(1, 0).map(Result::unwrap) {
            let batch = loaded.batch;
            assert!(!batch.targets.contains(&1));
            for images in std::iter::once(&batch.images).chain(&batch.views) {
                let found: Vec<f32> = images.flatten_all().unwrap().to_vec1().unwrap();
                let found: Vec<u32> = found.iter().map(|value| *value as u32).collect();
                assert_eq!(found, batch.targets, "values are places, as targets are");
            }
        }
    }
}

#[test]
fn views_have_shapes_of_their_own() {
    /// One image of 2×3 pixels.
    struct Wide;
    impl PrepareSample<()> for Wide {
        fn prepare(&self, s: Sample<()>, _: &mut Rng) -> Result<PreparedSample<()>, String> {
            let Sample { id, target, source_transform, .. } = s;
            Ok(PreparedSample { id, pixels: vec![0.; 6], shape: (1, 2, 3), source_transform, target })
        }
    }
    let (entries, config) = (Arc::new(entries(&[1; 6])), config(2, false, 0));
    let views: Vec<Arc<dyn PrepareSample<()>>> = vec![Arc::new(Wide)];
    let loader = Loader::with_views(entries, Arc::new(label), Arc::new(Noise), views, config, Device::Cpu);
    let shapes: Vec<_> = loader.epoch(0, 0).map(|l| l.unwrap().batch.views[0].dims().to_vec()).collect();
    assert_eq!(shapes, [[4, 1, 2, 3], [2, 1, 2, 3]]);
}
