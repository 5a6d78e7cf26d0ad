//! Convolutions with norm and ReLU one after the other: the trunk of the box head and of the mask head. The same over
//! no regions at all, so that an image without objects trains.

use crate::nn::{Conv2d, ConvConfig, ConvInit, Norm2d, NormKind, Pass};
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// `count` 3×3 convolutions; parameters `<i>.0.*` and, with a norm, `<i>.1.*`.
#[derive(Clone, Debug)]
pub(super) struct Tower(Vec<(Conv2d, Norm2d)>);

impl Tower {
    pub fn new(channels: usize, count: usize, norm: NormKind, vb: &VarBuilder) -> Result<Self> {
        let config = ConvConfig { bias: norm == NormKind::None, ..ConvConfig::same(3, ConvInit::Msra) };
        let layer = |i: usize| {
            let vb = vb.pp(i);
            let conv = Conv2d::new(channels, channels, config, vb.pp("0"))?;
            Ok((conv, Norm2d::new(norm, channels, vb.pp("1"))?))
        };
        (0..count).map(layer).collect::<Result<_>>().map(Self)
    }

    /// `x` [R, C, h, w] -> the same shape.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, (conv, norm)| {
            let x = norm.forward(&conv.forward(&x)?, pass)?;
            ops::relu(&x)
        })
    }
}
