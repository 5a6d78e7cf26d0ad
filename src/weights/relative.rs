//! Loads the relative position bias tables of BEiT: a shared table is copied to every block, or to windowed and global
//! blocks, and a table for another grid is resized (unilm `run_class_finetuning.py`).
//!
//! Rows 0..(2h − 1)·(2w − 1) hold the biases of patch offsets; three more rows belong to the class token, if there is one.
//! Offsets are resampled with a cubic spline on a grid whose spacing grows with the distance, so that small offsets keep
//! their meaning.

use super::error::WeightLoadError;
use candle_core::{DType, Device, Result, Tensor};

/// BEiT's name for the table that all blocks share.
pub(super) const SHARED: &str = "rel_pos_bias.relative_position_bias_table";
/// Last part of the names of tables.
const TABLE: &str = "relative_position_bias_table";
/// Number of rows of the class token: from it, to it, and to itself.
const CLASS_ROWS: usize = 3;

/// Adapts the tables in `tensors` to the model, which needs those that `wanted` lists (name, [rows, heads]): copies the
/// shared table where a block has none of its own, and resizes tables of other grids. Windows have no class token, so
/// its rows are dropped. Index buffers are removed, because they follow from the grid.
///
/// # Errors
/// A tensor operation that fails.
pub(super) fn fit_tables(
    tensors: &mut Vec<(String, Tensor)>,
    wanted: &[(String, Vec<usize>)],
) -> std::result::Result<(), WeightLoadError> {
    tensors.retain(|(name, _)| !name.ends_with("relative_position_index"));
    let tables: Vec<_> = wanted.iter().filter(|(name, _)| name.ends_with(TABLE)).collect();
    if let Some(at) = tensors.iter().position(|(name, _)| name == SHARED).filter(|_| !tables.is_empty()) {
        let (_, shared) = tensors.remove(at);
        for (name, _) in &tables {
            if !tensors.iter().any(|(held, _)| held == name) {
                tensors.push((name.clone(), shared.clone()));
            }
        }
    }
    for (name, shape) in tables {
        let Some((_, table)) = tensors.iter_mut().find(|(held, _)| held == name) else { continue };
        let (&[from, heads], &[to, expected]) = (table.dims(), shape.as_slice()) else { continue };
        if from == to || heads != expected {
            continue; // fits, or is rejected later with both shapes
        }
        let (Some(from), Some(to)) = (Form::of(from), Form::of(to)) else { continue };
        if from.class >= to.class {
            *table = fitted(table, from, to)?;
        }
    }
    Ok(())
}

/// Meaning of the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    /// Number of offsets along one side of a square grid of G patches: 2G − 1.
    side: usize,
    /// Whether the class token has rows.
    class: bool,
}

impl Form {
    fn of(rows: usize) -> Option<Self> {
        let square = |offsets: usize, class| {
            let side = offsets.isqrt();
            (side * side == offsets && side % 2 == 1 && side >= 3).then_some(Self { side, class })
        };
        square(rows, false).or_else(|| square(rows.checked_sub(CLASS_ROWS)?, true))
    }

    fn rows(self) -> usize {
        self.side * self.side + if self.class { CLASS_ROWS } else { 0 }
    }
}

/// Resizes a table [rows, heads]; the result has no class token if the source has none.
fn fitted(table: &Tensor, from: Form, to: Form) -> Result<Tensor> {
    if from.side == to.side {
        return table.narrow(0, 0, to.rows());
    }
    let (device, heads) = (table.device().clone(), table.dim(1)?);
    let values = table.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.t()?.contiguous()?.to_vec2::<f64>()?;
    let places = spread(from.side, to.side);
    let half = (to.side / 2) as f64;
    let targets: Vec<f64> = (0..to.side).map(|i| i as f64 - half).collect();
    let mut rows = vec![0f32; to.rows() * heads];
    for (head, values) in values.iter().enumerate() {
        let (map, class) = values.split_at(from.side * from.side);
        // First along the rows of the map, then along its columns.
        let wide: Vec<Vec<f64>> = map.chunks(from.side).map(|row| spline(&places, row, &targets)).collect();
        for x in 0..to.side {
            let column: Vec<f64> = wide.iter().map(|row| row[x]).collect();
            for (y, value) in spline(&places, &column, &targets).into_iter().enumerate() {
                rows[(y * to.side + x) * heads + head] = value as f32;
            }
        }
        let offsets = to.side * to.side;
        for (row, value) in (offsets..to.rows()).zip(class) {
            rows[row * heads + head] = *value as f32;
        }
    }
    Tensor::from_vec(rows, (to.rows(), heads), &device)?.to_dtype(table.dtype())
}

