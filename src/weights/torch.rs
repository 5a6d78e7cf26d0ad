//! Files of `torch.save` (PyTorch 1.6 and later): a zip archive of a pickle and of the values of its tensors.
//!
//! A file may hold state dicts at any key, and modules (`torch.nn.Module`, as OpenAI publishes its dVAE), whose tensors get
//! the names that a state dict would have. The caller chooses one of them by its names ([`StateDicts`]).

use super::archive::Archive;
use super::entry::{Checksum, Located, Stored, WeightEntry};
use super::numpy_array::{self, is_array};
use super::pickle::{MOST_BYTES, Pickle, Place, Value};
use super::search::{Search, locate};
use super::state_dicts::StateDicts;
use candle_core::DType;
use std::collections::BTreeMap;
use std::ops::Range;

/// Number of keys that an error shows.
const SHOWN: usize = 8;

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

/// What a file of PyTorch holds, or another pickle.
pub(super) struct TorchFile {
    /// The tensors of the chosen state dict and the checksums of the parts of the archive that hold them.
    pub located: Located,
    /// The index of the chosen state dict among all of them.
    pub chosen: usize,
    /// All state dicts.
    pub dicts: StateDicts,
    /// Names of classes and functions that weights do not need; they are ignored.
    pub strangers: Vec<String>,
}

/// Reads the file `bytes`; `choose` says which of its state dicts is read.
///
/// # Errors
/// A file that is truncated or damaged, that holds no tensors, or whose tensors do not fit their values; the errors of
/// `choose`.
pub(super) fn parse(
    bytes: &[u8],
    choose: impl FnOnce(&StateDicts) -> Result<usize, String>,
) -> Result<TorchFile, String> {
    let unreadable = |e: String| format!("PyTorch or NumPy zip file cannot be read: {e}");
    let mut archive = Archive::open(bytes).map_err(unreadable)?;
    let is_pickle = |name: &&String| name.as_str() == "data.pkl" || name.ends_with("/data.pkl");
    let pickles: Vec<String> = archive.names.iter().filter(is_pickle).cloned().collect();
    let [name] = pickles.as_slice() else {
        return Err(unreadable(format!("{} files `data.pkl` in the archive, expected 1", pickles.len())));
    };
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();
    let (place, bytes) = archive.read(name, MOST_BYTES).map_err(unreadable)?;
    let order = format!("{folder}byteorder");
    if archive.names.contains(&order) && archive.read(&order, MOST_BYTES).map_err(unreadable)?.1 == b"big" {
        return Err(unreadable("its values are big-endian".into()));
    }
    let pickle = Pickle::parse(&bytes).map_err(unreadable)?;
    let mut search =
        Search::new(&pickle, |pickle, place| is_tensor(pickle, place) || is_array(pickle, place));
    search.visit(pickle.root(), "", 0).map_err(unreadable)?;
    let (found, strangers) = (search.found, pickle.strangers());
    if found.is_empty() {
        return Err(format!("no tensors found: {}", content(&pickle, &strangers)));
    }
    let mut dicts = StateDicts::of_members(&found);
    let chosen = choose(&dicts)?;
    let mut parts = Parts { archive, folder, pickle: &pickle, found: BTreeMap::new() };
    let (mut located, mut arrays) = (Located::default(), Vec::new());
    let members = &found[dicts.group(chosen)].1;
    let read = |name: &str, at: Place| {
        if is_tensor(&pickle, at) {
            return parts.tensor(name, at);
        }
        let array = numpy_array::stored(&pickle, at, name, &bytes);
        arrays.extend(array.clone().ok());
        let moved = |range: Range<usize>| place.start + range.start..place.start + range.end;
        Ok(array.map(|array| Stored { bytes: moved(array.bytes), ..array }))
    };
    locate(members, &mut located, (&mut dicts, chosen), read).map_err(unreadable)?;
    numpy_array::refuse_shared(&arrays, bytes.len()).map_err(unreadable)?;
    located.checksums = parts.found.into_values().collect();
    located.unpacked = parts.archive.into_unpacked();
    Ok(TorchFile { located, chosen, dicts, strangers })
}

