//! Prediction for images without annotations: drawings and files of predictions instead of scores.
//!
//! The images go through the task's protocol of evaluation. Unreadable images are named and counted, and the
//! others are predicted.

use super::evaluate::predictions;
use super::observer::Event;
use super::{LoaderSpec, RunInputs, TaskModel};
use crate::data::loader::Loader;
use crate::data::{Annotation, Entry, Image, ImageRef, Orientation, SampleId};
use crate::draw::{Drawing, Figure};
use crate::record::write_atomic;
use crate::task::{DrawOptions, Forward, Head, PredictedImage, PredictionWriter, Task};
use anyhow::{Context, Error, Result};
use image::ImageFormat;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Images to predict, and the folder for the results.
#[derive(Clone, Debug)]
pub struct Pictures<'a> {
    /// File and name of each image; see [`PredictedImage`].
    pub images: &'a [(PathBuf, String)],
    /// Existing folder for drawings and files of predictions.
    pub folder: &'a Path,
    /// Options of the drawings.
    pub how: DrawOptions,
    /// Whether images are turned as the EXIF data of their files say.
    pub orientation: Orientation,
}

impl Pictures<'_> {
    /// Path of the drawing of the image `name`.
    fn drawing(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.png"))
    }

    /// Every file that will be written.
    pub(crate) fn files<P>(&self, writer: Option<&dyn PredictionWriter<Prediction = P>>) -> Vec<PathBuf> {
        let names: Vec<String> = self.images.iter().map(|(_, name)| name.clone()).collect();
        let mut files: Vec<PathBuf> = names.iter().map(|name| self.drawing(name)).collect();
        let written = writer.map(|writer| writer.files(&names)).unwrap_or_default();
        files.extend(written.into_iter().map(|file| self.folder.join(file)));
        files
    }
}

/// Result of a prediction run.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// Images predicted.
    pub images: usize,
    /// Pictures drawn.
    pub drawn: usize,
    /// Pictures on which nothing of the prediction is drawn, because no score reaches the threshold.
    pub empty: usize,
    /// Images that could not be read, with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Time from loading the weights to writing the last file.
    pub elapsed: Duration,
}

/// Predicts `pictures`: all of them, or those before a request to stop.
pub(super) fn predict<T: Task>(
    model: &TaskModel<T>,
    run: &RunInputs,
    pictures: &Pictures,
) -> Result<Predicted> {
    let began = Instant::now();
    let task = &model.task;
    let loader = loader(task.as_ref(), run, pictures)?;
    let [height, width] = run.config.model.image;
    let forward = Forward::new(model.backbone.as_ref(), model.head.taps(), (height, width));
    let io = task.prediction_io();
    let mut writer = io.and_then(|io| io.writer(pictures.folder));
    let (mut images, mut drawn, mut empty, mut unreadable) = (0, 0, 0, vec![]);
    let total = pictures.images.len();
    let mut done = 0;
    run.control.tell(Event::Predicting { done, total });
    for loaded in loader.epoch(0, 0) {
        let loaded = loaded?;
        for id in &loaded.skipped {
            let (file, _) = &pictures.images[place(id)];
            unreadable.push((file.clone(), reason(file, run)));
        }
        if !loaded.batch.is_empty() {
            let found = predictions::<T, _>(&model.head, &loaded.batch, &forward)?;
            // Another image of the batch replaces an unreadable one and then occurs twice.
            let mut seen = BTreeSet::new();
            let found: Vec<(usize, T::Prediction)> =
                loaded.batch.ids.iter().map(place).zip(found).filter(|(k, _)| seen.insert(*k)).collect();
            let draw = |(k, prediction): (usize, T::Prediction)| -> Result<_> {
                if run.control.stopped() {
                    return Ok(None);
                }
                let (file, name) = &pictures.images[k];
                let image = image_ref(file, pictures.orientation).decode(3).map_err(Error::msg)?;
                let picture = PredictedImage { path: file, name, number: k + 1, size: image.size() };
                let drawing = match io {
                    Some(io) => io.draw(&image, &prediction, &pictures.how)?,
                    None => None,
                };
                let pictured = drawing.as_ref().map(|drawing| !drawing.legend.is_empty());
                if let Some(drawing) = drawing {
                    let mut png = Cursor::new(vec![]);
                    Figure::single(drawing).draw().write_to(&mut png, ImageFormat::Png)?;
                    save(&pictures.drawing(name), png.get_ref())?;
                }
                Ok(Some((picture, prediction, pictured)))
            };
            // In parallel, then written in order.
            let found: Vec<Option<_>> = found.into_par_iter().map(draw).collect::<Result<_>>()?;
            for (picture, prediction, pictured) in found.iter().flatten() {
                images += 1;
                drawn += usize::from(pictured.is_some());
                empty += usize::from(*pictured == Some(false));
                if let Some(writer) = &mut writer {
                    writer.write(picture, prediction)?;
                }
            }
        }
        done = (done + loader.batch()).min(total);
        run.control.tell(Event::Predicting { done, total });
        if run.control.stopped() {
            break;
        }
    }
    if let Some(writer) = writer {
        writer.finish()?;
    }
    Ok(Predicted { images, drawn, empty, unreadable, elapsed: began.elapsed() })
}

