//! Text files of a data set: lists of names, tables and JSON.

use super::DataError;
use std::path::Path;

/// The byte-order mark of UTF-8, which programs on Windows write at the beginning of a file.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// `bytes` after a byte-order mark, if they begin with one.
///
/// # Errors
/// Text in UTF-16.
pub(super) fn without_mark(bytes: &[u8]) -> Result<&[u8], String> {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Err("the file is UTF-16 text; save it as UTF-8".into()),
        _ => Ok(bytes.strip_prefix(MARK).unwrap_or(bytes)),
    }
}

/// The text of a file, without a byte-order mark.
///
/// # Errors
/// A file that cannot be read or is not UTF-8; the error names it.
pub(super) fn read_text(file: &Path) -> Result<String, DataError> {
    let bytes = std::fs::read(file).map_err(|e| DataError::file(file, e))?;
    let text = without_mark(&bytes).map_err(|e| DataError::file(file, e))?;
    let not_utf8 = |e: std::str::Utf8Error| {
        let line = text[..e.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        DataError::file(file, format!("line {line}: not UTF-8 text; save the file as UTF-8"))
    };
    std::str::from_utf8(text).map(String::from).map_err(not_utf8)
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
        assert!(read(b"\xff\xfea\0").unwrap_err().contains("UTF-16"));
        let error = read(b"a\nb\xf1b\n").unwrap_err();
        assert!(error.contains("a.txt: line 2: not UTF-8"), "{error}");
    }
}
