//! Arrays of NumPy's `.npz`, as google-research/vision_transformer publishes its models (AugReg), in PyTorch's layout.
//!
//! Linear layers are [in, out] there, with one more axis for the heads of attention, and convolutions [h, w, in, out].
//! A header is believed no further than the bytes that follow it.

use super::WeightEntry;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

const MAGIC: &[u8] = b"\x93NUMPY";
const SUFFIX: &str = ".npy";
/// Bytes of a header; NumPy writes 128.
const LONGEST_HEADER: usize = 1 << 16;

/// The arrays of a file, read when asked for.
pub(super) struct NpzFile {
    path: PathBuf,
    arrays: Vec<Array>,
}

struct Array {
    /// In the archive.
    member: String,
    /// In PyTorch's layout.
    entry: WeightEntry,
    layout: Layout,
}

/// From their layout to PyTorch's: another shape for the same order of values, then an order of the axes.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    shape: Vec<usize>,
    axes: Vec<usize>,
}

impl NpzFile {
    /// `None` when the zip file holds no arrays.
    ///
    /// # Errors
    /// A file that is truncated, arrays of other types than PyTorch's.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let mut archive = archive(path)?;
        let members = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
        let members: Vec<String> = members.filter(|name| name.ends_with(SUFFIX)).collect();
        let mut array = |member: String| {
            let mut reader = archive.by_name(&member).map_err(candle_core::Error::wrap)?;
            let (dtype, shape) = header(&mut reader).map_err(|e| e.context(format!("array `{member}`")))?;
            let layout = Layout::of(&member, shape);
            let entry = WeightEntry { name: name_of(&member), shape: layout.permuted(), dtype };
            Ok(Array { entry, layout, member: member.clone() })
        };
        let arrays = members.into_iter().map(&mut array).collect::<Result<Vec<_>>>()?;
        Ok((!arrays.is_empty()).then(|| Self { path: path.into(), arrays }))
    }

    /// Names and shapes, in the order of the archive.
    pub fn entries(&self) -> Vec<WeightEntry> {
        self.arrays.iter().map(|array| array.entry.clone()).collect()
    }

    /// One array, on the CPU.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(array) = self.arrays.iter().find(|array| array.entry.name == name) else { return Ok(None) };
        let mut archive = archive(&self.path)?;
        let mut reader = archive.by_name(&array.member).map_err(candle_core::Error::wrap)?;
        let (dtype, shape) = header(&mut reader)?;
        let count = shape.iter().product::<usize>() * dtype.size_in_bytes();
        let mut bytes = Vec::new();
        reader.take(count as u64).read_to_end(&mut bytes)?;
        if bytes.len() != count {
            bail!("its values end early");
        }
        let Layout { shape, axes } = &array.layout;
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu)?;
        tensor.permute(axes.as_slice())?.contiguous().map(Some)
    }
}

impl Layout {
    /// That of the array `member` of `shape`.
    fn of(member: &str, shape: Vec<usize>) -> Self {
        let member = member.trim_end_matches(SUFFIX);
        let output = member.ends_with("/out/kernel");
        let (shape, axes) = match (member.rsplit('/').next(), shape.as_slice()) {
            (Some("kernel"), [_, _]) => (shape, vec![1, 0]),
            (Some("kernel"), &[heads, size, width]) if output => (vec![heads * size, width], vec![1, 0]),
            (Some("kernel"), &[width, heads, size]) => (vec![width, heads * size], vec![1, 0]),
            (Some("kernel"), [_, _, _, _]) => (shape, vec![3, 2, 0, 1]),
            (Some("bias"), &[heads, size]) => (vec![heads * size], vec![0]),
            (_, other) => {
                let axes = (0..other.len()).collect();
                (shape, axes)
            }
        };
        Self { shape, axes }
    }

    fn permuted(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| self.shape[*axis]).collect()
    }
}

/// `a/b/kernel.npy` is the weight of the module `a/b`.
fn name_of(member: &str) -> String {
    let name = member.trim_end_matches(SUFFIX);
    match name.rsplit_once('/') {
        Some((module, "kernel" | "scale")) => format!("{module}.weight"),
        Some((module, "bias")) => format!("{module}.bias"),
        _ => name.into(),
    }
}

fn archive(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    ZipArchive::new(BufReader::new(File::open(path)?)).map_err(candle_core::Error::wrap)
}

