//! The tensors of a safetensors file, by its header.

use super::entry::{Located, Stored, Unusable, WeightEntry};
use ::safetensors::{SafeTensorError, SafeTensors};
use candle_core::DType;
use std::collections::BTreeMap;

/// Types of at most one byte that are supported.
const READ: [DType; 2] = [DType::U8, DType::F8E4M3];

/// The tensors of a safetensors file, in the order of their values, and its metadata.
///
/// # Errors
/// A header that is damaged, or does not fit the length of the file: says what is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<(Located, BTreeMap<String, String>), String> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| told(bytes, &e))?;
    let data = 8 + header;
    let mut located = Located::default();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
        let dtype = DType::try_from(info.dtype)
            .ok()
            .filter(|dtype| dtype.size_in_bytes() > 1 || READ.contains(dtype));
        match dtype {
            Some(dtype) => {
                let entry = WeightEntry { name, shape: info.shape.clone(), dtype };
                located.stored.push(Stored { entry, bytes, strides: None, latin1: false });
            }
            None => {
                let reason = format!("the unsupported type {:?}; save it as F32", info.dtype);
                located.unusable.push(Unusable::new(name, reason));
            }
        }
    }
    let about = metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    Ok((located, about.collect()))
}

/// What is wrong with a file that the library refuses.
fn told(bytes: &[u8], error: &SafeTensorError) -> String {
    let stated = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
    match error {
        SafeTensorError::MetadataIncompleteBuffer => {
            let data =
                stated.map_or(0, |header| (bytes.len() as u64).saturating_sub(header.saturating_add(8)));
            format!(
                "the file ends before, or behind, the values that its header lists ({data} bytes follow the header); it is cut \
                 off, or another file was appended: get it again"
            )
        }
        SafeTensorError::InvalidHeaderLength
        | SafeTensorError::HeaderTooLarge
        | SafeTensorError::HeaderTooSmall => {
            format!(
                "a header of {} bytes is stated, which the file of {} bytes does not hold; it is cut off or damaged: get it again",
                stated.unwrap_or_default(),
                bytes.len()
            )
        }
        SafeTensorError::InvalidHeader(_) | SafeTensorError::InvalidHeaderDeserialization(_) => {
            format!("its header is damaged ({error}); get the file again")
        }
        error => format!("its header is not consistent ({error}); get the file again"),
    }
}
