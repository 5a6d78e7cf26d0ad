//! Losses. Nothing waits for the device: the incoming gradient stays there.

use super::launch::{Argument, Grid, LOSS, int, launch, size};
use super::value::{
    OnDevice, Pointer, allocate, argument, device_of, on_cpu, on_device, storage, tensor, values,
};
use crate::ops::autograd::ApplyOp;
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

/// factor·Σ weights·values, over Σ weights where `normalized`; null weights are 1.
fn weighted_sum(
    device: &CudaDevice,
    (values, weights): (Pointer, Pointer),
    count: usize,
    factor: f32,
    normalized: bool,
) -> Result<CudaSlice<f32>> {
    let result = allocate::<f32>(device, 1)?;
    let arguments = [
        values.into(),
        weights.into(),
        result.pointer().into(),
        size(count),
        factor.into(),
        int(usize::from(normalized))?,
    ];
    launch(device, &LOSS, "weighted_sum", Grid { blocks: (1, 1), threads: 1024, shared: 0 }, &arguments)?;
    Ok(result)
}

/// [`crate::ops::patch_mse`] of contiguous f32 tensors of shapes that fit.
pub(in crate::ops) fn patch_mse(prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    prediction.contiguous()?.apply3(&target.contiguous()?, &weights.contiguous()?, PatchMse)
}

struct PatchMse;

impl CustomOp3 for PatchMse {
    fn name(&self) -> &'static str {
        "patch_mse"
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
        on_cpu("patch_mse")
    }

    fn cuda_fwd(
        &self,
        prediction: &CudaStorage,
        prediction_layout: &Layout,
        target: &CudaStorage,
        target_layout: &Layout,
        weights: &CudaStorage,
        weights_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, (b, l, width)) = (&prediction.device, prediction_layout.shape().dims3()?);
        let (rows, weights) = (b * l, argument::<f32>(weights, weights_layout)?);
        let errors = allocate::<f32>(device, rows)?;
        let arguments = [
            argument::<f32>(prediction, prediction_layout)?.into(),
            argument::<f32>(target, target_layout)?.into(),
            errors.pointer().into(),
            int(rows)?,
            int(width)?,
        ];
        launch(device, &LOSS, "patch_errors", Grid::warps(rows), &arguments)?;
        let loss = weighted_sum(device, (errors.pointer(), weights), rows, 1., true)?;
        Ok((storage(loss, device), Shape::from(())))
    }

    fn bwd(
        &self,
        prediction: &Tensor,
        target: &Tensor,
        weights: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (device, (b, l, width)) = (device_of(prediction)?, prediction.dims3()?);
        let guards = [prediction, target, weights, grad].map(Tensor::storage_and_layout);
        let [p, t, w, g] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let w = w?;
        let total = weighted_sum(&device, (w, Pointer::NULL), b * l, 1., false)?;
        let (count, gradient) = (b * l * width, allocate::<f32>(&device, b * l * width)?);
        let arguments = [
            p?.into(),
            t?.into(),
            w.into(),
            g?.into(),
            total.pointer().into(),
            gradient.pointer().into(),
            size(count),
            int(width)?,
        ];
        launch(&device, &LOSS, "patch_errors_gradient", Grid::fours(count), &arguments)?;
        Ok((Some(tensor(gradient, prediction.shape(), &device)), None, None))
    }
}

/// share·Σ weight·loss of f32 values against targets of their shape; `kernel` is the name of the loss and its
/// parameter.
pub(in crate::ops) fn pointwise_loss(
    name: &'static str,
    kernel: (&'static str, f32),
    x: &Tensor,
    (targets, weights): (&Tensor, Option<&Tensor>),
    share: f32,
) -> Result<Tensor> {
    let weights = weights.map(Tensor::contiguous).transpose()?;
    let targets = targets.contiguous()?;
    x.contiguous()?.apply1(PointwiseLoss { name, kernel, targets, weights, share })
}

struct PointwiseLoss {
    name: &'static str,
    kernel: (&'static str, f32),
    targets: Tensor,
    weights: Option<Tensor>,
    share: f32,
}

impl PointwiseLoss {
    /// Calls `run` with where the targets and the weights are; null without weights.
    fn with_constants<R>(&self, run: impl FnOnce([Pointer; 2]) -> Result<R>) -> Result<R> {
        let (guard, layout) = self.targets.storage_and_layout();
        let targets = values(&guard, layout)?;
        let Some(weights) = &self.weights else { return run([targets, Pointer::NULL]) };
        let (guard, layout) = weights.storage_and_layout();
        run([targets, values(&guard, layout)?])
    }
}

impl CustomOp1 for PointwiseLoss {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.name)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, count, (kernel, parameter)) = (&x.device, layout.shape().elem_count(), self.kernel);
        let (x, losses) = (argument::<f32>(x, layout)?, allocate::<f32>(device, count)?);
        let loss = self.with_constants(|[targets, weights]| {
            let arguments =
                [x.into(), targets.into(), losses.pointer().into(), size(count), parameter.into()];
            launch(device, &LOSS, kernel, Grid::threads(count), &arguments)?;
            // The divisor of a mean is in `share`, whether there are weights or not.
            weighted_sum(device, (losses.pointer(), weights), count, self.share, false)
        })?;
        Ok((storage(loss, device), Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, count, (kernel, parameter)) = (device_of(x)?, x.elem_count(), self.kernel);
        let guards = [x, grad].map(Tensor::storage_and_layout);
        let [x_values, g] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let (x_values, g) = (x_values?, g?);
        let gradient = allocate::<f32>(&device, count)?;
        self.with_constants(|[targets, weights]| {
            let arguments = [
                x_values.into(),
                targets.into(),
                weights.into(),
                g.into(),
                gradient.pointer().into(),
                size(count),
                parameter.into(),
                self.share.into(),
            ];
            launch(&device, &LOSS, &format!("{kernel}_gradient"), Grid::threads(count), &arguments)
        })?;
        Ok(Some(tensor(gradient, x.shape(), &device)))
    }
}

