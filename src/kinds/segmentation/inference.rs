//! Evaluation of an image: as a whole, or in sliding windows of the model's input size, optionally at several scales and
//! flipped.
//!
//! A single view gives the same labels as `slide_inference` of mmsegmentation. Several views differ from its `aug_test` in
//! two ways: views are scaled from the image as `[[eval]]` leaves it, and probabilities are averaged at that size, while
//! mmsegmentation starts from the file and averages at the size of the source image.

use super::stitch::{BestClass, Mean, Rows, Tile, Windows};
use crate::data::{Raster, Size, SourceTransform};
use crate::ops;
use candle_core::{DType, Result, Tensor, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[options]` of the manifest of a segmentation task.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentationOptions {
    /// Stride of sliding windows of the model's input size, as a fraction of the window (rounded down to pixels). If
    /// absent, `[[eval]]` must scale images to the input size, and they are evaluated as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<f64>,
    /// Scales at which the image is evaluated in sliding windows. A view is never smaller than the window.
    #[serde(default = "once")]
    pub scales: Vec<f64>,
    /// Whether each scale is also evaluated with the image flipped horizontally.
    #[serde(default)]
    pub flip: bool,
}

fn once() -> Vec<f64> {
    vec![1.]
}

impl Default for SegmentationOptions {
    fn default() -> Self {
        Self { stride: None, scales: once(), flip: false }
    }
}

/// Number of windows per forward pass on devices other than the CPU.
const WINDOWS: usize = 8;
/// Maximum number of values in the averaged probabilities of an image: 1 GiB.
const MOST_VALUES: usize = 1 << 28;

impl SegmentationOptions {
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        if let Some(stride) = self.stride.filter(|stride| !(*stride > 0. && *stride <= 1.)) {
            return Err(format!(
                "stride is {stride}, expected a fraction of the window: more than 0 and at most 1"
            ));
        }
        if self.scales.is_empty() || self.scales.iter().any(|s| !(*s > 0. && s.is_finite())) {
            return Err(format!("scales are {:?}, expected positive numbers", self.scales));
        }
        if self.stride.is_none() && self.several() {
            return Err("scales and flip need a sliding window: set `stride`".into());
        }
        Ok(())
    }

    fn several(&self) -> bool {
        self.flip || self.scales != [1.]
    }

    /// Labels of an image `[1, C, H, W]` at the resolution of its source. `logits` maps images `[B, C, h, w]` of the `input`
    /// size to `[B, K, h', w']`.
    ///
    /// # Errors
    /// The errors of `logits`, and an image whose probabilities do not fit into memory.
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

/// Size of a view: its sides are at least the shorter side of the window.
fn scaled((height, width): Size, scale: f64, window: Size) -> Size {
    let least = window.0.min(window.1) as f64 / height.min(width) as f64;
    // A view at scale 1 is the image itself, whatever its size.
    let scale = if scale == 1. { 1. } else { scale.max(least) };
    let side = |pixels: usize| ((pixels as f64 * scale).round() as usize).max(1);
    (side(height), side(width))
}

/// Logits of the windows of `image` at (top, left). Pixels outside the image are 0, the mean color.
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

/// Copies logits [B, K, h, w] to host memory, image by image.
fn split(logits: &Tensor) -> Result<Vec<Tile>> {
    let (batch, classes, h, w) = logits.dims4()?;
    let values: Vec<f32> = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let tile = |logits: &[f32]| Tile { logits: logits.to_vec(), grid: (h, w) };
    let tiles: Vec<Tile> = values.chunks_exact(classes * h * w).map(tile).collect();
    debug_assert_eq!(tiles.len(), batch);
    Ok(tiles)
}

/// Labels of whole images of `input` size with logits `[B, K, h, w]`, at the resolution of their sources.
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