/// Type and shape of an array whose values follow in `reader` (NumPy's `lib/format.py`, versions 1 and 2).
fn header(reader: &mut impl Read) -> Result<(DType, Vec<usize>)> {
    let mut start = [0; 8];
    reader.read_exact(&mut start)?;
    let length = match start.strip_prefix(MAGIC) {
        Some([1, _]) => {
            let mut length = [0; 2];
            reader.read_exact(&mut length)?;
            usize::from(u16::from_le_bytes(length))
        }
        Some([2, _]) => {
            let mut length = [0; 4];
            reader.read_exact(&mut length)?;
            u32::from_le_bytes(length) as usize
        }
        Some([version, _]) => bail!("version {version} of the format is not known"),
        _ => bail!("this is no array of NumPy"),
    };
    if length > LONGEST_HEADER {
        bail!("its header claims {length} bytes");
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    described(&String::from_utf8_lossy(&text))
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn described(text: &str) -> Result<(DType, Vec<usize>)> {
    let field = |key: &str| match text.split_once(&format!("'{key}':")) {
        Some((_, value)) => Ok(value.trim_start()),
        None => bail!("its header has no `{key}`"),
    };
    let descr = field("descr")?;
    let dtype = match descr.trim_start_matches('\'').split('\'').next() {
        Some("<f4") => DType::F32,
        Some("<f8") => DType::F64,
        Some("<f2") => DType::F16,
        Some("<i8") => DType::I64,
        Some("<u4") => DType::U32,
        Some("|u1") => DType::U8,
        _ => bail!("its type is not read: {}", descr.chars().take(20).collect::<String>()),
    };
    if !field("fortran_order")?.starts_with("False") {
        bail!("its values lie in Fortran's order");
    }
    let shape = field("shape")?.trim_start_matches('(').split(')').next().unwrap_or_default();
    let side = |text: &str| text.parse::<usize>().ok().filter(|side| *side > 0);
    let sides = shape.split(',').map(str::trim).filter(|text| !text.is_empty());
    let Some(sides) = sides.map(side).collect::<Option<Vec<usize>>>() else {
        bail!("its shape is ({shape})")
    };
    let bytes = sides.iter().try_fold(dtype.size_in_bytes(), |bytes, side| bytes.checked_mul(*side));
    match bytes {
        Some(_) => Ok((dtype, sides)),
        None => bail!("its shape ({shape}) is larger than any memory"),
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
    fn headers_are_read_and_their_claims_are_not_believed() -> Result<()> {
        let read = |text: &str| header(&mut bytes(text).as_slice());
        let found = read("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }")?;
        assert_eq!(found, (DType::F32, vec![3, 4]));
        assert_eq!(read("{'shape': (), 'descr': '<f8', 'fortran_order': False}")?, (DType::F64, vec![]));
        for (text, reason) in [
            ("{'fortran_order': False, 'shape': (3,), }", "no `descr`"),
            ("{'descr': '|V2', 'fortran_order': False, 'shape': (3,), }", "type is not read: '|V2'"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (3,), }", "type is not read"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (3,), }", "Fortran"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, -1), }", "shape is (3, -1)"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9), }", "shape is (0, 9)"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
                "larger than any",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}\nlacks: {reason}");
        }
        let claims = [MAGIC, &[2, 0], &[255; 4]].concat();
        assert!(header(&mut claims.as_slice()).unwrap_err().to_string().contains("claims 4294967295 bytes"));
        assert!(header(&mut &b"hello, this"[..]).unwrap_err().to_string().contains("no array"));
        Ok(())
    }

    #[test]
    fn layouts_become_those_of_pytorch() {
        let layout = |member: &str, shape: &[usize]| Layout::of(member, shape.to_vec());
        assert_eq!(layout("a/Dense_0/kernel.npy", &[2, 3]).permuted(), [3, 2]);
        assert_eq!(layout("a/query/kernel.npy", &[6, 2, 3]).shape, [6, 6]);
        assert_eq!(layout("a/out/kernel.npy", &[2, 4, 3]).permuted(), [3, 8]);
        assert_eq!(layout("embedding/kernel.npy", &[4, 5, 3, 8]).permuted(), [8, 3, 4, 5]);
        assert_eq!(layout("a/key/bias.npy", &[2, 3]).permuted(), [6]);
        assert_eq!(layout("cls.npy", &[1, 1, 8]).permuted(), [1, 1, 8]);
        assert_eq!(name_of("a/LayerNorm_0/scale.npy"), "a/LayerNorm_0.weight");
    }

    #[test]
    fn truncated_files_are_errors() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/dialects/timm/augreg.npz");
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