/// Softmax cross-entropy of f32 logits [B, K, P] of this `shape` against u32 `classes`, the sum over positions divided by
/// `total`; one weight per class, or none.
pub(in crate::ops) fn cross_entropy(
    logits: &Tensor,
    classes: Tensor,
    shape: (usize, usize, usize),
    weights: Vec<f32>,
    total: f64,
    smoothing: f64,
) -> Result<Tensor> {
    let device = device_of(logits)?;
    let weights = (!weights.is_empty()).then(|| device.clone_htod(&weights)).transpose()?;
    let (factor, smoothing) = ((1. / total) as f32, smoothing as f32);
    logits.contiguous()?.apply1(CrossEntropy { shape, classes, weights, factor, smoothing })
}

struct CrossEntropy {
    shape: (usize, usize, usize),
    /// u32, one for each position.
    classes: Tensor,
    /// One weight per class; where there are none, all classes weigh 1.
    weights: Option<CudaSlice<f32>>,
    factor: f32,
    smoothing: f32,
}

impl CrossEntropy {
    /// Classes of positions, and weights of classes.
    fn classes(&self) -> Result<[Argument; 2]> {
        let weights = self.weights.as_ref().map_or(Pointer::NULL, OnDevice::pointer);
        let (guard, layout) = self.classes.storage_and_layout();
        let start = on_device(&guard)?.as_cuda_slice::<u32>()?.pointer();
        Ok([start.after(layout.start_offset() * size_of::<u32>()).into(), weights.into()])
    }

    /// Queues a kernel for every position, whose arguments begin with `first`.
    fn run(&self, device: &CudaDevice, kernel: &str, first: Vec<Argument>, last: &[f32]) -> Result<()> {
        let (b, k, positions) = self.shape;
        let (kind, grid) = match positions {
            1 => ("rows", Grid::warps(b)),
            _ => ("planes", Grid::threads(b * positions)),
        };
        let mut arguments = first;
        arguments.extend([size(b * positions), int(k)?, int(positions)?]);
        arguments.extend(last.iter().map(|&value| Argument::from(value)));
        launch(device, &LOSS, &format!("{kernel}_{kind}"), grid, &arguments)
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("cross_entropy")
    }

    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, positions) = (&logits.device, self.shape.0 * self.shape.2);
        let losses = allocate::<f32>(device, positions)?;
        let logits = argument::<f32>(logits, layout)?;
        let [targets, weights] = self.classes()?;
        let first = vec![logits.into(), targets, weights, losses.pointer().into()];
        self.run(device, "cross_entropy", first, &[self.smoothing])?;
        let loss = weighted_sum(device, (losses.pointer(), Pointer::NULL), positions, self.factor, false)?;
        Ok((storage(loss, device), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let device = device_of(logits)?;
        let guards = [logits, grad].map(Tensor::storage_and_layout);
        let [x, g] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let gradient = allocate::<f32>(&device, logits.elem_count())?;
        let [targets, weights] = self.classes()?;
        let first = vec![x?.into(), targets, weights, g?.into(), gradient.pointer().into()];
        self.run(&device, "cross_entropy_gradient", first, &[self.smoothing, self.factor])?;
        Ok(Some(tensor(gradient, logits.shape(), &device)))
    }
}

/// [`crate::ops::softmax_cross_entropy`] of f32 tensors [B, K].
pub(in crate::ops) fn softmax_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    logits.contiguous()?.apply2(&targets.contiguous()?, SoftCrossEntropy)
}

struct SoftCrossEntropy;

impl CustomOp2 for SoftCrossEntropy {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("softmax_cross_entropy")
    }

    fn cuda_fwd(
        &self,
        logits: &CudaStorage,
        logits_layout: &Layout,
        targets: &CudaStorage,
        targets_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, (b, k)) = (&logits.device, logits_layout.shape().dims2()?);
        let losses = allocate::<f32>(device, b)?;
        let arguments = [
            argument::<f32>(logits, logits_layout)?.into(),
            argument::<f32>(targets, targets_layout)?.into(),
            losses.pointer().into(),
            int(b)?,
            int(k)?,
        ];
        launch(device, &LOSS, "soft_cross_entropy", Grid::warps(b), &arguments)?;
        let loss = weighted_sum(device, (losses.pointer(), Pointer::NULL), b, 1. / b as f32, false)?;
        Ok((storage(loss, device), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (device, (b, k)) = (device_of(logits)?, logits.dims2()?);
        let guards = [logits, targets, grad].map(Tensor::storage_and_layout);
        let [x, t, g] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let gradient = allocate::<f32>(&device, b * k)?;
        let factor = 1. / b as f32;
        let arguments =
            [x?.into(), t?.into(), g?.into(), gradient.pointer().into(), int(b)?, int(k)?, factor.into()];
        launch(&device, &LOSS, "soft_cross_entropy_gradient", Grid::warps(b), &arguments)?;
        Ok((Some(tensor(gradient, logits.shape(), &device)), None))
    }
}
