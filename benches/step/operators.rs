//! Single operators of `bench::ops`, forward and backward.

use super::{Case, Machine};
use anyhow::Result;
use bench::ops;
use candle_core::{Tensor, Var};

/// Attention of a ViT-B/16 block at 224: 8 images, 197 tokens, 12 heads of 64.
pub fn attention(on: &Machine) -> Result<Case> {
    const IMAGES: usize = 8;
    const HEADS: usize = 12;
    let qkv = var(&[IMAGES, 197, 3 * HEADS * 64], on)?;
    let precision = on.precision;
    case(IMAGES, move || ops::attention(&qkv, HEADS, None, precision))
}

/// Values of the usual size.
fn var(shape: &[usize], on: &Machine) -> Result<Var> {
    let count = shape.iter().product::<usize>() as f32;
    Ok(Var::from_tensor(&Tensor::arange(0f32, count, &on.device)?.sin()?.reshape(shape)?)?)
}

/// An operator and its gradients, from a gradient of ones.
fn case(images: usize, operator: impl Fn() -> candle_core::Result<Tensor> + 'static) -> Result<Case> {
    let step = move || {
        ops::backward(&operator()?)?;
        Ok(())
    };
    Ok(Case { images, parameters: 0, trainable: 0, step: Box::new(step) })
}
