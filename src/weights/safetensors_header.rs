//! The tensors of a safetensors file, by its header.

use super::entry::{Stored, WeightEntry};
use ::safetensors::SafeTensors;
use candle_core::DType;
use std::collections::BTreeMap;

/// Types of at most one byte that are supported.
const READ: [DType; 2] = [DType::U8, DType::F8E4M3];

/// The tensors of a safetensors file, in the order of their values, and its metadata.
pub(super) fn parse(bytes: &[u8]) -> Result<(Vec<Stored>, BTreeMap<String, String>), String> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let data = 8 + header;
    let stored = metadata.offset_keys().into_iter().filter_map(|name| {
        let info = metadata.info(&name)?;
        let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
        let dtype = DType::try_from(info.dtype)
            .ok()
            .filter(|dtype| dtype.size_in_bytes() > 1 || READ.contains(dtype));
        let unread = || format!("tensor `{name}` has the unsupported type {:?}", info.dtype);
        Some(dtype.ok_or_else(unread).map(|dtype| {
            let entry = WeightEntry { name: name.clone(), shape: info.shape.clone(), dtype };
            Stored { entry, bytes, strides: None, latin1: false }
        }))
    });
    let about = metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    Ok((stored.collect::<Result<_, _>>()?, about.collect()))
}
