//! Files of PyTorch, sound and hostile. Pickles are put together here, operation by operation.

use crate::config::{ModelConfig, parse};
use crate::models::{BackboneUsage, Vit};
use crate::nn::Params;
use crate::weights::{Contents, Inspection, WeightFile, load_backbone, with_state_dict};
use candle_core::{DType, Device, Tensor};
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(name)
}

fn text(text: &str) -> Vec<u8> {
    [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

fn name(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn integer(number: i32) -> Vec<u8> {
    [b"J".as_slice(), &number.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

fn sizes(numbers: &[i32]) -> Vec<u8> {
    tuple(&numbers.iter().map(|number| integer(*number)).collect::<Vec<_>>())
}

fn call(callable: Vec<u8>, arguments: &[Vec<u8>]) -> Vec<u8> {
    [callable, tuple(arguments), b"R".to_vec()].concat()
}

fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<u8> = pairs.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(".to_vec(), pairs, b"u".to_vec()].concat()
}

/// A view of the storage `key`.
fn tensor(kind: &str, key: &str, start: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    flagged(kind, key, start, shape, strides, &[])
}

/// Like [`tensor`], with more arguments.
fn flagged(kind: &str, key: &str, start: i32, shape: &[i32], strides: &[i32], more: &[Vec<u8>]) -> Vec<u8> {
    let id = tuple(&[text("storage"), name("torch", kind), text(key), text("cpu"), integer(0)]);
    let storage = [id, b"Q".to_vec()].concat();
    let rest = [b"\x89".to_vec(), b"}".to_vec()];
    let arguments = [&[storage, integer(start), sizes(shape), sizes(strides)][..], &rest, more].concat();
    call(name("torch._utils", "_rebuild_tensor_v2"), &arguments)
}

/// The archive of a pickle and of storages, as `torch.save` writes it.
fn archive(pickle: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pickle = [b"\x80\x02", pickle, b"."].concat();
    let storages = storages.iter().map(|(key, bytes)| (format!("data/{key}"), bytes.clone()));
    files(&[("data.pkl".to_string(), pickle)].into_iter().chain(storages).collect::<Vec<_>>())
}

fn files(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in files {
        zip.start_file(format!("archive/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn open(bytes: Vec<u8>) -> Result<WeightFile, String> {
    WeightFile::parse(Path::new("some.pth"), bytes).map_err(|error| error.to_string())
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// What is wrong with a file of this pickle and six floats `0`.
fn refused(pickle: &[u8]) -> String {
    let found = open(archive(pickle, &[("0", floats(&[0., 1., 2., 3., 4., 5.]))]));
    found.err().unwrap_or_else(|| panic!("not refused: {}", pickle.escape_ascii()))
}

#[test]
fn a_pickled_module_has_the_tensors_of_its_state_dict() {
    let file = WeightFile::open(&golden("dvae_encoder.pkl")).unwrap();
    let expected = candle_core::safetensors::load(golden("dvae.safetensors"), &Device::Cpu).unwrap();
    let found = file.read(&Device::Cpu).unwrap();
    assert_eq!(found.len(), expected.keys().filter(|key| key.starts_with("encoder.")).count());
    for (name, tensor) in found {
        let expected = &expected[&format!("encoder.{name}")];
        assert_eq!(tensor.dims(), expected.dims(), "{name}");
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&tensor), values(expected), "{name}");
    }
}

#[test]
fn truncated_files_are_errors() {
    let bytes = std::fs::read(golden("dvae_encoder.pkl")).unwrap();
    for length in [5, 100, bytes.len() / 2, bytes.len() - 30] {
        let error = open(bytes[..length].to_vec()).err().unwrap();
        assert!(error.contains("some.pth"), "{error}");
    }
}

#[test]
fn what_would_run_something_is_ignored_and_does_not_run() {
    let stranger = WeightFile::open(&golden("dvae_stranger.pkl")).unwrap();
    assert_eq!(stranger.strangers(), ["posix.system"]);
    let sound = WeightFile::open(&golden("dvae_encoder.pkl")).unwrap();
    assert_eq!(stranger.entries(), sound.entries());
    let folder = tempfile::tempdir().unwrap();
    let proof = folder.path().join("proof");
    let command = text(&format!("touch {}", proof.display()));
    let weight = tensor("FloatStorage", "0", 0, &[6], &[1]);
    let by_text = [text("os"), text("system"), b"\x93".to_vec()].concat();
    for (callable, named) in [
        (name("posix", "system"), "posix.system"),
        (by_text, "os.system"),
        (name("builtins", "eval"), "builtins.eval"),
        (name("subprocess", "Popen"), "subprocess.Popen"),
        (name("torch.hub", "load"), "torch.hub.load"),
        (name("torch", "load"), "torch.load"),
        (name("torch.nnet", "Linear"), "torch.nnet.Linear"),
        (name("numpy.testing._private.utils", "runstring"), "numpy.testing._private.utils.runstring"),
    ] {
        let hostile = call(callable.clone(), std::slice::from_ref(&command));
        let beside = dict(&[("weight", weight.clone()), ("extra", hostile.clone())]);
        // In the state dict, beside it, and thrown away at once.
        let around = dict(&[("model", dict(&[("weight", weight.clone())])), ("args", hostile.clone())]);
        let dropped = [hostile.clone(), b"0".to_vec(), dict(&[("weight", weight.clone())])].concat();
        for pickle in [beside, around, dropped] {
            let file = open(archive(&pickle, &[("0", floats(&[0.; 6]))])).unwrap();
            assert_eq!((file.strangers(), file.entries().len()), (&[named.to_string()][..], 1));
            assert_eq!(file.read(&Device::Cpu).unwrap().len(), 1);
        }
        // In place of the state dict, and around the values of a tensor.
        for pickle in [hostile.clone(), dict(&[("model", hostile)])] {
            let error = refused(&pickle);
            assert!(error.contains(named) && error.contains("no code was run"), "{error}");
        }
        let id = tuple(&[text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(6)]);
        let made = call(callable, &[[id, b"Q".to_vec()].concat(), command.clone()]);
        let error = refused(&dict(&[("weight", made)]));
        assert!(
            error.contains("tensor `weight`") && error.contains(named) && error.contains("not run"),
            "{error}"
        );
    }
    assert!(!proof.exists());
}

const MODEL: &str = "image = [32, 32]\npatch = 8\nwidth = 16\ndepth = 1\nheads = 2\n";

/// Names and shapes of a small ViT.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let params = vit();
    params.all().into_iter().map(|p| (p.name, p.var.dims().to_vec())).collect()
}

fn vit() -> Params {
    let (model, params) = (parse::<ModelConfig>(MODEL, "test").unwrap(), Params::new(0, &Device::Cpu));
    let usage = BackboneUsage { final_norm: true, ..BackboneUsage::default() };
    Vit::new(&model, usage, params.builder()).unwrap();
    params
}

/// The state dict of a small ViT whose names start with `prefix`; its values are in the storage `key`, one after another.
fn state(prefix: &str, key: &str) -> Vec<u8> {
    dict(&members(prefix, key).iter().map(|(name, t)| (name.as_str(), t.clone())).collect::<Vec<_>>())
}

fn members(prefix: &str, key: &str) -> Vec<(String, Vec<u8>)> {
    let mut start = 0;
    let member = |(name, shape): (String, Vec<usize>)| {
        let count: usize = shape.iter().product();
        let sides: Vec<i32> = shape.iter().map(|n| *n as i32).collect();
        let steps: Vec<i32> = (0..sides.len()).map(|i| sides[i + 1..].iter().product()).collect();
        start += count;
        (format!("{prefix}{name}"), tensor("FloatStorage", key, (start - count) as i32, &sides, &steps))
    };
    shapes().into_iter().map(member).collect()
}

/// The storage of [`state`], whose values start with `first`.
fn storage(first: f32) -> Vec<u8> {
    let count: usize = shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    floats(&(0..count).map(|i| first + i as f32).collect::<Vec<_>>())
}

/// Loads a file into a small ViT; returns the first value of its class token.
fn first_value(file: &WeightFile) -> f32 {
    let (model, params) = (parse::<ModelConfig>(MODEL, "test").unwrap(), vit());
    let report = load_backbone(&params, &file.read(&Device::Cpu).unwrap(), &model, None).unwrap();
    assert_eq!(report.loaded, params.all().len());
    params.get("cls_token").unwrap().var.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
}

#[test]
fn a_state_dict_is_found_at_any_key_and_below_any_prefix() {
    let inside = |key: &str, value: Vec<u8>| dict(&[("epoch", integer(3)), (key, value)]);
    for (pickle, key) in [
        (state("", "0"), ""),
        (inside("model_state_dict", state("", "0")), "model_state_dict"),
        (inside("net", state("", "0")), "net"),
        (inside("state_dict", state("model.", "0")), "state_dict"),
        (inside("state_dict", state("model._orig_mod.", "0")), "state_dict"),
        (inside("state_dict", state("module.model.vit_encoder.", "0")), "state_dict"),
        (inside("app", inside("model", state("", "0"))), "app.model"),
        (inside("model", state("encoder.", "0")), "model"),
    ] {
        let file = open(archive(&pickle, &[("0", storage(7.))])).unwrap();
        assert_eq!((first_value(&file), file.state_dict()), (7., key));
        assert!(file.unread().is_empty() && file.other_state_dicts().is_empty());
    }
    // A dictionary of a class of its own, and `OrderedDict` as Python 2 writes it.
    let (listed, pairs) =
        (members("", "0"), |items: Vec<Vec<u8>>| [b"](".to_vec(), items.concat(), b"e".to_vec()].concat());
    let own = [call(name("addict", "Dict"), &[]), b"(".to_vec()].concat();
    let items: Vec<u8> = listed.iter().flat_map(|(name, t)| [text(name), t.clone()].concat()).collect();
    let old = listed.iter().map(|(name, t)| pairs(vec![text(name), t.clone()])).collect();
    for pickle in [
        inside("model", [own, items, b"u".to_vec()].concat()),
        call(name("collections", "OrderedDict"), &[pairs(old)]),
    ] {
        assert_eq!(first_value(&open(archive(&pickle, &[("0", storage(7.))])).unwrap()), 7.);
    }
}

#[test]
fn counters_and_other_members_are_reported() {
    let mut averaged = members("module.", "0");
    averaged.insert(0, ("n_averaged".into(), tensor("LongStorage", "1", 0, &[], &[])));
    averaged.push(("criterion.weight".into(), tensor("FloatStorage", "0", 0, &[3], &[1])));
    let averaged = dict(&averaged.iter().map(|(name, t)| (name.as_str(), t.clone())).collect::<Vec<_>>());
    let storages = [("0", storage(7.)), ("1", 5i64.to_le_bytes().to_vec())];
    let file = open(archive(&averaged, &storages)).unwrap();
    assert_eq!(
        (first_value(&file), file.unread()),
        (7., &["n_averaged".to_string(), "criterion.weight".into()][..])
    );
    let mut counted = members("", "0");
    counted.push(("step".into(), tensor("LongStorage", "1", 0, &[1], &[1])));
    let counted = dict(&counted.iter().map(|(name, t)| (name.as_str(), t.clone())).collect::<Vec<_>>());
    let file = open(archive(&counted, &storages)).unwrap();
    assert_eq!((first_value(&file), file.unread()), (7., &["step".to_string()][..]));
}

#[test]
fn objects_of_unknown_classes_are_ignored_and_reported() {
    let built = |class: Vec<u8>| [call(class, &[]), dict(&[("lr", integer(1))]), b"b".to_vec()].concat();
    let options = built(name("omegaconf.dictconfig", "DictConfig"));
    let by_class =
        [b"}".to_vec(), name("pytorch_lightning.callbacks", "Checkpoint"), integer(1), b"s".to_vec()]
            .concat();
    let pickle =
        dict(&[("hyper_parameters", options), ("callbacks", by_class), ("state_dict", state("model.", "0"))]);
    let file = open(archive(&pickle, &[("0", storage(7.))])).unwrap();
    assert_eq!(first_value(&file), 7.);
    assert_eq!(
        file.strangers(),
        ["omegaconf.dictconfig.DictConfig", "pytorch_lightning.callbacks.Checkpoint"]
    );
}

#[test]
fn an_average_is_mentioned_and_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both.pth");
    let pickle = dict(&[("model_ema", state("module.", "1")), ("model", state("", "0"))]);
    std::fs::write(&path, archive(&pickle, &[("0", storage(7.)), ("1", storage(9.))])).unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert_eq!((first_value(&file), file.state_dict()), (7., "model"));
    assert_eq!(file.other_state_dicts(), ["model_ema"]);
    let said = file.choice_of_state_dict().unwrap();
    assert!(said.contains("`model` is read") && said.contains("FILE#model_ema"), "{said}");
    let average = WeightFile::open(&with_state_dict(&path, Some("model_ema"))).unwrap();
    assert_eq!((first_value(&average), average.state_dict()), (9., "model_ema"));
    assert_eq!(average.hash(), file.hash());
    let error = WeightFile::open(&with_state_dict(&path, Some("ema2"))).err().unwrap().to_string();
    assert!(error.contains("no state dict `ema2`") && error.contains("`model_ema`, `model`"), "{error}");
    // A file whose name has the sign is that file.
    let odd = folder.path().join("a#b.pth");
    std::fs::copy(&path, &odd).unwrap();
    assert_eq!(WeightFile::open(&odd).unwrap().state_dict(), "model");
    assert_eq!(
        WeightFile::open(&with_state_dict(&odd, Some("model_ema"))).unwrap().state_dict(),
        "model_ema"
    );
}

#[test]
fn a_file_without_a_model_says_what_it_holds() {
    let error = refused(&dict(&[("epoch", integer(1)), ("log", text("x")), ("lr", integer(2))]));
    assert!(error.contains("no tensors found") && error.contains("`epoch`, `log`, `lr`"), "{error}");
    let long: Vec<String> = (0..20).map(|i| format!("key{i}")).collect();
    let error = refused(&dict(&long.iter().map(|key| (key.as_str(), integer(1))).collect::<Vec<_>>()));
    assert!(error.contains("`key7`, …") && !error.contains("key8"), "{error}");
    // A list that is used again and again does not grow.
    let pairs = [vec![b'('], [b"(K\x01K\x02t".to_vec()].concat().repeat(2000), b"l".to_vec()].concat();
    let ordered =
        [name("collections", "OrderedDict"), b"q\x01".to_vec(), pairs, b"\x85q\x02R".to_vec()].concat();
    let again = b"0h\x01h\x02R".repeat(3000);
    assert!(refused(&[ordered, again].concat()).contains("more than 4194304 values"));
}

#[test]
fn what_training_programs_note_is_read_over() {
    let namespace =
        [call(name("argparse", "Namespace"), &[]), dict(&[("lr", integer(1))]), b"b".to_vec()].concat();
    let path = call(name("pathlib", "PosixPath"), &[text("out")]);
    let state = dict(&[("step", integer(3)), ("weight", tensor("FloatStorage", "0", 0, &[2, 3], &[3, 1]))]);
    let pickle = dict(&[("args", namespace), ("path", path), ("model", state)]);
    let file = open(archive(&pickle, &[("0", floats(&[0., 1., 2., 3., 4., 5.]))])).unwrap();
    let found = file.read(&Device::Cpu).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].0.as_str(), found[0].1.to_vec2::<f32>().unwrap()),
        ("weight", vec![vec![0., 1., 2.], vec![3., 4., 5.]])
    );
}

#[test]
fn views_have_the_values_that_they_show() {
    let ordered = tensor("FloatStorage", "0", 2, &[2, 2], &[2, 1]);
    let turned = tensor("FloatStorage", "0", 0, &[3, 2], &[1, 3]);
    let spread = tensor("FloatStorage", "0", 1, &[3], &[2]);
    let flags = tensor("BoolStorage", "1", 0, &[2], &[1]);
    let counts = tensor("IntStorage", "2", 0, &[], &[]);
    let none = tensor("FloatStorage", "0", 0, &[0, 4], &[4, 1]);
    let pickle =
        dict(&[("o", ordered), ("t", turned), ("s", spread), ("f", flags), ("c", counts), ("n", none)]);
    let storages =
        [("0", floats(&[0., 1., 2., 3., 4., 5.])), ("1", vec![1, 0]), ("2", 7i32.to_le_bytes().to_vec())];
    let found = open(archive(&pickle, &storages)).unwrap().read(&Device::Cpu).unwrap();
    let values =
        |i: usize| found[i].1.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(0), [2., 3., 4., 5.]);
    assert_eq!(values(1), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(values(2), [1., 3., 5.]);
    assert_eq!((values(3), values(4)), (vec![1., 0.], vec![7.]));
    assert_eq!((found[5].1.dims(), found[4].1.dtype()), (&[0, 4][..], DType::I32));
}

/// As `torch.save` writes `torch._neg_view(tensor)`: the file holds the tensor without its sign.
#[test]
fn negative_views_are_refused() {
    let negative = dict(&[("neg", b"\x88".to_vec())]);
    let tensor = flagged("FloatStorage", "0", 0, &[2], &[1], &[negative]);
    let error = open(archive(&dict(&[("a.weight", tensor)]), &[("0", floats(&[1., 2.]))])).err().unwrap();
    assert!(error.contains("a.weight") && error.contains("save it again after `.resolve_neg()"), "{error}");
}

#[test]
fn tensors_that_are_not_what_they_say_are_named() {
    let f = "FloatStorage";
    for (tensor, expected) in [
        (tensor(f, "0", 0, &[7], &[1]), "shape [7] from value 0 on exceeds the storage of 6 values"),
        (tensor(f, "0", 5, &[2], &[1]), "of 6 values"),
        (tensor(f, "0", 0, &[2], &[6]), "of 6 values"),
        (tensor(f, "0", 0, &[i32::MAX, i32::MAX, i32::MAX], &[i32::MAX, i32::MAX, 1]), "of 6 values"),
        (tensor(f, "0", 0, &[1000, 1000], &[0, 0]), "of 6 values"),
        (tensor("DoubleStorage", "0", 0, &[6], &[1]), "of 3 values"),
        (tensor(f, "0", -1, &[2], &[1]), "not in the format that PyTorch writes"),
        (tensor(f, "0", 0, &[-2], &[1]), "not in the format that PyTorch writes"),
        (tensor(f, "0", 0, &[2, 3], &[1]), "2 dimensions and 1 strides"),
        (tensor("CharStorage", "0", 0, &[2], &[1]), "CharStorage, which is not supported"),
        (tensor(f, "1", 0, &[2], &[1]), "the archive has no `archive/data/1`"),
        (tensor(f, "../data.pkl", 0, &[2], &[1]), "the archive has no `archive/data/../data.pkl`"),
        (tensor(f, "/etc/passwd", 0, &[2], &[1]), "the archive has no"),
        (
            call(name("torch._utils", "_rebuild_tensor_v2"), &[integer(1)]),
            "not in the format that PyTorch writes",
        ),
        (call(name("torch._utils", "_rebuild_parameter"), &[]), "not in the format that PyTorch writes"),
    ] {
        let error = refused(&dict(&[("weight", tensor)]));
        assert!(error.contains("tensor `weight`") && error.contains(expected), "{error}\nlacks: {expected}");
    }
    let weight = tensor(f, "0", 0, &[6], &[1]);
    let error = refused(&dict(&[("weight", weight.clone()), ("weight", weight)]));
    assert!(error.contains("two tensors are called `weight`"), "{error}");
}

#[test]
fn pickles_that_ask_for_more_than_they_are_cost_nothing() {
    let weight = tensor("FloatStorage", "0", 0, &[6], &[1]);
    // Text of 4 GB, and of 2⁶³ bytes.
    assert!(refused(b"X\xff\xff\xff\xff").contains("ends early"));
    assert!(refused(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f").contains("ends early"));
    // Each value holds the one before it ten times, thirty times over.
    let mut laughs = [b"]".to_vec(), text("a"), b"a".to_vec()].concat();
    for level in 0..30u8 {
        laughs.extend([b'q', level, b'0', b'(']);
        (0..10).for_each(|_| laughs.extend([b'h', level]));
        laughs.push(b't');
    }
    assert!(refused(&laughs).contains("no tensors found"));
    // A million tuples in each other; modules that share and hold themselves.
    assert!(refused(&[b")".to_vec(), vec![0x85; 1_000_000]].concat()).contains("no tensors found"));
    let state = dict(&[("_modules", [b"}q\x02".to_vec(), text("a"), b"h\x01s".to_vec()].concat())]);
    let module = [call(name("torch.nn", "Module"), &[]), b"q\x01".to_vec(), state, b"b".to_vec()].concat();
    assert!(refused(&module).contains("modules are nested more than"));
    let many = [vec![b')'; 1 << 23], dict(&[("weight", weight)])].concat();
    assert!(refused(&many).contains("more than 4194304 values"));
}

#[test]
fn broken_pickles_are_errors() {
    for (pickle, expected) in [
        (&b"R"[..], "pops a value from an empty stack"),
        (b"(0", "pops a value from an empty stack"),
        (b"t", "pops a mark"),
        (b"(Nd", "a key without a value"),
        (b"NNa", "appends to a value that is not a list"),
        (b"NNNs", "not a dictionary"),
        (b"NNb", "sets the state of a value that has none"),
        (b"h\x09", "no value 9"),
        (b"ios\nsystem\n", "0x69, which weights do not need"),
        (b"NN\x93", "not a string"),
        (b"X\x01\0\0\0\xff", "not UTF-8"),
    ] {
        let error = refused(pickle);
        assert!(error.contains(expected), "{error}\nlacks: {expected}");
    }
    let weight = archive(&dict(&[("weight", tensor("FloatStorage", "0", 0, &[6], &[1]))]), &[]);
    assert!(open(weight).err().unwrap().contains("no `archive/data/0`"));
    let file = |name: &str, bytes: &[u8]| (name.to_string(), bytes.to_vec());
    let none = file("data.pkl", b"\x80\x02N.");
    let error = |parts: &[(String, Vec<u8>)]| open(files(parts)).err().unwrap();
    assert!(error(&[none.clone(), file("more/data.pkl", b"")]).contains("2 files `data.pkl`"));
    assert!(error(&[file("version", b"3")]).contains("0 files `data.pkl`"));
    assert!(error(&[none, file("byteorder", b"big")]).contains("big-endian"));
}

#[test]
fn a_flipped_bit_of_a_tensor_is_found() {
    let pickle = dict(&[("weight", tensor("FloatStorage", "0", 0, &[2], &[1]))]);
    let (values, mut bytes) = (floats(&[1.5, -2.5]), vec![]);
    bytes.extend(archive(&pickle, &[("0", values.clone())]));
    assert_eq!(
        open(bytes.clone()).unwrap().read(&Device::Cpu).unwrap()[0].1.to_vec1::<f32>().unwrap(),
        [1.5, -2.5]
    );
    let at = bytes.windows(values.len()).position(|window| window == values).unwrap();
    bytes[at + 5] ^= 1;
    let error = open(bytes).unwrap().read(&Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("tensor `weight` is damaged"), "{error}");
}

/// An array of NumPy, as pickles of protocol 3 hold it.
fn array(kind: &str, shape: &[i32], values: &[u8]) -> Vec<u8> {
    let (no, yes) = (b"\x89".to_vec(), b"\x88".to_vec());
    let bytes = |bytes: &[u8]| [b"B", (bytes.len() as u32).to_le_bytes().as_slice(), bytes].concat();
    let none = || b"N".to_vec();
    let order = [integer(3), text("<"), none(), none(), none(), integer(-1), integer(-1), integer(0)];
    let dtype = [call(name("numpy", "dtype"), &[text(kind), no.clone(), yes]), tuple(&order), b"b".to_vec()];
    let made = [name("numpy", "ndarray"), sizes(&[0]), bytes(b"b")];
    let state = tuple(&[integer(1), sizes(shape), dtype.concat(), no, bytes(values)]);
    [call(name("numpy.core.multiarray", "_reconstruct"), &made), state, b"b".to_vec()].concat()
}

/// The file of a small ViT with one more member, or with another in place of one.
fn with_member(name: &str, member: &[u8]) -> WeightFile {
    let mut all = members("", "0");
    all.retain(|(other, _)| other != name);
    all.push((name.into(), member.to_vec()));
    let pickle = dict(&all.iter().map(|(name, t)| (name.as_str(), t.clone())).collect::<Vec<_>>());
    open(archive(&dict(&[("model", pickle)]), &[("0", storage(7.))])).unwrap()
}

#[test]
fn a_tensor_of_no_use_is_reported_and_refuses_only_a_model_that_may_need_it() {
    let made = |function: &str| call(name("torch._utils", function), &[integer(1)]);
    for (member, reason) in [
        (made("_rebuild_qtensor"), "`.dequantize()`"),
        (made("_rebuild_sparse_tensor"), "`.to_dense()`"),
        (made("_rebuild_meta_tensor_no_storage"), "without values"),
        (tensor("ComplexFloatStorage", "0", 0, &[2], &[1]), "complex numbers"),
        (tensor("CharStorage", "0", 0, &[2], &[1]), "CharStorage"),
        (array("c8", &[1], &[0; 8]), "type `c8`"),
        (array("O8", &[1], &[0; 8]), "type `O8`"),
    ] {
        let beside = with_member("head.scale", &member);
        assert_eq!(first_value(&beside), 7.);
        assert!(beside.unusable()[0].reason.contains(reason), "{}", beside.unusable()[0]);
        // One that nobody here knows, and one of the model.
        for name in ["blocks.0.extra", "blocks.0.mlp.fc1.weight"] {
            let file = with_member(name, &member);
            let found = Inspection::of(&file).unwrap();
            assert_eq!((found.unusable.len(), found.uses.len(), found.contents), (1, 0, Contents::Encoder));
            let error = file.read(&Device::Cpu).unwrap_err().to_string();
            assert!(error.contains(&format!("tensor `{name}`")) && error.contains(reason), "{error}");
        }
    }
    // With the names of another program, in a part of a tensor of ours.
    let names = ["cls_token", "layers.0.ln1.weight", "layers.0.ffn.layers.0.0.weight"];
    let plain = names.map(|name| (name, tensor("FloatStorage", "0", 0, &[2], &[1])));
    let quantized = [
        ("layers.0.attn.attn.in_proj_bias", made("_rebuild_qtensor")),
        ("head.fc", made("_rebuild_qtensor")),
    ];
    let file = open(archive(&dict(&[&plain[..], &quantized].concat()), &[("0", storage(7.))])).unwrap();
    assert_eq!(file.unusable().iter().map(|tensor| tensor.beside).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn arrays_of_numpy_are_members_of_a_state_dict() {
    let width = shapes().into_iter().find(|(name, _)| name == "cls_token").unwrap().1[2];
    let values: Vec<f32> = (0..width).map(|i| 40. + i as f32).collect();
    let file = with_member("cls_token", &array("f4", &[1, 1, width as i32], &floats(&values)));
    assert_eq!((first_value(&file), file.unusable().len()), (40., 0));
    let error = open(archive(&dict(&[("a", array("f4", &[3], &floats(&[1., 2.])))]), &[])).err().unwrap();
    assert!(error.contains("tensor `a`") && error.contains("does not fit 8 bytes"), "{error}");
    // The same values twenty times are no large file.
    let first = [array("u1", &[2000], &[7; 2000]), b"q\x00".to_vec()].concat();
    let again: Vec<(String, Vec<u8>)> = (1..20).map(|i| (format!("a{i}"), b"h\x00".to_vec())).collect();
    let mut all = vec![("a0", first)];
    all.extend(again.iter().map(|(name, member)| (name.as_str(), member.clone())));
    let error = open(archive(&dict(&all), &[])).err().unwrap();
    assert!(error.contains("share their values"), "{error}");
}
