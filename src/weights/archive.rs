//! Uncompressed zip archives, as `torch.save` and `numpy.savez` write them.

use super::entry::Checksum;
use std::io::{Cursor, Read as _};
use zip::{CompressionMethod, ZipArchive};

/// An archive in memory.
pub(super) struct Archive<'a> {
    files: ZipArchive<Cursor<&'a [u8]>>,
    pub names: Vec<String>,
    bytes: &'a [u8],
}

impl<'a> Archive<'a> {
    /// Reads the directory of the archive.
    ///
    /// # Errors
    /// Bytes that are not an archive, or a truncated archive.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let files = ZipArchive::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
        let name = |name: Result<std::borrow::Cow<str>, zip::result::ZipError>| {
            name.map(|name| name.into_owned()).map_err(|e| e.to_string())
        };
        let names = files.file_names().map(name).collect::<Result<_, _>>()?;
        Ok(Self { files, names, bytes })
    }

    /// Reads a whole file of at most `most` bytes.
    pub(crate) fn read(&mut self, name: &str, most: usize) -> Result<Vec<u8>, String> {
        let fail = |e: &dyn std::fmt::Display| format!("`{name}`: {e}");
        let file = self.files.by_name(name).map_err(|e| fail(&e))?;
        let size = file.size();
        if size > most as u64 {
            return Err(format!("`{name}` has {size} bytes, more than {most}"));
        }
        let mut content = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut content).map_err(|e| fail(&e))?;
        Ok(content)
    }

    /// Byte range and checksum of the file `name`.
    pub(crate) fn part(&mut self, name: &str) -> Result<Checksum, String> {
        let index = self.files.index_for_name(name).ok_or_else(|| format!("the archive has no `{name}`"))?;
        let file = self.files.by_index_raw(index).map_err(|e| format!("`{name}`: {e}"))?;
        if file.compression() != CompressionMethod::Stored || file.encrypted() {
            return Err(format!("`{name}` is compressed or encrypted, which is not supported"));
        }
        let start = file.data_start().and_then(|start| usize::try_from(start).ok());
        let end = usize::try_from(file.size()).ok().and_then(|size| start?.checked_add(size));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.bytes.len() => {
                Ok(Checksum { bytes: start..end, crc32: file.crc32() })
            }
            _ => Err(format!("`{name}` ends early")),
        }
    }
}
