//! Key mappings of distilled DeiT (arXiv:2012.12877), which has a second token and a second classifier.

use super::hugging_face::VIT;
use super::rule::{KeyMapping, Rule, joined, rule};
use super::vit::FAIR;

const ORIGINAL: [Rule; 16] = joined([rule("dist_token", "dist_token"), rule("head_dist", "head_dist")], FAIR);
const TRANSFORMERS: [Rule; 13] = joined([rule("embeddings.distillation_token", "dist_token")], VIT);

pub(super) const DISTILLED: KeyMapping = KeyMapping {
    title: "facebookresearch/deit, timm (distilled DeiT)",
    prefixes: &[""],
    probes: &["dist_token", "blocks.0.attn.qkv.weight"],
    never: &[],
    rules: &ORIGINAL,
    others: &[],
    read: &[],
    ignored: &[],
};

pub(super) const HUGGING_FACE_DISTILLED: KeyMapping = KeyMapping {
    title: "Hugging Face DeiT (distilled)",
    prefixes: &["deit.", ""],
    probes: &["embeddings.distillation_token", "encoder.layer.0.attention.attention.key.bias"],
    rules: &TRANSFORMERS,
    others: &[
        rule("cls_classifier", "head"),
        rule("distillation_classifier", "head_dist"),
        rule("classifier", "head"),
    ],
    ignored: &["pooler", "embeddings.mask_token"],
    ..DISTILLED
};
