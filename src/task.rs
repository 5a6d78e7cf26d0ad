//! The plugin interface: a *kind* of task is a type that implements [`Task`]; a *task* is one value
//! of it, made from a manifest `tasks/<name>/task.toml`.

use crate::config::Operation;
use crate::data::{Batch, DatasetInfo, Entry, Geometric, Image, Size, SourceTransform};
use crate::metrics::Metric;
use crate::models::{Backbone, BackboneSpec, Features};
use crate::nn::{Losses, Pass};
use crate::record::ScoreSpec;
use crate::rng::Rng;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// A kind of task: what is predicted, how it is learnt and how it is scored.
pub trait Task: Sized + Send + Sync + 'static {
    /// The word in a manifest.
    const KIND: &'static str;
    /// `[options]` of the manifest: the protocol. Derive `Deserialize` with `deny_unknown_fields`.
    type Options: DeserializeOwned + Serialize;
    /// `[transfer.head]` of the recipe: how the head is trained. Derive `Deserialize` with `deny_unknown_fields`.
    type HeadConfig: DeserializeOwned + Serialize;
    type Target: Geometric + Clone + Send + Sync + 'static;
    type Prediction: Send + 'static;
    type Head: Head<Target = Self::Target, Prediction = Self::Prediction> + 'static;

    fn new(options: Self::Options, config: Self::HeadConfig, dataset: &DatasetInfo) -> anyhow::Result<Self>;
    /// Every score that evaluation returns, exactly.
    fn scores(&self) -> &[ScoreSpec];
    /// Makes the target of one entry; the error names what is wrong with its annotation.
    fn target(&self, entry: &Entry) -> anyhow::Result<Self::Target>;
    /// Checks the entries of a split before anything is trained or scored on them. Refuses nothing by default.
    ///
    /// # Errors
    /// Entries that cannot be scored as the options say; the error names the entry and the option.
    fn check(&self, _entries: &[Entry]) -> anyhow::Result<()> {
        Ok(())
    }
    /// Builds the head from the specification of a backbone. Names are relative to the root of the checkpoint.
    fn head(&self, backbone: &BackboneSpec, params: VarBuilder) -> candle_core::Result<Self::Head>;
    fn metric(&self) -> Box<dyn Metric<Target = Self::Target, Prediction = Self::Prediction>>;
    /// Mixes samples of a training batch (mixup, cutmix). Does nothing by default.
    fn mix(&self, _batch: &mut Batch<Self::Target>, _rng: &mut Rng) -> candle_core::Result<()> {
        Ok(())
    }
    /// Whether evaluation images come one at a time, in the size that the protocol leaves them, for [`Head::infer`] to cut;
    /// otherwise in batches of the model's input size.
    fn any_size(&self) -> bool {
        false
    }
    /// Draws a prediction over its image: the picture of `bench predict`. `None` when the kind draws nothing, as by
    /// default.
    fn draw(
        &self,
        _image: &Image,
        _prediction: &Self::Prediction,
        _how: &Drawing,
    ) -> anyhow::Result<Option<RgbImage>> {
        Ok(None)
    }
    /// What puts predictions into files below `folder`, which exists. `None` when the kind writes none, as by default.
    fn writer(&self, _folder: &Path) -> Option<Box<dyn Writer<Prediction = Self::Prediction>>> {
        None
    }
    /// Reads predictions from files, one for each of `entries` in their order: what `bench eval --predictions` scores.
    ///
    /// # Errors
    /// A kind that reads none; files that are not of its format or not about these entries.
    fn read_predictions<'a>(
        &'a self,
        _files: &[PathBuf],
        _entries: &'a [Entry],
    ) -> anyhow::Result<Predictions<'a, Self::Prediction>> {
        anyhow::bail!("kind `{}` does not read predictions from files", Self::KIND)
    }
    /// The prediction that would score best for `target`: lets `task check` prove that evaluation can reach its maximum.
    fn perfect(&self, target: &Self::Target) -> Self::Prediction;
}

/// Predictions, one after the other.
pub type Predictions<'a, P> = Box<dyn Iterator<Item = anyhow::Result<P>> + 'a>;

/// How predictions are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// The least score of what is drawn, where predictions have scores: 0 to 1.
    pub threshold: f32,
}

