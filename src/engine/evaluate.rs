//! Evaluation: features, predictions, metric, scores, over a whole split once.

use super::observer::{Control, Event};
use crate::data::loader::Loader;
use crate::data::{Entry, Size};
use crate::models::Backbone;
use crate::ops::no_grad;
use crate::record::Scores;
use crate::task::{Forward, Head, Task};
use anyhow::{Result, bail, ensure};

/// Scores of `head` on `backbone`, which takes images of `input` (height, width), over the images of `loader` (in order, none dropped).
///
/// # Errors
/// An unreadable image, or scores other than the kind declares. Stopping in the middle is an error too: there is
/// no score of half a split.
pub fn evaluate<T: Task>(
    task: &T,
    backbone: &dyn Backbone,
    head: &T::Head,
    input: Size,
    loader: &Loader<T::Target>,
    total: usize,
    control: &Control,
) -> Result<Scores> {
    let mut metric = task.metric();
    let forward = Forward::new(backbone, head.taps(), input);
    let mut done = 0;
    control.tell(Event::Evaluating { done, total });
    for loaded in loader.epoch(0, 0) {
        let batch = loaded?.batch;
        let predictions = no_grad(|| head.infer(&batch.images, &batch.frames, &forward))?;
        ensure!(
            predictions.len() == batch.len(),
            "kind `{}`: {} predictions for {} images",
            T::KIND,
            predictions.len(),
            batch.len()
        );
        done += batch.len();
        for ((id, prediction), target) in batch.ids.iter().zip(predictions).zip(&batch.targets) {
            metric.update(id, prediction, target)?;
        }
        control.tell(Event::Evaluating { done, total });
        if control.stopped() {
            bail!("stopped during evaluation, after {done} of {total} images");
        }
    }
    let scores = metric.finish()?;
    declared(task, &scores)?;
    Ok(scores)
}

/// Scores of the best possible predictions for `entries`.
pub fn perfect<T: Task>(task: &T, entries: &[Entry]) -> Result<Scores> {
    let mut metric = task.metric();
    for entry in entries {
        let target = task.target(entry)?;
        metric.update(&entry.id, task.perfect(&target), &target)?;
    }
    let scores = metric.finish()?;
    declared(task, &scores)?;
    Ok(scores)
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
