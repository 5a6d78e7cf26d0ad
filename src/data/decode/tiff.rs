//! TIFF: the kinds whose pixels were compared with Pillow's. Others are refused, with their name.

use super::super::Size;
use super::super::orientation::Turn;
use super::kind::Kind;
use super::pixels::{MOST_BYTES, Pixels, first, high, scaled};
use ::tiff::decoder::{Decoder, DecodingResult, Limits};
use ::tiff::tags::Tag;
use ::tiff::{ColorType, TiffError};
use std::io::Cursor;

type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

/// Values of the tag `PhotometricInterpretation`, by name.
const MEANINGS: [(u32, &str); 5] = [
    (3, "a palette"),
    (4, "a transparency mask"),
    (6, "YCbCr colours"),
    (8, "L*a*b* colours"),
    (32_803, "the raw pixels of a camera"),
];

/// Compressions that are read: none, CCITT group 4, LZW, deflate (by two numbers) and PackBits.
const COMPRESSIONS: [u32; 6] = [1, 4, 5, 8, 32_946, 32_773];

pub(super) fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    let mut reader = open(bytes)?;
    let (width, height) = reader.dimensions().map_err(in_words)?;
    let (height, width) = (height as usize, width as usize);
    let color = reader.colortype();
    let number = |reader: &mut Reader, tag, default| -> u32 {
        // One number, or one for each channel.
        let numbers = reader.find_tag_unsigned_vec(tag).ok().flatten();
        numbers.and_then(|numbers| numbers.first().copied()).unwrap_or(default)
    };
    let meaning = number(&mut reader, Tag::PhotometricInterpretation, 1);
    if let Some((_, name)) = MEANINGS.iter().find(|(value, _)| *value == meaning) {
        return Err(Kind::Tiff.not_supported(name));
    }
    let compression = number(&mut reader, Tag::Compression, 1);
    if !COMPRESSIONS.contains(&compression) {
        let name = match compression {
            6 | 7 => "JPEG compression".into(),
            2 | 3 => "the compression of a fax machine".into(),
            other => format!("compression number {other}"),
        };
        return Err(Kind::Tiff.not_supported(&name));
    }
    let samples = number(&mut reader, Tag::SamplesPerPixel, 1) as usize;
    let bits = number(&mut reader, Tag::BitsPerSample, 1) as usize;
    if number(&mut reader, Tag::SampleFormat, 1) != 1 {
        return Err(Kind::Tiff.not_supported("signed or floating-point pixels"));
    }
    if number(&mut reader, Tag::FillOrder, 1) != 1 {
        return Err(Kind::Tiff.not_supported("bits in reverse order"));
    }
    if samples > 1 && number(&mut reader, Tag::PlanarConfiguration, 1) != 1 {
        return Err(Kind::Tiff.not_supported("colours in separate planes"));
    }
    let color = color.map_err(in_words)?;
    // The decoder would take the differences of pixels for those of pixels without their extra channels.
    if usize::from(color.num_samples()) != samples && number(&mut reader, Tag::Predictor, 1) != 1 {
        return Err(Kind::Tiff.not_supported("a predictor (differences of pixels) and an extra channel"));
    }
    let (all, channels) = match color {
        ColorType::Gray(1 | 8) => (1, 1),
        ColorType::Gray(16) if meaning == 1 => (1, 1),
        ColorType::RGB(8 | 16) => (3, 3),
        // The colours of associated alpha (1) are multiplied by it.
        ColorType::RGBA(8 | 16) if number(&mut reader, Tag::ExtraSamples, 2) != 1 => (4, 3),
        ColorType::CMYK(8) => (4, 4),
        other => return Err(Kind::Tiff.not_supported(&described(other, meaning))),
    };
    if height.saturating_mul(width).saturating_mul(samples * bits.div_ceil(8)) > MOST_BYTES {
        return Err("the TIFF claims more pixels than are read".into());
    }
    if compression == 1 {
        let strips = reader.find_tag_unsigned_vec::<u64>(Tag::StripByteCounts).ok().flatten();
        let there: Option<u64> = strips.map(|strips| strips.iter().sum());
        let needed = (width * samples * bits).div_ceil(8).saturating_mul(height) as u64;
        if there.is_some_and(|there| there < needed) {
            return Err("the TIFF is truncated: pixel data are missing".into());
        }
    }
    let data: Vec<u8> = match reader.read_image().map_err(in_words)? {
        DecodingResult::U8(values) if bits == 1 => unpacked(&values, width, height),
        DecodingResult::U8(values) if channels == 4 => {
            values.as_chunks().0.iter().flat_map(printed).collect()
        }
        DecodingResult::U8(values) if all == channels => values,
        DecodingResult::U8(values) => first(&values, all, channels).collect(),
        DecodingResult::U16(values) => {
            first(&values, all, channels).map(if all == 1 { scaled } else { high }).collect()
        }
        _ => return Err(Kind::Tiff.not_supported("pixels of more than 16 bits")),
    };
    let channels = channels.min(3);
    if data.len() != height * width * channels {
        return Err("the TIFF is truncated: pixel data are missing".into());
    }
    Ok(Pixels { height, width, channels, data }.turned(Turn::of_tiff(bytes)))
}

