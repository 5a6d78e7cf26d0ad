//! PNG files as stored: no palette is looked up, no depth is scaled, no alpha is blended.

use super::super::Size;
use super::super::decode::{Kind, png_in_words, sound_png};
use ::png::{BitDepth, ColorType, Decoder, Encoder, Limits};
use std::io::Cursor;

/// The pixels of a PNG as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::data) struct StoredPixels {
    pub height: usize,
    pub width: usize,
    pub pixels: StoredValues,
    /// Whether the numbers are indices of a palette.
    pub palette: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::data) enum StoredValues {
    /// Grey values, or indices of a palette.
    Numbers(Vec<u16>),
    Colours(Vec<[u8; 3]>),
}

/// Largest decoded mask in bytes; a header that claims more is treated as damaged.
const MOST_BYTES: usize = 1 << 30;

/// Reads a PNG without converting its values.
///
/// # Errors
/// A file that is not a PNG, a truncated PNG, or one with alpha or 16-bit colours.
pub(in crate::data) fn decode(bytes: &[u8]) -> Result<StoredPixels, String> {
    match Kind::of(bytes) {
        Ok(Kind::Png) => {}
        Ok(kind) => return Err(format!("is a {}, but only a PNG keeps the numbers of pixels", kind.name())),
        Err(_) => return Err("is not a PNG".into()),
    }
    let sound = sound_png(bytes)?;
    let mut decoder = Decoder::new_with_limits(Cursor::new(&sound), Limits { bytes: MOST_BYTES });
    decoder.ignore_checksums(false);
    let mut reader = decoder.read_info().map_err(|e| png_in_words(&e))?;
    let size = reader.output_buffer_size().filter(|size| *size <= MOST_BYTES);
    let size = size.ok_or("is larger than any mask")?;
    let mut buffer = vec![0; size];
    let frame = reader.next_frame(&mut buffer).map_err(|e| png_in_words(&e))?;
    let (height, width) = (frame.height as usize, frame.width as usize);
    let row = frame.line_size;
    let rows = || buffer.chunks_exact(row).take(height);
    let pixels = match (frame.color_type, frame.bit_depth) {
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Sixteen) => {
            let value = |two: &[u8]| u16::from_be_bytes([two[0], two[1]]);
            StoredValues::Numbers(
                rows().flat_map(|row| row[..2 * width].chunks_exact(2).map(value)).collect(),
            )
        }
        (ColorType::Grayscale | ColorType::Indexed, depth) => {
            StoredValues::Numbers(rows().flat_map(|row| unpacked(row, depth as usize, width)).collect())
        }
        (ColorType::Rgb, BitDepth::Eight) => {
            let colour = |three: &[u8]| [three[0], three[1], three[2]];
            StoredValues::Colours(
                rows().flat_map(|row| row[..3 * width].chunks_exact(3).map(colour)).collect(),
            )
        }
        (ColorType::Rgb, _) => return Err("has colours of 16 bits, expected 8".into()),
        (ColorType::GrayscaleAlpha | ColorType::Rgba, _) => {
            return Err("has an alpha channel, expected grey, a palette or RGB".into());
        }
    };
    let palette = frame.color_type == ColorType::Indexed;
    Ok(StoredPixels { height, width, pixels, palette })
}

/// `width` values of `depth` ≤ 8 bits, the highest bits of a byte first.
fn unpacked(row: &[u8], depth: usize, width: usize) -> impl Iterator<Item = u16> + '_ {
    let (per_byte, most) = (8 / depth, (1u16 << depth) - 1);
    (0..width).map(move |x| {
        let shift = 8 - depth * (x % per_byte + 1);
        (u16::from(row[x / per_byte]) >> shift) & most
    })
}

/// Encodes values as a grey PNG of 16 bits.
pub(super) fn encode_grey(size: Size, values: &[u16]) -> Result<Vec<u8>, String> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
    encode(size, &bytes, |encoder| {
        encoder.set_color(ColorType::Grayscale);
        encoder.set_depth(BitDepth::Sixteen);
    })
}

/// Encodes values of at most 8 bits as a PNG of indices into `palette`, red, green and blue of each. Programs that read labels read the
/// indices, and programs that show pictures show the colors.
pub(super) fn encode_indexed(size: Size, values: &[u16], palette: &[[u8; 3]]) -> Result<Vec<u8>, String> {
    let bytes: Vec<u8> = values.iter().map(|v| *v as u8).collect();
    encode(size, &bytes, |encoder| {
        encoder.set_color(ColorType::Indexed);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_palette(palette.concat());
    })
}

fn encode(
    (height, width): Size,
    bytes: &[u8],
    describe: impl FnOnce(&mut Encoder<&mut Vec<u8>>),
) -> Result<Vec<u8>, String> {
    let side = |n: usize| u32::try_from(n).map_err(|e| e.to_string());
    let mut png = vec![];
    let mut encoder = Encoder::new(&mut png, side(width)?, side(height)?);
    describe(&mut encoder);
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    writer.write_image_data(bytes).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(png)
}
