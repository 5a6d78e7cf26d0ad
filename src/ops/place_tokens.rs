//! Sequences of tokens with positions, put together from rows of a matrix and one token that many places share: the class
//! token before the patches, or the mask token where a patch is removed.
//!
//! candle would do this with broadcasts, concatenations and sums, each on one thread, and with more of them in the
//! backward pass.

use super::autograd::{ApplyOp, deliver};
use super::fresh::to_overwrite;
use super::index_select::index_select;
use super::row_places::RowPlaces;
use super::storage::{argument, for_rows, fused, sum_rows, values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// In place of a row: the token that places share.
pub const SHARED_TOKEN: u32 = u32::MAX;

/// Place i of the result is row `rows[i]` of `x`, or `shared` for [`SHARED_TOKEN`], plus row `places[i]` of `positions`:
/// `x` [B, n, C], `shared` [1, 1, C], `positions` [1, P, C] -> [B, rows / B, C]. Rows are those of [B·n, C].
///
/// # Errors
/// When the channels differ, a row or position does not exist, or the rows do not divide into B sequences.
pub fn place_tokens(
    x: &Tensor,
    shared: &Tensor,
    positions: &Tensor,
    rows: Vec<u32>,
    places: Vec<u32>,
) -> Result<Tensor> {
    let ((b, n, c), (_, most, _)) = (x.dims3()?, positions.dims3()?);
    let here = |row: &u32| *row == SHARED_TOKEN || (*row as usize) < b * n;
    let fits = shared.dims() == [1, 1, c] && positions.dims() == [1, most, c] && rows.len() == places.len();
    let exist = rows.iter().all(here) && places.iter().all(|place| (*place as usize) < most);
    if !fits || !exist || !rows.len().is_multiple_of(b.max(1)) {
        let (shared, positions, count) = (shared.shape(), positions.shape(), rows.len());
        bail!("place_tokens: {count} rows of x {:?}, shared {shared:?}, positions {positions:?}", x.shape());
    }
    if fused(&[x, shared, positions]) {
        let (shared, positions) = (shared.contiguous()?, positions.contiguous()?);
        return x.contiguous()?.apply3(&shared, &positions, PlaceTokens { rows, places });
    }
    let table = Tensor::cat(&[x.reshape((b * n, c))?, shared.reshape((1, c))?], 0)?;
    let rows: Vec<u32> = rows.into_iter().map(|row| row.min((b * n) as u32)).collect();
    let tokens = (index_select(&table, &rows)? + index_select(&positions.squeeze(0)?, &places)?)?;
    tokens.reshape((b, rows.len() / b.max(1), c))
}

struct PlaceTokens {
    rows: Vec<u32>,
    places: Vec<u32>,
}

impl CustomOp3 for PlaceTokens {
    fn name(&self) -> &'static str {
        "place_tokens"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        shared: &CpuStorage,
        shared_layout: &Layout,
        positions: &CpuStorage,
        positions_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, _, c) = x_layout.shape().dims3()?;
        let (x, shared) = (argument(x, x_layout)?, argument(shared, shared_layout)?);
        let positions = argument(positions, positions_layout)?;
        let mut tokens = to_overwrite(self.rows.len() * c); // [B, rows / B, C]
        for_rows(&mut tokens, c, |range, tokens| {
            let from = self.rows[range.clone()].iter().zip(&self.places[range]);
            for (token, (&row, &place)) in tokens.chunks_exact_mut(c.max(1)).zip(from) {
                let x = if row == SHARED_TOKEN { shared } else { &x[row as usize * c..][..c] };
                let position = &positions[place as usize * c..][..c];
                token.iter_mut().zip(x.iter().zip(position)).for_each(|(token, (x, p))| *token = x + p);
            }
        });
        Ok((CpuStorage::F32(tokens), (b, self.rows.len() / b.max(1), c).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        shared: &Tensor,
        positions: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (b, n, c) = x.dims3()?;
        let grad = grad.contiguous()?;
        let (guard, layout) = grad.storage_and_layout();
        let grads = values(&guard, layout)?;
        let tensor = |like: &Tensor, gradient| {
            Tensor::from_vec(gradient, like.shape(), like.device()).map(|gradient| deliver(like, gradient))
        };
        // The shared token is one row more.
        let rows: Vec<u32> = self.rows.iter().map(|&row| row.min((b * n) as u32)).collect();
        let taken = RowPlaces::of(&rows, b * n + 1);
        let of_x = x.track_op().then(|| tensor(x, taken.sums(b * n, grads, c))).transpose()?.flatten();
        let of_shared = shared.track_op().then(|| {
            let places = &taken.places[taken.starts[b * n]..];
            let sums = sum_rows(places.len(), c, |range, sums| {
                for &place in &places[range] {
                    let grad = &grads[place as usize * c..][..c];
                    sums.iter_mut().zip(grad).for_each(|(sum, g)| *sum += g);
                }
            });
            tensor(shared, sums)
        });
        let of_positions = positions.track_op().then(|| {
            let count = positions.elem_count() / c.max(1);
            tensor(positions, RowPlaces::of(&self.places, count).sums(count, grads, c))
        });
        Ok((of_x, of_shared.transpose()?.flatten(), of_positions.transpose()?.flatten()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;
    use candle_core::Device;

    fn inputs(b: usize, n: usize, c: usize, most: usize) -> [Tensor; 3] {
        [
            gradient_check::random(&[b, n, c], 0),
            gradient_check::random(&[1, 1, c], 1),
            gradient_check::random(&[1, most, c], 2),
        ]
    }

    #[test]
    fn values_and_gradients() {
        // The class token first; a mask token where a row is missing, and rows that occur twice or not at all.
        let s = SHARED_TOKEN;
        for (b, n, rows, places) in [
            (2, 2, vec![s, 0, 1, s, 2, 3], vec![0, 1, 2, 0, 1, 2]),
            (1, 3, vec![2, s, 2, s, 0], vec![3, 1, 0, 1, 2]),
            (2, 1, vec![1, 0], vec![0, 3]),
        ] {
            let place = |t: &[Tensor]| place_tokens(&t[0], &t[1], &t[2], rows.clone(), places.clone());
            gradient_check::operator(&inputs(b, n, 5, 4), place, 2e-6);
        }
    }

    #[test]
    fn by_hand() {
        let tensor = |values: &[f32], n| Tensor::from_slice(values, (1, n, 1), &Device::Cpu).unwrap();
        let (x, shared, positions) = (tensor(&[1., 2.], 2), tensor(&[10.], 1), tensor(&[100., 200.], 2));
        let found = place_tokens(&x, &shared, &positions, vec![SHARED_TOKEN, 1, 0], vec![0, 1, 0]).unwrap();
        assert_eq!(found.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [110., 202., 101.]);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let rows: Vec<u32> = (0..900).map(|i| if i % 3 == 0 { SHARED_TOKEN } else { i * 7 % 50 }).collect();
        let places: Vec<u32> = (0..900).map(|i| i % 45).collect();
        gradient_check::threads(&inputs(5, 10, 64, 45), |t| {
            place_tokens(&t[0], &t[1], &t[2], rows.clone(), places.clone())
        });
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let [x, shared, positions] = inputs(2, 2, 3, 2).map(|t| gradient_check::single(&t));
        let place = |rows: &[u32], places: &[u32]| {
            place_tokens(&x, &shared, &positions, rows.to_vec(), places.to_vec()).is_err()
        };
        assert!(!place(&[0, 3], &[0, 1]));
        assert!(place(&[0, 4], &[0, 1]) && place(&[0, 3], &[0, 2]) && place(&[0, 3], &[0]));
        assert!(place(&[0, 1, 2], &[0, 0, 0]), "not the same number for both samples");
        assert!(place_tokens(&x, &positions, &positions, vec![0, 1], vec![0, 0]).is_err());
    }
}
