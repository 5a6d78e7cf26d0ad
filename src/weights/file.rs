//! [`WeightFile`]: a file of named tensors, recognised by content. What it says of itself is checked against its bytes
//! before anything is made of it.

use super::translation::Translation;
use super::{NotFinite, metadata, npz, shards, torch};
use crate::config::{ConfigError, ModelConfig, parse};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

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

impl WeightEntry {
    /// Values in the tensor.
    pub fn count(&self) -> usize {
        self.shape.iter().fold(1, |count, n| count.saturating_mul(*n))
    }
}

/// A tensor in its file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub entry: WeightEntry,
    /// From its first value to its last.
    pub bytes: Range<usize>,
    /// In values; `None` where they lie in order.
    pub strides: Option<Vec<usize>>,
}

/// What a part of a file must add up to.
#[derive(Clone, Debug)]
pub(super) struct Checksum {
    pub bytes: Range<usize>,
    pub crc32: u32,
}

/// Where tensors lie in a file, and the checksums of its parts.
pub(super) type Located = (Vec<Stored>, Vec<Checksum>);

/// An opened file of weights; tensors are read when asked for. Names are ours, whatever the file calls them.
pub struct WeightFile {
    path: PathBuf,
    content: Content,
    format: &'static str,
    stored: Vec<Stored>,
    checksums: Vec<Checksum>,
    /// The files that an index names, which has no tensors of its own.
    shards: Vec<WeightFile>,
    /// As the file has them, without `wrapped`.
    entries: Vec<WeightEntry>,
    /// What all names of the file begin with and says nothing.
    wrapped: String,
    translation: Option<Translation>,
    metadata: BTreeMap<String, String>,
}

enum Content {
    Mapped(memmap2::Mmap),
    Held(Vec<u8>),
}

impl Content {
    /// Lets go of mapped pages, which are read again where they are asked for again: tensors are copies, and a file need
    /// not lie in memory beside them.
    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: nobody writes through the map, so that its pages are those of the file after this as before.
            let released = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            drop(released); // a hint
        }
    }
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Held(bytes) => bytes,
        }
    }
}

