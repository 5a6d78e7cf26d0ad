//! Label rasters with one class per pixel, and their PNG files.
//!
//! [`RasterFile`] is a file with the encoding of its values ([`LabelEncoding`]); reading it gives a [`Raster`] of
//! labels. Values are read as they are stored: indices of a palette stay indices, 16-bit ids stay whole, nothing is
//! converted to colours and nothing is scaled. An undefined value is an error that names the file and the pixel.

mod encoding;
mod labels;
mod png;

pub use encoding::{IGNORE, LabelEncoding, LabelTable};
pub use labels::{Raster, RasterFile};

pub(super) use encoding::with_ending;
pub(super) use png::{StoredPixels, StoredValues, decode};

#[cfg(test)]
mod tests;
