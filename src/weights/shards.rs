//! Which files are the weights of a folder or of a repository of the Hub, and weights in several files with an index, as
//! transformers saves large models.
//!
//! An index such as `model.safetensors.index.json` maps every tensor to its file under `weight_map`. The files must lie in the
//! folder of the index and hold exactly the tensors that the index lists for them.

use super::entry::{Unusable, WeightEntry};
use crate::files;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// File names of weights, in the order in which they are looked for in a folder or in a repository.
pub(super) const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// The end of the file name of an index.
const INDEX: &str = ".index.json";
/// Ends of the names of files that may hold weights.
const ENDINGS: [&str; 7] = ["safetensors", "bin", "pth", "pt", "ckpt", "npz", "tar"];

/// The weights in `folder`: the first of `model.safetensors`, the index of several such files, `pytorch_model.bin` and the
/// index of several of them; `None` if there is none of them.
pub fn weights_in(folder: &Path) -> Option<PathBuf> {
    WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Says that `folder` has no weights with a usual name, and which files it has that may hold some.
pub fn weight_files(folder: &Path) -> String {
    let ending = |path: &Path| path.extension().is_some_and(|end| ENDINGS.iter().any(|known| end == *known));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut names: Vec<String> = entries
        .filter(|path| ending(path))
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort_unstable();
    let held = match names.as_slice() {
        [] => String::new(),
        names => format!("; name a file, such as `{}`", folder.join(&names[0]).display()),
    };
    format!("no `{}`{held}", WEIGHTS.join("`, `"))
}

/// Whether `path` has the file name of an index.
pub(super) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX))
}

/// Names of the files that an index with the content `text` lists, sorted.
///
/// # Errors
/// Text that is not an index, or that lists files in other folders.
pub(super) fn listed(text: &[u8]) -> Result<Vec<String>, String> {
    let index = Index::parse(text)?;
    Ok(index.files().into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, PathBuf>,
}

impl Index {
    fn parse(text: &[u8]) -> Result<Self, String> {
        let text = files::utf8(text)?;
        let index: Self = serde_json::from_str(&text).map_err(|e| match e.is_eof() {
            true => "the index is empty or cut off; get it again".to_string(),
            false => format!("not an index of tensors: {e}"),
        })?;
        let plain = |name: &Path| matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        if let Some(name) = index.weight_map.values().find(|name| !plain(name) || is_index(name)) {
            return Err(format!("`{}` is not a file beside the index", name.display()));
        }
        Ok(index)
    }

    fn files(&self) -> BTreeSet<&PathBuf> {
        self.weight_map.values().collect()
    }
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
/// Text that is not an index, or that lists files in other folders or files that are not there.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Vec<Shard>, String> {
    let index = Index::parse(text)?;
    let files = index.files();
    let missing = files.iter().filter(|name| !path.with_file_name(name).exists());
    let missing: Vec<String> = missing.map(|name| name.display().to_string()).collect();
    if let [first, rest @ ..] = missing.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
        return Err(format!(
            "`{first}`, which the index lists{more}, is not there; put all {} files of the model beside the index",
            files.len()
        ));
    }
    let shard = |name: &PathBuf| {
        let told = index.weight_map.iter().filter(|(_, file)| *file == name);
        let tensors = told.map(|(tensor, _)| tensor.clone()).collect();
        Shard { path: path.with_file_name(name), name: name.clone(), tensors }
    };
    Ok(files.into_iter().map(shard).collect())
}

impl Shard {
    /// Compares the tensors that the file holds with those that the index lists.
    ///
    /// # Errors
    /// Names a tensor that the file lacks, or holds in addition.
    pub(crate) fn compare(&self, entries: &[WeightEntry], unusable: &[Unusable]) -> Result<(), String> {
        let entries = entries.iter().map(|entry| entry.name.as_str());
        let held: BTreeSet<&str> =
            entries.chain(unusable.iter().map(|tensor| tensor.name.as_str())).collect();
        let told: BTreeSet<&str> = self.tensors.iter().map(String::as_str).collect();
        let Some(tensor) = told.symmetric_difference(&held).next() else { return Ok(()) };
        let what = if held.contains(tensor) { "holds" } else { "lacks" };
        Err(format!("`{}` {what} `{tensor}`, contrary to the index", self.name.display()))
    }
}