impl WeightFile {
    /// # Errors
    /// Names the file and what is wrong: absent, truncated, another format, no tensors.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Self::open_untranslated(path)?.translated()
    }

    /// A file that is in memory already, and is called `path`.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, FileError> {
        Self::of(path, Content::Held(bytes))?.translated()
    }

    /// A file whose names stay as they are.
    pub(super) fn open_untranslated(path: &Path) -> Result<Self, FileError> {
        let fail = |reason: String| FileError { path: path.into(), reason };
        let file = File::open(path).map_err(|e| fail(e.to_string()))?;
        if !file.metadata().is_ok_and(|data| data.is_file()) {
            return Err(fail("no file".into()));
        }
        // SAFETY: the map is read-only and lives as long as `content`. A file that another process truncates
        // meanwhile would end this one; weights are written atomically and not edited in place.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| fail(e.to_string()))?;
        Self::of(path, Content::Mapped(map))
    }

    fn of(path: &Path, content: Content) -> Result<Self, FileError> {
        let fail = |reason: String| FileError { path: path.into(), reason };
        let (mut metadata, mut shards) = (BTreeMap::new(), Vec::new());
        let (format, stored, checksums) = if shards::is_index(path) {
            shards = shards::open(path, &content)?;
            ("safetensors", vec![], vec![])
        } else if content.starts_with(b"PK\x03\x04") {
            let unreadable = |e: String| fail(format!("PyTorch or NumPy zip file cannot be read: {e}"));
            let (format, found) = match npz::parse(&content).map_err(unreadable)? {
                Some(found) => ("npz", found),
                None => ("pth", torch::parse(&content).map_err(unreadable)?),
            };
            (format, found.0, found.1)
        } else if content.get(8) == Some(&b'{') {
            let found = safetensors(&content);
            let stored;
            (stored, metadata) =
                found.map_err(|e| fail(format!("truncated or corrupt safetensors file: {e}")))?;
            ("safetensors", stored, vec![])
        } else if content.starts_with(&[0x80]) {
            let hint = "save it again with torch >= 1.6 (zip format), or as .safetensors";
            return Err(fail(format!("PyTorch file of the legacy format (bare pickle); {hint}")));
        } else {
            return Err(fail("neither a .safetensors nor a PyTorch zip file, nor an .npz".into()));
        };
        let own = stored.iter().map(|stored| &stored.entry);
        let entries = own.chain(shards.iter().flat_map(|shard| &shard.entries)).cloned().collect();
        let (path, wrapped, translation) = (path.into(), String::new(), None);
        Ok(Self { path, content, format, stored, checksums, shards, entries, wrapped, translation, metadata })
    }

    /// With our names, where the file's are those of a program that is known.
    fn translated(mut self) -> Result<Self, FileError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.entries.iter().find(|entry| !seen.insert(&entry.name)) {
            return Err(self.fail(format!("two tensors are called `{}`", twice.name)));
        }
        if self.entries.is_empty() {
            let wrappers = torch::WRAPPERS.join("`, `");
            return Err(self.fail(format!("no tensors found (looked at the top and below `{wrappers}`)")));
        }
        self.wrapped = unwrap(&mut self.entries);
        self.translation = Translation::of(&self.entries).map_err(|reason| self.fail(reason))?;
        Ok(self)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `safetensors`, `pth` or `npz`.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// Length of the file, and of those that it names.
    pub fn bytes(&self) -> usize {
        self.content.len() + self.shards.iter().map(Self::bytes).sum::<usize>()
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

    /// The model that the file says it holds; `None` for files of other programs.
    ///
    /// # Errors
    /// A note that is not the TOML of a model.
    pub fn model(&self) -> Result<Option<ModelConfig>, ConfigError> {
        self.metadata.get(metadata::MODEL).map(|text| parse(text, self.path.display())).transpose()
    }

    /// All tensors by our names, in file order and in their own types.
    ///
    /// # Errors
    /// Names a tensor that is damaged.
    pub fn read(&self, device: &Device) -> Result<Vec<(String, Tensor)>, FileError> {
        let mut tensors = self.untranslated(device)?;
        tensors.iter_mut().for_each(|(name, _)| drop(name.drain(..self.wrapped.len())));
        match &self.translation {
            None => Ok(tensors),
            Some(translation) => translation.apply(&tensors).map_err(|e| self.fail(e.to_string())),
        }
    }

    /// All tensors by the names of the file.
    fn untranslated(&self, device: &Device) -> Result<Vec<(String, Tensor)>, FileError> {
        self.check()?;
        let named = |stored: &Stored| Ok((stored.entry.name.clone(), self.tensor(stored, device)?));
        let mut tensors = self.stored.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        for shard in &self.shards {
            tensors.extend(shard.untranslated(device)?);
        }
        Ok(tensors)
    }

    /// Tensors that hold NaN or infinities, in the names of the file.
    ///
    /// # Errors
    /// Names a tensor that is damaged.
    pub fn not_finite(&self) -> Result<Vec<NotFinite>, FileError> {
        self.check()?;
        let found = |stored: &Stored| {
            let tensor = self.tensor(stored, &Device::Cpu)?;
            NotFinite::of(&stored.entry.name, &tensor).map_err(|e| self.fail(e.to_string()))
        };
        let own: Result<Vec<_>, _> =
            self.stored.iter().filter_map(|stored| found(stored).transpose()).collect();
        let mut all = own?;
        for shard in &self.shards {
            all.extend(shard.not_finite()?);
        }
        Ok(all)
    }

    /// Compares what the file adds up to with what it says.
    fn check(&self) -> Result<(), FileError> {
        for Checksum { bytes, crc32 } in &self.checksums {
            if crc32fast::hash(&self.content[bytes.clone()]) != *crc32 {
                let of =
                    |stored: &&Stored| bytes.start <= stored.bytes.start && stored.bytes.end <= bytes.end;
                let name = self.stored.iter().find(of).map_or("", |stored| &stored.entry.name);
                let reason = format!("tensor `{name}` is damaged (another CRC-32 than the file says)");
                return Err(self.fail(reason));
            }
        }
        Ok(())
    }

    fn fail(&self, reason: String) -> FileError {
        FileError { path: self.path.clone(), reason }
    }

    fn tensor(&self, stored: &Stored, device: &Device) -> Result<Tensor, FileError> {
        let Stored { entry: WeightEntry { name, shape, dtype }, bytes: range, strides } = stored;
        let mut bytes = Cow::Borrowed(&self.content[range.clone()]);
        if let Some(strides) = strides {
            bytes = gathered(&bytes, dtype.size_in_bytes(), shape, strides).into();
        }
        let tensor = Tensor::from_raw_buffer(&bytes, *dtype, shape, device);
        self.content.release(range.clone());
        tensor.map_err(|e| self.fail(format!("tensor `{name}` cannot be read: {e}")))
    }

    /// SHA-256 of the bytes of the file (of an index, its own), in hexadecimal.
    pub fn sha256(&self) -> String {
        Sha256::digest(&*self.content).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// blake3 of the bytes of the file (of an index, then of its files in the order of their names), in hexadecimal.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.content);
        for shard in &self.shards {
            hasher.update(&shard.content);
        }
        hasher.finalize().to_hex().to_string()
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

/// Values of `size` bytes in the order of `shape`, which lie `strides` apart.
fn gathered(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut places = vec![0];
    for (n, stride) in shape.iter().zip(strides) {
        places = places.iter().flat_map(|place| (0..*n).map(move |i| place + i * stride)).collect();
    }
    places.into_iter().flat_map(|place| &bytes[place * size..][..size]).copied().collect()
}

/// Types of a byte or less that candle computes with.
const READ: [DType; 2] = [DType::U8, DType::F8E4M3];

/// Where the tensors of a safetensors file lie, in that order, and its metadata.
fn safetensors(bytes: &[u8]) -> Result<(Vec<Stored>, BTreeMap<String, String>), String> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let data = 8 + header;
    let stored = metadata.offset_keys().into_iter().filter_map(|name| {
        let info = metadata.info(&name)?;
        let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
        let dtype = DType::try_from(info.dtype)
            .ok()
            .filter(|dtype| dtype.size_in_bytes() > 1 || READ.contains(dtype));
        let unread = || format!("tensor `{name}` has the type {:?}, which is not read", info.dtype);
        Some(dtype.ok_or_else(unread).map(|dtype| {
            let entry = WeightEntry { name: name.clone(), shape: info.shape.clone(), dtype };
            Stored { entry, bytes, strides: None }
        }))
    });
    let notes = metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    Ok((stored.collect::<Result<_, _>>()?, notes.collect()))
}