/// (height, width) of the image as it is read: turned by its tag `Orientation`, as by Pillow.
pub(super) fn size(bytes: &[u8]) -> Result<Size, String> {
    let (width, height) = open(bytes)?.dimensions().map_err(in_words)?;
    Ok(Turn::of_tiff(bytes).size((height as usize, width as usize)))
}

fn open(bytes: &[u8]) -> Result<Reader<'_>, String> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MOST_BYTES;
    limits.intermediate_buffer_size = MOST_BYTES;
    Ok(Decoder::new(Cursor::new(bytes)).map_err(in_words)?.with_limits(limits))
}

/// One byte for each bit of rows that begin in a byte of their own: 0 or 255.
fn unpacked(values: &[u8], width: usize, height: usize) -> Vec<u8> {
    let rows = values.chunks_exact(width.div_ceil(8)).take(height);
    rows.flat_map(|row| (0..width).map(|x| if row[x / 8] >> (7 - x % 8) & 1 == 1 { 255 } else { 0 }))
        .collect()
}

/// RGB of CMYK, as Pillow converts it.
fn printed(&[c, m, y, k]: &[u8; 4]) -> [u8; 3] {
    let paper = 255 - i32::from(k);
    [c, m, y].map(|ink| {
        let product = i32::from(ink) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

fn described(color: ColorType, meaning: u32) -> String {
    let bits = color.bit_depth();
    match color {
        ColorType::Gray(_) if meaning == 0 => format!("{bits}-bit grey in which 0 is white"),
        ColorType::Gray(_) => format!("{bits}-bit grey"),
        ColorType::RGB(_) => format!("RGB colours of {bits} bits"),
        ColorType::RGBA(8 | 16) => "colours that are multiplied by their alpha".into(),
        ColorType::RGBA(_) => format!("RGBA colours of {bits} bits"),
        ColorType::GrayA(_) => "grey with alpha".into(),
        ColorType::CMYK(_) | ColorType::CMYKA(_) => format!("CMYK colours of {bits} bits or with alpha"),
        _ => format!("{} channels of {bits} bits", color.num_samples()),
    }
}

/// What the decoder says, without its debug words.
fn in_words(error: TiffError) -> String {
    match error {
        TiffError::IoError(_) => "the TIFF is truncated: pixel data are missing".into(),
        TiffError::UnsupportedError(_) => {
            Kind::Tiff.not_supported("features of the format that are rarely used")
        }
        TiffError::LimitsExceeded => "the TIFF claims more pixels than are read".into(),
        _ => "the TIFF is damaged or truncated; open it in a viewer, and save or download it again".into(),
    }
}
