//! Arrays of NumPy in a pickle, recognized by the functions that would rebuild them, which are not called.

use super::entry::{Stored, WeightEntry};
use super::pickle::{Pickle, Place, Value};
use candle_core::DType;

/// NumPy's names for the types of values.
const TYPES: [(&str, DType); 9] = [
    ("f2", DType::F16),
    ("f4", DType::F32),
    ("f8", DType::F64),
    ("u1", DType::U8),
    ("b1", DType::U8),
    ("i2", DType::I16),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("u4", DType::U32),
];

/// Whether the value at `place` is an array, or a tensor of PyTorch, which only its own files hold.
pub(super) fn is_array(pickle: &Pickle, place: Place) -> bool {
    match pickle.called(place) {
        Some((module, "_reconstruct")) => module.starts_with("numpy.") && module.ends_with(".multiarray"),
        Some((module, "_frombuffer")) => module.starts_with("numpy.") && module.ends_with(".numeric"),
        Some(("torch._utils" | "torch._tensor", name)) => name.starts_with("_rebuild"),
        _ => false,
    }
}

/// Checks that the arrays of a pickle of so many bytes do not share their values: a small file must not expand to large tensors.
///
/// # Errors
/// Arrays with more values than the pickle holds.
pub(super) fn refuse_shared(arrays: &[Stored], held: usize) -> Result<(), String> {
    let all = arrays.iter().fold(0usize, |all, stored| all.saturating_add(stored.bytes.len()));
    if all > held.saturating_mul(2) {
        return Err(format!("its arrays share their values: {all} bytes in a pickle of {held}"));
    }
    Ok(())
}

/// The order of an array's values in the file.
enum Order {
    /// The last index changes fastest.
    C,
    /// The first index changes fastest.
    Fortran,
    /// Like [`Order::C`], before the dimensions are rearranged: dimension i of the array is number `self[i]` in the file.
    Axes(Vec<usize>),
}

/// The array at `place` of a pickle, which lies in `bytes`.
///
/// # Errors
/// An array that is not read: says why.
pub(super) fn stored(pickle: &Pickle, place: Place, name: &str, bytes: &[u8]) -> Result<Stored, String> {
    let parts = parts(pickle, place)?;
    let (dtype, shape) = (dtype(pickle, parts.dtype)?, sizes(pickle, parts.shape).ok_or(UNKNOWN)?);
    let (values, latin1) = values(pickle, parts.values)?;
    let size = dtype.size_in_bytes();
    let expected = shape.iter().try_fold(size, |bytes, n| bytes.checked_mul(*n));
    let held = match latin1 {
        true => std::str::from_utf8(values).map_or(0, |text| text.chars().count()),
        false => values.len(),
    };
    if expected != Some(held) {
        return Err(format!("shape {shape:?} of {size} bytes a value does not fit {held} bytes of values"));
    }
    let steps = |shape: &[usize]| {
        let after = |step: &mut usize, n: &usize| {
            let before = *step;
            *step = step.saturating_mul(*n);
            Some(before)
        };
        shape.iter().scan(1, after).collect::<Vec<usize>>()
    };
    let (shape, strides) = match parts.order {
        Order::C => (shape, None),
        Order::Fortran => {
            let strides = steps(&shape);
            (shape, Some(strides))
        }
        Order::Axes(axes) => {
            let backwards: Vec<usize> = shape.iter().rev().copied().collect();
            let strides: Vec<usize> = steps(&backwards).into_iter().rev().collect();
            let mut sorted = axes.clone();
            sorted.sort_unstable();
            if !sorted.into_iter().eq(0..shape.len()) {
                return Err(UNKNOWN.into());
            }
            let pick = |from: &[usize]| axes.iter().map(|axis| from[*axis]).collect::<Vec<_>>();
            (pick(&shape), Some(pick(&strides)))
        }
    };
    let start = values.as_ptr().addr() - bytes.as_ptr().addr();
    let entry = WeightEntry { name: name.into(), shape, dtype };
    Ok(Stored { entry, bytes: start..start + values.len(), strides, latin1 })
}

