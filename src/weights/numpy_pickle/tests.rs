//! Pickles of arrays, sound and hostile. They are put together here, operation by operation.

use crate::weights::WeightFile;
use candle_core::{DType, Device};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/dialects/formats")).join(name)
}

fn text(text: &str) -> Vec<u8> {
    [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

fn name(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

fn numbers(numbers: &[u8]) -> Vec<u8> {
    tuple(&numbers.iter().map(|number| vec![b'K', *number]).collect::<Vec<_>>())
}

fn call(callable: Vec<u8>, arguments: &[Vec<u8>]) -> Vec<u8> {
    [callable, tuple(arguments), b"R".to_vec()].concat()
}

/// Bytes as protocol 3 and Python 2 write them, and as protocol 2 of Python 3 does.
fn bytes(values: &[u8]) -> Vec<u8> {
    [b"B", (values.len() as u32).to_le_bytes().as_slice(), values].concat()
}

fn python2(values: &[u8]) -> Vec<u8> {
    [b"T", (values.len() as u32).to_le_bytes().as_slice(), values].concat()
}

fn latin1(values: &[u8]) -> Vec<u8> {
    let characters: String = values.iter().map(|byte| char::from(*byte)).collect();
    call(name("_codecs", "encode"), &[text(&characters), text("latin1")])
}

fn dtype(code: &str, order: &str) -> Vec<u8> {
    let made = call(name("numpy", "dtype"), &[text(code), b"K\x00".to_vec(), b"K\x01".to_vec()]);
    let state = tuple(&[b"K\x03".to_vec(), text(order), b"N".to_vec(), b"N".to_vec(), b"N".to_vec()]);
    [made, state, b"b".to_vec()].concat()
}

fn array(shape: &[u8], dtype: Vec<u8>, fortran: u8, values: Vec<u8>) -> Vec<u8> {
    let empty = [name("numpy", "ndarray"), numbers(&[0]), bytes(b"b")];
    let made = call(name("numpy.core.multiarray", "_reconstruct"), &empty);
    let state = tuple(&[b"K\x01".to_vec(), numbers(shape), dtype, vec![fortran], values]);
    [made, state, b"b".to_vec()].concat()
}

/// A file of one array, `weight`, as detectron2 writes it.
fn file(array: Vec<u8>) -> Vec<u8> {
    let model = [b"}".to_vec(), text("weight"), array, b"s".to_vec()].concat();
    [b"\x80\x02}(".to_vec(), text("model"), model, text("__author__"), text("me"), b"u.".to_vec()].concat()
}

fn open(bytes: Vec<u8>) -> Result<WeightFile, String> {
    WeightFile::parse(Path::new("some.pkl"), bytes).map_err(|error| error.to_string())
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

const FALSE: u8 = 0x89;
const TRUE: u8 = 0x88;

#[test]
fn arrays_are_read_in_every_way_that_numpy_writes_them() {
    // Bytes above 127, which are two in UTF-8.
    let values = [-1.5f32, 2., 3., -4., 5.25, 6.];
    for stored in [bytes(&floats(&values)), python2(&floats(&values)), latin1(&floats(&values))] {
        for (fortran, expected) in
            [(FALSE, [[-1.5f32, 2., 3.], [-4., 5.25, 6.]]), (TRUE, [[-1.5, 3., 5.25], [2., -4., 6.]])]
        {
            let opened = open(file(array(&[2, 3], dtype("f4", "<"), fortran, stored.clone()))).unwrap();
            assert_eq!((opened.format(), opened.state_dict(), opened.strangers().len()), ("pkl", "model", 0));
            let found = opened.read(&Device::Cpu).unwrap();
            assert_eq!((found.len(), found[0].0.as_str()), (1, "weight"));
            assert_eq!(found[0].1.to_vec2::<f32>().unwrap(), expected);
        }
    }
    // Protocol 5, which has one more order: that of the dimensions of the array as it was.
    let ramp: Vec<f32> = (0..24).map(|i| i as f32).collect();
    for (order, axes, shape, expected) in [
        ("C", None, [2, 3, 4], [0., 1., 4., 12.]),
        ("F", None, [2, 3, 4], [0., 6., 2., 1.]),
        ("K", Some([1, 2, 0]), [3, 4, 2], [0., 12., 1., 4.]),
    ] {
        let mut given = vec![bytes(&floats(&ramp)), dtype("f4", "<"), numbers(&[2, 3, 4]), text(order)];
        given.extend(axes.map(|axes| numbers(&axes)));
        let opened = open(file(call(name("numpy._core.numeric", "_frombuffer"), &given))).unwrap();
        let found = opened.read(&Device::Cpu).unwrap().remove(0).1;
        assert_eq!(found.dims(), shape);
        let found = found.to_vec3::<f32>().unwrap();
        // The first value, and those one step along each dimension.
        assert_eq!([found[0][0][0], found[0][0][1], found[0][1][0], found[1][0][0]], expected, "{order}");
    }
    let counter = array(&[], dtype("i8", "<"), FALSE, bytes(&7i64.to_le_bytes()));
    assert_eq!(open(file(counter)).unwrap().entries()[0].dtype, DType::I64);
}

#[test]
fn arrays_that_are_not_what_they_say_are_named() {
    let values = || bytes(&floats(&[1., 2., 3., 4.]));
    let weight = |dtype, values| array(&[2, 2], dtype, FALSE, values);
    let huge = array(&[255; 9], dtype("f8", "<"), FALSE, values());
    let objects = weight(dtype("O8", "|"), [b"]".to_vec()].concat());
    let torch = call(name("torch._utils", "_rebuild_tensor_v2"), &[bytes(b"")]);
    let axes = [values(), dtype("f4", "<"), numbers(&[2, 2]), text("K"), numbers(&[0, 7])];
    for (array, reason) in [
        (weight(dtype("f4", ">"), values()), "big-endian"),
        (weight(dtype("c8", "<"), values()), "type `c8`"),
        (weight(dtype("f4", "<"), bytes(&[0; 12])), "does not fit 12 bytes"),
        (weight(dtype("f4", "<"), latin1(&[200; 17])), "does not fit 17 bytes"),
        (
            weight(dtype("f4", "<"), call(name("os", "system"), &[text("ls")])),
            "not in a format that NumPy writes",
        ),
        (huge, "does not fit"),
        (objects, "`O8`"),
        (weight(b"N".to_vec(), values()), "not in a format that NumPy writes"),
        (torch, "save it with `torch.save`"),
        (call(name("numpy._core.numeric", "_frombuffer"), &axes), "not in a format that NumPy writes"),
    ] {
        let error = open(file(array)).err().unwrap();
        assert!(error.contains("tensor `weight`") && error.contains(reason), "{error}\nlacks: {reason}");
        assert!(error.contains("some.pkl"), "{error}");
    }
    let again = |i: u8| [text(&format!("weight{i}")), b"h\x00".to_vec()].concat();
    let first = [array(&[200], dtype("u1", "|"), FALSE, bytes(&[7; 200])), b"q\x00".to_vec()].concat();
    let many = [text("weight"), first].concat();
    let many = [many, (0..9).flat_map(again).collect()].concat();
    let error = open([b"\x80\x02}(".to_vec(), many, b"u.".to_vec()].concat()).err().unwrap();
    assert!(error.contains("share their values: 2000 bytes"), "{error}");
    let error = open(file(b"K\x05".to_vec())).err().unwrap();
    assert!(error.contains("no arrays") && error.contains("`model`, `__author__`"), "{error}");
    // What another class would hold is ignored, and nothing is run.
    let model = array(&[1], dtype("f4", "<"), FALSE, bytes(&floats(&[1.])));
    let model = [b"}".to_vec(), text("weight"), model, b"s".to_vec()].concat();
    let extra = call(name("os", "system"), &[text("touch proof")]);
    let both = [b"\x80\x02}(".to_vec(), text("model"), model, text("extra"), extra, b"u.".to_vec()].concat();
    assert_eq!(open(both).unwrap().strangers(), ["os.system"]);
}

#[test]
fn truncated_files_are_errors() {
    let whole = std::fs::read(golden("vitdet.pkl")).unwrap();
    assert!(open(whole.clone()).is_ok());
    for length in [1, 3, 100, whole.len() / 2, whole.len() - 1] {
        let error = open(whole[..length].to_vec()).err().unwrap();
        assert!(error.contains("some.pkl") && error.contains("pickle"), "{error}");
    }
}
