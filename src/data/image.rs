//! A decoded image, and decoding as users of PIL expect it.

use super::Size;
use std::path::{Path, PathBuf};

/// 8-bit pixels, interleaved: [H, W, C] row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub data: Vec<u8>,
}

impl Image {
    /// # Panics
    /// When `data` does not hold height × width × channels bytes.
    pub fn new(height: usize, width: usize, channels: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), height * width * channels, "image buffer does not match its size");
        Self { height, width, channels, data }
    }

    /// (height, width)
    pub fn size(&self) -> Size {
        (self.height, self.width)
    }

    /// The image in `channels` (1 or 3) channels: grey is repeated, colour is weighed as PIL's `convert("L")` does.
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
    /// The format is recognised by content, not by name. Greyscale, palette, alpha, 16-bit and CMYK
    /// become 8-bit RGB or grey as `PIL.Image.convert` does; EXIF orientation is left unapplied, as PIL does.
    pub fn open(path: &Path, channels: usize) -> Result<Self, DecodeError> {
        let bytes =
            std::fs::read(path).map_err(|e| DecodeError { path: path.into(), reason: e.to_string() })?;
        Self::decode(&bytes, channels).map_err(|reason| DecodeError { path: path.into(), reason })
    }

    /// Decodes an encoded image held in memory; the error is the reason alone.
    pub fn decode(bytes: &[u8], channels: usize) -> Result<Self, String> {
        let decoded = ::image::ImageReader::new(std::io::Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|e| e.to_string())?
            .decode()
            .map_err(|e| e.to_string())?;
        let (width, height) = (decoded.width() as usize, decoded.height() as usize);
        let data = match channels {
            1 => decoded.into_luma8().into_raw(),
            3 => decoded.into_rgb8().into_raw(),
            n => return Err(format!("cannot decode to {n} channels (1 and 3 are possible)")),
        };
        Ok(Self::new(height, width, channels, data))
    }
}

/// ITU-R 601-2 luma in 16-bit fixed point, as PIL's `L24` conversion.
pub(crate) fn luma(rgb: &[u8]) -> u8 {
    let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

/// An image that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode image `{}`: {reason}", path.display())]
pub struct DecodeError {
    pub path: PathBuf,
    pub reason: String,
}
