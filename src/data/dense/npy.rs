//! Two-dimensional arrays of NumPy's `.npy` files (`numpy/lib/format.py`, versions 1 and 2), in C order.
//!
//! Types f4, f8, u1, u2, i2 and i4, in both byte orders. Sizes in the header are checked against the length of the file
//! before memory is allocated.

use super::super::Size;

/// How a `.npy` file begins.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// Largest header in bytes; NumPy writes 118 for arrays of numbers.
const LONGEST_HEADER: usize = 1 << 16;

/// (height, width) and the numbers of a file.
///
/// # Errors
/// A damaged or unusual header, another type, Fortran order, another number of dimensions, or missing or extra bytes.
pub(super) fn read(bytes: &[u8]) -> Result<(Size, Vec<f64>), String> {
    let (text, data) = split(bytes)?;
    let header = Header::parse(text)?;
    let number = Number::of(&header.descr)?;
    if header.fortran_order {
        return Err("is in Fortran order; save `numpy.ascontiguousarray(array)`".into());
    }
    let [height, width] = header.shape[..] else {
        return Err(format!("has the shape {:?}, expected [height, width]", header.shape));
    };
    let expected = height.checked_mul(width).and_then(|count| count.checked_mul(number.size()));
    let what = || format!("{height}x{width} numbers of {} bytes", number.size());
    match expected {
        Some(0) => Err(format!("has no numbers: its shape is [{height}, {width}]")),
        Some(expected) if data.len() == expected => Ok(((height, width), number.read(data))),
        Some(expected) if data.len() > expected => {
            Err(format!("has {} bytes more than {}", data.len() - expected, what()))
        }
        _ => Err(format!("is truncated: it has {} bytes, expected {}", data.len(), what())),
    }
}

/// The text of the header, and the bytes after it.
fn split(bytes: &[u8]) -> Result<(&str, &[u8]), String> {
    let ended = || "is truncated: its header ends early".to_string();
    let rest = bytes.strip_prefix(MAGIC).ok_or("is not a `.npy` file")?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(ended)?;
    let (length, rest) = match version {
        [1, 0] => {
            let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(ended)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        [2, 0] => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(ended)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        [major, minor] => {
            return Err(format!("has version {major}.{minor} of the `.npy` format, expected 1.0 or 2.0"));
        }
    };
    if length > LONGEST_HEADER {
        return Err(format!("has a header of {length} bytes, expected at most {LONGEST_HEADER}"));
    }
    let (text, data) = rest.split_at_checked(length).ok_or_else(ended)?;
    let text = std::str::from_utf8(text).map_err(|_| "has a header that is not text".to_string())?;
    Ok((text, data))
}

/// What a header says: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Reads a Python dictionary of exactly these three keys, in any order.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("has a header that is not understood: `{}`", text.trim_end());
        let mut rest = Text(text);
        let (mut descr, mut order, mut shape) = (None, None, None);
        rest.take('{').ok_or_else(wrong)?;
        while rest.take('}').is_none() {
            let key = rest.string().ok_or_else(wrong)?;
            rest.take(':').ok_or_else(wrong)?;
            let first = match key {
                "descr" if rest.starts_with('[') => {
                    return Err("is a structured array, expected one number for each pixel".into());
                }
                "descr" => descr.replace(rest.string().ok_or_else(wrong)?.to_string()).is_none(),
                "fortran_order" => order.replace(rest.boolean().ok_or_else(wrong)?).is_none(),
                "shape" => shape.replace(rest.tuple().ok_or_else(wrong)?).is_none(),
                _ => false,
            };
            if !first {
                return Err(wrong());
            }
            if rest.take(',').is_none() && !rest.starts_with('}') {
                return Err(wrong());
            }
        }
        match (descr, order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) if rest.0.trim().is_empty() => {
                Ok(Self { descr, fortran_order, shape })
            }
            _ => Err(wrong()),
        }
    }
}

