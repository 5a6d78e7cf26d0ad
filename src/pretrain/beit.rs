//! BEiT (arXiv:2106.08254; unilm `beit/modeling_pretrain.py`, `run_beit_pretraining.py`): the encoder sees all patches,
//! some of them replaced by a mask token, and predicts the tokens of the replaced ones.
//!
//! Parameter names are those of unilm. Masks are blocks that cover at most `masked` patches, and sometimes fewer.
//! Unlike the reference, both views of a crop come from one resampling ([`crate::models::dvae::Tokenizer::tokens`]).

use super::masks::block_masks;
use super::{
    Objective, ObjectiveInputs, PretrainObjective, Pretraining, RecipeFacts, TokenTarget, TokenizerUse,
};
use crate::config::{ModelConfig, ReconstructionTarget};
use crate::data::Batch;
use crate::models::dvae::Tokenizer;
use crate::models::{Backbone, BackboneKind, BackboneUsage, NoOptions, Vit, vit};
use crate::nn::{Linear, Losses, Params, Pass};
use crate::ops;
use crate::rng::Rng;
use candle_core::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Options of the objective `beit`: the tokens of masked patches are predicted from all patches, with mask tokens in their
/// places. The model's options are those of a BEiT (`beit_b16`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BeitOptions {
    /// Most patches that blocks cover: 75 of 196.
    pub masked: usize,
    /// The tokenizer: a run, a file, or `hub:owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
}

/// Standard deviation of the initial weights, and the value at which they are truncated.
const STD: f64 = 0.02;

/// Encoder, mask token, and a classifier over the code book.
#[derive(Debug)]
pub struct Beit {
    encoder: Vit,
    mask_token: Tensor, // [1, 1, C]
    head: Linear,
    target: TokenTarget,
    grid: (usize, usize),
    masked: usize,
    depth: usize,
}

impl Beit {
    /// # Errors
    /// Invalid sizes, more masked patches than patches, or a tokenizer that does not fit the images.
    pub fn new(
        model: &ModelConfig,
        beit: &BeitOptions,
        drop_path: f64,
        tokenizer: Arc<Tokenizer>,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (grid, masked) = (model.grid(), beit.masked);
        if masked >= grid.0 * grid.1 {
            candle_core::bail!("pretrain.masked is {masked}, but there are {} patches", grid.0 * grid.1);
        }
        let target = TokenTarget::new(tokenizer, model, false)?;
        let options =
            BackboneUsage { drop_path, final_norm: true, pretrains: true, ..BackboneUsage::default() };
        let token = Init::Randn { mean: 0., stdev: STD };
        Ok(Self {
            encoder: Vit::new(model, options, vb.clone())?,
            mask_token: vb.get_with_hints((1, 1, model.width), "mask_token", token)?,
            head: Linear::with_std(model.width, target.vocabulary(), STD, vb.pp("lm_head"))?,
            target,
            grid,
            masked,
            depth: model.depth,
        })
    }

    /// Logits of the patches `rows` of a flattened [B·L] list, those of `images` [B, C, H, W] replaced where `masks`
    /// says so. [rows, vocabulary]
    pub fn logits(
        &self,
        images: &Tensor,
        masks: &[Vec<bool>],
        rows: &[u32],
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let tokens = self.encoder.embed(&self.encoder.patches(images)?)?; // [B, L, C]
        let (b, count, _) = tokens.dims3()?;
        let masks: Vec<f32> = masks.iter().flatten().map(|masked| f32::from(u8::from(*masked))).collect();
        let masked = Tensor::from_vec(masks, (b, count, 1), tokens.device())?;
        let visible = tokens.broadcast_mul(&(1. - &masked)?)?;
        let tokens = (visible + masked.broadcast_mul(&self.mask_token)?)?;
        let x = self.encoder.with_positions(&tokens)?;
        let Some(x) = self.encoder.encode(x, pass)? else {
            candle_core::bail!("BEiT: the encoder has no final norm")
        };
        // The class token comes first in every sequence.
        let rows: Vec<u32> = rows.iter().map(|row| row + row / count as u32 + 1).collect();
        self.head.forward(&ops::index_select(&x, &rows)?)
    }

