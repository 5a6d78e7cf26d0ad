//! Position tables: fixed 2-D sine-cosine (MAE `util/pos_embed.py`) and the resize of a table to
//! another grid.
//!
//! The resize is PyTorch's bicubic `interpolate` in the variant that the weights' own program uses ([`Bicubic`]).

pub use crate::ops::Bicubic;

use crate::ops;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// (rows, columns) of patches.
pub type Grid = (usize, usize);

/// The table of a grid, [1, 1 + h·w, width]: a zero row for the class token, then row-major patches.
///
/// The first half of the channels encodes the column, the last half the row; each half is sines then
/// cosines of position · 10000^(−k / (width/4)). Computed in f64.
///
/// # Errors
/// When `width` is not a multiple of 4.
pub fn sin_cos(width: usize, grid: Grid, device: &Device) -> Result<Tensor> {
    if !width.is_multiple_of(4) {
        candle_core::bail!("sin-cos positions: width {width} is not a multiple of 4");
    }
    let quarter = width / 4;
    let (rows, columns) = grid;
    let mut table = vec![0f32; width]; // the class token
    table.reserve(rows * columns * width);
    for row in 0..rows {
        for column in 0..columns {
            for position in [column, row] {
                let angle = |k: usize| position as f64 / 10000f64.powf(k as f64 / quarter as f64);
                table.extend((0..quarter).map(|k| angle(k).sin() as f32));
                table.extend((0..quarter).map(|k| angle(k).cos() as f32));
            }
        }
    }
    Tensor::from_vec(table, (1, 1 + rows * columns, width), device)
}

/// The parameter `name` [1, 1 + h·w, width]: [`sin_cos`] when it is new, otherwise what the builder's
/// checkpoint holds.
pub fn parameter(name: &str, width: usize, grid: Grid, vb: &VarBuilder) -> Result<Tensor> {
    let table = vb.get_with_hints((1, 1 + grid.0 * grid.1, width), name, Init::Const(0.))?;
    // No initialisation of a builder describes this table, so a new one is created as zeros and filled here.
    if table.abs()?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()? == 0. {
        table.slice_set(&sin_cos(width, grid, table.device())?.to_dtype(table.dtype())?, 0, 0)?;
    }
    Ok(table)
}

/// Resizes `table` [1, 1 + h·w, C] from grid `from` to grid `to` by `kernel`; the class row is copied. Computed in f64.
///
/// # Errors
/// When the table does not hold `from`.
pub fn resize(table: &Tensor, from: Grid, to: Grid, kernel: Bicubic) -> Result<Tensor> {
    let (_, rows, width) = table.dims3()?;
    if rows != 1 + from.0 * from.1 {
        candle_core::bail!("position table has {rows} rows, expected 1 + {}·{}", from.0, from.1);
    }
    let image = table.narrow(1, 1, rows - 1)?.reshape((1, from.0, from.1, width))?.permute((0, 3, 1, 2))?;
    let image = ops::resize_bicubic_by(kernel, &image.to_dtype(DType::F64)?, to)?; // [1, C, h, w]
    let patches = image.flatten_from(2)?.transpose(1, 2)?.to_dtype(table.dtype())?;
    Tensor::cat(&[&table.narrow(1, 0, 1)?, &patches], 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::test_tolerance;

    /// Sums and entries computed with plain Python from the formula of MAE.
    #[test]
    fn tables_equal_the_reference() -> Result<()> {
        for (width, side, sum) in
            [(768, 14, 69594.4939), (1024, 14, 92849.1979), (1280, 16, 149578.4058), (512, 14, 46340.3331)]
        {
            let table = sin_cos(width, (side, side), &Device::Cpu)?;
            let found = table.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
            assert!((found - sum).abs() < 1e-3, "{width}: {found}");
        }
        let table = sin_cos(768, (14, 14), &Device::Cpu)?.squeeze(0)?.to_vec2::<f32>()?;
        for (row, from, expected) in [
            (0, 0, [0., 0., 0.]),
            (2, 0, [0.841471, 0.815251, 0.788593]),
            (2, 192, [0.540302, 0.579108, 0.614915]),
            (15, 384, [0.841471, 0.815251, 0.788593]),
            (196, 0, [0.420167, -0.174370, -0.685756]),
        ] {
            for (found, expected) in table[row][from..].iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "row {row}: {found} {expected}");
            }
        }
        Ok(())
    }

    /// `torch.nn.functional.interpolate` in f64 (`scripts/golden/mae.py`).
    #[test]
    fn resize_equals_pytorch() -> Result<()> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/mae_parts.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu)?;
        for (from, to) in [((7, 7), (12, 12)), ((7, 7), (5, 9)), ((4, 6), (6, 3))] {
            let key = format!("resize.{}x{}.{}x{}", from.0, from.1, to.0, to.1);
            let found = resize(&golden[&format!("{key}.from")], from, to, Bicubic::Plain)?;
            let error = test_tolerance::absolute(&found, &golden[&format!("{key}.to")]);
            assert!(error < 1e-6, "{key}: {error}");
        }
        Ok(())
    }

    #[test]
    fn a_table_of_a_checkpoint_is_kept() -> Result<()> {
        let held = Tensor::ones((1, 5, 8), DType::F32, &Device::Cpu)?;
        let tensors = std::collections::HashMap::from([("pos_embed".to_string(), held)]);
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        assert_eq!(parameter("pos_embed", 8, (2, 2), &vb)?.sum_all()?.to_scalar::<f32>()?, 40.);
        Ok(())
    }
}
