//! Square windows of a grid of tokens, for attention within each (ViTDet, arXiv:2203.16527; detectron2
//! `modeling/backbone/utils.py`).

#[cfg(feature = "cuda")]
use super::cuda;
use candle_core::{Result, Tensor, bail};

/// `x` [B, H, W, C] -> [B·n, size², C]: the n = ⌈H/size⌉·⌈W/size⌉ windows of each sample, row by row; the grid is
/// padded with zeros below and to the right. The padded tokens take part in attention, as in the reference.
///
/// # Errors
/// A size of 0.
pub fn partition_windows(x: &Tensor, size: usize) -> Result<Tensor> {
    let (b, height, width, c) = x.dims4()?;
    if size == 0 {
        bail!("partition_windows: windows of size 0 for x {:?}", x.shape());
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[x]) && x.elem_count() > 0 {
        return cuda::partition_windows(x, cuda::Windows { images: b, grid: (height, width), side: size });
    }
    let (rows, columns) = (height.div_ceil(size), width.div_ceil(size));
    let x = x.pad_with_zeros(1, 0, rows * size - height)?.pad_with_zeros(2, 0, columns * size - width)?;
    x.reshape(&[b, rows, size, columns, size, c])?
        .permute(vec![0, 1, 3, 2, 4, 5])? // [B, rows, columns, size, size, C]
        .reshape((b * rows * columns, size * size, c))
}

/// The inverse of [`partition_windows`]: `windows` [B·n, size², C] -> [B, H, W, C], without the padding. `grid` is
/// (H, W).
///
/// # Errors
/// Windows that do not make whole grids.
pub fn merge_windows(windows: &Tensor, size: usize, grid: (usize, usize)) -> Result<Tensor> {
    let (count, tokens, c) = windows.dims3()?;
    let (height, width) = grid;
    let (rows, columns) = (height.div_ceil(size.max(1)), width.div_ceil(size.max(1)));
    if tokens != size * size || rows * columns == 0 || !count.is_multiple_of(rows * columns) {
        bail!(
            "merge_windows: {:?} are not windows of size {size} of a {height}×{width} grid",
            windows.shape()
        );
    }
    let b = count / (rows * columns);
    #[cfg(feature = "cuda")]
    if cuda::fused(&[windows]) && windows.elem_count() > 0 {
        return cuda::merge_windows(windows, cuda::Windows { images: b, grid, side: size });
    }
    windows
        .reshape(&[b, rows, columns, size, size, c])?
        .permute(vec![0, 1, 3, 2, 4, 5])? // [B, rows, size, columns, size, C]
        .reshape((b, rows * size, columns * size, c))?
        .narrow(1, 0, height)?
        .narrow(2, 0, width)?
        .contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;
    use candle_core::Device;

    #[test]
    fn windows_come_row_by_row_with_zeros_beyond_the_grid() {
        // 3×4 tokens numbered from 1, windows of 2.
        let x = Tensor::arange(1f32, 13., &Device::Cpu).unwrap().reshape((1, 3, 4, 1)).unwrap();
        let windows = partition_windows(&x, 2).unwrap();
        let found = windows.squeeze(2).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(found, [[1., 2., 5., 6.], [3., 4., 7., 8.], [9., 10., 0., 0.], [11., 12., 0., 0.]]);
        let back = merge_windows(&windows, 2, (3, 4)).unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&back), values(&x));
    }

    #[test]
    fn values_and_gradients() {
        for (h, w, size) in [(3, 5, 2), (4, 4, 4), (1, 7, 3), (2, 3, 1)] {
            let x = gradient_check::random(&[2, h, w, 3], 0);
            gradient_check::operator(&[x], |t| partition_windows(&t[0], size), 1e-6);
            let count = 2 * usize::div_ceil(h, size) * usize::div_ceil(w, size);
            let windows = gradient_check::random(&[count, size * size, 3], 1);
            gradient_check::operator(&[windows], |t| merge_windows(&t[0], size, (h, w)), 1e-6);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let x = gradient_check::random(&[3, 4, 2], 0);
        let error = merge_windows(&x, 2, (4, 4)).unwrap_err().to_string();
        assert!(error.contains("[3, 4, 2]") && error.contains("4×4"), "{error}");
        assert!(partition_windows(&gradient_check::random(&[1, 2, 2, 1], 0), 0).is_err());
    }
}
