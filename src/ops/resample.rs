//! Separable linear maps of images: every output row is a weighted sum of input rows, and every
//! output column one of input columns.
//!
//! Resizes and average pools are tables of such weights. The backward pass is the same map with
//! transposed tables, so that it also gathers: planes are computed in parallel and the order of sums is fixed.

use super::autograd::{ApplyOp, deliver};
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::to_overwrite;
use super::simd::{Kernel, vectorized};
use super::storage::{argument, count, for_rows_costing, fused, values};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};

/// The weights of one axis: for every output, pairs of (input, weight).
#[derive(Clone, Debug)]
pub(super) struct Axis {
    inputs: usize,
    taps: Vec<Vec<(usize, f64)>>,
}

impl Axis {
    /// `taps` holds the pairs of each output; an input may come up twice.
    pub(super) fn new(inputs: usize, taps: impl Iterator<Item = Vec<(usize, f64)>>) -> Self {
        Self { inputs, taps: taps.collect() }
    }

    fn outputs(&self) -> usize {
        self.taps.len()
    }

    /// The map that takes gradients of the outputs to gradients of the inputs.
    pub(super) fn transposed(&self) -> Self {
        let mut taps = vec![Vec::new(); self.inputs];
        for (output, pairs) in self.taps.iter().enumerate() {
            pairs.iter().for_each(|&(input, weight)| taps[input].push((output, weight)));
        }
        Self { inputs: self.outputs(), taps }
    }

    /// The taps one after another for a kernel: where those of each output begin, [outputs + 1], then their inputs, then
    /// the bits of their weights in f32.
    #[cfg(feature = "cuda")]
    pub(super) fn list(&self) -> AxisList {
        let (mut starts, mut inputs, mut weights) = (vec![0u32], vec![], vec![]);
        for pairs in &self.taps {
            inputs.extend(pairs.iter().map(|&(input, _)| input as u32));
            weights.extend(pairs.iter().map(|&(_, weight)| (weight as f32).to_bits()));
            starts.push(inputs.len() as u32);
        }
        let taps = inputs.len();
        AxisList {
            inputs: self.inputs,
            outputs: self.outputs(),
            taps,
            values: [starts, inputs, weights].concat(),
        }
    }

    /// The weights as a matrix [outputs, inputs].
    fn matrix(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut matrix = vec![0f64; self.outputs() * self.inputs];
        for (output, pairs) in self.taps.iter().enumerate() {
            pairs.iter().for_each(|&(input, weight)| matrix[output * self.inputs + input] += weight);
        }
        Tensor::from_vec(matrix, (self.outputs(), self.inputs), device)?.to_dtype(dtype)
    }
}

/// The weights of one axis, for kernels; see [`Axis::list`].
#[cfg(feature = "cuda")]
pub(super) struct AxisList {
    pub inputs: usize,
    pub outputs: usize,
    pub taps: usize,
    pub values: Vec<u32>,
}

/// Maps the rows of `x` [B, C, H, W] by `vertical` and its columns by `horizontal`.
pub(super) fn resample(name: &'static str, x: &Tensor, vertical: Axis, horizontal: Axis) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if (vertical.inputs, horizontal.inputs) != (h, w) {
        bail!("{name}: x {:?}, a map of {}x{} values", x.shape(), vertical.inputs, horizontal.inputs);
    }
    let (to_h, to_w) = (vertical.outputs(), horizontal.outputs());
    count(name, &[b, c, to_h, to_w])?;
    if fused(&[x]) {
        return x.contiguous()?.apply1(Resample { name, vertical, horizontal });
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[x]) {
        return cuda::resample(name, x, (vertical, horizontal));
    }
    let matrix = |axis: &Axis| axis.matrix(x.dtype(), x.device());
    map_by_matrices(&x.flatten_to(1)?, &matrix(&vertical)?, &matrix(&horizontal)?)?
        .reshape((b, c, to_h, to_w))
}

/// V·x·Hᵀ of every plane: `x` [N, H, W], `vertical` [h, H], `horizontal` [w, W] -> [N, h, w].
pub(super) fn map_by_matrices(x: &Tensor, vertical: &Tensor, horizontal: &Tensor) -> Result<Tensor> {
    let (n, h, w) = x.dims3()?;
    let (to_h, to_w) = (vertical.dim(0)?, horizontal.dim(0)?);
    let rows = x.reshape((n * h, w))?.matmul(&horizontal.t()?.contiguous()?)?.reshape((n, h, to_w))?;
    let columns = rows.transpose(1, 2)?.contiguous()?.reshape((n * to_w, h))?;
    columns.matmul(&vertical.t()?.contiguous()?)?.reshape((n, to_w, to_h))?.transpose(1, 2)?.contiguous()
}

struct Resample {
    name: &'static str,
    vertical: Axis,
    horizontal: Axis,
}

impl CustomOp1 for Resample {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, _, _) = layout.shape().dims4()?;
        let y = map(argument(x, layout)?, b * c, &self.vertical, &self.horizontal);
        Ok((CpuStorage::F32(y), (b, c, self.vertical.outputs(), self.horizontal.outputs()).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (b, c, _, _) = x.dims4()?;
        let grad = grad.contiguous()?;
        let (guard, layout) = grad.storage_and_layout();
        let (vertical, horizontal) = (self.vertical.transposed(), self.horizontal.transposed());
        let dx = map(values(&guard, layout)?, b * c, &vertical, &horizontal);
        Tensor::from_vec(dx, x.shape(), x.device()).map(|dx| deliver(x, dx))
    }
}

