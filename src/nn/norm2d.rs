//! The norm of a feature map, chosen by name: the layer between a convolution and its activation.
//!
//! On one device `batch` is over the images of a forward pass, which is what synchronised BatchNorm is over the
//! effective batch only when the batch is not accumulated from smaller ones; a run that accumulates says so in its
//! record. `layer` and `group` do not depend on the batch.

use super::{BatchNorm, Pass};
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// The type of norm; ε is 1e-5, and 1e-6 for `layer` (detectron2).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// No norm.
    #[default]
    None,
    /// Normalises by the statistics of each channel over batch and pixels.
    Batch,
    /// Normalises by the statistics of 32 groups of the channels of each image (arXiv:1803.08494), or of the largest
    /// number of groups that divides both 32 and the channels.
    Group,
    /// Over the channels of every pixel: LayerNorm of ViTDet and ConvNeXt.
    Layer,
}

/// A norm of [B, C, H, W]; parameters `weight` (1) and `bias` (0), both `[C]`.
#[derive(Clone, Debug)]
pub enum Norm2d {
    /// The identity, without parameters.
    None,
    /// [`NormKind::Batch`].
    Batch(BatchNorm),
    /// [`NormKind::Group`].
    Group {
        /// Number of groups.
        groups: usize,
        /// `[C]`
        weight: Tensor,
        /// `[C]`
        bias: Tensor,
    },
    /// [`NormKind::Layer`].
    Layer {
        /// `[C]`
        weight: Tensor,
        /// `[C]`
        bias: Tensor,
    },
}

impl Norm2d {
    /// A norm of `channels` channels.
    ///
    /// # Errors
    /// When the builder lacks a parameter.
    pub fn new(kind: NormKind, channels: usize, vb: VarBuilder) -> Result<Self> {
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(match kind {
            NormKind::None => Self::None,
            NormKind::Batch => Self::Batch(BatchNorm::new(channels, 1e-5, true, vb)?),
            NormKind::Group => Self::Group {
                groups: 1 << channels.trailing_zeros().min(5),
                weight: get("weight", 1.)?,
                bias: get("bias", 0.)?,
            },
            NormKind::Layer => Self::Layer { weight: get("weight", 1.)?, bias: get("bias", 0.)? },
        })
    }

    /// `x` [B, C, H, W] -> the same shape. A batch without images gives no values, and gradients of 0.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            // An empty batch has no statistics; using the running ones keeps the parameters in the graph.
            Self::Batch(norm) if x.elem_count() == 0 => norm.forward(x, &mut Pass::Eval),
            Self::Batch(norm) => norm.forward(x, pass),
            Self::Group { groups, weight, bias } => ops::group_norm(x, *groups, weight, bias, 1e-5),
            Self::Layer { weight, bias } => ops::layer_norm2d(x, weight, bias, 1e-6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Params;
    use crate::nn::test_tolerance;
    use crate::rng::Rng;
    use candle_core::Device;

    #[test]
    fn each_norm_makes_its_own_set_of_values_standard() -> Result<()> {
        let mut rng = Rng::new(0, "test", &[]);
        let (b, c, side) = (3, 6, 4);
        let values: Vec<f32> =
            (0..b * c * side * side).map(|_| rand::Rng::random_range(&mut rng, -1f32..3.)).collect();
        let x = Tensor::from_vec(values, (b, c, side, side), &Device::Cpu)?;
        for kind in [NormKind::Batch, NormKind::Group, NormKind::Layer] {
            let params = Params::new(0, &Device::Cpu);
            let norm = Norm2d::new(kind, c, params.builder())?;
            let y = norm.forward(&x, &mut Pass::train(&mut rng))?;
            let sets = match kind {
                NormKind::Batch => y.transpose(0, 1)?.flatten_from(1)?,
                NormKind::Group => y.reshape((b * 2, c / 2 * side * side))?, // 6 channels: 2 groups
                _ => y.permute((0, 2, 3, 1))?.reshape((b * side * side, c))?,
            };
            let mean = test_tolerance::largest(&sets.mean(1)?);
            let var = test_tolerance::largest(&(sets.sqr()?.mean(1)? - 1.)?);
            assert!(mean < 1e-5 && var < 1e-3, "{kind:?}: mean {mean}, variance 1 ± {var}");
            assert_eq!(params.trainable().len(), 2, "{kind:?}");
        }
        Ok(())
    }
}
