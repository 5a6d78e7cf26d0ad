//! The segments of a JPEG: the frame with its components, the tables, and the scans.

use super::huffman::{Codes, next_marker};
use std::sync::Arc;

/// Coefficients are stored in this order, from low to high frequencies. A damaged run of zeros ends at the last one.
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 80] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
];

/// Most blocks that an MCU of several components may have.
const MOST_BLOCKS: usize = 10;

/// The meaning of three or four components.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Colours {
    Grey,
    YCbCr,
    Rgb,
    Cmyk,
    Ycck,
}

/// One component of the image.
pub(super) struct Component {
    id: u8,
    /// Horizontal and vertical sampling factor, 1 to 4.
    pub h: usize,
    pub v: usize,
    /// Width and height in samples.
    pub width: usize,
    pub height: usize,
    /// Blocks in a row of an MCU row, with those that only fill its last MCU.
    pub blocks: usize,
    /// Number of its quantisation table.
    table: usize,
    /// The steps, in the order of rows; those at the component's first scan.
    pub steps: Option<Arc<[u16; 64]>>,
    /// For each coefficient in the order of the file, how many low bits are still missing; -1 before its first scan.
    pub missing_bits: [i8; 64],
}

/// The frame header.
pub(super) struct Frame {
    pub height: usize,
    pub width: usize,
    pub progressive: bool,
    pub components: Vec<Component>,
    /// Largest sampling factors.
    pub most_h: usize,
    pub most_v: usize,
}

impl Frame {
    /// MCUs in a row, if a scan has several components.
    pub fn mcus_wide(&self) -> usize {
        self.width.div_ceil(8 * self.most_h)
    }

    /// Rows of MCUs, if a scan has several components.
    pub fn mcus_high(&self) -> usize {
        self.height.div_ceil(8 * self.most_v)
    }
}

/// What the segments before a scan define.
#[derive(Default)]
pub(super) struct Tables {
    steps: [Option<Arc<[u16; 64]>>; 4],
    dc: [Option<Arc<Codes>>; 4],
    ac: [Option<Arc<Codes>>; 4],
    /// MCUs between restart markers; 0 for none.
    pub restart_interval: usize,
    jfif: bool,
    /// The byte of Adobe's segment that names the transform of colours.
    adobe: Option<u8>,
}

/// A component in a scan.
pub(super) struct ScanComponent {
    /// Its index in the frame.
    pub index: usize,
    pub dc: Option<Arc<Codes>>,
    pub ac: Option<Arc<Codes>>,
}

/// The header of a scan.
pub(super) struct Scan {
    pub components: Vec<ScanComponent>,
    /// First and last coefficient, in the order of the file.
    pub first: usize,
    pub last: usize,
    /// Number of low bits that earlier scans left out (0: there was none), and that this one leaves out.
    pub high: u8,
    pub low: u8,
    /// Place of the entropy-coded data.
    pub data: usize,
}

/// Reads segments one after the other.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    pub at: usize,
    pub frame: Option<Frame>,
    pub tables: Tables,
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

