//! Images to patches and back, and the patch embedding.
//!
//! Inside a patch the order is (row, column, channel), channel fastest, as in MAE's target. The
//! embedding is a linear map of such patches with the weight of the reference's convolution
//! [D, C, p, p]; unlike a convolution, it asks for no gradient of the image.

use super::linear::xavier_uniform;
pub use crate::ops::patchify;
use crate::ops::{self, Precision};
use candle_core::{DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// The inverse of [`patchify`]: `patches` [B, h·w, p·p·C] -> [B, C, h·p, w·p].
///
/// # Errors
/// When the patches do not fill the grid (rows, columns), or do not have `patch`² times some channels.
pub fn unpatchify(patches: &Tensor, patch: usize, grid: (usize, usize)) -> Result<Tensor> {
    let (b, count, values) = patches.dims3()?;
    let (h, w) = grid;
    if count != h * w || patch == 0 || !values.is_multiple_of(patch * patch) {
        candle_core::bail!(
            "unpatchify: {count} patches of {values} values do not make a {h}×{w} grid of {patch}×{patch} patches"
        );
    }
    let c = values / (patch * patch);
    patches
        .reshape(&[b, h, w, patch, patch, c])?
        .permute(vec![0, 5, 1, 3, 2, 4])? // [B, C, h, p, w, p]
        .reshape((b, c, h * patch, w * patch))
}

/// Patches to tokens; parameters `proj.weight` [D, C, p, p] and `proj.bias` `[D]`.
#[derive(Clone, Debug)]
pub struct PatchEmbed {
    weight: Tensor,
    bias: Tensor,
    precision: Precision,
}

impl PatchEmbed {
    /// Weight Xavier-uniform on its flattened view [D, C·p·p]; the bias keeps the default of PyTorch's
    /// convolution, U(±1/√(C·p·p)).
    pub fn new(channels: usize, patch: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        let fan_in = channels * patch * patch;
        let bound = (fan_in as f64).powf(-0.5);
        let (vb, init) = (vb.pp("proj"), xavier_uniform(fan_in, width));
        Ok(Self {
            weight: vb.get_with_hints((width, channels, patch, patch), "weight", init)?,
            bias: vb.get_with_hints(width, "bias", Init::Uniform { lo: -bound, up: bound })?,
            precision: Precision::of(vb.dtype())?,
        })
    }

    /// `patches` [B, N, p·p·C] of [`patchify`] -> tokens [B, N, D].
    pub fn forward(&self, patches: &Tensor) -> Result<Tensor> {
        let weight = self.weight.permute((0, 2, 3, 1))?.flatten_from(1)?; // [D, p·p·C]
        ops::linear(patches, &weight, Some(&self.bias), self.precision)
    }
}

/// The kernel `weight` [D, C, p, p] of a patch embedding for patches of `patch` pixels: resized bicubically and divided
/// by the ratio of the numbers of pixels, so that tokens keep their magnitude. Computed in f64.
pub(crate) fn resize_kernel(weight: &Tensor, patch: usize) -> Result<Tensor> {
    let (_, _, _, from) = weight.dims4()?;
    let resized = ops::resize_bicubic(&weight.to_dtype(DType::F64)?, (patch, patch))?;
    let share = (from * from) as f64 / (patch * patch) as f64;
    (resized * share)?.to_dtype(weight.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn patches_hold_rows_columns_then_channels_and_come_back() -> Result<()> {
        // 2 channels, 4×6 pixels, patch 2: the value of a pixel is 100·channel + 10·row + column.
        let pixels: Vec<f32> =
            (0..2 * 4 * 6).map(|i| (100 * (i / 24) + 10 * (i / 6 % 4) + i % 6) as f32).collect();
        let images = Tensor::from_vec(pixels, (1, 2, 4, 6), &Device::Cpu)?;
        let patches = patchify(&images, 2)?;
        assert_eq!(patches.dims(), [1, 6, 8]);
        let rows = patches.squeeze(0)?.to_vec2::<f32>()?;
        assert_eq!(rows[5], [24., 124., 25., 125., 34., 134., 35., 135.]);
        let back = unpatchify(&patches, 2, (2, 3))?;
        assert_eq!(back.flatten_all()?.to_vec1::<f32>()?, images.flatten_all()?.to_vec1::<f32>()?);
        assert!(patchify(&images, 4).unwrap_err().to_string().contains("4×6 is not a multiple of patch 4"));
        assert!(unpatchify(&patches, 2, (2, 2)).is_err());
        Ok(())
    }

    #[test]
    fn a_resized_kernel_sees_the_same_in_larger_patches() -> Result<()> {
        // A ramp over 14 pixels, on an image of one colour and on the same ramp drawn at each size.
        let ramp = |side: usize| -> Result<Tensor> {
            let value = |i: usize| ((i % side) as f32 + 0.5) / side as f32;
            Tensor::from_vec((0..side * side).map(value).collect(), (1, 1, side, side), &Device::Cpu)
        };
        let (kernel, resized) = (ramp(14)?, resize_kernel(&ramp(14)?, 16)?);
        let sum = |t: Tensor| t.sum_all()?.to_scalar::<f32>();
        let flat = [sum(kernel.clone())?, sum(resized.clone())?];
        let sloped = [sum((&kernel * ramp(14)?)?)?, sum((&resized * ramp(16)?)?)?];
        for [before, after] in [flat, sloped] {
            assert!((before - after).abs() < 0.01 * before, "{before} {after}");
        }
        Ok(())
    }
}
