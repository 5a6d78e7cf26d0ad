//! A convolution followed by a norm and an optional ReLU: the unit of pyramids, towers and decoders.

use super::{Conv2d, ConvConfig, Norm2d, NormKind, Pass};
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Convolution, norm, optional ReLU. References name the two layers differently, so each has a [`VarBuilder`].
#[derive(Clone, Debug)]
pub struct ConvNorm {
    conv: Conv2d,
    norm: Norm2d,
    relu: bool,
}

impl ConvNorm {
    /// Without ReLU. Parameters of convolution and norm are below the two builders.
    pub fn new(
        [input, output]: [usize; 2],
        config: ConvConfig,
        norm: NormKind,
        [of_conv, of_norm]: [VarBuilder; 2],
    ) -> Result<Self> {
        let conv = Conv2d::new(input, output, config, of_conv)?;
        Ok(Self { conv, norm: Norm2d::new(norm, output, of_norm)?, relu: false })
    }

    /// The same with a ReLU at the end.
    pub fn with_relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// `x` [B, in, H, W] -> [B, out, H', W'].
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        ops::chain(x, |x| {
            let x = self.norm.forward(&self.conv.forward(x)?, pass)?;
            if self.relu { ops::relu(&x) } else { Ok(x) }
        })
    }
}
