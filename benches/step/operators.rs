//! Single operators of `bench::ops`, forward and backward.

use super::{Case, Machine};
use anyhow::Result;
use bench::ops;
use candle_core::{DType, Tensor, Var};

/// Attention of a ViT-B/16 block at 224: 8 images, 197 tokens, 12 heads of 64.
pub fn attention(on: &Machine) -> Result<Case> {
    const IMAGES: usize = 8;
    const HEADS: usize = 12;
    let qkv = var(&[IMAGES, 197, 3 * HEADS * 64], on)?;
    let precision = on.precision;
    case(IMAGES, 0, move || ops::attention(&qkv, HEADS, None, precision))
}

/// The four 3×3 convolutions of a Mask R-CNN head, 256 wide, on one map of 64×64.
pub fn conv_head(on: &Machine) -> Result<Case> {
    convolutions(on, &[[256, 256]; 4])
}

/// The 3×3 convolution that fuses the four levels of UPerNet, 768 wide each, on one map of 64×64.
pub fn upernet_fusion(on: &Machine) -> Result<Case> {
    convolutions(on, &[[4 * 768, 768]])
}

/// A linear layer of a ViT-S/16 and its gradients where the gradient that reaches it is subnormal, as it becomes when losses
/// saturate: compare it with and without `--keep-subnormals`.
pub fn linear_subnormal(on: &Machine) -> Result<Case> {
    const IMAGES: usize = 8;
    const SMALL: f64 = 1e-39;
    let x = var(&[IMAGES, 197, 384], on)?;
    let (weight, bias) = (var(&[1536, 384], on)?, var(&[1536], on)?);
    let precision = on.precision;
    case(IMAGES, weight.elem_count() + bias.elem_count(), move || {
        // Scaled twice: a factor of 1e-39 would itself be zero.
        ops::linear(&x, &weight, Some(bias.as_tensor()), precision)?.affine(SMALL * 1e9, 0.)?.affine(1e-9, 0.)
    })
}

/// 3×3 convolutions, one on the other, of these channels [in, out].
fn convolutions(on: &Machine, channels: &[[usize; 2]]) -> Result<Case> {
    let x = var(&[1, channels[0][0], 64, 64], on)?;
    let layer = |&[from, to]: &[usize; 2]| Ok((var(&[to, from, 3, 3], on)?, var(&[to], on)?));
    let layers = channels.iter().map(layer).collect::<Result<Vec<(Var, Var)>>>()?;
    let parameters = layers.iter().map(|(weight, bias)| weight.elem_count() + bias.elem_count()).sum();
    let precision = on.precision;
    case(1, parameters, move || {
        let layer = |y: Tensor, (weight, bias): &(Var, Var)| {
            ops::conv2d(&y, weight, Some(bias.as_tensor()), 1, 1, precision)
        };
        layers.iter().try_fold(x.as_tensor().clone(), layer)
    })
}

/// Values of the usual size.
fn var(shape: &[usize], on: &Machine) -> Result<Var> {
    // Not counted in f32, which ends at 2²⁴.
    let count = Tensor::arange(0, shape.iter().product::<usize>() as u32, &on.device)?;
    let wave = count.to_dtype(DType::F32)?.sin()?;
    Ok(Var::from_tensor(&(wave * 0.05)?.reshape(shape)?)?)
}

/// An operator and its gradients, from a gradient of ones.
fn case(
    images: usize,
    parameters: usize,
    operator: impl Fn() -> candle_core::Result<Tensor> + 'static,
) -> Result<Case> {
    let step = move || {
        ops::backward(&operator()?)?;
        Ok(())
    };
    Ok(Case { images, parameters, trainable: parameters, step: Box::new(step) })
}
