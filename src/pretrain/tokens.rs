//! Tokens of a discrete autoencoder as the target of pre-training: 8192-way classification of patches (BEiT,
//! arXiv:2106.08254; MAE, arXiv:2111.06377, Table 1d and Table 7).

use crate::config::{ModelConfig, Normalize};
use crate::data::SampleId;
use crate::models::dvae::Tokenizer;
use crate::ops;
use candle_core::{D, Device, Result, Tensor};
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

    /// The tokens of `images` [B, C, H, W], row-major: on the device of the images, or in memory if they come from the
    /// cache. u32 `[B·L]`
    pub fn of(&self, images: &Tensor, ids: Option<&[SampleId]>) -> Result<Tensor> {
        let compute = |images: &Tensor| self.tokenizer.tokens_on_device(images, &self.normalize, self.grid);
        let (Some(cache), Some(ids)) = (&self.cache, ids) else { return compute(images) };
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<u32> =
            (0..).zip(ids).filter(|(_, id)| !cache.contains_key(id)).map(|(i, _)| i).collect();
        if !new.is_empty() {
            let rows = Tensor::new(new.as_slice(), images.device())?;
            let tokens = compute(&images.detach().index_select(&rows, 0)?)?.to_vec1::<u32>()?;
            for (row, tokens) in new.iter().zip(tokens.chunks(self.grid.0 * self.grid.1)) {
                cache.insert(ids[*row as usize].clone(), tokens.to_vec());
            }
        }
        let tokens: Vec<u32> = ids.iter().flat_map(|id| cache[id].iter().copied()).collect();
        let count = tokens.len();
        Tensor::from_vec(tokens, count, &Device::Cpu)
    }

    /// The loss of `logits` [n, vocabulary] for the patches `rows` of a flattened [B·L] list of `tokens`.
    pub fn loss(&self, logits: &Tensor, tokens: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let chosen = tokens.index_select(&Tensor::new(rows, tokens.device())?, 0)?;
        ops::cross_entropy(logits, &chosen, None, 0.)
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
