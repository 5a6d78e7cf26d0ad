//! [`MappedTensors`]: the tensors of another program's file after its key mapping is applied.

use super::entry::{WeightEntry, lies_beside};
use super::key_bias::{BIASES, MaskedBias, attention_of};
use super::key_mapping::{ALL, BIG_VISION, DEIT_III, KeyMapping, Part};
use super::{distilled, sincos};
use candle_core::{Device, Result, Tensor};
use std::collections::BTreeSet;

/// Named tensors, in order.
type Tensors = Vec<(String, Tensor)>;
/// Which part of our tensor a tensor of the file is, and its index in the file.
type Place = (Option<Part>, usize);

/// What one of our tensors is made of; numbers are indices of tensors of the file.
#[derive(Debug)]
enum Source {
    /// Tensors that are concatenated along the first dimension.
    Joined(Vec<usize>),
    /// A third of a tensor.
    Bias(MaskedBias),
    /// Zeros.
    Zeros,
}

/// Tensors with the names used here, each made of one or more tensors of the file.
#[derive(Debug)]
pub(super) struct MappedTensors {
    mapping: &'static KeyMapping,
    /// What is before the names of the program in the file.
    prefix: &'static str,
    entries: Vec<WeightEntry>,
    /// For each of `entries`, what it is made of.
    sources: Vec<Source>,
    /// Tensors of the file that are ignored.
    unread: Vec<String>,
    /// Whether a distillation token becomes a register.
    distilled: bool,
    /// Frequencies of positions that the file does not hold.
    frequencies: Option<Tensor>,
}

impl MappedTensors {
    /// `None` if the file uses the names used here, or those of an unknown program.
    ///
    /// # Errors
    /// Names that match two programs, a tensor without a name here, queries without keys or values, a gate without its values,
    /// or two tensors with the same name.
    pub(crate) fn of(entries: &[WeightEntry]) -> std::result::Result<Option<Self>, String> {
        let names: BTreeSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let fits =
            |mapping: &'static KeyMapping| Some((mapping, mapping.prefix(&|name| names.contains(name))?));
        let found: Vec<(&'static KeyMapping, &'static str)> = ALL.iter().filter_map(fits).collect();
        match found.as_slice() {
            [] if lacks_class_alone(entries) => Self::new(&DEIT_III, "", entries).map(Some),
            [] => Ok(None),
            [(mapping, prefix)] => Self::new(mapping, prefix, entries).map(Some),
            [(first, _), (second, _), ..] => Err(format!(
                "the tensor names match both {} and {}; the program cannot be determined",
                first.title, second.title
            )),
        }
    }

    fn new(
        mapping: &'static KeyMapping,
        prefix: &'static str,
        entries: &[WeightEntry],
    ) -> std::result::Result<Self, String> {
        let title = mapping.title;
        let mut taken: Vec<(String, Vec<Place>)> = Vec::new();
        let mut mapped = Self {
            mapping,
            prefix,
            entries: vec![],
            sources: vec![],
            unread: vec![],
            distilled: false,
            frequencies: None,
        };
        for (i, entry) in entries.iter().enumerate() {
            let Some((name, part)) = mapping.ours(prefix, &entry.name) else {
                if mapped.ignores(&entry.name) {
                    mapped.unread.push(entry.name.clone());
                    continue;
                }
                return Err(format!("`{}` is not a known tensor of {title}", entry.name));
            };
            match taken.iter_mut().find(|(known, _)| *known == name) {
                Some((_, parts)) => parts.push((part, i)),
                None => taken.push((name, vec![(part, i)])),
            }
        }
        for (name, mut parts) in taken {
            parts.sort_unstable();
            let whole = match parts.as_slice() {
                [(None, _)] => true,
                [(Some((0, of)), _), ..] if parts.len() == *of => {
                    parts.iter().enumerate().all(|(i, (part, _))| *part == Some((i, *of)))
                }
                _ => false,
            };
            if !whole {
                let held: Vec<&str> = parts.iter().map(|(_, i)| entries[*i].name.as_str()).collect();
                return Err(format!("`{name}` cannot be made from `{}` alone", held.join("`, `")));
            }
            let parts: Vec<usize> = parts.into_iter().map(|(_, i)| i).collect();
            let first = &entries[parts[0]];
            if let Some(other) = parts.iter().find(|i| entries[**i].shape != first.shape) {
                let other = &entries[*other];
                return Err(format!(
                    "`{}` has shape {:?} and `{}` {:?}",
                    first.name, first.shape, other.name, other.shape
                ));
            }
            let mut shape = first.shape.clone();
            if let Some(rows) = shape.first_mut() {
                *rows = rows.saturating_mul(parts.len());
            }
            mapped.entries.push(WeightEntry { name, shape, dtype: first.dtype });
            mapped.sources.push(Source::Joined(parts));
        }
        if mapping.without_key_bias() {
            mapped.separate_biases();
        }
        mapped.distilled = distilled::fold_entries(&mut mapped.entries)?;
        mapped.frequencies = frequencies(title, &mapped.entries).map_err(|e| e.to_string())?;
        if let Some(frequencies) = &mapped.frequencies {
            let (name, shape) = (sincos::FREQUENCIES.into(), frequencies.dims().to_vec());
            mapped.entries.push(WeightEntry { name, shape, dtype: frequencies.dtype() });
        }
        if !mapped.distilled && lacks_class_alone(&mapped.entries) {
            let positions = mapped.entries.iter_mut().filter(|entry| lacks_class(&entry.name, &entry.shape));
            positions.for_each(|entry| entry.shape[1] += 1);
        }
        Ok(mapped)
    }

