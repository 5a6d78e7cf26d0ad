//! [`WeightFile`]: a file of named tensors, whose format is recognized by content. Sizes that the file states are checked
//! against its length before memory is allocated for them.

use super::content::{Content, from_latin1, gathered};
use super::entry::{Checksum, Stored, WeightEntry};
use super::error::WeightFileError;
use super::finite::NotFinite;
use super::mapped::MappedTensors;
use super::state_dicts::{KEY, Reading, StateDicts, split_state_dict};
use super::torch::{self, TorchFile};
use super::{metadata, npz, numpy_pickle, safetensors_header, shards};
use crate::config::{ConfigError, ModelConfig, parse};
use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// An open weight file; tensors are read on request. Names are those used here, whatever program wrote the file.
pub struct WeightFile {
    path: PathBuf,
    content: Content,
    format: &'static str,
    stored: Vec<Stored>,
    checksums: Vec<Checksum>,
    /// The files that an index lists; the index itself has no tensors.
    shards: Vec<WeightFile>,
    /// Entries of the state dict, with the names that its program gave them.
    entries: Vec<WeightEntry>,
    /// For each stored tensor, including those of shards, its place in `entries`; `None` for tensors beside the state dict.
    places: Vec<Option<usize>>,
    /// Tensors that are not read, by their names in the file.
    unread: Vec<String>,
    /// Key of the state dict that is read; empty if it is the file as a whole.
    key: String,
    /// Keys of other models in the file.
    others: Vec<String>,
    /// Names in a pickle that weights do not need.
    strangers: Vec<String>,
    mapped: Option<MappedTensors>,
    metadata: BTreeMap<String, String>,
}

/// What [`WeightFile::of`] reads from a file.
struct Parsed {
    format: &'static str,
    stored: Vec<Stored>,
    checksums: Vec<Checksum>,
    shards: Vec<WeightFile>,
    metadata: BTreeMap<String, String>,
    strangers: Vec<String>,
    /// The state dicts and the chosen one; `None` if the tensors are read as they are.
    dicts: Option<(StateDicts, usize)>,
}

impl Parsed {
    /// Takes what a file of PyTorch or another pickle holds.
    fn hold(&mut self, format: &'static str, found: TorchFile) {
        (self.format, self.strangers) = (format, found.strangers);
        (self.stored, self.checksums) = found.located;
        self.dicts = Some((found.dicts, found.chosen));
    }
}

impl WeightFile {
    /// Opens `path`: a safetensors file, an index of several files, a zip-format `.pth`, an `.npz`, or a `.pkl` of NumPy
    /// arrays. If a file holds several state dicts, `FILE#KEY` names one of them, such as `checkpoint.pth#model_ema`.
    ///
    /// # Errors
    /// Names the file and what is wrong: missing, truncated, in an unknown format, without tensors, or with several state
    /// dicts of which none is preferred.
    pub fn open(path: &Path) -> Result<Self, WeightFileError> {
        let name = path.to_string_lossy();
        let (file, key) = split_state_dict(&name);
        let content = match key {
            Some(_) => Content::open(Path::new(file)),
            None => Content::open(path),
        };
        Self::of(path, content?, Reading::Model(key))?.with_our_names()
    }

    /// Opens a file of this program and keeps all tensors and their names as they are.
    ///
    /// # Errors
    /// The errors of [`Self::open`].
    pub fn open_as_is(path: &Path) -> Result<Self, WeightFileError> {
        Self::of(path, Content::open(path)?, Reading::AsIs)
    }

