//! `configs/{pretrain,transfer}/<name>.toml`: how to train. The evaluation protocol is not part of a recipe; it belongs
//! to the task.

use super::optim::{Optim, Schedule, positive};
use super::{AttentionConfig, Erase, Operation, SquareOrSize, Stage, Tag, Tagged, View, optional_size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A recipe: the settings of the training loop, and exactly one of `[pretrain]` and `[transfer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Label in tables for weights pre-trained with this recipe; the name of the recipe when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The model used when `--model` is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_model: Option<String>,
    /// Number of passes over the training split.
    pub epochs: usize,
    /// Effective batch: images per optimiser step.
    pub batch: usize,
    /// Images per forward pass; the effective batch is accumulated from these. When absent, or larger than the batch, the whole batch
    /// is one forward pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Stochastic depth of the last block, rising linearly from 0.
    #[serde(default)]
    pub drop_path: f64,
    /// Largest global gradient norm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Decay per step of the exponential moving average of the weights; when set, the averaged weights are evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Number of epochs between evaluations; the last is at the end of the run. When 0, the run is evaluated only at
    /// the end.
    #[serde(default)]
    pub eval_epochs: usize,
    /// Ends the run after this many evaluations in a row without a better primary score (early stopping). Needs `eval_epochs` and a task
    /// with a split for choosing, because the reported split must not choose. The scores are those of the last weights; the best
    /// ones are in `best.safetensors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<usize>,
    /// Number of epochs between numbered copies of the weights (`epoch_<n>.safetensors`); none are kept when 0.
    #[serde(default)]
    pub keep_epochs: usize,
    /// Number of steps between saves of the resumable state. When 0, it is saved at ends of epochs, at most once a
    /// minute. In both cases it is saved at least every ten minutes.
    #[serde(default)]
    pub save_steps: usize,
    /// Unreadable images that may be skipped before the run stops.
    #[serde(default)]
    pub allowed_skips: usize,
    /// Pre-training: images of the split that are not trained on. Their loss, without gradients, is the score `held_out_loss`: after the
    /// last step, and every `eval_epochs` epochs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub held_out: usize,
    /// `[optim]`: the optimiser and its numbers.
    pub optim: Optim,
    /// `[schedule]`: the learning rate over the run.
    pub schedule: Schedule,
    /// Applied in order to every training image.
    #[serde(default)]
    pub augment: Vec<Operation>,
    /// Further views of every training image, for objectives that compare views.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<View>,
    /// `[erase]`: random erasing after normalisation; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase: Option<Erase>,
    /// `[pretrain]`: the objective and its options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<ObjectiveTable>,
    /// `[transfer]`: what is trained on a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
}

