//! [`Parsed`]: what the bytes of a weight file hold, whose format is recognized by content.

use super::entry::Located;
use super::state_dicts::StateDicts;
use super::torch::{self, TorchFile};
use super::{npz, numpy_pickle, safetensors_header};
use crate::files;
use std::collections::BTreeMap;

/// What is read from a file.
pub(super) struct Parsed {
    pub format: &'static str,
    pub located: Located,
    pub metadata: BTreeMap<String, String>,
    /// Names in a pickle that weights do not need.
    pub strangers: Vec<String>,
    /// The state dicts and the chosen one; `None` if the tensors are read as they are.
    pub dicts: Option<(StateDicts, usize)>,
}

impl Default for Parsed {
    fn default() -> Self {
        let located = Located::default();
        Self { format: "safetensors", located, metadata: BTreeMap::new(), strangers: vec![], dicts: None }
    }
}

impl Parsed {
    /// Reads the file `bytes`; `choose` says which of several state dicts is read.
    ///
    /// # Errors
    /// Says what the file is, if it holds no weights, or what is wrong with it.
    pub(crate) fn of(
        bytes: &[u8],
        choose: impl FnOnce(&StateDicts) -> Result<usize, String>,
    ) -> Result<Self, String> {
        if bytes.starts_with(b"PK\x03\x04") {
            let arrays =
                npz::parse(bytes).map_err(|e| format!("PyTorch or NumPy zip file cannot be read: {e}"))?;
            return match arrays {
                Some(located) => Ok(Self { format: "npz", located, ..Self::default() }),
                None => Ok(Self::of_pickle("pth", torch::parse(bytes, choose)?)),
            };
        }
        if let Some(what) = files::mistaken(bytes) {
            return Err(format!("the file is {what}, and not a file of weights"));
        }
        if bytes.starts_with(&[0x80]) && bytes.get(8) != Some(&b'{') {
            return Ok(Self::of_pickle("pkl", numpy_pickle::parse(bytes, choose)?));
        }
        if bytes.get(8) == Some(&b'{') {
            let (located, metadata) = safetensors_header::parse(bytes)
                .map_err(|e| format!("truncated or corrupt safetensors file: {e}"))?;
            return Ok(Self { located, metadata, ..Self::default() });
        }
        if bytes.is_empty() {
            return Err("the file is empty".into());
        }
        Err("neither a .safetensors nor a PyTorch zip file, nor an .npz or .pkl".into())
    }

    /// What a file of PyTorch or another pickle holds.
    fn of_pickle(format: &'static str, found: TorchFile) -> Self {
        let TorchFile { located, chosen, dicts, strangers } = found;
        Self { format, located, strangers, dicts: Some((dicts, chosen)), ..Self::default() }
    }
}
