//! y = x·Wᵀ + b.
//!
//! candle's own composition copies transposes in the backward pass and gives constants gradients; here every product
//! packs its operands directly, and an input that depends on no variable (the patches of an image) gets no gradient.

use super::autograd::{ApplyOp, deliver};
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::{product, to_overwrite};
use super::gemm::{Matrix, MatrixMut, Precision, Store, product_of};
use super::storage::{argument, for_rows, fused, sum_rows, values};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// A linear map, x·Wᵀ + b: `x` [.., in], `weight` [out, in], `bias` `[out]` -> [.., out]. Operands are rounded to
/// `precision`; results are f32.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, precision: Precision) -> Result<Tensor> {
    let (out, width) = weight.dims2()?;
    if x.dims().last() != Some(&width) || bias.is_some_and(|bias| bias.dims() != [out]) {
        let bias = bias.map(|bias| bias.shape());
        bail!("linear: x {:?}, weight {:?}, bias {bias:?}", x.shape(), weight.shape());
    }
    let (all, op) = (bias.into_iter().chain([x, weight]).collect::<Vec<_>>(), Linear { precision });
    if fused(&all) {
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        return match bias {
            Some(bias) => x.apply3(&weight, &bias.contiguous()?, op),
            None => x.apply2(&weight, op),
        };
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&all) {
        return cuda::linear(x, weight, bias, precision);
    }
    let mut shape = x.dims().to_vec();
    shape.pop();
    let rows = shape.iter().product::<usize>();
    shape.push(out);
    let y = x.reshape((rows, width))?.matmul(&weight.t()?)?.reshape(shape)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

struct Linear {
    precision: Precision,
}

impl Linear {
    fn forward(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let mut shape = x.1.dims().to_vec();
        let (out, width) = weight.1.shape().dims2()?;
        shape.pop();
        let rows = shape.iter().product();
        shape.push(out);
        let (x, weight) = (argument(x.0, x.1)?, argument(weight.0, weight.1)?);
        let mut y = to_overwrite(rows * out); // [rows, out]
        if let Some((storage, layout)) = bias {
            let bias = argument(storage, layout)?;
            for_rows(&mut y, out, |_, y| y.chunks_exact_mut(out).for_each(|row| row.copy_from_slice(bias)));
        }
        let (left, right) = (Matrix::new(x, rows, width, width), Matrix::new(weight, out, width, width));
        let mut destination = MatrixMut::new(&mut y, rows, out, out);
        product_of(self.precision, &mut destination, Store::adding(bias.is_some()), &left, &right);
        Ok((CpuStorage::F32(y), shape.into()))
    }

    /// Gradients of x and weight, where a variable leads to them.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (out, width) = weight.dims2()?;
        let rows = x.elem_count() / width.max(1);
        let (x_guard, x_layout) = x.storage_and_layout();
        let (weight_guard, weight_layout) = weight.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let x_matrix = Matrix::new(values(&x_guard, x_layout)?, rows, width, width);
        let weight_matrix = Matrix::new(values(&weight_guard, weight_layout)?, out, width, width);
        let grad_matrix = Matrix::new(values(&grad_guard, grad_layout)?, rows, out, out);
        let made = |like: &Tensor, left: Matrix, right: Matrix| {
            if !like.track_op() {
                return Ok(None);
            }
            let gradient = product(self.precision, &left, &right);
            Tensor::from_vec(gradient, like.shape(), like.device()).map(|gradient| deliver(like, gradient))
        };
        let x_gradient = made(x, grad_matrix, weight_matrix.t())?;
        Ok((x_gradient, made(weight, grad_matrix.t(), x_matrix.t())?))
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, &grad.contiguous()?)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_grad, weight_grad) = self.backward(x, weight, &grad)?;
        let bias_grad = bias.track_op().then(|| column_sums(&grad, bias)).transpose()?;
        Ok((x_grad, weight_grad, bias_grad.and_then(|gradient| deliver(bias, gradient))))
    }
}

