//! Pickles of NumPy arrays (`.pkl`), in which detectron2 publishes its models: `{"model": {name: array}, "__author__": …}`.
//!
//! The pickle is read as data ([`Pickle`]): its arrays are recognized by the functions that would rebuild them, which are not
//! called.

use super::entry::Located;
use super::numpy_array::{self, is_array};
use super::pickle::Pickle;
use super::search::{Search, locate};
use super::state_dicts::StateDicts;
use super::torch::{TorchFile, content};

/// The first value of a file of `torch.save` before PyTorch 1.6, a number of ten bytes.
const LEGACY: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Reads the file `bytes`; `choose` says which of its state dicts is read.
///
/// # Errors
/// A pickle that is truncated or damaged, or of PyTorch's legacy format; one without arrays, or with arrays whose values do not
/// fit their shapes; the errors of `choose`.
pub(super) fn parse(
    bytes: &[u8],
    choose: impl FnOnce(&StateDicts) -> Result<usize, String>,
) -> Result<TorchFile, String> {
    if bytes.get(2..).is_some_and(|rest| rest.starts_with(&[0x8a, 10]) && rest[2..].starts_with(LEGACY)) {
        let hint = "save it again with torch >= 1.6 (zip format), or as .safetensors";
        return Err(format!("PyTorch file of the legacy format (bare pickle); {hint}"));
    }
    let unreadable = |e: String| format!("pickle cannot be read: {e}");
    let pickle = Pickle::parse(bytes).map_err(unreadable)?;
    let mut search = Search::new(&pickle, is_array);
    search.visit(pickle.root(), "", 0).map_err(unreadable)?;
    let (found, strangers) = (search.found, pickle.strangers());
    if found.is_empty() {
        return Err(format!("no arrays of NumPy found: {}", content(&pickle, &strangers)));
    }
    let mut dicts = StateDicts::of_members(&found);
    let chosen = choose(&dicts)?;
    let mut located = Located::default();
    let members = &found[dicts.group(chosen)].1;
    locate(members, &mut located, (&mut dicts, chosen), |name, place| {
        Ok(numpy_array::stored(&pickle, place, name, bytes))
    })?;
    numpy_array::refuse_shared(&located.stored, bytes.len())?;
    Ok(TorchFile { located, chosen, dicts, strangers })
}

#[cfg(test)]
mod tests;
