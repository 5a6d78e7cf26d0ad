//! [`WeightFile`]: a file of named tensors, whose format is recognized by content. Sizes that the file states are checked
//! against its length before memory is allocated for them.

use super::entry::{Checksum, Stored, WeightEntry};
use super::error::WeightFileError;
use super::finite::NotFinite;
use super::mapped::MappedTensors;
use super::{metadata, npz, shards, torch};
use crate::config::{ConfigError, ModelConfig, parse};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// Prefixes that DistributedDataParallel and torch.compile add to every name.
const WRAPPED: [&str; 2] = ["module.", "_orig_mod."];

/// An open weight file; tensors are read on request. Names are those used here, whatever program wrote the file.
pub struct WeightFile {
    path: PathBuf,
    content: Content,
    format: &'static str,
    stored: Vec<Stored>,
    checksums: Vec<Checksum>,
    /// The files that an index lists; the index itself has no tensors.
    shards: Vec<WeightFile>,
    /// Entries with the names in the file, without `wrapped`.
    entries: Vec<WeightEntry>,
    /// The wrapper prefix that all names in the file share.
    wrapped: String,
    mapped: Option<MappedTensors>,
    metadata: BTreeMap<String, String>,
}

enum Content {
    Mapped(memmap2::Mmap),
    Held(Vec<u8>),
}

impl Content {
    /// Releases mapped pages, which are read again when they are needed: tensors are copies, so the file need not stay in
    /// memory beside them.
    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: nothing writes through the map, so its pages have the content of the file before and after this call.
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
    /// Opens `path`: a safetensors file, an index of several of them, a zip-format `.pth`, or an `.npz`.
    ///
    /// # Errors
    /// Names the file and what is wrong: missing, truncated, in an unknown format, or without tensors.
    pub fn open(path: &Path) -> Result<Self, WeightFileError> {
        Self::open_unmapped(path)?.with_our_names()
    }

