//! How evaluation reads an image: whole, or in windows of the model's input size, at several scales and mirrored.
//!
//! A single view gives the labels of mmsegmentation's `slide_inference`. Several views give those of its
//! `aug_test` but for two things: views are scaled from the image as `[[eval]]` leaves it, and probabilities are averaged
//! at that size, where the reference goes back to the file and averages at the size of the source.

use super::stitch::{BestClass, Mean, Rows, Tile, Windows};
use crate::data::{Raster, Size, SourceTransform};
use crate::ops;
use candle_core::{DType, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// `[options]` of the manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Windows of the model's input size slide over the image, this share of a window apart (rounded down to pixels).
    /// Without it the protocol brings images to the input size and they are read whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<f64>,
    /// Sizes at which a sliding window reads the image, relative to it. A view is never smaller than the window.
    #[serde(default = "once")]
    pub scales: Vec<f64>,
    /// Reads each of them mirrored too.
    #[serde(default)]
    pub flip: bool,
}

fn once() -> Vec<f64> {
    vec![1.]
}

impl Default for Options {
    fn default() -> Self {
        Self { stride: None, scales: once(), flip: false }
    }
}

/// Windows that a device other than the CPU reads at a time.
const WINDOWS: usize = 8;
/// Values that the probabilities of all views of an image may have: 1 GiB.
const MOST_VALUES: usize = 1 << 28;

impl Options {
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        if let Some(stride) = self.stride.filter(|stride| !(*stride > 0. && *stride <= 1.)) {
            return Err(format!(
                "stride is {stride}, expected a share of the window: more than 0, at most 1"
            ));
        }
        if self.scales.is_empty() || self.scales.iter().any(|s| !(*s > 0. && s.is_finite())) {
            return Err(format!("scales are {:?}, expected positive numbers", self.scales));
        }
        if self.stride.is_none() && self.several() {
            return Err("scales and flip need a sliding window: give `stride`".into());
        }
        Ok(())
    }

    fn several(&self) -> bool {
        self.flip || self.scales != [1.]
    }

    /// Labels of an image `[1, C, H, W]` in the pixels of its source. `logits` maps images `[B, C, h, w]` of the `input`
    /// size to `[B, K, h', w']`.
    ///
    /// # Errors
    /// Those of `logits`, and an image whose views do not fit into memory.
    pub(super) fn slide(
        &self,
        image: &Tensor,
        source_transform: &SourceTransform,
        input: Size,
        classes: usize,
        logits: &dyn Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Raster> {
        let (_, _, height, width) = image.dims4()?;
        let mut best = BestClass::new(classes, source_transform)?;
        let view = |image: &Tensor, sink: &mut dyn FnMut(Rows)| {
            let (_, _, height, width) = image.dims4()?;
            let stride = self.stride.unwrap_or(1.);
            let step = |window: usize| ((window as f64 * stride) as usize).max(1);
            let windows = Windows::new((height, width), input, (step(input.0), step(input.1)));
            windows.stitch(classes, &mut |places| tiles(image, places, input, logits), sink)
        };
        if !self.several() {
            view(image, &mut |rows| best.feed(rows))?;
            return Ok(best.finish());
        }
        if classes * height * width > MOST_VALUES {
            bail!(
                "segmentation: views of an image of {height}x{width} with {classes} classes need more than 1 GiB; \
                 scale images down in `[[eval]]`, or evaluate a single view"
            );
        }
        let mut mean = Mean::new(classes, (height, width));
        for scale in &self.scales {
            let size = scaled((height, width), *scale, input);
            let image =
                if size == (height, width) { image.clone() } else { ops::resize_bilinear(image, size)? };
            mean.view(size, false, |sink| view(&image, sink))?;
            if self.flip {
                let image = image.flip(&[3])?;
                mean.view(size, true, |sink| view(&image, sink))?;
            }
        }
        best.feed(mean.rows());
        Ok(best.finish())
    }
}

/// The size of a view: its sides are not shorter than the shorter side of the window.
fn scaled((height, width): Size, scale: f64, window: Size) -> Size {
    let least = window.0.min(window.1) as f64 / height.min(width) as f64;
    // A view at scale 1 is the image itself, however small.
    let scale = if scale == 1. { 1. } else { scale.max(least) };
    let side = |pixels: usize| ((pixels as f64 * scale).round() as usize).max(1);
    (side(height), side(width))
}

/// Logits of the windows of `image` at (top, left). What lies outside of the image is 0, the mean colour.
fn tiles(
    image: &Tensor,
    places: &[Size],
    (height, width): Size,
    logits: &dyn Fn(&Tensor) -> Result<Tensor>,
) -> Result<Vec<Tile>> {
    let (_, _, h, w) = image.dims4()?;
    let cut = |(top, left): &Size| {
        let (rows, columns) = (height.min(h - top), width.min(w - left));
        let window = image.narrow(2, *top, rows)?.narrow(3, *left, columns)?;
        window.pad_with_zeros(2, 0, height - rows)?.pad_with_zeros(3, 0, width - columns)
    };
    let together = if image.device().is_cpu() { 1 } else { WINDOWS };
    let mut found = Vec::with_capacity(places.len());
    for places in places.chunks(together) {
        let windows = places.iter().map(cut).collect::<Result<Vec<_>>>()?;
        found.extend(split(&logits(&Tensor::cat(&windows, 0)?.contiguous()?)?)?);
    }
    Ok(found)
}

/// Logits [B, K, h, w] in host memory, image by image.
fn split(logits: &Tensor) -> Result<Vec<Tile>> {
    let (batch, classes, h, w) = logits.dims4()?;
    let values: Vec<f32> = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let tile = |logits: &[f32]| Tile { logits: logits.to_vec(), grid: (h, w) };
    let tiles: Vec<Tile> = values.chunks_exact(classes * h * w).map(tile).collect();
    debug_assert_eq!(tiles.len(), batch);
    Ok(tiles)
}

/// Labels of whole images of `input` size with logits `[B, K, h, w]`, in the pixels of their sources.
pub(super) fn whole(
    logits: &Tensor,
    source_transforms: &[SourceTransform],
    input: Size,
) -> Result<Vec<Raster>> {
    let classes = logits.dim(1)?;
    let labels = |(tile, source_transform): (Tile, &SourceTransform)| {
        let mut best = BestClass::new(classes, source_transform)?;
        let mut tile = Some(tile);
        Windows::new(input, input, input).stitch(
            classes,
            &mut |_| Ok(tile.take().into_iter().collect()),
            &mut |rows| best.feed(rows),
        )?;
        Ok(best.finish())
    };
    split(logits)?.into_iter().zip(source_transforms).map(labels).collect()
}
