//! [`WeightFile`]: a file of named tensors, recognised by content.
//!
//! Of a PyTorch file, the state dict may sit at the top or below `model`, `state_dict`, `module` or `teacher`.
//! candle reads the zip format of PyTorch 1.6 and later, and drops int32 and bool tensors (none in a ViT). A pickled
//! module is read by [`super::module`], NumPy's archives by [`super::npz`].

use super::module::ModuleFile;
use super::npz::NpzFile;
use super::shards::Shards;
use super::translation::Translation;
use candle_core::pickle::{PthTensors, read_pth_tensor_info};
use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Keys below which a PyTorch file may hold its state dict.
const WRAPPERS: [&str; 4] = ["model", "state_dict", "module", "teacher"];
/// What DistributedDataParallel and torch.compile put before every name.
const WRAPPED: [&str; 2] = ["module.", "_orig_mod."];

/// A file that cannot be read as weights.
#[derive(Debug, thiserror::Error)]
#[error("weights `{}`: {reason}", path.display())]
pub struct FileError {
    pub path: PathBuf,
    pub reason: String,
}

/// Name and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightEntry {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: DType,
}

/// An opened file of weights; tensors are read when asked for. Names are ours, whatever the file calls them.
pub struct WeightFile {
    path: PathBuf,
    /// As the file has them, without `wrapped`.
    entries: Vec<WeightEntry>,
    /// What all names of the file begin with and says nothing.
    wrapped: String,
    translation: Option<Translation>,
    metadata: BTreeMap<String, String>,
    content: Content,
}

enum Content {
    Safetensors(MmapedSafetensors),
    Pth(PthTensors),
    Module(ModuleFile),
    Npz(NpzFile),
    Shards(Shards),
}