    /// Parses a file that is already in memory; `path` is its name in messages.
    ///
    /// # Errors
    /// The errors of [`Self::open`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, WeightFileError> {
        Self::of(path, Content::Held(bytes))?.with_our_names()
    }

    /// Opens a file and keeps its names as they are.
    fn open_unmapped(path: &Path) -> Result<Self, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let file = File::open(path).map_err(|e| fail(e.to_string()))?;
        if !file.metadata().is_ok_and(|data| data.is_file()) {
            return Err(fail("not a file".into()));
        }
        // SAFETY: the map is read-only and lives as long as `content`. A file that another process truncates
        // meanwhile would end this one; weights are written atomically and not edited in place.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| fail(e.to_string()))?;
        Self::of(path, Content::Mapped(map))
    }

    fn of(path: &Path, content: Content) -> Result<Self, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let (mut metadata, mut shards) = (BTreeMap::new(), Vec::new());
        let (format, stored, checksums) = if shards::is_index(path) {
            shards = Self::open_shards(path, &content)?;
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
        let (path, wrapped, mapped) = (path.into(), String::new(), None);
        Ok(Self { path, content, format, stored, checksums, shards, entries, wrapped, mapped, metadata })
    }

    /// Opens the files that the index `path` lists, and compares what they hold with what the index says.
    fn open_shards(path: &Path, text: &[u8]) -> Result<Vec<Self>, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let mut opened = Vec::new();
        for shard in shards::parse(path, text).map_err(fail)? {
            let file = Self::open_unmapped(&shard.path)?;
            shard.compare(&file.entries).map_err(fail)?;
            opened.push(file);
        }
        Ok(opened)
    }

    /// Applies the key mapping of the program that wrote the file, if it uses other names.
    fn with_our_names(mut self) -> Result<Self, WeightFileError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.entries.iter().find(|entry| !seen.insert(&entry.name)) {
            return Err(self.fail(format!("two tensors are called `{}`", twice.name)));
        }
        if self.entries.is_empty() {
            let wrappers = torch::WRAPPERS.join("`, `");
            return Err(self.fail(format!("no tensors found (looked at the top and below `{wrappers}`)")));
        }
        self.wrapped = unwrap(&mut self.entries);
        self.mapped = MappedTensors::of(&self.entries).map_err(|reason| self.fail(reason))?;
        Ok(self)
    }

    /// The path that it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Format of the file: `safetensors`, `pth` or `npz`.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// Size of the file in bytes, including the files that an index lists.
    pub fn bytes(&self) -> usize {
        self.content.len() + self.shards.iter().map(Self::bytes).sum::<usize>()
    }

    /// Names (as used here), shapes and types of the tensors, in file order.
    pub fn entries(&self) -> &[WeightEntry] {
        self.mapped.as_ref().map_or(&self.entries, MappedTensors::entries)
    }

    /// The program whose key mapping is applied; `None` if the file uses the same names as this program.
    pub fn source_program(&self) -> Option<&'static str> {
        self.mapped.as_ref().map(MappedTensors::title)
    }

    /// Tensors that are ignored because no model here has them (projectors, a second encoder, indices), by their names in
    /// the file.
    pub fn unread(&self) -> &[String] {
        self.mapped.as_ref().map_or(&[], MappedTensors::unread)
    }

    /// Metadata of a safetensors file; empty for other formats.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Configuration of the model, from the metadata; `None` for files of other programs.
    ///
    /// # Errors
    /// Metadata that is not the TOML of a model.
    pub fn model(&self) -> Result<Option<ModelConfig>, ConfigError> {
        self.metadata.get(metadata::MODEL).map(|text| parse(text, self.path.display())).transpose()
    }

    /// Reads all tensors, with the names used here, in file order and with the types of the file.
    ///
    /// # Errors
    /// Names a tensor that is damaged.
    pub fn read(&self, device: &Device) -> Result<Vec<(String, Tensor)>, WeightFileError> {
        let mut tensors = self.unmapped(device)?;
        tensors.iter_mut().for_each(|(name, _)| drop(name.drain(..self.wrapped.len())));
        match &self.mapped {
            None => Ok(tensors),
            Some(mapped) => mapped.apply(&tensors).map_err(|e| self.fail(e.to_string())),
        }
    }

    /// Reads all tensors with the names in the file.
    fn unmapped(&self, device: &Device) -> Result<Vec<(String, Tensor)>, WeightFileError> {
        self.check()?;
        let named = |stored: &Stored| Ok((stored.entry.name.clone(), self.tensor(stored, device)?));
        let mut tensors = self.stored.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        for shard in &self.shards {
            tensors.extend(shard.unmapped(device)?);
        }
        Ok(tensors)
    }

    /// Tensors that hold NaN or infinity, by their names in the file.
    ///
    /// # Errors
    /// Names a tensor that is damaged.
    pub fn not_finite(&self) -> Result<Vec<NotFinite>, WeightFileError> {
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

    /// Compares the checksums of the file with its bytes.
    fn check(&self) -> Result<(), WeightFileError> {
        for Checksum { bytes, crc32 } in &self.checksums {
            if crc32fast::hash(&self.content[bytes.clone()]) != *crc32 {
                let of =
                    |stored: &&Stored| bytes.start <= stored.bytes.start && stored.bytes.end <= bytes.end;
                let name = self.stored.iter().find(of).map_or("", |stored| &stored.entry.name);
                let reason =
                    format!("tensor `{name}` is damaged (its CRC-32 differs from the one in the file)");
                return Err(self.fail(reason));
            }
        }
        Ok(())
    }

    fn fail(&self, reason: String) -> WeightFileError {
        WeightFileError { path: self.path.clone(), reason }
    }

    fn tensor(&self, stored: &Stored, device: &Device) -> Result<Tensor, WeightFileError> {
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

/// Removes the prefix of wrappers from all names and returns it.
fn unwrap(entries: &mut [WeightEntry]) -> String {
    let mut taken = String::new();
    let shared = |entries: &[WeightEntry], prefix: &str| entries.iter().all(|e| e.name.starts_with(prefix));
    while let Some(prefix) = WRAPPED.iter().find(|prefix| shared(entries, prefix)) {
        entries.iter_mut().for_each(|entry| drop(entry.name.drain(..prefix.len())));
        taken += prefix;
    }
    taken
}

/// The values of a strided tensor in row-major order; `size` is the size of a value in bytes.
fn gathered(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut places = vec![0];
    for (n, stride) in shape.iter().zip(strides) {
        places = places.iter().flat_map(|place| (0..*n).map(move |i| place + i * stride)).collect();
    }
    places.into_iter().flat_map(|place| &bytes[place * size..][..size]).copied().collect()
}

/// Types of at most one byte that are supported.
const READ: [DType; 2] = [DType::U8, DType::F8E4M3];

/// The tensors of a safetensors file, in the order of their values, and its metadata.
fn safetensors(bytes: &[u8]) -> Result<(Vec<Stored>, BTreeMap<String, String>), String> {
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
            Stored { entry, bytes, strides: None }
        }))
    });
    let about = metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    Ok((stored.collect::<Result<_, _>>()?, about.collect()))
}
