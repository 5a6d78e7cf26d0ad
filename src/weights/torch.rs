//! Files of `torch.save` (PyTorch 1.6 and later): a zip archive of a pickle and of the values of its tensors.
//!
//! Supported are a state dict, at the top level or under one of the keys [`WRAPPERS`], and a pickled `torch.nn.Module`, as
//! OpenAI publishes its dVAE; its tensors get the names that its state dict would have.

use super::archive::Archive;
use super::entry::{Checksum, Located, Stored, WeightEntry};
use super::pickle::{MOST_BYTES, Pickle, Place, Value};
use candle_core::DType;
use std::collections::BTreeMap;
use std::ops::Range;

/// Keys under which a file may hold its state dict.
pub(super) const WRAPPERS: [&str; 4] = ["model", "state_dict", "module", "teacher"];
/// Maximum nesting depth of modules.
const MOST_LEVELS: usize = 64;
/// Maximum number of modules in a file; a shared module counts each time.
const MOST_MODULES: usize = 100_000;

/// PyTorch's names for the types of values.
const STORAGES: [(&str, DType); 9] = [
    ("FloatStorage", DType::F32),
    ("DoubleStorage", DType::F64),
    ("HalfStorage", DType::F16),
    ("BFloat16Storage", DType::BF16),
    ("ByteStorage", DType::U8),
    ("BoolStorage", DType::U8),
    ("ShortStorage", DType::I16),
    ("IntStorage", DType::I32),
    ("LongStorage", DType::I64),
];

/// The tensors of the file `bytes` and the checksums of the parts of the archive that hold them.
///
/// # Errors
/// A file that is truncated or damaged, that refers to functions that weights do not need, or whose tensors do not fit
/// their values.
pub(super) fn parse(bytes: &[u8]) -> Result<Located, String> {
    let mut archive = Archive::open(bytes)?;
    let is_pickle = |name: &&String| name.as_str() == "data.pkl" || name.ends_with("/data.pkl");
    let pickles: Vec<String> = archive.names.iter().filter(is_pickle).cloned().collect();
    let [name] = pickles.as_slice() else {
        return Err(format!("{} files `data.pkl` in the archive, expected 1", pickles.len()));
    };
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();
    let pickle = archive.read(name, MOST_BYTES)?;
    let order = format!("{folder}byteorder");
    if archive.names.contains(&order) && archive.read(&order, MOST_BYTES)? == b"big" {
        return Err("its values are big-endian".into());
    }
    let pickle = Pickle::parse(&pickle)?;
    Parts { archive, folder, pickle: &pickle, found: BTreeMap::new() }.stored()
}

/// An archive while its tensors are located.
struct Parts<'a, 'p> {
    archive: Archive<'a>,
    folder: &'a str,
    pickle: &'p Pickle<'p>,
    /// Checksums by storage key.
    found: BTreeMap<&'p str, Checksum>,
}

impl<'p> Parts<'_, 'p> {
    fn stored(mut self) -> Result<Located, String> {
        let root = self.pickle.root();
        let top = self.pickle.named(root).unwrap_or_default();
        let wrapped = WRAPPERS.iter().filter_map(|key| top.iter().find(|(name, _)| name == key));
        for place in wrapped.map(|(_, place)| *place).chain([root]) {
            let stored = self.tensors(place)?;
            if !stored.is_empty() {
                return Ok((stored, self.found.into_values().collect()));
            }
        }
        Ok((vec![], vec![]))
    }

    /// The tensors of the state dict or module at `place`.
    fn tensors(&mut self, place: Place) -> Result<Vec<Stored>, String> {
        let mut named = Vec::new();
        match self.pickle.named(place) {
            Some(entries) => named.extend(entries.into_iter().map(|(name, place)| (name.to_string(), place))),
            None => walk(self.pickle, place, "", 0, &mut 0, &mut named)?,
        }
        let mut stored = Vec::new();
        for (name, place) in named {
            if let Some(view) = View::of(self.pickle, place).map_err(|e| format!("tensor `{name}`: {e}"))? {
                stored.push(self.place(&name, &view).map_err(|e| format!("tensor `{name}`: {e}"))?);
            }
        }
        Ok(stored)
    }

    fn place(&mut self, name: &str, view: &View<'p>) -> Result<Stored, String> {
        let part = self.part(view.key)?;
        let size = view.dtype.size_in_bytes();
        let available = (part.end - part.start) / size;
        let last = view.last().filter(|last| *last < available);
        let count = view.shape.iter().try_fold(1usize, |count, n| count.checked_mul(*n));
        let bytes = match (count, last) {
            (Some(0), _) => part.start..part.start,
            // No more values than the storage has: a small file must not expand to a large tensor.
            (Some(count), Some(last)) if count <= available => {
                part.start + view.start * size..part.start + (last + 1) * size
            }
            _ => {
                let shape = &view.shape;
                return Err(format!(
                    "shape {shape:?} from value {} on exceeds the storage of {available} values",
                    view.start
                ));
            }
        };
        let entry = WeightEntry { name: name.into(), shape: view.shape.clone(), dtype: view.dtype };
        Ok(Stored { entry, bytes, strides: view.strides() })
    }

    /// The byte range of the storage `key`.
    fn part(&mut self, key: &'p str) -> Result<Range<usize>, String> {
        if let Some(part) = self.found.get(key) {
            return Ok(part.bytes.clone());
        }
        let part = self.archive.part(&format!("{}data/{key}", self.folder))?;
        Ok(self.found.entry(key).or_insert(part).bytes.clone())
    }
}