/// Positions of the `from` offsets of a table among the `to` offsets of another: 0 in the center, then steps of 1, q,
/// q², …, with q such that the outermost offsets coincide.
fn spread(from: usize, to: usize) -> Vec<f64> {
    let sum = |q: f64| (1. - q.powi((from / 2) as i32)) / (1. - q);
    let (mut low, mut high) = (1.01f64, 1.5f64);
    while high - low > 1e-6 {
        let q = (low + high) / 2.;
        if sum(q) > (to / 2) as f64 { high = q } else { low = q }
    }
    let q = (low + high) / 2.;
    let mut outward = Vec::new();
    let mut place = 1.;
    for i in 0..from / 2 {
        outward.push(place);
        place += q.powi(i as i32 + 1);
    }
    let inward = outward.iter().rev().map(|place| -place);
    inward.chain([0.]).chain(outward.iter().copied()).collect()
}

/// The cubic not-a-knot spline through (`x`, `y`), evaluated at `at`, as in FITPACK; constant outside. With three points
/// it is a parabola.
fn spline(x: &[f64], y: &[f64], at: &[f64]) -> Vec<f64> {
    let n = x.len();
    let width: Vec<f64> = x.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let slope: Vec<f64> = (0..n - 1).map(|i| (y[i + 1] - y[i]) / width[i]).collect();
    // Second derivatives m: first derivatives are continuous inside, third derivatives at the second and the penultimate point.
    let mut matrix = vec![vec![0.; n + 1]; n];
    for i in 1..n - 1 {
        matrix[i][i - 1] = width[i - 1];
        matrix[i][i] = 2. * (width[i - 1] + width[i]);
        matrix[i][i + 1] = width[i];
        matrix[i][n] = 6. * (slope[i] - slope[i - 1]);
    }
    if n == 3 {
        (matrix[0][0], matrix[0][1]) = (1., -1.);
        (matrix[2][1], matrix[2][2]) = (1., -1.);
    } else {
        (matrix[0][0], matrix[0][1], matrix[0][2]) = (width[1], -(width[0] + width[1]), width[0]);
        let (a, b) = (width[n - 3], width[n - 2]);
        (matrix[n - 1][n - 3], matrix[n - 1][n - 2], matrix[n - 1][n - 1]) = (b, -(a + b), a);
    }
    let m = solve(matrix);
    let value = |&t: &f64| {
        let t = t.clamp(x[0], x[n - 1]);
        let i = x[1..n - 1].iter().filter(|knot| **knot <= t).count();
        let (h, left, right) = (width[i], x[i + 1] - t, t - x[i]);
        (m[i] * left.powi(3) + m[i + 1] * right.powi(3)) / (6. * h)
            + (y[i] / h - m[i] * h / 6.) * left
            + (y[i + 1] / h - m[i + 1] * h / 6.) * right
    };
    at.iter().map(value).collect()
}

