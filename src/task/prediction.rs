//! [`PredictionIo`]: drawing predictions on images, and writing them to and reading them from files.

use crate::data::{Entry, Image, Size};
use crate::draw::Drawing;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Predictions that are read from files.
pub struct Predictions<'a, P> {
    /// One after another, each with the error that reading it may raise.
    pub each: Box<dyn Iterator<Item = Result<P>> + 'a>,
    /// What was left out of the files, one sentence each, with counts.
    pub notes: Vec<String>,
}

/// Drawing, writing and reading of predictions, for `bench predict` and `bench eval --predictions`. Every method has a
/// default that does nothing, so that a kind implements only what it supports.
pub trait PredictionIo: Send + Sync {
    /// Same as the prediction of the task.
    type Prediction;

    /// Draws a prediction on its image, for `bench predict` and the pictures of `bench demo`. `None` by default: nothing is
    /// drawn.
    ///
    /// # Errors
    /// A prediction that does not fit the image.
    fn draw(
        &self,
        _image: &Image,
        _prediction: &Self::Prediction,
        _options: &DrawOptions,
    ) -> Result<Option<Drawing>> {
        Ok(None)
    }

    /// Creates a writer of prediction files in `folder`, which exists when the first prediction is written, but not
    /// necessarily before. `None` by default: no files are written.
    fn writer(&self, _folder: &Path) -> Option<Box<dyn PredictionWriter<Prediction = Self::Prediction>>> {
        None
    }

    /// Reads predictions from files, one for each of `entries` and in their order, for `bench eval --predictions`.
    /// `None` by default: the kind cannot read predictions.
    ///
    /// # Errors
    /// Files in another format, or files that do not belong to these entries.
    fn read<'a>(
        &'a self,
        _files: &[PathBuf],
        _entries: &'a [Entry],
    ) -> Result<Option<Predictions<'a, Self::Prediction>>> {
        Ok(None)
    }
}

/// Writes predictions to files.
pub trait PredictionWriter: Send {
    /// Same as the prediction of the task.
    type Prediction;

    /// Paths of the files that it will write for images with these names, relative to its folder.
    fn files(&self, names: &[String]) -> Vec<PathBuf>;

    /// Adds the prediction of one image. Called in the order of the images.
    ///
    /// # Errors
    /// A file that cannot be written.
    fn write(&mut self, image: &PredictedImage, prediction: &Self::Prediction) -> Result<()>;

    /// Writes the files that cover all images.
    ///
    /// # Errors
    /// A file that cannot be written.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Options for drawing predictions.
#[derive(Clone, Copy, Debug)]
pub struct DrawOptions {
    /// Predictions with a lower score are not drawn, if the kind's predictions have scores: 0 to 1.
    pub threshold: f32,
    /// Whether the prediction is the annotation itself ([`Task::annotation`](super::Task::annotation)), which has no scores.
    pub truth: bool,
}

/// An image for which a prediction was made.
#[derive(Clone, Copy, Debug)]
pub struct PredictedImage<'a> {
    /// The file that it was read from.
    pub path: &'a Path,
    /// Its name in the output folder, with `/` as separator: `street/0001`. The file extension is dropped if the name
    /// is still unique without it.
    pub name: &'a str,
    /// Its position among the images, from 1.
    pub number: usize,
    /// (height, width) of the decoded image.
    pub size: Size,
}
