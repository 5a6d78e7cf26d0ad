//! Files that cannot be read, or are not what their names say, and the text in files: for readers of every kind of file.

use std::borrow::Cow;
use std::io::{Error, ErrorKind};
use std::path::Path;

/// Files that come in place of others, by how they begin: names, with what to do about them, and magic bytes.
const MISTAKEN: [(&str, &[u8]); 9] = [
    (
        "a pointer to a file of Git LFS, which is not here (`git lfs pull` gets it)",
        b"version https://git-lfs",
    ),
    ("a gzip file (unpack it with `gunzip`)", b"\x1f\x8b"),
    ("a bzip2 file (unpack it with `bunzip2`)", b"BZh"),
    ("an xz file (unpack it with `unxz`)", b"\xfd7zXZ\0"),
    ("a Zstandard file (unpack it with `unzstd`)", b"\x28\xb5\x2f\xfd"),
    ("a zip archive, as workbooks (.xlsx) are too (unpack it, or export the table as CSV)", b"PK\x03\x04"),
    ("a PDF document", b"%PDF"),
    ("a NumPy array", b"\x93NUMPY"),
    ("an HDF5 file", b"\x89HDF\r\n\x1a\n"),
];
/// Text with tags, by its first tag in lower case.
const MARKUP: [(&str, &str); 5] = [
    ("<!doctype html", WEB_PAGE),
    ("<html", WEB_PAGE),
    ("<head", WEB_PAGE),
    ("<svg", "an SVG drawing"),
    ("<?xml", "an XML file"),
];
const WEB_PAGE: &str = "a web page (a site sent it in place of the file; get the file itself)";
/// Bytes in which the first tag, and zeros of UTF-16, are looked for.
const BEGINNING: usize = 200;
/// Number of an error of Unix and macOS for links that lead to each other.
#[cfg(unix)]
const LOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };

/// What the content of a file is if it begins like a file of another kind than those read here: a pointer of Git LFS, a web
/// page, a packed file. A noun with its article, and what to do about it.
pub(crate) fn mistaken(bytes: &[u8]) -> Option<&'static str> {
    let magic = MISTAKEN.iter().find(|(_, magic)| bytes.starts_with(magic)).map(|(name, _)| *name);
    // A tape archive has its name behind the name of its first file.
    let tape = || {
        bytes
            .get(257..262)
            .filter(|magic| magic == b"ustar")
            .map(|_| "a tar archive (unpack it with `tar -xf`)")
    };
    let markup = || {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(BEGINNING)]);
        let text = text.trim_start_matches('\u{feff}').trim_start().to_lowercase();
        MARKUP.iter().find(|(tag, _)| text.starts_with(tag)).map(|(_, name)| *name)
    };
    magic.or_else(tape).or_else(markup)
}

/// The bytes of the file at `path`.
///
/// # Errors
/// The reason in the words of [`reason`], without the path.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| reason(path, &error))
}

/// Why the file at `path` could not be opened or read, and what to do about it.
pub(crate) fn reason(path: &Path, error: &Error) -> String {
    let target = std::fs::read_link(path).ok();
    match error.kind() {
        ErrorKind::NotFound => match target {
            Some(target) => {
                format!("No such file: it is a link to `{}`, which does not exist", target.display())
            }
            None => format!("No such file{}", near(path)),
        },
        ErrorKind::PermissionDenied => {
            "it may not be read (permission denied): `ls -l` shows its rights, and \
                                        `chmod u+r` gives its owner the right to read it"
                .into()
        }
        ErrorKind::IsADirectory => "it is a folder, and not a file".into(),
        ErrorKind::NotADirectory => "its path leads through a file as if that were a folder".into(),
        #[cfg(unix)]
        _ if error.raw_os_error() == Some(LOOP) => {
            "it is a link that leads back to itself; remove it, or make it lead to the file".into()
        }
        _ => error.to_string(),
    }
}

/// Most entries of a folder among which a similar name is looked for.
const MOST_NAMES: usize = 20_000;

/// For a message on a file that is not there: a file beside it whose name differs in upper and lower case, or by an ending;
/// empty without one.
pub(crate) fn near(path: &Path) -> String {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return String::new();
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(files) = std::fs::read_dir(folder) else { return String::new() };
    let stem = |name: &str| Path::new(name).file_stem().and_then(|stem| stem.to_str()).map(str::to_lowercase);
    let (wanted, whole) = (stem(name), name.to_lowercase());
    let mut other = None;
    for file in files.take(MOST_NAMES).flatten() {
        let Ok(found) = file.file_name().into_string() else { continue };
        if found.to_lowercase() == whole {
            return format!("; there is `{found}`, in other case");
        }
        let found_stem = stem(&found);
        let same = found_stem == wanted || found_stem.as_deref() == Some(&whole);
        if same || wanted.as_deref() == Some(&found.to_lowercase()) {
            other = Some(found);
        }
    }
    other.map_or(String::new(), |found| format!("; there is `{found}`, with another ending"))
}

