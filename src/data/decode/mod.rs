//! Image files of every format that is read, to 8-bit pixels as Pillow converts them to RGB; see
//! [`Image::decode`](super::Image::decode).

mod kind;
mod pixels;
mod png_chunks;
mod tiff;

pub(super) use kind::Kind;
pub(super) use pixels::Pixels;
pub(super) use png_chunks::{chunks_of_png, png_in_words, sound_png};

use super::{Size, jpeg};
use ::image::{DynamicImage, ImageError, ImageReader};
use ::png::{BitDepth, ColorType, Decoder, Limits, Transformations};
use pixels::{MOST_BYTES, first, high, scaled};
use std::borrow::Cow;
use std::io::Cursor;

/// Decodes a file that is in memory.
///
/// # Errors
/// Why it is not read, in words, with the remedy if there is one.
pub(super) fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    match Kind::of(bytes)? {
        Kind::Jpeg => {
            let (height, width, channels, data) = jpeg::decode(bytes)?;
            Ok(Pixels { height, width, channels, data })
        }
        Kind::Png => png(bytes),
        Kind::Tiff => tiff::decode(bytes),
        kind @ (Kind::Bmp | Kind::WebP) => other(bytes, kind),
    }
}

/// (height, width) of a file, from its header.
///
/// # Errors
/// A file that is not an image of a known format, or without a sound header.
pub(super) fn size(bytes: &[u8]) -> Result<Size, String> {
    let kind = Kind::of(bytes)?;
    match kind {
        Kind::Jpeg => jpeg::size(bytes),
        Kind::Png => png_chunks::size(bytes),
        Kind::Tiff => tiff::size(bytes),
        Kind::Bmp | Kind::WebP => {
            let reader = ImageReader::with_format(Cursor::new(bytes), kind.format());
            let (width, height) = reader.into_dimensions().map_err(|e| in_words(&e, kind))?;
            Ok((height as usize, width as usize))
        }
    }
}

fn png(bytes: &[u8]) -> Result<Pixels, String> {
    let sound = sound_png(bytes)?;
    let mut decoder = Decoder::new_with_limits(Cursor::new(&sound), Limits { bytes: MOST_BYTES });
    decoder.ignore_checksums(false);
    decoder.set_transformations(Transformations::EXPAND);
    let fail = |e| png_in_words(&e);
    let mut reader = decoder.read_info().map_err(fail)?;
    let size = reader.output_buffer_size().filter(|size| *size <= MOST_BYTES);
    let mut data = vec![0; size.ok_or("the PNG claims more pixels than are read")?];
    let frame = reader.next_frame(&mut data).map_err(fail)?;
    let grey = reader.info().color_type == ColorType::Grayscale;
    data.truncate(frame.buffer_size());
    let (height, width) = (frame.height as usize, frame.width as usize);
    let (all, channels) = match frame.color_type {
        ColorType::Grayscale => (1, 1),
        ColorType::GrayscaleAlpha => (2, 1),
        ColorType::Rgb | ColorType::Indexed => (3, 3),
        ColorType::Rgba => (4, 3),
    };
    let data = match frame.bit_depth {
        BitDepth::Sixteen => {
            let wide: Vec<u16> = data.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect();
            let narrow = if grey { scaled } else { high };
            first(&wide, all, channels).map(narrow).collect()
        }
        _ if all == channels => data,
        _ => first(&data, all, channels).collect(),
    };
    Ok(Pixels { height, width, channels, data })
}

/// BMP and WebP.
fn other(bytes: &[u8], kind: Kind) -> Result<Pixels, String> {
    // Runs may leave out pixels, which are then black, or refused by Pillow.
    if kind == Kind::Bmp && matches!(bytes.get(30..34), Some([1 | 2, 0, 0, 0])) && bytes[14] >= 40 {
        return Err(kind.not_supported("run-length compression"));
    }
    let bytes = if kind == Kind::Bmp { with_last_padding(bytes) } else { bytes.into() };
    let reader = ImageReader::with_format(Cursor::new(&bytes), kind.format());
    let decoded = reader.decode().map_err(|e| in_words(&e, kind))?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let (channels, data) = match decoded {
        DynamicImage::ImageLuma8(image) => (1, image.into_raw()),
        DynamicImage::ImageRgb8(image) => (3, image.into_raw()),
        DynamicImage::ImageRgba8(image) => (3, first(image.as_raw(), 4, 3).collect()),
        _ => return Err(kind.not_supported("pixels of another kind than grey, RGB and RGBA of 8 bits")),
    };
    Ok(Pixels { height, width, channels, data })
}

/// A BMP whose last row lacks nothing but the bytes that fill it to a multiple of four, with these.
fn with_last_padding(bytes: &[u8]) -> Cow<'_, [u8]> {
    let number = |at: usize, length: usize| -> Option<usize> {
        Some(bytes.get(at..at + length)?.iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    };
    let missing = || -> Option<usize> {
        let (start, old) = (number(10, 4)?, number(14, 4)? == 12);
        let (width, height, bits) = match old {
            true => (number(18, 2)?, number(20, 2)?, number(24, 2)?),
            false => (number(18, 4)?, (number(22, 4)? as u32 as i32).unsigned_abs() as usize, number(28, 2)?),
        };
        if !old && !matches!(number(30, 4)?, 0 | 3) {
            return None; // run lengths
        }
        let filled = width.checked_mul(bits)?.div_ceil(8);
        let row = filled.next_multiple_of(4);
        let missing = start.checked_add(row.checked_mul(height)?)?.checked_sub(bytes.len())?;
        (missing <= row - filled).then_some(missing)
    };
    match missing() {
        None | Some(0) => bytes.into(),
        Some(missing) => [bytes, &[0; 3][..missing]].concat().into(),
    }
}

/// What a decoder of the crate `image` says, without its debug words.
fn in_words(error: &ImageError, kind: Kind) -> String {
    match error {
        ImageError::Unsupported(_) => kind.not_supported("features of the format that are rarely used"),
        ImageError::Limits(_) => format!("the {} claims more pixels than are read", kind.name()),
        ImageError::IoError(_) => format!("the {} is truncated: pixel data are missing", kind.name()),
        _ => format!(
            "the {} is damaged or truncated; open it in a viewer, and save or download it again",
            kind.name()
        ),
    }
}
