//! Batch and group norm of maps [B, C, H, W].

use super::launch::{Argument, Grid, NORM_STATISTICS, THREADS, int, launch, size};
use super::value::{OnDevice, Pointer, allocate, argument, device_of, on_cpu, storage, tensor, values};
use crate::ops::autograd::ApplyOp;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Planes that share a mean and a variance.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Sets {
    /// The planes of a channel, over the batch.
    Channels,
    /// The planes of this many consecutive channels of one image.
    Groups(usize),
}

impl Sets {
    /// The argument of kernels: channels of a group, 0 for the whole batch.
    fn group(self) -> usize {
        match self {
            Self::Channels => 0,
            Self::Groups(channels) => channels,
        }
    }

    fn count(self, batch: usize, channels: usize) -> usize {
        match self {
            Self::Channels => channels,
            Self::Groups(each) => batch * channels / each,
        }
    }
}

/// Mean and biased variance of every set of an f32 map, `[sets]` each. The map has values.
pub(in crate::ops) fn moments(x: &Tensor, sets: Sets) -> Result<(Tensor, Tensor)> {
    let (x, device, (b, c, h, w)) = (x.contiguous()?, device_of(x)?, x.dims4()?);
    let count = sets.count(b, c);
    let moments = allocate::<f32>(&device, 2 * count)?;
    let (guard, layout) = x.storage_and_layout();
    let arguments = [
        values(&guard, layout)?.into(),
        moments.pointer().into(),
        int(b)?,
        int(c)?,
        int(sets.group())?,
        int(h * w)?,
    ];
    let grid = Grid { blocks: (count, 1), threads: THREADS, shared: 0 };
    launch(&device, &NORM_STATISTICS, "plane_moments", grid, &arguments)?;
    let moments = tensor(moments, 2 * count, &device);
    Ok((moments.narrow(0, 0, count)?, moments.narrow(0, count, count)?))
}

/// (x − mean)/sqrt(var + eps)·weight + bias of an f32 map; `own` says that the moments are those of x, and the gradient
/// goes through them too.
pub(in crate::ops) fn normalize(
    x: &Tensor,
    (mean, var): (&Tensor, &Tensor),
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    sets: Sets,
    own: bool,
) -> Result<Tensor> {
    let op = Normalize {
        mean: mean.detach().contiguous()?,
        var: var.detach().contiguous()?,
        sets,
        eps: eps as f32,
        own,
    };
    x.contiguous()?.apply3(&weight.contiguous()?, &bias.contiguous()?, op)
}

struct Normalize {
    mean: Tensor, // [sets]
    var: Tensor,  // [sets]
    sets: Sets,
    eps: f32,
    own: bool,
}

impl CustomOp3 for Normalize {
    fn name(&self) -> &'static str {
        "normalize_planes"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        on_cpu("normalize_planes")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, (b, c, h, w)) = (&x.device, x_layout.shape().dims4()?);
        let count = b * c * h * w;
        let y = allocate::<f32>(device, count)?;
        let guards = [&self.mean, &self.var].map(Tensor::storage_and_layout);
        let [mean, var] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let arguments = [
            argument::<f32>(x, x_layout)?.into(),
            mean?.into(),
            var?.into(),
            argument::<f32>(weight, weight_layout)?.into(),
            argument::<f32>(bias, bias_layout)?.into(),
            y.pointer().into(),
            size(count),
            int(c)?,
            int(self.sets.group())?,
            int(h * w)?,
            self.eps.into(),
        ];
        launch(device, &NORM_STATISTICS, "plane_norm", Grid::fours(count), &arguments)?;
        Ok((storage(y, device), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (device, (b, c, h, w), grad) = (device_of(x)?, x.dims4()?, grad.contiguous()?);
        let (planes, sets) = (b * c, self.sets.count(b, c));
        let guards = [x, weight, &grad, &self.mean, &self.var].map(Tensor::storage_and_layout);
        let [x_values, weights, grads, mean, var] =
            guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let (x_values, weights, grads, mean, var) = (x_values?, weights?, grads?, mean?, var?);
        let group = || int(self.sets.group());
        let sums = allocate::<f32>(&device, 2 * planes)?;
        let sums_at: Pointer = sums.pointer();
        let arguments: [Argument; 8] = [
            x_values.into(),
            grads.into(),
            mean.into(),
            sums_at.into(),
            int(planes)?,
            int(c)?,
            group()?,
            int(h * w)?,
        ];
        launch(&device, &NORM_STATISTICS, "plane_slopes", Grid::warps(planes), &arguments)?;
        let shares = allocate::<f32>(&device, 2 * sets)?;
        let mut shares_at = Pointer::NULL;
        if self.own {
            shares_at = shares.pointer();
            let arguments = [
                sums_at.into(),
                weights.into(),
                var.into(),
                shares_at.into(),
                int(sets)?,
                int(b)?,
                int(c)?,
                group()?,
                int(h * w)?,
                self.eps.into(),
            ];
            launch(&device, &NORM_STATISTICS, "plane_shares", Grid::threads(sets), &arguments)?;
        }
        let affine = allocate::<f32>(&device, 2 * c)?;
        let arguments = [
            sums_at.into(),
            var.into(),
            affine.pointer().into(),
            int(b)?,
            int(c)?,
            group()?,
            self.eps.into(),
        ];
        launch(&device, &NORM_STATISTICS, "plane_affine", Grid::threads(c), &arguments)?;
        let count = x.elem_count();
        let dx = allocate::<f32>(&device, count)?;
        let arguments = [
            x_values.into(),
            grads.into(),
            mean.into(),
            var.into(),
            weights.into(),
            shares_at.into(),
            dx.pointer().into(),
            size(count),
            int(sets)?,
            int(c)?,
            group()?,
            int(h * w)?,
            self.eps.into(),
        ];
        launch(&device, &NORM_STATISTICS, "plane_gradient", Grid::fours(count), &arguments)?;
        let affine = tensor(affine, 2 * c, &device);
        let dx = tensor(dx, x.shape(), &device);
        Ok((Some(dx), Some(affine.narrow(0, 0, c)?), Some(affine.narrow(0, c, c)?)))
    }
}
