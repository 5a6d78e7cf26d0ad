//! NaN and infinity in weights: what training leaves behind when it diverges.

use super::LoadError;
use candle_core::{DType, Device, Result, Tensor, WithDType};
use half::{bf16, f16};
use serde::Serialize;

/// A tensor that holds NaN or infinities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotFinite {
    pub name: String,
    pub nan: usize,
    pub infinite: usize,
    /// Values in all.
    pub of: usize,
}

impl NotFinite {
    /// `None` where all values of `tensor` are numbers.
    pub(super) fn of(name: &str, tensor: &Tensor) -> Result<Option<Self>> {
        let (nan, infinite) = match tensor.dtype() {
            DType::F16 => counts::<f16>(tensor)?,
            DType::BF16 => counts::<bf16>(tensor)?,
            DType::F32 => counts::<f32>(tensor)?,
            DType::F64 => counts::<f64>(tensor)?,
            _ => (0, 0),
        };
        let of = tensor.elem_count();
        Ok((nan + infinite > 0).then(|| Self { name: name.into(), nan, infinite, of }))
    }
}

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, nan, infinite, of } = self;
        let counts = [(nan, "NaN"), (infinite, "infinite")];
        let counts = counts.iter().filter(|(count, _)| **count > 0);
        let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
        write!(f, "{name} ({} of {of})", counts.join(", "))
    }
}

/// NaN and infinities in `tensor`.
fn counts<T: WithDType>(tensor: &Tensor) -> Result<(usize, usize)> {
    let values = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<T>()?;
    let count = |(nan, infinite), value: &T| {
        let value = value.to_f64();
        (nan + usize::from(value.is_nan()), infinite + usize::from(value.is_infinite()))
    };
    Ok(values.iter().fold((0, 0), count))
}

/// Refuses weights with NaN or infinity.
///
/// # Errors
/// Names the tensors that hold them.
pub fn refuse_not_finite(tensors: &[(String, Tensor)]) -> std::result::Result<(), LoadError> {
    let found = tensors.iter().filter_map(|(name, tensor)| NotFinite::of(name, tensor).transpose());
    let found = found.collect::<Result<Vec<_>>>()?;
    if found.is_empty() { Ok(()) } else { Err(LoadError::NotFinite { tensors: found }) }
}
