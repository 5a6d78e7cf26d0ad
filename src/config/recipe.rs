//! `configs/{pretrain,transfer}/<name>.toml`: how to train. The protocol of evaluation is not here.

use super::optim::{Optim, Schedule, positive};
use super::{Attention, Decoder, DvaeTraining, Erase, Operation, OperationOwner, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A recipe: the training loop's numbers, and exactly one of `[pretrain]` and `[transfer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What tables call weights that this recipe has pre-trained; the recipe's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The model used when `--model` is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_model: Option<String>,
    /// Passes over the training split.
    pub epochs: usize,
    /// Effective batch in images: what one optimiser step sees.
    pub batch: usize,
    /// Images per forward pass; the effective batch is accumulated from these. All at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Stochastic depth of the last block, rising linearly from 0.
    #[serde(default)]
    pub drop_path: f64,
    /// Largest global gradient norm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Decay of the exponential moving average of the weights, a step; its weights are evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Evaluate every so many epochs (and at the end). Only at the end when 0.
    #[serde(default)]
    pub eval_epochs: usize,
    /// Keep numbered weights (`epoch_<n>.safetensors`) every so many epochs; none when 0.
    #[serde(default)]
    pub keep_epochs: usize,
    /// Save the resumable state every so many steps; at ends of epochs, at most once a minute, when 0. It is saved after
    /// ten minutes in any case.
    #[serde(default)]
    pub save_steps: usize,
    /// Unreadable images that may be skipped before the run stops.
    #[serde(default)]
    pub allowed_skips: usize,
    pub optim: Optim,
    pub schedule: Schedule,
    /// Applied in order to every training image.
    #[serde(default)]
    pub augment: Vec<Operation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase: Option<Erase>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<Pretrain>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
}

impl Recipe {
    /// Images of one forward pass.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch.unwrap_or(self.batch)
    }

    /// Peak learning rate: base_lr · batch / 256.
    pub fn lr(&self) -> f64 {
        self.optim.base_lr * self.batch as f64 / 256.
    }

    /// What cannot work, by key.
    pub fn check(&self, stage: Stage, owner: &dyn OperationOwner) -> Result<(), String> {
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
        let shares = [("drop_path", self.drop_path), ("ema", self.ema.unwrap_or(0.))];
        if let Some((key, value)) = shares.iter().find(|(_, value)| !(0. ..1.).contains(value)) {
            return Err(format!("{key} is {value}, expected 0 ≤ {key} < 1"));
        }
        positive("clip", self.clip.unwrap_or(1.))?;
        self.optim.check()?;
        self.schedule.check()?;
        if let Some(pretrain) = &self.pretrain {
            pretrain.check(self.augment.iter().any(|operation| owner.is_random(operation)))?;
        }
        match self.transfer.as_ref().map(|t| t.tune) {
            Some(tune) if tune != Tune::Head && self.transfer.as_ref().is_some_and(|t| t.cached_features) => {
                Err("transfer.cached_features needs transfer.tune = \"head\": only then do features stay"
                    .into())
            }
            Some(Tune::Blocks(k)) if k != 0.5 && (k < 0. || k.fract() != 0.) => {
                Err(format!("transfer.tune: {k} blocks, expected 0.5 or a whole number"))
            }
            _ => Ok(()),
        }
    }
}

/// `[pretrain]`: which objective, and its own numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "objective", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Pretrain {
    Mae(Mae),
    Beit(Beit),
    /// Trains a tokenizer.
    Dvae(DvaeTraining),
}

impl Pretrain {
    /// The tokenizer whose tokens are predicted: a run, a file, or `hub:owner/name`.
    pub fn tokenizer(&self) -> Option<&str> {
        match self {
            Self::Mae(mae) => mae.tokenizer.as_deref(),
            Self::Beit(beit) => beit.tokenizer.as_deref(),
            Self::Dvae(_) => None,
        }
    }

    /// What is predicted of an image, where something is.
    pub fn target(&self) -> Option<ReconstructionTarget> {
        match self {
            Self::Mae(mae) => Some(mae.target),
            Self::Beit(_) => Some(ReconstructionTarget::Token),
            Self::Dvae(_) => None,
        }
    }

