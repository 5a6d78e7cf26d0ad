//! [`content`]: a hash of the files of a data set, for records.

use super::{Annotation, Entry, ImageRef};
use crate::record::{DataCover, DataRecord, file_hash};
use rayon::prelude::*;
use std::path::Path;

/// Files of at most so many bytes in total are read. That takes seconds, less than to train on them once.
const MOST_BYTES: u64 = 1 << 30;

/// Hashes the images and the annotations in files of their own (masks, maps) of `entries`, in order, with the ids of the entries: every
/// byte of them, or only their sizes where that would be more than 1 GiB. A file that cannot be read counts as one without content.
///
/// Other annotations are part of [`Dataset::fingerprint`](super::Dataset::fingerprint).
pub fn content<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> DataRecord {
    content_up_to(MOST_BYTES, entries)
}

fn content_up_to<'a>(most: u64, entries: impl IntoIterator<Item = &'a Entry>) -> DataRecord {
    let parts: Vec<(&str, Part)> = entries.into_iter().flat_map(parts).collect();
    let sizes: Vec<u64> = parts.par_iter().map(|(_, part)| part.size()).collect();
    let bytes = sizes.iter().sum();
    let covers = if bytes <= most { DataCover::Contents } else { DataCover::Sizes };
    let hashes: Vec<String> = match covers {
        DataCover::Contents => parts.par_iter().map(|(_, part)| part.hash()).collect(),
        DataCover::Sizes => sizes.iter().map(u64::to_string).collect(),
    };
    let mut hasher = blake3::Hasher::new();
    for ((id, _), hash) in parts.iter().zip(&hashes) {
        hasher.update(format!("{id}\t{hash}\n").as_bytes());
    }
    DataRecord { hash: hasher.finalize().to_hex().to_string(), files: parts.len() as u64, bytes, covers }
}

/// The source of an image or of an annotation.
enum Part<'a> {
    File(&'a Path),
    Memory(&'a [u8]),
}

impl Part<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::File(path) => path.metadata().map_or(0, |data| data.len()),
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    fn hash(&self) -> String {
        match self {
            Self::File(path) => file_hash(path).unwrap_or_default(),
            Self::Memory(bytes) => blake3::hash(bytes).to_hex().to_string(),
        }
    }
}

/// The image of an entry, and its annotation if that is a file of its own.
fn parts(entry: &Entry) -> impl Iterator<Item = (&str, Part<'_>)> {
    let image = match &entry.image {
        ImageRef::File(path) | ImageRef::Upright(path) => Part::File(path),
        ImageRef::Memory(image) => Part::Memory(&image.data),
    };
    let annotation = match &entry.annotation {
        Annotation::Raster(mask) => Some(Part::File(&mask.path)),
        Annotation::DenseMap(map) => Some(Part::File(&map.path)),
        _ => None,
    };
    std::iter::once(image).chain(annotation).map(|part| (entry.id.as_str(), part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Image, SampleId};
    use std::sync::Arc;

    #[test]
    fn every_byte_counts_until_there_are_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).unwrap();
            let image = ImageRef::File(folder.path().join(name));
            Entry { id: SampleId::new(name), image, annotation: Annotation::None }
        };
        let memory = |pixel: u8| {
            let image = Image { height: 1, width: 1, channels: 1, data: vec![pixel] };
            Entry {
                id: SampleId::new("m"),
                image: ImageRef::Memory(Arc::new(image)),
                annotation: Annotation::None,
            }
        };
        let entries = [file("a", b"one"), file("b", b"three"), memory(7)];
        let first = content(&entries);
        assert_eq!((first.files, first.bytes, first.covers), (3, 9, DataCover::Contents));
        assert_eq!(content(&entries), first);
        let hash = |entries: [Entry; 3]| content(&entries).hash;
        assert_ne!(hash([file("a", b"onE"), entries[1].clone(), memory(7)]), first.hash);
        assert_ne!(hash([file("a", b"one"), entries[1].clone(), memory(8)]), first.hash);
        let sizes = content_up_to(8, &entries);
        assert_eq!((sizes.bytes, sizes.covers), (9, DataCover::Sizes));
        file("a", b"two");
        assert_eq!(content_up_to(8, &entries), sizes);
        file("a", b"four");
        assert_ne!(content_up_to(8, &entries), sizes);
        std::fs::remove_file(folder.path().join("a")).unwrap();
        assert_eq!(content(&entries).bytes, 6);
    }
}