impl Recipe {
    /// Images of one forward pass.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch.map_or(self.batch, |micro| micro.min(self.batch))
    }

    /// `[transfer.head]`: how the head is trained; empty where the recipe has none.
    pub fn head(&self) -> toml::Table {
        self.transfer.as_ref().map(|transfer| transfer.head.clone()).unwrap_or_default()
    }

    /// Number of views per image in a batch: the one of `augment` and those of `views`.
    pub fn view_count(&self) -> usize {
        1 + self.views.iter().map(|view| view.count).sum::<usize>()
    }

    /// Peak learning rate: `optim.lr`, or base_lr · batch / 256.
    pub fn lr(&self) -> f64 {
        self.optim.lr.unwrap_or(self.optim.base_lr * self.batch as f64 / 256.)
    }

    /// An invalid value; the message names its key.
    pub fn check(&self, stage: Stage) -> Result<(), String> {
        let wants = match stage {
            Stage::Pretrain => self.pretrain.is_some() && self.transfer.is_none(),
            Stage::Transfer => self.transfer.is_some() && self.pretrain.is_none(),
        };
        if !wants {
            return Err(format!(
                "expected exactly one of `[pretrain]` and `[transfer]`: `[{}]`",
                stage.as_str()
            ));
        }
        if self.epochs == 0 || self.batch == 0 {
            return Err("epochs and batch must be at least 1".into());
        }
        let micro = self.micro_batch();
        if micro == 0 || !self.batch.is_multiple_of(micro) {
            return Err(format!("batch {} is not a multiple of micro_batch {micro}", self.batch));
        }
        if self.held_out > 0 && stage == Stage::Transfer {
            return Err(
                "held_out is for pre-training; a transfer is evaluated on the splits of its task".into()
            );
        }
        let evaluated = self.eval_epochs > 0 && (stage == Stage::Transfer || self.held_out > 0);
        if self.early_stop.is_some() && !evaluated {
            return Err(
                "early_stop needs evaluations during training: set eval_epochs, and held_out in pre-training"
                    .into(),
            );
        }
        if self.early_stop == Some(0) {
            return Err("early_stop is 0, expected at least 1 evaluation".into());
        }
        let shares = [("drop_path", self.drop_path), ("ema", self.ema.unwrap_or(0.))];
        if let Some((key, value)) = shares.iter().find(|(_, value)| !(0. ..1.).contains(value)) {
            return Err(format!("{key} is {value}, expected 0 ≤ {key} < 1"));
        }
        if let Some(place) = self.views.iter().position(|view| view.count == 0) {
            return Err(format!("views[{place}].count is 0, expected at least 1"));
        }
        positive("clip", self.clip.unwrap_or(1.))?;
        self.optim.check()?;
        self.schedule.check()?;
        match self.transfer.as_ref().map(|t| t.tune) {
            Some(tune) if tune != Tune::Head && self.transfer.as_ref().is_some_and(|t| t.cached_features) => {
                Err("transfer.cached_features needs transfer.tune = \"head\", because training the backbone changes its features"
                    .into())
            }
            Some(Tune::Blocks(k)) if k != 0.5 && (k < 0. || k.fract() != 0.) => {
                Err(format!("transfer.tune: {k} blocks, expected 0.5 or a whole number"))
            }
            _ => Ok(()),
        }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The key of `[pretrain]` that names the objective.
#[derive(Debug)]
pub struct ObjectiveKey;

impl Tag for ObjectiveKey {
    const KEY: &'static str = "objective";
}

/// `[pretrain]`: the name of an objective and the options that the objective defines.
pub type ObjectiveTable = Tagged<ObjectiveKey>;

/// The target of a masked autoencoder (arXiv:2111.06377, Table 1d).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReconstructionTarget {
    /// The pixels of the patch.
    Pixel,
    /// Pixels normalised by the mean and unbiased variance of their patch.
    #[default]
    NormPixel,
    /// The largest PCA coefficients of the patch.
    Pca,
    /// The token of a discrete autoencoder, by cross-entropy.
    Token,
}

impl std::fmt::Display for ReconstructionTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pixel => "pixels",
            Self::NormPixel => "normalised pixels",
            Self::Pca => "PCA coefficients",
            Self::Token => "tokens",
        })
    }
}

/// `[transfer]`: what is trained, and the kind's own training options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Which parameters of the backbone are trained.
    pub tune: Tune,
    /// Computes the features of the training split once, without augmentation, and trains on those. Needs `tune =
    /// "head"`. This is another evaluation protocol, and the record says so.
    #[serde(default)]
    pub cached_features: bool,
    /// Input [height, width] of the backbone in this transfer; that of the model when absent. Positions are resized.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    pub image: Option<[usize; 2]>,
    /// Windows and relative positions of the backbone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionConfig>,
    /// Options that the kind of task defines (`classification`: label_smoothing, mixup, cutmix, …).
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub head: toml::Table,
}

/// Which part of the backbone is trained; the head is always trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tune {
    /// The whole backbone.
    All,
    /// The head alone, on frozen features.
    Head,
    /// The last blocks and the final norm; 0.5 is the MLP half of the last block (§4.3). As many blocks as the model has
    /// are the same as `all`. Frozen blocks run without drop path.
    Blocks(f64),
}