    /// Parses a file that is already in memory; `path` is its name in messages.
    ///
    /// # Errors
    /// The errors of [`Self::open`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, WeightFileError> {
        Self::of(path, Content::Held(bytes), Reading::Model(None))?.with_our_names()
    }

    fn of(path: &Path, content: Content, reading: Reading) -> Result<Self, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let unreadable = |e: String| fail(format!("PyTorch or NumPy zip file cannot be read: {e}"));
        let mut parsed = Parsed {
            format: "safetensors",
            stored: vec![],
            checksums: vec![],
            shards: vec![],
            metadata: BTreeMap::new(),
            strangers: vec![],
            dicts: None,
        };
        let choose = |dicts: &StateDicts| reading.choose(dicts);
        let name = path.to_string_lossy();
        let place = Path::new(split_state_dict(&name).0);
        if shards::is_index(place) {
            parsed.shards = Self::open_shards(place, &content)?;
            parsed.format = parsed.shards.first().map_or("safetensors", |shard| shard.format);
        } else if content.starts_with(b"PK\x03\x04") {
            match npz::parse(&content).map_err(unreadable)? {
                Some((stored, sums)) => {
                    (parsed.format, parsed.stored, parsed.checksums) = ("npz", stored, sums);
                }
                None => parsed.hold("pth", torch::parse(&content, choose).map_err(fail)?),
            }
        } else if content.get(8) == Some(&b'{') {
            let found = safetensors_header::parse(&content);
            (parsed.stored, parsed.metadata) =
                found.map_err(|e| fail(format!("truncated or corrupt safetensors file: {e}")))?;
        } else if content.starts_with(&[0x80]) {
            parsed.hold("pkl", numpy_pickle::parse(&content, choose).map_err(fail)?);
        } else {
            return Err(fail("neither a .safetensors nor a PyTorch zip file, nor an .npz or .pkl".into()));
        }
        Self::chosen(path, content, parsed, &reading)
    }

    /// Chooses the state dict of the file.
    fn chosen(
        path: &Path,
        content: Content,
        parsed: Parsed,
        reading: &Reading,
    ) -> Result<Self, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let Parsed { format, stored, checksums, shards, metadata, strangers, dicts } = parsed;
        let own = stored.iter().map(|stored| &stored.entry);
        let all: Vec<&WeightEntry> = own.chain(shards.iter().flat_map(|shard| &shard.entries)).collect();
        let mut seen = BTreeSet::new();
        if let Some(twice) = all.iter().find(|entry| !seen.insert(&entry.name)) {
            return Err(fail(format!("two tensors are called `{}`", twice.name)));
        }
        if all.is_empty() {
            return Err(fail("no tensors found".into()));
        }
        let as_is = matches!(reading, Reading::AsIs);
        let dicts = match dicts {
            Some(dicts) => Some(dicts),
            None if as_is => None,
            None => {
                let names = all.iter().map(|entry| entry.name.clone()).collect();
                let dicts = StateDicts::new(vec![(String::new(), names)]);
                let chosen = reading.choose(&dicts).map_err(fail)?;
                Some((dicts, chosen))
            }
        };
        let (mut entries, mut places, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        let names = dicts.as_ref().filter(|_| !as_is).map(|(dicts, chosen)| dicts.names(*chosen));
        let known = dicts.as_ref().is_some_and(|(dicts, chosen)| dicts.is_known(*chosen));
        for (i, entry) in all.iter().enumerate() {
            let name = names.as_ref().map_or_else(|| Some(entry.name.clone()), |names| names[i].clone());
            match name.filter(|_| as_is || !(known && entry.is_counter())) {
                Some(name) => {
                    places.push(Some(entries.len()));
                    entries.push(WeightEntry { name, ..(*entry).clone() });
                }
                None => {
                    places.push(None);
                    unread.push(entry.name.clone());
                }
            }
        }
        let (key, others) = dicts.map_or_else(Default::default, |(dicts, chosen)| {
            (dicts.key(chosen).to_string(), dicts.others(chosen))
        });
        let (path, mapped) = (path.into(), None);
        Ok(Self {
            path,
            content,
            format,
            stored,
            checksums,
            shards,
            entries,
            places,
            unread,
            key,
            others,
            strangers,
            mapped,
            metadata,
        })
    }

    /// Opens the files that the index `path` lists, and compares what they hold with what the index says.
    fn open_shards(path: &Path, text: &[u8]) -> Result<Vec<Self>, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let mut opened = Vec::new();
        for shard in shards::parse(path, text).map_err(fail)? {
            let file = Self::open_as_is(&shard.path)?;
            shard.compare(&file.entries).map_err(fail)?;
            opened.push(file);
        }
        Ok(opened)
    }

    /// Applies the key mapping of the program that wrote the file, if it uses other names.
    fn with_our_names(mut self) -> Result<Self, WeightFileError> {
        self.mapped = MappedTensors::of(&self.entries).map_err(|reason| self.fail(reason))?;
        self.unread.extend(self.mapped.iter().flat_map(|mapped| mapped.unread().iter().cloned()));
        Ok(self)
    }

    /// The path that it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Format of the file: `safetensors`, `pth`, `npz` or `pkl`.
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

    /// Tensors that are ignored because they lie beside the model, or because no model here has them (counters, projectors, a
    /// second encoder, indices).
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// Key of the state dict that is read, such as `model`; empty if the file holds one at its top.
    pub fn state_dict(&self) -> &str {
        &self.key
    }

    /// Keys of other models in the file, such as an average of the weights over training.
    pub fn other_state_dicts(&self) -> &[String] {
        &self.others
    }

    /// Classes and functions to which the pickle of a file refers and which weights do not need. They are ignored, and
    /// nothing is run.
    pub fn strangers(&self) -> &[String] {
        &self.strangers
    }

    /// Says which of several models in the file is read, and how another one is chosen; `None` if there is one.
    pub fn choice_of_state_dict(&self) -> Option<String> {
        let others = self.others.join("`, `");
        let taken = if self.key.is_empty() { "the one at the top of the file" } else { &self.key };
        let first = self.others.first()?;
        Some(format!(
            "of several models in the file, `{taken}` is read; it also holds `{others}` (FILE{KEY}{first})"
        ))
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
        let stored = self.unmapped(device)?.into_iter().zip(&self.places);
        let named = |((_, tensor), place): ((String, Tensor), &Option<usize>)| {
            place.map(|place| (self.entries[place].name.clone(), tensor))
        };
        let tensors: Vec<(String, Tensor)> = stored.filter_map(named).collect();
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
        let Stored { entry: WeightEntry { name, shape, dtype }, bytes: range, strides, latin1 } = stored;
        let mut bytes = Cow::Borrowed(&self.content[range.clone()]);
        if *latin1 {
            bytes = from_latin1(&bytes).into();
        }
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
