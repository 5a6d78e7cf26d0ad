//! Masked autoencoders (He et al., arXiv:2111.06377): the encoder sees the visible patches, the decoder predicts the
//! removed ones. All options of Table 1 are available.
//!
//! Parameter names are those of facebookresearch/mae `models_mae.py` (`_full` checkpoints). Both position tables
//! are fixed: no gradient reaches them. Differences from the reference: only visible patches are embedded
//! (the same numbers for less work), and the mask token of Table 1c, for which no code exists, is
//! `encoder_mask_token`.

use super::{
    MaskKind, MaskSampler, Objective, ObjectiveInputs, PatchMask, PatchTarget, PretrainObjective,
    Pretraining, RecipeFacts, Reconstruction, TokenTarget, TokenizerUse, figure_of_reconstructions,
};
use crate::config::{DecoderConfig, ModelConfig, Normalize, ReconstructionTarget};
use crate::data::{Batch, SampleId};
use crate::models::dvae::Tokenizer;
use crate::models::{Backbone, BackboneUsage, Vit, mae_gmacs, vit};
use crate::nn::{Block, LayerNorm, Linear, Losses, Pass, patchify, pos_embed, unpatchify};
use crate::ops::{self, SHARED_TOKEN};
use candle_core::{DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Options of the objective `mae`: masked autoencoding (arXiv:2111.06377 §3), with the choices of Table 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaeOptions {
    /// Share of patches removed.
    pub mask_ratio: f64,
    /// How the removed patches are chosen.
    #[serde(default)]
    pub mask: MaskKind,
    /// The target that is predicted for each patch.
    #[serde(default)]
    pub target: ReconstructionTarget,
    /// The tokenizer of the target `token`: a run, a file, or `hub:owner/name` of a discrete autoencoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Computes the tokens of an image once; its crop must be the same in every epoch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cache_tokens: bool,
    /// Which patches the loss reads.
    #[serde(default)]
    pub loss_on: LossPatches,
    /// Table 1c: the encoder sees mask tokens instead of skipping masked patches.
    #[serde(default)]
    pub mask_tokens_in_encoder: bool,
    /// Replaces the model's own decoder sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<DecoderConfig>,
}

/// Which patches the loss of a masked autoencoder reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossPatches {
    /// The removed ones.
    #[default]
    Masked,
    /// All patches.
    All,
}

/// A masked autoencoder: encoder, decoder and target.
#[derive(Debug)]
pub struct MaskedAutoencoder {
    encoder: Vit,
    decoder: Decoder,
    mask_token: MaskToken,
    sampler: MaskSampler,
    target: PatchTarget,
    loss_on: LossPatches,
    patch: usize,
    normalize: Normalize,
}

/// The mask token, and where it is used. [1, 1, C] of the encoder or of the decoder
#[derive(Debug)]
enum MaskToken {
    /// MAE: the encoder skips removed patches.
    Decoder(Tensor),
    /// Table 1c: the encoder sees them.
    Encoder(Tensor),
}

impl MaskedAutoencoder {
    /// `tokenizer` computes the target if it is tokens.
    ///
    /// # Errors
    /// Invalid sizes or mask ratio, a tokenizer that is missing or does not fit the images, or a parameter that the
    /// builder lacks.
    pub fn new(
        model: &ModelConfig,
        mae: &MaeOptions,
        tokenizer: Option<Arc<Tokenizer>>,
        vb: VarBuilder,
    ) -> Result<Self> {
        let mut model = model.clone();
        if model.rope_base.is_some() {
            candle_core::bail!(
                "MAE does not support `rope_base`: the encoder sees some of the patches, and rotations are those of all \
                 patches"
            );
        }
        if !model.absolute_positions {
            candle_core::bail!(
                "MAE needs a model with `absolute_positions`: the encoder sees patches out of order"
            );
        }
        if let Some(decoder) = &mae.decoder {
            model.decoder = decoder.clone();
        }
        let encoder =
            Vit::new(&model, BackboneUsage { final_norm: true, ..BackboneUsage::default() }, vb.clone())?;
        let sampler =
            MaskSampler::new(mae.mask, mae.mask_ratio, model.grid()).map_err(candle_core::Error::wrap)?;
        let values = model.patch * model.patch * model.channels;
        let tokens = tokenizer.map(|tokenizer| TokenTarget::new(tokenizer, &model, mae.cache_tokens));
        let target = PatchTarget::new(mae.target, values, tokens.transpose()?, vb.pp("target"))?;
        let token = |name, width: usize| {
            vb.get_with_hints((1, 1, width), name, Init::Randn { mean: 0., stdev: 0.02 })
        };
        let mask_token = match mae.mask_tokens_in_encoder {
            false => MaskToken::Decoder(token("mask_token", model.decoder.width)?),
            true => MaskToken::Encoder(token("encoder_mask_token", model.width)?),
        };
        let decoder = Decoder::new(&model, target.len(values), vb)?;
        let (patch, loss_on, normalize) = (model.patch, mae.loss_on, model.normalize());
        Ok(Self { encoder, decoder, mask_token, sampler, target, loss_on, patch, normalize })
    }

