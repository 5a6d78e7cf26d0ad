//! Key mappings of DINOv2 (arXiv:2304.07193), with registers (arXiv:2309.16588) or without: facebookresearch/dinov2, where
//! training may group blocks into chunks, and transformers.

use super::hugging_face::EMBEDDINGS;
use super::rule::{KeyMapping, Rule, half, joined, rule, third};
use super::vit::FAIR;

const ORIGINAL: [Rule; 18] = joined(
    FAIR,
    [
        rule("register_tokens", "register_tokens"),
        rule("mask_token", "mask_token"),
        // The SwiGLU of ViT-g/14.
        rule("blocks.{}.mlp.w12", "blocks.{}.mlp.fc1"),
        rule("blocks.{}.mlp.w3", "blocks.{}.mlp.fc2"),
    ],
);

/// `blocks.<chunk>.<block>`; blocks are numbered consecutively across chunks.
const CHUNKS: [Rule; 5] = [
    rule("blocks.{}.{}.mlp.w12", "blocks.{}.mlp.fc1"),
    rule("blocks.{}.{}.mlp.w3", "blocks.{}.mlp.fc2"),
    rule("blocks.{}.{}.ls1.gamma", "blocks.{}.gamma_1"),
    rule("blocks.{}.{}.ls2.gamma", "blocks.{}.gamma_2"),
    rule("blocks.{}.{}", "blocks.{}"),
];

pub(super) const DINOV2: KeyMapping = KeyMapping {
    title: "DINOv2",
    prefixes: &["", "backbone."],
    probes: &["cls_token", "mask_token", "blocks.0.ls1.gamma"],
    never: &["storage_tokens"],
    rules: &ORIGINAL,
    others: &[],
    read: &CHUNKS,
    ignored: &["dino_head", "ibot_head"],
};

pub(super) const DINOV2_CHUNKED: KeyMapping = KeyMapping {
    title: "DINOv2 with chunks of blocks",
    probes: &["cls_token", "mask_token", "blocks.0.0.ls1.gamma"],
    ..DINOV2
};

const TRANSFORMERS: [Rule; 14] = joined(
    joined::<3, 3, 6>(
        EMBEDDINGS,
        [
            rule("embeddings.mask_token", "mask_token"),
            rule("embeddings.register_tokens", "register_tokens"),
            rule("layernorm", "norm"),
        ],
    ),
    [
        third("encoder.layer.{}.attention.attention.query", "blocks.{}.attn.qkv", 0),
        third("encoder.layer.{}.attention.attention.key", "blocks.{}.attn.qkv", 1),
        third("encoder.layer.{}.attention.attention.value", "blocks.{}.attn.qkv", 2),
        rule("encoder.layer.{}.attention.output.dense", "blocks.{}.attn.proj"),
        rule("encoder.layer.{}.norm1", "blocks.{}.norm1"),
        rule("encoder.layer.{}.norm2", "blocks.{}.norm2"),
        rule("encoder.layer.{}.layer_scale1.lambda1", "blocks.{}.gamma_1"),
        rule("encoder.layer.{}.layer_scale2.lambda1", "blocks.{}.gamma_2"),
    ],
);

const PLAIN: [Rule; 16] = joined(
    [
        rule("encoder.layer.{}.mlp.fc1", "blocks.{}.mlp.fc1"),
        rule("encoder.layer.{}.mlp.fc2", "blocks.{}.mlp.fc2"),
    ],
    TRANSFORMERS,
);
const GATED: [Rule; 16] = joined(
    [
        rule("encoder.layer.{}.mlp.weights_in", "blocks.{}.mlp.fc1"),
        rule("encoder.layer.{}.mlp.weights_out", "blocks.{}.mlp.fc2"),
    ],
    TRANSFORMERS,
);
/// Names within the library since transformers 5, which files seldom have.
const GATED_WITHIN: [Rule; 3] = [
    half("encoder.layer.{}.mlp.gate_proj", "blocks.{}.mlp.fc1", 0),
    half("encoder.layer.{}.mlp.up_proj", "blocks.{}.mlp.fc1", 1),
    rule("encoder.layer.{}.mlp.down_proj", "blocks.{}.mlp.fc2"),
];

pub(in crate::weights) const HUGGING_FACE_DINOV2: KeyMapping = KeyMapping {
    title: "Hugging Face DINOv2",
    prefixes: &["", "dinov2.", "dinov2_with_registers."],
    probes: &[
        "embeddings.cls_token",
        "encoder.layer.0.layer_scale1.lambda1",
        "encoder.layer.0.mlp.fc1.weight",
    ],
    never: &[],
    rules: &PLAIN,
    others: &[rule("classifier", "head")],
    read: &[],
    ignored: &[],
};

/// The same with the SwiGLU of ViT-g/14.
pub(in crate::weights) const HUGGING_FACE_DINOV2_GATED: KeyMapping = KeyMapping {
    probes: &["embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1"],
    never: &["encoder.layer.0.mlp.fc1.weight"],
    rules: &GATED,
    read: &GATED_WITHIN,
    ..HUGGING_FACE_DINOV2
};