impl<'a> Segments<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 2, frame: None, tables: Tables::default() }
    }

    /// The next scan; `None` at the end of the image. `marker` is one that was read already.
    ///
    /// # Errors
    /// The file ends first, is damaged, or uses what is not supported.
    pub fn next_scan(&mut self, mut marker: Option<u8>) -> Result<Option<Scan>, Fault> {
        loop {
            let kind = match marker.take() {
                Some(kind) => kind,
                None => {
                    let (kind, behind) = next_marker(self.bytes, self.at).ok_or(Fault::Ended)?;
                    self.at = behind;
                    kind
                }
            };
            match kind {
                0xd9 => return Ok(None),
                // Restart markers and TEM have no segment.
                0x01 | 0xd0..=0xd7 => continue,
                0xd8 => return Err("the JPEG has a second start marker".into()),
                _ => {}
            }
            let length = self.bytes.get(self.at..self.at + 2).map(pair).ok_or(Fault::Ended)?;
            let end = self.at + length;
            let segment = self.bytes.get(self.at..end).ok_or(Fault::Ended)?;
            let content = segment.get(2..).ok_or("the JPEG has a segment of impossible length")?;
            self.at = end;
            match kind {
                0xc4 => self.tables.codes(content)?,
                0xdb => self.tables.steps(content)?,
                0xdd => {
                    let interval = content.get(..2).ok_or("the JPEG has a damaged restart interval")?;
                    self.tables.restart_interval = pair(interval);
                }
                0xda => return self.scan(content).map(Some),
                0xc0..=0xc2 => self.start_frame(content, kind == 0xc2)?,
                0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                    let what = match kind {
                        0xc3 => "a lossless",
                        0xc9 | 0xca => "an arithmetically coded",
                        _ => "a hierarchical or lossless",
                    };
                    return Err(format!(
                        "is {what} JPEG, which is not supported; save it as a usual JPEG, or as PNG"
                    )
                    .into());
                }
                0xe0 if content.starts_with(b"JFIF\0") && content.len() >= 12 => self.tables.jfif = true,
                0xee if content.starts_with(b"Adobe") && content.len() >= 12 => {
                    self.tables.adobe = Some(content[11]);
                }
                _ => {}
            }
        }
    }

    fn start_frame(&mut self, content: &[u8], progressive: bool) -> Result<(), Fault> {
        if self.frame.is_some() {
            return Err("the JPEG has two frames".into());
        }
        let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = content else {
            return Err("the JPEG has a damaged frame header".into());
        };
        let (height, width) = (pair(&[h1, h0]), pair(&[w1, w0]));
        if precision != 8 {
            return Err(format!(
                "the JPEG has {precision} bits a sample; only 8 are supported: save it as PNG"
            )
            .into());
        }
        if height == 0 || width == 0 {
            return Err("the JPEG has no rows or no columns".into());
        }
        if !matches!(count, 1 | 3 | 4) || rest.len() != 3 * usize::from(count) {
            return Err(format!("the JPEG has {count} components, expected 1 (grey), 3 or 4 (CMYK)").into());
        }
        let factor = |c: &[u8]| (usize::from(c[1] >> 4), usize::from(c[1] & 15));
        let mut factors: Vec<(usize, usize)> = rest.chunks_exact(3).map(factor).collect();
        let shown = || factors.iter().map(|(h, v)| format!("{h}×{v}")).collect::<Vec<_>>().join(", ");
        let most_h = factors.iter().map(|(h, _)| *h).max().unwrap_or(1);
        let most_v = factors.iter().map(|(_, v)| *v).max().unwrap_or(1);
        let wrong = |&(h, v): &(usize, usize)| {
            !(1..=4).contains(&h) || !(1..=4).contains(&v) || most_h % h > 0 || most_v % v > 0
        };
        if factors.iter().any(wrong) {
            return Err(format!(
                "the JPEG has the sampling factors {}, which no decoder supports; save it again",
                shown()
            )
            .into());
        }
        let (mut most_h, mut most_v) = (most_h, most_v);
        if count == 1 {
            // Alone a component has its own size, and its MCUs are blocks.
            (most_h, most_v, factors) = (1, 1, vec![(1, 1)]);
        }
        let mut frame = Frame { height, width, progressive, components: vec![], most_h, most_v };
        for (c, (h, v)) in rest.chunks_exact(3).zip(factors) {
            frame.components.push(Component {
                id: c[0],
                h,
                v,
                width: (width * h).div_ceil(most_h),
                height: (height * v).div_ceil(most_v),
                blocks: frame.mcus_wide() * h,
                table: usize::from(c[2]),
                steps: None,
                missing_bits: [-1; 64],
            });
        }
        self.frame = Some(frame);
        Ok(())
    }

    fn scan(&mut self, content: &[u8]) -> Result<Scan, Fault> {
        let frame = self.frame.as_mut().ok_or("the JPEG has a scan before its frame")?;
        if !frame.progressive {
            self.tables.fill_in_standard()?;
        }
        let damaged = "the JPEG has a damaged scan header";
        let (&count, rest) = content.split_first().ok_or(damaged)?;
        let count = usize::from(count);
        let (list, tail) = rest.split_at_checked(2 * count).ok_or(damaged)?;
        let &[first, last, bits] = tail else { return Err(damaged.into()) };
        let (mut first, mut last, high, mut low) =
            (usize::from(first), usize::from(last), bits >> 4, bits & 15);
        let mut components: Vec<ScanComponent> = vec![];
        let mut blocks = 0;
        for named in list.chunks_exact(2) {
            let index = frame.components.iter().position(|c| c.id == named[0]).ok_or(damaged)?;
            if components.iter().any(|c| c.index == index) {
                return Err(damaged.into());
            }
            let component = &mut frame.components[index];
            blocks += component.h * component.v;
            if component.steps.is_none() {
                let steps = self.tables.steps.get(component.table).and_then(Option::clone);
                component.steps = Some(steps.ok_or("the JPEG lacks a quantisation table that it uses")?);
            }
            let of =
                |tables: &[Option<Arc<Codes>>; 4], k: u8| tables.get(usize::from(k)).and_then(Option::clone);
            let (dc, ac) = (named[1] >> 4, named[1] & 15);
            components.push(ScanComponent {
                index,
                dc: of(&self.tables.dc, dc),
                ac: of(&self.tables.ac, ac),
            });
        }
        if !(1..=4).contains(&count) || (count > 1 && blocks > MOST_BLOCKS) {
            return Err(damaged.into());
        }
        if frame.progressive {
            let band = if first == 0 { last == 0 } else { first <= last && last < 64 && count == 1 };
            if !band || (high != 0 && low + 1 != high) || low > 13 {
                return Err("the JPEG has a progressive scan with impossible numbers".into());
            }
        } else {
            (first, last, low) = (0, 63, 0);
        }
        let missing = match frame.progressive {
            true => (first == 0 && high == 0, first > 0),
            false => (true, true),
        };
        for c in &mut components {
            if (missing.0 && c.dc.is_none()) || (missing.1 && c.ac.is_none()) {
                return Err("the JPEG lacks a Huffman table that it uses".into());
            }
            if missing.0 && c.dc.as_ref().is_some_and(|codes| codes.largest() > 15) {
                return Err("the JPEG has a damaged Huffman table".into());
            }
            frame.components[c.index].missing_bits[first..=last].fill(low as i8);
        }
        Ok(Scan { components, first, last, high, low, data: self.at })
    }

    /// What the components mean, by the rules of libjpeg.
    pub fn colours(&self) -> Colours {
        let ids: Vec<u8> = self.frame.iter().flat_map(|f| &f.components).map(|c| c.id).collect();
        match (&ids[..], self.tables.adobe) {
            ([_], _) => Colours::Grey,
            ([_, _, _, _], None | Some(0)) => Colours::Cmyk,
            ([_, _, _, _], _) => Colours::Ycck,
            _ if self.tables.jfif => Colours::YCbCr,
            (_, Some(0)) => Colours::Rgb,
            (b"RGB", None) => Colours::Rgb,
            _ => Colours::YCbCr,
        }
    }
}