impl WeightFile {
    /// # Errors
    /// Names the file and what is wrong: absent, truncated, another format, no tensors.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let mut file = if Shards::is_index(path) {
            let shards = Shards::open(path)?;
            Self::holding(path, shards.entries(), Content::Shards(shards))
        } else {
            Self::open_untranslated(path)?
        };
        file.wrapped = unwrap(&mut file.entries);
        let fail = |reason: String| FileError { path: path.into(), reason };
        file.translation = Translation::of(&file.entries).map_err(fail)?;
        Ok(file)
    }

    /// A single file, whose names stay as they are.
    pub(super) fn open_untranslated(path: &Path) -> Result<Self, FileError> {
        let fail = |reason: String| FileError { path: path.into(), reason };
        let mut magic = [0; 9];
        let length = std::fs::File::open(path)
            .and_then(|mut file| file.read(&mut magic))
            .map_err(|e| fail(e.to_string()))?;
        let magic = &magic[..length];
        let file = if magic.starts_with(b"PK\x03\x04") {
            Self::open_zip(path).map_err(|e| fail(format!("PyTorch zip file cannot be read: {e}")))?
        } else if magic.get(8) == Some(&b'{') {
            Self::open_safetensors(path)
                .map_err(|e| fail(format!("truncated or corrupt safetensors file: {e}")))?
        } else if magic.starts_with(&[0x80]) {
            let hint = "save it again with torch >= 1.6 (zip format), or as .safetensors";
            return Err(fail(format!("PyTorch file of the legacy format (bare pickle); {hint}")));
        } else {
            return Err(fail("neither a .safetensors nor a PyTorch zip file, nor an .npz".into()));
        };
        if file.entries.is_empty() {
            let wrappers = WRAPPERS.join("`, `");
            return Err(fail(format!("no tensors found (looked at the top and below `{wrappers}`)")));
        }
        Ok(file)
    }

    fn open_safetensors(path: &Path) -> candle_core::Result<Self> {
        // SAFETY: the map is read-only and lives as long as `content`. A file that another process truncates
        // meanwhile would end this one; weights are written atomically and not edited in place.
        let map = unsafe { MmapedSafetensors::new(path)? };
        let mut views = map.tensors();
        // The reader's own order is that of a hash map; a file's order is where the data lies.
        views.sort_by(|(a, left), (b, right)| (left.data().as_ptr(), a).cmp(&(right.data().as_ptr(), b)));
        let entries = views
            .iter()
            .map(|(name, view)| {
                let dtype = view.dtype().try_into()?;
                Ok(WeightEntry { name: name.clone(), shape: view.shape().to_vec(), dtype })
            })
            .collect::<candle_core::Result<_>>()?;
        let metadata = safetensors_metadata(path)?;
        Ok(Self { metadata, ..Self::holding(path, entries, Content::Safetensors(map)) })
    }

    fn holding(path: &Path, entries: Vec<WeightEntry>, content: Content) -> Self {
        let (metadata, wrapped) = (BTreeMap::new(), String::new());
        Self { path: path.into(), entries, wrapped, translation: None, metadata, content }
    }

    fn open_zip(path: &Path) -> candle_core::Result<Self> {
        if let Some(arrays) = NpzFile::open(path)? {
            return Ok(Self::holding(path, arrays.entries(), Content::Npz(arrays)));
        }
        if let Some(module) = ModuleFile::open(path)? {
            return Ok(Self::holding(path, module.entries(), Content::Module(module)));
        }
        let mut key = None;
        let mut infos = read_pth_tensor_info(path, false, None)?;
        for wrapper in WRAPPERS {
            // A missing key is an error there, and no news here.
            match read_pth_tensor_info(path, false, Some(wrapper)) {
                Ok(found) if !found.is_empty() => {
                    (key, infos) = (Some(wrapper), found);
                    break;
                }
                _ => (),
            }
        }
        let entry = |info: &candle_core::pickle::TensorInfo| WeightEntry {
            name: info.name.clone(),
            shape: info.layout.dims().to_vec(),
            dtype: info.dtype,
        };
        let entries = infos.iter().map(entry).collect();
        let content = Content::Pth(PthTensors::new(path, key)?);
        Ok(Self::holding(path, entries, content))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `safetensors`, `pth` or `npz`.
    pub fn format(&self) -> &'static str {
        match self.content {
            Content::Safetensors(_) | Content::Shards(_) => "safetensors",
            Content::Pth(_) | Content::Module(_) => "pth",
            Content::Npz(_) => "npz",
        }
    }

    /// Names and shapes, in ours and in file order.
    pub fn entries(&self) -> &[WeightEntry] {
        self.translation.as_ref().map_or(&self.entries, Translation::entries)
    }

    /// The program whose names the file has, where they are not ours.
    pub fn translated_from(&self) -> Option<&'static str> {
        self.translation.as_ref().map(Translation::title)
    }

    /// Tensors of the file that belong to no model here, by their own names: projectors, a second encoder, indices.
    pub fn unread(&self) -> &[String] {
        self.translation.as_ref().map_or(&[], Translation::unread)
    }

    /// What the writer of a safetensors file noted.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// All tensors by our names, in file order and in their own types.
    pub fn read(&self, device: &Device) -> Result<Vec<(String, Tensor)>, FileError> {
        let read = |entry: &WeightEntry| {
            let tensor = self.get(&entry.name, device).map_err(|e| FileError {
                path: self.path.clone(),
                reason: format!("tensor `{}` cannot be read (truncated or corrupt file): {e}", entry.name),
            })?;
            Ok((entry.name.clone(), tensor))
        };
        let tensors = self.entries.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        match &self.translation {
            None => Ok(tensors),
            Some(translation) => translation
                .apply(&tensors)
                .map_err(|e| FileError { path: self.path.clone(), reason: e.to_string() }),
        }
    }

    /// The tensor that the file calls `name`, but for what all its names begin with.
    pub(super) fn get(&self, name: &str, device: &Device) -> candle_core::Result<Tensor> {
        let found = |tensor: Option<Tensor>| tensor.ok_or(candle_core::Error::Msg("it vanished".into()));
        let name = format!("{}{name}", self.wrapped);
        match &self.content {
            Content::Safetensors(map) => map.get(&name)?.load(device),
            Content::Pth(file) => found(file.get(&name)?)?.to_device(device),
            Content::Module(file) => found(file.get(&name)?)?.to_device(device),
            Content::Npz(file) => found(file.get(&name)?)?.to_device(device),
            Content::Shards(files) => found(files.get(&name, device)?),
        }
    }

    /// Bytes of the file, and of those that it stands for.
    pub fn bytes(&self) -> Result<u64, FileError> {
        let size = |path: &Path| std::fs::metadata(path).map(|data| data.len());
        let sizes = self.paths().into_iter().map(|path| size(path).map_err(|e| self.fail(e.to_string())));
        sizes.sum()
    }

    /// The file, and those that it stands for.
    fn paths(&self) -> Vec<&Path> {
        let mut paths = vec![self.path.as_path()];
        if let Content::Shards(files) = &self.content {
            paths.extend(files.paths());
        }
        paths
    }

    fn fail(&self, reason: String) -> FileError {
        FileError { path: self.path.clone(), reason }
    }

    /// blake3 of the bytes of the file (of an index, then of its files in the order of their names), in hexadecimal.
    pub fn hash(&self) -> Result<String, FileError> {
        let mut hasher = blake3::Hasher::new();
        for path in self.paths() {
            std::fs::File::open(path)
                .and_then(|file| hasher.update_reader(file).map(|_| ()))
                .map_err(|e| self.fail(e.to_string()))?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Takes what wrappers put before every name off, and returns it.
fn unwrap(entries: &mut [WeightEntry]) -> String {
    let mut taken = String::new();
    let shared = |entries: &[WeightEntry], prefix: &str| entries.iter().all(|e| e.name.starts_with(prefix));
    while let Some(prefix) = WRAPPED.iter().find(|prefix| shared(entries, prefix)) {
        entries.iter_mut().for_each(|entry| drop(entry.name.drain(..prefix.len())));
        taken += prefix;
    }
    taken
}

/// The `__metadata__` of the header, which candle's reader does not show.
fn safetensors_metadata(path: &Path) -> candle_core::Result<BTreeMap<String, String>> {
    let mut file = std::fs::File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = String::new();
    file.take(u64::from_le_bytes(length)).read_to_string(&mut header)?;
    let header: serde_json::Value = serde_json::from_str(&header).map_err(candle_core::Error::wrap)?;
    let Some(entries) = header.get("__metadata__").and_then(|m| m.as_object()) else {
        return Ok(BTreeMap::new());
    };
    Ok(entries.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect())
}
