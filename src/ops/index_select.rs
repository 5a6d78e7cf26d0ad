//! Rows of a matrix by their indices.
//!
//! candle's `index_select` adds gradients row by row into zeros, one after another; here the output rows of each input
//! row are determined beforehand, and every input row sums their gradients.

use super::autograd::{ApplyOp, deliver};
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::to_overwrite;
use super::row_places::RowPlaces;
use super::storage::{argument, count, for_rows, fused, values};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};

/// Selects rows of `x` [.., C] by index -> [rows, C]; an index may appear any number of times, and counts rows over all
/// dimensions but the last.
///
/// # Errors
/// A row does not exist.
pub fn index_select(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let have = x.dims()[..x.rank() - 1].iter().product::<usize>();
    if let Some(row) = rows.iter().find(|&&row| row as usize >= have) {
        bail!("index_select: row {row} of x {:?}", x.shape());
    }
    count("index_select", &[rows.len(), width])?;
    if fused(&[x]) {
        return x.contiguous()?.apply1(IndexSelect { rows: rows.to_vec() });
    }
    let x = if x.rank() == 2 { x.clone() } else { x.reshape((have, width))? };
    #[cfg(feature = "cuda")]
    if cuda::fused(&[&x]) {
        return cuda::index_select(&x, rows);
    }
    x.contiguous()?.index_select(&Tensor::new(rows, x.device())?, 0)
}

struct IndexSelect {
    rows: Vec<u32>,
}

impl CustomOp1 for IndexSelect {
    fn name(&self) -> &'static str {
        "index_select"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (width, x) = (layout.dims().last().copied().unwrap_or(0), argument(x, layout)?);
        let mut taken = to_overwrite(self.rows.len() * width); // [rows, C]
        for_rows(&mut taken, width, |places, taken| {
            for (taken, &row) in taken.chunks_exact_mut(width.max(1)).zip(&self.rows[places]) {
                taken.copy_from_slice(&x[row as usize * width..][..width]);
            }
        });
        Ok((CpuStorage::F32(taken), (self.rows.len(), width).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (width, grad) = (x.dim(D::Minus1)?, grad.contiguous()?);
        let count = x.dims()[..x.rank() - 1].iter().product::<usize>();
        let (guard, layout) = grad.storage_and_layout();
        let gradient = RowPlaces::of(&self.rows, count).sums(count, values(&guard, layout)?, width);
        Tensor::from_vec(gradient, x.shape(), x.device()).map(|gradient| deliver(x, gradient))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn values_and_gradients() {
        let many: Vec<u32> = (0..500).map(|i| if i % 3 == 0 { 1 } else { i % 5 }).collect();
        for (rows, width) in [(&[2, 0, 2, 2][..], 3), (&[4], 1), (&many, 5)] {
            gradient_check::operator(
                &[gradient_check::random(&[5, width], 0)],
                |t| index_select(&t[0], rows),
                2e-6,
            );
        }
        let batch = gradient_check::random(&[2, 3, 4], 0);
        gradient_check::operator(&[batch], |t| index_select(&t[0], &[5, 0, 5]), 2e-6);
        let strided = |t: &[Tensor]| index_select(&t[0].t()?, &[1, 1, 0]);
        gradient_check::operator(&[gradient_check::random(&[4, 3], 0)], strided, 2e-6);
        gradient_check::empty(&[gradient_check::random(&[5, 3], 0)], |t| index_select(&t[0], &[]));
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let rows: Vec<u32> = (0..900).map(|i| i * 7 % 50).collect();
        gradient_check::threads(&[gradient_check::random(&[50, 64], 0)], |t| index_select(&t[0], &rows));
    }

    #[test]
    fn a_row_that_is_not_there_is_refused() {
        let error = index_select(&gradient_check::random(&[5, 3], 0), &[1, 5]).unwrap_err().to_string();
        assert!(error.contains("row 5 of x [5, 3]"), "{error}");
    }
}
