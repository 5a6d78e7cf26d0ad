//! Compressed archives, sound and hostile. They are put together here, field by field.

use crate::weights::WeightFile;
use candle_core::{DType, Device};
use flate2::{Compression, write::DeflateEncoder};
use std::io::Write as _;
use std::path::Path;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// A file of an archive, with what the archive says of it.
#[derive(Clone)]
struct File {
    name: &'static str,
    method: u16,
    packed: Vec<u8>,
    size: u32,
    crc32: u32,
    /// Where its header is, if that is not where it is written.
    at: Option<u32>,
}

fn deflated(name: &'static str, content: &[u8]) -> File {
    let mut packer = DeflateEncoder::new(vec![], Compression::best());
    packer.write_all(content).unwrap();
    let (packed, crc32) = (packer.finish().unwrap(), crc32fast::hash(content));
    File { name, method: DEFLATED, packed, size: content.len() as u32, crc32, at: None }
}

fn archive(files: &[File]) -> Vec<u8> {
    let (mut bytes, mut directory) = (vec![], vec![]);
    let short = |n: u16| n.to_le_bytes().to_vec();
    let long = |n: u32| n.to_le_bytes().to_vec();
    for File { name, method, packed, size, crc32, at } in files {
        let start = at.unwrap_or(bytes.len() as u32);
        let sizes =
            [long(*crc32), long(packed.len() as u32), long(*size), short(name.len() as u16), short(0)]
                .concat();
        let common = [short(20), short(0), short(*method), short(0), short(33), sizes].concat();
        if at.is_none() {
            bytes.extend(
                [b"PK\x03\x04".to_vec(), common.clone(), name.as_bytes().to_vec(), packed.clone()].concat(),
            );
        }
        let rest = [short(0), short(0), short(0), long(0), long(start), name.as_bytes().to_vec()].concat();
        directory.extend([b"PK\x01\x02".to_vec(), short(20), common, rest].concat());
    }
    let (count, start) = (short(files.len() as u16), long(bytes.len() as u32));
    let end = [
        b"PK\x05\x06".to_vec(),
        long(0),
        count.clone(),
        count,
        long(directory.len() as u32),
        start,
        short(0),
    ];
    [bytes, directory, end.concat()].concat()
}

/// An array of NumPy with this header and these values.
fn array(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00", (header.len() as u16).to_le_bytes().as_slice(), header.as_bytes(), values].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn open(files: &[File]) -> Result<WeightFile, String> {
    WeightFile::parse(Path::new("some.npz"), archive(files)).map_err(|error| error.to_string())
}

fn refused(files: &[File]) -> String {
    open(files).err().expect("refused")
}

#[test]
fn compressed_and_uncompressed_files_are_read_together() {
    let (a, b) =
        (array("<f4", "(2, 2)", &floats(&[1., 2., 3., 4.])), array("<f4", "(3,)", &floats(&[5., 6., 7.])));
    let plain = File { method: STORED, packed: b.clone(), ..deflated("b.npy", &b) };
    let counter = array("<i8", "()", &9i64.to_le_bytes());
    let file = open(&[deflated("a.npy", &a), plain, deflated("c.npy", &counter)]).unwrap();
    assert_eq!(file.format(), "npz");
    let found = file.read(&Device::Cpu).unwrap();
    let values =
        |i: usize| found[i].1.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!((values(0), values(1), values(2)), (vec![1., 2., 3., 4.], vec![5., 6., 7.], vec![9.]));
    assert_eq!(found[0].1.dims(), [2, 2]);
    let bytes = archive(&[deflated("a.npy", &a)]);
    assert_eq!(
        file.bytes(),
        archive(&[
            deflated("a.npy", &a),
            File { method: STORED, packed: b.clone(), ..deflated("b.npy", &b) },
            deflated("c.npy", &counter)
        ])
        .len(),
        "what was unpacked is no part of the file"
    );
    for length in 4..bytes.len() {
        let error =
            WeightFile::parse(Path::new("some.npz"), bytes[..length].to_vec()).err().unwrap().to_string();
        assert!(error.contains("some.npz"), "{error}");
    }
}

#[test]
fn no_more_is_unpacked_than_the_archive_states() {
    // 64 MB of zeros in 64 kB.
    let zeros = deflated("a.npy", &[array("<f4", "(16777216,)", b""), vec![0; 1 << 26]].concat());
    assert!(zeros.packed.len() < 100_000);
    assert_eq!(open(std::slice::from_ref(&zeros)).unwrap().entries()[0].count(), 1 << 24);
    for (size, words) in
        [(1000, "more than the 1000 bytes"), (u32::MAX - 1, "fewer than the 4294967294 bytes")]
    {
        let error = refused(&[File { size, ..zeros.clone() }]);
        assert!(error.contains("`a.npy` is damaged: it unpacks to") && error.contains(words), "{error}");
    }
    // The same bytes as ten files.
    let again = |name| File { name, at: Some(0), ..zeros.clone() };
    let names = ["b.npy", "c.npy", "d.npy", "e.npy"];
    let error = refused(&[vec![zeros.clone()], names.map(again).to_vec()].concat());
    assert!(error.contains("shares its compressed bytes") || error.contains("damaged"), "{error}");
}

#[test]
fn damage_and_other_methods_are_named() {
    let sound = deflated("a.npy", &array("<f4", "(2,)", &floats(&[1., 2.])));
    let error =
        open(&[File { crc32: 1, ..sound.clone() }]).unwrap().read(&Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("tensor `a` is damaged (its CRC-32"), "{error}");
    let error = refused(&[File { packed: vec![0xff; 40], ..sound.clone() }]);
    assert!(error.contains("its compressed bytes cannot be unpacked"), "{error}");
    for method in [12, 14, 93] {
        let error = refused(&[File { method, ..sound.clone() }]);
        assert!(error.contains("`a.npy` is compressed by") && error.contains("np.savez"), "{error}");
    }
}

#[test]
fn an_array_of_no_use_is_reported_and_the_others_are_read() {
    let good = deflated("a.npy", &array("<f4", "(2,)", &floats(&[1., 2.])));
    for (kind, reason) in
        [("|O", "objects of Python"), ("<c8", "complex"), (">f4", "big-endian"), ("<U3", "'<U3'")]
    {
        let bad = deflated("opt/b.npy", &array(kind, "(2,)", &[0; 16]));
        let file = open(&[good.clone(), bad.clone()]).unwrap();
        assert_eq!((file.entries().len(), file.unusable().len()), (1, 1));
        let tensor = &file.unusable()[0];
        assert!(tensor.name == "opt/b" && tensor.reason.contains(reason), "{tensor}");
        let error = file.read(&Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("`opt/b`") && error.contains(reason), "{error}");
        let error = refused(&[bad]);
        assert!(error.contains("no usable tensors") && error.contains(reason), "{error}");
        // Beside a model.
        let bad = deflated("head/b.npy", &array(kind, "(2,)", &[0; 16]));
        assert_eq!(open(&[good.clone(), bad]).unwrap().read(&Device::Cpu).unwrap().len(), 1);
    }
}
