//! [`Decompressor`]: a safe face of libjpeg-turbo's TurboJPEG that tells warnings from errors.
//!
//! The crate `turbojpeg` takes a warning about a header for an error, so that it cannot read files that Pillow reads.

use std::ffi::{CStr, c_int};
use turbojpeg_sys as tj;

/// How libjpeg calls a problem of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The file was read all the same.
    Warning(String),
    /// It was not.
    Error(String),
}

/// What is read of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub height: usize,
    pub width: usize,
    pub colors: Colors,
}

/// The colours of a file, and of the pixels that are made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colors {
    /// 1 byte a pixel.
    Grey,
    /// 3 bytes a pixel.
    Rgb,
    /// 4 bytes a pixel: cyan, magenta, yellow and black, as they are stored.
    Cmyk,
}

impl Colors {
    /// Bytes of a pixel.
    pub fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// A decompressor of TurboJPEG.
pub(super) struct Decompressor {
    handle: tj::tjhandle,
}

impl Decompressor {
    /// # Errors
    /// Too little memory.
    pub fn new(most_scans: u16) -> Result<Self, Problem> {
        // SAFETY: a constant of the library. A null pointer is checked below.
        let handle = unsafe { tj::tj3Init(tj::TJINIT_TJINIT_DECOMPRESS as c_int) };
        if handle.is_null() {
            return Err(Problem::Error("Memory allocation failure".into()));
        }
        let this = Self { handle };
        for (parameter, value) in
            [(tj::TJPARAM_TJPARAM_SAVEMARKERS, 0), (tj::TJPARAM_TJPARAM_SCANLIMIT, c_int::from(most_scans))]
        {
            // SAFETY: `handle` is a live instance until `self` is dropped.
            this.outcome(unsafe { tj::tj3Set(this.handle, parameter as c_int, value) })?;
        }
        Ok(this)
    }

    /// The header of a file.
    ///
    /// # Errors
    /// What libjpeg does not read. Warnings are passed over.
    pub fn header(&mut self, bytes: &[u8]) -> Result<Header, Problem> {
        // SAFETY: the instance is live, and the pointer and the length are those of a slice, which is only read.
        let code = unsafe { tj::tj3DecompressHeader(self.handle, bytes.as_ptr(), bytes.len() as tj::size_t) };
        if let Err(error @ Problem::Error(_)) = self.outcome(code) {
            return Err(error);
        }
        // SAFETY: the instance is live.
        let get = |parameter: tj::TJPARAM| unsafe { tj::tj3Get(self.handle, parameter as c_int) };
        let side = |parameter| usize::try_from(get(parameter)).ok().filter(|side| *side > 0);
        let colors = match tj::TJCS::try_from(get(tj::TJPARAM_TJPARAM_COLORSPACE)) {
            Ok(tj::TJCS_TJCS_GRAY) => Some(Colors::Grey),
            Ok(tj::TJCS_TJCS_RGB | tj::TJCS_TJCS_YCbCr) => Some(Colors::Rgb),
            Ok(tj::TJCS_TJCS_CMYK | tj::TJCS_TJCS_YCCK) => Some(Colors::Cmyk),
            _ => None,
        };
        match (side(tj::TJPARAM_TJPARAM_JPEGHEIGHT), side(tj::TJPARAM_TJPARAM_JPEGWIDTH), colors) {
            (Some(height), Some(width), Some(colors)) => Ok(Header { height, width, colors }),
            _ => Err(Problem::Error("JPEG datastream contains no image".into())),
        }
    }

    /// The pixels [H, W, C] of a file with this header, into `out`.
    ///
    /// # Errors
    /// A warning if pixels were made of a damaged file; of several warnings it is the last.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn pixels(&mut self, bytes: &[u8], header: Header, out: &mut [u8]) -> Result<(), Problem> {
        let channels = header.colors.channels();
        assert_eq!(out.len(), header.height * header.width * channels, "length of the pixels");
        assert_eq!(self.header(bytes)?, header, "the header of another file");
        let format = match header.colors {
            Colors::Grey => tj::TJPF_TJPF_GRAY,
            Colors::Rgb => tj::TJPF_TJPF_RGB,
            Colors::Cmyk => tj::TJPF_TJPF_CMYK,
        };
        let pitch = (header.width * channels) as c_int; // sides have 16 bits
        // SAFETY: the instance is live; `bytes` is only read; the library writes height × pitch bytes, which `out` has,
        // because the header was read from the same bytes.
        let code = unsafe {
            let (data, length) = (bytes.as_ptr(), bytes.len() as tj::size_t);
            tj::tj3Decompress8(self.handle, data, length, out.as_mut_ptr(), pitch, format as c_int)
        };
        self.outcome(code)
    }

    /// The problem that the last call met if it returned `code`.
    fn outcome(&self, code: c_int) -> Result<(), Problem> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the instance is live, and owns the text, which ends with a zero and is copied at once.
        let (kind, message) = unsafe {
            let message = CStr::from_ptr(tj::tj3GetErrorStr(self.handle)).to_string_lossy().into_owned();
            (tj::tj3GetErrorCode(self.handle), message)
        };
        match kind == tj::TJERR_TJERR_WARNING as c_int {
            true => Err(Problem::Warning(message)),
            false => Err(Problem::Error(message)),
        }
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the instance is live, and nobody has it afterwards.
        unsafe { tj::tj3Destroy(self.handle) }
    }
}