/// The unread rest of a header; spaces before a token are skipped.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn starts_with(&mut self, token: char) -> bool {
        self.0 = self.0.trim_start();
        self.0.starts_with(token)
    }

    fn take(&mut self, token: char) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?;
        Some(())
    }

    /// A string in single or double quotes, without escapes.
    fn string(&mut self) -> Option<&'a str> {
        let quote = if self.starts_with('"') { '"' } else { '\'' };
        let (text, rest) = self.0.strip_prefix(quote)?.split_once(quote)?;
        self.0 = rest;
        (!text.contains('\\')).then_some(text)
    }

    fn boolean(&mut self) -> Option<bool> {
        self.0 = self.0.trim_start();
        let (value, rest) = match (self.0.strip_prefix("True"), self.0.strip_prefix("False")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return None,
        };
        self.0 = rest;
        Some(value)
    }

    /// A tuple of whole numbers: `()`, `(3,)`, `(3, 4)`.
    fn tuple(&mut self) -> Option<Vec<usize>> {
        self.take('(')?;
        let (numbers, rest) = self.0.split_once(')')?;
        self.0 = rest;
        let numbers = numbers.trim();
        if numbers.is_empty() {
            return Some(vec![]);
        }
        let (listed, single) = match numbers.strip_suffix(',') {
            Some(listed) => (listed, false),
            None => (numbers, true),
        };
        // Python 2 wrote `3L`.
        let number = |text: &str| text.trim().trim_end_matches('L').parse::<usize>().ok();
        let found = listed.split(',').map(number).collect::<Option<Vec<_>>>()?;
        // `(3)` is a number in Python, not a tuple.
        (found.len() > 1 || !single).then_some(found)
    }
}

/// The type of the numbers of an array.
#[derive(Clone, Copy)]
struct Number {
    kind: Kind,
    big_endian: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    F4,
    F8,
    U1,
    U2,
    I2,
    I4,
}

impl Number {
    /// The type that a `descr` names: a byte order (`<`, `>`, or `|` for single bytes) and a type.
    fn of(descr: &str) -> Result<Self, String> {
        let known = "expected f4, f8, u1, u2, i2 or i4";
        let (order, kind) = descr.split_at_checked(1).unwrap_or(("", descr));
        let kind = match (order, kind) {
            (_, "O") => return Err(format!("holds Python objects, {known}")),
            ("<" | ">" | "|", "u1") => Kind::U1,
            ("<" | ">", "f4") => Kind::F4,
            ("<" | ">", "f8") => Kind::F8,
            ("<" | ">", "u2") => Kind::U2,
            ("<" | ">", "i2") => Kind::I2,
            ("<" | ">", "i4") => Kind::I4,
            _ => return Err(format!("holds numbers of type `{descr}`, {known}")),
        };
        Ok(Self { kind, big_endian: order == ">" })
    }

    /// Bytes of a number.
    fn size(self) -> usize {
        match self.kind {
            Kind::U1 => 1,
            Kind::U2 | Kind::I2 => 2,
            Kind::F4 | Kind::I4 => 4,
            Kind::F8 => 8,
        }
    }

    fn read(self, data: &[u8]) -> Vec<f64> {
        let big = self.big_endian;
        match self.kind {
            Kind::U1 => data.iter().map(|byte| f64::from(*byte)).collect(),
            Kind::U2 => numbers(data, big, |bytes| u16::from_le_bytes(bytes).into()),
            Kind::I2 => numbers(data, big, |bytes| i16::from_le_bytes(bytes).into()),
            Kind::I4 => numbers(data, big, |bytes| i32::from_le_bytes(bytes).into()),
            Kind::F4 => numbers(data, big, |bytes| f32::from_le_bytes(bytes).into()),
            Kind::F8 => numbers(data, big, f64::from_le_bytes),
        }
    }
}

/// Numbers of `N` bytes each; `from` takes the bytes in little-endian order.
fn numbers<const N: usize>(data: &[u8], big_endian: bool, from: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    let ordered = |mut bytes: [u8; N]| {
        if big_endian {
            bytes.reverse();
        }
        from(bytes)
    };
    data.as_chunks::<N>().0.iter().copied().map(ordered).collect()
}
