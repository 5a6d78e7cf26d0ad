//! Masks of every kind of PNG, and what is refused.

use super::*;
use ::png::{BitDepth, ColorType, Encoder};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A PNG of `width` × 1-byte-aligned rows.
fn png(width: u32, height: u32, color: ColorType, depth: BitDepth, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ColorType::Indexed {
        // A palette that would spoil every id if it were looked up.
        encoder.set_palette((0..3 * 16).map(|k| (255 - 5 * k) as u8).collect::<Vec<_>>());
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    bytes
}

fn ids(pairs: &[(u32, u16)]) -> LabelEncoding {
    LabelEncoding::Ids(LabelTable::new(pairs.iter().copied()).unwrap())
}

/// Reads `bytes` as the file `m_seg.png`, beside which lies `m.json` with `beside`.
fn read_beside(bytes: &[u8], encoding: LabelEncoding, beside: &str) -> Result<Raster, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m_seg.png");
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(folder.path().join("m.json"), beside).unwrap();
    RasterFile { path, encoding: Arc::new(encoding) }.read().map_err(|e| e.to_string())
}

fn read(bytes: &[u8], encoding: LabelEncoding) -> Result<Raster, String> {
    read_beside(bytes, encoding, "")
}

#[test]
fn ids_are_read_as_stored_in_every_depth() {
    let encoding = || ids(&[(0, IGNORE), (1, 0), (2, 1), (3, 2), (300, 3)]);
    for (color, depth, data) in [
        (ColorType::Grayscale, BitDepth::Two, vec![0b00_01_10_11]),
        (ColorType::Indexed, BitDepth::Two, vec![0b00_01_10_11]),
        (ColorType::Indexed, BitDepth::Four, vec![0x01, 0x23]),
        (ColorType::Grayscale, BitDepth::Eight, vec![0, 1, 2, 3]),
        (ColorType::Indexed, BitDepth::Eight, vec![0, 1, 2, 3]),
        (ColorType::Grayscale, BitDepth::Sixteen, vec![0, 0, 0, 1, 0, 2, 0, 3]),
    ] {
        let raster = read(&png(4, 1, color, depth, &data), encoding()).unwrap();
        assert_eq!((raster.size(), raster.labels), ((1, 4), vec![IGNORE, 0, 1, 2]), "{color:?}, {depth:?}");
    }
    let wide = png(2, 1, ColorType::Grayscale, BitDepth::Sixteen, &[1, 44, 0, 1]);
    assert_eq!(read(&wide, encoding()).unwrap().labels, [3, 0]);
    let bits = png(3, 2, ColorType::Grayscale, BitDepth::One, &[0b1010_0000, 0b0110_0000]);
    assert_eq!(read(&bits, ids(&[(0, 5), (1, 6)])).unwrap().labels, [6, 5, 6, 5, 6, 6]);
}

#[test]
fn one_pixel_is_an_image() {
    let one = png(1, 1, ColorType::Grayscale, BitDepth::Eight, &[7]);
    assert_eq!(read(&one, ids(&[(7, 0)])).unwrap(), Raster::new(1, 1, vec![0]));
}

#[test]
fn what_means_nothing_is_refused_by_file_and_pixel() {
    let grey = |data: &[u8]| png(2, 2, ColorType::Grayscale, BitDepth::Eight, data);
    let rgb = png(1, 1, ColorType::Rgb, BitDepth::Eight, &[1, 2, 3]);
    let colours = || LabelEncoding::Colours(BTreeMap::from([([9, 9, 9], 0)]));
    let known = || ids(&[(0, 0), (1, 1), (2, 2), (255, IGNORE)]);
    for (bytes, encoding, words) in [
        (
            grey(&[0, 1, 2, 3]),
            known(),
            "id 3 at column 1, row 1 is not among those of the data set: 0–2, 255",
        ),
        (rgb.clone(), known(), "has RGB colours, but the data set's masks are ids"),
        (rgb, colours(), "colour (1, 2, 3) at column 0, row 0"),
        (grey(&[0; 4]), colours(), "has grey values or a palette"),
        (png(1, 1, ColorType::Rgba, BitDepth::Eight, &[0; 4]), known(), "alpha"),
        (png(1, 1, ColorType::GrayscaleAlpha, BitDepth::Eight, &[0; 2]), known(), "alpha"),
        (png(1, 1, ColorType::Rgb, BitDepth::Sixteen, &[0; 6]), known(), "16 bits"),
        (b"no picture".to_vec(), known(), "is not a PNG"),
        (b"\xff\xd8\xff\xe0".to_vec(), known(), "is a JPEG, but only a PNG keeps the numbers of pixels"),
        (grey(&[0; 4])[..40].to_vec(), known(), "the PNG is truncated: it has no pixel data"),
    ] {
        let error = read(&bytes, encoding).unwrap_err();
        assert!(error.contains("m_seg.png") && error.contains(words), "{error}");
    }
    let absent = RasterFile { path: "nowhere/m.png".into(), encoding: Arc::new(known()) };
    assert!(absent.read().unwrap_err().to_string().contains("nowhere/m.png"));
}

