//! Decoded images, and decoding with the same results as Pillow.
//!
//! `Image::open(path)` gives the same result as `Image.open(path).convert("RGB")` of Pillow 9.4, and therefore as
//! torchvision's loaders: byte for byte for PNG, BMP, TIFF and lossless WebP, within the rounding of another inverse
//! DCT and another chroma upsampling for JPEG (byte for byte with the feature `turbojpeg`). A truncated file is an
//! error rather than an image with a grey lower part.
//!
//! Deviations: 16-bit grey is scaled to 8 bits, where Pillow clips it at 255, which gives a white image. Formats other
//! than JPEG, PNG, WebP, BMP and TIFF are not read, nor are floating-point pixels.

use super::{Size, jpeg};
use ::image::{DynamicImage, ImageFormat, ImageReader};
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// 8-bit pixels, interleaved: [H, W, C] row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Interleaved bytes of the pixels, height × width × channels of them.
    pub data: Vec<u8>,
}

impl Image {
    /// An image with the given bytes.
    ///
    /// # Panics
    /// If `data` does not have height × width × channels bytes.
    pub fn new(height: usize, width: usize, channels: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), height * width * channels, "image buffer does not match its size");
        Self { height, width, channels, data }
    }

    /// (height, width)
    pub fn size(&self) -> Size {
        (self.height, self.width)
    }

    /// The image with `channels` (1 or 3) channels: grey is repeated, and colour is converted to grey as by Pillow's
    /// `convert("L")`.
    ///
    /// # Errors
    /// Other numbers of channels.
    pub fn with_channels(&self, channels: usize) -> Result<Self, String> {
        let data = match (self.channels, channels) {
            (from, to) if from == to => self.data.clone(),
            (1, 3) => self.data.iter().flat_map(|v| [*v; 3]).collect(),
            (3, 1) => self.data.chunks_exact(3).map(luma).collect(),
            (from, to) => return Err(format!("{from} channels cannot become {to}")),
        };
        Ok(Self::new(self.height, self.width, channels, data))
    }

    /// Reads the file at `path` and converts it to `channels` (1 or 3) channels.
    ///
    /// The format is recognised by content, not by name. The EXIF orientation is not applied, as in Pillow.
    ///
    /// # Errors
    /// A file that does not exist, is not an image of a known format, or is damaged or truncated.
    pub fn open(path: &Path, channels: usize) -> Result<Self, DecodeError> {
        std::fs::read(path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| Self::decode(&bytes, channels))
            .map_err(|reason| DecodeError { path: path.into(), reason })
    }

    /// (height, width) of the file at `path`, from its header alone.
    ///
    /// # Errors
    /// A file that does not exist or is not an image of a known format.
    pub fn size_of(path: &Path) -> Result<Size, DecodeError> {
        let fail = |reason: String| DecodeError { path: path.into(), reason };
        let reader = ImageReader::open(path).map_err(|e| fail(e.to_string()))?;
        let reader = reader.with_guessed_format().map_err(|e| fail(e.to_string()))?;
        let (width, height) = reader.into_dimensions().map_err(|e| fail(e.to_string()))?;
        Ok((height as usize, width as usize))
    }

    /// Decodes an encoded image held in memory.
    ///
    /// As Pillow converts: palettes are looked up, alpha is dropped, CMYK and YCCK JPEG files are treated as inverted,
    /// and of 16-bit colour, and of 16-bit grey with alpha, the high byte is kept. Unlike Pillow, 16-bit grey is
    /// divided by 257 and rounded, so that 65535 becomes 255. Maps of class ids keep their 16 bits: see
    /// [`RasterFile`](super::RasterFile).
    ///
    /// # Errors
    /// The reason why the bytes cannot be decoded, without the name of a file.
    pub fn decode(bytes: &[u8], channels: usize) -> Result<Self, String> {
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
        match reader.format() {
            None => return Err("is not an image of a known format (JPEG, PNG, WebP, BMP, TIFF)".into()),
            Some(ImageFormat::Jpeg) if !jpeg_has_end(bytes) => {
                return Err("the JPEG is truncated: it has no end marker".into());
            }
            Some(ImageFormat::Jpeg) => {
                if let Some((height, width, found, data)) = jpeg::decode(bytes) {
                    return Self::new(height, width, found, data).into_channels(channels);
                }
            }
            Some(_) => {}
        }
        let decoded = reader.decode().map_err(|e| e.to_string())?;
        let (width, height) = (decoded.width() as usize, decoded.height() as usize);
        let high = |v: &u16| (v >> 8) as u8;
        let scaled = |v: &u16| ((u32::from(*v) + 128) / 257) as u8;
        let (depth, data) = match decoded {
            DynamicImage::ImageLuma8(image) => (1, image.into_raw()),
            DynamicImage::ImageLumaA8(image) => (1, first::<2, 1, _>(image.as_raw())),
            DynamicImage::ImageRgb8(image) => (3, image.into_raw()),
            DynamicImage::ImageRgba8(image) => (3, first::<4, 3, _>(image.as_raw())),
            DynamicImage::ImageLuma16(image) => (1, image.iter().map(scaled).collect()),
            DynamicImage::ImageLumaA16(image) => {
                (1, first::<2, 1, _>(image.as_raw()).iter().map(high).collect())
            }
            DynamicImage::ImageRgb16(image) => (3, image.iter().map(high).collect()),
            DynamicImage::ImageRgba16(image) => {
                (3, first::<4, 3, _>(image.as_raw()).iter().map(high).collect())
            }
            _ => return Err("floating-point pixels are not supported".into()),
        };
        Self::new(height, width, depth, data).into_channels(channels)
    }

    /// Like [`Image::with_channels`], but without a copy when nothing changes.
    fn into_channels(self, channels: usize) -> Result<Self, String> {
        if self.channels == channels { Ok(self) } else { self.with_channels(channels) }
    }
}

