//! RoIAlign (arXiv:1703.06870): features of fixed size from boxes, by bilinear samples.
//!
//! The samples of a box form a grid, so its bins are a separable map V·x·Hᵀ of the pixels under it.
//! Both matrices are made once for all channels. The backward pass runs over planes, each of which
//! adds the boxes in their order: no two tasks write the same value.

use super::autograd::{ApplyOp, deliver};
#[cfg(feature = "cuda")]
use super::cuda;
use super::resample::map_by_matrices;
use super::simd::{Kernel, vectorized};
use super::storage::{argument, count, for_columns, for_rows_costing, fused, values};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};
use std::ops::Range;

/// RoIAlign: the mean of `sampling_ratio`² bilinear samples in each of h×w bins of each box, with the half-pixel
/// shift of torchvision's and detectron2's `aligned=True`; ratio 0 takes ⌈bin size⌉ samples an axis.
///
/// `x` [B, C, H, W]; `boxes` f32 [R, 5], each (image, x1, y1, x2, y2), whose coordinates times `scale`
/// are pixels of `x`; `size` (h, w) -> [R, C, h, w]. Samples more than a pixel outside of `x` count as
/// 0, and so does a box whose width or height is not positive at ratio 0. Boxes are constants, best left in host memory,
/// where they are checked.
///
/// # Errors
/// When a box names an image that `x` does not have, a coordinate is not finite, or the boxes are not constants.
pub fn roi_align(
    x: &Tensor,
    boxes: &Tensor,
    size: (usize, usize),
    scale: f64,
    sampling_ratio: usize,
) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let r = match *boxes.dims() {
        [r, 5] if boxes.dtype() == DType::F32 && size.0 > 0 && size.1 > 0 && h * w > 0 => r,
        _ => bail!(
            "roi_align: x {:?}, boxes {:?} {:?}, size {size:?}; expected f32 boxes [R, 5]",
            x.shape(),
            boxes.dtype(),
            boxes.shape()
        ),
    };
    if boxes.track_op() {
        bail!("roi_align: boxes depend on variables, but get no gradient; detach them");
    }
    count("roi_align", &[r, c, size.0, size.1])?;
    let rows = boxes.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
    for (i, row) in rows.iter().enumerate() {
        let image = row[0] as usize;
        if row.iter().any(|v| !v.is_finite()) || row[0] < 0. || image as f32 != row[0] || image >= b {
            bail!("roi_align: box {i} is {row:?}, x {:?}", x.shape());
        }
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[x]) && x.elem_count() > 0 {
        return cuda::roi_align(x, boxes, size, scale, sampling_ratio);
    }
    let region = |row: &Vec<f32>| {
        let scaled = |k: usize| row[k] * scale as f32 - 0.5;
        let vertical = Bins::new(scaled(2), scaled(4), size.0, sampling_ratio, h);
        let horizontal = Bins::new(scaled(1), scaled(3), size.1, sampling_ratio, w);
        Region { image: row[0] as usize, vertical, horizontal }
    };
    let regions: Vec<Region> = rows.iter().map(region).collect();
    if fused(&[x]) {
        return x.contiguous()?.apply1(RoiAlign { size, regions });
    }
    let each = |region: &Region| {
        let (vertical, horizontal) = (region.vertical.matrix(h, x)?, region.horizontal.matrix(w, x)?);
        map_by_matrices(&x.get(region.image)?, &vertical, &horizontal)
    };
    if regions.is_empty() {
        // Connected to x, so that its gradient is 0 rather than absent.
        let none = x.flatten_all()?.narrow(0, 0, 0)?;
        return none.reshape((0, c, size.0, size.1));
    }
    Tensor::stack(&regions.iter().map(each).collect::<Result<Vec<_>>>()?, 0)
}

/// One box: its image and its bins.
struct Region {
    image: usize,
    vertical: Bins,
    horizontal: Bins,
}

/// The bins of one axis as weights of the pixels `first..first + span` under them.
struct Bins {
    count: usize,
    first: usize,
    span: usize,
    /// [count, span].
    weights: Vec<f32>,
    /// [span, count], rows filled up to whole vectors.
    transposed: Vec<f32>,
    /// The weights of each bin that are not 0.
    nonzero: Vec<Range<usize>>,
}

/// Values handled at once.
const WIDTH: usize = 8;