    /// Whether tokens are predicted, so that there must be a tokenizer.
    pub fn predicts_tokens(&self) -> bool {
        match self {
            Self::Mae(mae) => mae.target == ReconstructionTarget::Token,
            Self::Beit(_) => true,
            Self::Dvae(_) => false,
        }
    }

    fn check(&self, draws: bool) -> Result<(), String> {
        match self {
            Self::Mae(mae) if !(0. ..1.).contains(&mae.mask_ratio) => {
                let ratio = mae.mask_ratio;
                Err(format!("pretrain.mask_ratio is {ratio}, expected 0 ≤ mask_ratio < 1"))
            }
            Self::Mae(mae) if mae.mask_ratio == 0. && mae.loss_on == Reconstruct::Masked => {
                Err("pretrain.mask_ratio is 0, so that pretrain.loss_on = \"masked\" has no patch".into())
            }
            Self::Mae(mae) if mae.target != ReconstructionTarget::Token && mae.tokenizer.is_some() => {
                Err("pretrain.tokenizer needs pretrain.target = \"token\"".into())
            }
            Self::Mae(mae) if mae.target != ReconstructionTarget::Token && mae.cache_tokens => {
                Err("pretrain.cache_tokens needs pretrain.target = \"token\"".into())
            }
            Self::Mae(mae) if mae.cache_tokens && draws => Err(
                "pretrain.cache_tokens needs crops that are the same in every epoch, but `augment` draws some"
                    .into(),
            ),
            Self::Beit(beit) if beit.masked == 0 => {
                Err("pretrain.masked is 0, expected at least 1 patch".into())
            }
            Self::Dvae(dvae) => dvae.check(),
            _ => Ok(()),
        }
    }
}

/// BEiT (arXiv:2106.08254 §2; unilm `run_beit_pretraining.py`): predicts the tokens of masked patches from all
/// patches, with mask tokens in their places. The model's options are those of a BEiT (`beit_b16`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Beit {
    /// Most patches that blocks cover: 75 of 196.
    pub masked: usize,
    /// A run, a file, or `hub:owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
}

/// Masked autoencoding (arXiv:2111.06377 §3), with the switches of Table 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mae {
    /// Share of patches removed.
    pub mask_ratio: f64,
    #[serde(default)]
    pub mask: MaskKind,
    #[serde(default)]
    pub target: ReconstructionTarget,
    /// Target `token`: a run, a file, or `hub:owner/name` of a discrete autoencoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Computes the tokens of an image once; its crop must be the same in every epoch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cache_tokens: bool,
    /// Which patches the loss reads.
    #[serde(default)]
    pub loss_on: Reconstruct,
    /// Table 1c: the encoder sees mask tokens instead of skipping masked patches.
    #[serde(default)]
    pub mask_tokens_in_encoder: bool,
    /// Replaces the model's own decoder sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<Decoder>,
}

/// Table 1f.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskKind {
    #[default]
    Random,
    /// BEiT's block-wise generator.
    Block,
    /// Keeps one fixed patch of each cell.
    Grid,
}

/// Table 1d.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReconstructionTarget {
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reconstruct {
    #[default]
    Masked,
    All,
}

/// `[transfer]`: what is trained, and the kind's own training options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    pub tune: Tune,
    /// Computes the features of the training split once, without augmentation, and trains on those. Needs
    /// `tune = "head"`; another protocol, which the record says.
    #[serde(default)]
    pub cached_features: bool,
    /// Input [height, width] of the backbone in this transfer; that of the model when absent. Positions are resized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<[usize; 2]>,
    /// Windows and relative positions of the backbone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    /// Read strictly by the kind (`classification`: label_smoothing, mixup, cutmix, …).
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub head: toml::Table,
}

/// Which part of the backbone learns; the head always does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tune {
    /// Everything.
    All,
    /// The head alone, on frozen features.
    Head,
    /// The last blocks and the final norm; 0.5 is the MLP half of the last block (§4.3).
    Blocks(f64),
}
