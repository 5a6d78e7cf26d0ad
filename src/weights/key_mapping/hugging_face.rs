//! Key mappings of ViT, DeiT, ViT-MAE and BEiT in Hugging Face transformers.

use super::mmsegmentation;
use super::rule::{KeyMapping, Rule, joined, rule, third};

/// Rules for a block of Hugging Face's ViT, ViT-MAE and BEiT, whose names start with `$theirs`.
macro_rules! hugging_face_block {
    ($theirs:literal, $ours:literal) => {
        [
            third(concat!($theirs, ".attention.attention.query"), concat!($ours, ".attn.qkv"), 0),
            third(concat!($theirs, ".attention.attention.key"), concat!($ours, ".attn.qkv"), 1),
            third(concat!($theirs, ".attention.attention.value"), concat!($ours, ".attn.qkv"), 2),
            rule(concat!($theirs, ".attention.output.dense"), concat!($ours, ".attn.proj")),
            rule(concat!($theirs, ".layernorm_before"), concat!($ours, ".norm1")),
            rule(concat!($theirs, ".layernorm_after"), concat!($ours, ".norm2")),
            rule(concat!($theirs, ".intermediate.dense"), concat!($ours, ".mlp.fc1")),
            rule(concat!($theirs, ".output.dense"), concat!($ours, ".mlp.fc2")),
        ]
    };
}

pub(super) const EMBEDDINGS: [Rule; 3] = [
    rule("embeddings.cls_token", "cls_token"),
    rule("embeddings.position_embeddings", "pos_embed"),
    rule("embeddings.patch_embeddings.projection", "patch_embed.proj"),
];
const NORM: [Rule; 1] = [rule("layernorm", "norm")];
const VIT_BLOCKS: [Rule; 11] = joined(EMBEDDINGS, hugging_face_block!("encoder.layer.{}", "blocks.{}"));
pub(super) const VIT: [Rule; 12] = joined(NORM, VIT_BLOCKS);
const MAE_DECODER: [Rule; 13] = joined(
    [
        rule("decoder.mask_token", "mask_token"),
        rule("decoder.decoder_pos_embed", "decoder_pos_embed"),
        rule("decoder.decoder_embed", "decoder_embed"),
        rule("decoder.decoder_norm", "decoder_norm"),
        rule("decoder.decoder_pred", "decoder_pred"),
    ],
    hugging_face_block!("decoder.decoder_layers.{}", "decoder_blocks.{}"),
);
pub(super) const BEIT_BLOCKS: [Rule; 19] = joined(
    [
        rule("pooler.layernorm", "fc_norm"),
        rule("embeddings.mask_token", "mask_token"),
        rule("encoder.layer.{}.attention.attention.query.bias", "blocks.{}.attn.q_bias"),
        rule("encoder.layer.{}.attention.attention.value.bias", "blocks.{}.attn.v_bias"),
        rule(
            "encoder.layer.{}.attention.attention.relative_position_bias.relative_position_bias_table",
            "blocks.{}.attn.relative_position_bias_table",
        ),
        rule(
            "encoder.relative_position_bias.relative_position_bias_table",
            "rel_pos_bias.relative_position_bias_table",
        ),
        rule("encoder.layer.{}.lambda_1", "blocks.{}.gamma_1"),
        rule("encoder.layer.{}.lambda_2", "blocks.{}.gamma_2"),
    ],
    VIT_BLOCKS,
);
const BEIT: [Rule; 20] = joined(NORM, BEIT_BLOCKS);

/// Modules beside the backbone: the decoder of ViT-MAE, a classifier.
const BESIDE: [Rule; 14] = joined([rule("classifier", "head")], MAE_DECODER);

/// ViT, DeiT and ViT-MAE of Hugging Face transformers.
pub(in crate::weights) const HUGGING_FACE: KeyMapping = KeyMapping {
    title: "Hugging Face ViT or ViT-MAE",
    prefixes: &["vit.", "deit.", ""],
    probes: &["embeddings.cls_token", "encoder.layer.0.attention.attention.key.bias"],
    never: &["embeddings.distillation_token", "encoder.layer.0.layer_scale1.lambda1"],
    rules: &VIT,
    others: &BESIDE,
    // transformers 5
    read: &hugging_face_block!("decoder.decoder_encoder.layer.{}", "decoder_blocks.{}"),
    ignored: &["pooler", "embeddings.mask_token"],
};

/// Modules beside a BEiT: a classifier of masked patches or of images, or UperNet heads.
const BESIDE_BEIT: [Rule; 9] = joined(
    [rule("layernorm", "norm"), rule("lm_head", "lm_head"), rule("classifier", "head")],
    mmsegmentation::HEADS,
);

/// BEiT of Hugging Face transformers.
pub(in crate::weights) const HUGGING_FACE_BEIT: KeyMapping = KeyMapping {
    title: "Hugging Face BEiT",
    prefixes: &["beit.", ""],
    probes: &["embeddings.cls_token", "encoder.layer.0.lambda_1"],
    never: &[],
    rules: &BEIT,
    others: &BESIDE_BEIT,
    read: &[],
    ignored: &[],
};

/// For masked image modeling: the final norm and the classifier of masked patches lie outside the backbone.
pub(in crate::weights) const HUGGING_FACE_BEIT_MASKED: KeyMapping =
    KeyMapping { rules: &BEIT_BLOCKS, ..HUGGING_FACE_BEIT };
