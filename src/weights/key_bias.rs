//! Biases of attention in files of DINOv3, as models here have them: one of the queries and one of the values.
//!
//! facebookresearch/dinov3 saves the biases of queries, keys and values together, with a mask of 0 and 1 that they are
//! multiplied with, and which is 0 for the keys. timm's default models have no biases, which are biases of 0.

use super::entry::WeightEntry;
use candle_core::{Result, Tensor, bail};

/// The ends of the names of biases, and which third of all biases they are.
pub(super) const BIASES: [(&str, usize); 2] = [("q_bias", 0), ("v_bias", 2)];

/// A bias that is a third of a tensor of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaskedBias {
    /// The tensor of all three biases.
    pub bias: usize,
    /// Its mask, if there is one.
    pub mask: Option<usize>,
    /// 0 for queries, 2 for values.
    pub third: usize,
}

impl MaskedBias {
    /// The bias, from the `tensors` of the file.
    ///
    /// # Errors
    /// Keys have a bias that is not masked.
    pub(super) fn read(&self, tensors: &[(String, Tensor)]) -> Result<Tensor> {
        let (name, bias) = &tensors[self.bias];
        let masked = match self.mask {
            Some(mask) => (bias * tensors[mask].1.to_dtype(bias.dtype())?)?,
            None => bias.clone(),
        };
        let width = masked.dim(0)? / 3;
        let keys = masked.narrow(0, width, width)?.to_dtype(candle_core::DType::F64)?;
        if keys.to_vec1::<f64>()?.iter().any(|&value| value != 0.) {
            bail!("`{name}`: the keys have a bias that is not masked, and DINOv3 has none");
        }
        masked.narrow(0, self.third * width, width)?.contiguous()
    }
}

/// The weight of queries, keys and values of a block by its name, if `entry` is one: the start of the names of its biases.
pub(super) fn attention_of(entry: &WeightEntry) -> Option<&str> {
    let attention = entry.name.strip_suffix("qkv.weight")?;
    (entry.name.starts_with("blocks.") && entry.shape.len() == 2).then_some(attention)
}
