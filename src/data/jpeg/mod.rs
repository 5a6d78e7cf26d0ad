//! JPEG decoding in libjpeg's integer arithmetic: the same pixels as Pillow's, bit for bit.
//!
//! Baseline, extended and progressive files with Huffman codes and 8 bits a sample, in one scan or several, with any
//! sampling factors that libjpeg accepts, in grey, YCbCr, RGB, CMYK and YCCK. Everything else is refused: arithmetic
//! codes, lossless and hierarchical files, other depths, and progressive files without their last scans, which libjpeg
//! smooths.
//!
//! A file is truncated if pixel data are missing. One without its end marker but with all its rows is not. Damaged
//! data, which libjpeg passes over with a warning, give what libjpeg makes of them.

mod frame;
mod huffman;
mod pixels;
mod scan;
mod standard;
mod transform;

use frame::{Fault, Frame, Scan, Segments};
use pixels::Plane;
use scan::{Blocks, ScanReader};

/// Decoded pixels: height, width, channels, and bytes [H, W, C] row-major.
type Pixels = (usize, usize, usize, Vec<u8>);

/// Largest image in bytes, because a header can claim more than the available memory.
const MOST_BYTES: usize = 512 << 20;

/// Coefficients that decide whether libjpeg would smooth a progressive image that lacks some of their bits.
const SMOOTHED: usize = 10;

/// The image, with 1 channel if the file is grey and otherwise 3.
///
/// # Errors
/// A truncated or damaged file, or one of a kind that is not supported.
pub(super) fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    decoded(bytes).map_err(|fault| match fault {
        Fault::Ended => "the JPEG is truncated: it ends before its pixel data".into(),
        Fault::Because(reason) => reason,
    })
}

/// (height, width), from the header.
///
/// # Errors
/// A file that ends before its frame header, or has none.
pub(super) fn size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let mut segments = Segments::new(bytes);
    let scan = segments.next_scan(None);
    match (&segments.frame, scan) {
        (Some(frame), _) => Ok((frame.height, frame.width)),
        (None, Err(Fault::Because(reason))) => Err(reason),
        (None, _) => Err("the JPEG is truncated: it ends before its header".into()),
    }
}

fn decoded(bytes: &[u8]) -> Result<Pixels, Fault> {
    let mut segments = Segments::new(bytes);
    let first = segments.next_scan(None)?.ok_or("the JPEG has no pixel data")?;
    let frame = segments.frame.as_ref().ok_or("the JPEG has no frame")?;
    let (height, width, progressive) = (frame.height, frame.width, frame.progressive);
    if height * width * frame.components.len() > MOST_BYTES {
        return Err(format!("the JPEG claims {width} × {height} pixels, more than are read").into());
    }
    let mut planes: Vec<Plane> = (frame.components.iter())
        .map(|c| {
            let stride = 8 * c.blocks;
            Plane { samples: vec![0; stride * 8 * c.v * frame.mcus_high()], stride }
        })
        .collect();
    if !progressive && first.components.len() == frame.components.len() {
        one_scan(bytes, frame, &first, segments.tables.restart_interval, &mut planes)?;
    } else {
        let blocks = several_scans(bytes, &mut segments, first)?;
        let frame = segments.frame.as_ref().ok_or("the JPEG has no frame")?;
        for row in 0..frame.mcus_high() {
            let of_row = |k: usize| {
                let count = frame.components[k].blocks * frame.components[k].v;
                &blocks[k][row * count..][..count]
            };
            transform_row(frame, row, of_row, &mut planes);
        }
    }
    let colours = segments.colours();
    let frame = segments.frame.as_ref().ok_or("the JPEG has no frame")?;
    let (channels, data) = pixels::pixels(&planes, frame, colours);
    Ok((height, width, channels, data))
}

/// Places for the coefficients of `rows` rows of MCUs.
fn blocks_of(frame: &Frame, rows: usize) -> Blocks {
    frame.components.iter().map(|c| vec![[0; 64]; c.blocks * c.v * rows]).collect()
}

/// A sequential image whose only scan has all components: one row of MCUs at a time.
fn one_scan(
    bytes: &[u8],
    frame: &Frame,
    scan: &Scan,
    restart_interval: usize,
    planes: &mut [Plane],
) -> Result<(), Fault> {
    let mut blocks = blocks_of(frame, 1);
    let mut reader = ScanReader::new(bytes, frame, scan, restart_interval);
    for row in 0..frame.mcus_high() {
        reader.row(row, row, &mut blocks);
        if reader.bits.ended() {
            return Err(truncated(8 * frame.most_v * row, frame));
        }
        transform_row(frame, row, |k| &blocks[k][..], planes);
        blocks.iter_mut().for_each(|blocks| blocks.fill([0; 64]));
    }
    Ok(())
}

/// All coefficients of an image with several scans, of which `first` is the first.
fn several_scans(bytes: &[u8], segments: &mut Segments, first: Scan) -> Result<Blocks, Fault> {
    let mut blocks = vec![];
    let mut next = Some(first);
    while let Some(scan) = next {
        let frame = segments.frame.as_ref().ok_or("the JPEG has no frame")?;
        if blocks.is_empty() {
            blocks = blocks_of(frame, frame.mcus_high());
        }
        let mut reader = ScanReader::new(bytes, frame, &scan, segments.tables.restart_interval);
        for row in 0..reader.rows() {
            reader.row(row, 0, &mut blocks);
            if reader.bits.ended() {
                return Err(truncated(frame.height * row / reader.rows(), frame));
            }
        }
        let marker = reader.bits.marker;
        segments.at = reader.bits.place();
        next = match segments.next_scan(marker) {
            Err(Fault::Ended) if segments.frame.as_ref().is_some_and(|frame| lacks(frame, 64)) => {
                return Err("the JPEG is truncated: it ends before its last scans".into());
            }
            Err(Fault::Ended) => None,
            scan => scan?,
        };
    }
    if segments.frame.as_ref().is_some_and(|frame| frame.progressive && lacks(frame, SMOOTHED)) {
        return Err("the progressive JPEG is without its last scans: pixel data are missing".into());
    }
    Ok(blocks)
}

/// Whether bits of the first `count` coefficients are missing.
fn lacks(frame: &Frame, count: usize) -> bool {
    frame.components.iter().any(|c| c.missing_bits[..count].iter().any(|bits| *bits != 0))
}

fn truncated(row: usize, frame: &Frame) -> Fault {
    format!("the JPEG is truncated: its pixel data end near row {row} of {}", frame.height).into()
}

/// Makes samples of the blocks of one row of MCUs, `blocks(k)` of component k.
fn transform_row<'b>(
    frame: &Frame,
    row: usize,
    blocks: impl Fn(usize) -> &'b [scan::Block],
    planes: &mut [Plane],
) {
    for (k, (component, plane)) in frame.components.iter().zip(planes).enumerate() {
        let Some(steps) = &component.steps else {
            // A component without a scan is medium grey.
            plane.samples.fill(128);
            continue;
        };
        let size = 8 * plane.stride;
        for (y, blocks) in blocks(k).chunks_exact(component.blocks).enumerate() {
            let first = (row * component.v + y) * size;
            transform::transform(blocks, steps, &mut plane.samples[first..first + size]);
        }
    }
}
