//! Files that are recognized by tensor names alone: programs that use the same names as this one, and models that are not
//! supported.

use super::ALL;
use super::jax::HYBRID;
use crate::weights::entry::WeightEntry;
use std::sync::LazyLock;

/// Programs with the same names as this one, each with tensors that identify its files.
const NATIVE: [(&str, &[&str]); 7] = [
    ("openai/DALL-E", &["blocks.input.w"]),
    ("openai/DALL-E", &["encoder.blocks.input.w"]),
    ("torchvision", &["rpn.head.cls_logits.weight", "blocks.0.attn.qkv.weight"]),
    ("mmsegmentation", &["decode_head.conv_seg.weight", "blocks.0.attn.qkv.weight"]),
    ("bench (DINOv3)", &["blocks.0.attn.q_bias", "register_tokens"]),
    ("microsoft/unilm", &["blocks.0.attn.q_bias", "cls_token"]),
    ("facebookresearch/mae, timm", &["blocks.0.attn.qkv.weight", "patch_embed.proj.weight"]),
];

/// Tensors that identify unsupported models.
const UNSUPPORTED: [(&str, &str); 1] =
    [(HYBRID, "a hybrid of ResNet and ViT of google-research, whose convolutions are not supported")];

/// Tensors that identify networks which keep the names of their program.
const NETWORKS: [&[&str]; 2] = [
    &["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight"],
    &["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"],
];

/// Names of which at least one is in every file with known names, with the prefixes of their programs.
pub(in crate::weights) fn probes() -> &'static [String] {
    static PROBES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mapped = ALL.iter().flat_map(|mapping| {
            let below =
                |prefix: &'static str| mapping.probes.iter().map(move |probe| format!("{prefix}{probe}"));
            mapping.prefixes.iter().copied().flat_map(below)
        });
        let native = NATIVE.iter().map(|(_, probes)| *probes).chain(NETWORKS);
        let mut all: Vec<String> = mapped
            .chain(native.flatten().map(ToString::to_string))
            .chain(UNSUPPORTED.map(|(name, _)| name.into()))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    });
    &PROBES
}

/// Whether `has` says that a file has the names of a known program.
pub(in crate::weights) fn knows(has: &dyn Fn(&str) -> bool) -> bool {
    let native = NATIVE.iter().map(|(_, probes)| *probes).chain(NETWORKS);
    let fits = |probes: &[&str]| probes.iter().all(|name| has(name));
    ALL.iter().any(|mapping| mapping.prefix(has).is_some())
        || native.into_iter().any(fits)
        || UNSUPPORTED.iter().any(|(name, _)| has(name))
}

/// Prefixes of the parts of a discrete autoencoder, which are one model.
const PARTS: [&str; 2] = ["encoder.", "decoder."];

/// Whether the names of a program, or those of a part of a model, may start with `text`, which is not empty.
pub(in crate::weights) fn starts_prefix(text: &str) -> bool {
    let mut prefixes = ALL.iter().flat_map(|mapping| mapping.prefixes).chain(&PARTS);
    let begins = || probes().iter().any(|probe| probe.starts_with(text));
    !text.is_empty() && (prefixes.any(|prefix| prefix.starts_with(text)) || begins())
}

/// Whether a tensor `name` is among `entries`.
fn has(entries: &[WeightEntry], name: &str) -> bool {
    entries.iter().any(|entry| entry.name == name)
}

/// The program that wrote files with these `entries`, among those that use the same names as this one.
pub(in crate::weights) fn native_program(entries: &[WeightEntry]) -> Option<&'static str> {
    let fits = |probes: &[&str]| probes.iter().all(|name| has(entries, name));
    NATIVE.iter().find(|(_, probes)| fits(probes)).map(|(title, _)| *title)
}

/// The model that `entries` belong to, if it is a known one that is not supported.
pub(in crate::weights) fn unsupported_model(entries: &[WeightEntry]) -> Option<&'static str> {
    UNSUPPORTED.iter().find(|(name, _)| has(entries, name)).map(|(_, what)| *what)
}
