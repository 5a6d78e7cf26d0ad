//! What is told by names alone and needs no rules: whose names ours are, and what is recognised and not read.

use super::{WeightEntry, has};

/// Programs whose names are ours, each with tensors that only its files have.
const OURS: [(&str, &[&str]); 6] = [
    ("openai/DALL-E", &["blocks.input.w"]),
    ("openai/DALL-E", &["encoder.blocks.input.w"]),
    ("torchvision", &["rpn.head.cls_logits.weight", "blocks.0.attn.qkv.weight"]),
    ("mmsegmentation", &["decode_head.conv_seg.weight", "blocks.0.attn.qkv.weight"]),
    ("microsoft/unilm", &["blocks.0.attn.q_bias", "cls_token"]),
    ("facebookresearch/mae, timm", &["blocks.0.attn.qkv.weight", "patch_embed.proj.weight"]),
];

/// Its classes are the mean of what two heads say of two tokens (arXiv:2012.12877 §4).
const DISTILLED: &str = "a distilled DeiT, whose second token and head have no place here";

/// Tensors of files that are recognised and not read.
const UNREAD: [(&str, &str); 3] = [
    ("dist_token", DISTILLED),
    ("embeddings.distillation_token", DISTILLED),
    ("deit.embeddings.distillation_token", DISTILLED),
];

/// The program whose names, which are ours, `entries` have.
pub(in crate::weights) fn ours(entries: &[WeightEntry]) -> Option<&'static str> {
    let fits = |probes: &[&str]| probes.iter().all(|name| has(entries, name));
    OURS.iter().find(|(_, probes)| fits(probes)).map(|(title, _)| *title)
}

/// What `entries` are, where that is known and not read.
pub(in crate::weights) fn unread(entries: &[WeightEntry]) -> Option<&'static str> {
    UNREAD.iter().find(|(name, _)| has(entries, name)).map(|(_, what)| *what)
}
