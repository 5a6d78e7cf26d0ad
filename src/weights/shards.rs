//! Weights in several safetensors files with an index, as transformers saves large models.
//!
//! `model.safetensors.index.json` maps every tensor to its file under `weight_map`. The files must lie in the folder of the
//! index and hold exactly the tensors that the index lists for them.

use super::entry::WeightEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// The end of the file name of an index.
const INDEX: &str = ".safetensors.index.json";

/// The weights in `folder`: `model.safetensors`, or the index of several files if there is no such file.
pub fn weights_in(folder: &Path) -> PathBuf {
    let (whole, index) = (folder.join("model.safetensors"), folder.join(format!("model{INDEX}")));
    if index.is_file() && !whole.is_file() { index } else { whole }
}

/// Whether `path` has the file name of an index.
pub(super) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX))
}

/// A file that an index lists.
pub(super) struct Shard {
    pub path: PathBuf,
    name: PathBuf,
    /// Tensors that it holds, according to the index.
    tensors: BTreeSet<String>,
}

/// The files that the index `path` with the content `text` lists, sorted by name.
///
/// # Errors
/// Text that is not an index, or that lists files in other folders.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Vec<Shard>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, PathBuf>,
    }
    let Index { weight_map } =
        serde_json::from_slice(text).map_err(|e| format!("not an index of tensors: {e}"))?;
    let names: BTreeSet<&PathBuf> = weight_map.values().collect();
    let plain = |name: &Path| matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    if let Some(name) = names.iter().find(|name| !plain(name) || is_index(name)) {
        return Err(format!("`{}` is not a file beside the index", name.display()));
    }
    let shard = |name: &PathBuf| {
        let told = weight_map.iter().filter(|(_, file)| *file == name);
        let tensors = told.map(|(tensor, _)| tensor.clone()).collect();
        Shard { path: path.with_file_name(name), name: name.clone(), tensors }
    };
    Ok(names.into_iter().map(shard).collect())
}

impl Shard {
    /// Compares the tensors that the file holds with those that the index lists.
    ///
    /// # Errors
    /// Names a tensor that the file lacks, or holds in addition.
    pub(crate) fn compare(&self, entries: &[WeightEntry]) -> Result<(), String> {
        let held: BTreeSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let told: BTreeSet<&str> = self.tensors.iter().map(String::as_str).collect();
        let Some(tensor) = told.symmetric_difference(&held).next() else { return Ok(()) };
        let what = if held.contains(tensor) { "holds" } else { "lacks" };
        Err(format!("`{}` {what} `{tensor}`, contrary to the index", self.name.display()))
    }
}
