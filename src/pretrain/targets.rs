//! Targets of the decoder for a patch (MAE, arXiv:2111.06377, Table 1d): its pixels, its pixels
//! normalised by the patch's own mean and standard deviation, the largest PCA coefficients of patch space, or its token.
//!
//! Patches are those of [`crate::nn::patchify`]. No reference code exists for PCA; here it is fitted once, before
//! the first step, and stored in the checkpoint as buffers.

use super::{TokenTarget, pca};
use crate::config::ReconstructionTarget;
use crate::ops;
use candle_core::{DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use std::sync::OnceLock;

/// Number of coefficients in the paper.
const PCA_COEFFICIENTS: usize = 96;

/// Added to the variance of a patch.
const EPS: f64 = 1e-6;

/// Maps patches to targets and predictions back to patches.
#[derive(Debug)]
pub enum PatchTarget {
    /// The pixels of the patch.
    Pixel,
    /// Pixels normalised by the mean and unbiased variance of their patch.
    NormPixel,
    /// The largest PCA coefficients of the patch.
    Pca(PatchPca),
    /// The token of a discrete autoencoder.
    Token(TokenTarget),
}

impl PatchTarget {
    /// For patches of `values` values each. PCA keeps the buffers `pca.mean` and `pca.components` in `vb`; `tokens` is
    /// the tokenizer of a target of tokens.
    ///
    /// # Errors
    /// A target of tokens without a tokenizer.
    pub fn new(
        target: ReconstructionTarget,
        values: usize,
        tokens: Option<TokenTarget>,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(match target {
            ReconstructionTarget::Token => match tokens {
                Some(tokens) => Self::Token(tokens),
                None => candle_core::bail!("the target is tokens, but there is no tokenizer"),
            },
            ReconstructionTarget::Pixel => Self::Pixel,
            ReconstructionTarget::NormPixel => Self::NormPixel,
            ReconstructionTarget::Pca => Self::Pca(PatchPca::new(values, vb.pp("pca"))?),
        })
    }

    /// Number of values of the target for a patch of `values` values.
    pub fn len(&self, values: usize) -> usize {
        match self {
            Self::Pca(_) => PCA_COEFFICIENTS.min(values),
            Self::Token(tokens) => tokens.vocabulary(),
            Self::Pixel | Self::NormPixel => values,
        }
    }

    /// `patches` [.., P] -> targets [.., `len`].
    ///
    /// # Errors
    /// A target of tokens, which are computed from whole images.
    pub fn encode(&self, patches: &Tensor) -> Result<Tensor> {
        match self {
            Self::Pixel => Ok(patches.clone()),
            Self::NormPixel => ops::standardize(patches, EPS),
            Self::Pca(pca) => pca.project(patches),
            Self::Token(_) => candle_core::bail!("tokens are computed from images, not from patches"),
        }
    }

    /// `predictions` [B, L, `len`] -> patches [B, L, P]; normalised pixels take mean and deviation from the
    /// true `patches`.
    pub fn decode(&self, predictions: &Tensor, patches: &Tensor) -> Result<Tensor> {
        match self {
            Self::Pixel => Ok(predictions.clone()),
            Self::NormPixel => {
                let (mean, std) = ops::mean_and_deviation(patches, EPS)?;
                predictions.broadcast_mul(&std)?.broadcast_add(&mean)
            }
            Self::Pca(pca) => pca.expand(predictions),
            Self::Token(_) => candle_core::bail!("tokens stand for images, not for patches"),
        }
    }
}

/// The mean patch and the directions of largest variance.
#[derive(Debug)]
pub struct PatchPca {
    mean: Tensor,       // [P]
    components: Tensor, // [K, P], orthonormal rows
    /// Set when the components are known to be fitted.
    fitted: OnceLock<()>,
}

impl PatchPca {
    fn new(values: usize, vb: VarBuilder) -> Result<Self> {
        let zero = Init::Const(0.);
        Ok(Self {
            mean: vb.get_with_hints(values, "mean", zero)?,
            components: vb.get_with_hints((PCA_COEFFICIENTS.min(values), values), "components", zero)?,
            fitted: OnceLock::new(),
        })
    }

    /// Fits to `patches` [n, P] of training images, in place.
    ///
    /// # Errors
    /// Fewer patches than coefficients.
    pub fn fit(&self, patches: &Tensor) -> Result<()> {
        let coefficients = self.components.dim(0)?;
        if patches.dim(0)? <= coefficients {
            candle_core::bail!("PCA target: {} patches for {coefficients} coefficients", patches.dim(0)?);
        }
        let (mean, components) = pca::fit(patches, coefficients)?;
        self.mean.slice_set(&mean.to_device(self.mean.device())?, 0, 0)?;
        self.components.slice_set(&components.to_device(self.components.device())?, 0, 0)
    }

    /// Whether the components exist, either fitted or loaded from a checkpoint.
    pub fn is_fitted(&self) -> Result<bool> {
        if self.fitted.get().is_none() && self.components.sqr()?.sum_all()?.to_scalar::<f32>()? > 0. {
            self.fitted.get_or_init(|| ());
        }
        Ok(self.fitted.get().is_some())
    }

    /// `patches` [.., P] -> coefficients [.., K].
    fn project(&self, patches: &Tensor) -> Result<Tensor> {
        if !self.is_fitted()? {
            candle_core::bail!("PCA target: not fitted; fit it to training patches before the first step");
        }
        let centred = patches.to_dtype(DType::F32)?.broadcast_sub(&self.mean.detach())?;
        centred.broadcast_matmul(&self.components.detach().t()?)
    }

    /// Coefficients [.., K] -> patches [.., P], the projection on the components.
    fn expand(&self, coefficients: &Tensor) -> Result<Tensor> {
        coefficients.broadcast_matmul(&self.components.detach())?.broadcast_add(&self.mean.detach())
    }
}
