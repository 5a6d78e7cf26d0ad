//! Writes parameters to a safetensors file, in order of creation and atomically. The same values give the same bytes, which
//! the `safetensors` crate does not guarantee, because it orders metadata by hash.

use super::metadata;
use crate::nn::Params;
use crate::record::write_atomic;
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A weight file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write weights `{}`: {reason}", path.display())]
pub struct WeightSaveError {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub reason: String,
}

/// Writes all of `params`, trainable or not, with `metadata` about their origin ([`metadata`]).
///
/// # Errors
/// A tensor of an unsupported type, or a file that cannot be written.
pub fn save(
    path: &Path,
    params: &Params,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightSaveError> {
    let tensors: Vec<_> = params.all().into_iter().map(|p| (p.name, p.var.as_detached_tensor())).collect();
    save_tensors(path, &tensors, metadata)
}

/// Writes named f32, f64, f16, bf16, u8, u32 or i64 tensors in the given order.
///
/// # Errors
/// Tensors of other types, two tensors with the same name, or a file that cannot be written.
pub fn save_tensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightSaveError> {
    let fail = |reason: String| WeightSaveError { path: path.into(), reason };
    let bytes = serialize(tensors, metadata).map_err(|e| fail(e.to_string()))?;
    write_atomic(path, &bytes).map_err(|e| fail(e.to_string()))
}

/// Bytes of a safetensors file: header length (u64, little endian), JSON header padded with spaces to 8 bytes, data.
fn serialize(
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> candle_core::Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    // PyTorch's libraries require `format: pt`.
    let writer = concat!("bench ", env!("CARGO_PKG_VERSION"));
    let mut about = BTreeMap::from(
        [("format", "pt"), (metadata::WRITTEN_BY, writer)].map(|(k, v)| (k.to_string(), v.to_string())),
    );
    about.extend(metadata.iter().map(|(key, value)| (key.clone(), value.clone())));
    header.insert("__metadata__".into(), serde_json::json!(about));
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let dtype = safetensors_dtype(tensor.dtype())?;
        let entry =
            serde_json::json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, end] });
        if header.insert(name.clone(), entry).is_some() {
            candle_core::bail!("two tensors are called `{name}`");
        }
    }
    let mut header = serde_json::to_vec(&header).map_err(candle_core::Error::wrap)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for (_, tensor) in tensors {
        tensor.to_device(&Device::Cpu)?.write_bytes(&mut bytes)?;
    }
    Ok(bytes)
}

fn safetensors_dtype(dtype: DType) -> candle_core::Result<&'static str> {
    Ok(match dtype {
        DType::F32 => "F32",
        DType::F64 => "F64",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::U8 => "U8",
        DType::U32 => "U32",
        DType::I64 => "I64",
        other => candle_core::bail!("tensors of type {other:?} cannot be written"),
    })
}
