//! The picture of a reconstruction: one row per image, with four panels: original, masked, reconstruction,
//! and reconstruction with the visible patches pasted in (MAE's demo). Removed patches are drawn in the mean colour.

use super::masks::PatchMask;
use crate::config::Normalize;
use candle_core::{Result, Tensor};
use image::{Rgb, RgbImage};

/// Predictions for whole images.
#[derive(Clone, Debug)]
pub struct Reconstruction {
    /// Every patch as predicted, in the (normalised) pixel space of the model's input. [B, C, H, W]
    pub prediction: Tensor,
    /// Which patches were removed.
    pub mask: PatchMask,
}

/// Pixels between panels.
const GAP: usize = 2;
/// Colour between panels.
const SEPARATOR: Rgb<u8> = Rgb([255, 255, 255]);

/// Draws `images` [B, C, H, W] (normalised) and their `reconstruction`, for square patches of `patch` pixels.
/// One channel is drawn in grey; of more channels the first three are drawn.
pub fn figure_of_reconstructions(
    images: &Tensor,
    reconstruction: &Reconstruction,
    patch: usize,
    normalize: &Normalize,
) -> Result<RgbImage> {
    let (batch, channels, height, width) = images.dims4()?;
    let Reconstruction { prediction, mask } = reconstruction;
    if prediction.dims() != images.dims()
        || mask.batch() != batch
        || mask.patches() * patch * patch != height * width
    {
        candle_core::bail!(
            "figure of reconstructions: images {:?}, prediction {:?} and a mask of {}×{} patches of {patch} pixels do not belong together",
            images.dims(),
            prediction.dims(),
            mask.batch(),
            mask.patches()
        );
    }
    let (original, predicted) = (values(images)?, values(prediction)?);
    let pixel = |values: &[f32], b, y, x| pixel(values, (channels, height, width), normalize, (b, y, x));
    let removed = self::pixel(&vec![0.; channels], (channels, 1, 1), normalize, (0, 0, 0));
    let mut canvas = RgbImage::from_pixel(
        (4 * width + 3 * GAP) as u32,
        (batch * height + batch.saturating_sub(1) * GAP) as u32,
        SEPARATOR,
    );
    for b in 0..batch {
        let mut visible = vec![false; mask.patches()];
        mask.keep()[b].iter().for_each(|id| visible[*id as usize] = true);
        for y in 0..height {
            for x in 0..width {
                let seen = visible[(y / patch) * (width / patch) + x / patch];
                let (truth, guess) = (pixel(&original, b, y, x), pixel(&predicted, b, y, x));
                let masked = if seen { truth } else { removed };
                let pasted = if seen { truth } else { guess };
                for (panel, colour) in [truth, masked, guess, pasted].into_iter().enumerate() {
                    let (left, top) = (panel * (width + GAP) + x, b * (height + GAP) + y);
                    canvas.put_pixel(left as u32, top as u32, colour);
                }
            }
        }
    }
    Ok(canvas)
}

/// Draws `images` [B, C, H, W] (normalised), each next to its counterpart in `drawn`, which has the same shape.
pub fn figure_of_pairs(images: &Tensor, drawn: &Tensor, normalize: &Normalize) -> Result<RgbImage> {
    let (batch, channels, height, width) = images.dims4()?;
    if drawn.dims() != images.dims() {
        candle_core::bail!("figure of pairs: images {:?} and {:?}", images.dims(), drawn.dims());
    }
    let panels = [values(images)?, values(drawn)?];
    let size = ((2 * width + GAP) as u32, (batch * (height + GAP) - GAP.min(batch)) as u32);
    let mut canvas = RgbImage::from_pixel(size.0, size.1, SEPARATOR);
    for (panel, values) in panels.iter().enumerate() {
        for (b, y, x) in
            (0..batch).flat_map(|b| (0..height).flat_map(move |y| (0..width).map(move |x| (b, y, x))))
        {
            let colour = pixel(values, (channels, height, width), normalize, (b, y, x));
            canvas.put_pixel((panel * (width + GAP) + x) as u32, (b * (height + GAP) + y) as u32, colour);
        }
    }
    Ok(canvas)
}

/// The colour of pixel (image, row, column) of normalised values [B, C, H, W].
fn pixel(
    values: &[f32],
    (channels, height, width): (usize, usize, usize),
    normalize: &Normalize,
    (b, y, x): (usize, usize, usize),
) -> Rgb<u8> {
    Rgb(std::array::from_fn(|i| {
        let c = i.min(channels - 1) * usize::from(channels >= 3);
        let (mean, std) = normalize.channel(c);
        let value = values[((b * channels + c) * height + y) * width + x] * std + mean;
        (value * 255.).round().clamp(0., 255.) as u8
    }))
}

fn values(t: &Tensor) -> Result<Vec<f32>> {
    t.detach().flatten_all()?.to_vec1()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn four_panels_side_by_side() -> Result<()> {
        let normalize = Normalize { mean: vec![0.5], std: vec![0.5] };
        // Two grey images of 2×4 pixels, two patches of 2: black is kept, white predicted.
        let images = Tensor::full(-1f32, (2, 1, 2, 4), &Device::Cpu)?;
        let prediction = Tensor::full(3f32, (2, 1, 2, 4), &Device::Cpu)?; // clipped to white
        let mask = PatchMask::new(2, vec![vec![0], vec![1]])?;
        let reconstruction = Reconstruction { prediction, mask };
        let picture = figure_of_reconstructions(&images, &reconstruction, 2, &normalize)?;
        assert_eq!(picture.dimensions(), (4 * 4 + 3 * 2, 2 * 2 + 2));
        let row = |y: u32| -> Vec<u8> {
            let at = |panel: u32, x: u32| picture.get_pixel(panel * 6 + x, y).0[0];
            (0..4).flat_map(|panel| [at(panel, 0), at(panel, 3)]).collect()
        };
        assert_eq!(row(1), [0, 0, 0, 128, 255, 255, 0, 255]);
        assert_eq!(row(4), [0, 0, 128, 0, 255, 255, 255, 0]);
        assert_eq!(picture.get_pixel(4, 0), &SEPARATOR);
        assert_eq!(picture.get_pixel(0, 2), &SEPARATOR);
        assert!(figure_of_reconstructions(&images.narrow(0, 0, 1)?, &reconstruction, 2, &normalize).is_err());
        Ok(())
    }
}
