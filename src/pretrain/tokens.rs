//! Tokens of a discrete autoencoder as the target of pre-training: 8192-way classification of patches (BEiT,
//! arXiv:2106.08254; MAE, arXiv:2111.06377, Table 1d and Table 7).

use crate::config::{ModelConfig, Normalize};
use crate::data::SampleId;
use crate::models::dvae::Tokenizer;
use crate::ops;
use candle_core::{D, Result, Tensor};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A tokenizer for the images of a model: one token per patch. It is frozen and not part of the trained weights.
#[derive(Debug)]
pub struct TokenTarget {
    tokenizer: Arc<Tokenizer>,
    normalize: Normalize,
    image: (usize, usize),
    grid: (usize, usize),
    /// Tokens by sample, where crops never change.
    cache: Option<Mutex<HashMap<SampleId, Vec<u32>>>>,
}

impl TokenTarget {
    /// # Errors
    /// A tokenizer whose number of channels differs from that of `model`.
    pub fn new(tokenizer: Arc<Tokenizer>, model: &ModelConfig, cached: bool) -> Result<Self> {
        let (found, expected) = (tokenizer.sizes.channels, model.channels);
        if found != expected {
            candle_core::bail!(
                "the tokenizer is for images with {found} channels, but the model's have {expected}"
            );
        }
        Ok(Self {
            tokenizer,
            normalize: model.normalize(),
            image: (model.image[0], model.image[1]),
            grid: model.grid(),
            cache: cached.then(Mutex::default),
        })
    }

    /// Size of the code book.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.sizes.vocabulary
    }

    /// The tokens of `images` [B, C, H, W], row-major. `[B·L]`
    pub fn of(&self, images: &Tensor, ids: Option<&[SampleId]>) -> Result<Vec<u32>> {
        let compute = |images: &Tensor| self.tokenizer.tokens(images, &self.normalize, self.grid);
        let (Some(cache), Some(ids)) = (&self.cache, ids) else { return compute(images) };
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<u32> =
            (0..).zip(ids).filter(|(_, id)| !cache.contains_key(id)).map(|(i, _)| i).collect();
        if !new.is_empty() {
            let rows = Tensor::new(new.as_slice(), images.device())?;
            let tokens = compute(&images.detach().index_select(&rows, 0)?)?;
            for (row, tokens) in new.iter().zip(tokens.chunks(self.grid.0 * self.grid.1)) {
                cache.insert(ids[*row as usize].clone(), tokens.to_vec());
            }
        }
        Ok(ids.iter().flat_map(|id| cache[id].iter().copied()).collect())
    }

    /// The loss of `logits` [n, vocabulary] for the patches `rows` of a flattened [B·L] list of `tokens`.
    pub fn loss(&self, logits: &Tensor, tokens: &[u32], rows: &[u32]) -> Result<Tensor> {
        let chosen: Vec<u32> = rows.iter().map(|row| tokens[*row as usize]).collect();
        ops::cross_entropy(logits, &Tensor::from_vec(chosen, rows.len(), logits.device())?, None, 0.)
    }

    /// The images of the most likely tokens of `logits` [B, L, vocabulary], normalised. [B, C, H, W]
    ///
    /// # Errors
    /// A tokenizer without a decoder.
    pub fn draw(&self, logits: &Tensor) -> Result<Tensor> {
        let tokens = logits.detach().argmax(D::Minus1)?;
        self.tokenizer.draw(&tokens, self.grid, self.image, &self.normalize)
    }
}
