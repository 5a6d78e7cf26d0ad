//! The plugin interface: a *kind* of task is a type that implements [`Task`]; a *task* is a value of that type, made from
//! a manifest `tasks/<name>/task.toml`.

mod head;
mod manifest;
mod prediction;

pub use head::{Forward, Head};
pub use manifest::{Manifest, Splits};
pub use prediction::{DrawOptions, PredictedImage, PredictionIo, PredictionWriter, Predictions};

use crate::data::{Batch, DatasetInfo, Entry, Geometric};
use crate::metrics::Metric;
use crate::models::BackboneSpec;
use crate::record::ScoreSpec;
use crate::rng::Rng;
use candle_nn::VarBuilder;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

/// A kind of task: what is predicted, how the head learns it, and how it is scored.
///
/// A minimal kind implements [`new`](Task::new), [`scores`](Task::scores), [`target`](Task::target),
/// [`head`](Task::head), [`metric`](Task::metric) and [`perfect`](Task::perfect); the other methods have defaults.
pub trait Task: Sized + Send + Sync + 'static {
    /// Name of the kind, as manifests spell it.
    const KIND: &'static str;
    /// `[options]` of the manifest: the evaluation protocol. Derive `Deserialize` with `deny_unknown_fields`, so that a
    /// misspelt key is an error.
    type Options: DeserializeOwned + Serialize + JsonSchema;
    /// `[transfer.head]` of the recipe: how the head is built and trained. Derive `Deserialize` with
    /// `deny_unknown_fields`, so that a misspelt key is an error.
    type HeadConfig: DeserializeOwned + Serialize + JsonSchema;
    /// The target of one image; it moves with the image when the image is cropped, flipped or scaled.
    type Target: Geometric + Clone + Send + Sync + 'static;
    /// The prediction for one image, in the coordinates of the source image.
    type Prediction: Send + 'static;
    /// The part of the model that the task adds to the backbone.
    type Head: Head<Target = Self::Target, Prediction = Self::Prediction> + 'static;

    /// Makes a task from its manifest, the recipe and the data set.
    ///
    /// # Errors
    /// Options that are out of range or do not fit the data set.
    fn new(options: Self::Options, config: Self::HeadConfig, dataset: &DatasetInfo) -> anyhow::Result<Self>;

    /// Every score that evaluation returns: neither more nor fewer.
    fn scores(&self) -> &[ScoreSpec];

    /// Makes the target of one entry.
    ///
    /// # Errors
    /// Says what is wrong with the annotation of the entry.
    fn target(&self, entry: &Entry) -> anyhow::Result<Self::Target>;

    /// Builds the head. It knows the sizes of the backbone, not the backbone itself; names in `params` are relative to
    /// the root of the checkpoint.
    ///
    /// # Errors
    /// A configuration that does not fit the backbone.
    fn head(&self, backbone: &BackboneSpec, params: VarBuilder) -> candle_core::Result<Self::Head>;

    /// A new metric, without any predictions yet.
    fn metric(&self) -> Box<dyn Metric<Target = Self::Target, Prediction = Self::Prediction>>;

    /// The prediction with the best possible score for `target`: `bench task check` uses it to prove that evaluation can
    /// reach its maximum.
    fn perfect(&self, target: &Self::Target) -> Self::Prediction;

    /// The annotation in the form of a prediction, to be drawn beside predictions: by default [`Task::perfect`].
    fn annotation(&self, target: &Self::Target) -> Self::Prediction {
        self.perfect(target)
    }

    /// Checks the entries of a split before anything is trained or scored on them. Accepts everything by default.
    ///
    /// # Errors
    /// Entries that cannot be scored with these options; the message names the entry and the option.
    fn check(&self, _entries: &[Entry]) -> anyhow::Result<()> {
        Ok(())
    }

    /// Mixes the samples of a training batch (mixup, cutmix). Does nothing by default.
    ///
    /// # Errors
    /// An operation that fails.
    fn mix(&self, _batch: &mut Batch<Self::Target>, _rng: &mut Rng) -> candle_core::Result<()> {
        Ok(())
    }

    /// Whether the head is fitted in one pass over the training split instead of being trained in steps, as
    /// [`Head::fits`] says of the head itself. False by default.
    fn fits(&self) -> bool {
        false
    }

    /// Smallest number of images in a forward pass of training, checked before a run: 2 for a batch norm that sees one
    /// value of each channel per image. 1 by default.
    fn least_batch(&self) -> usize {
        1
    }

    /// Whether evaluation passes images one at a time to [`Head::infer`], in whatever size the protocol gives them. False
    /// by default: images come in batches and have the input size of the model.
    fn any_size(&self) -> bool {
        false
    }

    /// Whether evaluation must show the model the whole of every image, because a task predicts what is anywhere in it and
    /// cannot find what a crop leaves out. False by default.
    fn needs_whole_images(&self) -> bool {
        false
    }

    /// An evaluation protocol that works, as in a manifest, for messages.
    fn usual_protocol(&self) -> &'static str {
        "eval = [{ op = \"resize\" }]"
    }

    /// Drawing, writing and reading of predictions. `None` by default: the kind supports none of them.
    fn prediction_io(&self) -> Option<&dyn PredictionIo<Prediction = Self::Prediction>> {
        None
    }
}
