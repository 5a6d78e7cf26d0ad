//! A stack of convolutions with norm and ReLU, used in the box head and the mask head. A batch without regions is allowed,
//! so that images without objects can be trained on.

use crate::nn::{ConvConfig, ConvInit, ConvNorm, NormKind, Pass};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// `count` 3×3 convolutions; parameters `<i>.0.*` and, with a norm, `<i>.1.*`.
#[derive(Clone, Debug)]
pub(super) struct Tower(Vec<ConvNorm>);

impl Tower {
    pub(crate) fn new(channels: usize, count: usize, norm: NormKind, vb: &VarBuilder) -> Result<Self> {
        let config = ConvConfig::same(3, ConvInit::Msra).before(norm);
        let layer = |i: usize| {
            let vb = vb.pp(i);
            Ok(ConvNorm::new([channels; 2], config, norm, [vb.pp("0"), vb.pp("1")])?.with_relu())
        };
        (0..count).map(layer).collect::<Result<_>>().map(Self)
    }

    /// `x` [R, C, h, w] -> the same shape.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, layer| layer.forward(&x, pass))
    }
}