/// `bytes` as UTF-8 without a byte-order mark. Text that begins with a mark of UTF-16 or UTF-32, as programs on Windows save
/// it, is converted.
///
/// # Errors
/// Bytes that are not text, or text of another encoding: names it, the line, and what to do.
pub(crate) fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    let found = match bytes {
        [0xff, 0xfe, 0, 0, rest @ ..] => utf32(rest, u32::from_le_bytes),
        [0, 0, 0xfe, 0xff, rest @ ..] => utf32(rest, u32::from_be_bytes),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => return unmarked(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).map(Cow::Borrowed),
    };
    let text = found.map_err(|name| {
        format!("it begins with the mark of {name} text, but is damaged or cut off; save it as UTF-8")
    })?;
    Ok(Cow::Owned(text))
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, &'static str> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let text = char::decode_utf16(pairs.iter().map(|pair| unit(*pair))).collect::<Result<String, _>>();
    text.ok().filter(|_| rest.is_empty()).ok_or("UTF-16")
}

fn utf32(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> Result<String, &'static str> {
    let (fours, rest) = bytes.as_chunks::<4>();
    let text = fours.iter().map(|four| char::from_u32(unit(*four))).collect::<Option<String>>();
    text.filter(|_| rest.is_empty()).ok_or("UTF-32")
}

/// Text without a byte-order mark.
fn unmarked(bytes: &[u8]) -> Result<&str, String> {
    if let Some(what) = mistaken(bytes) {
        return Err(format!("the file is {what}"));
    }
    let beginning = &bytes[..bytes.len().min(BEGINNING)];
    let zeros = |odd: usize| beginning.iter().skip(odd).step_by(2).filter(|byte| **byte == 0).count();
    if zeros(0).max(zeros(1)) * 4 > beginning.len() {
        return Err("the file is UTF-16 or UTF-32 text without a byte-order mark; save it as UTF-8".into());
    }
    std::str::from_utf8(bytes).map_err(|error| {
        if beginning.contains(&0) {
            return "the file is not text".into();
        }
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!(
            "line {line}: not UTF-8 text, but perhaps Latin-1 or Windows-1252; save the file as UTF-8 (`iconv -f \
             WINDOWS-1252 -t UTF-8` converts it)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_in_every_marked_encoding() {
        let text = "a,ñ\r\n😀";
        let units =
            |unit: fn(u16) -> [u8; 2]| "\u{feff}a,ñ\r\n😀".encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let points = |unit: fn(u32) -> [u8; 4]| {
            "\u{feff}a,ñ\r\n😀".chars().flat_map(|c| unit(c.into())).collect::<Vec<u8>>()
        };
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            units(u16::to_le_bytes),
            units(u16::to_be_bytes),
            points(u32::to_le_bytes),
            points(u32::to_be_bytes),
        ] {
            assert_eq!(utf8(&bytes).unwrap(), text);
        }
        assert_eq!(utf8(b"").unwrap(), "");
        for cut in [3, 5] {
            let error = utf8(&units(u16::to_le_bytes)[..cut]).unwrap_err();
            assert!(error.contains("UTF-16") && error.contains("cut off"), "{error}");
        }
        assert!(utf8(b"\xff\xfe\0\0a\0\0").unwrap_err().contains("UTF-32"));
        assert!(utf8(b"\xff\xfe\0\xd8a\0").unwrap_err().contains("UTF-16"), "half of a pair");
    }

    #[test]
    fn other_encodings_and_files_are_named() {
        let zeros: Vec<u8> = "name,class\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, words) in [
            (&b"a\nb\xf1b\n"[..], "line 2: not UTF-8 text, but perhaps Latin-1"),
            (&zeros, "UTF-16 or UTF-32 text without a byte-order mark"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull`"),
            (b" \n<!DOCTYPE html>\n<html>", "a web page"),
            (b"\x1f\x8b\x08\0", "`gunzip`"),
            (b"PK\x03\x04\x14\0", ".xlsx"),
            (b"\x8f\0\0\0\x01\x02\x03\x04\x05", "not text"),
        ] {
            let error = utf8(bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let mut tape = vec![b'a'; 512];
        tape[257..262].copy_from_slice(b"ustar");
        assert!(mistaken(&tape).unwrap().contains("tar archive"));
        assert_eq!(mistaken(b"plain,text\n"), None);
    }

    #[test]
    fn a_file_of_a_similar_name_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let near = |name: &str| near(&folder.path().join(name));
        std::fs::write(folder.path().join("a1.jpg"), "").unwrap();
        assert_eq!(near("a1.JPG"), "; there is `a1.jpg`, in other case");
        assert_eq!(near("a1.png"), "; there is `a1.jpg`, with another ending");
        assert_eq!(near("A1"), "; there is `a1.jpg`, with another ending");
        assert_eq!(near("a1.jpg.jpg"), "; there is `a1.jpg`, with another ending");
        assert_eq!((near("b.jpg"), near("none/a1.jpg")), (String::new(), String::new()));
    }

    #[test]
    #[cfg(unix)]
    fn what_cannot_be_opened_is_told_with_the_remedy() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        symlink(path("loop"), path("loop")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        for (name, words) in [
            ("absent", "No such file"),
            ("dangling", "a link to `nowhere`, which does not exist"),
            ("loop", "leads back to itself"),
            ("file/below", "as if that were a folder"),
            ("", "a folder, and not a file"),
        ] {
            let error = read(&path(name)).unwrap_err();
            assert!(error.contains(words), "{name}: {error}");
        }
        let error = reason(&path("file"), &ErrorKind::PermissionDenied.into());
        assert!(error.contains("permission denied") && error.contains("chmod"), "{error}");
    }
}
