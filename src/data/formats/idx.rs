//! Format `idx`: the container of MNIST and its descendants, plain or gzip-compressed.
//!
//! A file is two zero bytes, the type of its values (8: unsigned bytes), the number of dimensions, each dimension as
//! a big-endian u32, and the values. Ids are `<file>#<index>`. Reading one split keeps all of its pixels in memory.

use super::super::{Annotation, DataError, Entry, Image, ImageRef, Index, SampleId};
use super::format::{Format, SplitSource};
use crate::files;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `format = "idx"` of a manifest: MNIST's container format, plain or gzip-compressed; `images` is the idx3 file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Idx {
    /// The idx1 file of labels, relative to the data root.
    pub labels: PathBuf,
}

impl Format for Idx {
    const NAME: &'static str = "idx";

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let (file, dims, pixels) = read(split.root, split.images)?;
        let [count, height, width] = dims[..] else {
            return Err(DataError::file(&file, format!("has {} dimensions, expected 3", dims.len())));
        };
        let (labels_file, dims, labels) = read(split.root, &self.labels)?;
        if dims != [count] {
            let message = format!("has dimensions {dims:?}, expected [{count}], one label for each image");
            return Err(DataError::file(&labels_file, message));
        }
        let name = split.images.to_string_lossy().replace('\\', "/");
        let entry = |(index, label): (usize, &u8)| {
            let size = height * width;
            let data = pixels[index * size..(index + 1) * size].to_vec();
            Entry {
                id: SampleId::new(format!("{name}#{index}")),
                image: ImageRef::Memory(Arc::new(Image::new(height, width, 1, data))),
                annotation: Annotation::Label(u32::from(*label)),
            }
        };
        Ok(Index { entries: labels.iter().enumerate().map(entry).collect(), ..Index::default() })
    }
}

/// The file that was read, its dimensions and values.
fn read(root: &Path, file: &Path) -> Result<(PathBuf, Vec<usize>, Vec<u8>), DataError> {
    let mut path = root.join(file);
    if !path.exists() && path.extension().is_some_and(|e| e == "gz") && path.with_extension("").exists() {
        path.set_extension(""); // unpacked by its user
    }
    let fail = |message: String| DataError::file(&path, message);
    let mut bytes = files::read(&path).map_err(fail)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = vec![];
        flate2::read::MultiGzDecoder::new(bytes.as_slice())
            .read_to_end(&mut unpacked)
            .map_err(|e| fail(format!("cannot unpack: {e}")))?;
        bytes = unpacked;
    }
    let (dims, values) = parse(&bytes).map_err(fail)?;
    let values = values.to_vec();
    Ok((path, dims, values))
}

fn parse(bytes: &[u8]) -> Result<(Vec<usize>, &[u8]), String> {
    let (head, rest) = bytes.split_at_checked(4).ok_or("is too short for an idx file")?;
    let &[0, 0, 8, count] = head else {
        return Err(format!(
            "is not an idx file of bytes: begins with {head:02x?}, expected 00 00 08 and a number"
        ));
    };
    let too_short = || format!("ends within its {count} dimensions");
    let (dims, values) = rest.split_at_checked(4 * usize::from(count)).ok_or_else(too_short)?;
    let (dims, _) = dims.as_chunks::<4>();
    let dims: Vec<usize> = dims.iter().map(|d| u32::from_be_bytes(*d) as usize).collect();
    let expected = dims.iter().try_fold(1usize, |product, d| product.checked_mul(*d));
    if expected != Some(values.len()) {
        return Err(format!("has {} values, expected {dims:?} of them", values.len()));
    }
    Ok((dims, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn read_split(images: &[u8], labels: &[u8], unpacked: bool) -> Result<Index, String> {
        let root = tempfile::tempdir().unwrap();
        let name = if unpacked { "images" } else { "images.gz" };
        std::fs::write(root.path().join(name), images).unwrap();
        std::fs::write(root.path().join("labels"), labels).unwrap();
        let split = SplitSource { root: root.path(), images: Path::new("images.gz"), class_names: None };
        Idx { labels: "labels".into() }.index(&split).map_err(|e| e.to_string())
    }

    #[test]
    fn packed_and_plain_files_give_the_same() {
        let (images, labels) = (idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]), idx(&[2], &[7, 0]));
        let mut packer = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        packer.write_all(&images).unwrap();
        let packed = packer.finish().unwrap();
        for index in
            [read_split(&images, &labels, true).unwrap(), read_split(&packed, &labels, false).unwrap()]
        {
            let entry = &index.entries[1];
            assert_eq!(entry.id.as_str(), "images.gz#1");
            assert_eq!(format!("{:?}", entry.annotation), "Label(0)");
            let ImageRef::Memory(image) = &entry.image else { panic!("a file") };
            assert_eq!(**image, Image::new(1, 3, 1, vec![4, 5, 6]));
            assert_eq!((index.entries.len(), index.classes), (2, None));
        }
        let error = read_split(&packed[..packed.len() - 9], &labels, false).unwrap_err();
        assert!(error.contains("cannot unpack"), "{error}");
    }

    #[test]
    fn wrong_files_are_told() {
        let images = idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        for (images, labels, words) in [
            (&images[..], idx(&[3], &[0; 3]), "dimensions [3], expected [2]"),
            (&images[..], idx(&[2], &[0; 3]), "has 3 values"),
            (&images[..20], idx(&[2], &[0; 2]), "has 4 values, expected [2, 1, 3]"),
            (&images[..9], idx(&[2], &[0; 2]), "ends within its 3 dimensions"),
            (&idx(&[2], &[0; 2]), idx(&[2], &[0; 2]), "has 1 dimensions, expected 3"),
            (b"abcdefg", idx(&[2], &[0; 2]), "is not an idx file of bytes"),
            (b"", idx(&[2], &[0; 2]), "too short"),
        ] {
            let error = read_split(images, &labels, true).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
