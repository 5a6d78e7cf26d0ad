//! JPEG decoding by libjpeg-turbo, which Pillow uses too: the same pixels, bit for bit.
//!
//! libjpeg passes over damage with a warning, and so do Pillow and this module: the pixels are what libjpeg makes of the
//! file. But a file that ends before its pixel data is an error, as in Pillow. One without its end marker that has all its
//! rows is read.

use super::Size;
use turbojpeg::{Colorspace, DecompressHeader, Decompressor, Error, PixelFormat};

/// Decoded pixels: height, width, channels, and bytes [H, W, C] row-major.
type Pixels = (usize, usize, usize, Vec<u8>);

/// Largest image in bytes, because a header can claim more than the available memory.
const MOST_BYTES: usize = 512 << 20;

/// Largest number of scans: files made to be slow have many, and others some twenty.
const MOST_SCANS: u32 = 500;

/// The marker that ends a file.
const END: [u8; 2] = [0xff, 0xd9];

/// The image, with 1 channel if the file is grey and otherwise 3.
///
/// # Errors
/// A truncated or damaged file, or one of a kind that is not supported.
pub(super) fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    let mut decoder = decoder()?;
    let header = header(&mut decoder, bytes)?;
    let (channels, format) = match header.colorspace {
        Colorspace::Gray => (1, PixelFormat::GRAY),
        Colorspace::YCbCr | Colorspace::RGB => (3, PixelFormat::RGB),
        Colorspace::CMYK | Colorspace::YCCK => (4, PixelFormat::CMYK),
    };
    let (height, width) = (header.height, header.width);
    let length = width.checked_mul(channels).and_then(|pitch| pitch.checked_mul(height));
    let length = length
        .filter(|length| *length <= MOST_BYTES)
        .ok_or_else(|| format!("the JPEG claims {width} × {height} pixels, more than are read"))?;
    let mut data = vec![0; length];
    let mut read = |bytes: &[u8]| {
        let pixels = &mut data[..];
        let image = turbojpeg::Image { pixels, width, pitch: width * channels, height, format };
        damage(decoder.decompress(bytes, image))
    };
    if read(bytes)?.is_some() {
        let pixel_data = PixelData::of(bytes);
        if !pixel_data.has_end && pixel_data.scans_follow {
            return Err("the JPEG is truncated: it ends before its last scans".into());
        }
        // With its end marker, a file lacks pixel data exactly if a scan meets the marker.
        if !pixel_data.has_end
            && read(&[bytes, &END].concat())?.is_some_and(|warning| warning.contains("premature end"))
        {
            return Err("the JPEG is truncated: it ends before its pixel data".into());
        }
    }
    match channels {
        4 => Ok((height, width, 3, data.chunks_exact(4).flat_map(from_inverted_cmyk).collect())),
        _ => Ok((height, width, channels, data)),
    }
}

/// (height, width), from the header.
///
/// # Errors
/// A file that ends before its frame header, or has none.
pub(super) fn size(bytes: &[u8]) -> Result<Size, String> {
    let header = header(&mut decoder()?, bytes)?;
    Ok((header.height, header.width))
}

fn decoder() -> Result<Decompressor, String> {
    let mut decoder = Decompressor::new().map_err(|e| in_words(&e))?;
    decoder.set_scan_limit(MOST_SCANS).map_err(|e| in_words(&e))?;
    Ok(decoder)
}

fn header(decoder: &mut Decompressor, bytes: &[u8]) -> Result<DecompressHeader, String> {
    decoder.read_header(bytes).map_err(|e| in_words(&e))
}

/// The last warning of a file that was decoded.
///
/// # Errors
/// The reason why it was not.
fn damage(result: Result<(), Error>) -> Result<Option<String>, String> {
    /// How the warnings of libjpeg's `jerror.h` begin that files can cause. The other messages are errors.
    const WARNINGS: [&str; 6] = [
        "Corrupt JPEG data",
        "Inconsistent progression sequence",
        "Invalid SOS parameters for sequential JPEG",
        "Premature end of JPEG file",
        "Unknown Adobe color transform",
        "Warning:",
    ];
    match result {
        Ok(()) => Ok(None),
        Err(Error::TurboJpegError(message)) if WARNINGS.iter().any(|start| message.contains(start)) => {
            Ok(Some(message))
        }
        Err(error) => Err(in_words(&error)),
    }
}

/// Messages of libjpeg that are no damage, by a part of them.
const REASONS: [(&str, &str); 8] = [
    ("Unsupported JPEG process", "a hierarchical JPEG, which is not supported; save it as PNG"),
    ("data precision", "a JPEG of other than 8 bits a sample, which is not supported; save it as PNG"),
    ("colorspace", "a JPEG of another number of components than 1, 3 or 4; save it as PNG"),
    ("Fractional sampling", "a JPEG with fractions of sampling factors, which are not supported; save it as PNG"),
    ("sampling factors", "a JPEG with sampling factors that are not allowed"),
    ("no image", "the JPEG has no pixel data"),
    ("progressive scan", "a JPEG of more than 500 scans, which is not read"),
    ("Arithmetic", "an arithmetically coded JPEG, which is not supported; save it as PNG"),
];

fn in_words(error: &Error) -> String {
    let message = error.to_string();
    let known = REASONS.iter().find(|(part, _)| message.contains(part));
    known.map_or("the JPEG is damaged or truncated; open it in a viewer, and save or download it again", |(_, words)| words).into()
}

/// RGB of a pixel in inverted CMYK, as Pillow reads the CMYK of a JPEG and converts it.
fn from_inverted_cmyk(pixel: &[u8]) -> [u8; 3] {
    let paper = i32::from(pixel[3]);
    [pixel[0], pixel[1], pixel[2]].map(|ink| {
        let product = i32::from(255 - ink) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

/// What follows the headers of a file.
struct PixelData {
    /// Whether there is an end marker.
    has_end: bool,
    /// Whether the image has more than one scan.
    scans_follow: bool,
}

impl PixelData {
    fn of(bytes: &[u8]) -> Self {
        let (mut components, mut progressive, mut at) = (0, false, 2);
        while let Some([0xff, marker, high, low, rest @ ..]) = bytes.get(at..) {
            match marker {
                0xff => {
                    at += 1; // a byte to fill
                    continue;
                }
                // Start of a scan: the number of its components.
                0xda => {
                    let has_end = rest.windows(2).any(|pair| pair == END);
                    return Self { has_end, scans_follow: progressive || rest.first() != Some(&components) };
                }
                // Start of a frame: precision, height and width, and the number of components. The others are tables.
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                    components = rest.get(5).copied().unwrap_or(0);
                    progressive = marker & 3 == 2;
                }
                _ => {}
            }
            at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
        }
        Self { has_end: true, scans_follow: false }
    }
}
