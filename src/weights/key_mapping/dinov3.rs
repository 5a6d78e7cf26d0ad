//! Key mappings of DINOv3 (arXiv:2508.10104): facebookresearch/dinov3, transformers, and timm, where it is an Eva. Keys have no
//! bias here, as in transformers: facebookresearch masks theirs, and timm has none, or no biases of queries and values either.

use super::rule::{KeyMapping, Rule, half, joined, rule, third};

/// What facebookresearch and timm have in common.
const SHARED: [Rule; 9] = [
    rule("cls_token", "cls_token"),
    rule("patch_embed.proj", "patch_embed.proj"),
    rule("blocks.{}.norm1", "blocks.{}.norm1"),
    rule("blocks.{}.norm2", "blocks.{}.norm2"),
    rule("blocks.{}.attn.qkv", "blocks.{}.attn.qkv"),
    rule("blocks.{}.attn.proj", "blocks.{}.attn.proj"),
    rule("blocks.{}.mlp.fc1", "blocks.{}.mlp.fc1"),
    rule("blocks.{}.mlp.fc2", "blocks.{}.mlp.fc2"),
    rule("norm", "norm"),
];
const ORIGINAL: [Rule; 17] = joined(
    SHARED,
    [
        rule("storage_tokens", "register_tokens"),
        rule("mask_token", "mask_token"),
        rule("rope_embed.periods", "rope_periods"),
        rule("blocks.{}.ls1.gamma", "blocks.{}.gamma_1"),
        rule("blocks.{}.ls2.gamma", "blocks.{}.gamma_2"),
        half("blocks.{}.mlp.w1", "blocks.{}.mlp.fc1", 0),
        half("blocks.{}.mlp.w2", "blocks.{}.mlp.fc1", 1),
        rule("blocks.{}.mlp.w3", "blocks.{}.mlp.fc2"),
    ],
);
const EVA_ATTENTION: [Rule; 5] = [
    rule("reg_token", "register_tokens"),
    rule("blocks.{}.attn.q_bias", "blocks.{}.attn.q_bias"),
    rule("blocks.{}.attn.v_bias", "blocks.{}.attn.v_bias"),
    rule("blocks.{}.gamma_1", "blocks.{}.gamma_1"),
    rule("blocks.{}.gamma_2", "blocks.{}.gamma_2"),
];
const EVA: [Rule; 14] = joined(EVA_ATTENTION, SHARED);
const GATES: [Rule; 2] = [
    half("blocks.{}.mlp.fc1_g", "blocks.{}.mlp.fc1", 0),
    half("blocks.{}.mlp.fc1_x", "blocks.{}.mlp.fc1", 1),
];
const EVA_ATTENTION_GATED: [Rule; 7] = joined(GATES, EVA_ATTENTION);
const SHARED_GATED: [Rule; 8] =
    [SHARED[0], SHARED[1], SHARED[2], SHARED[3], SHARED[4], SHARED[5], SHARED[7], SHARED[8]];
const EVA_GATED: [Rule; 15] = joined(EVA_ATTENTION_GATED, SHARED_GATED);
/// A classifier on the features, which timm's models do not have at first.
const HEAD: [Rule; 2] = [rule("head", "head"), rule("fc_norm", "fc_norm")];

pub(super) const DINOV3: KeyMapping = KeyMapping {
    title: "facebookresearch/dinov3",
    prefixes: &["", "backbone."],
    probes: &["cls_token", "storage_tokens", "patch_embed.proj.weight"],
    never: &[],
    rules: &ORIGINAL,
    others: &[],
    read: &[],
    // The norm of local crops, which only pre-training uses.
    ignored: &["dino_head", "ibot_head", "local_cls_norm"],
};

/// timm's Eva with registers and without absolute positions.
pub(in crate::weights) const EVA_DINOV3: KeyMapping = KeyMapping {
    title: "timm's Eva (DINOv3)",
    prefixes: &[""],
    probes: &["cls_token", "reg_token", "blocks.0.gamma_1", "blocks.0.mlp.fc1.weight"],
    never: &["pos_embed"],
    rules: &EVA,
    others: &HEAD,
    read: &[],
    ignored: &[],
};

/// The same with a SwiGLU.
pub(in crate::weights) const EVA_DINOV3_GATED: KeyMapping = KeyMapping {
    probes: &["cls_token", "reg_token", "blocks.0.gamma_1", "blocks.0.mlp.fc1_g.weight"],
    rules: &EVA_GATED,
    ..EVA_DINOV3
};

