//! Weights in several safetensors files with an index, as transformers saves large models.
//!
//! `model.safetensors.index.json` names the file of every tensor below `weight_map`. Files lie in the folder of the index,
//! whatever it says, and hold what it says and nothing else.

use super::{FileError, WeightEntry, WeightFile};
use candle_core::{Device, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// The end of the name of an index.
const INDEX: &str = ".safetensors.index.json";

/// The weights that lie in `folder`: `model.safetensors`, or the index of several files in its place.
pub fn weights_in(folder: &Path) -> PathBuf {
    let (whole, index) = (folder.join("model.safetensors"), folder.join(format!("model{INDEX}")));
    if index.is_file() && !whole.is_file() { index } else { whole }
}

/// Files of weights that are one model together.
pub(super) struct Shards(Vec<WeightFile>);

impl Shards {
    /// Whether `path` is called as an index is.
    pub fn is_index(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX))
    }

    /// # Errors
    /// An index that is none, names files elsewhere, or does not agree with what the files hold.
    pub fn open(index: &Path) -> Result<Self, FileError> {
        let fail = |reason: String| FileError { path: index.into(), reason };
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, PathBuf>,
        }
        let text = std::fs::read_to_string(index).map_err(|e| fail(e.to_string()))?;
        let Index { weight_map } =
            serde_json::from_str(&text).map_err(|e| fail(format!("no index of tensors: {e}")))?;
        let names: BTreeSet<&PathBuf> = weight_map.values().collect();
        let plain = |name: &Path| matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        if let Some(name) = names.iter().find(|name| !plain(name) || Self::is_index(name)) {
            return Err(fail(format!("`{}` is no file beside the index", name.display())));
        }
        let mut shards = Vec::new();
        for name in names {
            let shard = WeightFile::open_untranslated(&index.with_file_name(name))?;
            let held: BTreeSet<&str> = shard.entries().iter().map(|entry| entry.name.as_str()).collect();
            let told: BTreeSet<&str> = weight_map
                .iter()
                .filter(|(_, file)| *file == name)
                .map(|(tensor, _)| tensor.as_str())
                .collect();
            if let Some(tensor) = told.symmetric_difference(&held).next() {
                let what = if held.contains(tensor) { "holds" } else { "lacks" };
                let name = name.display();
                return Err(fail(format!("`{name}` {what} `{tensor}`, against what the index says")));
            }
            shards.push(shard);
        }
        Ok(Self(shards))
    }

    /// Of all files, in the order of their names.
    pub fn entries(&self) -> Vec<WeightEntry> {
        self.0.iter().flat_map(WeightFile::entries).cloned().collect()
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(WeightFile::path)
    }

    pub fn get(&self, name: &str, device: &Device) -> candle_core::Result<Option<Tensor>> {
        let holds = |shard: &&WeightFile| shard.entries().iter().any(|entry| entry.name == name);
        self.0.iter().find(holds).map(|shard| shard.get(name, device)).transpose()
    }
}