impl Tables {
    /// Provides the tables of the standard's annex where the file has none, as in frames of Motion JPEG.
    fn fill_in_standard(&mut self) -> Result<(), String> {
        for chrominance in [false, true] {
            let k = usize::from(chrominance);
            if self.dc[k].is_none() || self.ac[k].is_none() {
                let (dc, ac) = super::standard::codes(chrominance)?;
                self.dc[k].get_or_insert(Arc::new(dc));
                self.ac[k].get_or_insert(Arc::new(ac));
            }
        }
        Ok(())
    }

    /// Reads Huffman tables.
    fn codes(&mut self, mut content: &[u8]) -> Result<(), Fault> {
        let damaged = "the JPEG has a damaged Huffman table";
        while let Some((&place, rest)) = content.split_first() {
            let (counts, rest) = rest.split_at_checked(16).ok_or(damaged)?;
            let count = counts.iter().map(|n| usize::from(*n)).sum();
            let (symbols, rest) = rest.split_at_checked(count).ok_or(damaged)?;
            let tables = if place & 0x10 == 0 { &mut self.dc } else { &mut self.ac };
            let table = tables.get_mut(usize::from(place & !0x10)).ok_or(damaged)?;
            *table = Some(Arc::new(Codes::new(counts, symbols)?));
            content = rest;
        }
        Ok(())
    }

    /// Reads quantisation tables.
    fn steps(&mut self, mut content: &[u8]) -> Result<(), Fault> {
        let damaged = "the JPEG has a damaged quantisation table";
        while let Some((&place, rest)) = content.split_first() {
            let wide = usize::from(place >> 4 != 0);
            let (numbers, rest) = rest.split_at_checked(64 << wide).ok_or(damaged)?;
            let mut steps = [0; 64];
            for (at, number) in ZIGZAG.iter().zip(numbers.chunks_exact(1 << wide)) {
                steps[usize::from(*at)] = number.iter().fold(0, |n, byte| n << 8 | u16::from(*byte));
            }
            *self.steps.get_mut(usize::from(place & 15)).ok_or(damaged)? = Some(Arc::new(steps));
            content = rest;
        }
        Ok(())
    }
}

/// Why a JPEG is not decoded.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file ends too early.
    Ended,
    /// In words.
    Because(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Because(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Because(reason.into())
    }
}