#[test]
fn pixels_that_are_all_there_are_read_whatever_their_checksum_and_end() {
    let whole = png(4, 1, ColorType::Grayscale, BitDepth::Eight, &[0, 1, 2, 3]);
    let encoding = || ids(&[(0, IGNORE), (1, 0), (2, 1), (3, 2)]);
    // The last 16 bytes are the checksum of the pixel data and the chunk IEND.
    let place = whole.len() - 16;
    let mut other_sum = whole.clone();
    other_sum[place] ^= 1;
    for bytes in [other_sum, whole[..place + 4].to_vec(), whole[..place].to_vec()] {
        assert_eq!(read(&bytes, encoding()).unwrap().labels, [IGNORE, 0, 1, 2]);
    }
    let mut header = whole.clone();
    header[29] ^= 1; // the checksum of IHDR
    let error = read(&header, encoding()).unwrap_err();
    assert!(error.contains("m_seg.png") && error.contains("checksum of its chunk IHDR"), "{error}");
}

#[test]
fn colours_are_read_by_their_table() {
    let encoding =
        LabelEncoding::Colours(BTreeMap::from([([0, 0, 0], IGNORE), ([128, 64, 128], 0), ([1, 2, 3], 1)]));
    let bytes = png(3, 1, ColorType::Rgb, BitDepth::Eight, &[128, 64, 128, 1, 2, 3, 0, 0, 0]);
    assert_eq!(read(&bytes, encoding).unwrap().labels, [0, 1, IGNORE]);
}

#[test]
fn ade20k_names_its_numbers_beside_the_mask() {
    let encoding =
        || LabelEncoding::Ade20k(BTreeMap::from([("sky".to_string(), 2), ("wall".to_string(), 0)]));
    // 2420 = 9 · 256 + 116, 300 = 1 · 256 + 44; the last digit of red tells parts.
    let data = [90, 116, 5, 19, 44, 0, 0, 0, 0, 0, 7, 255];
    let bytes = png(4, 1, ColorType::Rgb, BitDepth::Eight, &data);
    let object = |name: &str, number: u32| format!(r#"{{"name": "{name}", "name_ndx": {number}, "id": 1}}"#);
    let beside = |objects: &[String]| format!(r#"{{"annotation": {{"object": [{}]}}}}"#, objects.join(","));
    let full = beside(&[object("sky", 2420), object("wall", 300), object("toy", 7), object("sky", 2420)]);
    assert_eq!(read_beside(&bytes, encoding(), &full).unwrap().labels, [2, 0, IGNORE, IGNORE]);
    let error = read_beside(&bytes, encoding(), &beside(&[object("sky", 2420)])).unwrap_err();
    assert!(error.contains("object class 300 at column 1, row 0 has no name"), "{error}");
    let error = read_beside(&bytes, encoding(), &beside(&[object("sky", 7), object("wall", 7)])).unwrap_err();
    assert!(error.contains("m.json") && error.contains("7 has two names"), "{error}");
    assert!(read_beside(&bytes, encoding(), "{\"annotation\"").unwrap_err().contains("m.json"));
}

#[test]
fn labels_are_written_as_the_ids_of_the_data_set() {
    let raster = Raster::new(2, 2, vec![0, 1, 2, 1]);
    for known in [[7, 8, 33], [7, 300, 65535]] {
        let bytes = raster.to_png(&known, &[]).unwrap();
        let pairs: Vec<(u32, u16)> = known.into_iter().zip(0..).collect();
        assert_eq!(read(&bytes, ids(&pairs)).unwrap(), raster);
    }
    assert!(raster.to_png(&[1, 2], &[]).unwrap_err().contains("label 2 has no id"));
    assert!(raster.to_png(&[1, 2, 70000], &[]).unwrap_err().contains("70000"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_again(
        (width, labels) in (1usize..9).prop_flat_map(|w| (Just(w), prop::collection::vec(0u16..5, w..9 * w))),
        known in prop::collection::btree_set(0u32..65536, 5),
    ) {
        let height = labels.len() / width;
        let raster = Raster::new(height, width, labels[..height * width].to_vec());
        let known: Vec<u32> = known.into_iter().collect();
        let pairs: Vec<(u32, u16)> = known.iter().copied().zip(0..).collect();
        let bytes = raster.to_png(&known, &[]).unwrap();
        prop_assert_eq!(read(&bytes, ids(&pairs)).unwrap(), raster);
    }

    #[test]
    fn damage_is_an_error_or_a_raster_of_known_labels(at in 0usize..200, byte: u8, cut in 0usize..200) {
        let labels = (0..64).map(|k| k % 5).collect();
        let mut bytes = Raster::new(8, 8, labels).to_png(&[0, 1, 2, 3, 4], &[]).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        for bytes in [&bytes[..], &bytes[..cut % bytes.len()]] {
            if let Ok(raster) = read(bytes, ids(&[(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)])) {
                prop_assert!(raster.labels.iter().all(|label| *label < 5));
            }
        }
    }
}