    /// Replaces the biases of queries, keys and values by those of queries and of values, which are zeros where the file has
    /// none.
    fn separate_biases(&mut self) {
        let weights = self.entries.clone();
        for weight in &weights {
            let Some(attention) = attention_of(weight) else { continue };
            let mut take = |end: &str| {
                let place =
                    self.entries.iter().position(|entry| entry.name == format!("{attention}{end}"))?;
                self.entries.remove(place);
                match self.sources.remove(place) {
                    Source::Joined(parts) => parts.first().copied(),
                    _ => None,
                }
            };
            let (bias, mask) = (take("qkv.bias"), take("qkv.bias_mask"));
            for (end, third) in BIASES {
                let (name, shape, dtype) =
                    (format!("{attention}{end}"), vec![weight.shape[0] / 3], weight.dtype);
                if self.entries.iter().any(|entry| entry.name == name) {
                    continue;
                }
                self.entries.push(WeightEntry { name, shape, dtype });
                self.sources.push(match bias {
                    Some(bias) => Source::Bias(MaskedBias { bias, mask, third }),
                    None => Source::Zeros,
                });
            }
        }
    }

    /// Whether the program has the tensor `name` of the file beside the model, so that it is ignored.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        self.mapping.ignores(self.prefix, name) || lies_beside(name) && !self.mapping.owns(name)
    }

    /// Name of the program that wrote the file.
    pub(crate) fn title(&self) -> &'static str {
        self.mapping.title
    }

    /// Tensors of the file that are ignored, by their names in the file.
    pub(crate) fn unread(&self) -> &[String] {
        &self.unread
    }

    /// Names as used here, shapes and types.
    pub(crate) fn entries(&self) -> &[WeightEntry] {
        &self.entries
    }

    /// Makes our tensors from the `tensors` of the file, which are in the order of the file.
    pub(crate) fn apply(&self, tensors: &[(String, Tensor)]) -> Result<Tensors> {
        let joined = |(entry, source): (&WeightEntry, &Source)| {
            let parts = match source {
                Source::Joined(parts) => parts.as_slice(),
                Source::Bias(bias) => return Ok((entry.name.clone(), bias.read(tensors)?)),
                Source::Zeros => {
                    let device = tensors.first().map_or(&Device::Cpu, |(_, tensor)| tensor.device());
                    return Ok((entry.name.clone(), Tensor::zeros(&*entry.shape, entry.dtype, device)?));
                }
            };
            let tensor = match parts {
                [one]
                    if entry.name == "pos_embed"
                        && !self.distilled
                        && tensors[*one].1.dims() != entry.shape =>
                {
                    tensors[*one].1.pad_with_zeros(1, 1, 0)?
                }
                [one] => tensors[*one].1.clone(),
                parts => Tensor::cat(&parts.iter().map(|i| &tensors[*i].1).collect::<Vec<_>>(), 0)?,
            };
            Ok((entry.name.clone(), tensor))
        };
        let mut tensors: Tensors =
            self.entries.iter().zip(&self.sources).map(joined).collect::<Result<_>>()?;
        if self.distilled {
            distilled::fold(&mut tensors)?;
        }
        let frequencies = self.frequencies.iter().map(|tensor| (sincos::FREQUENCIES.into(), tensor.clone()));
        tensors.extend(frequencies);
        Ok(tensors)
    }
}

/// Frequencies of the positions of a model of big_vision without position embeddings; `None` for others.
fn frequencies(title: &str, entries: &[WeightEntry]) -> Result<Option<Tensor>> {
    let find = |name: &str| entries.iter().find(|entry| entry.name == name);
    let width = find("patch_embed.proj.bias").map(|bias| bias.count());
    match (title == BIG_VISION.title, find("pos_embed"), width) {
        (true, None, Some(width)) => sincos::frequencies(width),
        _ => Ok(None),
    }
}

/// Whether `name` holds position embeddings without one for the class token, as in DeiT III; a zero embedding is
/// equivalent. Of n² and n² + 1 rows, only one can be a square number.
fn lacks_class(name: &str, shape: &[usize]) -> bool {
    let square = |n: usize| n > 1 && n.isqrt() * n.isqrt() == n;
    name == "pos_embed" && shape.len() == 3 && square(shape[1])
}

/// Whether a file holds such position embeddings, by the names used here. Only models with layer scale (DeiT III, DINOv2 of
/// timm) are considered, because images of other models need not be square: their grid is known when they are loaded.
fn lacks_class_alone(entries: &[WeightEntry]) -> bool {
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    has("cls_token") && has("blocks.0.gamma_1") && entries.iter().any(|e| lacks_class(&e.name, &e.shape))
}

/// Renames our `tensors` to the names of another program. Also returns the names of tensors that have no name there.
pub(super) fn renamed(mapping: &KeyMapping, tensors: &[(String, Tensor)]) -> Result<(Tensors, Vec<String>)> {
    let (mut renamed, mut left) = (Vec::new(), Vec::new());
    for (name, tensor) in tensors {
        let theirs = mapping.theirs(name);
        if theirs.is_empty() {
            left.push(name.clone());
        }
        for (theirs, part) in theirs {
            let tensor = match part {
                None => tensor.clone(),
                Some((part, of)) => {
                    let rows = tensor.dim(0)? / of;
                    tensor.narrow(0, part * rows, rows)?.contiguous()?
                }
            };
            renamed.push((theirs, tensor));
        }
    }
    Ok((renamed, left))
}