/// Solves a linear system, whose right-hand side is the last column, by Gaussian elimination with pivoting.
fn solve(mut matrix: Vec<Vec<f64>>) -> Vec<f64> {
    let n = matrix.len();
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))
            .unwrap_or(column);
        matrix.swap(column, pivot);
        let row = matrix[column].clone();
        for other in (0..n).filter(|other| *other != column) {
            let factor = matrix[other][column] / row[column];
            for (value, pivot) in matrix[other].iter_mut().zip(&row) {
                *value -= factor * pivot;
            }
        }
    }
    (0..n).map(|i| matrix[i][n] / matrix[i][i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::test_tolerance;
    use candle_core::safetensors;

    #[test]
    fn a_cubic_is_its_own_spline() {
        let cubic = |x: f64| 2. - x + 0.5 * x * x - 0.25 * x * x * x;
        let x = [-3., -1.5, 0., 1., 2.5];
        let y = x.map(cubic);
        let at = [-3., -2.2, 0.3, 1.7, 2.5];
        for (found, t) in spline(&x, &y, &at).into_iter().zip(at) {
            assert!((found - cubic(t)).abs() < 1e-12, "{found} at {t}, expected {}", cubic(t));
        }
    }

    #[test]
    fn tables_are_resized_as_the_reference_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/relative.safetensors");
        let golden = safetensors::load(path, &Device::Cpu).unwrap();
        for (name, from, to) in [("larger", 7, 15), ("smaller", 15, 9)] {
            let form = |side| Form { side, class: true };
            let found = fitted(&golden[&format!("{name}.table")], form(from), form(to)).unwrap();
            let most = test_tolerance::absolute(&found, &golden[&format!("{name}.resized")]);
            assert!(most < 1e-5, "{name}: {most}");
        }
    }

    #[test]
    fn a_shared_table_goes_into_every_block() {
        let table = Tensor::arange(0f32, 56., &Device::Cpu).unwrap().reshape((28, 2)).unwrap(); // 5² + 3
        let index = Tensor::zeros((10, 10), DType::I64, &Device::Cpu).unwrap();
        let mut tensors =
            vec![(SHARED.to_string(), table.clone()), ("rel_pos_bias.relative_position_index".into(), index)];
        let name = |i: usize| format!("blocks.{i}.attn.{TABLE}");
        let wanted = [(name(0), vec![28, 2]), (name(1), vec![84, 2])];
        fit_tables(&mut tensors, &wanted).unwrap();
        let found: Vec<(&str, &[usize])> = tensors.iter().map(|(n, t)| (n.as_str(), t.dims())).collect();
        assert_eq!(found, [(name(0).as_str(), &[28, 2][..]), (name(1).as_str(), &[84, 2])]);
        let values = |t: &Tensor| t.to_vec2::<f32>().unwrap();
        assert_eq!(values(&tensors[0].1), values(&table));
        assert_eq!(values(&tensors[1].1)[81..], values(&table)[25..], "rows of the class token stay");
    }
    #[test]
    fn windows_take_the_offsets_without_the_class_token() {
        let table = Tensor::arange(0f32, 56., &Device::Cpu).unwrap().reshape((28, 2)).unwrap(); // 5² + 3
        let window = format!("window_{SHARED}");
        let own = format!("blocks.1.attn.{TABLE}");
        for name in [&window, &own, &SHARED.to_string()] {
            for (rows, exact) in [(25, true), (81, false)] {
                let mut tensors = vec![(SHARED.to_string(), table.clone())];
                fit_tables(&mut tensors, &[(name.clone(), vec![rows, 2])]).unwrap();
                let [(found, fitted)] = tensors.as_slice() else { panic!("{tensors:?}") };
                assert_eq!((found, fitted.dims()), (name, &[rows, 2][..]));
                let (fitted, table) = (fitted.to_vec2::<f32>().unwrap(), table.to_vec2::<f32>().unwrap());
                assert_eq!(fitted == table[..25], exact);
                assert!((fitted[rows / 2][1] - table[12][1]).abs() < 1e-4, "no offset keeps its value");
            }
        }
        // Windowed and global blocks get one each; a table without the token's rows makes none of them.
        let mut tensors = vec![(SHARED.to_string(), table.narrow(0, 0, 25).unwrap())];
        fit_tables(&mut tensors, &[(window.clone(), vec![9, 2]), (SHARED.into(), vec![84, 2])]).unwrap();
        let shape = |name: &str| tensors.iter().find(|(held, _)| held == name).unwrap().1.dims().to_vec();
        assert_eq!((shape(&window), shape(SHARED)), (vec![9, 2], vec![25, 2]));
    }
}
