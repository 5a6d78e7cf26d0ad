//! Arrays in NumPy's `.npz` files, in which google-research publishes the models of vision_transformer (AugReg) and of
//! big_vision, converted to the layout of PyTorch.
//!
//! In these files, linear layers are [in, out], with one more axis for the heads of attention, and convolutions are
//! [h, w, in, out]. An array may hold the values of all blocks, along a first axis: it becomes one tensor a block. The size that
//! a header states is checked against the bytes that follow it.

use super::archive::Archive;
use super::entry::{Located, Stored, Unusable, WeightEntry};
use candle_core::DType;
use std::io::Read;

const MAGIC: &[u8] = b"\x93NUMPY";
const SUFFIX: &str = ".npy";
/// Maximum length of a header in bytes; NumPy writes 128.
const LONGEST_HEADER: usize = 1 << 16;
/// The module of all blocks, where they are one (flax's `scan`).
const BLOCKS: &str = "encoderblock/";
/// Maximum number of blocks in one array.
const MOST_BLOCKS: usize = 1024;

/// Why an array is not read.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// The file is damaged.
    Damaged(String),
    /// This array alone is of no use.
    Unusable(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Damaged(reason)
    }
}

/// The arrays of the file `bytes`; `None` if the archive holds no arrays.
///
/// # Errors
/// A truncated or damaged file.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Located>, String> {
    let mut archive = Archive::open(bytes)?;
    let members: Vec<String> = archive.names.iter().filter(|name| name.ends_with(SUFFIX)).cloned().collect();
    if members.is_empty() {
        return Ok(None);
    }
    let mut located = Located::default();
    for member in &members {
        let part = archive.part(member)?;
        match tensors(member, archive.at(part.bytes.clone()), part.bytes.start) {
            Ok(found) => located.stored.extend(found),
            Err(Fault::Unusable(reason)) => {
                located.unusable.push(Unusable::new(name_of(member), reason));
            }
            Err(Fault::Damaged(reason)) => return Err(format!("array `{member}`: {reason}")),
        }
        located.checksums.push(part);
    }
    located.unpacked = archive.into_unpacked();
    Ok(Some(located))
}

/// The tensor of the array in `part`, which starts at byte `start` of the file, or one tensor a block.
fn tensors(member: &str, part: &[u8], start: usize) -> Result<Vec<Stored>, Fault> {
    let mut rest = part;
    let Header { dtype, shape, fortran } = header(&mut rest)?;
    let count = shape.iter().product::<usize>() * dtype.size_in_bytes();
    if rest.len() < count {
        return Err(Fault::Damaged("its values end early; the file is damaged".into()));
    }
    let start = start + part.len() - rest.len();
    let tensor = |member: &str, Layout { shape, strides }: Layout, start: usize, count: usize| {
        let entry = WeightEntry { name: name_of(member), shape, dtype };
        Stored { entry, bytes: start..start + count, strides, latin1: false }
    };
    let blocks = blocks_in(member);
    if fortran {
        let layout = Layout::of_fortran(member, &shape).filter(|_| blocks.is_none());
        let reason = "its values are in Fortran order; save it after `numpy.ascontiguousarray`";
        let layout = layout.ok_or_else(|| Fault::Unusable(reason.into()))?;
        return Ok(vec![tensor(member, layout, start, count)]);
    }
    match (blocks, shape.as_slice()) {
        (Some((before, after)), [blocks, rest @ ..]) => {
            if *blocks > MOST_BLOCKS {
                return Err(Fault::Damaged(format!("it holds {blocks} blocks, more than {MOST_BLOCKS}")));
            }
            let each = count / blocks;
            let one = |i| {
                let member = format!("{before}encoderblock_{i}/{after}");
                tensor(&member, Layout::of(&member, rest), start + i * each, each)
            };
            Ok((0..*blocks).map(one).collect())
        }
        _ => Ok(vec![tensor(member, Layout::of(member, &shape), start, count)]),
    }
}

/// The parts of the name of an array for all blocks, before and after [`BLOCKS`].
fn blocks_in(member: &str) -> Option<(&str, &str)> {
    let (before, after) = member.split_once(BLOCKS)?;
    (before.is_empty() || before.ends_with('/')).then_some((before, after))
}

/// Shape and strides of an array in the layout of PyTorch.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    shape: Vec<usize>,
    /// Strides in values; `None` if the array is contiguous.
    strides: Option<Vec<usize>>,
}

impl Layout {
    /// The layout of the array `member`, whose shape in the file is `shape`.
    fn of(member: &str, shape: &[usize]) -> Self {
        let member = member.trim_end_matches(SUFFIX);
        let output = member.ends_with("/out/kernel");
        let linear = |input, output| (vec![output, input], Some(vec![1, output]));
        let (shape, strides) = match (member.rsplit('/').next(), shape) {
            (Some("kernel"), &[input, output]) => linear(input, output),
            (Some("kernel"), &[heads, size, width]) if output => linear(heads * size, width),
            (Some("kernel"), &[width, heads, size]) => linear(width, heads * size),
            (Some("kernel"), &[h, w, input, output]) => {
                (vec![output, input, h, w], Some(vec![1, output, w * input * output, input * output]))
            }
            (Some("bias"), &[heads, size]) => (vec![heads * size], None),
            _ => (shape.to_vec(), None),
        };
        Self { shape, strides }
    }

