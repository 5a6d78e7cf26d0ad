//! Weights in several safetensors files with an index, as transformers saves large models.
//!
//! `model.safetensors.index.json` names the file of every tensor below `weight_map`. Files lie in the folder of the index,
//! whatever it says, and hold what it says and nothing else.

use super::{FileError, WeightFile};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// The end of the name of an index.
const INDEX: &str = ".safetensors.index.json";

/// The weights that lie in `folder`: `model.safetensors`, or the index of several files in its place.
pub fn weights_in(folder: &Path) -> PathBuf {
    let (whole, index) = (folder.join("model.safetensors"), folder.join(format!("model{INDEX}")));
    if index.is_file() && !whole.is_file() { index } else { whole }
}

/// Whether `path` is called as an index is.
pub(super) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX))
}

/// The files that the index `path` names, in the order of their names. `text` is what it holds.
///
/// # Errors
/// An index that is not one, names files elsewhere, or does not agree with what the files hold.
pub(super) fn open(path: &Path, text: &[u8]) -> Result<Vec<WeightFile>, FileError> {
    let fail = |reason: String| FileError { path: path.into(), reason };
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, PathBuf>,
    }
    let Index { weight_map } =
        serde_json::from_slice(text).map_err(|e| fail(format!("no index of tensors: {e}")))?;
    let names: BTreeSet<&PathBuf> = weight_map.values().collect();
    let plain = |name: &Path| matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    if let Some(name) = names.iter().find(|name| !plain(name) || is_index(name)) {
        return Err(fail(format!("`{}` is not a file beside the index", name.display())));
    }
    let mut shards = Vec::new();
    for name in names {
        let shard = WeightFile::open_untranslated(&path.with_file_name(name))?;
        let held: BTreeSet<&str> = shard.entries().iter().map(|entry| entry.name.as_str()).collect();
        let told: BTreeSet<&str> =
            weight_map.iter().filter(|(_, file)| *file == name).map(|(tensor, _)| tensor.as_str()).collect();
        if let Some(tensor) = told.symmetric_difference(&held).next() {
            let what = if held.contains(tensor) { "holds" } else { "lacks" };
            let name = name.display();
            return Err(fail(format!("`{name}` {what} `{tensor}`, against what the index says")));
        }
        shards.push(shard);
    }
    Ok(shards)
}