impl Bins {
    /// `count` bins of start..end, in pixels, over an axis of `pixels`. Rounds as torchvision does in f32.
    fn new(start: f32, end: f32, count: usize, sampling_ratio: usize, pixels: usize) -> Self {
        let bin = (end - start) / count as f32;
        let samples = if sampling_ratio > 0 { sampling_ratio } else { bin.ceil().max(0.) as usize };
        let share = 1. / samples.max(1) as f32;
        let mut taps = Vec::new(); // (bin, pixel, weight)
        for i in 0..count {
            let origin = start + i as f32 * bin;
            for sample in inside(origin, bin, samples, pixels) {
                let position = origin + (sample as f32 + 0.5) * bin / samples as f32;
                if !(-1. ..=pixels as f32).contains(&position) {
                    continue;
                }
                let position = position.max(0.);
                let low = position as usize;
                if low >= pixels - 1 {
                    taps.push((i, pixels - 1, share));
                } else {
                    let part = position - low as f32;
                    taps.extend([(i, low, (1. - part) * share), (i, low + 1, part * share)]);
                }
            }
        }
        let first = taps.iter().map(|tap| tap.1).min().unwrap_or(0);
        let span = taps.iter().map(|tap| tap.1 + 1 - first).max().unwrap_or(0);
        // Whole vectors, where the axis is long enough.
        let span = span.next_multiple_of(WIDTH).min(pixels);
        let first = first.min(pixels - span);
        let width = count.next_multiple_of(WIDTH);
        let (mut weights, mut transposed) = (vec![0f32; count * span], vec![0f32; span * width]);
        let mut nonzero = vec![0..0; count];
        for (i, pixel, weight) in taps {
            let k = pixel - first;
            weights[i * span + k] += weight;
            transposed[k * width + i] += weight;
            nonzero[i] = if nonzero[i].is_empty() {
                k..k + 1
            } else {
                nonzero[i].start.min(k)..nonzero[i].end.max(k + 1)
            };
        }
        Self { count, first, span, weights, transposed, nonzero }
    }

    /// The weights over the whole axis, [count, pixels], like `x` in type and place.
    fn matrix(&self, pixels: usize, x: &Tensor) -> Result<Tensor> {
        let mut matrix = vec![0f32; self.count * pixels];
        for (row, weights) in matrix.chunks_exact_mut(pixels).zip(self.weights.chunks(self.span.max(1))) {
            row[self.first..self.first + self.span].copy_from_slice(weights);
        }
        Tensor::from_vec(matrix, (self.count, pixels), x.device())?.to_dtype(x.dtype())
    }
}

/// The samples of a bin that can be on the axis; their number is small however large the box is.
fn inside(origin: f32, bin: f32, samples: usize, pixels: usize) -> Range<usize> {
    let step = f64::from(bin) / samples.max(1) as f64;
    if step <= 0. {
        return 0..samples; // a fixed number
    }
    let at = |position: f64| (position - f64::from(origin)) / step;
    let first = (at(-2.).floor().max(0.) as usize).min(samples);
    first..(at(pixels as f64 + 1.).ceil().max(0.) as usize).clamp(first, samples)
}

struct RoiAlign {
    size: (usize, usize),
    regions: Vec<Region>,
}

impl RoiAlign {
    /// Scratch memory: [h, span] of the widest box.
    fn scratch(&self) -> Vec<f32> {
        let widest = self.regions.iter().map(|region| region.horizontal.span).max().unwrap_or(0);
        vec![0f32; self.size.0 * widest]
    }
}

