//! Key mappings of google-research's programs in JAX: vision_transformer and big_vision, whose modules are numbered differently.
//!
//! big_vision has models without a class token, with a pooling head, or with positions that are computed, not stored. Older files
//! of it have their positions where vision_transformer has them, or in the encoder.

use super::rule::{KeyMapping, Rule, joined, rule, third};

/// What both programs have: classifier, positions, norm.
const AROUND: [Rule; 8] = [
    rule("cls", "cls_token"),
    rule("pos_embedding", "pos_embed"),
    rule("Transformer/pos_embedding", "pos_embed"),
    rule("Transformer/posembed_input/pos_embedding", "pos_embed"),
    rule("embedding", "patch_embed.proj"),
    rule("Transformer/encoder_norm", "norm"),
    rule("pre_logits", "pre_logits"),
    rule("head", "head"),
];

/// Rules for a block, with the numbers of its attention, second norm and MLP.
macro_rules! jax_block {
    ($attention:literal, $norm:literal, $mlp:literal) => {
        [
            third(
                concat!("Transformer/encoderblock_{}/MultiHeadDotProductAttention_", $attention, "/query"),
                "blocks.{}.attn.qkv",
                0,
            ),
            third(
                concat!("Transformer/encoderblock_{}/MultiHeadDotProductAttention_", $attention, "/key"),
                "blocks.{}.attn.qkv",
                1,
            ),
            third(
                concat!("Transformer/encoderblock_{}/MultiHeadDotProductAttention_", $attention, "/value"),
                "blocks.{}.attn.qkv",
                2,
            ),
            rule(
                concat!("Transformer/encoderblock_{}/MultiHeadDotProductAttention_", $attention, "/out"),
                "blocks.{}.attn.proj",
            ),
            rule("Transformer/encoderblock_{}/LayerNorm_0", "blocks.{}.norm1"),
            rule(concat!("Transformer/encoderblock_{}/LayerNorm_", $norm), "blocks.{}.norm2"),
            rule(concat!("Transformer/encoderblock_{}/MlpBlock_", $mlp, "/Dense_0"), "blocks.{}.mlp.fc1"),
            rule(concat!("Transformer/encoderblock_{}/MlpBlock_", $mlp, "/Dense_1"), "blocks.{}.mlp.fc2"),
        ]
    };
}

const VISION_TRANSFORMER_RULES: [Rule; 16] = joined(AROUND, jax_block!("1", "2", "3"));
const BIG_VISION_RULES: [Rule; 16] = joined(AROUND, jax_block!("0", "1", "0"));

/// A ResNet before the ViT, which no model here has.
pub(super) const HYBRID: &str = "conv_root.weight";

pub(super) const VISION_TRANSFORMER: KeyMapping = KeyMapping {
    title: "google-research/vision_transformer (JAX)",
    prefixes: &["", "opt/target/", "params/"],
    probes: &["embedding.weight", "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query.weight"],
    never: &[HYBRID],
    rules: &VISION_TRANSFORMER_RULES,
    others: &[],
    read: &[],
    ignored: &[],
};

pub(in crate::weights) const BIG_VISION: KeyMapping = KeyMapping {
    title: "google-research/big_vision (JAX)",
    probes: &["embedding.weight", "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query.weight"],
    rules: &BIG_VISION_RULES,
    // The pooling head of SigLIP and ViT-G, which has no name of its own in the oldest files.
    ignored: &["MAPHead_0", "probe", "MultiHeadDotProductAttention_0", "LayerNorm_0", "MlpBlock_0"],
    ..VISION_TRANSFORMER
};