/// Describes what a pickle without tensors holds.
pub(super) fn content(pickle: &Pickle, strangers: &[String]) -> String {
    let root = pickle.root();
    let held = match (pickle.named(root), pickle.called(root)) {
        (Some(members), _) => {
            let keys: Vec<String> = members.iter().take(SHOWN).map(|(key, _)| format!("`{key}`")).collect();
            let more = if members.len() > SHOWN { ", …" } else { "" };
            format!("the file holds the keys {}{more}", keys.join(", "))
        }
        (_, Some((module, name))) => format!("the file holds the result of `{module}.{name}`"),
        _ => "the file holds no dictionary".into(),
    };
    match strangers {
        [] => held,
        names => format!("{held}. It refers to `{}`; no code was run", names.join("`, `")),
    }
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
    /// The tensor at `place` of the pickle, or the reason why it is of no use.
    fn tensor(&mut self, name: &str, place: Place) -> Result<Result<Stored, String>, String> {
        match View::of(self.pickle, place) {
            Ok(view) => self.place(name, &view).map(Ok),
            Err(reason) => Ok(Err(reason)),
        }
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
        Ok(Stored { entry, bytes, strides: view.strides(), latin1: false })
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

/// Whether the value at `place` is a tensor, or made of the values of one by an unknown function.
fn is_tensor(pickle: &Pickle, place: Place) -> bool {
    let Value::Call { arguments, .. } = pickle.value(place) else { return false };
    let given = || pickle.items(*arguments).unwrap_or_default().iter();
    let holds_values = |place: &Place| matches!(pickle.value(*place), Value::Outside(_));
    match pickle.called(place) {
        Some(("torch._utils" | "torch._tensor", name)) => name.starts_with("_rebuild"),
        _ => given().any(holds_values),
    }
}

impl<'p> View<'p> {
    /// The tensor at `place`.
    fn of(pickle: &'p Pickle, place: Place) -> Result<Self, String> {
        let mut place = place;
        for _ in 0..4 {
            let Value::Call { arguments, .. } = *pickle.value(place) else { break };
            let given = pickle.items(arguments).unwrap_or_default();
            let (module, name) = pickle.called(place).unwrap_or_default();
            if !matches!(module, "torch._utils" | "torch._tensor") {
                return Err(format!("made by `{module}.{name}`, which is not run"));
            }
            place = match (name, given) {
                ("_rebuild_tensor" | "_rebuild_tensor_v2", arguments @ [_, _, _, _, ..]) => {
                    return Self::new(pickle, arguments);
                }
                (
                    "_rebuild_parameter"
                    | "_rebuild_parameter_with_state"
                    | "_rebuild_device_tensor_from_cpu_tensor",
                    [tensor, ..],
                ) => *tensor,
                ("_rebuild_from_type_v2", [callable, _, arguments, ..]) => {
                    return Self::rebuilt(pickle, *callable, *arguments);
                }
                (
                    "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_parameter" | "_rebuild_from_type_v2",
                    _,
                ) => break,
                ("_rebuild_qtensor", _) => {
                    return Err("a quantized tensor, which is not read; save it after `.dequantize()`".into());
                }
                ("_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor", _) => {
                    return Err("a sparse tensor, which is not read; save it after `.to_dense()`".into());
                }
                ("_rebuild_meta_tensor_no_storage", _) => {
                    return Err("a tensor without values (of the device `meta`)".into());
                }
                _ => return Err(format!("made by `{module}.{name}`, which is not supported")),
            };
        }
        Err("not in the format that PyTorch writes".into())
    }

    /// The tensor that `callable` makes of `arguments`, for a class of tensors.
    fn rebuilt(pickle: &'p Pickle, callable: Place, arguments: Place) -> Result<Self, String> {
        match (pickle.value(callable), pickle.items(arguments)) {
            (Value::Name { module: "torch._utils", name: "_rebuild_tensor_v2" }, Some(arguments)) => {
                Self::new(pickle, arguments)
            }
            _ => Err("not in the format that PyTorch writes".into()),
        }
    }

    /// From the arguments of `_rebuild_tensor_v2`. A seventh one holds flags that change values, and is there only if one is
    /// set.
    fn new(pickle: &'p Pickle, arguments: &[Place]) -> Result<Self, String> {
        let [storage, start, shape, steps, more @ ..] = arguments else {
            return Err("not in the format that PyTorch writes".into());
        };
        if more.len() > 2 {
            return Err(
                "a negative or conjugate view, whose values are not those of the file; save it again after \
                        `.resolve_neg().resolve_conj()`"
                    .into(),
            );
        }
        let (storage, start, shape, steps) = (*storage, *start, *shape, *steps);
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
        let (_, dtype) = STORAGES.iter().find(|(name, _)| *name == kind).ok_or_else(|| {
            match kind.starts_with("Complex") {
                true => format!("a {kind}: complex numbers, which weights are not"),
                false => format!("a {kind}, which is not supported; save it after `.float()`"),
            }
        })?;
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