/// Draws what the model predicts for each of `entries`; none if the kind draws nothing.
pub(super) fn draw_predictions<T: Task>(
    model: &TaskModel<T>,
    run: &RunInputs,
    entries: &Arc<Vec<Entry>>,
    how: &DrawOptions,
) -> Result<Vec<Drawing>> {
    let Some(io) = model.task.prediction_io() else { return Ok(vec![]) };
    let [height, width] = run.config.model.image;
    let forward = Forward::new(model.backbone.as_ref(), model.head.taps(), (height, width));
    let spec = LoaderSpec::evaluation(run, entries.clone(), model.task.any_size());
    let mut found = vec![];
    for loaded in run.image_loader(spec)?.epoch(0, 0) {
        found.extend(predictions::<T, _>(&model.head, &loaded?.batch, &forward)?);
    }
    let draw = |(entry, prediction): (&Entry, T::Prediction)| io.draw(&decoded(entry)?, &prediction, how);
    let drawings: Vec<Option<Drawing>> = entries.iter().zip(found).map(draw).collect::<Result<_>>()?;
    Ok(drawings.into_iter().flatten().collect())
}

/// Draws the annotation of each of `entries`; none if the kind draws nothing.
///
/// # Errors
/// Images and annotations that cannot be read, or that do not fit each other.
pub fn draw_annotations<T: Task>(task: &T, entries: &[Entry]) -> Result<Vec<Drawing>> {
    let Some(io) = task.prediction_io() else { return Ok(vec![]) };
    let how = DrawOptions { threshold: 0., truth: true };
    let draw = |entry: &Entry| io.draw(&decoded(entry)?, &task.annotation(&task.target(entry)?), &how);
    let drawings: Vec<Option<Drawing>> = entries.iter().map(draw).collect::<Result<_>>()?;
    Ok(drawings.into_iter().flatten().collect())
}

/// The image of an entry, in color.
fn decoded(entry: &Entry) -> Result<Image> {
    entry.image.decode(3).map_err(Error::msg)
}

/// Images in order, without targets; unreadable ones are left out.
fn loader<T: Task>(task: &T, run: &RunInputs, pictures: &Pictures) -> Result<Loader<()>> {
    let entry = |(k, (file, _)): (usize, &(PathBuf, String))| Entry {
        id: SampleId::new(k.to_string()),
        image: image_ref(file, pictures.orientation),
        annotation: Annotation::None,
    };
    let entries = Arc::new(pictures.images.iter().enumerate().map(entry).collect());
    run.image_loader(LoaderSpec::evaluation(run, entries, task.any_size()).skipping_unreadable())
}

fn image_ref(file: &Path, orientation: Orientation) -> ImageRef {
    match orientation {
        Orientation::Ignore => ImageRef::File(file.into()),
        Orientation::Apply => ImageRef::Upright(file.into()),
    }
}

/// The index of an image among all of them, which is its id.
fn place(id: &SampleId) -> usize {
    id.as_str().parse().unwrap_or_default()
}

/// Why an image was left out.
fn reason(file: &Path, run: &RunInputs) -> String {
    match Image::open(file, run.config.model.channels) {
        Err(error) => error.reason,
        Ok(_) => "does not fit the evaluation protocol of the task".into(),
    }
}

/// Writes a file and the folders above it.
fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let context = || format!("cannot write `{}`", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(context)?;
    }
    write_atomic(path, bytes).with_context(context)
}
