//! [`Kind`]: the format of an image file, by its content.

use crate::files;
use ::image::ImageFormat;

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::data) enum Kind {
    Jpeg,
    Png,
    WebP,
    Bmp,
    Tiff,
}

/// Formats that are not read, by how their files begin at a place.
const OTHERS: [(&str, usize, &[u8]); 19] = [
    ("a GIF", 0, b"GIF8"),
    ("a HEIC photograph", 4, b"ftypheic"),
    ("a HEIC photograph", 4, b"ftypheix"),
    ("a HEIC photograph", 4, b"ftypmif1"),
    ("an AVIF image", 4, b"ftypavif"),
    ("an AVIF image", 4, b"ftypavis"),
    ("a JPEG 2000 image", 0, b"\0\0\0\x0cjP  "),
    ("a JPEG 2000 image", 0, b"\xff\x4f\xff\x51"),
    ("a JPEG XL image", 0, b"\0\0\0\x0cJXL "),
    ("a JPEG XL image", 0, b"\xff\x0a"),
    ("a PNM image (PPM, PGM or PBM)", 0, b"P1"),
    ("a PNM image (PPM, PGM or PBM)", 0, b"P2"),
    ("a PNM image (PPM, PGM or PBM)", 0, b"P3"),
    ("a PNM image (PPM, PGM or PBM)", 0, b"P4"),
    ("a PNM image (PPM, PGM or PBM)", 0, b"P5"),
    ("a PNM image (PPM, PGM or PBM)", 0, b"P6"),
    ("a Photoshop file", 0, b"8BPS"),
    ("a BigTIFF", 0, b"II+\0"),
    ("a BigTIFF", 0, b"MM\0+"),
];

impl Kind {
    /// The format of a file.
    ///
    /// # Errors
    /// Another format; the error names it if it is a common one.
    pub fn of(bytes: &[u8]) -> Result<Self, String> {
        let starts = |at: usize, magic: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic));
        let kinds = [
            (Self::Jpeg, 0, &b"\xff\xd8\xff"[..]),
            (Self::Png, 0, b"\x89PNG\r\n\x1a\n"),
            (Self::Tiff, 0, b"II*\0"),
            (Self::Tiff, 0, b"MM\0*"),
            (Self::Bmp, 0, b"BM"),
        ];
        if let Some((kind, ..)) = kinds.iter().find(|(_, at, magic)| starts(*at, magic)) {
            return Ok(*kind);
        }
        if starts(0, b"RIFF") && starts(8, b"WEBP") {
            return Ok(Self::WebP);
        }
        if bytes.is_empty() {
            return Err("the file is empty".into());
        }
        let known = "JPEG, PNG, WebP, BMP and TIFF are read";
        let other = OTHERS.iter().find(|(_, at, magic)| starts(*at, magic)).map(|(name, ..)| *name);
        Err(match other.or_else(|| files::mistaken(bytes)) {
            Some(name) => format!("is {name}, and not an image of a known format; {known}"),
            None => format!("is not an image of a known format; {known}"),
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP image",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }

    pub fn format(self) -> ImageFormat {
        match self {
            Self::Jpeg => ImageFormat::Jpeg,
            Self::Png => ImageFormat::Png,
            Self::WebP => ImageFormat::WebP,
            Self::Bmp => ImageFormat::Bmp,
            Self::Tiff => ImageFormat::Tiff,
        }
    }

    /// The reason for a file of this format with `what`.
    pub fn not_supported(self, what: &str) -> String {
        format!("the {} has {what}, which is not supported; save it as PNG", self.name())
    }
}