    /// Draws the masks of this objective.
    pub fn sampler(&self) -> &MaskSampler {
        &self.sampler
    }

    /// The loss of `images` [B, C, H, W] under `mask`: mean squared error of a patch or cross-entropy of its token,
    /// averaged over the removed patches of the batch (or over all).
    pub fn loss(&self, images: &Tensor, mask: &PatchMask, pass: &mut Pass) -> Result<Tensor> {
        self.loss_of(images, None, mask, pass)
    }

    /// [`Self::loss`] of samples whose tokens may be cached by their ids.
    fn loss_of(
        &self,
        images: &Tensor,
        ids: Option<&[SampleId]>,
        mask: &PatchMask,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let patches = self.encoder.patches(images)?; // [B, L, P]
        let rows = match self.loss_on {
            LossPatches::Masked => mask.removed_rows(),
            LossPatches::All => mask.all_rows(),
        };
        ops::chain(&self.seen_tokens(&patches, mask)?, |tokens| {
            let predictions = self.predict_rows(tokens, mask, &rows, pass)?;
            if let PatchTarget::Token(target) = &self.target {
                return target.loss(&predictions, &target.of(images, ids)?, &rows);
            }
            let target = self.target.encode(&ops::index_select(&patches, &rows)?)?; // [rows, P']
            let weights = Tensor::ones(rows.len(), DType::F32, images.device())?;
            ops::patch_mse(&predictions, &target, &weights)
        })
    }

    /// Predicts every patch of `images` [B, C, H, W] from the visible ones. Normalised pixels are brought back with
    /// the true mean and deviation of each patch, PCA coefficients by their components, tokens by the tokenizer's decoder.
    pub fn reconstruct(&self, images: &Tensor, mask: PatchMask) -> Result<Reconstruction> {
        let patches = self.encoder.patches(images)?;
        let predictions = self.predict(&patches, &mask, &mut Pass::Eval)?.detach();
        if let PatchTarget::Token(target) = &self.target {
            return Ok(Reconstruction { prediction: target.draw(&predictions)?, mask });
        }
        let decoded = self.target.decode(&predictions, &patches)?;
        let prediction = unpatchify(&decoded, self.patch, self.encoder.grid())?;
        Ok(Reconstruction { prediction, mask })
    }

    /// `patches` [B, L, P] -> predictions of the target [B, L, P'].
    pub fn predict(&self, patches: &Tensor, mask: &PatchMask, pass: &mut Pass) -> Result<Tensor> {
        let (batch, count, _) = patches.dims3()?;
        let tokens = self.seen_tokens(patches, mask)?;
        self.predict_rows(&tokens, mask, &mask.all_rows(), pass)?.reshape((batch, count, ()))
    }

    /// `patches` [B, L, P] -> the tokens that the encoder sees, without positions [B, n, C]: those of the kept patches in
    /// the order of the mask, or of all patches with the mask token in place of the removed ones.
    fn seen_tokens(&self, patches: &Tensor, mask: &PatchMask) -> Result<Tensor> {
        let (batch, count, values) = patches.dims3()?;
        if (mask.batch(), mask.patches()) != (batch, count) {
            candle_core::bail!(
                "mask of {}×{} (samples, patches) for {batch}×{count}",
                mask.batch(),
                mask.patches()
            );
        }
        let MaskToken::Encoder(token) = &self.mask_token else {
            let visible = ops::index_select(patches, &mask.kept_rows())?;
            return self.encoder.embed(&visible.reshape((batch, mask.kept(), values))?);
        };
        let removed = mask.removed(patches.device())?.unsqueeze(2)?; // [B, L, 1]
        let tokens = self.encoder.embed(patches)?.broadcast_mul(&(1. - &removed)?)?;
        tokens + removed.broadcast_mul(token)?
    }

