//! Pictures of reconstructions under headings: one row per image, with four panels: original, masked, reconstruction,
//! and reconstruction with the visible patches pasted in (MAE's demo). Removed patches are drawn in the mean colour.

use super::masks::PatchMask;
use crate::config::Normalize;
use crate::data::SampleId;
use crate::draw::{Figure, enlarged};
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

/// Minimum side of a panel in pixels; smaller images are enlarged.
const SIDE: usize = 256;
/// Minimum side of a patch in pixels.
const PATCH: usize = 12;

/// Draws `images` [B, C, H, W] (normalised), named `names`, and their `reconstruction`, for square patches of `patch` pixels.
/// One channel is drawn in grey; of more channels the first three are drawn.
pub fn figure_of_reconstructions(
    (images, names): (&Tensor, &[SampleId]),
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
    // A patch is at least PATCH pixels wide.
    let shortest = SIDE.max(height.min(width) * PATCH.div_ceil(patch));
    let row = |b: usize| {
        let mut visible = vec![false; mask.patches()];
        mask.keep()[b].iter().for_each(|id| visible[*id as usize] = true);
        let panel = |colour: &dyn Fn(bool, Rgb<u8>, Rgb<u8>) -> Rgb<u8>| {
            let picture = RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let (x, y) = (x as usize, y as usize);
                let seen = visible[(y / patch) * (width / patch) + x / patch];
                colour(seen, pixel(&original, b, y, x), pixel(&predicted, b, y, x))
            });
            enlarged(picture, shortest)
        };
        vec![
            panel(&|_, truth, _| truth),
            panel(&|seen, truth, _| if seen { truth } else { removed }),
            panel(&|_, _, guess| guess),
            panel(&|seen, truth, guess| if seen { truth } else { guess }),
        ]
    };
    let share = 1. - mask.kept() as f64 / mask.patches() as f64;
    let masked = format!("input ({:.0} % masked)", 100. * share);
    let columns = ["original", &masked, "reconstruction", "with visible patches"];
    let title = "Reconstruction of masked patches".into();
    Ok(figure(title, (&columns, names), (0..batch).map(row).collect()))
}

/// Draws `images` [B, C, H, W] (normalised), named `names`, each next to its counterpart in `drawn`, which has the same shape.
pub fn figure_of_pairs(
    (images, names): (&Tensor, &[SampleId]),
    drawn: &Tensor,
    normalize: &Normalize,
) -> Result<RgbImage> {
    let (batch, channels, height, width) = images.dims4()?;
    if drawn.dims() != images.dims() {
        candle_core::bail!("figure of pairs: images {:?} and {:?}", images.dims(), drawn.dims());
    }
    let panels = [values(images)?, values(drawn)?];
    let panel = |values: &Vec<f32>, b: usize| {
        let colour = |x, y| pixel(values, (channels, height, width), normalize, (b, y as usize, x as usize));
        enlarged(RgbImage::from_fn(width as u32, height as u32, colour), SIDE)
    };
    let row = |b: usize| panels.iter().map(|values| panel(values, b)).collect();
    let title = "Reconstruction from tokens".into();
    Ok(figure(title, (&["original", "reconstruction"], names), (0..batch).map(row).collect()))
}

fn figure(title: String, (columns, names): (&[&str], &[SampleId]), rows: Vec<Vec<RgbImage>>) -> RgbImage {
    let columns = columns.iter().map(ToString::to_string).collect();
    let names = names.iter().map(|name| name.as_str().to_string()).collect();
    Figure { title, columns, rows, names, legend: vec![] }.draw()
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
        let picture = figure_of_reconstructions((&images, &[]), &reconstruction, 2, &normalize)?;
        // Panels of 512×256 pixels, ten pixels apart and sixteen from the edges, below title and headings.
        assert_eq!(picture.width(), 4 * 512 + 3 * 10 + 2 * 16);
        let top = picture.height() - 16 - 2 * 256 - 10;
        let row = |y: u32| -> Vec<u8> {
            let at = |panel: u32, x: u32| picture.get_pixel(16 + panel * (512 + 10) + x, top + y).0[0];
            (0..4).flat_map(|panel| [at(panel, 64), at(panel, 448)]).collect()
        };
        assert_eq!(row(128), [0, 0, 0, 128, 255, 255, 0, 255]);
        assert_eq!(row(256 + 10 + 128), [0, 0, 128, 0, 255, 255, 255, 0]);
        let dark = |x: u32, y: u32| picture.get_pixel(x, y).0.iter().all(|v| *v < 100);
        let heading = |panel: u32| (0..60).any(|x| (top - 25..top).any(|y| dark(16 + panel * 522 + x, y)));
        assert!((0..4).all(heading), "every column has a heading");
        assert!(
            figure_of_reconstructions((&images.narrow(0, 0, 1)?, &[]), &reconstruction, 2, &normalize)
                .is_err()
        );
        Ok(())
    }
}
