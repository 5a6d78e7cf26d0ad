//! UperNet (arXiv:1807.10221) on four maps of a ViT, as BEiT (arXiv:2106.08254) and MAE use it, with an auxiliary FCN head
//! (arXiv:1411.4038).
//!
//! Parameter names are those of mmsegmentation (`decode_head.*`, `auxiliary_head.*`; the pyramid `fpn1.*` and `fpn2.*` of
//! BEiT). Every convolution except the classifiers has no bias and is followed by BatchNorm (or another norm) and ReLU.
//! All resizing is bilinear, `align_corners=False`.

use super::config::SegmentationHeadConfig;
use crate::data::Size;
use crate::models::pyramid::{LEVELS, Pyramid, ScalePyramid};
use crate::nn::{Conv2d, ConvConfig, ConvInit, ConvNorm, NormKind, Pass};
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use rand::Rng as _;

/// mmcv's `ConvModule`: convolution without bias, norm, ReLU.
fn conv_module(channels: [usize; 2], kernel: usize, norm: NormKind, vb: VarBuilder) -> Result<ConvNorm> {
    let config = ConvConfig::same(kernel, ConvInit::Msra).without_bias();
    Ok(ConvNorm::new(channels, config, norm, [vb.pp("conv"), vb.pp("bn")])?.with_relu())
}

/// Dropout of whole channels and a 1×1 convolution to one logit per class.
#[derive(Clone, Debug)]
struct Classifier {
    dropout: f64,
    conv: Conv2d,
}

impl Classifier {
    fn new(channels: usize, classes: usize, dropout: f64, vb: VarBuilder) -> Result<Self> {
        let config = ConvConfig::same(1, ConvInit::Normal(0.01));
        Ok(Self { dropout, conv: Conv2d::new(channels, classes, config, vb.pp("conv_seg"))? })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let Pass::Train { rng, .. } = pass else { return self.conv.forward(x) };
        if self.dropout == 0. {
            return self.conv.forward(x);
        }
        let (batch, channels, _, _) = x.dims4()?;
        let keep = 1. - self.dropout;
        let mut scale = || if rng.random::<f64>() < keep { (1. / keep) as f32 } else { 0. };
        let scales: Vec<f32> = (0..batch * channels).map(|_| scale()).collect();
        let scales = Tensor::from_vec(scales, (batch, channels, 1, 1), x.device())?;
        self.conv.forward(&x.broadcast_mul(&scales)?)
    }
}

/// Pyramid pooling: averages of the coarsest map over grids of several sizes, resized and concatenated with the map.
#[derive(Clone, Debug)]
struct PyramidPooling {
    scales: Vec<usize>,
    modules: Vec<ConvNorm>,
    bottleneck: ConvNorm,
}

