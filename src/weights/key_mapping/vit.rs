//! Key mappings of ViTs outside Hugging Face transformers: facebookresearch's repositories and timm.

use super::rule::{KeyMapping, Rule, joined, rule};

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
const TIMM_RULES: [Rule; 15] = joined([rule("reg_token", "register_tokens")], FAIR);
/// timm's names for a plain ViT. Its names for BEiT are those used here.
pub(in crate::weights) const TIMM: KeyMapping = KeyMapping { title: "timm", rules: &TIMM_RULES, ..DEIT_III };
/// timm's ViTs with registers. Those with layer scale, and Evas, have mappings of their own.
pub(super) const TIMM_REGISTERS: KeyMapping = KeyMapping {
    title: "timm with registers",
    probes: &["cls_token", "reg_token", "blocks.0.attn.qkv.weight"],
    never: &["blocks.0.ls1.gamma", "blocks.0.gamma_1"],
    ..TIMM
};
