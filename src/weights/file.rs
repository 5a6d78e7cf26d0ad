//! [`WeightFile`]: a file of named tensors, whose format is recognized by content. Sizes that the file states are checked
//! against its length before memory is allocated for them.

use super::content::{Content, from_latin1, gathered};
use super::entry::{Checksum, Located, Stored, Unusable, WeightEntry};
use super::error::WeightFileError;
use super::finite::NotFinite;
use super::mapped::MappedTensors;
use super::parsed::Parsed;
use super::state_dicts::{KEY, Reading, StateDicts, split_state_dict};
use super::unmerged::unmerged;
use super::{metadata, shards};
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
    /// Tensors that are of no use.
    unusable: Vec<Unusable>,
    /// What the file is, if it holds weights in parts, which are no model as they are.
    unmerged: Option<&'static str>,
    /// Key of the state dict that is read; empty if it is the file as a whole.
    key: String,
    /// Keys of other models in the file.
    others: Vec<String>,
    /// Names in a pickle that weights do not need.
    strangers: Vec<String>,
    mapped: Option<MappedTensors>,
    metadata: BTreeMap<String, String>,
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
        Self::of(path, Content::held(bytes), Reading::Model(None))?.with_our_names()
    }

    fn of(path: &Path, content: Content, reading: Reading) -> Result<Self, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let name = path.to_string_lossy();
        let place = Path::new(split_state_dict(&name).0);
        let mut parsed = match shards::is_index(place) {
            true => Parsed::default(),
            false => Parsed::of(&content, |dicts| reading.choose(dicts)).map_err(fail)?,
        };
        let shards = if shards::is_index(place) { Self::open_shards(place, &content)? } else { vec![] };
        if let Some(first) = shards.first() {
            parsed.format = first.format;
        }
        let mut content = content;
        content.add_unpacked(std::mem::take(&mut parsed.located.unpacked));
        Self::chosen(path, content, parsed, shards, &reading)
    }

    /// Chooses the state dict of the file.
    fn chosen(
        path: &Path,
        content: Content,
        parsed: Parsed,
        shards: Vec<Self>,
        reading: &Reading,
    ) -> Result<Self, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let Parsed { format, located, metadata, strangers, dicts } = parsed;
        let Located { stored, checksums, mut unusable, .. } = located;
        unusable.extend(shards.iter().flat_map(|shard| shard.unusable.iter().cloned()));
        let own = stored.iter().map(|stored| &stored.entry);
        let all: Vec<&WeightEntry> = own.chain(shards.iter().flat_map(|shard| &shard.entries)).collect();
        let mut seen = BTreeSet::new();
        if let Some(twice) = all.iter().find(|entry| !seen.insert(&entry.name)) {
            return Err(fail(format!("two tensors are called `{}`", twice.name)));
        }
        if all.is_empty() {
            return Err(fail(match unusable.as_slice() {
                [] => "no tensors found".into(),
                some => format!("no usable tensors found: {}", Unusable::listed(some)),
            }));
        }
        let as_is = matches!(reading, Reading::AsIs);
        let dicts = match dicts {
            Some(dicts) => Some(dicts),
            None if as_is => None,
            None => {
                let names =
                    all.iter().map(|entry| &entry.name).chain(unusable.iter().map(|tensor| &tensor.name));
                let mut dicts = StateDicts::new(vec![(String::new(), names.cloned().collect())]);
                let chosen = reading.choose(&dicts).map_err(fail)?;
                let places: Vec<usize> = (all.len()..all.len() + unusable.len()).collect();
                for (tensor, name) in unusable.iter_mut().zip(dicts.forget(chosen, &places)) {
                    *tensor = match name {
                        Some(name) => Unusable::new(name, tensor.reason.clone()),
                        None => Unusable { beside: true, ..tensor.clone() },
                    };
                }
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
            unusable,
            unmerged: None,
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
            shard.compare(&file.entries, &file.unusable).map_err(fail)?;
            opened.push(file);
        }
        Ok(opened)
    }

    /// Applies the key mapping of the program that wrote the file, if it uses other names.
    fn with_our_names(mut self) -> Result<Self, WeightFileError> {
        self.unmerged = unmerged(self.entries.iter().map(|entry| entry.name.as_str()));
        self.mapped = match MappedTensors::of(&self.entries) {
            _ if self.unmerged.is_some() => None,
            Ok(mapped) => mapped,
            Err(_) if self.unusable.iter().any(|tensor| !tensor.beside) => None, // reading names it
            Err(reason) => return Err(self.fail(reason)),
        };
        if let Some(mapped) = &self.mapped {
            let unusable = self.unusable.iter_mut();
            unusable.for_each(|tensor| tensor.beside |= mapped.ignores(&tensor.name));
        }
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

    /// What the file is, and what to do about it, if it holds parts from which the weights would have to be computed.
    pub fn unmerged(&self) -> Option<&'static str> {
        self.unmerged
    }

    /// Tensors that are in a form which is not read: quantized, sparse, complex, objects.
    pub fn unusable(&self) -> &[Unusable] {
        &self.unusable
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

    /// Checks that no tensor that a model may need is in parts, or in a form that is not read.
    ///
    /// # Errors
    /// Says what the file is, or names the tensors that are of no use and do not lie beside the model.
    pub fn check_usable(&self) -> Result<(), WeightFileError> {
        let needed: Vec<Unusable> = self.unusable.iter().filter(|tensor| !tensor.beside).cloned().collect();
        match (self.unmerged, needed.as_slice()) {
            (Some(what), _) => Err(self.fail(format!("this is {what}"))),
            (_, []) => Ok(()),
            (_, some) => {
                Err(self.fail(format!("a model may need what is of no use: {}", Unusable::listed(some))))
            }
        }
    }

    /// Reads all tensors, with the names used here, in file order and with the types of the file.
    ///
    /// # Errors
    /// Names a tensor that is damaged; the errors of [`Self::check_usable`].
    pub fn read(&self, device: &Device) -> Result<Vec<(String, Tensor)>, WeightFileError> {
        self.check_usable()?;
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
            if crc32fast::hash(self.content.at(bytes.clone())) != *crc32 {
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
        let mut bytes = Cow::Borrowed(self.content.at(range.clone()));
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
