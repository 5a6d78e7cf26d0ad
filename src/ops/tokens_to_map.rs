//! Tokens as maps: the transposed copy that feeds convolutions with the features of a transformer.

use super::autograd::ApplyOp;
use super::fresh::to_overwrite;
use super::storage::{argument, for_rows_costing, fused, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// `tokens` [B, h·w, C], row by row -> map [B, C, h, w].
///
/// # Errors
/// When the tokens do not fill the `grid` (h, w).
pub fn tokens_to_map(tokens: &Tensor, grid: (usize, usize)) -> Result<Tensor> {
    let (b, n, c) = tokens.dims3()?;
    if n != grid.0 * grid.1 {
        bail!("tokens_to_map: {:?} are not the tokens of a grid {grid:?}", tokens.shape());
    }
    if fused(&[tokens]) {
        return tokens.contiguous()?.apply1(TokensToMap { grid });
    }
    tokens.transpose(1, 2)?.contiguous()?.reshape((b, c, grid.0, grid.1))
}

struct TokensToMap {
    grid: (usize, usize),
}

impl CustomOp1 for TokensToMap {
    fn name(&self) -> &'static str {
        "tokens_to_map"
    }

    fn cpu_fwd(&self, tokens: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, n, c) = layout.shape().dims3()?;
        let map = transposed(argument(tokens, layout)?, n, c);
        Ok((CpuStorage::F32(map), (b, c, self.grid.0, self.grid.1).into()))
    }

    fn bwd(&self, tokens: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let ((_, n, c), grad) = (tokens.dims3()?, grad.contiguous()?);
        let (guard, layout) = grad.storage_and_layout();
        let gradient = transposed(values(&guard, layout)?, c, n);
        Tensor::from_vec(gradient, tokens.shape(), tokens.device()).map(Some)
    }
}

/// Matrices [rows, columns], one after another, as [columns, rows].
fn transposed(matrices: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    /// Columns that are copied together: a cache line of the source.
    const BLOCK: usize = 16;
    let mut to = to_overwrite(matrices.len());
    // A value costs more than in a copy, because lines of the source or of the result lie far apart.
    for_rows_costing(4 * rows * columns, &mut to, rows * columns, |range, to| {
        let from = &matrices[range.start * rows * columns..range.end * rows * columns];
        let size = (rows * columns).max(1);
        for (to, from) in to.chunks_exact_mut(size).zip(from.chunks_exact(size)) {
            for start in (0..columns).step_by(BLOCK) {
                let block = start..columns.min(start + BLOCK);
                for (row, line) in from.chunks_exact(columns).enumerate() {
                    for column in block.clone() {
                        to[column * rows + row] = line[column];
                    }
                }
            }
        }
    });
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn values_and_gradients() {
        for (b, h, w, c) in [(2, 3, 4, 5), (1, 1, 1, 1), (3, 2, 2, 37)] {
            let tokens = [gradient_check::random(&[b, h * w, c], 0)];
            gradient_check::operator(&tokens, |t| tokens_to_map(&t[0], (h, w)), 1e-6);
        }
        let behind = [gradient_check::random(&[2, 7, 5], 0)];
        gradient_check::operator(&behind, |t| tokens_to_map(&t[0].narrow(1, 1, 6)?, (2, 3)), 1e-6);
        gradient_check::empty(&[gradient_check::random(&[0, 6, 5], 0)], |t| tokens_to_map(&t[0], (2, 3)));
    }

    #[test]
    fn other_tokens_than_those_of_the_grid_are_refused() {
        let tokens = gradient_check::single(&gradient_check::random(&[2, 7, 5], 0));
        assert!(tokens_to_map(&tokens, (2, 3)).unwrap_err().to_string().contains("[2, 7, 5]"));
    }
}
