//! Arrays in NumPy's `.npz` files, in which google-research publishes the models of vision_transformer (AugReg) and of
//! big_vision, converted to the layout of PyTorch.
//!
//! In these files, linear layers are [in, out], with one more axis for the heads of attention, and convolutions are
//! [h, w, in, out]. An array may hold the values of all blocks, along a first axis: it becomes one tensor a block. The size that
//! a header states is checked against the bytes that follow it.

use super::archive::Archive;
use super::entry::{Located, Stored, WeightEntry};
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

/// The arrays of the file `bytes` and the checksums of its parts; `None` if the archive holds no arrays.
///
/// # Errors
/// A truncated file, or arrays of types that PyTorch does not have.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Located>, String> {
    let mut archive = Archive::open(bytes)?;
    let members: Vec<String> = archive.names.iter().filter(|name| name.ends_with(SUFFIX)).cloned().collect();
    let (mut stored, mut parts) = (Vec::new(), Vec::new());
    for member in &members {
        let part = archive.part(member)?;
        let found = tensors(member, &bytes[part.bytes.clone()], part.bytes.start);
        stored.extend(found.map_err(|reason| format!("array `{member}`: {reason}"))?);
        parts.push(part);
    }
    Ok((!stored.is_empty()).then_some((stored, parts)))
}

/// The tensor of the array in `part`, which starts at byte `start` of the file, or one tensor a block.
fn tensors(member: &str, part: &[u8], start: usize) -> Result<Vec<Stored>, String> {
    let mut rest = part;
    let (dtype, shape) = header(&mut rest)?;
    let count = shape.iter().product::<usize>() * dtype.size_in_bytes();
    if rest.len() < count {
        return Err("its values end early".into());
    }
    let start = start + part.len() - rest.len();
    let tensor = |member: &str, shape: &[usize], start: usize, count: usize| {
        let Layout { shape, strides } = Layout::of(member, shape);
        let entry = WeightEntry { name: name_of(member), shape, dtype };
        Stored { entry, bytes: start..start + count, strides, latin1: false }
    };
    match (blocks_in(member), shape.as_slice()) {
        (Some((before, after)), [blocks, rest @ ..]) => {
            if *blocks > MOST_BLOCKS {
                return Err(format!("it holds {blocks} blocks, more than {MOST_BLOCKS}"));
            }
            let each = count / blocks;
            let one = |i| tensor(&format!("{before}encoderblock_{i}/{after}"), rest, start + i * each, each);
            Ok((0..*blocks).map(one).collect())
        }
        _ => Ok(vec![tensor(member, &shape, start, count)]),
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

/// Reads type and shape of an array, whose values follow in `reader` (NumPy's `lib/format.py`, versions 1 and 2).
fn header(reader: &mut impl Read) -> Result<(DType, Vec<usize>), String> {
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
        Some([version, _]) => return Err(format!("unknown version {version} of the format")),
        _ => return Err("not a NumPy array".into()),
    };
    if length > LONGEST_HEADER {
        return Err(format!("its header has an invalid length of {length} bytes"));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).map_err(ended)?;
    described(&String::from_utf8_lossy(&text))
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn described(text: &str) -> Result<(DType, Vec<usize>), String> {
    let field = |key: &str| match text.split_once(&format!("'{key}':")) {
        Some((_, value)) => Ok(value.trim_start()),
        None => Err(format!("its header has no `{key}`")),
    };
    let descr = field("descr")?;
    let dtype = match descr.trim_start_matches('\'').split('\'').next() {
        Some("<f4") => DType::F32,
        Some("<f8") => DType::F64,
        Some("<f2") => DType::F16,
        Some("<i8") => DType::I64,
        Some("<u4") => DType::U32,
        Some("|u1") => DType::U8,
        _ => {
            return Err(format!("its type is not supported: {}", descr.chars().take(20).collect::<String>()));
        }
    };
    if !field("fortran_order")?.starts_with("False") {
        return Err("its values are in Fortran order".into());
    }
    let shape = field("shape")?.trim_start_matches('(').split(')').next().unwrap_or_default();
    let side = |text: &str| text.parse::<usize>().ok().filter(|side| *side > 0);
    let sides = shape.split(',').map(str::trim).filter(|text| !text.is_empty());
    let Some(sides) = sides.map(side).collect::<Option<Vec<usize>>>() else {
        return Err(format!("its shape ({shape}) is invalid"));
    };
    let bytes = sides.iter().try_fold(dtype.size_in_bytes(), |bytes, side| bytes.checked_mul(*side));
    match bytes {
        Some(_) => Ok((dtype, sides)),
        None => Err(format!("its shape ({shape}) does not fit into memory")),
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
    fn headers_are_read_and_their_claims_are_checked() -> Result<(), String> {
        let read = |text: &str| header(&mut bytes(text).as_slice());
        let found = read("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }")?;
        assert_eq!(found, (DType::F32, vec![3, 4]));
        assert_eq!(read("{'shape': (), 'descr': '<f8', 'fortran_order': False}")?, (DType::F64, vec![]));
        for (text, reason) in [
            ("{'fortran_order': False, 'shape': (3,), }", "no `descr`"),
            ("{'descr': '|V2', 'fortran_order': False, 'shape': (3,), }", "type is not supported: '|V2'"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (3,), }", "type is not supported"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (3,), }", "Fortran"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, -1), }", "shape (3, -1) is invalid"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9), }", "shape (0, 9) is invalid"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
                "does not fit into memory",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{error}\nlacks: {reason}");
        }
        let claims = [MAGIC, &[2, 0], &[255; 4]].concat();
        assert!(header(&mut claims.as_slice()).unwrap_err().contains("length of 4294967295 bytes"));
        assert!(header(&mut &b"hello, this"[..]).unwrap_err().contains("not a NumPy array"));
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
        assert!(error.contains("1025 blocks"), "{error}");
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