    /// Tokens of [`Self::seen_tokens`] -> predictions of the target for `rows` of the flattened [B·L] list of patches
    /// [rows, P'].
    fn predict_rows(
        &self,
        tokens: &Tensor,
        mask: &PatchMask,
        rows: &[u32],
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let Decoder { embed, pos_embed, norm, pred, .. } = &self.decoder;
        let decoder_input = match &self.mask_token {
            MaskToken::Decoder(token) => {
                let x = self.encode(&self.with_positions(tokens, &mask.keep().concat())?, pass)?;
                restore(&embed.forward(&x)?, token, &pos_embed.detach(), mask)?
            }
            MaskToken::Encoder(_) => {
                let x = self.encode(&self.with_positions(tokens, &mask.all_patches())?, pass)?;
                embed.forward(&x)?.broadcast_add(&pos_embed.detach())?
            }
        };
        let decoded = self.decoder.run_blocks(decoder_input, pass)?; // [B, 1 + L, C']
        // The class token comes first in every sequence.
        let rows: Vec<u32> = rows.iter().map(|row| row + row / mask.patches() as u32 + 1).collect();
        pred.forward(&norm.forward(&ops::index_select(&decoded, &rows)?)?)
    }

    /// Adds the positions of `patches` `[B·n]`, which get no gradient, and the class token to `tokens` [B, n, C].
    fn with_positions(&self, tokens: &Tensor, patches: &[u32]) -> Result<Tensor> {
        self.encoder.with_positions_of(tokens, patches, &self.encoder.positions()?.detach())
    }

    /// `x` [B, 1 + n, C], with class token and positions, after the encoder and its norm [B, 1 + n, C].
    fn encode(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        match self.encoder.encode(x.clone(), pass)? {
            Some(x) => Ok(x),
            None => candle_core::bail!("MAE: the encoder has no final norm"),
        }
    }
}

impl Objective for MaskedAutoencoder {
    type Target = ();

    /// The random state of the forward pass determines the masks in training, and the sample ids do in evaluation.
    fn losses(&self, batch: &Batch<()>, pass: &mut Pass) -> Result<Losses> {
        let mask = match pass {
            Pass::Train { rng, .. } => self.sampler.sample(batch.len(), rng)?,
            Pass::Eval => self.sampler.fixed(&batch.ids)?,
        };
        let loss = self.loss_of(&batch.images, Some(&batch.ids), &mask, pass)?;
        Ok(Losses::of("reconstruction", loss))
    }

    fn layer_of(&self, parameter: &str) -> usize {
        self.encoder.layer_of(parameter)
    }
}

impl Pretraining for MaskedAutoencoder {
    /// Trains all parameters except the two position tables.
    fn learns(&self, parameter: &str) -> bool {
        !is_position_table(parameter)
    }

    fn needs_fit(&self) -> Result<bool> {
        match &self.target {
            PatchTarget::Pca(pca) => Ok(!pca.is_fitted()?),
            _ => Ok(false),
        }
    }

    /// Fits the PCA of patch space to all patches of `images`; does nothing for other targets.
    fn fit(&self, images: &Tensor) -> Result<()> {
        match &self.target {
            PatchTarget::Pca(pca) => pca.fit(&patchify(images, self.patch)?.flatten_to(1)?),
            _ => Ok(()),
        }
    }

    /// Each row shows the original, the masked image, the reconstruction, and the reconstruction with the visible
    /// patches. Masks depend on the sample ids alone.
    fn draw(&self, batch: &Batch<()>) -> Result<Option<RgbImage>> {
        let mask = self.sampler.fixed(&batch.ids)?;
        let reconstruction = self.reconstruct(&batch.images, mask)?;
        figure_of_reconstructions((&batch.images, &batch.ids), &reconstruction, self.patch, &self.normalize)
            .map(Some)
    }
}

impl PretrainObjective for MaskedAutoencoder {
    const NAME: &'static str = "mae";
    type Options = MaeOptions;

