//! The mask head of Mask R-CNN (arXiv:1703.06870): one mask per class for every region, of which only the one
//! of the correct class is used. Names are torchvision's (`roi_heads.mask_head.*`, `roi_heads.mask_predictor.*`).

use super::tower::Tower;
use crate::nn::{Conv2d, ConvConfig, ConvInit, ConvTranspose2d, NormKind, Pass};
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Side of the features of a region.
pub(super) const FEATURES: usize = 14;
/// Side of a mask.
pub(super) const MASK: usize = 2 * FEATURES;

/// The head.
#[derive(Clone, Debug)]
pub(super) struct MaskHead {
    tower: Tower,
    up: ConvTranspose2d,
    logits: Conv2d,
    classes: usize,
}

impl MaskHead {
    pub(crate) fn new(
        channels: usize,
        convs: usize,
        norm: NormKind,
        classes: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (trunk, predictor) = (vb.pp("mask_head"), vb.pp("mask_predictor"));
        let up = ConvConfig::strided(2, ConvInit::Msra);
        let last = ConvConfig::same(1, ConvInit::Normal(0.001));
        Ok(Self {
            tower: Tower::new(channels, convs, norm, &trunk)?,
            up: ConvTranspose2d::new(channels, channels, up, predictor.pp("conv5_mask"))?,
            logits: Conv2d::new(channels, classes, last, predictor.pp("mask_fcn_logits"))?,
            classes,
        })
    }

    /// Mask logits for one label per region. `x` [R, C, 14, 14] -> [R, 28·28]
    pub(crate) fn forward(&self, x: &Tensor, labels: &[u32], pass: &mut Pass) -> Result<Tensor> {
        let logits = ops::chain(x, |x| {
            let x = ops::relu(&self.up.forward(&self.tower.forward(x, pass)?)?)?;
            self.logits.forward(&x)
        })?;
        let logits = logits.reshape((labels.len() * self.classes, MASK * MASK))?;
        let rows = labels.iter().enumerate().map(|(i, label)| (i * self.classes) as u32 + label);
        ops::index_select(&logits, &rows.collect::<Vec<u32>>())
    }

    /// Binary cross-entropy, mean over all pixels of all masks. `targets` are 0 or 1, 28·28 per region.
    pub(crate) fn loss(&self, logits: &Tensor, targets: Vec<f32>) -> Result<Tensor> {
        let targets = Tensor::from_vec(targets, logits.shape(), logits.device())?;
        ops::binary_cross_entropy_with_logits(logits, &targets, None)
    }
}
