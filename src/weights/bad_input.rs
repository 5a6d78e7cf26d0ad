//! Safetensors files that are not what they say, weights with NaN or infinity, names that belong to two programs.

use super::*;
use crate::nn::Params;
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

fn open(bytes: Vec<u8>) -> Result<WeightFile, String> {
    WeightFile::parse(Path::new("some.safetensors"), bytes).map_err(|error| error.to_string())
}

/// A file of this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), &vec![0; data]].concat()
}

fn refused(bytes: Vec<u8>) -> String {
    open(bytes).err().expect("refused")
}

/// Two small tensors, as a file.
fn sound() -> Vec<u8> {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"I64","shape":[1,1],"data_offsets":[8,16]}}"#;
    file(header, 16)
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let bytes = sound();
    assert_eq!(open(bytes.clone()).unwrap().entries().len(), 2);
    for length in 0..bytes.len() {
        let error = refused(bytes[..length].to_vec());
        assert!(error.contains("some.safetensors"), "{error}");
    }
    assert!(
        refused([bytes, vec![0]].concat()).contains("truncated or corrupt"),
        "bytes that belong to no tensor"
    );
}

#[test]
fn a_flipped_bit_of_the_header_is_refused_or_seen() {
    let (bytes, sound) = (sound(), open(sound()).unwrap());
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for bit in 0..8 * header {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(file) = open(bytes) {
            assert_ne!(file.entries(), sound.entries(), "bit {bit}");
        }
    }
}

