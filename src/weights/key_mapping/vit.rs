//! Key mappings of ViTs outside Hugging Face transformers: facebookresearch's repositories, timm and JAX.

use super::rule::{KeyMapping, Rule, joined, rule, third};

pub(super) const ENCODER: [Rule; 12] = [
    rule("cls_token", "cls_token"),
    rule("pos_embed", "pos_embed"),
    rule("patch_embed.proj", "patch_embed.proj"),
    rule("blocks.{}.norm1", "blocks.{}.norm1"),
    rule("blocks.{}.norm2", "blocks.{}.norm2"),
    rule("blocks.{}.attn.qkv", "blocks.{}.attn.qkv"),
    rule("blocks.{}.attn.proj", "blocks.{}.attn.proj"),
    rule("blocks.{}.mlp.fc1", "blocks.{}.mlp.fc1"),
    rule("blocks.{}.mlp.fc2", "blocks.{}.mlp.fc2"),
    rule("blocks.{}.ls1.gamma", "blocks.{}.gamma_1"),
    rule("blocks.{}.ls2.gamma", "blocks.{}.gamma_2"),
    rule("norm", "norm"),
];
pub(super) const FAIR: [Rule; 14] = joined(ENCODER, [rule("head", "head"), rule("fc_norm", "fc_norm")]);

pub(super) const JAX: [Rule; 14] = [
    rule("cls", "cls_token"),
    rule("Transformer/posembed_input/pos_embedding", "pos_embed"),
    rule("embedding", "patch_embed.proj"),
    third("Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/query", "blocks.{}.attn.qkv", 0),
    third("Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/key", "blocks.{}.attn.qkv", 1),
    third("Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/value", "blocks.{}.attn.qkv", 2),
    rule("Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/out", "blocks.{}.attn.proj"),
    rule("Transformer/encoderblock_{}/LayerNorm_0", "blocks.{}.norm1"),
    rule("Transformer/encoderblock_{}/LayerNorm_2", "blocks.{}.norm2"),
    rule("Transformer/encoderblock_{}/MlpBlock_3/Dense_0", "blocks.{}.mlp.fc1"),
    rule("Transformer/encoderblock_{}/MlpBlock_3/Dense_1", "blocks.{}.mlp.fc2"),
    rule("Transformer/encoder_norm", "norm"),
    rule("pre_logits", "pre_logits"),
    rule("head", "head"),
];

/// Layer scale as microsoft/unilm and facebookresearch/deit name it.
const GAMMAS: [Rule; 2] =
    [rule("blocks.{}.gamma_1", "blocks.{}.gamma_1"), rule("blocks.{}.gamma_2", "blocks.{}.gamma_2")];
const DEIT_III_RULES: [Rule; 16] = joined(GAMMAS, FAIR);
/// The same names as here, but without a position embedding of the class token.
pub(in crate::weights) const DEIT_III: KeyMapping = KeyMapping {
    title: "facebookresearch/deit (DeiT III)",
    prefixes: &[""],
    probes: &[],
    never: &[],
    rules: &DEIT_III_RULES,
    others: &[],
    read: &[],
    ignored: &[],
};
/// timm's names for a plain ViT. Its names for BEiT are those used here.
pub(in crate::weights) const TIMM: KeyMapping = KeyMapping { title: "timm", rules: &FAIR, ..DEIT_III };
