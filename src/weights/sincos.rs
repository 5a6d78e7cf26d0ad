//! Positions that big_vision computes for the size of the images (`posemb_sincos_2d`), so that its files do not hold them.
//!
//! Here such a file gets their frequencies as a tensor, of which loading makes the position embeddings for the grid of the model.

use candle_core::{DType, Device, Result, Tensor};

/// Name of the frequencies [C/4], in radians per patch.
pub(super) const FREQUENCIES: &str = "pos_frequencies";

/// Frequencies of `width` channels, from 1 to 1/10000; MAE and MoCo v3 leave out the last one. `None` if there are none.
pub(super) fn frequencies(width: usize) -> Result<Option<Tensor>> {
    let count = width / 4;
    if !width.is_multiple_of(4) || count < 2 {
        return Ok(None);
    }
    let frequency = |i: usize| 1e4f64.powf(-(i as f64) / (count - 1) as f64);
    Tensor::new((0..count).map(frequency).collect::<Vec<_>>(), &Device::Cpu).map(Some)
}

/// Position embeddings [1, 1 + N, C] of a grid (rows, columns): zero for the class token, then for each patch the sines and
/// cosines of its column and those of its row.
pub(super) fn positions(frequencies: &Tensor, (rows, columns): (usize, usize)) -> Result<Tensor> {
    let frequencies = frequencies.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let width = 4 * frequencies.len();
    let mut values = vec![0f32; width];
    for patch in 0..rows * columns {
        for place in [patch % columns, patch / columns] {
            let angles = frequencies.iter().map(|frequency| place as f64 * frequency);
            values.extend(angles.clone().map(|angle| angle.sin() as f32));
            values.extend(angles.map(|angle| angle.cos() as f32));
        }
    }
    Tensor::from_vec(values, (1, 1 + rows * columns, width), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_first_and_the_last_frequency_is_one_ten_thousandth() {
        let found = frequencies(8).unwrap().unwrap();
        assert_eq!(found.to_vec1::<f64>().unwrap(), [1., 1e-4]);
        let table = positions(&found, (2, 3)).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(table[0], [0.; 8]);
        // Row 1, column 2.
        let expected = [
            2f64.sin(),
            2e-4f64.sin(),
            2f64.cos(),
            2e-4f64.cos(),
            1f64.sin(),
            1e-4f64.sin(),
            1f64.cos(),
            1e-4f64.cos(),
        ];
        assert_eq!(table[6], expected.map(|value| value as f32));
        assert!(frequencies(4).unwrap().is_none() && frequencies(10).unwrap().is_none());
    }
}