#[test]
fn headers_that_do_not_add_up_are_refused() {
    let one = |entry: &str| format!("{{\"a\":{entry}}}");
    for (header, data) in [
        // 4 TB, and more values than can be counted.
        (one(r#"{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}"#), 16),
        (one(r#"{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,16]}"#), 16),
        (one(r#"{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,18446744073709551612]}"#), 16),
        // Outside, backwards, too long, too short, not numbers.
        (one(r#"{"dtype":"F32","shape":[4],"data_offsets":[16,32]}"#), 16),
        (one(r#"{"dtype":"F32","shape":[4],"data_offsets":[16,0]}"#), 16),
        (one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,16]}"#), 16),
        (one(r#"{"dtype":"F64","shape":[4],"data_offsets":[0,16]}"#), 16),
        (one(r#"{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}"#), 16),
        (one(r#"{"dtype":"F33","shape":[4],"data_offsets":[0,16]}"#), 16),
        // Overlapping, and with a gap.
        (
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#.into(),
            16,
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#.into(),
            16,
        ),
        ("[".repeat(100_000), 0),
        ("{\"a\":".repeat(100_000), 0),
    ] {
        let error = refused(file(&header, data));
        assert!(error.contains("some.safetensors"), "{error}");
    }
    // A header of terabytes, of which there are a few bytes.
    for length in [1 << 42, u64::MAX, u64::MAX - 7] {
        let mut bytes = sound();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert!(refused(bytes).contains("truncated or corrupt safetensors"));
    }
    for dtype in ["BOOL", "F8_E8M0", "F8_E5M2"] {
        let header = one(&format!(r#"{{"dtype":"{dtype}","shape":[4],"data_offsets":[0,4]}}"#));
        let error = refused(file(&header, 4));
        assert!(error.contains(&format!("tensor `a`: the unsupported type {dtype}")), "{error}");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = WeightFile::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("not a file"), "{error}");
}

/// Parameters `w` [3] and `b` [1], and values for them.
fn small(w: [f32; 3]) -> (Params, Vec<(String, Tensor)>) {
    let params = Params::new(0, &Device::Cpu);
    params.builder().get(3, "w").unwrap();
    params.builder().get(1, "b").unwrap();
    let value = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
    (params, vec![("w".into(), value(&w)), ("b".into(), value(&[1.]))])
}

#[test]
fn weights_that_are_no_numbers_are_counted_and_refused() {
    let (params, tensors) = small([f32::NAN, f32::INFINITY, 1.]);
    let before = params.get("b").unwrap().var.to_vec1::<f32>().unwrap();
    let error = load_exact(&params, &tensors).unwrap_err().to_string();
    assert!(error.contains("`w (1 NaN, 1 infinite of 3)`") && !error.contains("`b"), "{error}");
    assert_eq!(params.get("b").unwrap().var.to_vec1::<f32>().unwrap(), before, "nothing was written");
    // What becomes infinite on its way into f32.
    let (params, mut tensors) = small([1.; 3]);
    tensors[0].1 = Tensor::new(&[1e300, 0., 0.], &Device::Cpu).unwrap();
    let error = load_exact(&params, &tensors).unwrap_err().to_string();
    assert!(error.contains("`w (1 infinite of 3)`"), "{error}");
    let (params, tensors) = small([1., 2., 3.]);
    load_exact(&params, &tensors).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (_, tensors) = small([f32::NEG_INFINITY, f32::NAN, f32::NAN]);
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let tensors: Vec<_> =
            tensors.iter().map(|(name, t)| (name.clone(), t.to_dtype(dtype).unwrap())).collect();
        save_tensors(&path, &tensors, &Default::default()).unwrap();
        let found = inspect_weights(&path).unwrap().not_finite;
        assert_eq!(found, [NotFinite { name: "w".into(), nan: 2, infinite: 1, of: 3 }], "{dtype:?}");
    }
}

#[test]
fn a_tokenizer_takes_no_memory_that_its_file_does_not_fill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    // Eight groups of up to 2¹⁹ channels, of which only the first convolution is there.
    let mut tensors = vec![
        ("blocks.input.w".to_string(), tensor(&[1 << 12, 1, 7, 7])),
        ("blocks.output.conv.w".to_string(), tensor(&[2, 1, 1, 1])),
    ];
    tensors.extend((1..=8).map(|g| (format!("blocks.group_{g}.block_1.none"), tensor(&[1]))));
    save_tensors(&path, &tensors, &Default::default()).unwrap();
    let error = load_tokenizer(&path, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("cannot find tensor encoder.blocks.input.b"), "{error}");
    let tensors = [("blocks.input.w".to_string(), tensor(&[1 << 40, 3, 0, 7]))];
    save_tensors(&path, &tensors, &Default::default()).unwrap();
    let error = load_tokenizer(&path, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("expected four dimensions, none of them 0"), "{error}");
}

#[test]
fn integers_are_no_weights() {
    let (params, mut tensors) = small([1.; 3]);
    tensors[0].1 = Tensor::new(&[1i64, 2, 3], &Device::Cpu).unwrap();
    let error = load_exact(&params, &tensors).unwrap_err().to_string();
    assert!(error.contains("`w` has values of type I64, which weights do not have"), "{error}");
    tensors[0].1 = Tensor::new(&[1f64, 2., 3.], &Device::Cpu).unwrap();
    load_exact(&params, &tensors).unwrap();
    assert_eq!(params.get("w").unwrap().var.to_vec1::<f32>().unwrap(), [1., 2., 3.]);
}

/// A safetensors file of tensors [1] of these names.
fn named(names: &[&str]) -> Vec<u8> {
    let tensor = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    let tensors: HashMap<String, Tensor> =
        names.iter().map(|name| (name.to_string(), tensor.clone())).collect();
    safetensors::serialize(&tensors, None).unwrap()
}

#[test]
fn names_of_two_programs_are_refused() {
    let vit = ["vit.embeddings.cls_token", "vit.encoder.layer.0.attention.attention.key.bias"];
    let beit = ["beit.embeddings.cls_token", "beit.encoder.layer.0.lambda_1"];
    let mmlab =
        ["backbone.cls_token", "backbone.layers.0.ln1.weight", "backbone.layers.0.ffn.layers.0.0.weight"];
    let dino = ["backbone.cls_token", "backbone.blocks.0.attn.qkv.weight"];
    let programs: [(&str, &[&str]); 4] = [
        ("Hugging Face ViT", &vit),
        ("Hugging Face BEiT", &beit),
        ("OpenMMLab", &mmlab),
        ("MoCo v3 or DINO", &dino),
    ];
    for (i, (first, names)) in programs.iter().enumerate() {
        for (second, others) in &programs[i + 1..] {
            let error = refused(named(&[*names, *others].concat()));
            assert!(
                error.contains(first) && error.contains(second) && error.contains("cannot be determined"),
                "{error}"
            );
        }
    }
    // Two names of one tensor of ours.
    let decoder = [
        "decoder.decoder_layers.0.layernorm_before.bias",
        "decoder.decoder_encoder.layer.0.layernorm_before.bias",
    ];
    let error = refused(named(&[&vit[..], &decoder].concat()));
    assert!(error.contains("`decoder_blocks.0.norm1.bias` cannot be made from"), "{error}");
}
