//! Key mappings: the names that other programs give to the tensors of a ViT, one list of rules per program.
//!
//! The names used here are those of facebookresearch/mae, which timm shares, and those of microsoft/unilm for what BEiT
//! adds.

mod dense;
mod dinov2;
mod dinov3;
mod distilled;
mod hugging_face;
mod jax;
mod mmsegmentation;
mod recognize;
mod rule;
mod vit;

pub(super) use dinov2::{HUGGING_FACE_DINOV2, HUGGING_FACE_DINOV2_GATED};
pub(super) use dinov3::{EVA_DINOV3, EVA_DINOV3_GATED, HUGGING_FACE_DINOV3, HUGGING_FACE_DINOV3_GATED};
pub(super) use hugging_face::{HUGGING_FACE, HUGGING_FACE_BEIT, HUGGING_FACE_BEIT_MASKED};
pub(super) use jax::BIG_VISION;
pub(super) use recognize::{knows, native_program, probes, starts_prefix, unsupported_model};
pub(super) use rule::{KeyMapping, Part};
pub(super) use vit::{DEIT_III, TIMM};

use dense::{HUGGING_FACE_UPERNET, UNILM_UPERNET, VITDET};
use dinov2::{DINOV2, DINOV2_CHUNKED};
use dinov3::{DINOV3, HUGGING_FACE_DINOV3_GATED_WITHIN};
use distilled::{DISTILLED, HUGGING_FACE_DISTILLED};
use jax::VISION_TRANSFORMER;
use rule::rule;
use vit::{ENCODER, FAIR, TIMM_REGISTERS};

/// Key mappings of all programs whose files can be loaded.
pub(super) const ALL: [KeyMapping; 25] = [
    HUGGING_FACE,
    HUGGING_FACE_DISTILLED,
    DISTILLED,
    HUGGING_FACE_BEIT,
    HUGGING_FACE_UPERNET,
    UNILM_UPERNET,
    VITDET,
    HUGGING_FACE_DINOV2,
    HUGGING_FACE_DINOV2_GATED,
    DINOV2,
    DINOV2_CHUNKED,
    DINOV3,
    EVA_DINOV3,
    EVA_DINOV3_GATED,
    HUGGING_FACE_DINOV3,
    HUGGING_FACE_DINOV3_GATED,
    HUGGING_FACE_DINOV3_GATED_WITHIN,
    KeyMapping {
        title: "OpenMMLab",
        prefixes: &["backbone.", ""],
        probes: &["cls_token", "layers.0.ln1.weight", "layers.0.ffn.layers.0.0.weight"],
        never: &[],
        rules: &[
            rule("cls_token", "cls_token"),
            rule("pos_embed", "pos_embed"),
            rule("patch_embed.projection", "patch_embed.proj"),
            rule("layers.{}.ln1", "blocks.{}.norm1"),
            rule("layers.{}.ln2", "blocks.{}.norm2"),
            rule("layers.{}.attn.gamma1.weight", "blocks.{}.gamma_1"),
            rule("layers.{}.attn", "blocks.{}.attn"),
            rule("layers.{}.gamma_1", "blocks.{}.gamma_1"),
            rule("layers.{}.gamma_2", "blocks.{}.gamma_2"),
            rule("layers.{}.ffn.gamma2.weight", "blocks.{}.gamma_2"),
            rule("layers.{}.ffn.layers.0.0", "blocks.{}.mlp.fc1"),
            rule("layers.{}.ffn.layers.1", "blocks.{}.mlp.fc2"),
            rule("ln1", "norm"),
        ],
        others: &[
            rule("neck.upsample_4x", "fpn1"),
            rule("neck.upsample_2x", "fpn2"),
            rule("decode_head", "decode_head"),
            rule("auxiliary_head", "auxiliary_head"),
        ],
        read: &[],
        ignored: &["neck", "head", "data_preprocessor"],
    },
    KeyMapping {
        title: "MoCo v3 or DINO",
        prefixes: &["base_encoder.", "backbone."],
        probes: &["cls_token", "blocks.0.attn.qkv.weight"],
        never: &["fpn1.0.weight", "blocks.0.ls1.gamma", "storage_tokens"],
        rules: &ENCODER,
        others: &[],
        read: &[],
        ignored: &["momentum_encoder", "predictor", "base_encoder.head", "head"],
    },
    KeyMapping {
        title: "DINO's teacher beside its student",
        prefixes: &["teacher.backbone."],
        probes: &["cls_token", "blocks.0.attn.qkv.weight"],
        never: &[],
        rules: &ENCODER,
        others: &[],
        read: &[],
        ignored: &["student", "teacher.head", "teacher.dino_head", "teacher.ibot_head", "mask_token"],
    },
    KeyMapping {
        title: "DINO's student",
        prefixes: &["student.backbone."],
        probes: &["cls_token", "blocks.0.attn.qkv.weight"],
        never: &["teacher.backbone.cls_token"],
        rules: &ENCODER,
        others: &[],
        read: &[],
        ignored: &["student.head", "student.dino_head", "student.ibot_head", "mask_token"],
    },
    KeyMapping {
        title: "timm with layer scale (DeiT III, DINOv2)",
        prefixes: &[""],
        probes: &["cls_token", "blocks.0.ls1.gamma"],
        never: &["mask_token", "storage_tokens"],
        rules: &FAIR,
        others: &[rule("reg_token", "register_tokens")],
        read: &[rule("register_tokens", "register_tokens")],
        ignored: &[],
    },
    TIMM_REGISTERS,
    VISION_TRANSFORMER,
    BIG_VISION,
];
