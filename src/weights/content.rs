//! [`Content`]: the bytes of a weight file, mapped into memory or held in it.

use super::error::WeightFileError;
use crate::files;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

/// The bytes of a file, and what was unpacked from it.
pub(super) struct Content {
    file: Bytes,
    unpacked: Vec<u8>,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Held(Vec<u8>),
}

impl Content {
    /// The bytes of a file that are in memory.
    pub(crate) fn held(bytes: Vec<u8>) -> Self {
        Self { file: Bytes::Held(bytes), unpacked: vec![] }
    }

    /// Adds what was unpacked from the file; its ranges go on where those of the file end.
    pub(crate) fn add_unpacked(&mut self, bytes: Vec<u8>) {
        self.unpacked = bytes;
    }

    /// The bytes of a range that lies in the file or in what was unpacked.
    pub(crate) fn at(&self, range: Range<usize>) -> &[u8] {
        match range.start.checked_sub(self.len()) {
            Some(start) if !range.is_empty() => &self.unpacked[start..range.end - self.len()],
            _ => &self[range],
        }
    }

    /// Maps the file at `path` into memory.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let unread = |e: std::io::Error| fail(files::reason(path, &e));
        let file = File::open(path).map_err(unread)?;
        if !file.metadata().is_ok_and(|data| data.is_file()) {
            return Err(fail("not a file".into()));
        }
        if file.metadata().is_ok_and(|data| data.len() == 0) {
            return Err(fail("the file is empty".into()));
        }
        // SAFETY: the map is read-only and lives as long as the content. A file that another process truncates
        // meanwhile would end this one; weights are written atomically and not edited in place.
        let mapped = unsafe { memmap2::Mmap::map(&file) }.map_err(unread)?;
        Ok(Self { file: Bytes::Mapped(mapped), unpacked: vec![] })
    }

    /// Releases mapped pages, which are read again when they are needed: tensors are copies, so the file need not stay in
    /// memory beside them.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.file
            && range.end <= map.len()
        {
            // SAFETY: nothing writes through the map, so its pages have the content of the file before and after this call.
            let released = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            drop(released); // a hint
        }
    }
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.file {
            Bytes::Mapped(map) => map,
            Bytes::Held(bytes) => bytes,
        }
    }
}

/// The bytes that `text`, which is UTF-8, writes as characters of Latin-1.
pub(super) fn from_latin1(text: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(text).chars().map(|c| u8::try_from(c).unwrap_or_default()).collect()
}

/// The values of a strided tensor in row-major order; `size` is the size of a value in bytes.
pub(super) fn gathered(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut places = vec![0];
    for (n, stride) in shape.iter().zip(strides) {
        places = places.iter().flat_map(|place| (0..*n).map(move |i| place + i * stride)).collect();
    }
    places.into_iter().flat_map(|place| &bytes[place * size..][..size]).copied().collect()
}