impl CustomOp1 for RoiAlign {
    fn name(&self) -> &'static str {
        "roi_align"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        /// Channels of a task.
        const CHANNELS: usize = 4;
        let (_, c, h, w) = layout.shape().dims4()?;
        let (x, bins) = (argument(x, layout)?, self.size.0 * self.size.1);
        let mut y = vec![0f32; self.regions.len() * c * bins]; // [R, C, h, w]
        for_columns(&mut y, c * bins, CHANNELS * bins, |columns, mut y| {
            let mut scratch = self.scratch();
            for (k, channel) in (columns.start / bins..columns.end / bins).enumerate() {
                for (region, y) in self.regions.iter().zip(&mut y) {
                    let x = &x[(region.image * c + channel) * h * w..][..h * w];
                    vectorized(Forward {
                        x,
                        w,
                        region,
                        scratch: &mut scratch,
                        y: &mut y[k * bins..][..bins],
                    });
                }
            }
        });
        Ok((CpuStorage::F32(y), (self.regions.len(), c, self.size.0, self.size.1).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (b, c, h, w) = x.dims4()?;
        let grad = grad.contiguous()?;
        let (guard, layout) = grad.storage_and_layout();
        let (grad, bins) = (values(&guard, layout)?, self.size.0 * self.size.1);
        let mut of_image = vec![Vec::new(); b];
        for (r, region) in self.regions.iter().enumerate() {
            of_image[region.image].push(r);
        }
        let mut dx = vec![0f32; x.elem_count()]; // [B, C, H, W]
        let work = h * w + self.regions.len() / b.max(1) * bins;
        for_rows_costing(work, &mut dx, h * w, |planes, dx| {
            let mut scratch = self.scratch();
            for (plane, dx) in planes.zip(dx.chunks_exact_mut(h * w)) {
                for &r in &of_image[plane / c] {
                    let grad = &grad[(r * c + plane % c) * bins..][..bins];
                    vectorized(Backward { grad, w, region: &self.regions[r], scratch: &mut scratch, dx });
                }
            }
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(|dx| deliver(x, dx))
    }
}

/// The bins of one box in one plane, `w` pixels wide: V·x, then times Hᵀ.
struct Forward<'a> {
    x: &'a [f32],
    w: usize,
    region: &'a Region,
    scratch: &'a mut [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Region { vertical, horizontal, .. } = self.region;
        if vertical.span == 0 || horizontal.span == 0 {
            return; // y is 0
        }
        let (span, width) = (horizontal.span, horizontal.count.next_multiple_of(WIDTH));
        let x = &self.x[vertical.first * self.w + horizontal.first..];
        for (i, y) in self.y.chunks_exact_mut(horizontal.count).enumerate() {
            let row = &mut self.scratch[..span];
            let nonzero = vertical.nonzero[i].clone();
            let weights = &vertical.weights[i * vertical.span..][nonzero.clone()];
            let (vectors, rest) = row.as_chunks_mut::<WIDTH>();
            for (k, vector) in vectors.iter_mut().enumerate() {
                let mut sums = [0f32; WIDTH];
                for (row, weight) in nonzero.clone().zip(weights) {
                    let x = &x[row * self.w + k * WIDTH..][..WIDTH];
                    sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += weight * x);
                }
                *vector = sums;
            }
            let start = span - rest.len();
            for (k, value) in rest.iter_mut().enumerate() {
                *value = nonzero
                    .clone()
                    .zip(weights)
                    .map(|(row, weight)| weight * x[row * self.w + start + k])
                    .sum();
            }
            for (k, y) in y.chunks_mut(WIDTH).enumerate() {
                let mut sums = [0f32; WIDTH];
                for (value, weights) in row.iter().zip(horizontal.transposed.chunks_exact(width)) {
                    let weights = &weights[k * WIDTH..][..WIDTH];
                    sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * value);
                }
                y.copy_from_slice(&sums[..y.len()]);
            }
        }
    }
}

/// Adds the gradient of one box to one plane, `w` pixels wide: Vᵀ·(g·H).
struct Backward<'a> {
    grad: &'a [f32],
    w: usize,
    region: &'a Region,
    scratch: &'a mut [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Region { vertical, horizontal, .. } = self.region;
        if vertical.span == 0 || horizontal.span == 0 {
            return;
        }
        let span = horizontal.span;
        let dx = &mut self.dx[vertical.first * self.w + horizontal.first..];
        for (i, grad) in self.grad.chunks_exact(horizontal.count).enumerate() {
            let row = &mut self.scratch[..span];
            row.fill(0.);
            let bins = grad.iter().zip(horizontal.weights.chunks_exact(span)).zip(&horizontal.nonzero);
            for ((&g, weights), nonzero) in bins {
                // Whole vectors around what the bin reaches.
                let nonzero = nonzero.start / WIDTH * WIDTH..nonzero.end.next_multiple_of(WIDTH).min(span);
                add(&mut row[nonzero.clone()], g, &weights[nonzero]);
            }
            for k in vertical.nonzero[i].clone() {
                add(&mut dx[k * self.w..][..span], vertical.weights[i * vertical.span + k], row);
            }
        }
    }
}

