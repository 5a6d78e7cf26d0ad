//! JPEG decoding by libjpeg-turbo, for programs built with the feature `turbojpeg`. Pillow uses the same library, so
//! the pixels are equal.
//!
//! Files that this module does not handle (CMYK, damaged files) are left to the decoder of the default build.

/// The library that decodes JPEG in this program.
pub const JPEG_DECODER: &str = if cfg!(feature = "turbojpeg") { "libjpeg-turbo" } else { "zune-jpeg" };

/// Decoded pixels: height, width, channels, and bytes [H, W, C] row-major.
type Pixels = (usize, usize, usize, Vec<u8>);

#[cfg(not(feature = "turbojpeg"))]
pub(super) fn decode(_: &[u8]) -> Option<Pixels> {
    None
}

/// Largest image in bytes, the same as in the `image` crate, because a header can claim more than the available memory.
#[cfg(feature = "turbojpeg")]
const MOST_BYTES: usize = 512 << 20;

/// The image with 1 or 3 channels as in the file; `None` for files that the other decoder must handle.
#[cfg(feature = "turbojpeg")]
pub(super) fn decode(bytes: &[u8]) -> Option<Pixels> {
    use turbojpeg::{Colorspace, Decompressor, PixelFormat};
    let mut decompressor = Decompressor::new().ok()?;
    let header = decompressor.read_header(bytes).ok()?;
    let (channels, format) = match header.colorspace {
        Colorspace::Gray => (1, PixelFormat::GRAY),
        Colorspace::YCbCr | Colorspace::RGB => (3, PixelFormat::RGB),
        _ => return None,
    };
    let (height, width) = (header.height, header.width);
    let pitch = width.checked_mul(channels)?;
    let size = pitch.checked_mul(height).filter(|size| *size <= MOST_BYTES)?;
    let mut data = vec![0; size];
    let image = turbojpeg::Image { pixels: &mut data[..], width, pitch, height, format };
    decompressor.decompress(bytes, image).ok()?;
    Some((height, width, channels, data))
}

#[cfg(all(test, feature = "turbojpeg"))]
mod tests {
    use super::*;
    use crate::data::Image;
    use candle_core::Device;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/decode");

    #[test]
    fn pixels_are_pillow_s() {
        let path = format!("{FOLDER}/pixels.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        for file in ["444.jpg", "420.jpg", "progressive.jpg", "grey.jpg", "turned.jpg", "trailing.jpg"] {
            let bytes = std::fs::read(format!("{FOLDER}/{file}")).unwrap();
            assert!(decode(&bytes).is_some(), "{file} is left to the other decoder");
            for (channels, kind) in [(3, "rgb"), (1, "grey")] {
                let expected: Vec<u8> =
                    golden[&format!("{file}.{kind}")].flatten_all().unwrap().to_vec1().unwrap();
                assert!(Image::decode(&bytes, channels).unwrap().data == expected, "{file}, {kind}");
            }
        }
    }

    #[test]
    fn what_it_refuses_is_left_to_the_other_decoder() {
        for file in ["cmyk.jpg", "ycck.jpg", "png_named.jpg", "bad_half.jpg", "bad_text.jpg"] {
            let bytes = std::fs::read(format!("{FOLDER}/{file}")).unwrap();
            assert!(decode(&bytes).is_none(), "{file}");
        }
    }
}
