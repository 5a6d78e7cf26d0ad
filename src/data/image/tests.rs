//! Every file of the golden folders as Pillow reads it, or refused with a reason; turns by EXIF.

use super::*;
use candle_core::{Device, Tensor};
use std::collections::HashMap;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");

fn golden(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(format!("{FOLDER}/{name}.safetensors"), &Device::Cpu).unwrap()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference from Pillow in levels.
fn difference(image: &Image, expected: &Tensor, name: &str) -> u8 {
    assert_eq!((image.height, image.width), (expected.dims()[0], expected.dims()[1]), "{name}");
    let expected = bytes(expected);
    assert_eq!(image.data.len(), expected.len(), "{name}");
    image.data.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// What became of the files of a golden file: names of those that are equal, close, read although Pillow refuses them,
/// and refused although Pillow reads them. Each reason is in plain words.
fn outcomes(name: &str) -> [Vec<String>; 4] {
    let golden = golden(name);
    let mut found = [vec![], vec![], vec![], vec![]];
    let mut names: Vec<&str> = golden.keys().filter_map(|key| key.strip_prefix("file.")).collect();
    names.sort_unstable();
    for name in names {
        let expected = golden.get(&format!("rgb.{name}"));
        let read = Image::decode(&bytes(&golden[&format!("file.{name}")]), 3);
        let place = match (&read, expected) {
            (Ok(image), Some(expected)) => match difference(image, expected, name) {
                0 => 0,
                1 if name.ends_with(".bmp") => 1,
                more => panic!("{name} differs by {more}"),
            },
            (Ok(_), None) => 2,
            (Err(_), Some(_)) => 3,
            (Err(_), None) => 4,
        };
        if let Err(reason) = &read {
            let debug = ["::", "{", "(\"", "Unknown", "Error", "_"];
            assert!(reason.len() > 15 && !debug.iter().any(|word| reason.contains(word)), "{name}: {reason}");
        }
        if let Some(list) = found.get_mut(place) {
            list.push(name.to_string());
        }
    }
    found
}

#[test]
fn every_layout_of_a_jpeg_is_read_as_pillow_reads_it() {
    let [equal, close, lenient, strict] = outcomes("jpeg");
    assert_eq!(strict, [""; 0]);
    assert_eq!(lenient, ["lenient_half_an_end", "lenient_no_end"]);
    assert_eq!((equal.len(), close.len()), (325, 0));
}

#[test]
fn a_jpeg_without_its_end_has_the_pixels_of_the_whole_one() {
    let golden = golden("jpeg");
    for (cut, whole) in [
        ("lenient_no_end", "damaged.trailer"),
        ("lenient_half_an_end", "damaged.trailer"),
        ("damaged.trailer_without_end", "damaged.trailer"),
    ] {
        let image = Image::decode(&bytes(&golden[&format!("file.{cut}")]), 3).unwrap();
        assert_eq!(difference(&image, &golden[&format!("rgb.{whole}")], cut), 0, "{cut}");
    }
}

#[test]
fn other_formats_are_read_as_pillow_reads_them() {
    let [equal, close, lenient, strict] = outcomes("images");
    assert_eq!(equal.len(), 171);
    assert_eq!(close, ["555.bmp", "555_masks.bmp", "565.bmp"], "16-bit colours are rounded otherwise");
    // A wrong checksum of a comment, and masks of colours that Pillow does not know.
    assert_eq!(lenient, ["32_rgbx.bmp", "444.bmp", "text_crc.png"]);
    let other =
        |name: &&String| !name.ends_with(".tif") && !name.starts_with("other.") && !name.starts_with("rle");
    assert_eq!(strict.iter().filter(other).collect::<Vec<_>>(), ["header_twice.png", "no_palette.png"]);
    for read in [
        "rgb_tiff_lzw.tif",
        "grey_raw.tif",
        "cmyk_packbits.tif",
        "bilevel_group4.tif",
        "made_turned_6.tif",
        "made_tiles.tif",
        "more_cmyk_tiff_lzw_predicted.tif",
        "more_wide_tiff_lzw_predicted.tif",
    ] {
        assert!(equal.iter().any(|name| name == read), "{read}");
    }
}

#[test]
fn reasons_say_what_is_wrong() {
    let (jpeg, images) = (golden("jpeg"), golden("images"));
    for (golden, name, words) in [
        (&jpeg, "cut.baseline_7", "the JPEG is truncated: it ends before its pixel data"),
        (&jpeg, "cut.progressive_7", "the JPEG is truncated: it ends before its last scans"),
        (&jpeg, "process.hierarchical", "a hierarchical JPEG is not supported; save the image as PNG"),
        (&jpeg, "refused_twelve_bits", "other than 8 bits a sample"),
        (&jpeg, "colours.two", "another number of components"),
        (&jpeg, "fraction.one_scan", "fractions of sampling factors"),
        (&images, "palette_raw.tif", "the TIFF has a palette, which is not supported; save it as PNG"),
        (
            &images,
            "more_rgbx_tiff_lzw_predicted.tif",
            "a predictor (differences of pixels) and an extra channel",
        ),
        (&images, "more_rgb_big.tif", "is a BigTIFF"),
        (&images, "float_raw.tif", "signed or floating-point pixels"),
        (&images, "rgb_jpeg.tif", "JPEG compression"),
        (&images, "made_rgb_8_planes.tif", "colours in separate planes"),
        (&images, "bilevel_group3.tif", "the compression of a fax machine"),
        (&images, "more_rgb_zstd.tif", "compression number 50000"),
        (&images, "half.png", "the PNG is truncated: pixel data are missing"),
        (&images, "ihdr_crc.png", "the checksum of its chunk IHDR is wrong"),
        (&images, "half.bmp", "the BMP is truncated"),
        (&images, "other.gif", "is a GIF"),
        (&images, "other.html", "is a web page"),
        (&images, "other.empty", "the file is empty"),
    ] {
        let error = Image::decode(&bytes(&golden[&format!("file.{name}")]), 3).unwrap_err();
        assert!(error.contains(words), "{name}: {error}");
    }
}

#[test]
fn a_header_gives_the_size_of_the_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for (name, least) in [("jpeg", 320), ("images", 150)] {
        let golden = golden(name);
        let mut count = 0;
        for (key, file) in golden.iter().filter_map(|(key, file)| Some((key.strip_prefix("file.")?, file))) {
            let file = bytes(file);
            std::fs::write(&path, &file).unwrap();
            if let Ok(image) = Image::open(&path, 1) {
                assert_eq!(Image::size_of(&path).unwrap(), image.size(), "{key}");
                count += 1;
            }
        }
        assert!(count > least, "{count} of {name}");
    }
}

#[test]
fn files_of_the_older_folder_are_read_as_pillow_reads_them() {
    let golden = golden("decode/pixels");
    let mut count = 0;
    for file in std::fs::read_dir(format!("{FOLDER}/decode")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("bad_") || name == "pixels.safetensors" {
            continue;
        }
        for (channels, kind) in [(3, "rgb"), (1, "grey")] {
            let image = Image::open(&path, channels).unwrap();
            let most = u8::from(name == "lossy.webp");
            assert!(difference(&image, &golden[&format!("{name}.{kind}")], &name) <= most, "{name}, {kind}");
        }
        count += 1;
    }
    assert_eq!(count, 27);
}

#[test]
fn damaged_files_are_refused_by_name() {
    for (file, words) in [
        ("bad_half.jpg", "truncated"),
        ("bad_progressive.jpg", "truncated"),
        ("bad_half.png", "truncated"),
        ("bad_text.jpg", "and not an image of a known format"),
        ("absent.jpg", "No such file"),
    ] {
        let error = Image::open(Path::new(&format!("{FOLDER}/decode/{file}")), 3).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(words), "{error}");
    }
    // Only its end marker is missing.
    assert!(Image::open(Path::new(&format!("{FOLDER}/decode/bad_no_end.jpg")), 3).is_ok());
    let png = std::fs::read(format!("{FOLDER}/decode/rgb.png")).unwrap();
    assert!(Image::decode(&png, 4).unwrap_err().contains("3 channels cannot become 4"));
}

#[test]
fn exif_turns_an_image_only_where_it_is_asked_to() {
    let golden = golden("orientation");
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for (name, file) in golden.iter().filter_map(|(key, file)| Some((key.strip_prefix("file.")?, file))) {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes(file)).unwrap();
        let stored = Image::open(&path, 3).unwrap();
        assert_eq!(difference(&stored, &golden[&format!("stored.{name}")], name), 0);
        let upright = Image::open_upright(&path, 3).unwrap();
        assert_eq!(difference(&upright, &golden[&format!("upright.{name}")], name), 0);
        let (size, turn) = Image::header_of(&path).unwrap();
        assert_eq!((size, turn.size(size)), (stored.size(), upright.size()), "{name}");
        assert_eq!(turn == Turn::NONE, stored == upright, "{name}: {turn}");
        count += 1;
    }
    assert!(count >= 30, "{count}");
}
