//! Zip archives, as `torch.save`, `numpy.savez` and `numpy.savez_compressed` write them.
//!
//! The values of an uncompressed file lie in the archive itself. A compressed one is unpacked into memory, of which it gets no
//! more than the directory of the archive says.

use super::entry::Checksum;
use flate2::bufread::DeflateDecoder;
use std::io::{Cursor, Read as _};
use std::ops::Range;
use zip::{CompressionMethod, ZipArchive};

/// An archive in memory.
pub(super) struct Archive<'a> {
    files: ZipArchive<Cursor<&'a [u8]>>,
    pub names: Vec<String>,
    bytes: &'a [u8],
    /// What was unpacked. Its ranges go on where those of the archive end.
    unpacked: Vec<u8>,
    /// Number of compressed bytes that were unpacked.
    taken: usize,
}

/// A file as the archive holds it.
struct Held {
    bytes: Range<usize>,
    /// Its size, if it is compressed.
    unpacked: Option<usize>,
    crc32: u32,
}

impl<'a> Archive<'a> {
    /// Reads the directory of the archive.
    ///
    /// # Errors
    /// Bytes that are not an archive, or a truncated archive.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let cut = |_| {
            "it is cut off or damaged: the directory at its end is missing; get the file again".to_string()
        };
        let files = ZipArchive::new(Cursor::new(bytes)).map_err(cut)?;
        let name = |name: Result<std::borrow::Cow<str>, zip::result::ZipError>| {
            name.map(|name| name.into_owned()).map_err(|e| format!("a name in it cannot be read: {e}"))
        };
        let names = files.file_names().map(name).collect::<Result<_, _>>()?;
        Ok(Self { files, names, bytes, unpacked: vec![], taken: 0 })
    }

    /// Byte range and content of the file `name`, of at most `most` bytes.
    ///
    /// # Errors
    /// A larger or damaged file; the errors of [`Self::part`].
    pub(crate) fn read(&mut self, name: &str, most: usize) -> Result<(Range<usize>, Vec<u8>), String> {
        let held = self.held(name)?;
        let size = held.unpacked.unwrap_or(held.bytes.len());
        if size > most {
            return Err(format!("`{name}` has {size} bytes, more than {most}"));
        }
        let Checksum { bytes, crc32 } = self.part(name)?;
        let content = self.at(bytes.clone()).to_vec();
        match crc32fast::hash(&content) == crc32 {
            true => Ok((bytes, content)),
            false => Err(format!("`{name}` is damaged (its CRC-32 differs from the one in the file)")),
        }
    }

    /// Byte range and checksum of the file `name`; a compressed file is unpacked.
    ///
    /// # Errors
    /// A file that is missing, truncated or encrypted, that is compressed by another method than deflate, or that is not what
    /// was compressed.
    pub(crate) fn part(&mut self, name: &str) -> Result<Checksum, String> {
        let held = self.held(name)?;
        let Some(size) = held.unpacked else { return Ok(Checksum { bytes: held.bytes, crc32: held.crc32 }) };
        let content = self.inflate(name, &held, size)?;
        let start = self.bytes.len() + self.unpacked.len();
        let memory = self.unpacked.try_reserve_exact(content.len());
        memory.map_err(|_| format!("`{name}`: there is no memory for its {size} bytes"))?;
        self.unpacked.extend_from_slice(&content);
        Ok(Checksum { bytes: start..start + content.len(), crc32: held.crc32 })
    }

    /// The bytes of a part.
    pub(crate) fn at(&self, part: Range<usize>) -> &[u8] {
        match part.start.checked_sub(self.bytes.len()) {
            Some(start) if !part.is_empty() => &self.unpacked[start..part.end - self.bytes.len()],
            _ => &self.bytes[part],
        }
    }

    /// What was unpacked, in the order of the ranges of [`Self::part`].
    pub(crate) fn into_unpacked(self) -> Vec<u8> {
        self.unpacked
    }

    /// Where the file `name` lies.
    fn held(&mut self, name: &str) -> Result<Held, String> {
        let missing = || format!("the archive has no `{name}`; it is incomplete");
        let index = self.files.index_for_name(name).ok_or_else(missing)?;
        let file = self.files.by_index_raw(index).map_err(|e| format!("`{name}` is damaged: {e}"))?;
        let unpacked = match file.compression() {
            _ if file.encrypted() => return Err(format!("`{name}` is encrypted, which is not supported")),
            CompressionMethod::Stored => None,
            CompressionMethod::DEFLATE => Some(usize::try_from(file.size()).unwrap_or(usize::MAX)),
            other => {
                return Err(format!(
                    "`{name}` is compressed by {other}, which is not supported; `np.savez`, `np.savez_compressed` and \
                     `torch.save` write archives that are"
                ));
            }
        };
        let start = file.data_start().and_then(|start| usize::try_from(start).ok());
        let end = usize::try_from(file.compressed_size()).ok().and_then(|size| start?.checked_add(size));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.bytes.len() => {
                Ok(Held { bytes: start..end, unpacked, crc32: file.crc32() })
            }
            _ => Err(format!("`{name}` ends early")),
        }
    }

    /// The `size` bytes of a compressed file.
    fn inflate(&mut self, name: &str, held: &Held, size: usize) -> Result<Vec<u8>, String> {
        self.taken = self.taken.saturating_add(held.bytes.len());
        if self.taken > self.bytes.len() {
            return Err(format!("`{name}` shares its compressed bytes with other files of the archive"));
        }
        let mut content = Vec::new();
        let packed = DeflateDecoder::new(&self.bytes[held.bytes.clone()]);
        let read = packed.take((size as u64).saturating_add(1)).read_to_end(&mut content);
        match read {
            Err(e) if e.kind() == std::io::ErrorKind::OutOfMemory => {
                Err(format!("`{name}`: there is no memory for its {size} bytes"))
            }
            Err(_) => Err(format!("`{name}` is damaged: its compressed bytes cannot be unpacked")),
            Ok(_) if content.len() != size => {
                let more = if content.len() > size { "more" } else { "fewer" };
                Err(format!(
                    "`{name}` is damaged: it unpacks to {more} than the {size} bytes that the archive states"
                ))
            }
            Ok(_) => Ok(content),
        }
    }
}

#[cfg(test)]
mod tests;
