//! BEiT (arXiv:2106.08254; unilm `beit/modeling_pretrain.py`, `run_beit_pretraining.py`): all patches, some of them
//! replaced by a mask token, and the tokens of those are predicted.
//!
//! Parameter names are those of unilm. Masks are blocks of at most `masked` patches, and may fall short of it. Unlike the
//! reference, both views of a crop come from one resampling ([`crate::models::dvae::Tokenizer::tokens`]).

use super::masks::block_masks;
use super::{Objective, Pretraining, TokenTarget};
use crate::config::{self, ModelConfig};
use crate::data::Batch;
use crate::models::dvae::Tokenizer;
use crate::models::{Backbone, Vit, VitOptions, vit};
use crate::nn::{Linear, Losses, Params, Pass};
use crate::ops;
use crate::rng::Rng;
use candle_core::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use rand_distr::{Distribution, StandardNormal};
use std::sync::Arc;

/// Standard deviation of initial weights, and where they are cut.
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
    /// Sizes that cannot work, more masked patches than there are, a tokenizer for other images.
    pub fn new(
        model: &ModelConfig,
        beit: &config::Beit,
        drop_path: f64,
        tokenizer: Arc<Tokenizer>,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (grid, masked) = (model.grid(), beit.masked);
        if masked >= grid.0 * grid.1 {
            candle_core::bail!("pretrain.masked is {masked}, but there are {} patches", grid.0 * grid.1);
        }
        let target = TokenTarget::new(tokenizer, model, false)?;
        let options = VitOptions { drop_path, final_norm: true, pretrains: true, ..VitOptions::default() };
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
        let (b, count, width) = tokens.dims3()?;
        let masks: Vec<f32> = masks.iter().flatten().map(|masked| f32::from(u8::from(*masked))).collect();
        let masked = Tensor::from_vec(masks, (b, count, 1), tokens.device())?;
        let visible = tokens.broadcast_mul(&(1. - &masked)?)?;
        let tokens = (visible + masked.broadcast_mul(&self.mask_token)?)?;
        let x = self.encoder.with_positions(&tokens)?;
        let Some(x) = self.encoder.encode(x, &[], pass)?.normed else {
            candle_core::bail!("BEiT: the encoder has no final norm")
        };
        let patches = x.narrow(1, 1, count)?.reshape((b * count, width))?;
        self.head.forward(&ops::take_rows(&patches, rows)?)
    }

    /// The cross-entropy of the masked patches, and the share of right tokens among them.
    fn loss(&self, images: &Tensor, masks: &[Vec<bool>], pass: &mut Pass) -> Result<Losses> {
        let rows = masked_rows(masks);
        let tokens = self.target.of(images, None)?;
        let logits = self.logits(images, masks, &rows, pass)?;
        let found = logits.detach().argmax(D::Minus1)?.to_vec1::<u32>()?;
        let right = found.iter().zip(&rows).filter(|(found, row)| **found == tokens[**row as usize]).count();
        let share = right as f64 / rows.len().max(1) as f64;
        Ok(Losses::of("tokens", self.target.loss(&logits, &tokens, &rows)?).noting("token_accuracy", share))
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
    fn initialize(&self, params: &Params) -> Result<()> {
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

/// A standard normal number within ±1.
fn cut_normal(rng: &mut Rng) -> f64 {
    loop {
        let x: f64 = StandardNormal.sample(rng);
        if x.abs() <= 1. {
            return x;
        }
    }
}