/// Collects the parameters and buffers of a module and its submodules.
fn walk(
    pickle: &Pickle,
    place: Place,
    prefix: &str,
    level: usize,
    modules: &mut usize,
    found: &mut Vec<(String, Place)>,
) -> Result<(), String> {
    *modules += 1;
    if level > MOST_LEVELS || *modules > MOST_MODULES {
        return Err(format!(
            "modules are nested more than {MOST_LEVELS} deep, or there are more than {MOST_MODULES}"
        ));
    }
    let Value::Call { state: Some(state), .. } = pickle.value(place) else { return Ok(()) };
    for (key, members) in pickle.named(*state).unwrap_or_default() {
        for (name, member) in pickle.named(members).unwrap_or_default() {
            match key {
                "_parameters" | "_buffers" => found.push((format!("{prefix}{name}"), member)),
                "_modules" => walk(pickle, member, &format!("{prefix}{name}."), level + 1, modules, found)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// A tensor as the pickle describes it: a view of a storage.
struct View<'p> {
    /// Key of the storage.
    key: &'p str,
    dtype: DType,
    /// Offset of the first value.
    start: usize,
    shape: Vec<usize>,
    steps: Vec<usize>,
}

impl<'p> View<'p> {
    /// The tensor at `place`; `None` if it is something else.
    fn of(pickle: &'p Pickle, place: Place) -> Result<Option<Self>, String> {
        let Value::Call { mut callable, mut arguments, .. } = *pickle.value(place) else { return Ok(None) };
        for _ in 0..4 {
            let Value::Name { module: "torch._utils" | "torch._tensor", name } = *pickle.value(callable)
            else {
                return Ok(None);
            };
            let given = pickle.items(arguments).unwrap_or_default();
            (callable, arguments) = match (name, given) {
                ("_rebuild_tensor_v2", [storage, start, shape, steps, ..]) => {
                    return Self::new(pickle, *storage, [*start, *shape, *steps]).map(Some);
                }
                ("_rebuild_parameter", [tensor, ..]) => match *pickle.value(*tensor) {
                    Value::Call { callable, arguments, .. } => (callable, arguments),
                    _ => break,
                },
                ("_rebuild_from_type_v2", [callable, _, arguments, ..]) => (*callable, *arguments),
                _ => break,
            };
        }
        Err("not in the format that PyTorch writes".into())
    }

    fn new(pickle: &'p Pickle, storage: Place, [start, shape, steps]: [Place; 3]) -> Result<Self, String> {
        let sizes =
            |place| pickle.items(place)?.iter().map(|size| pickle.size(*size)).collect::<Option<Vec<_>>>();
        let outside = match pickle.value(storage) {
            Value::Outside(id) => pickle.items(*id),
            _ => None,
        };
        let view = || {
            let [_, kind, key, ..] = outside? else { return None };
            let Value::Name { name, .. } = pickle.value(*kind) else { return None };
            Some((*name, pickle.text(*key)?, pickle.size(start)?, sizes(shape)?, sizes(steps)?))
        };
        let (kind, key, start, shape, steps) = view().ok_or("not in the format that PyTorch writes")?;
        if shape.len() != steps.len() {
            return Err(format!("{} dimensions and {} strides", shape.len(), steps.len()));
        }
        let (_, dtype) = STORAGES
            .iter()
            .find(|(name, _)| *name == kind)
            .ok_or(format!("a {kind}, which is not supported"))?;
        Ok(Self { key, dtype: *dtype, start, shape, steps })
    }

    /// Offset of its last value; `None` if it does not fit into a `usize`.
    fn last(&self) -> Option<usize> {
        let along = self.shape.iter().zip(&self.steps);
        along
            .map(|(n, step)| n.checked_sub(1)?.checked_mul(*step))
            .try_fold(self.start, |at, far| at.checked_add(far?))
    }

    /// Strides in values; `None` if the tensor is contiguous.
    fn strides(&self) -> Option<Vec<usize>> {
        let mut count = 1usize;
        let ordered = self.shape.iter().zip(&self.steps).rev().all(|(n, step)| {
            let fits = *n <= 1 || *step == count;
            count = count.saturating_mul(*n);
            fits
        });
        (!ordered).then(|| self.steps.clone())
    }
}

#[cfg(test)]
mod tests;
