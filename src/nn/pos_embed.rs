//! Position tables: fixed 2-D sine-cosine (MAE `util/pos_embed.py`) and the resize of a table to
//! another grid.
//!
//! The resize is PyTorch's bicubic `interpolate` (a = −0.75, `align_corners=False`, no antialias), as in
//! MAE and ViTDet; timm antialiases when shrinking, which differs slightly.

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
    if width % 4 != 0 {
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

/// The parameter `name` [1, 1 + h·w, width]: [`sin_cos`] when it is new, what the builder's checkpoint holds otherwise.
pub fn parameter(name: &str, width: usize, grid: Grid, vb: &VarBuilder) -> Result<Tensor> {
    let table = vb.get_with_hints((1, 1 + grid.0 * grid.1, width), name, Init::Const(0.))?;
    // No initialisation of a builder describes this table: a new one is zeros and is written here.
    if table.abs()?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()? == 0. {
        table.slice_set(&sin_cos(width, grid, table.device())?.to_dtype(table.dtype())?, 0, 0)?;
    }
    Ok(table)
}

/// Resizes `table` [1, 1 + h·w, C] from grid `from` to grid `to`; the class row is copied.
///
/// # Errors
/// When the table does not hold `from`.
pub fn resize(table: &Tensor, from: Grid, to: Grid) -> Result<Tensor> {
    let (_, rows, width) = table.dims3()?;
    if rows != 1 + from.0 * from.1 {
        candle_core::bail!("position table has {rows} rows, expected 1 + {}·{}", from.0, from.1);
    }
    let values = table.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let (class, patches) = values.split_at(width);
    let (vertical, horizontal) = (bicubic_taps(from.0, to.0), bicubic_taps(from.1, to.1));
    let mut resized = class.to_vec();
    resized.reserve(to.0 * to.1 * width);
    for row_taps in &vertical {
        for column_taps in &horizontal {
            let mut sum = vec![0f64; width];
            for &(y, wy) in row_taps {
                for &(x, wx) in column_taps {
                    let source = &patches[(y * from.1 + x) * width..][..width];
                    sum.iter_mut().zip(source).for_each(|(s, v)| *s += wy * wx * f64::from(*v));
                }
            }
            resized.extend(sum.into_iter().map(|s| s as f32));
        }
    }
    Tensor::from_vec(resized, (1, 1 + to.0 * to.1, width), table.device())
}

/// For every output position, four (input position, weight) pairs of the cubic kernel, clamped to the border.
fn bicubic_taps(from: usize, to: usize) -> Vec<[(usize, f64); 4]> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.) * x - (A + 3.)) * x * x + 1.; // |x| <= 1
    let far = |x: f64| ((A * x - 5. * A) * x + 8. * A) * x - 4. * A; // 1 < |x| < 2
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale - 0.5;
            let t = centre - centre.floor();
            let weights = [far(t + 1.), near(t), near(1. - t), far(2. - t)];
            std::array::from_fn(|k| {
                let position = centre.floor() as isize + k as isize - 1;
                (position.clamp(0, from as isize - 1) as usize, weights[k])
            })
        })
        .collect()
}
