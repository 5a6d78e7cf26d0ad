//! Decoded images, and decoding with the same results as Pillow.
//!
//! `Image::open(path)` gives the same result as `Image.open(path).convert("RGB")` of Pillow 13, and therefore as
//! torchvision's loaders: byte for byte for JPEG, PNG, TIFF, WebP and BMP (of which 16-bit colours are rounded otherwise, by
//! at most 1), or it refuses the file and says why. A truncated file, of which pixel data are missing, is an error rather than
//! an image with a grey lower part.
//!
//! Deviations: 16-bit grey is scaled to 8 bits, where Pillow clips it at 255, which gives a white image. Other formats are
//! not read, nor are floating-point pixels and rare kinds of TIFF.

use super::orientation::Turn;
use super::{Size, decode};
use crate::files;
use std::fs::File;
use std::io::Read;
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
    /// The format is recognised by content, not by name. The EXIF orientation is not applied, as in Pillow, except that
    /// of a TIFF, which Pillow applies.
    ///
    /// # Errors
    /// A file that does not exist, is not an image of a known format, or is damaged or truncated.
    pub fn open(path: &Path, channels: usize) -> Result<Self, DecodeError> {
        Self::read(path, |bytes| Self::decode(bytes, channels))
    }

    /// Like [`Image::open`], but turned as the EXIF data of the file say: as viewers and browsers show it.
    ///
    /// # Errors
    /// Those of [`Image::open`].
    pub fn open_upright(path: &Path, channels: usize) -> Result<Self, DecodeError> {
        Self::read(path, |bytes| Self::decode_upright(bytes, channels))
    }

    fn read(path: &Path, decode: impl Fn(&[u8]) -> Result<Self, String>) -> Result<Self, DecodeError> {
        files::read(path)
            .and_then(|bytes| decode(&bytes))
            .map_err(|reason| DecodeError { path: path.into(), reason })
    }

    /// (height, width) of the file at `path` without its EXIF orientation, from its header alone.
    ///
    /// # Errors
    /// A file that does not exist or is not an image of a known format.
    pub fn size_of(path: &Path) -> Result<Size, DecodeError> {
        Self::header_of(path).map(|(size, _)| size)
    }

    /// (height, width) of the file at `path` as it is stored, and how its EXIF data turn it.
    pub(super) fn header_of(path: &Path) -> Result<(Size, Turn), DecodeError> {
        let fail = |reason: String| DecodeError { path: path.into(), reason };
        let mut bytes = vec![];
        let unread = |e: std::io::Error| fail(files::reason(path, &e));
        let mut file = File::open(path).map_err(unread)?;
        file.by_ref().take(HEADER).read_to_end(&mut bytes).map_err(unread)?;
        // The metadata of a JPEG are before its size. Other formats may have them at their end.
        let size = match decode::Kind::of(&bytes) {
            Ok(decode::Kind::Jpeg) => decode::size(&bytes).ok(),
            _ => None,
        };
        let size = match size {
            Some(size) => size,
            None => {
                file.read_to_end(&mut bytes).map_err(unread)?;
                decode::size(&bytes).map_err(fail)?
            }
        };
        Ok((size, Turn::of(&bytes)))
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
        let decode::Pixels { height, width, channels: found, data } = decode::decode(bytes)?;
        Self::new(height, width, found, data).into_channels(channels)
    }

    /// Like [`Image::decode`], but turned as the EXIF data of the file say.
    ///
    /// # Errors
    /// Those of [`Image::decode`].
    pub fn decode_upright(bytes: &[u8], channels: usize) -> Result<Self, String> {
        let (image, turn) = (Self::decode(bytes, channels)?, Turn::of(bytes));
        let (height, width) = turn.size(image.size());
        let data = turn.apply(image.size(), channels, image.data);
        Ok(Self::new(height, width, channels, data))
    }

    /// Like [`Image::with_channels`], but without a copy when nothing changes.
    fn into_channels(self, channels: usize) -> Result<Self, String> {
        if self.channels == channels { Ok(self) } else { self.with_channels(channels) }
    }
}

/// Bytes of a file that usually contain the header of a JPEG.
const HEADER: u64 = 1 << 16;

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
mod tests;
