//! Maps of every type of number, what is refused, and how targets move.

use super::super::{Geometric, Geometry};
use super::*;
use proptest::prelude::*;

/// A `.npy` file of version 1 as NumPy writes it: the header ends with a line break at a multiple of 64 bytes.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    with_header(1, &text, data)
}

fn with_header(version: u8, text: &str, data: &[u8]) -> Vec<u8> {
    let start = if version == 1 { 10 } else { 12 };
    let mut text = text.to_string();
    while !(start + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    match version {
        1 => bytes.extend((text.len() as u16).to_le_bytes()),
        _ => bytes.extend((text.len() as u32).to_le_bytes()),
    }
    [bytes, text.into_bytes(), data.to_vec()].concat()
}

fn png(color: png::ColorType, depth: png::BitDepth, width: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, width, 1);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        encoder.set_palette(vec![0; 3 * 16]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Reads `bytes` as a file whose numbers are 2 · stored + 1, without value where 7 is stored.
fn read(bytes: &[u8]) -> Result<DenseMap, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.bin");
    std::fs::write(&path, bytes).unwrap();
    DenseMapFile { path, scale: 2., offset: 1., invalid: Some(7.) }.read().map_err(|e| e.to_string())
}

/// Values with −1 for those that are invalid.
fn known(map: &DenseMap) -> Vec<f32> {
    map.values.iter().map(|value| if value.is_nan() { -1. } else { *value }).collect()
}

#[test]
fn numbers_of_every_type_are_those_of_numpy() {
    // numpy.array([[1, 7, 300], [2, 0, 250]]) in every type that holds them; u1 has 44 = 300 mod 256.
    let wide = [1i32, 7, 300, 2, 0, 250];
    let le = |to: fn(i32) -> Vec<u8>| wide.iter().flat_map(|v| to(*v)).collect::<Vec<u8>>();
    let cases: [(&str, Vec<u8>); 10] = [
        ("<u2", le(|v| (v as u16).to_le_bytes().to_vec())),
        (">u2", le(|v| (v as u16).to_be_bytes().to_vec())),
        ("<i2", le(|v| (v as i16).to_le_bytes().to_vec())),
        (">i2", le(|v| (v as i16).to_be_bytes().to_vec())),
        ("<i4", le(|v| v.to_le_bytes().to_vec())),
        (">i4", le(|v| v.to_be_bytes().to_vec())),
        ("<f4", le(|v| (v as f32).to_le_bytes().to_vec())),
        (">f4", le(|v| (v as f32).to_be_bytes().to_vec())),
        ("<f8", le(|v| f64::from(v).to_le_bytes().to_vec())),
        (">f8", le(|v| f64::from(v).to_be_bytes().to_vec())),
    ];
    for (descr, data) in cases {
        let map = read(&npy(descr, "(2, 3)", &data)).unwrap();
        assert_eq!((map.size(), known(&map)), ((2, 3), vec![3., -1., 601., 5., 1., 501.]), "{descr}");
    }
    for descr in ["|u1", "<u1"] {
        let map = read(&npy(descr, "(2, 3)", &[1, 7, 44, 2, 0, 250])).unwrap();
        assert_eq!(known(&map), [3., -1., 89., 5., 1., 501.]);
    }
    let negative = read(&npy("<i2", "(1, 1)", &(-300i16).to_le_bytes())).unwrap();
    assert_eq!(negative.values, [-599.]);
}

#[test]
fn png_numbers_are_read_as_stored() {
    use png::{BitDepth, ColorType};
    let wide = png(ColorType::Grayscale, BitDepth::Sixteen, 3, &[0, 7, 1, 44, 255, 255]);
    assert_eq!(known(&read(&wide).unwrap()), [-1., 601., 131_071.]);
    let narrow = png(ColorType::Grayscale, BitDepth::Eight, 3, &[7, 0, 255]);
    assert_eq!(known(&read(&narrow).unwrap()), [-1., 1., 511.]);
    // Only checksums and the end are missing.
    assert_eq!(known(&read(&wide[..wide.len() - 20]).unwrap()), [-1., 601., 131_071.]);
    for (bytes, words) in [
        (png(ColorType::Indexed, BitDepth::Eight, 1, &[0]), "has a palette"),
        (png(ColorType::Rgb, BitDepth::Eight, 1, &[0; 3]), "has RGB colours"),
        (png(ColorType::GrayscaleAlpha, BitDepth::Eight, 1, &[0; 2]), "alpha"),
        (wide[..wide.len() - 28].to_vec(), "the PNG is truncated"),
        (b"no map".to_vec(), "is not a PNG"),
        (vec![], "is not a PNG"),
    ] {
        let error = read(&bytes).unwrap_err();
        assert!(error.contains("map.bin") && error.contains(words), "{error}");
    }
}

#[test]
fn numbers_that_are_not_finite_have_no_value() {
    let data: Vec<u8> =
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.5].iter().flat_map(|v| v.to_le_bytes()).collect();
    let map = read(&npy("<f4", "(1, 4)", &data)).unwrap();
    assert_eq!(known(&map), [-1., -1., -1., 2.]);
    let error = read(&npy("<f8", "(1, 2)", &[0f64, 1e300].map(f64::to_le_bytes).concat())).unwrap_err();
    assert!(error.contains("at column 1, row 0 is too large"), "{error}");
}