    fn new(options: &MaeOptions, inputs: &ObjectiveInputs) -> Result<Self> {
        Self::new(inputs.model, options, inputs.tokenizer.clone(), inputs.builder())
    }

    fn check(options: &MaeOptions, facts: &RecipeFacts) -> std::result::Result<(), String> {
        let MaeOptions { mask_ratio, target, loss_on, tokenizer, cache_tokens, .. } = options;
        let of_tokens = *target == ReconstructionTarget::Token;
        if !(0. ..1.).contains(mask_ratio) {
            return Err(format!("pretrain.mask_ratio is {mask_ratio}, expected 0 ≤ mask_ratio < 1"));
        }
        if *mask_ratio == 0. && *loss_on == LossPatches::Masked {
            return Err("pretrain.mask_ratio is 0, so that pretrain.loss_on = \"masked\" has no patch".into());
        }
        if tokenizer.is_some() && !of_tokens {
            return Err("pretrain.tokenizer needs pretrain.target = \"token\"".into());
        }
        if *cache_tokens && !of_tokens {
            return Err("pretrain.cache_tokens needs pretrain.target = \"token\"".into());
        }
        if *cache_tokens && facts.random_augmentation {
            return Err("pretrain.cache_tokens needs crops that are the same in every epoch, but `augment` draws some".into());
        }
        Ok(())
    }

    fn tokenizer(options: &MaeOptions) -> TokenizerUse {
        match options.target {
            ReconstructionTarget::Token => TokenizerUse::Needed(options.tokenizer.clone()),
            _ => TokenizerUse::None,
        }
    }

    fn target(options: &MaeOptions) -> Option<ReconstructionTarget> {
        Some(options.target)
    }

    fn gmacs(options: &MaeOptions, model: &ModelConfig) -> Option<f64> {
        let ratio = if options.mask_tokens_in_encoder { 0. } else { options.mask_ratio };
        let (encoder, decoder) = mae_gmacs(model, options.decoder.as_ref().unwrap_or(&model.decoder), ratio);
        Some(encoder + decoder)
    }
}

fn is_position_table(parameter: &str) -> bool {
    matches!(parameter, "pos_embed" | "decoder_pos_embed")
}

/// Puts the tokens of `x` [B, 1 + K, C'] back to where their patches were and `token` [1, 1, C'] everywhere else, and adds
/// `positions` [1, 1 + L, C'] -> [B, 1 + L, C'], class token first.
fn restore(x: &Tensor, token: &Tensor, positions: &Tensor, mask: &PatchMask) -> Result<Tensor> {
    let (kept, count) = (mask.kept() as u32, mask.patches());
    let removed = mask.batch() as u32 * kept;
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    for (sample, restore) in (0..).zip(mask.restore_rows().chunks(count)) {
        let row = |row: &u32| if *row == removed { SHARED_TOKEN } else { row + row / kept + 1 };
        rows.extend(std::iter::once(sample * (kept + 1)).chain(restore.iter().map(row)));
        places.extend(0..=count as u32);
    }
    ops::place_tokens(x, token, positions, rows, places)
}

/// Blocks on all tokens, and a linear map to the target.
#[derive(Debug)]
struct Decoder {
    embed: Linear,
    pos_embed: Tensor, // [1, 1 + L, C']
    blocks: Vec<Block>,
    norm: LayerNorm,
    pred: Linear,
}

impl Decoder {
    fn new(model: &ModelConfig, values: usize, vb: VarBuilder) -> Result<Self> {
        let DecoderConfig { width, depth, heads } = model.decoder;
        let config = vit::block_config(model, width, heads, 0.);
        let block = |i: usize| Block::new(config, vb.pp("decoder_blocks").pp(i));
        Ok(Self {
            embed: Linear::new(model.width, width, vb.pp("decoder_embed"))?,
            pos_embed: pos_embed::parameter("decoder_pos_embed", width, model.grid(), &vb)?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::new(width, model.norm_eps, vb.pp("decoder_norm"))?,
            pred: Linear::new(width, values, vb.pp("decoder_pred"))?,
        })
    }

    /// `x` [B, 1 + L, C'], with positions, after the blocks [B, 1 + L, C'].
    fn run_blocks(&self, mut x: Tensor, pass: &mut Pass) -> Result<Tensor> {
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests;