    /// The layout of an array whose first index changes fastest; `None` where [`Layout::of`] would join dimensions.
    fn of_fortran(member: &str, shape: &[usize]) -> Option<Self> {
        let kernel = member.trim_end_matches(SUFFIX).rsplit('/').next() == Some("kernel");
        match shape {
            // [in, out] in this order are the values of [out, in] in the usual one.
            &[input, output] if kernel => Some(Self { shape: vec![output, input], strides: None }),
            _ if Self::of(member, shape) != (Self { shape: shape.to_vec(), strides: None }) => None,
            _ => {
                let step = |step: &mut usize, n: &usize| {
                    let before = *step;
                    *step *= n;
                    Some(before)
                };
                let strides = shape.iter().scan(1, step).collect();
                Some(Self { shape: shape.to_vec(), strides: Some(strides) })
            }
        }
    }
}

/// Name of a tensor: `a/b/kernel.npy` is the weight of the module `a/b`.
fn name_of(member: &str) -> String {
    let name = member.trim_end_matches(SUFFIX);
    match name.rsplit_once('/') {
        Some((module, "kernel" | "scale")) => format!("{module}.weight"),
        Some((module, "bias")) => format!("{module}.bias"),
        _ => name.into(),
    }
}

/// Type and shape of an array.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    dtype: DType,
    shape: Vec<usize>,
    /// Whether the first index changes fastest.
    fortran: bool,
}

/// Reads the header of an array, whose values follow in `reader` (NumPy's `lib/format.py`, versions 1 and 2).
fn header(reader: &mut impl Read) -> Result<Header, Fault> {
    let ended = |_| "its header ends early".to_string();
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(ended)?;
    let length = match start.strip_prefix(MAGIC) {
        Some([1, _]) => {
            let mut length = [0; 2];
            reader.read_exact(&mut length).map_err(ended)?;
            usize::from(u16::from_le_bytes(length))
        }
        Some([2, _]) => {
            let mut length = [0; 4];
            reader.read_exact(&mut length).map_err(ended)?;
            u32::from_le_bytes(length) as usize
        }
        Some([version, _]) => {
            return Err(Fault::Unusable(format!("is of the unknown version {version} of the format")));
        }
        _ => return Err(Fault::Damaged("not a NumPy array".into())),
    };
    if length > LONGEST_HEADER {
        return Err(Fault::Damaged(format!("its header has an invalid length of {length} bytes")));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).map_err(ended)?;
    described(&String::from_utf8_lossy(&text))
}