    /// The cross-entropy of the masked patches, and the accuracy of their predicted tokens.
    fn loss(&self, images: &Tensor, masks: &[Vec<bool>], pass: &mut Pass) -> Result<Losses> {
        let rows = masked_rows(masks);
        let tokens = self.target.of(images, None)?;
        let logits = self.logits(images, masks, &rows, pass)?;
        let found = logits.detach().argmax(D::Minus1)?;
        let loss = self.target.loss(&logits, &tokens, &rows)?;
        let share = move || {
            let (found, tokens) = (found.to_vec1::<u32>()?, tokens.to_vec1::<u32>()?);
            let right =
                found.iter().zip(&rows).filter(|(found, row)| **found == tokens[**row as usize]).count();
            Ok(right as f64 / rows.len().max(1) as f64)
        };
        Ok(Losses::of("tokens", loss).with_metric_of("token_accuracy", share))
    }
}

/// The masked patches of a flattened [B·L] list.
fn masked_rows(masks: &[Vec<bool>]) -> Vec<u32> {
    (0..).zip(masks.iter().flatten()).filter(|(_, masked)| **masked).map(|(row, _)| row).collect()
}

impl Objective for Beit {
    type Target = ();

    fn losses(&self, batch: &Batch<()>, pass: &mut Pass) -> Result<Losses> {
        let masks = match pass {
            Pass::Train { rng, .. } => block_masks(batch.len(), self.grid, self.masked, rng),
            Pass::Eval => block_masks(batch.len(), self.grid, self.masked, &mut Rng::new(0, "mask", &[])),
        };
        self.loss(&batch.images, &masks, pass)
    }

    fn layer_of(&self, parameter: &str) -> usize {
        match parameter {
            "mask_token" => 0,
            _ => self.encoder.layer_of(parameter),
        }
    }
}

impl Pretraining for Beit {
    /// Weights of linear layers, tokens and the patch embedding normal(0, 0.02) cut at one standard deviation (sic),
    /// biases 0; the last layer of each branch of block l divided by √(2·l), l from 1.
    fn initialize(&self, params: &Params, _: &dyn Fn(usize) -> Result<Tensor>) -> Result<()> {
        for p in params.trainable() {
            let name = p.name.as_str();
            let linear = name.ends_with(".weight") && p.var.dims().len() > 1;
            if name == "patch_embed.proj.bias" {
                p.var.set(&p.var.zeros_like()?)?;
            } else if linear || name == "cls_token" || name == "mask_token" {
                let block = vit::layer_of(name, self.depth);
                let last = name.ends_with("attn.proj.weight") || name.ends_with("mlp.fc2.weight");
                let scale = if last { (2. * block as f64).sqrt().recip() } else { 1. };
                let mut rng = Rng::new(params.seed(), name, &[1]);
                let values: Vec<f32> =
                    (0..p.var.elem_count()).map(|_| (scale * STD * cut_normal(&mut rng)) as f32).collect();
                p.var.set(&Tensor::from_vec(values, p.var.shape(), p.var.device())?)?;
            }
        }
        Ok(())
    }
}

impl PretrainObjective for Beit {
    const NAME: &'static str = "beit";
    type Options = BeitOptions;

    fn new(options: &BeitOptions, inputs: &ObjectiveInputs) -> Result<Self> {
        let Some(tokenizer) = inputs.tokenizer.clone() else {
            candle_core::bail!("BEiT predicts tokens, but there is no tokenizer")
        };
        Self::new(inputs.model, options, inputs.drop_path, tokenizer, inputs.builder())
    }

    fn check(options: &BeitOptions, _: &RecipeFacts) -> std::result::Result<(), String> {
        match options.masked {
            0 => Err("pretrain.masked is 0, expected at least 1 patch".into()),
            _ => Ok(()),
        }
    }