/// y += a·x.
#[inline(always)]
fn add(y: &mut [f32], a: f32, x: &[f32]) {
    let ((y, y_rest), (x, x_rest)) = (y.as_chunks_mut::<WIDTH>(), x.as_chunks::<WIDTH>());
    for (y, x) in y.iter_mut().zip(x) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
    }
    y_rest.iter_mut().zip(x_rest).for_each(|(y, x)| *y += a * x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    /// Boxes inside, over the border, outside, of no area and turned round.
    fn boxes() -> Tensor {
        let rows: [[f32; 5]; 8] = [
            [0., 1.2, 0.7, 8.9, 6.3],
            [1., 0., 0., 13., 11.],
            [1., -3., -2., 4., 15.],
            [0., 40., 40., 60., 50.],
            [1., 3., 3., 3., 3.],
            [0., 9., 8., 4., 2.],
            [0., 2.5, 2.5, 3.1, 2.9],
            [0., -1e9, -1e9, 1e9, 1e9],
        ];
        Tensor::new(&rows, &Device::Cpu).unwrap()
    }

    #[test]
    fn values_and_gradients() {
        for (size, scale, ratio) in [((2, 3), 1., 0), ((7, 7), 0.5, 2), ((1, 9), 1.3, 1), ((3, 2), 0.25, 3)] {
            for (h, w) in [(9, 11), (5, 25), (1, 1)] {
                let inputs = [gradient_check::random(&[2, 3, h, w], 0)];
                gradient_check::operator(&inputs, |t| roi_align(&t[0], &boxes(), size, scale, ratio), 2e-6);
            }
        }
        let inputs = [gradient_check::random(&[2, 9, 3, 4], 0)];
        let strided = |t: &[Tensor]| roi_align(&t[0].transpose(1, 3)?, &boxes(), (2, 2), 0.5, 0);
        gradient_check::operator(&inputs, strided, 2e-6);
    }

    #[test]
    fn no_boxes_give_no_features() {
        let none = Tensor::zeros((0, 5), DType::F32, &Device::Cpu).unwrap();
        gradient_check::composition(
            &[gradient_check::random(&[2, 3, 4, 5], 0)],
            |t| roi_align(&t[0], &none, (7, 7), 1., 0),
            1e-6,
        );
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        gradient_check::threads(&[gradient_check::random(&[2, 9, 30, 40], 0)], |t| {
            roi_align(&t[0], &boxes(), (7, 7), 2., 0)
        });
    }

    #[test]
    fn wrong_boxes_are_refused() {
        let x = gradient_check::single(&gradient_check::random(&[2, 3, 4, 4], 0));
        let one = |row: [f32; 5]| Tensor::new(&[row], &Device::Cpu).unwrap();
        for row in
            [[2., 0., 0., 1., 1.], [-1., 0., 0., 1., 1.], [0.5, 0., 0., 1., 1.], [0., f32::NAN, 0., 1., 1.]]
        {
            let error = roi_align(&x, &one(row), (7, 7), 1., 0).unwrap_err().to_string();
            assert!(error.contains("box 0 is [") && error.contains("[2, 3, 4, 4]"), "{error}");
        }
        let refused = |x: &Tensor, size| {
            let error = roi_align(x, &one([0., 0., 0., 1., 1.]), size, 1., 0).unwrap_err().to_string();
            assert!(error.contains("expected f32 boxes [R, 5]"), "{error}");
        };
        refused(&x, (0, 7));
        refused(&x, (7, 0));
        refused(&x.narrow(2, 0, 0).unwrap(), (7, 7));
        refused(&x.narrow(3, 0, 0).unwrap(), (7, 7));
        let flat = one([0.; 5]).narrow(1, 0, 4).unwrap();
        assert!(roi_align(&x, &flat, (7, 7), 1., 0).unwrap_err().to_string().contains("[1, 4]"));
        let variable = candle_core::Var::from_tensor(&one([0.; 5])).unwrap();
        assert!(roi_align(&x, &variable, (7, 7), 1., 0).unwrap_err().to_string().contains("detach"));
    }

    /// As in torchvision, where the number of samples is the size of a bin, rounded up.
    #[test]
    fn a_region_without_a_size_has_no_samples() {
        let x = Tensor::ones((1, 1, 8, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
        let region = Tensor::new(&[[0f32, 3., 3., 3., 3.], [0., 3., 3., 4., 4.]], &Device::Cpu).unwrap();
        let pooled = |ratio| {
            let y = roi_align(&x, &region, (2, 2), 1., ratio).unwrap();
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(pooled(0), [0., 0., 0., 0., 1., 1., 1., 1.]);
        assert_eq!(pooled(2), [1.; 8]);
    }
}
