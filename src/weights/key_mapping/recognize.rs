//! Files that are recognized by tensor names alone: programs that use the same names as this one, and models that are not
//! supported.

use super::rule::has;
use crate::weights::entry::WeightEntry;

/// Programs with the same names as this one, each with tensors that identify its files.
const NATIVE: [(&str, &[&str]); 6] = [
    ("openai/DALL-E", &["blocks.input.w"]),
    ("openai/DALL-E", &["encoder.blocks.input.w"]),
    ("torchvision", &["rpn.head.cls_logits.weight", "blocks.0.attn.qkv.weight"]),
    ("mmsegmentation", &["decode_head.conv_seg.weight", "blocks.0.attn.qkv.weight"]),
    ("microsoft/unilm", &["blocks.0.attn.q_bias", "cls_token"]),
    ("facebookresearch/mae, timm", &["blocks.0.attn.qkv.weight", "patch_embed.proj.weight"]),
];

/// Its prediction is the mean of two heads on two tokens (arXiv:2012.12877 §4).
const DISTILLED: &str = "a distilled DeiT, whose distillation token and second head are not supported";

/// Tensors that identify unsupported models.
const UNSUPPORTED: [(&str, &str); 3] = [
    ("dist_token", DISTILLED),
    ("embeddings.distillation_token", DISTILLED),
    ("deit.embeddings.distillation_token", DISTILLED),
];

/// The program that wrote files with these `entries`, among those that use the same names as this one.
pub(in crate::weights) fn native_program(entries: &[WeightEntry]) -> Option<&'static str> {
    let fits = |probes: &[&str]| probes.iter().all(|name| has(entries, name));
    NATIVE.iter().find(|(_, probes)| fits(probes)).map(|(title, _)| *title)
}

/// The model that `entries` belong to, if it is a known one that is not supported.
pub(in crate::weights) fn unsupported_model(entries: &[WeightEntry]) -> Option<&'static str> {
    UNSUPPORTED.iter().find(|(name, _)| has(entries, name)).map(|(_, what)| *what)
}
