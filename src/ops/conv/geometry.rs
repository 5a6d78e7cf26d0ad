//! The sizes of a convolution, and the pixels that its taps read.

use crate::ops::gemm::Precision;
use candle_core::{Result, Shape, bail};

/// Channels and pixels of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) struct Plane {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Plane {
    pub(in crate::ops) fn pixels(&self) -> usize {
        self.height * self.width
    }

    pub(in crate::ops) fn values(&self) -> usize {
        self.channels * self.pixels()
    }
}

/// A convolution of `input` to `output`. A transposed convolution is one from its output to its input.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Geometry {
    pub batch: usize,
    pub input: Plane,
    pub output: Plane,
    pub kernel: (usize, usize),
    pub stride: usize,
    pub padding: usize,
}

/// A convolution with its parameters.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub geometry: &'a Geometry,
    pub precision: Precision,
    /// [O, C, kh, kw]
    pub weight: &'a [f32],
    /// Of the channels of the result: `[O]`, or `[C]` where the convolution is run backwards as the forward pass of a
    /// transposed one.
    pub bias: Option<&'a [f32]>,
}

impl Geometry {
    /// The geometry of the convolution of `x` [B, C, H, W] with `weight` [O, C, kh, kw].
    pub(super) fn new(x: &Shape, weight: &Shape, stride: usize, padding: usize) -> Result<Self> {
        let ((batch, channels, height, width), (out, depth, kh, kw)) = (x.dims4()?, weight.dims4()?);
        let side = |size: usize, kernel: usize| {
            let padded = padding.checked_mul(2)?.checked_add(size)?;
            Some(padded.checked_sub(kernel)?.checked_div(stride)? + 1)
        };
        let (Some(rows), Some(columns), true) =
            (side(height, kh), side(width, kw), channels == depth && kh * kw > 0)
        else {
            bail!(
                "conv2d: x {x:?}, weight {weight:?}, stride {stride}, padding {padding} (groups and dilation are 1)"
            );
        };
        let input = Plane { channels, height, width };
        let output = Plane { channels: out, height: rows, width: columns };
        let geometry = Self { batch, input, output, kernel: (kh, kw), stride, padding };
        geometry.bounded(output, "conv2d")
    }

    /// The geometry of the transposed convolution of `x` [B, C, H, W] with `weight` [C, O, kh, kw].
    pub(super) fn transposed(x: &Shape, weight: &Shape, stride: usize) -> Result<Self> {
        let ((batch, channels, height, width), (depth, out, kh, kw)) = (x.dims4()?, weight.dims4()?);
        let side = |size: usize, kernel: usize| size.checked_sub(1)?.checked_mul(stride)?.checked_add(kernel);
        let (Some(rows), Some(columns), true) =
            (side(height, kh), side(width, kw), channels == depth && kh * kw * stride > 0)
        else {
            bail!(
                "conv_transpose2d: x {x:?}, weight {weight:?}, stride {stride} (groups and dilation are 1)"
            );
        };
        let input = Plane { channels: out, height: rows, width: columns };
        let output = Plane { channels, height, width };
        let geometry = Self { batch, input, output, kernel: (kh, kw), stride, padding: 0 };
        geometry.bounded(input, "conv_transpose2d")
    }

    /// Fails if the size of the result in bytes overflows.
    fn bounded(self, result: Plane, name: &str) -> Result<Self> {
        let sides = [result.channels, result.height, result.width, size_of::<f32>()];
        match sides.iter().try_fold(self.batch, |bytes, &side| bytes.checked_mul(side)) {
            Some(bytes) if isize::try_from(bytes).is_ok() => Ok(self),
            _ => bail!("{name}: the result of {} images of {result:?} exceeds the memory", self.batch),
        }
    }

    pub(in crate::ops) fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    /// For each side of the kernel, where each tap reads, relative to `stride` times the pixel of the output.
    pub(super) fn offsets(&self) -> (Vec<isize>, Vec<isize>) {
        let side = |taps: usize| (0..taps as isize).map(|tap| tap - self.padding as isize).collect();
        (side(self.kernel.0), side(self.kernel.1))
    }

    /// The taps of one side that lead to the pixels `phase` + `stride`·n of the input, and which pixel of the output
    /// each comes from, relative to n.
    pub(super) fn phase(&self, taps: usize, phase: usize) -> (Vec<usize>, Vec<isize>) {
        let (start, stride) = (phase + self.padding, self.stride);
        let taps: Vec<usize> = (0..taps).filter(|tap| tap % stride == start % stride).collect();
        let offsets = taps.iter().map(|&tap| (start as isize - tap as isize) / stride as isize).collect();
        (taps, offsets)
    }

    /// Largest number of pixels in a phase of the input.
    pub(super) fn phase_grid(&self) -> (usize, usize) {
        (self.input.height.div_ceil(self.stride), self.input.width.div_ceil(self.stride))
    }
}
