//! Names and shapes of a model's parameters without its memory.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs `build` and returns the parameters that it asks for, in order. Equal shapes share one zero
/// tensor, so that ViT-H takes only as much memory as one of its blocks.
pub fn parameter_shapes<T>(
    build: impl FnOnce(VarBuilder<'static>) -> Result<T>,
) -> Result<Vec<(String, Shape)>> {
    let seen = Seen::default();
    build(VarBuilder::from_backend(Box::new(seen.clone()), DType::F32, Device::Cpu))?;
    let seen = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(seen.iter().map(|(name, zeros)| (name.clone(), zeros.shape().clone())).collect())
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, Tensor)>>>);

impl SimpleBackend for Seen {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let zeros = match seen.iter().find(|(_, zeros)| *zeros.shape() == shape) {
            Some((_, zeros)) => zeros.clone(),
            None => Tensor::zeros(shape, dtype, device)?,
        };
        seen.push((name.to_string(), zeros.clone()));
        Ok(zeros)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("parameter `{name}` is requested without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|(seen, _)| seen == name)
    }
}
