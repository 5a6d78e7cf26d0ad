//! JPEG decoding by libjpeg-turbo, which Pillow uses too: the same pixels, bit for bit.
//!
//! libjpeg passes over damage with a warning, and so do Pillow and this module: the pixels are what libjpeg makes of the
//! file. But a file that ends before its pixel data is an error, as in Pillow. One without its end marker that has all its
//! rows is read.

mod decompressor;

use super::Size;
use decompressor::{Colors, Decompressor, Problem};

/// Decoded pixels: height, width, channels, and bytes [H, W, C] row-major.
type Pixels = (usize, usize, usize, Vec<u8>);

/// Largest image in bytes, because a header can claim more than the available memory.
const MOST_BYTES: usize = 512 << 20;

/// Largest number of scans: files made to be slow have many, and others some twenty.
const MOST_SCANS: u16 = 500;

/// Part of libjpeg's warning about a scan that ends before its pixel data.
const SCAN_ENDS: &str = "premature end of data segment";

/// The marker that ends a file.
const END: [u8; 2] = [0xff, 0xd9];

/// The image, with 1 channel if the file is grey and otherwise 3.
///
/// # Errors
/// A truncated or damaged file, or one of a kind that is not supported.
pub(super) fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    let mut decompressor = Decompressor::new(MOST_SCANS).map_err(in_words)?;
    let header = decompressor.header(bytes).map_err(in_words)?;
    let (height, width, channels) = (header.height, header.width, header.colors.channels());
    if height * width * channels > MOST_BYTES {
        return Err(format!("the JPEG claims {width} × {height} pixels, more than are read"));
    }
    let mut data = vec![0; height * width * channels];
    let mut read = |bytes: &[u8]| match decompressor.pixels(bytes, header, &mut data) {
        Ok(()) => Ok(None),
        Err(Problem::Warning(warning)) => Ok(Some(warning)),
        Err(error) => Err(in_words(error)),
    };
    if read(bytes)?.is_some() {
        let scans = Scans::of(bytes);
        if !scans.ended && scans.several {
            return Err("the JPEG is truncated: it ends before its last scans".into());
        }
        // With an end marker behind it, a file lacks pixel data exactly if its scan meets the marker.
        if !scans.ended && read(&[bytes, &END].concat())?.is_some_and(|warning| warning.contains(SCAN_ENDS)) {
            return Err("the JPEG is truncated: it ends before its pixel data".into());
        }
    }
    match header.colors {
        Colors::Grey | Colors::Rgb => Ok((height, width, channels, data)),
        Colors::Cmyk => Ok((height, width, 3, data.chunks_exact(4).flat_map(from_inverted_cmyk).collect())),
    }
}

/// (height, width), from the header.
///
/// # Errors
/// A file that ends before its frame header, or has none.
pub(super) fn size(bytes: &[u8]) -> Result<Size, String> {
    let header = Decompressor::new(MOST_SCANS).and_then(|mut decompressor| decompressor.header(bytes));
    header.map(|header| (header.height, header.width)).map_err(in_words)
}

/// Reasons for which a sound file is not read, by a part of libjpeg's message.
const REASONS: [(&str, &str); 7] = [
    ("Unsupported JPEG process", "a hierarchical JPEG is not supported; save the image as PNG"),
    ("precision", "a JPEG with other than 8 bits a sample is not supported; save the image as PNG"),
    (
        "olorspace",
        "a JPEG with another number of components than 1, 3 or 4 is not supported; save the image as PNG",
    ),
    (
        "ractional sampling",
        "a JPEG with fractions of sampling factors is not supported; save the image as PNG",
    ),
    ("progressive scan", "a JPEG with more than 500 scans is not read"),
    ("no image", "the JPEG is truncated: it ends before its pixel data"),
    ("emory", "there is too little memory for the JPEG"),
];

fn in_words(problem: Problem) -> String {
    let (Problem::Warning(message) | Problem::Error(message)) = problem;
    let known = REASONS.iter().find(|(part, _)| message.contains(part)).map(|(_, words)| *words);
    known
        .unwrap_or("the JPEG is damaged or truncated; open it in a viewer, and save or download it again")
        .into()
}

/// RGB of a pixel in inverted CMYK, as Pillow reads the CMYK of a JPEG and converts it.
fn from_inverted_cmyk(pixel: &[u8]) -> [u8; 3] {
    let paper = i32::from(pixel[3]);
    [pixel[0], pixel[1], pixel[2]].map(|ink| {
        let product = i32::from(255 - ink) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

/// The scans of a file, without reading them.
struct Scans {
    /// Whether an end marker follows.
    ended: bool,
    /// Whether there are several.
    several: bool,
}

impl Scans {
    fn of(bytes: &[u8]) -> Self {
        let (mut components, mut progressive, mut at) = (0, false, 2);
        while let Some([0xff, marker, rest @ ..]) = bytes.get(at..) {
            // Bytes that fill, and markers without a segment.
            if matches!(marker, 0x01 | 0xd0..=0xd8 | 0xff) {
                at += if *marker == 0xff { 1 } else { 2 };
                continue;
            }
            let [high, low, segment @ ..] = rest else { break };
            match marker {
                // The start of a scan: the number of its components.
                0xda => {
                    let ended = segment.windows(2).any(|pair| pair == END);
                    return Self { ended, several: progressive || segment.first() != Some(&components) };
                }
                // The start of a frame: depth, height, width, and the number of components.
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                    components = segment.get(5).copied().unwrap_or(0);
                    progressive = marker & 3 == 2;
                }
                _ => {}
            }
            at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
        }
        // Something other than a segment, which libjpeg passes over: whether the file ends early is not known.
        Self { ended: bytes.windows(2).any(|pair| pair == END), several: true }
    }
}