impl PyramidPooling {
    fn new(input: usize, channels: usize, config: &SegmentationHeadConfig, vb: &VarBuilder) -> Result<Self> {
        let norm = config.norm;
        let module = |i: usize| conv_module([input, channels], 1, norm, vb.pp(format!("psp_modules.{i}.1")));
        let scales = config.pool_scales.clone();
        let all = input + scales.len() * channels;
        Ok(Self {
            modules: (0..scales.len()).map(module).collect::<Result<_>>()?,
            bottleneck: conv_module([all, channels], 3, norm, vb.pp("bottleneck"))?,
            scales,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let size = size(x)?;
        let mut parts = vec![x.clone()];
        for (scale, module) in self.scales.iter().zip(&self.modules) {
            let pooled = ops::adaptive_avg_pool2d(x, (*scale, *scale))?;
            parts.push(ops::resize_bilinear(&module.forward(&pooled, pass)?, size)?);
        }
        self.bottleneck.forward(&Tensor::cat(&parts, 1)?, pass)
    }
}

/// The decoder: pyramid pooling on the coarsest level, a feature pyramid, and a fusion of all levels at the finest.
#[derive(Clone, Debug)]
struct Decoder {
    pooling: PyramidPooling,
    lateral: Vec<ConvNorm>,
    fpn: Vec<ConvNorm>,
    fusion: ConvNorm,
    classifier: Classifier,
}

impl Decoder {
    /// A decoder for levels with `width` channels.
    fn new(width: usize, classes: usize, config: &SegmentationHeadConfig, vb: VarBuilder) -> Result<Self> {
        let (channels, norm) = (config.channels.unwrap_or(width), config.norm);
        let each = |name: &str, input: usize, kernel: usize| {
            let module = |i: usize| conv_module([input, channels], kernel, norm, vb.pp(name).pp(i));
            (0..LEVELS - 1).map(module).collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            pooling: PyramidPooling::new(width, channels, config, &vb)?,
            lateral: each("lateral_convs", width, 1)?,
            fpn: each("fpn_convs", channels, 3)?,
            fusion: conv_module([LEVELS * channels, channels], 3, norm, vb.pp("fpn_bottleneck"))?,
            classifier: Classifier::new(channels, classes, config.dropout, vb)?,
        })
    }

    fn forward(&self, levels: &Pyramid, pass: &mut Pass) -> Result<Tensor> {
        let top = self.pooling.forward(&levels[LEVELS - 1], pass)?;
        let lateral = self.lateral.iter().zip(levels);
        let mut sums =
            lateral.map(|(module, level)| module.forward(level, pass)).collect::<Result<Vec<_>>>()?;
        sums.push(top);
        for i in (1..LEVELS).rev() {
            sums[i - 1] = (&sums[i - 1] + ops::resize_bilinear(&sums[i], size(&sums[i - 1])?)?)?;
        }
        for (sum, module) in sums.iter_mut().zip(&self.fpn) {
            *sum = module.forward(sum, pass)?;
        }
        let fused = stacked_at_finest(sums)?;
        self.classifier.forward(&self.fusion.forward(&fused, pass)?, pass)
    }
}

/// A 3×3 convolution and a classifier on the level whose pixels are patches.
#[derive(Clone, Debug)]
struct Auxiliary {
    conv: ConvNorm,
    classifier: Classifier,
}

/// Computes logits from the maps of four blocks.
#[derive(Clone, Debug)]
pub(super) struct UperNet {
    pyramid: ScalePyramid,
    decoder: Decoder,
    auxiliary: Option<Auxiliary>,
}

impl UperNet {
    pub(crate) fn new(
        width: usize,
        classes: usize,
        config: &SegmentationHeadConfig,
        vb: VarBuilder,
    ) -> Result<Self> {
        let auxiliary = |channels: usize| {
            let vb = vb.pp("auxiliary_head");
            Ok::<_, candle_core::Error>(Auxiliary {
                conv: conv_module([width, channels], 3, config.norm, vb.pp("convs.0"))?,
                classifier: Classifier::new(channels, classes, config.dropout, vb)?,
            })
        };
        Ok(Self {
            pyramid: ScalePyramid::new(width, config.norm, vb.clone())?,
            decoder: Decoder::new(width, classes, config, vb.pp("decode_head"))?,
            auxiliary: config.auxiliary.map(|a| auxiliary(a.channels)).transpose()?,
        })
    }

    /// Four `maps` `[B, C, h, w]` -> logits `[B, K, 4h, 4w]` and, if `auxiliary` is set and there is such a
    /// head, its logits `[B, K, h, w]`.
    pub(crate) fn forward(
        &self,
        maps: &[Tensor],
        auxiliary: bool,
        pass: &mut Pass,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let levels = self.pyramid.forward(maps, pass)?;
        let logits = self.decoder.forward(&levels, pass)?;
        let Some(head) = self.auxiliary.as_ref().filter(|_| auxiliary) else { return Ok((logits, None)) };
        // The third level is the third map, unchanged.
        let beside = head.classifier.forward(&head.conv.forward(&levels[2], pass)?, pass)?;
        Ok((logits, Some(beside)))
    }
}

/// All levels at the size of the first, `[B, LEVELS·C, H, W]`. Consumes them to free memory, because these maps are large.
fn stacked_at_finest(mut levels: Vec<Tensor>) -> Result<Tensor> {
    let finest = size(&levels[0])?;
    for level in &mut levels[1..] {
        *level = ops::resize_bilinear(level, finest)?;
    }
    Tensor::cat(&levels, 1)
}

fn size(x: &Tensor) -> Result<Size> {
    let (_, _, height, width) = x.dims4()?;
    Ok((height, width))
}
