//! [`Content`]: the bytes of a weight file, mapped into memory or held in it.

use super::error::WeightFileError;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

/// The bytes of a file.
pub(super) enum Content {
    Mapped(memmap2::Mmap),
    Held(Vec<u8>),
}

impl Content {
    /// Maps the file at `path` into memory.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightFileError> {
        let fail = |reason: String| WeightFileError { path: path.into(), reason };
        let file = File::open(path).map_err(|e| fail(e.to_string()))?;
        if !file.metadata().is_ok_and(|data| data.is_file()) {
            return Err(fail("not a file".into()));
        }
        // SAFETY: the map is read-only and lives as long as the content. A file that another process truncates
        // meanwhile would end this one; weights are written atomically and not edited in place.
        unsafe { memmap2::Mmap::map(&file) }.map(Self::Mapped).map_err(|e| fail(e.to_string()))
    }

    /// Releases mapped pages, which are read again when they are needed: tensors are copies, so the file need not stay in
    /// memory beside them.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
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
        match self {
            Self::Mapped(map) => map,
            Self::Held(bytes) => bytes,
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
