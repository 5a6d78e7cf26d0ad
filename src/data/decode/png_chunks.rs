//! The chunks of a PNG that define its pixels, as strictly checked as by Pillow: the checksums of the header and of the
//! palette must be right, others do not matter, and nothing needs to follow the pixel data.

use super::super::Size;
use ::png::DecodingError;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A chunk of a PNG.
pub(in crate::data) struct Chunk<'a> {
    pub name: [u8; 4],
    pub data: &'a [u8],
    /// Whether the file has all of the chunk's data.
    whole: bool,
    /// Whether its checksum is right.
    sound: bool,
}

/// The chunks of a PNG, up to its end or the end of the file.
pub(in crate::data) fn chunks_of_png(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (head, behind) = rest.split_first_chunk::<8>()?;
        let [l0, l1, l2, l3, name @ ..] = *head;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let whole = length <= behind.len();
        let (data, behind) = behind.split_at(length.min(behind.len()));
        let sound = behind.first_chunk().is_some_and(|sum| {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&name);
            hasher.update(data);
            hasher.finalize().to_be_bytes() == *sum
        });
        rest = if &name == b"IEND" { &[] } else { behind.get(4..).unwrap_or_default() };
        Some(Chunk { name, data, whole, sound })
    })
}

/// The file with only the chunks that define its pixels, all with right checksums and an end.
///
/// # Errors
/// No header at the start, a wrong checksum of the header or the palette, no pixel data.
pub(in crate::data) fn sound_png(bytes: &[u8]) -> Result<Vec<u8>, String> {
    size(bytes)?;
    let mut sound = Vec::with_capacity(bytes.len() + 64);
    sound.extend_from_slice(SIGNATURE);
    let mut pixels = false;
    for chunk in chunks_of_png(bytes) {
        let name = &chunk.name;
        if pixels && name != b"IDAT" {
            break; // pixel data further on are ignored
        }
        match name {
            b"IHDR" | b"PLTE" | b"tRNS" => {
                if name != b"tRNS" && !chunk.sound {
                    let name = String::from_utf8_lossy(name);
                    return Err(format!("the PNG is damaged: the checksum of its chunk {name} is wrong"));
                }
                append(&mut sound, name, chunk.data);
            }
            b"IDAT" => {
                append(&mut sound, name, chunk.data);
                pixels = true;
                if !chunk.whole {
                    break;
                }
            }
            _ => {}
        }
    }
    if !pixels {
        return Err("the PNG is truncated: it has no pixel data".into());
    }
    append(&mut sound, b"IEND", &[]);
    Ok(sound)
}

fn append(png: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    png.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let start = png.len();
    png.extend_from_slice(name);
    png.extend_from_slice(data);
    let sum = crc32fast::hash(&png[start..]);
    png.extend_from_slice(&sum.to_be_bytes());
}

/// (height, width) by the header.
///
/// # Errors
/// A file without a header.
pub(super) fn size(bytes: &[u8]) -> Result<Size, String> {
    let header = chunks_of_png(bytes).next().filter(|chunk| &chunk.name == b"IHDR" && chunk.data.len() == 13);
    let header = header.ok_or("the PNG is damaged: it does not begin with a header")?.data;
    let side =
        |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    Ok((side(4), side(0)))
}

/// What the decoder says, without its debug words.
pub(in crate::data) fn png_in_words(error: &DecodingError) -> String {
    let truncated = "the PNG is truncated: pixel data are missing";
    match error {
        DecodingError::IoError(_) => truncated.into(),
        DecodingError::LimitsExceeded => "the PNG claims more pixels than are read".into(),
        // The kinds of these errors are private.
        DecodingError::Format(what) => match what.to_string() {
            what if what.contains("InsufficientInput") || what.contains("enough data") => truncated.into(),
            what if what.contains("palette") => "the PNG is damaged: its palette is missing".into(),
            what if what.contains("deflate") => {
                "the PNG is damaged: its compressed pixel data are wrong".into()
            }
            _ => "the PNG is damaged: its header or its pixel data are wrong".into(),
        },
        DecodingError::Parameter(_) => "the PNG is damaged or truncated".into(),
    }
}
