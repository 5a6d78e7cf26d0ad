//! [`NotFinite`]: NaN and infinity in weights, as diverged training leaves them behind.

use candle_core::{DType, Device, Result, Tensor, WithDType};
use half::{bf16, f16};
use serde::Serialize;

/// A tensor that holds NaN or infinity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotFinite {
    /// Name of the tensor.
    pub name: String,
    /// Number of values that are NaN.
    pub nan: usize,
    /// Number of values that are infinite.
    pub infinite: usize,
    /// Number of all values.
    pub of: usize,
}

impl NotFinite {
    /// `None` if all values of `tensor` are finite.
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

/// Numbers of NaN and of infinite values in `tensor`.
fn counts<T: WithDType>(tensor: &Tensor) -> Result<(usize, usize)> {
    let values = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<T>()?;
    let count = |(nan, infinite), value: &T| {
        let value = value.to_f64();
        (nan + usize::from(value.is_nan()), infinite + usize::from(value.is_infinite()))
    };
    Ok(values.iter().fold((0, 0), count))
}
