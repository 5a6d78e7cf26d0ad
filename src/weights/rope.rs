//! Periods of rotary positions in files of facebookresearch/dinov3: models compute theirs from `rope_base`, and a file whose
//! periods are others belongs to another model.

use super::error::WeightLoadError;
use crate::config::ModelConfig;
use candle_core::{DType, Tensor};

/// The name of the periods, as used here. They are not loaded.
pub(super) const ROPE_PERIODS: &str = "rope_periods";

/// Periods in files are rounded to bf16, by at most 2⁻⁹.
const TOLERANCE: f64 = 4e-3;

/// Checks that the periods among `tensors`, if there are any, are those of `model`.
///
/// # Errors
/// Other periods, or a model without `rope_base`.
pub(super) fn check_periods(
    tensors: &[(String, Tensor)],
    model: &ModelConfig,
) -> Result<(), WeightLoadError> {
    let Some((_, periods)) = tensors.iter().find(|(name, _)| name == ROPE_PERIODS) else { return Ok(()) };
    let found = periods.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let quarter = model.width / model.heads.max(1) / 4;
    let same = |base: f64| {
        let expected = |k: usize| base.powf(k as f64 / quarter as f64);
        let close = |(k, period): (usize, &f64)| (period / expected(k) - 1.).abs() < TOLERANCE;
        found.len() == quarter && found.iter().enumerate().all(close)
    };
    match model.rope_base {
        Some(base) if same(base) => Ok(()),
        base => Err(WeightLoadError::Periods { found, base, channels: 4 * quarter }),
    }
}