    fn tokenizer(options: &BeitOptions) -> TokenizerUse {
        TokenizerUse::Needed(options.tokenizer.clone())
    }

    fn target(_: &BeitOptions) -> Option<ReconstructionTarget> {
        Some(ReconstructionTarget::Token)
    }

    fn gmacs(_: &BeitOptions, model: &ModelConfig) -> Option<f64> {
        Vit::gmacs(model, &NoOptions {})
    }
}

/// A standard normal number within ±1.
fn cut_normal(rng: &mut Rng) -> f64 {
    loop {
        let x: f64 = StandardNormal.sample(rng);
        if x.abs() <= 1. {
            return x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DvaeSizes;
    use crate::models::dvae::Encoder;
    use crate::nn::test_tolerance;
    use candle_core::{Device, safetensors};
    use std::collections::HashMap;

    const VOCABULARY: usize = 23;

    fn model() -> ModelConfig {
        ModelConfig {
            image: [24, 24],
            channels: 3,
            patch: 4,
            width: 16,
            depth: 2,
            heads: 2,
            mlp_ratio: 4.,
            mlp: crate::config::MlpKind::Gelu,
            norm_eps: 1e-6,
            normalize: None,
            absolute_positions: false,
            resize_positions: crate::config::ResizePositions::default(),
            relative_positions: true,
            rope_base: None,
            layer_scale: Some(0.3),
            registers: 0,
            key_bias: false,
            backbone: "vit".into(),
            options: toml::Table::new(),
            decoder: crate::config::DecoderConfig::default(),
        }
    }

    fn objective(params: &Params) -> Result<Beit> {
        let sizes =
            DvaeSizes { vocabulary: VOCABULARY, hidden: 8, groups: 2, blocks: 1, embedding: 4, channels: 3 };
        let encoder = Encoder::new(&sizes, Params::new(1, &Device::Cpu).builder())?;
        let tokenizer = Arc::new(Tokenizer { sizes, encoder, decoder: None });
        Beit::new(&model(), &BeitOptions { masked: 14, tokenizer: None }, 0., tokenizer, params.builder())
    }

    fn golden() -> HashMap<String, Tensor> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/beit.safetensors");
        safetensors::load(path, &Device::Cpu).unwrap()
    }

    /// Takes the weights of a golden model, all of them.
    fn take(params: &Params, golden: &HashMap<String, Tensor>, prefix: &str) -> Result<()> {
        for p in params.all() {
            p.var.set(&golden[&format!("{prefix}{}", p.name)])?;
        }
        assert_eq!(params.all().len(), golden.keys().filter(|key| key.starts_with(prefix)).count());
        Ok(())
    }

    #[test]
    fn logits_equal_those_of_transformers() -> Result<()> {
        let (golden, params) = (golden(), Params::new(0, &Device::Cpu));
        let objective = objective(&params)?;
        take(&params, &golden, "shared.weights.")?;
        let masks = golden["masks"].to_vec2::<u8>()?;
        let masks: Vec<Vec<bool>> = masks.iter().map(|row| row.iter().map(|m| *m == 1).collect()).collect();
        let rows: Vec<u32> = (0..72).collect();
        let logits = objective.logits(&golden["images"], &masks, &rows, &mut Pass::Eval)?;
        let expected = golden["shared.logits"].reshape((72, VOCABULARY))?;
        assert!(test_tolerance::absolute(&logits, &expected) < 1e-4);
        Ok(())
    }

    #[test]
    fn one_table_per_block_equals_transformers() -> Result<()> {
        let (golden, params) = (golden(), Params::new(0, &Device::Cpu));
        let options = BackboneUsage { final_norm: true, ..BackboneUsage::default() };
        let vit = Vit::new(&model(), options, params.builder())?;
        params.set_trainable(|_| true);
        // The backbone of transfer has no mask token.
        let golden: HashMap<_, _> =
            golden.into_iter().filter(|(name, _)| name != "block.weights.mask_token").collect();
        take(&params, &golden, "block.weights.")?;
        let features = vit.forward(&golden["images"], &[], &mut Pass::Eval)?;
        assert!(test_tolerance::absolute(features.cls.as_ref().unwrap(), &golden["block.cls"]) < 1e-4);
        Ok(())
    }

    #[test]
    fn every_parameter_learns_and_starts_as_the_reference_does() -> Result<()> {
        let params = Params::new(0, &Device::Cpu);
        let objective = objective(&params)?;
        params.set_trainable(|name| objective.learns(name));
        objective.initialize(&params, &|_| candle_core::bail!("no images"))?;
        let spread = |name: &str| -> f32 {
            let var = params.get(name).unwrap().var;
            var.sqr().unwrap().mean_all().unwrap().sqrt().unwrap().to_scalar().unwrap()
        };
        // A normal distribution cut at ±σ has the deviation 0.5396·σ.
        let cut = 0.5396 * STD as f32;
        assert!((spread("blocks.0.mlp.fc1.weight") / cut - 1.).abs() < 0.05);
        assert!((spread("blocks.1.mlp.fc2.weight") / (cut / 2.) - 1.).abs() < 0.05);
        let mut rng = Rng::new(0, "test images", &[]);
        let values: Vec<f32> = (0..3 * 3 * 24 * 24).map(|_| StandardNormal.sample(&mut rng)).collect();
        let images = Tensor::from_vec(values, (3, 3, 24, 24), &Device::Cpu)?;
        let masks = block_masks(3, (6, 6), 14, &mut Rng::new(0, "mask", &[]));
        let losses = objective.loss(&images, &masks, &mut Pass::Eval)?;
        let store = ops::backward(&losses.total()?)?;
        for p in params.trainable() {
            let gradient = store.get(&p.var).map(|g| g.sqr()?.sum_all()?.to_scalar::<f32>()).transpose()?;
            assert!(gradient.is_some_and(|g| g > 0.), "{}", p.name);
        }
        Ok(())
    }

    #[test]
    fn blocks_never_exceed_the_budget() {
        let mut rng = Rng::new(0, "mask", &[]);
        let masks = block_masks(2000, (14, 14), 75, &mut rng);
        let counts: Vec<usize> = masks.iter().map(|mask| mask.iter().filter(|m| **m).count()).collect();
        assert!(counts.iter().all(|count| (1..=75).contains(count)));
        let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
        assert!(mean > 70., "{mean} of 75 on average");
        // Blocks: a masked patch has masked neighbours far more often than 38 % of the time.
        let pairs = |mask: &Vec<bool>| {
            let right = |i: usize| i % 14 < 13 && mask[i] && mask[i + 1];
            (0..196).filter(|i| right(*i)).count()
        };
        let share = masks.iter().map(pairs).sum::<usize>() as f64 / counts.iter().sum::<usize>() as f64;
        assert!(share > 0.6, "{share}");
    }

    #[test]
    fn more_masked_patches_than_there_are_is_an_error() -> Result<()> {
        let params = Params::new(0, &Device::Cpu);
        let sizes = DvaeSizes { vocabulary: 5, hidden: 8, groups: 1, blocks: 1, embedding: 4, channels: 1 };
        let encoder = Encoder::new(&sizes, Params::new(1, &Device::Cpu).builder())?;
        let tokenizer = Arc::new(Tokenizer { sizes, encoder, decoder: None });
        let build = |masked| {
            let beit = BeitOptions { masked, tokenizer: None };
            Beit::new(&model(), &beit, 0., tokenizer.clone(), params.builder()).unwrap_err().to_string()
        };
        assert!(build(36).contains("masked is 36, but there are 36 patches"), "{}", build(36));
        assert!(build(3).contains("1 channels"), "{}", build(3));
        Ok(())
    }
}