/// Maps `planes` matrices that lie one after another.
fn map(x: &[f32], planes: usize, vertical: &Axis, horizontal: &Axis) -> Vec<f32> {
    let (from, to) = (vertical.inputs * horizontal.inputs, vertical.outputs() * horizontal.outputs());
    let mut y = to_overwrite(planes * to);
    if y.is_empty() {
        return y;
    }
    let (vertical, horizontal) = (Sums::new(vertical), Gather::new(horizontal));
    for_rows_costing(from + to, &mut y, to, |planes, y| {
        let x = &x[planes.start * from..planes.end * from];
        vectorized(Planes { x, from, to, vertical: &vertical, horizontal: &horizontal, y });
    });
    y
}

/// An axis across vectors: the pairs of output `i` are `taps[ends[i]..ends[i + 1]]`.
struct Sums {
    inputs: usize,
    ends: Vec<usize>,
    taps: Vec<(usize, f32)>,
}

impl Sums {
    fn new(axis: &Axis) -> Self {
        let (mut ends, mut taps) = (vec![0], Vec::new());
        for pairs in &axis.taps {
            taps.extend(pairs.iter().map(|&(input, weight)| (input, weight as f32)));
            ends.push(taps.len());
        }
        Self { inputs: axis.inputs, ends, taps }
    }

    /// Sums rows of `width` values.
    #[inline(always)]
    fn apply(&self, x: &[f32], width: usize, y: &mut [f32]) {
        let row = |input: usize| &x[input * width..][..width];
        for (y, ends) in y.chunks_exact_mut(width).zip(self.ends.windows(2)) {
            match self.taps[ends[0]..ends[1]] {
                [] => y.fill(0.),
                [(a, wa)] => y.iter_mut().zip(row(a)).for_each(|(y, a)| *y = wa * a),
                [(a, wa), (b, wb), ref rest @ ..] => {
                    let pairs = row(a).iter().zip(row(b));
                    y.iter_mut().zip(pairs).for_each(|(y, (a, b))| *y = wa * a + wb * b);
                    for &(input, weight) in rest {
                        y.iter_mut().zip(row(input)).for_each(|(y, x)| *y += weight * x);
                    }
                }
            }
        }
    }
}

/// An axis along vectors: every output has `depth` pairs, some of weight 0; pair `k` of output `i` is
/// at `k·outputs + i`.
struct Gather {
    inputs: usize,
    outputs: usize,
    depth: usize,
    index: Vec<u32>,
    weight: Vec<f32>,
}

impl Gather {
    fn new(axis: &Axis) -> Self {
        let outputs = axis.outputs();
        let depth = axis.taps.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let (mut index, mut weight) = (vec![0u32; depth * outputs], vec![0f32; depth * outputs]);
        for (output, pairs) in axis.taps.iter().enumerate() {
            for k in 0..depth {
                // Pairs that fill up repeat the last one.
                let (input, w) = pairs.get(k).or(pairs.last()).copied().unwrap_or((0, 0.));
                index[k * outputs + output] = input as u32;
                weight[k * outputs + output] = if k < pairs.len() { w as f32 } else { 0. };
            }
        }
        Self { inputs: axis.inputs, outputs, depth, index, weight }
    }

    /// Maps every row of x.
    #[inline(always)]
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.chunks_exact_mut(self.outputs).zip(x.chunks_exact(self.inputs)) {
            match self.depth {
                1 => self.row::<1>(x, y),
                2 => self.row::<2>(x, y),
                4 => self.row::<4>(x, y),
                _ => {
                    y.fill(0.);
                    let pairs =
                        self.index.chunks_exact(self.outputs).zip(self.weight.chunks_exact(self.outputs));
                    for (index, weight) in pairs {
                        for (y, (&i, &w)) in y.iter_mut().zip(index.iter().zip(weight)) {
                            *y += w * x[i as usize];
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn row<const DEPTH: usize>(&self, x: &[f32], y: &mut [f32]) {
        let index: [&[u32]; DEPTH] = std::array::from_fn(|k| &self.index[k * self.outputs..][..self.outputs]);
        let weight: [&[f32]; DEPTH] =
            std::array::from_fn(|k| &self.weight[k * self.outputs..][..self.outputs]);
        for (i, y) in y.iter_mut().enumerate().take(self.outputs) {
            let mut sum = 0.;
            for k in 0..DEPTH {
                sum += weight[k][i] * x[index[k][i] as usize];
            }
            *y = sum;
        }
    }
}

/// Maps planes one after another, columns first if that leaves fewer rows.
struct Planes<'a> {
    x: &'a [f32],
    from: usize,
    to: usize,
    vertical: &'a Sums,
    horizontal: &'a Gather,
    y: &'a mut [f32],
}

impl Kernel for Planes<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { vertical, horizontal, .. } = self;
        let (from_h, to_h) = (vertical.inputs, vertical.ends.len() - 1);
        let across_first = from_h <= to_h;
        let between = if across_first { from_h * horizontal.outputs } else { to_h * horizontal.inputs };
        let mut between = vec![0f32; between];
        for (y, x) in self.y.chunks_exact_mut(self.to).zip(self.x.chunks_exact(self.from)) {
            if across_first {
                horizontal.apply(x, &mut between);
                vertical.apply(&between, horizontal.outputs, y);
            } else {
                vertical.apply(x, horizontal.inputs, &mut between);
                horizontal.apply(&between, y);
            }
        }
    }
}