/// One image that was predicted.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The file it was read from.
    pub path: &'a Path,
    /// Its name below the output folder, with `/` and, where no other image has the same, without an end: `street/0001`.
    pub name: &'a str,
    /// Its place among the images, from 1.
    pub number: usize,
    /// (height, width) of the image as decoded.
    pub size: Size,
}

/// Puts predictions into files.
pub trait Writer: Send {
    type Prediction;
    /// The files that it will write for images of these names, relative to its folder.
    fn files(&self, names: &[String]) -> Vec<PathBuf>;
    /// Takes in the prediction of one image. Called in the order of the images.
    fn write(&mut self, picture: &Picture, prediction: &Self::Prediction) -> anyhow::Result<()>;
    /// Writes what belongs to all images together.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// The trainable part that a task puts on a backbone.
pub trait Head: Send + Sync {
    type Target;
    type Prediction;
    /// Blocks it reads, from 0.
    fn taps(&self) -> &[usize];
    /// Whether it reads the class token ([`Features::cls`]).
    fn reads_cls(&self) -> bool {
        false
    }
    fn loss(
        &self,
        features: &Features,
        batch: &Batch<Self::Target>,
        pass: &mut Pass,
    ) -> candle_core::Result<Losses>;
    /// Whether [`Head::fit`] takes the place of training: one pass over the training split, no gradients.
    fn fits(&self) -> bool {
        false
    }
    /// Takes in the features of a batch of the training split, unaugmented. Called in order, and only when
    /// [`Head::fits`]; what it keeps is not saved but fitted anew.
    fn fit(&mut self, _features: &Features, _batch: &Batch<Self::Target>) -> candle_core::Result<()> {
        Ok(())
    }
    /// One prediction a sample, in source-image coordinates.
    fn predict(
        &self,
        features: &Features,
        source_transforms: &[SourceTransform],
    ) -> candle_core::Result<Vec<Self::Prediction>>;
    /// One prediction an image of an evaluation batch [B, C, H, W]; runs the backbone itself, once by default. A head
    /// that reads images piece by piece ([`Task::any_size`]) overrides it.
    fn infer(
        &self,
        images: &Tensor,
        source_transforms: &[SourceTransform],
        forward: &Forward,
    ) -> candle_core::Result<Vec<Self::Prediction>> {
        self.predict(&forward.run(images)?, source_transforms)
    }
}

/// The backbone during evaluation, as a head sees it.
pub struct Forward<'a> {
    backbone: &'a dyn Backbone,
    taps: &'a [usize],
    input: Size,
}

impl<'a> Forward<'a> {
    /// A backbone for images of `input` (height, width), of which the blocks `taps` are read.
    pub fn new(backbone: &'a dyn Backbone, taps: &'a [usize], input: Size) -> Self {
        Self { backbone, taps, input }
    }

    /// (height, width) of the images that it takes.
    pub fn input(&self) -> Size {
        self.input
    }

    /// Features of `images` [B, C, H, W] of the input size, without randomness.
    pub fn run(&self, images: &Tensor) -> candle_core::Result<Features> {
        self.backbone.forward(images, self.taps, &mut Pass::Eval)
    }
}

/// A parsed `task.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    /// Raised when a score could change; a table never mixes versions.
    pub version: u32,
    pub kind: String,
    pub dataset: String,
    /// The score that ranks runs.
    pub primary: String,
    /// Recipe used when `--recipe` is not given.
    pub recipe: String,
    pub splits: Splits,
    /// The kind's own options, strictly parsed by it.
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub options: toml::Table,
    /// The evaluation protocol: no recipe can touch it.
    pub eval: Vec<Operation>,
    /// The folder the manifest was read from.
    #[serde(skip)]
    pub home: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    pub train: String,
    pub eval: String,
    /// What `bench pretrain --task` reads; the training split when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::Manifest;
    use crate::config::{Library, parse};

    #[test]
    fn every_built_in_manifest_parses_and_bears_the_name_of_its_folder() {
        let library = Library::default();
        let tasks = library.list("tasks");
        assert!(tasks.len() >= 7, "{tasks:?}");
        for task in tasks {
            let (text, origin) = library.text(&format!("tasks/{task}/task.toml")).unwrap();
            let manifest: Manifest = parse(&text, origin).unwrap();
            assert_eq!(manifest.name, task);
            // Sliding windows take images as they are.
            let protocol = !manifest.eval.is_empty() || manifest.options.contains_key("stride");
            assert!(protocol, "{task}: a protocol");
        }
    }
}