#[test]
fn headers_of_both_versions_and_every_order_of_keys_are_read() {
    let data = [1, 2];
    for text in [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2), }",
        "{'shape': (1, 2), 'fortran_order': False, 'descr': '|u1'}",
        "{\"descr\": \"|u1\",'fortran_order':False,'shape':(1,2,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1L, 2L)}",
    ] {
        for version in [1, 2] {
            assert_eq!(read(&with_header(version, text, &data)).unwrap().values, [3., 5.], "{text}");
        }
    }
}

#[test]
fn headers_that_are_wrong_or_unusual_are_refused() {
    let whole = npy("<u2", "(2, 2)", &[0; 8]);
    let header = |text: &str| with_header(1, text, &[0; 8]);
    for (bytes, words) in [
        (whole[..whole.len() - 1].to_vec(), "is truncated: it has 7 bytes, expected 2x2 numbers of 2 bytes"),
        ([&whole[..], &[0; 3]].concat(), "has 3 bytes more than 2x2 numbers of 2 bytes"),
        (whole[..40].to_vec(), "its header ends early"),
        (whole[..7].to_vec(), "its header ends early"),
        (whole[..9].to_vec(), "its header ends early"),
        (with_header(3, "{}", &[]), "has version 3.0"),
        (npy("|O", "(2, 2)", &[0; 8]), "holds Python objects"),
        (npy("<f2", "(2, 2)", &[0; 8]), "holds numbers of type `<f2`"),
        (npy("|u2", "(2, 2)", &[0; 8]), "holds numbers of type `|u2`"),
        (npy("<c8", "(1, 1)", &[0; 8]), "holds numbers of type `<c8`"),
        (npy("", "(1, 1)", &[0; 8]), "holds numbers of type ``"),
        (npy("é", "(1, 1)", &[0; 8]), "holds numbers of type `é`"),
        (npy("<u2", "(4,)", &[0; 8]), "has the shape [4], expected [height, width]"),
        (npy("<u2", "()", &[0; 2]), "has the shape []"),
        (npy("<u2", "(2, 2, 1)", &[0; 8]), "has the shape [2, 2, 1]"),
        (npy("<u2", "(0, 2)", &[]), "has no numbers"),
        (npy("<u2", "(4294967296, 4294967296)", &[0; 8]), "is truncated"),
        (npy("<u2", "(18446744073709551616, 1)", &[0; 8]), "is not understood"),
        (npy("<u2", "(-2, 2)", &[0; 8]), "is not understood"),
        (npy("<u2", "(2, 2", &[0; 8]), "is not understood"),
        (npy("<u2", "(2)", &[0; 8]), "is not understood"),
        (header("{'descr': '<u2', 'fortran_order': True, 'shape': (2, 2), }"), "is in Fortran order"),
        (header("{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (4,), }"), "structured array"),
        (header("{'descr': '<u2', 'fortran_order': False, }"), "is not understood"),
        (
            header("{'descr': '<u2', 'descr': '<u2', 'fortran_order': False, 'shape': (2, 2)}"),
            "is not understood",
        ),
        (header("{'descr': '<u2', 'fortran_order': 0, 'shape': (2, 2)}"), "is not understood"),
        (header("{'descr': '<u2', 'fortran_order': False, 'shape': (2, 2), 'more': 1}"), "is not understood"),
        (header("{'descr': '<u2' 'fortran_order': False, 'shape': (2, 2)}"), "is not understood"),
        (header("{'descr': '<u2', 'fortran_order': False, 'shape': (2, 2)} {"), "is not understood"),
        (header(""), "is not understood"),
    ] {
        let error = read(&bytes).unwrap_err();
        assert!(error.contains("map.bin") && error.contains(words), "{words}: {error}");
    }
    let mut claims = b"\x93NUMPY\x02\x00".to_vec();
    claims.extend(u32::MAX.to_le_bytes());
    assert!(read(&claims).unwrap_err().contains("has a header of 4294967295 bytes"));
    let absent = DenseMapFile { path: "nowhere/m.npy".into(), scale: 1., offset: 0., invalid: None };
    assert!(absent.read().unwrap_err().to_string().contains("nowhere/m.npy"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damage_is_an_error_or_a_map_of_its_size(at in 0usize..200, byte: u8, cut in 0usize..200) {
        let mut bytes = npy("<u2", "(3, 4)", &[1; 24]);
        let at = at % bytes.len();
        bytes[at] = byte;
        for bytes in [&bytes[..], &bytes[..cut % bytes.len()]] {
            if let Ok(map) = read(bytes) {
                prop_assert_eq!(map.values.len(), map.height * map.width);
                prop_assert!(map.values.len() <= 24);
            }
        }
    }

    #[test]
    fn any_text_in_a_header_is_an_error_or_a_map(text in "[{}'(), :|<>0-9a-zA-Z_]{0,80}", version in 1u8..3) {
        if let Ok(map) = read(&with_header(version, &text, &[0; 16])) {
            prop_assert_eq!(map.values.len(), map.height * map.width);
        }
    }
}

fn target(width: usize, values: &[f32]) -> DenseTarget {
    DenseTarget::new(DenseMap::new(values.len() / width, width, values.to_vec()), None)
}

/// Values with −1 for those that are invalid.
fn shown(target: &DenseTarget) -> Vec<f32> {
    known(&DenseMap::new(1, target.values().len(), target.values()))
}

#[test]
fn numbers_move_to_the_nearest_pixel_unscaled_and_padding_has_none() {
    let mut t = target(3, &[0.5, 1.5, 2.5, 3.5, INVALID, 5.5]);
    t.apply(&Geometry::crop_resize((2, 3), 0., 0., 2., 3., (4, 6)));
    assert_eq!(t.size(), (4, 6));
    assert_eq!(shown(&t)[..6], [0.5, 0.5, 1.5, 1.5, 2.5, 2.5], "twice the size, the same numbers");
    t.apply(&Geometry::flip((4, 6)));
    assert_eq!(shown(&t)[12..18], [5.5, 5.5, -1., -1., 3.5, 3.5]);
    // Three rows and columns from row 2, column 4 on: two and two of them exist.
    t.apply(&Geometry::crop_resize((4, 6), 2., 4., 3., 3., (3, 3)));
    assert_eq!(shown(&t), [3.5, 3.5, -1., 3.5, 3.5, -1., -1., -1., -1.]);
    assert_eq!(t.source().values[..3], [0.5, 1.5, 2.5], "the annotation stays");
    let (values, mask) = t.masked_values();
    assert_eq!((values[0], values[2], mask), (3.5, 0., vec![1., 1., 0., 1., 1., 0., 0., 0., 0.]));
}

#[test]
fn what_a_crop_has_cut_off_does_not_come_back_and_turns_are_looked_up() {
    let mut t = target(4, &[1., 2., 3., 4.]);
    t.apply(&Geometry::crop_resize((1, 4), 0., 1., 1., 2., (1, 2)));
    t.apply(&Geometry::crop_resize((1, 2), 0., -1., 1., 4., (1, 4)));
    assert_eq!(shown(&t), [-1., 2., 3., -1.]);
    let mut t = target(2, &[1., 2., 3., 4.]);
    // A quarter turn: (x, y) -> (2 − y, x).
    t.apply(&Geometry { from: (2, 2), to: (2, 2), forward: [0., -1., 2., 1., 0., 0.] });
    assert_eq!(shown(&t), [3., 1., 4., 2.]);
}

#[test]
fn a_map_of_another_size_than_its_image_is_named() {
    let map = DenseMap::new(1, 2, vec![0.; 2]);
    let file = DenseMapFile { path: "a/depth.png".into(), scale: 1., offset: 0., invalid: None };
    let target = DenseTarget::new(map, Some(file));
    assert_eq!(target.fits((1, 2)), Ok(()));
    let error = target.fits((2, 2)).unwrap_err();
    assert_eq!(error, "its map `a/depth.png` has 1x2 pixels, but the image has 2x2 (height x width)");
}
