//! Text files of a data set: lists of names, tables and JSON.

use super::DataError;
use crate::files;
use std::borrow::Cow;
use std::path::Path;

/// The text of a file, without a byte-order mark. Lines that end with a carriage return alone end with a line feed instead.
///
/// # Errors
/// A file that cannot be read or is not text; the error names it.
pub(super) fn read_text(file: &Path) -> Result<String, DataError> {
    let bytes = files::read(file).map_err(|e| DataError::file(file, e))?;
    let text = files::utf8(&bytes).map(Cow::into_owned).map_err(|e| DataError::file(file, e))?;
    // Old Macintosh programs end lines so.
    Ok(if text.contains('\n') { text } else { text.replace('\r', "\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_skipped_and_other_encodings_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        let read = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            read_text(&file).map_err(|e| e.to_string())
        };
        assert_eq!(read("\u{feff}Ñandú\r\n".as_bytes()).unwrap(), "Ñandú\r\n");
        assert_eq!(read(b"").unwrap(), "");
        assert_eq!(read(b"a\rb\r").unwrap(), "a\nb\n");
        assert_eq!(read(b"\xff\xfea\0").unwrap(), "a");
        assert!(read(b"a\0b\0").unwrap_err().contains("a.txt: the file is UTF-16"));
        let error = read(b"a\nb\xf1b\n").unwrap_err();
        assert!(error.contains("a.txt: line 2: not UTF-8"), "{error}");
    }
}