/// NumPy's names for the types of values.
const TYPES: [(&str, DType); 9] = [
    ("<f2", DType::F16),
    ("<f4", DType::F32),
    ("<f8", DType::F64),
    ("|u1", DType::U8),
    ("|b1", DType::U8),
    ("<i2", DType::I16),
    ("<i4", DType::I32),
    ("<i8", DType::I64),
    ("<u4", DType::U32),
];

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn described(text: &str) -> Result<Header, Fault> {
    let field = |key: &str| match text.split_once(&format!("'{key}':")) {
        Some((_, value)) => Ok(value.trim_start()),
        None => Err(Fault::Damaged(format!("its header has no `{key}`"))),
    };
    let descr = field("descr")?;
    let name = descr.trim_start_matches('\'').split('\'').next().unwrap_or_default();
    let fortran = field("fortran_order")?.starts_with("True");
    let shape = field("shape")?.trim_start_matches('(').split(')').next().unwrap_or_default();
    let sides = shape.split(',').map(str::trim).filter(|text| !text.is_empty());
    let Ok(sides) = sides.map(str::parse).collect::<Result<Vec<usize>, _>>() else {
        return Err(Fault::Damaged(format!("its shape ({shape}) is invalid")));
    };
    let Some((_, dtype)) = TYPES.iter().find(|(known, _)| *known == name) else {
        let shown: String = descr.chars().take(20).collect();
        return Err(Fault::Unusable(match name.get(1..2) {
            Some("O") => {
                "holds objects of Python instead of numbers; save an array of one type, such as float32"
                    .into()
            }
            Some("c") => "holds complex numbers, which weights are not".into(),
            _ if name.starts_with('>') => {
                format!("its type is not supported: {shown}; big-endian: save it as float32")
            }
            _ => format!("its type is not supported: {shown}; save it as float32"),
        }));
    };
    let bytes = sides.iter().try_fold(dtype.size_in_bytes(), |bytes, side| bytes.checked_mul(*side));
    match bytes {
        None => Err(Fault::Damaged(format!("its shape ({shape}) does not fit into memory"))),
        Some(0) => Err(Fault::Unusable(format!("has no values (shape {shape})"))),
        Some(_) => Ok(Header { dtype: *dtype, shape: sides, fortran }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::WeightFile;

    fn bytes(header: &str) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes()].concat()
    }

    #[test]
    fn headers_are_read_and_their_claims_are_checked() -> Result<(), Fault> {
        let read = |text: &str| header(&mut bytes(text).as_slice());
        let found = read("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }")?;
        assert_eq!(found, Header { dtype: DType::F32, shape: vec![3, 4], fortran: false });
        let scalar = read("{'shape': (), 'descr': '<f8', 'fortran_order': True}")?;
        assert_eq!(scalar, Header { dtype: DType::F64, shape: vec![], fortran: true });
        for (text, reason) in [
            ("{'fortran_order': False, 'shape': (3,), }", "no `descr`"),
            ("{'descr': '|V2', 'fortran_order': False, 'shape': (3,), }", "type is not supported: '|V2'"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (3,), }", "type is not supported"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", "objects of Python"),
            ("{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }", "complex"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, -1), }", "shape (3, -1) is invalid"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9), }", "no values (shape 0, 9)"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
                "does not fit into memory",
            ),
        ] {
            let (Fault::Damaged(error) | Fault::Unusable(error)) = read(text).unwrap_err();
            assert!(error.contains(reason), "{error}\nlacks: {reason}");
        }
        let claims = [MAGIC, &[2, 0], &[255; 4]].concat();
        let refused = |mut bytes: &[u8]| match header(&mut bytes) {
            Err(Fault::Damaged(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(refused(&claims).contains("length of 4294967295 bytes"));
        assert!(refused(b"hello, this").contains("not a NumPy array"));
        Ok(())
    }

    #[test]
    fn layouts_become_those_of_pytorch() {
        for (member, shape, expected, strides) in [
            ("a/Dense_0/kernel.npy", &[2, 3][..], &[3, 2][..], Some(vec![1, 3])),
            ("a/query/kernel.npy", &[6, 2, 3], &[6, 6], Some(vec![1, 6])),
            ("a/out/kernel.npy", &[2, 4, 3], &[3, 8], Some(vec![1, 3])),
            ("embedding/kernel.npy", &[4, 5, 3, 8], &[8, 3, 4, 5], Some(vec![1, 8, 120, 24])),
            ("a/key/bias.npy", &[2, 3], &[6], None),
            ("cls.npy", &[1, 1, 8], &[1, 1, 8], None),
        ] {
            assert_eq!(Layout::of(member, shape), Layout { shape: expected.to_vec(), strides }, "{member}");
        }
        assert_eq!(name_of("a/LayerNorm_0/scale.npy"), "a/LayerNorm_0.weight");
    }

    #[test]
    fn an_array_of_all_blocks_is_one_tensor_a_block() {
        let array = |shape: &str, values: usize| {
            let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
            [bytes(&text), vec![0; 4 * values]].concat()
        };
        let member = "params/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel.npy";
        let file = array("(2, 3, 5)", 30);
        let found = tensors(member, &file, 100).unwrap();
        let start = 100 + file.len() - 120;
        assert_eq!(found.len(), 2);
        for (i, tensor) in found.iter().enumerate() {
            assert_eq!(
                tensor.entry.name,
                format!("params/Transformer/encoderblock_{i}/MlpBlock_0/Dense_0.weight")
            );
            assert_eq!((&tensor.entry.shape, &tensor.strides), (&vec![5, 3], &Some(vec![1, 5])));
            assert_eq!(tensor.bytes, start + 60 * i..start + 60 * (i + 1));
        }
        for other in ["params/myencoderblock/kernel.npy", "params/Transformer/encoderblock_1/kernel.npy"] {
            assert_eq!(tensors(other, &array("(2, 3)", 6), 0).unwrap().len(), 1, "{other}");
        }
        let error = tensors("encoderblock/bias.npy", &array("(1025, 1)", 1025), 0).unwrap_err();
        assert_eq!(error, Fault::Damaged("it holds 1025 blocks, more than 1024".into()));
    }

    #[test]
    fn fortran_order_is_a_matter_of_strides() {
        let layout = |member: &str, shape: &[usize]| Layout::of_fortran(member, shape);
        let plain = Layout { shape: vec![2, 3, 4], strides: Some(vec![1, 2, 6]) };
        assert_eq!(layout("cls.npy", &[2, 3, 4]), Some(plain));
        assert_eq!(layout("a/kernel.npy", &[2, 3]), Some(Layout { shape: vec![3, 2], strides: None }));
        assert_eq!(layout("a/query/kernel.npy", &[6, 2, 3]), None, "heads cannot be joined");
    }

    #[test]
    fn truncated_files_are_errors() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/dialects/timm/augreg.npz");
        let bytes = std::fs::read(golden).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("augreg.npz");
        for length in [5, 100, bytes.len() / 2, bytes.len() - 30] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = WeightFile::open(&path).err().unwrap().to_string();
            assert!(error.contains("augreg.npz"), "{error}");
        }
    }
}