/// Rules for a block of transformers' DINOv3, whose names start with `$theirs`.
macro_rules! dinov3_block {
    ($theirs:literal) => {
        [
            rule(concat!($theirs, ".attention.q_proj.bias"), "blocks.{}.attn.q_bias"),
            rule(concat!($theirs, ".attention.v_proj.bias"), "blocks.{}.attn.v_bias"),
            third(concat!($theirs, ".attention.q_proj"), "blocks.{}.attn.qkv", 0),
            third(concat!($theirs, ".attention.k_proj"), "blocks.{}.attn.qkv", 1),
            third(concat!($theirs, ".attention.v_proj"), "blocks.{}.attn.qkv", 2),
            rule(concat!($theirs, ".attention.o_proj"), "blocks.{}.attn.proj"),
            rule(concat!($theirs, ".norm1"), "blocks.{}.norm1"),
            rule(concat!($theirs, ".norm2"), "blocks.{}.norm2"),
            rule(concat!($theirs, ".layer_scale1.lambda1"), "blocks.{}.gamma_1"),
            rule(concat!($theirs, ".layer_scale2.lambda1"), "blocks.{}.gamma_2"),
            rule(concat!($theirs, ".mlp.down_proj"), "blocks.{}.mlp.fc2"),
        ]
    };
}

const EMBEDDINGS: [Rule; 5] = [
    rule("embeddings.cls_token", "cls_token"),
    rule("embeddings.mask_token", "mask_token"),
    rule("embeddings.register_tokens", "register_tokens"),
    rule("embeddings.patch_embeddings", "patch_embed.proj"),
    rule("norm", "norm"),
];
const BLOCKS: [Rule; 16] = joined(EMBEDDINGS, dinov3_block!("layer.{}"));
const PLAIN: [Rule; 17] = joined([rule("layer.{}.mlp.up_proj", "blocks.{}.mlp.fc1")], BLOCKS);
const GATED: [Rule; 18] = joined(
    [
        half("layer.{}.mlp.gate_proj", "blocks.{}.mlp.fc1", 0),
        half("layer.{}.mlp.up_proj", "blocks.{}.mlp.fc1", 1),
    ],
    BLOCKS,
);
/// Names within the library since transformers 5, which files seldom have.
const WITHIN: [Rule; 11] = dinov3_block!("model.layer.{}");
const WITHIN_PLAIN: [Rule; 12] = joined([rule("model.layer.{}.mlp.up_proj", "blocks.{}.mlp.fc1")], WITHIN);
const WITHIN_GATED: [Rule; 13] = joined(
    [
        half("model.layer.{}.mlp.gate_proj", "blocks.{}.mlp.fc1", 0),
        half("model.layer.{}.mlp.up_proj", "blocks.{}.mlp.fc1", 1),
    ],
    WITHIN,
);
/// Tensors that a SwiGLU has, in both kinds of names.
const GATE: [&str; 2] = ["layer.0.mlp.gate_proj.weight", "model.layer.0.mlp.gate_proj.weight"];

pub(in crate::weights) const HUGGING_FACE_DINOV3: KeyMapping = KeyMapping {
    title: "Hugging Face DINOv3",
    prefixes: &[""],
    probes: &["embeddings.cls_token", "embeddings.patch_embeddings.weight", "embeddings.register_tokens"],
    never: &GATE,
    rules: &PLAIN,
    others: &[],
    read: &WITHIN_PLAIN,
    ignored: &["rope_embeddings"],
};

/// The same with a SwiGLU.
pub(in crate::weights) const HUGGING_FACE_DINOV3_GATED: KeyMapping = KeyMapping {
    probes: &["embeddings.cls_token", "embeddings.patch_embeddings.weight", GATE[0]],
    never: &[],
    rules: &GATED,
    read: &WITHIN_GATED,
    ..HUGGING_FACE_DINOV3
};

/// The same by the names within the library.
pub(super) const HUGGING_FACE_DINOV3_GATED_WITHIN: KeyMapping = KeyMapping {
    probes: &["embeddings.cls_token", "embeddings.patch_embeddings.weight", GATE[1]],
    ..HUGGING_FACE_DINOV3_GATED
};

impl KeyMapping {
    /// Whether the program has biases of queries, keys and values in one tensor, or none of them, where models here have no
    /// bias of the keys.
    pub(in crate::weights) fn without_key_bias(&self) -> bool {
        [DINOV3.title, EVA_DINOV3.title].contains(&self.title)
    }
}
