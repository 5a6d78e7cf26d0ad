//! Format `idx`: MNIST's container files, plain or gzip-compressed. Grey images of one size, labels in a second file.

use super::super::{Annotation, DataError, Entry, Format, Image, ImageRef, Index, SampleId, Split};
use flate2::read::GzDecoder;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

/// Reads `images` of the split (idx3) and the labels at this path (idx1).
pub struct Idx<'a> {
    pub labels: &'a Path,
}

/// First four bytes: unsigned bytes in so many dimensions.
const MAGIC: [u8; 3] = [0, 0, 8];

impl Format for Idx<'_> {
    fn index(&self, root: &Path, split: &Split) -> Result<Index, DataError> {
        let images_path = root.join(&split.images);
        let (shape, pixels) = read(&images_path, 3)?;
        let (count, labels) = read(&root.join(self.labels), 1)?;
        if count[0] != shape[0] {
            let message =
                format!("{} images, but {} labels in {}", shape[0], count[0], self.labels.display());
            return Err(DataError::file(&images_path, message));
        }
        let (height, width) = (shape[1], shape[2]);
        let name = split.images.to_string_lossy();
        let entry = |(i, (pixels, label)): (usize, (&[u8], &u8))| Entry {
            id: SampleId::new(format!("{name}#{i:06}")),
            image: ImageRef::Memory(Arc::new(Image::new(height, width, 1, pixels.to_vec()))),
            annotation: Annotation::Label(u32::from(*label)),
        };
        let images = pixels.chunks_exact((height * width).max(1));
        let entries = images.zip(&labels).enumerate().map(entry).collect();
        Ok(Index { entries, classes: None }) // the labels are numbers without names
    }
}

/// Dimensions and bytes of the file at `path`, which must have `rank` dimensions.
fn read(path: &Path, rank: usize) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let fail = |message: String| DataError::file(path, message);
    let raw = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let mut bytes = vec![];
    match raw.starts_with(&[0x1f, 0x8b]) {
        true => {
            GzDecoder::new(&raw[..]).read_to_end(&mut bytes).map(|_| ()).map_err(|e| fail(e.to_string()))?
        }
        false => bytes = raw,
    }
    let start = 4 + 4 * rank;
    if bytes.len() < start || bytes[..3] != MAGIC || usize::from(bytes[3]) != rank {
        return Err(fail(format!("no idx file of unsigned bytes in {rank} dimensions")));
    }
    let shape: Vec<usize> = bytes[4..start]
        .chunks_exact(4)
        .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
        .collect();
    let (found, expected) = (bytes.len() - start, shape.iter().product::<usize>());
    if found != expected {
        return Err(fail(format!("{found} values, expected {expected} for {shape:?}: truncated")));
    }
    Ok((shape, bytes.split_off(start)))
}
