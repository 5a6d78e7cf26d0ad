//! Principal components of a set of vectors, in f64: one-sided Jacobi rotations (Hestenes 1958) of the
//! covariance matrix. Deterministic; exact enough for the leading components, the only ones needed.

use candle_core::{DType, Device, Result, Tensor};

/// Number of sweeps over all pairs; convergence is quadratic and takes about ten.
const MAX_SWEEPS: usize = 40;

/// Mean `[P]` and the `count` components [count, P] of largest variance of `vectors` [n, P], f32 on the CPU.
/// Each component is a unit vector whose largest entry is positive.
pub fn fit(vectors: &Tensor, count: usize) -> Result<(Tensor, Tensor)> {
    let (n, width) = vectors.dims2()?;
    let vectors = vectors.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let mean = vectors.mean_keepdim(0)?;
    let centred = vectors.broadcast_sub(&mean)?;
    let covariance = (centred.t()?.matmul(&centred)? / n as f64)?; // [P, P]
    let mut rows = covariance.to_vec2::<f64>()?;
    orthogonalise(&mut rows);
    // Row i is now an eigenvector times its eigenvalue.
    rows.sort_by(|a, b| dot(b, b).total_cmp(&dot(a, a)));
    let mut components = Vec::with_capacity(count * width);
    for row in &rows[..count] {
        let largest = row.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.);
        let norm = dot(row, row).sqrt().copysign(largest);
        components.extend(row.iter().map(|v| if norm == 0. { 0. } else { (v / norm) as f32 }));
    }
    let components = Tensor::from_vec(components, (count, width), &Device::Cpu)?;
    Ok((mean.squeeze(0)?.to_dtype(DType::F32)?, components))
}

/// Rotates pairs of rows until all are orthogonal. For a symmetric positive semi-definite matrix the
/// rows become its eigenvectors, each scaled by its eigenvalue.
fn orthogonalise(rows: &mut [Vec<f64>]) {
    let total: f64 = rows.iter().map(|row| dot(row, row)).sum();
    let negligible = total * f64::EPSILON * f64::EPSILON;
    for _ in 0..MAX_SWEEPS {
        let mut rotated = false;
        for i in 0..rows.len() {
            let (head, tail) = rows.split_at_mut(i + 1);
            let a = &mut head[i];
            for b in tail {
                let (aa, bb, ab) = (dot(a, a), dot(b, b), dot(a, b));
                if ab == 0. || ab.abs() <= 1e-14 * (aa * bb).sqrt() || aa.max(bb) <= negligible {
                    continue;
                }
                rotated = true;
                let zeta = (bb - aa) / (2. * ab);
                let t = 1f64.copysign(zeta) / (zeta.abs() + (1. + zeta * zeta).sqrt());
                let c = (1. + t * t).sqrt().recip();
                let s = c * t;
                for (x, y) in a.iter_mut().zip(b) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
        }
        if !rotated {
            break;
        }
    }
}

/// Four partial sums, in a fixed order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.; 4];
    let (mut xs, mut ys) = (a.chunks_exact(4), b.chunks_exact(4));
    for (x, y) in (&mut xs).zip(&mut ys) {
        (0..4).for_each(|k| sums[k] += x[k] * y[k]);
    }
    let rest: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use rand_distr::{Distribution, StandardNormal};

    /// Points with deviations 5, 3, 1, 0.2 along known directions.
    #[test]
    fn directions_of_largest_variance_are_found() -> Result<()> {
        let directions =
            [[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, -0.5, 0.5]];
        let mut rng = Rng::new(0, "test", &[]);
        let mut points = Vec::new();
        for _ in 0..4000 {
            let mut point = [7., 0., 0., 0.];
            for (direction, deviation) in directions.iter().zip([0.2, 5., 1., 3.]) {
                let draw: f64 = StandardNormal.sample(&mut rng);
                point.iter_mut().zip(direction).for_each(|(p, d)| *p += d * draw * deviation);
            }
            points.extend(point);
        }
        let points = Tensor::from_vec(points, (4000, 4), &Device::Cpu)?;
        let (mean, components) = fit(&points, 3)?;
        let (mean, components) = (mean.to_vec1::<f32>()?, components.to_vec2::<f32>()?);
        assert!((mean[0] - 7.).abs() < 0.2, "{mean:?}");
        for (component, direction) in components.iter().zip([1, 3, 2]) {
            let cosine: f64 =
                component.iter().zip(directions[direction]).map(|(c, d)| f64::from(*c) * d).sum();
            assert!(cosine.abs() > 0.999, "{component:?} against {:?}", directions[direction]);
            assert!(component.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())) > Some(0.));
        }
        Ok(())
    }

    #[test]
    fn rows_end_orthogonal_also_when_the_rank_is_low() {
        let factor: Vec<Vec<f64>> =
            (0..3).map(|i| (0..12).map(|j| ((i * 7 + j * j) % 11) as f64 - 5.).collect()).collect();
        let mut rows: Vec<Vec<f64>> =
            (0..12).map(|a| (0..12).map(|b| factor.iter().map(|f| f[a] * f[b]).sum()).collect()).collect();
        let matrix = rows.clone();
        orthogonalise(&mut rows);
        rows.sort_by(|a, b| dot(b, b).total_cmp(&dot(a, a)));
        assert!(dot(&rows[3], &rows[3]).sqrt() < 1e-9, "rank 3");
        for row in &rows[..3] {
            let norm = dot(row, row).sqrt(); // the eigenvalue
            for (line, value) in matrix.iter().zip(row) {
                assert!((dot(line, row) - norm * value).abs() < 1e-9 * norm * norm);
            }
        }
    }
}