/// Sums of `grad` [.., out] over all but the last dimension, shaped like `bias`.
fn column_sums(grad: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let out = bias.elem_count();
    let (guard, layout) = grad.storage_and_layout();
    let grad = values(&guard, layout)?;
    let sums = sum_rows(grad.len() / out.max(1), out, |rows, sums| {
        for row in grad[rows.start * out..rows.end * out].chunks_exact(out) {
            sums.iter_mut().zip(row).for_each(|(sum, &g)| *sum += g);
        }
    });
    Tensor::from_vec(sums, bias.shape(), bias.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{backward, gradient_check};
    use candle_core::{DType, Device, Var};

    const F32: Precision = Precision::F32;

    #[test]
    fn values_and_gradients() {
        for (lead, width, out) in [(&[3][..], 5, 4), (&[2, 7], 9, 3), (&[1], 1, 1), (&[2, 2, 3], 16, 17)] {
            let shape = [lead, &[width]].concat();
            let inputs = [
                gradient_check::random(&shape, 0),
                gradient_check::random(&[out, width], 1),
                gradient_check::random(&[out], 2),
            ];
            gradient_check::operator(&inputs, |t| linear(&t[0], &t[1], Some(&t[2]), F32), 2e-6);
            gradient_check::operator(&inputs[..2], |t| linear(&t[0], &t[1], None, F32), 2e-6);
            gradient_check::bf16(&inputs, 2, |t, precision| linear(&t[0], &t[1], Some(&t[2]), precision));
        }
        let inputs = [
            gradient_check::random(&[6, 4], 0),
            gradient_check::random(&[6, 5], 1),
            gradient_check::random(&[2, 5], 2),
        ];
        let strided =
            |t: &[Tensor]| linear(&t[0].t()?, &t[1].t()?, Some(&t[2].narrow(0, 1, 1)?.squeeze(0)?), F32);
        gradient_check::operator(&inputs, strided, 2e-6);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let inputs = [
            gradient_check::random(&[2, 197, 96], 0),
            gradient_check::random(&[384, 96], 1),
            gradient_check::random(&[384], 2),
        ];
        for precision in [F32, Precision::Bf16] {
            gradient_check::threads(&inputs, |t| linear(&t[0], &t[1], Some(&t[2]), precision));
        }
    }

    #[test]
    fn no_rows_give_no_values_and_zero_gradients() {
        let [x, w, b] =
            [(0, 3), (2, 3), (1, 2)].map(|shape| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap());
        let (w, b) = (Var::from_tensor(&w).unwrap(), Var::from_tensor(&b.squeeze(0).unwrap()).unwrap());
        let y = linear(&x, &w, Some(&b), F32).unwrap();
        assert_eq!(y.dims(), [0, 2]);
        let store = backward(&y.sum_all().unwrap()).unwrap();
        for v in [&w, &b] {
            let gradient = store.get(v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(gradient.len() == v.elem_count() && gradient.iter().all(|&g| g == 0.));
        }
    }

    #[test]
    fn a_constant_input_gets_no_gradient() {
        let [x, w] = [gradient_check::random(&[3, 4], 0), gradient_check::random(&[2, 4], 1)]
            .map(|t| gradient_check::single(&t));
        let w = Var::from_tensor(&w).unwrap();
        let store = backward(&linear(&x, &w, None, F32).unwrap().sum_all().unwrap()).unwrap();
        assert!(store.get(&x).is_none() && store.get(&w).is_some());
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let [x, w] = [gradient_check::random(&[3, 4], 0), gradient_check::random(&[2, 5], 1)]
            .map(|t| gradient_check::single(&t));
        let error = linear(&x, &w, None, F32).unwrap_err().to_string();
        assert!(error.contains("linear: x [3, 4]"), "{error}");
    }
}