/// The first `KEPT` of every `ALL` values.
fn first<const ALL: usize, const KEPT: usize, V: Copy>(values: &[V]) -> Vec<V> {
    let mut kept = Vec::with_capacity(values.len() / ALL * KEPT);
    values.chunks_exact(ALL).for_each(|pixel| kept.extend_from_slice(&pixel[..KEPT]));
    kept
}

/// Whether a JPEG has its end marker. A decoder fills the missing part with grey; Pillow refuses such files.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    if bytes.ends_with(&[0xff, 0xd9]) {
        return true; // as in nearly all files; compressed data cannot contain the marker
    }
    let mut at = 2; // after the start marker
    while let Some(&[first, kind]) = bytes.get(at..at + 2) {
        match (first, kind) {
            (0xff, 0xd9) => return true,
            // Compressed data, fill bytes, stuffed zeros, and markers without a segment: restart, start, TEM.
            (0..=0xfe, _) | (0xff, 0xff) => at += 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, _) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2),
                _ => return false,
            },
        }
    }
    false
}

/// ITU-R 601-2 luma in 16-bit fixed point, as Pillow's conversion from RGB to L.
pub(crate) fn luma(rgb: &[u8]) -> u8 {
    let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

/// An image that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode image `{}`: {reason}", path.display())]
pub struct DecodeError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/decode");

    /// Largest and mean difference from Pillow in levels.
    fn difference(file: &str, channels: usize) -> (u8, f64) {
        let golden =
            candle_core::safetensors::load(format!("{FOLDER}/pixels.safetensors"), &Device::Cpu).unwrap();
        let expected: &Tensor = &golden[&format!("{file}.{}", if channels == 1 { "grey" } else { "rgb" })];
        let image = Image::open(Path::new(&format!("{FOLDER}/{file}")), channels).unwrap();
        assert_eq!((image.height, image.width), (expected.dims()[0], expected.dims()[1]), "{file}");
        let expected: Vec<u8> = expected.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(image.data.len(), expected.len(), "{file}");
        let differences: Vec<u8> = image.data.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).collect();
        let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64;
        (differences.into_iter().max().unwrap(), mean)
    }

    #[test]
    fn lossless_files_are_read_as_pillow_reads_them() {
        let mut count = 0;
        for file in std::fs::read_dir(FOLDER).unwrap() {
            let file = file.unwrap().file_name().into_string().unwrap();
            let lossless = [".png", ".tif", ".bmp"].iter().any(|e| file.ends_with(e));
            if (lossless && !file.starts_with("bad_")) || ["lossless.webp", "png_named.jpg"].contains(&&*file)
            {
                for channels in [3, 1] {
                    assert_eq!(difference(&file, channels).0, 0, "{file}, {channels} channels");
                }
                count += 1;
            }
        }
        assert_eq!(count, 18);
    }

    /// Decoders round differently, and spread subsampled chroma differently.
    #[test]
    fn lossy_files_are_read_closely() {
        for (file, most, mean) in [
            ("444.jpg", 2, 0.05),
            ("progressive.jpg", 2, 0.05),
            ("grey.jpg", 1, 0.05),
            ("cmyk.jpg", 2, 0.05),
            ("ycck.jpg", 2, 0.05),
            ("turned.jpg", 2, 0.05),
            ("trailing.jpg", 2, 0.05),
            ("420.jpg", 4, 0.6),
            ("lossy.webp", 1, 0.05),
        ] {
            for channels in [3, 1] {
                let (largest, average) = difference(file, channels);
                assert!(largest <= most && average <= mean, "{file}, {channels}: {largest}, mean {average}");
            }
        }
    }

    #[test]
    fn what_pillow_refuses_is_refused() {
        for (file, words) in [
            ("bad_half.jpg", "truncated"),
            ("bad_no_end.jpg", "truncated"),
            ("bad_progressive.jpg", "truncated"),
            ("bad_half.png", ""),
            ("bad_text.jpg", "not an image of a known format"),
            ("absent.jpg", "No such file"),
        ] {
            let error = Image::open(Path::new(&format!("{FOLDER}/{file}")), 3).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(words), "{error}");
        }
        let png = std::fs::read(format!("{FOLDER}/rgb.png")).unwrap();
        assert!(Image::decode(&png, 4).unwrap_err().contains("3 channels cannot become 4"));
    }

    #[test]
    fn the_end_of_a_jpeg_is_found_behind_its_segments() {
        // An end marker inside a segment is data of that segment, as in the thumbnail of a camera.
        let segment = [0xff, 0xe1, 0, 6, 0xff, 0xd9, 0xff, 0xd9];
        let scan = [0xff, 0xda, 0, 3, 1, 7, 0xff, 0, 0xff, 0xd3, 8];
        let start = [&[0xff, 0xd8][..], &segment, &scan].concat();
        assert!(!jpeg_has_end(&start));
        assert!(!jpeg_has_end(&start[..4]));
        assert!(jpeg_has_end(&[&start[..], &[0xff, 0xff, 0xd9]].concat()));
    }
}