const UNKNOWN: &str = "not in a format that NumPy writes";

/// The parts of an array.
struct Parts {
    dtype: Place,
    shape: Place,
    values: Place,
    order: Order,
}

/// The parts of the array at `place`: the state of `_reconstruct`, or the arguments of `_frombuffer` (protocol 5).
fn parts(pickle: &Pickle, place: Place) -> Result<Parts, String> {
    let (module, name) = pickle.called(place).unwrap_or_default();
    let Value::Call { arguments, state, .. } = *pickle.value(place) else { return Err(UNKNOWN.into()) };
    let items = |place: Option<Place>| place.and_then(|place| pickle.items(place)).unwrap_or_default();
    match (name, items(state), items(Some(arguments))) {
        // (version, shape, type, whether in the order of Fortran, values); version 0 is not written.
        ("_reconstruct", [.., shape, dtype, fortran, values], _) => {
            let fortran = match pickle.value(*fortran) {
                Value::Bool(fortran) => *fortran,
                Value::Int(number) => *number != 0,
                _ => return Err(UNKNOWN.into()),
            };
            let order = if fortran { Order::Fortran } else { Order::C };
            Ok(Parts { dtype: *dtype, shape: *shape, values: *values, order })
        }
        ("_frombuffer", _, [values, dtype, shape, order, axes @ ..]) => {
            let order = match (pickle.text(*order), axes) {
                (Some("C"), _) => Order::C,
                (Some("F"), _) => Order::Fortran,
                (Some("K"), [axes, ..]) => Order::Axes(sizes(pickle, *axes).ok_or(UNKNOWN)?),
                _ => return Err(UNKNOWN.into()),
            };
            Ok(Parts { dtype: *dtype, shape: *shape, values: *values, order })
        }
        _ if module.starts_with("torch.") => Err(format!(
            "a tensor of PyTorch (`{module}.{name}`) in a pickle that `torch.save` did not write: save it with `torch.save`"
        )),
        _ => Err(UNKNOWN.into()),
    }
}

fn sizes(pickle: &Pickle, place: Place) -> Option<Vec<usize>> {
    pickle.items(place)?.iter().map(|size| pickle.size(*size)).collect()
}

/// The type that `numpy.dtype` at `place` describes.
fn dtype(pickle: &Pickle, place: Place) -> Result<DType, String> {
    let Value::Call { arguments, state, .. } = *pickle.value(place) else { return Err(UNKNOWN.into()) };
    let first = |place: Place| pickle.items(place).and_then(|items| items.first().copied());
    let code = first(arguments).and_then(|code| pickle.text(code)).ok_or(UNKNOWN)?;
    // (version, order of bytes, …)
    let order = state.and_then(|state| pickle.text(*pickle.items(state)?.get(1)?));
    if order == Some(">") {
        return Err("its values are big-endian".into());
    }
    let known = TYPES.iter().find(|(known, _)| *known == code);
    known.map(|(_, dtype)| *dtype).ok_or_else(|| format!("values of type `{code}`, which are not supported"))
}

/// The bytes of the values at `place`, and whether they are characters of Latin-1 in UTF-8, as Python 3 writes bytes in
/// protocol 2.
fn values<'p>(pickle: &Pickle<'p>, place: Place) -> Result<(&'p [u8], bool), String> {
    match *pickle.value(place) {
        Value::Bytes(bytes) => Ok((bytes, false)),
        Value::Text(text) => Ok((text.as_bytes(), false)),
        Value::Call { arguments, .. } if pickle.called(place) == Some(("_codecs", "encode")) => {
            let text =
                pickle.items(arguments).and_then(|given| pickle.text(*given.first()?)).ok_or(UNKNOWN)?;
            if text.chars().any(|c| u32::from(c) > 0xff) {
                return Err(UNKNOWN.into());
            }
            Ok((text.as_bytes(), true))
        }
        Value::Items(_) => Err("values that are objects of Python".into()),
        _ => Err(UNKNOWN.into()),
    }
}
