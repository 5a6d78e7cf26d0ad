//! Evaluation: one pass over a whole split, from features to predictions to scores.

use super::observer::{Control, Event};
use crate::data::loader::Loader;
use crate::data::{Batch, Entry, SampleId, Size};
use crate::metrics::{Findings, Metric};
use crate::models::Backbone;
use crate::ops::no_grad;
use crate::record::Scores;
use crate::task::{Forward, Head, Task};
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The scores of an evaluation, and the time that it took.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// Scores, scores of each class, and what explains them.
    pub findings: Findings,
    /// Number of images.
    pub images: usize,
    /// Time for reading images and predicting, or for reading predictions from files.
    pub predicting: Duration,
    /// Time for computing scores from the predictions.
    pub scoring: Duration,
}

/// Scores of `head` on `backbone`, which takes images of `input` (height, width), over the images of `loader`
/// (in order, none dropped).
///
/// # Errors
/// An unreadable image, or scores other than the kind declares. A request to stop is an error too, because part
/// of a split has no score.
pub fn evaluate<T: Task>(
    task: &T,
    backbone: &dyn Backbone,
    head: &T::Head,
    input: Size,
    loader: &Loader<T::Target>,
    total: usize,
    control: &Control,
) -> Result<Evaluated> {
    let mut scorer = Scorer::new(task);
    let forward = Forward::new(backbone, head.taps(), input);
    let mut done = 0;
    control.tell(Event::Evaluating { done, total });
    for loaded in loader.epoch(0, 0) {
        let batch = loaded?.batch;
        let predictions = predictions::<T, _>(head, &batch, &forward)?;
        done += batch.len();
        for ((id, prediction), target) in batch.ids.iter().zip(predictions).zip(&batch.targets) {
            scorer.update(id, prediction, target)?;
        }
        control.tell(Event::Evaluating { done, total });
        if control.stopped() {
            bail!("stopped during evaluation, after {done} of {total} images");
        }
    }
    scorer.finish()
}

/// One prediction for each image of a batch.
pub(super) fn predictions<T: Task, U>(
    head: &T::Head,
    batch: &Batch<U>,
    forward: &Forward,
) -> Result<Vec<T::Prediction>> {
    let predictions = no_grad(|| head.infer(&batch.images, &batch.source_transforms, forward))?;
    let (found, images) = (predictions.len(), batch.len());
    ensure!(found == images, "kind `{}`: {found} predictions for {images} images", T::KIND);
    Ok(predictions)
}

/// Scores of the predictions that `files` hold for `entries`.
pub fn score_files<T: Task>(
    task: &T,
    files: &[PathBuf],
    entries: &[Entry],
    control: &Control,
) -> Result<Evaluated> {
    let mut scorer = Scorer::new(task);
    let predictions = match task.prediction_io() {
        Some(io) => io.read(files, entries)?,
        None => None,
    };
    let mut predictions =
        predictions.with_context(|| format!("kind `{}` does not read predictions from files", T::KIND))?;
    predictions.notes.iter().for_each(|note| control.tell(Event::Note(note)));
    let total = entries.len();
    for (done, entry) in entries.iter().enumerate() {
        control.tell(Event::Evaluating { done, total });
        ensure!(!control.stopped(), "stopped after {done} of {total} images");
        let prediction =
            predictions.each.next().with_context(|| format!("`{}` has no prediction", entry.id))??;
        scorer.update(&entry.id, prediction, &task.target(entry)?)?;
    }
    scorer.finish()
}

/// A metric that accumulates predictions and measures its own time.
struct Scorer<'a, T: Task> {
    task: &'a T,
    metric: Box<dyn Metric<Target = T::Target, Prediction = T::Prediction>>,
    images: usize,
    began: Instant,
    scoring: Duration,
}

impl<'a, T: Task> Scorer<'a, T> {
    fn new(task: &'a T) -> Self {
        let (images, scoring) = (0, Duration::ZERO);
        Self { task, metric: task.metric(), images, began: Instant::now(), scoring }
    }

    fn update(&mut self, id: &SampleId, prediction: T::Prediction, target: &T::Target) -> Result<()> {
        let began = Instant::now();
        self.metric.update(id, prediction, target)?;
        self.scoring += began.elapsed();
        self.images += 1;
        Ok(())
    }

    fn finish(self) -> Result<Evaluated> {
        let began = Instant::now();
        let findings = self.metric.finish_in_full()?;
        declared(self.task, &findings.scores)?;
        let scoring = self.scoring + began.elapsed();
        let predicting = self.began.elapsed().saturating_sub(scoring);
        Ok(Evaluated { findings, images: self.images, predicting, scoring })
    }
}

/// Scores of the best possible predictions for `entries`.
pub fn perfect<T: Task>(task: &T, entries: &[Entry]) -> Result<Scores> {
    let mut scorer = Scorer::new(task);
    for entry in entries {
        let target = task.target(entry)?;
        scorer.update(&entry.id, task.perfect(&target), &target)?;
    }
    Ok(scorer.finish()?.findings.scores)
}

/// Checks that `scores` are exactly those that the kind declares.
fn declared<T: Task>(task: &T, scores: &Scores) -> Result<()> {
    let mut declared: Vec<&str> = task.scores().iter().map(|spec| spec.name).collect();
    declared.sort_unstable();
    let found: Vec<&str> = scores.0.keys().map(String::as_str).collect();
    ensure!(
        declared == found,
        "kind `{}` declares the scores {}, but evaluation returned {}",
        T::KIND,
        declared.join(", "),
        found.join(", ")
    );
    Ok(())
}
